/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AdaKV (arXiv 2407.11550): SnapKV's scores, but the KV heads of a layer compete
 * for its budget. Each head is guaranteed the share alpha of its own budget; the rest
 * goes to the heads with the layer's highest scores. Counts differ from head to head.
 */
#include <math.h>

#include <kvmod/scorer.h>

struct adakv {
	struct kvmod_scorer scorer;
	double alpha;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "7") \
	KVMOD_P_POOLING(P, owner, "max") \
	P(owner, struct adakv, alpha, REAL, "0.2", "0..1", \
	  "share of its own budget that each KV head is sure of")

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	const struct kvmod_scorer *scorer = self;

	return head->kit->mean_attention(head, (uint32_t)scorer->window, head->m, out);
}

/* Halves are rounded to even, as the authors' code rounds them. */
static void share(const void *self, uint64_t own, uint32_t n_heads, uint32_t *counts)
{
	double alpha = ((const struct adakv *)self)->alpha, sure = floor(alpha * (double)own);

	for (uint32_t g = 0; g < n_heads; g++)
		counts[g] = (uint32_t)rint((1 - alpha) * counts[g] + sure);
}

KVMOD_SCORER(adakv, struct adakv, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "SnapKV's scores, heads of a layer share its budget (2407.11550)",
	     .score = score, .select = KVMOD_PER_LAYER, .what = KVMOD_NEED_K,
	     .rows = KVMOD_ROWS_OF_WINDOW, .share = share);
