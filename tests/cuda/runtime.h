/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A made-up CUDA runtime, to run the host's side of the module "cuda" where no GPU
 * is. What is queued happens as late as CUDA allows, when somebody waits, or as early,
 * before the next call. So memory that is used again too early shows.
 */
#ifndef KV_TESTS_CUDA_RUNTIME_H
#define KV_TESTS_CUDA_RUNTIME_H

#include <stdbool.h>

struct runtime {
	bool early;			/* what is queued happens before the next call */
	unsigned n_device, n_pinned, n_events;	/* that are held */
	unsigned n_calls, fail_call;	/* which one is to fail, from 1; 0: none */
	unsigned n_early;		/* memory that went while what is queued uses it */
	unsigned n_gathers;		/* launches of them */
};
extern struct runtime runtime;

/* What a decision gives for each segment; the first of its positions that stay. */
#define RUNTIME_FIRST 7u
/* Of lists, for KV head g of segment s: how many, and which is number k. */
#define RUNTIME_COUNT(s, g) (10u + 3 * (s) + (g))
#define RUNTIME_INDEX(s, g, k) (2u * (k) + (s) + (g))

/* Does all that is queued. */
void runtime_run(void);

#endif
