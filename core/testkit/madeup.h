/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up caches for tests of policies. The contents of a row depend only on its
 * layer, KV head and position, so a cache that was cut and has grown has the same
 * rows at the positions that it still holds.
 */
#ifndef KV_CORE_TESTKIT_MADEUP_H
#define KV_CORE_TESTKIT_MADEUP_H

#include <stddef.h>
#include <stdint.h>

#include <kvmod/kvmod.h>

#include "core/run/describe.h"

struct madeup {
	struct kv_shape shape;
	struct kv_described d;		/* the request, for all that follows */
	int32_t *positions;		/* of all heads end to end, then of the rows */
	unsigned char *bytes;		/* K, V, Q and the extras */
	size_t n_bytes;
};

struct kvmod_model madeup_model(const struct kv_shape *shape);

/* A prompt of n tokens, with `rows` rows of Q and the extras that `what` asks for. */
int madeup_first(struct madeup *m, const struct kv_shape *shape, uint32_t n,
		 uint32_t rows, uint32_t what);
/* The cache that a plan leaves, and n_new more tokens. */
int madeup_next(struct madeup *m, const struct madeup *before, const struct kvmod_plan *plan,
		uint32_t n_new, uint32_t rows, uint32_t what);
void madeup_free(struct madeup *m);

#endif
