/* SPDX-License-Identifier: Apache-2.0 */
/* AdaKV's parameters, and what follows from them alone: the same on every device. */
#ifndef KV_POLICIES_ADAKV_H
#define KV_POLICIES_ADAKV_H

#include "policies/common.h"

struct adakv {
	struct kvmod_instance instance;
	struct kvmod_amount budget;
	int64_t window, pool;
	int32_t pooling;
	double alpha;
	bool said_raised;
};

#define ADAKV_PARAMS(P, owner) \
	P(owner, struct adakv, budget, AMOUNT, "0.25", "0..", \
	  "positions kept by a KV head in the mean, window included: a fraction of the " \
	  "tokens seen, or a count") \
	P(owner, struct adakv, window, INT, "32", "1..4096", \
	  "newest positions, always kept, whose queries are the probes") \
	P(owner, struct adakv, pool, INT, "7", "1..255", \
	  "width of the pooling, odd") \
	P(owner, struct adakv, pooling, CHOICE, "max", KV_POOLINGS, \
	  "how scores are smoothed") \
	P(owner, struct adakv, alpha, REAL, "0.2", "0..1", \
	  "share of its own budget that each KV head is sure of")

static inline int32_t adakv_open(void *self_, const struct kvmod_model *model)
{
	const struct adakv *self = self_;

	(void)model;
	return kv_check_pool(&self->instance, self->pool);
}

static inline int32_t adakv_needs(void *self, struct kvmod_needs *needs)
{
	needs->what = KVMOD_NEED_K;
	needs->rows = (struct kvmod_amount){
		.value = (double)((struct adakv *)self)->window, .is_count = 1,
	};
	return 0;
}

#endif
