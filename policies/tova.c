/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TOVA (arXiv 2401.06104): whatever the newest query attends to least, in the mean over
 * all heads of a layer, goes. One set for a layer.
 */
#include <kvmod/scorer.h>

/* The authors evict after every token, and may evict the newest. */
#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "512") \
	KVMOD_P_WINDOW(P, owner, "1") \
	KVMOD_P_DECODE_EVERY(P, owner, "64")

/* The mean of a KV head's query heads: summed over KV heads, it orders as that of all. */
static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	return head->kit->mean_attention(head, 1, head->m, out);
}

KVMOD_SCORER(tova, struct kvmod_scorer, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "what the newest query attends to, one set a layer (2401.06104)",
	     .score = score, .select = KVMOD_ONE_SET, .what = KVMOD_NEED_K, .rows = 1);
