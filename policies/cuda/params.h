/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters of the policies that also run on a GPU, the same as those of their
 * versions for the CPU.
 */
#ifndef KV_POLICIES_CUDA_PARAMS_H
#define KV_POLICIES_CUDA_PARAMS_H

#include <kvmod/scorer.h>

/* SnapKV has the standard parameters of a scorer, and no others. */
#define SNAPKV_PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "5") \
	KVMOD_P_POOLING(P, owner, "average")

struct adakv {
	struct kvmod_scorer scorer;
	double alpha;
};

#define ADAKV_PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "7") \
	KVMOD_P_POOLING(P, owner, "max") \
	P(owner, struct adakv, alpha, REAL, "0.2", "0..1", \
	  "share of its own budget that each KV head is sure of")

/* Of both. */
static inline int32_t kv_window_open(void *self_, const struct kvmod_model *model)
{
	const struct kvmod_scorer *self = (const struct kvmod_scorer *)self_;

	(void)model;
	return kvmod_check_pool(&self->instance, self->pool);
}

static inline int32_t kv_window_needs(void *self, struct kvmod_needs *needs)
{
	needs->what = KVMOD_NEED_K;
	needs->rows.value = (double)((struct kvmod_scorer *)self)->window;
	needs->rows.is_count = 1;
	return 0;
}

struct topp {
	struct kvmod_instance instance;
	double p;
	struct kvmod_list whole_layers;
};

#define TOPP_PARAMS(P, owner) \
	P(owner, struct topp, p, REAL, "0.95", "0..1", \
	  "share of the newest query's attention that is kept (Twilight's config: 0.85)") \
	P(owner, struct topp, whole_layers, LIST, "2", "0..", \
	  "layers kept whole: a number of first layers, or a list")

static inline int32_t topp_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	needs->rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	return 0;
}

#endif
