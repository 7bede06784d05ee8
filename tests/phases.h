/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of closed gaps: a stream in the engine beside the same one in libllama, which
 * moves newer tokens back where the engine rotates the oldest forward.
 */
#ifndef KV_TESTS_PHASES_H
#define KV_TESTS_PHASES_H

#include "tests/engine_host.h"
#include "tests/shifted.h"
#include "tests/tiny_model.h"

#include <stdbool.h>

#define N	240
#define CONTEXT	64		/* so that all keys are turned back several times */
#define SINKS	3
#define NEWEST	20
#define NEAR	1e-4

struct setup {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	struct shifted *other;
	int32_t tokens[N];
	float logits[N * TINY_VOCAB], expected[N * TINY_VOCAB];
};

/*
 * Not libllama's truth: with each shift it multiplies keys by YaRN's magnitude again.
 * one_layer tells for such a model.
 */
bool phases_is_yarn(unsigned model);

/* A stream of that model; alone: without libllama's. */
void phases_set_up(struct setup *s, unsigned model);
void phases_set_up_alone(struct setup *s, const struct tiny_model *spec);
void phases_tear_down(struct setup *s);

/* Leaves SINKS and NEWEST, and no gap between them. One: without libllama's stream. */
void phases_cut(struct setup *s);
void phases_cut_one(struct kvmod_seq *seq);
/* Runs tokens[from..to) in one call, or one by one; what libllama says too. */
void phases_run(struct setup *s, uint32_t from, uint32_t to, bool single);
void phases_run_one(struct setup *s, struct kvmod_seq *seq, uint32_t from, uint32_t to,
		    bool single);
/* Both have the same logits for tokens[from..to). */
void phases_check(const struct setup *s, uint32_t from, uint32_t to);

#endif
