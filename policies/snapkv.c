/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SnapKV (arXiv 2404.14469): what the last queries of the prompt attend to,
 * smoothed, is what the answer will attend to. A set for each KV head.
 */
#include <kvmod/scorer.h>

/* With pooling = max the paper's width is 7. */
#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "5") \
	KVMOD_P_POOLING(P, owner, "average")

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	const struct kvmod_scorer *scorer = self;

	return head->kit->mean_attention(head, (uint32_t)scorer->window, head->m, out);
}

KVMOD_SCORER(snapkv, struct kvmod_scorer, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "what the last queries attend to, for each KV head its own (2404.14469)",
	     .score = score, .what = KVMOD_NEED_K, .rows = KVMOD_ROWS_OF_WINDOW);
