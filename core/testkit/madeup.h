/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up caches for tests of policies. What a row holds depends on its layer,
 * KV head and position alone, so a cache that was cut and grew is the same
 * wherever it still holds the same positions.
 */
#ifndef KVMOD_CLI_MADEUP_H
#define KVMOD_CLI_MADEUP_H

#include <stddef.h>
#include <stdint.h>

#include <kvmod/kvmod.h>

struct madeup_shape {
	uint32_t n_layers;		/* of the model */
	uint32_t n_segments;		/* of the request: the first so many layers */
	uint32_t n_q_heads, n_kv_heads, head_dim;
	uint32_t type;			/* of K and V */
};

struct madeup {
	struct madeup_shape shape;
	struct kvmod_request request;
	struct kvmod_segment *segments;
	struct kvmod_head *heads;
	int32_t *positions;		/* of all heads end to end, then of the rows */
	unsigned char *bytes;		/* K, V, Q and the extras */
	size_t n_bytes;
};

struct kvmod_model madeup_model(const struct madeup_shape *shape);

/* A prompt of n tokens, with `rows` rows of Q and the extras that `what` asks for. */
int madeup_first(struct madeup *m, const struct madeup_shape *shape, uint32_t n,
		 uint32_t rows, uint32_t what);
/* What is left of a cache after a plan, and n_new more tokens. */
int madeup_next(struct madeup *m, const struct madeup *before, const struct kvmod_plan *plan,
		uint32_t n_new, uint32_t rows, uint32_t what);
void madeup_free(struct madeup *m);

#endif
