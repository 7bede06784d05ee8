/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A made-up CUDA runtime, to run the host's part of the module "cuda" without a GPU.
 * Queued work happens as late as CUDA allows, when somebody waits, or as early, before
 * the next call. So a test sees memory that is used again too early.
 */
#ifndef KV_TESTS_CUDA_RUNTIME_H
#define KV_TESTS_CUDA_RUNTIME_H

#include <stdbool.h>

struct runtime {
	bool early;			/* queued work happens before the next call */
	unsigned n_device, n_pinned, n_events;	/* allocated and not yet freed */
	unsigned n_calls, fail_call;	/* the call that fails, from 1; 0: none */
	unsigned n_early;		/* memory freed while queued work still uses it */
	unsigned n_gathers;		/* launches of gathers */
	unsigned n_reductions;		/* of columns and of norms */
};
extern struct runtime runtime;

/* ReFreeKV's result for each segment: the first position of the suffix that stays. */
#define RUNTIME_FIRST 7u
/* The list of KV head g of segment s: its length, and its element k. */
#define RUNTIME_COUNT(s, g) (10u + 3 * (s) + (g))
#define RUNTIME_INDEX(s, g, k) (2u * (k) + (s) + (g))

/* Does all queued work. */
void runtime_run(void);

#endif
