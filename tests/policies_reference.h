/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policies with a budget, and topp, keep of a segment: in double precision, as
 * their definitions say it, one step after the other.
 */
#ifndef KV_TESTS_POLICIES_REFERENCE_H
#define KV_TESTS_POLICIES_REFERENCE_H

#include <stdbool.h>

#include <kvmod/types.h>

enum policy_rule {
	RULE_STREAMINGLLM, RULE_SNAPKV, RULE_ADAKV, RULE_TOPP, RULE_H2O, RULE_TOVA, RULE_KNORM, RULE_RKV,
};

struct policy_params {
	enum policy_rule rule;
	uint32_t permille;		/* the budget: a share of the tokens seen, */
	uint32_t count;			/* or, above 0, a count */
	uint32_t sinks, window, pool;
	bool pool_max;
	double alpha, p;
	uint32_t recent_permille, recent;	/* h2o; its `heavy` is permille and count */
	uint32_t rows;				/* h2o */
	double lambda, similarity;		/* rkv */
};

struct policy_answer {
	bool finite;			/* is all attention finite? */
	/* how near another set was: relative, by score; topp: of the mass, rkv: of a cosine, too */
	double tie;
	uint32_t stride;		/* that of the longest head */
	unsigned char *kept;		/* [n_kv_heads][stride] */
};

/* 0 or KVMOD_ENOMEM. Free kept. */
int policy_decide(const struct kvmod_segment *segment, const struct policy_params *params,
		  struct policy_answer *out);

/*
 * Scores of the first m positions of KV head g, by h2o, tova, knorm or rkv; row: memory for
 * the head's n numbers. Notes in `out` what is not finite, and how near a cosine came.
 */
void policy_score(const struct kvmod_segment *segment, const struct policy_params *params,
		  uint32_t g, uint32_t m, double *row, double *score, struct policy_answer *out);

#endif
