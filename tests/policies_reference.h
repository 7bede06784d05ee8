/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policies with a budget, and topp, keep of a segment: in double precision, as
 * their definitions say it, one step after the other.
 */
#ifndef KV_TESTS_POLICIES_REFERENCE_H
#define KV_TESTS_POLICIES_REFERENCE_H

#include <stdbool.h>

#include <kvmod/types.h>

enum policy_rule { RULE_STREAMINGLLM, RULE_SNAPKV, RULE_ADAKV, RULE_TOPP };

struct policy_params {
	enum policy_rule rule;
	uint32_t permille;		/* the budget: a share of the tokens seen, */
	uint32_t count;			/* or, above 0, a count */
	uint32_t sinks, window, pool;
	bool pool_max;
	double alpha, p;
};

struct policy_answer {
	bool finite;			/* is all attention finite? */
	/* how near another set was: relative, by score; topp: of the mass, too */
	double tie;
	uint32_t stride;		/* that of the longest head */
	unsigned char *kept;		/* [n_kv_heads][stride] */
};

/* 0 or KVMOD_ENOMEM. Free kept. */
int policy_decide(const struct kvmod_segment *segment, const struct policy_params *params,
		  struct policy_answer *out);

#endif
