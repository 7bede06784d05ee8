/* SPDX-License-Identifier: Apache-2.0 */
/* The timed part of `kvmod bench engine`. */
#include "core/cli/bench_engine.h"

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

/* A new sequence's prompt, its decision and cut included. */
static int time_prompt(struct bench *b, struct bench_runner *r, uint64_t length, size_t round)
{
	struct kvmod_prompted prompted = { .size = sizeof(prompted) };
	const struct kvmod_prompt prompt = {
		.size = sizeof(prompt),
		.tokens = b->tokens,
		.n_tokens = length,
		.logits = b->logits,
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
 * On a copy, for a policy may cut while it decodes. The first token does not count:
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
	err = decode(b, r, copy, 1);
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

	cli_progress_begin(&progress, "rounds", 2 * b->rounds);
	for (size_t i = 0; i < b->rounds && !err; i++) {
		err = time_all(b, time_prompt, length, i);
		cli_progress_to(&progress, i + 1);
	}
	for (size_t i = 0; i < b->rounds && !err; i++) {
		err = time_all(b, time_decode, length, i);
		cli_progress_to(&progress, b->rounds + i + 1);
	}
	cli_progress_end(&progress);
	return err;
}
