/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of `kvmod bench engine` share. */
#ifndef KVMOD_CLI_BENCH_ENGINE_H
#define KVMOD_CLI_BENCH_ENGINE_H

#include "core/cli/cli.h"

/* A session whose prompts and decoding are timed. */
struct bench_runner {
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;
	double *prompt, *decode;	/* [rounds]: seconds a prompt, seconds a token */
	double budget;			/* of the last prompt */
};

/* Ours with the whole cache, ours with the policy's, the rival, and ours at BENCH_SHORT. */
enum { BENCH_FULL, BENCH_CUT, BENCH_RIVAL, BENCH_SMALL, BENCH_RUNNERS };

/* Positions at which decoding costs what it costs without a cache to speak of. */
#define BENCH_SHORT 64

struct bench {
	struct bench_runner runners[BENCH_RUNNERS];
	const int32_t *tokens;		/* at least as many as the longest prompt */
	uint64_t n_decode;		/* tokens of a round of decoding */
	size_t rounds;
	float *logits;			/* room for one row of either engine */
};

/*
 * Times everything at one length: in each round all runners, the first another
 * one each time. CLI_FAILED after the reason was printed.
 */
int bench_measure(struct bench *b, uint64_t length);
void bench_close_sequences(struct bench *b);

/* --- like with like (bench_engine_share.c) --------------------------------------- */

struct bench_alike {
	const char *engine, *rival;
	const char *model;		/* -m, or NULL: as configured */
	uint64_t threads;
	uint64_t n_tokens;		/* of the longest sequence */
};

/* Overrides, each to be freed. */
struct bench_shared {
	char *item[8];
	size_t n;
};

/* What makes the rival run as our engine is configured, and both with these threads. */
int bench_share(struct kvmod_ctx *ctx, const struct bench_alike *a, struct bench_shared *out);

#endif
