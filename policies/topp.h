/* SPDX-License-Identifier: Apache-2.0 */
/* Top-p's parameters, and what follows from them alone: the same on every device. */
#ifndef KV_POLICIES_TOPP_H
#define KV_POLICIES_TOPP_H

#include "policies/common.h"

struct topp {
	struct kvmod_instance instance;
	double p;
	struct kvmod_list whole_layers;
};

#define TOPP_PARAMS(P, owner) \
	P(owner, struct topp, p, REAL, "0.95", "0..1", \
	  "share of the newest query's attention that is kept (Twilight's config: 0.85)") \
	P(owner, struct topp, whole_layers, LIST, "2", "0..", \
	  "layers kept whole: that many first ones, or a list")

static inline int32_t topp_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	needs->rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	return 0;
}

#endif
