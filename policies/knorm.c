/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The norm rule (arXiv 2406.11430): keys with a small norm are the ones that get much
 * attention, so the keys alone say what to keep. A set for each KV head.
 */
#include <kvmod/scorer.h>

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.5") \
	KVMOD_P_WHOLE_LAYERS(P, owner, "2") \
	KVMOD_P_DECODE_EVERY(P, owner, "64")

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	head->kit->norms(&head->head->k, head->segment->head_dim, 0, head->m, out);
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = -out[i];
	return KVMOD_OK;
}

KVMOD_SCORER(knorm, struct kvmod_scorer, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "the keys with the smallest norms (2406.11430)",
	     .score = score, .what = KVMOD_NEED_K);
