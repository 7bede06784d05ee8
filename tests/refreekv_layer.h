/* SPDX-License-Identifier: Apache-2.0 */
/* One random layer of a cache, as a request of its own. */
#ifndef KV_TESTS_REFREEKV_LAYER_H
#define KV_TESTS_REFREEKV_LAYER_H

#include <stdbool.h>

#include <kvmod/types.h>

#include "core/testkit/random.h"

#define MAX_HEADS 16

/* One layer: memory of odd alignment and strides, and what points into it. */
struct layer {
	struct kvmod_segment segment;
	struct kvmod_head heads[MAX_HEADS];
	struct kvmod_request request;
	char *k, *q;
	int32_t *positions, *row_positions;
};

struct shape {
	uint32_t type, n, n_q_heads, n_kv_heads, head_dim, n_rows;
	bool ragged;		/* positions with gaps, as a second turn has them */
};

void layer_make(struct layer *l, struct kv_random *r, const struct shape *s);
void layer_free(struct layer *l);

#endif
