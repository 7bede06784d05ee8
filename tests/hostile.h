/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of what the core believes: a policy that does to its request and its plan
 * what a test says, and an engine that answers what a test says.
 */
#ifndef KV_TESTS_HOSTILE_H
#define KV_TESTS_HOSTILE_H

#include "tests/fixture.h"

#include "core/run/describe.h"

#define LAYERS 3u
#define HEADS 2u
#define N 16u
#define DIM 32u

/* An address that nobody may read. */
#define WILD ((void *)(uintptr_t)64)

/* What compress() does once its plan keeps the newer half of everything. */
typedef void hostile_deed(struct kvmod_request *r, struct kvmod_plan *p);

extern struct hostile {
	/* What it does. */
	hostile_deed *deed;
	void (*in_workspace)(struct kvmod_request *r);
	int32_t code;			/* that compress() returns */
	struct kvmod_needs needs;
	/* What it has kept of what it was handed. */
	struct kvmod_needs *kept_needs;
	void **kept_state;
} hostile;

extern struct hostile_engine {
	double loss;			/* what replay() answers, */
	int32_t code;			/* and returns */
	float weight;			/* the last that reread() and ask() answer */
	struct kvmod_ask asked;		/* what ask() got */
	unsigned n_served;		/* calls that reached the engine */
} engine;

extern struct kv_described cache;	/* LAYERS, HEADS of N positions */
extern struct kvmod_plan *plan;
extern struct kvmod_ctx *ctx;
extern struct kvmod_policy *policy;

/* Decides about the cache; opens the policy the first time. */
int decide(hostile_deed *what);
/* The segment stays whole for that reason, or is cut to the newer half. */
void is_whole(uint32_t i, int status);
void is_cut(uint32_t i);

/* Writes to all of a request, const or not. */
void scribble(struct kvmod_request *r);

/* Runs the tests that add() adds, each with a new cache; the exit status of main. */
int hostile_run(const char *name, void (*add)(TCase *tc));

#endif
