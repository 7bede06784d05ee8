/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps what made up a visible part of the output of attention for some recent row. There is
 * no budget; counts differ from head to head.
 */
#include "contribution.h"

KVMOD_SCORER(contribution, struct contribution, CONTRIBUTION_PARAMS, "0.2.0", "Apache-2.0",
	     "The kvmod authors", "what holds a share of the output of attention for some recent row",
	     CONTRIBUTION_NEEDS, .score = contribution_score, .select = KVMOD_ABOVE_LEVEL);
