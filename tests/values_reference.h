/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What keydiff, lagkv, expected and contribution keep of a segment: in double precision or
 * better, as their definitions say it, one step after the other.
 */
#ifndef KV_TESTS_VALUES_REFERENCE_H
#define KV_TESTS_VALUES_REFERENCE_H

#include "tests/policies_reference.h"

enum values_rule { RULE_KEYDIFF, RULE_LAGKV, RULE_EXPECTED, RULE_CONTRIBUTION };

struct values_params {
	enum values_rule rule;
	uint32_t permille, count;	/* the budget, as in struct policy_params */
	uint32_t sinks, window, lag, future, pool, rows;
	double epsilon, level;
	const struct kvmod_model *model;	/* of expected */
};

/*
 * As policy_decide(). tie: how far apart scores are, relative; of keydiff, whose scores are
 * cosines, as they are; of expected, whose logits may be large, in parts of the largest.
 */
int values_decide(const struct kvmod_segment *segment, const struct values_params *params,
		  struct policy_answer *out);

#endif
