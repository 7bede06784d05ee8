/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `kvmod bench engine` share. */
#ifndef KV_CORE_BENCH_ENGINE_H
#define KV_CORE_BENCH_ENGINE_H

#include "core/bench/device.h"
#include "core/cli/cli.h"

/* A session whose prompts and decoding are timed. */
struct bench_runner {
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;
	double *prompt, *decode;	/* [prompts], [rounds]: seconds a prompt, seconds a token */
	double budget;			/* of the last prompt */
	uint64_t used;			/* bytes of K and V cached after that prompt */
	uint64_t free_before, free_after;	/* on the device, around its decision and cut */
};

/* Ours with the full cache, ours with the cut cache, the rival, and ours at BENCH_SHORT. */
enum { BENCH_FULL, BENCH_CUT, BENCH_RIVAL, BENCH_SMALL, BENCH_RUNNERS };

/* So few positions that the cache hardly adds to the time of a token. */
#define BENCH_SHORT 64

struct bench {
	struct bench_runner runners[BENCH_RUNNERS];
	const int32_t *tokens;		/* at least as many as the longest prompt */
	uint64_t n_decode;		/* tokens of a round of decoding */
	uint64_t n_warm;		/* warm-up tokens before them, not timed */
	size_t prompts, rounds;		/* rounds of prompts, rounds of decoding */
	float *logits;			/* room for one row of either engine */

	/* Of our engine; weights and read_rate are known on a device only. */
	struct bench_device device;	/* not open: it runs on the host */
	uint64_t weights;		/* bytes of the model's file; 0: unknown */
	double read_rate;		/* bytes a second of a plain read; 0: unknown */
};

/*
 * Times everything at one length: in each round all runners, each round starting with
 * another one. CLI_FAILED after the reason was printed.
 */
int bench_measure(struct bench *b, uint64_t length);
void bench_close_sequences(struct bench *b);

/* --- the same settings for both (bench_engine_share.c) ----------------------------- */

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

/* The overrides that give the rival our engine's settings, and both these threads. */
int bench_share(struct kvmod_ctx *ctx, const struct bench_alike *a, struct bench_shared *out);

/* --- the device of our engine (bench_engine_device.c) ------------------------------ */

/* "npu, 32 of 32 layers", or "cpu". */
#define BENCH_PLACE_ROOM 64
const char *bench_place_name(const struct kvmod_model *model, char *text);
/*
 * Opens the device that the model is on, if that is not the host, and measures how fast
 * it reads. rival: the engine whose configuration has the full path of the model's file.
 */
int bench_open_device(struct bench *b, struct kvmod_ctx *ctx, const struct kvmod_model *model,
		      const char *rival);
void bench_close_device(struct bench *b);
/* Free bytes of that device; 0 without one. */
uint64_t bench_free_bytes(const struct bench *b);

/* --- the results (bench_engine_report.c) --------------------------------------------- */

struct bench_comparison {
	struct cli_stats ours, rival;
	double ratio;
};

/* Decoding against one read of the weights and the cached K and V. */
struct bench_floor {
	uint64_t bytes;			/* of weights and cache */
	double seconds;			/* the time of the device's plain read of these bytes */
	double ratio;			/* our time over that time */
};

/* The results for one length. */
struct bench_result {
	uint64_t length;
	struct bench_comparison prefill, first_token, decode, decode_cut;
	struct cli_stats decode_short;
	double budget;
	double model, model_ratio;	/* expected from the budget, in seconds a token */
	bool on_device;
	struct bench_floor floor, floor_cut;	/* bytes 0: not known */
	uint64_t free_before, free_after;
};

struct bench_result bench_evaluate(struct bench *b, uint64_t length);
void bench_print_result(const struct bench_result *r);
json_t *bench_result_json(const struct bench_result *r);

#endif
