/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chooses the number of threads that decode. A token is hundreds of short operations, after
 * each of which all threads wait for the last: a thread that has lost its processor to
 * another program delays all. While other programs run, fewer threads are therefore often
 * faster; trials find how many.
 */
#include "thread_tuning.h"

#include <time.h>

/* Passes of a trial; the first is not counted, because threads start and stop in it. */
#define TRIAL_PASSES	3
/* Passes before the first trial, and the most between trials that change nothing. */
#define WAIT_LEAST	4u
#define WAIT_MOST	512u
/* Once fewer threads are faster, other programs are at work, and trying more is expensive. */
#define WAIT_FEWER	48u
/* Below this share of a pass on the processor, another program or a wait took the rest. */
#define BUSY		0.9
/* Below this share, only another program can be the reason. */
#define HELD_UP		0.7
/* A trial must be this much faster, or noise would decide. */
#define GAIN		0.97

void gg_tuning_start(struct gg_tuning *tuning, int most)
{
	*tuning = (struct gg_tuning){ .most = most, .now = most, .wait = WAIT_LEAST };
}

static int fewer(int n)
{
	return n > 1 ? n - (n / 4 > 1 ? n / 4 : 1) : 1;
}

static void try_out(struct gg_tuning *tuning, int n)
{
	tuning->before = tuning->now;
	tuning->now = n;
	tuning->passes = 0;
	tuning->trial = 0;
}

static void end_trial(struct gg_tuning *tuning)
{
	double seconds = tuning->trial / (TRIAL_PASSES - 1);

	if (seconds < GAIN * tuning->usual) {
		tuning->usual = seconds;
		tuning->wait = tuning->now < tuning->before ? WAIT_FEWER : WAIT_LEAST;
	} else {
		tuning->now = tuning->before;
		tuning->wait = tuning->wait < WAIT_MOST ? 2 * tuning->wait : WAIT_MOST;
	}
	tuning->before = 0;
	tuning->passes = 0;
}

/* Averages the passes so far, later about the last WAIT_LEAST. */
static void note(struct gg_tuning *tuning, double seconds, double on_processor)
{
	double share = 1.0 / (tuning->passes < WAIT_LEAST ? tuning->passes : WAIT_LEAST);

	tuning->usual += share * (seconds - tuning->usual);
	tuning->on_processor += share * (on_processor - tuning->on_processor);
}

void gg_tuning_pass(struct gg_tuning *tuning, double seconds, double on_processor)
{
	bool busy;

	tuning->passes++;
	if (tuning->before) {
		tuning->trial += tuning->passes > 1 ? seconds : 0;
		if (tuning->passes == TRIAL_PASSES)
			end_trial(tuning);
		return;
	}
	note(tuning, seconds, on_processor);
	/* Other programs show at once, and every pass beside them is expensive. */
	if (tuning->passes < tuning->wait &&
	    !(tuning->wait == WAIT_LEAST && tuning->on_processor < HELD_UP * tuning->usual))
		return;
	busy = tuning->on_processor >= BUSY * tuning->usual;
	if (!busy && tuning->now > 1)
		try_out(tuning, fewer(tuning->now));
	else if (busy && tuning->now < tuning->most)
		try_out(tuning, tuning->now + 1);
}

void gg_tuning_batch(struct gg_tuning *tuning, uint32_t n_tokens)
{
	if (tuning->n_tokens == n_tokens)
		return;
	if (tuning->before)
		tuning->now = tuning->before;
	tuning->before = 0;
	tuning->passes = 0;
	tuning->n_tokens = n_tokens;
}

void gg_tuning_prefill(struct gg_tuning *tuning, double seconds, double on_processor)
{
	if (tuning->before || tuning->now < tuning->most || on_processor >= HELD_UP * seconds)
		return;
	tuning->now = fewer(tuning->now);
	tuning->passes = 0;
	tuning->wait = WAIT_FEWER;
}

static double clock_seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void gg_tuning_begin(struct gg_tuning_clock *clock)
{
	clock->wall = clock_seconds(CLOCK_MONOTONIC);
	clock->thread = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}

void gg_tuning_end(struct gg_tuning *tuning, const struct gg_tuning_clock *begun, bool decoded)
{
	double seconds = clock_seconds(CLOCK_MONOTONIC) - begun->wall;
	double on_processor = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - begun->thread;

	if (decoded)
		gg_tuning_pass(tuning, seconds, on_processor);
	else
		gg_tuning_prefill(tuning, seconds, on_processor);
}
