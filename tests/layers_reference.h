/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What pyramidkv, cake, criticalkv and defensivekv keep of a request: in double precision,
 * as their definitions say it, one step after the other.
 */
#ifndef KV_TESTS_LAYERS_REFERENCE_H
#define KV_TESTS_LAYERS_REFERENCE_H

#include <stdbool.h>

#include <kvmod/types.h>

enum layers_rule { RULE_PYRAMIDKV, RULE_CAKE, RULE_CRITICALKV, RULE_DEFENSIVEKV };

struct layers_params {
	enum layers_rule rule;
	uint32_t permille;		/* the budget: a share of the tokens seen, */
	uint32_t count;			/* or, above 0, a count */
	uint32_t window, pool;
	bool pool_max;			/* pyramidkv, criticalkv */
	uint32_t beta;
	double gamma, tau1, tau2;
	double first, epsilon;
};

struct layers_answer {
	double tie;			/* how near another answer was, relative */
	uint32_t n_heads, stride;	/* of the segment with the most, of the longest head */
	bool *failed;			/* [n_segments]: attention is not finite */
	unsigned char *kept;		/* [n_segments][n_heads][stride] */
};

/* 0 or KVMOD_ENOMEM. */
int layers_decide(const struct kvmod_request *request, const struct layers_params *params,
		  struct layers_answer *out);
void layers_free(struct layers_answer *answer);

#endif
