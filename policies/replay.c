/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps what contribution ranks highest, down to the level at which running the newest tokens
 * again costs no more than a loss that the user names: the input decides how much it needs.
 * What is kept is stored in few bits, and the measured loss has that in it.
 */
#include "contribution.h"

#include <math.h>

struct replay {
	struct contribution contribution;
	int64_t shortest;
};

#define PARAMS(P, owner) \
	KVMOD_P_LOSS(P, owner, "0.05") \
	KVMOD_P_REPLAY_ROWS(P, owner, "32") \
	KVMOD_P_STORE(P, owner, "q8_0/q4_0") \
	CONTRIBUTION_PARAMS(P, owner) \
	P(owner, struct replay, shortest, INT, "256", "0..", \
	  "a sequence of so few tokens stays whole")

static int32_t cuts(const void *self, const struct kvmod_request *request)
{
	const struct kvmod_segment *segment = kvmod_segment_at(request, 0);

	return kvmod_tokens_seen(segment) > (uint64_t)((const struct replay *)self)->shortest;
}

/* 1, 0.71, 0.5 ... 0.001: shares in an output. */
static double level_at(const void *self, uint32_t k)
{
	(void)self;
	return exp2(-0.5 * k);
}

KVMOD_SCORER(replay, struct replay, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "what the newest tokens need, measured by running them again",
	     CONTRIBUTION_SCORE, .select = KVMOD_BY_LOSS, .cuts = cuts, .level_at = level_at,
	     .n_levels = 21);
