/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the toolkit: a policy that runs a function of the test on each head of a
 * made-up cache.
 */
#ifndef KV_TESTS_KIT_H
#define KV_TESTS_KIT_H

#include "tests/fixture.h"

#include <kvmod/toolkit.h>

#include "core/testkit/madeup.h"

struct tested {
	struct kvmod_instance instance;
	int64_t floats, rows;
	uint32_t said;
};

/* The table, once a context has the policy: kit_get() makes one. */
extern const struct kvmod_toolkit *kit;
void kit_get(void);
/* If set, called before the heads. */
extern void (*kit_before)(struct tested *self, const struct kvmod_request *request);

extern const struct kv_shape kit_shape;
struct madeup kit_cache(const struct kv_shape *shape, uint32_t n);
/* Decides about a made-up cache with that function, which gets each head, on 8 threads. */
struct kvmod_plan *kit_run(const struct madeup *m, const char *params, kvmod_task_fn *fn);
/* The same where no head may fail. */
void kit_run_and_free(struct madeup *m, const char *params, kvmod_task_fn *fn);

#endif
