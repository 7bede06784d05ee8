/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On how many threads single tokens run. A token is hundreds of short operations, and
 * after each all threads wait for the last: one that has lost its processor to another
 * program holds up all. So where others run, fewer threads are often faster; how many
 * is found by trying.
 */
#include "pace.h"

#include <time.h>

/* Passes of a trial; in the first the threads themselves come and go. */
#define TRIAL_PASSES	3
/* Passes before the first trial, and between trials that change nothing. */
#define WAIT_LEAST	4u
#define WAIT_MOST	512u
/* Once fewer are faster, others are at work, and to try more again is dear. */
#define WAIT_FEWER	48u
/* Less of a pass than that on the processor: another program, or a wait, had the rest. */
#define BUSY		0.9
/* Less than that, and nothing else can have been the reason. */
#define HELD_UP		0.7
/* A trial has to gain that much, or the machine's noise would decide. */
#define GAIN		0.97

void gg_pace_start(struct gg_pace *pace, int most)
{
	*pace = (struct gg_pace){ .most = most, .now = most, .wait = WAIT_LEAST };
}

static int fewer(int n)
{
	return n > 1 ? n - (n / 4 > 1 ? n / 4 : 1) : 1;
}

static void try_out(struct gg_pace *pace, int n)
{
	pace->before = pace->now;
	pace->now = n;
	pace->passes = 0;
	pace->trial = 0;
}

static void end_trial(struct gg_pace *pace)
{
	double seconds = pace->trial / (TRIAL_PASSES - 1);

	if (seconds < GAIN * pace->usual) {
		pace->usual = seconds;
		pace->wait = pace->now < pace->before ? WAIT_FEWER : WAIT_LEAST;
	} else {
		pace->now = pace->before;
		pace->wait = pace->wait < WAIT_MOST ? 2 * pace->wait : WAIT_MOST;
	}
	pace->before = 0;
	pace->passes = 0;
}

/* The mean of the passes so far, then of about the last WAIT_LEAST. */
static void note(struct gg_pace *pace, double seconds, double on_processor)
{
	double share = 1.0 / (pace->passes < WAIT_LEAST ? pace->passes : WAIT_LEAST);

	pace->usual += share * (seconds - pace->usual);
	pace->on_processor += share * (on_processor - pace->on_processor);
}

void gg_pace_pass(struct gg_pace *pace, double seconds, double on_processor)
{
	bool busy;

	pace->passes++;
	if (pace->before) {
		pace->trial += pace->passes > 1 ? seconds : 0;
		if (pace->passes == TRIAL_PASSES)
			end_trial(pace);
		return;
	}
	note(pace, seconds, on_processor);
	/* Where others run it shows at once, and each such pass is dear. */
	if (pace->passes < pace->wait &&
	    !(pace->wait == WAIT_LEAST && pace->on_processor < HELD_UP * pace->usual))
		return;
	busy = pace->on_processor >= BUSY * pace->usual;
	if (!busy && pace->now > 1)
		try_out(pace, fewer(pace->now));
	else if (busy && pace->now < pace->most)
		try_out(pace, pace->now + 1);
}

void gg_pace_batch(struct gg_pace *pace, uint32_t n_tokens)
{
	if (pace->n_tokens == n_tokens)
		return;
	if (pace->before)
		pace->now = pace->before;
	pace->before = 0;
	pace->passes = 0;
	pace->n_tokens = n_tokens;
}

void gg_pace_prefill(struct gg_pace *pace, double seconds, double on_processor)
{
	if (pace->before || pace->now < pace->most || on_processor >= HELD_UP * seconds)
		return;
	pace->now = fewer(pace->now);
	pace->passes = 0;
	pace->wait = WAIT_FEWER;
}

static double clock_seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void gg_pace_begin(struct gg_pace_clock *clock)
{
	clock->wall = clock_seconds(CLOCK_MONOTONIC);
	clock->thread = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}

void gg_pace_end(struct gg_pace *pace, const struct gg_pace_clock *begun, bool decoded)
{
	double seconds = clock_seconds(CLOCK_MONOTONIC) - begun->wall;
	double on_processor = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - begun->thread;

	if (decoded)
		gg_pace_pass(pace, seconds, on_processor);
	else
		gg_pace_prefill(pace, seconds, on_processor);
}
