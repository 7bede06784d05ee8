/* SPDX-License-Identifier: Apache-2.0 */
/* SnapKV's parameters, and what follows from them alone: the same on every device. */
#ifndef KV_POLICIES_SNAPKV_H
#define KV_POLICIES_SNAPKV_H

#include "policies/common.h"

struct snapkv {
	struct kvmod_instance instance;
	struct kvmod_amount budget;
	int64_t window, pool;
	int32_t pooling;
	bool said_raised;
};

#define SNAPKV_PARAMS(P, owner) \
	P(owner, struct snapkv, budget, AMOUNT, "0.25", "0..", \
	  "positions kept, window included: a fraction of the tokens seen, or a count") \
	P(owner, struct snapkv, window, INT, "32", "1..4096", \
	  "newest positions, always kept, whose queries are the probes") \
	P(owner, struct snapkv, pool, INT, "5", "1..255", \
	  "width of the pooling, odd (with max: 7)") \
	P(owner, struct snapkv, pooling, CHOICE, "average", KV_POOLINGS, \
	  "how scores are smoothed (the paper: max)")

static inline int32_t snapkv_open(void *self_, const struct kvmod_model *model)
{
	const struct snapkv *self = self_;

	(void)model;
	return kv_check_pool(&self->instance, self->pool);
}

static inline int32_t snapkv_needs(void *self, struct kvmod_needs *needs)
{
	needs->what = KVMOD_NEED_K;
	needs->rows = (struct kvmod_amount){
		.value = (double)((struct snapkv *)self)->window, .is_count = 1,
	};
	return 0;
}

#endif
