/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the ggml engine without a core: a host table, an instance, errors kept. */
#ifndef KV_TESTS_ENGINE_HOST_H
#define KV_TESTS_ENGINE_HOST_H

#include <check.h>

#include <kvmod/kvmod.h>

#include "plugins/ggml/runtime.h"

/* What open() is given; what is 0 is a default. */
struct test_engine_params {
	const char *model;
	enum ggml_type type;		/* of K and V; F32 is 0 */
	int64_t context, batch, gpu_layers;
	int32_t context_override, chat_template, no_mmap;
	bool check;			/* check() takes open()'s place */
	const struct gg_gpu *gpu;	/* a GPU that need not be looked for */
	bool llama;			/* the engine "llama", of which only open() and close() are for these */
};

/* What the host's device() does; NULL, as at the start: there is no such call. */
void test_host_device(int32_t (*device)(void *ctx, const char *name,
					const struct kvmod_device_ops **ops, void **self));

/* How many threads the host says it has; at the start one. */
void test_host_threads(uint32_t n);

/* NULL if it could not be opened: test_engine_error() says why. */
struct gg_engine *test_engine_open(const struct test_engine_params *params);
/* The same, that must not fail. */
struct gg_engine *test_engine(const char *model, enum ggml_type type);
void test_engine_close(struct gg_engine *engine);
/* The last failure in words, and its code. */
const char *test_engine_error(void);
int32_t test_engine_code(void);
/* The last line that was logged as a warning, "" if none was, and how many there were. */
const char *test_engine_warning(unsigned *n);

/* The calls below abort the test when they fail. */
struct kvmod_seq *test_seq(struct gg_engine *engine);
/* Runs n tokens; logits of the last n_logits. */
void test_run(struct kvmod_seq *seq, const int32_t *tokens, uint32_t n, float *logits, uint32_t n_logits);
struct kvmod_seq *test_fork(struct kvmod_seq *seq);
/* What the sequence says of itself, with a plan that keeps everything. */
struct kvmod_plan *test_plan(struct kvmod_seq *seq, struct kvmod_request *request);
/* One that keeps the ends of every layer that has more, and closes the gap. */
struct kvmod_plan *test_plan_ends(struct kvmod_seq *seq, uint32_t sinks, uint32_t newest);
void test_apply(struct kvmod_seq *seq, struct kvmod_plan *plan);
/* All that the sequence holds, as one number: rows, queries, what policies need beside them. */
uint64_t test_fingerprint(const struct kvmod_seq *seq);
/* Are n numbers equal to within `relative` of the largest of them? */
void test_near(const float *a, const float *b, size_t n, double relative);
/* KL(a || b) of the distributions that n logits each stand for, in nats. */
double test_divergence(const float *a, const float *b, size_t n);

/* Runs the tests of a suite and ends the program. */
int test_main(const char *name, void (*add)(TCase *tc));

#endif
