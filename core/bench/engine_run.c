/* SPDX-License-Identifier: Apache-2.0 */
/* The timed part of `kvmod bench engine`. */
#include "core/bench/engine.h"

static void close_sequence(struct bench_runner *r)
{
	if (r->sequence)
		kvmod_sequence_close(r->sequence);
	r->sequence = NULL;
}

void bench_close_sequences(struct bench *b)
{
	for (int i = 0; i < BENCH_RUNNERS; i++)
		close_sequence(&b->runners[i]);
}

/* What is free when the prompt has run, and nothing is decided yet. */
struct watch {
	const struct bench *bench;
	struct bench_runner *runner;
	uint64_t length;
};

static void look_before_cut(void *watch, uint64_t done)
{
	const struct watch *w = watch;

	if (done == w->length)
		w->runner->free_before = bench_free_bytes(w->bench);
}

static void look_after_cut(const struct bench *b, struct bench_runner *r)
{
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };

	r->free_after = bench_free_bytes(b);
	kvmod_sequence_bytes(r->sequence, &bytes);
	r->used = bytes.used;
}

/* A new sequence's prompt, its decision and cut included. */
static int time_prompt(struct bench *b, struct bench_runner *r, uint64_t length, size_t round)
{
	struct kvmod_prompted prompted = { .size = sizeof(prompted) };
	struct watch watch = { .bench = b, .runner = r, .length = length };
	const struct kvmod_prompt prompt = {
		.size = sizeof(prompt),
		.tokens = b->tokens,
		.n_tokens = length,
		.logits = b->logits,
		.progress = look_before_cut,
		.progress_arg = &watch,
	};
	double begin;

	close_sequence(r);
	if (kvmod_sequence_open(r->session, &r->sequence))
		return cli_error_kvmod();
	begin = cli_now();
	if (kvmod_sequence_prompt(r->sequence, &prompt, &prompted))
		return cli_error_kvmod();
	r->prompt[round] = cli_now() - begin;
	r->budget = prompted.budget;
	look_after_cut(b, r);
	if (prompted.status)
		return cli_error("the policy failed: %s", kvmod_strerror(prompted.status));
	return CLI_OK;
}

static int decode(struct bench *b, struct bench_runner *r, struct kvmod_sequence *sequence,
		  uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (kvmod_session_decode(r->session, &sequence, &b->tokens[i], &b->logits, 1))
			return cli_error_kvmod();
	return CLI_OK;
}

/*
 * On a copy, for a policy may cut while it decodes. The first tokens do not count:
 * what a sequence builds for decoding is built then.
 */
static int time_decode(struct bench *b, struct bench_runner *r, uint64_t length, size_t round)
{
	struct kvmod_sequence *copy;
	double begin;
	int err;

	(void)length;
	if (kvmod_sequence_fork(r->sequence, &copy))
		return cli_error_kvmod();
	err = decode(b, r, copy, b->n_warm);
	begin = cli_now();
	if (!err)
		err = decode(b, r, copy, b->n_decode);
	r->decode[round] = (cli_now() - begin) / (double)b->n_decode;
	kvmod_sequence_close(copy);
	return err;
}

typedef int timer(struct bench *b, struct bench_runner *r, uint64_t length, size_t round);

static int time_all(struct bench *b, timer *fn, uint64_t length, size_t round)
{
	for (size_t i = 0; i < BENCH_RUNNERS; i++) {
		size_t which = (round + i) % BENCH_RUNNERS;

		if (fn(b, &b->runners[which], which == BENCH_SMALL ? BENCH_SHORT : length, round))
			return CLI_FAILED;
	}
	return CLI_OK;
}

int bench_measure(struct bench *b, uint64_t length)
{
	struct cli_progress progress;
	int err = CLI_OK;

	cli_progress_begin(&progress, "rounds", b->prompts + b->rounds);
	for (size_t i = 0; i < b->prompts && !err; i++) {
		err = time_all(b, time_prompt, length, i);
		cli_progress_to(&progress, i + 1);
	}
	for (size_t i = 0; i < b->rounds && !err; i++) {
		err = time_all(b, time_decode, length, i);
		cli_progress_to(&progress, b->prompts + i + 1);
	}
	cli_progress_end(&progress);
	return err;
}
