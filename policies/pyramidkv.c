/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PyramidKV (arXiv 2406.02069): SnapKV's scores, and budgets that fall evenly from the
 * first layer to the last: attention is spread wide in early layers, and gathers on a few
 * positions in late ones.
 */
#include <kvmod/scorer.h>

struct pyramidkv {
	struct kvmod_scorer scorer;
	int64_t beta;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "5") \
	KVMOD_P_POOLING(P, owner, "average") \
	P(owner, struct pyramidkv, beta, INT, "20", "1..", \
	  "the last layer keeps a beta-th of the mean, besides the window; 1: all the same")

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	const struct kvmod_scorer *scorer = self;

	return head->kit->mean_attention(head, (uint32_t)scorer->window, head->m, out);
}

/* All but the window, which every layer keeps, in equal steps; divisions round down. */
static uint64_t budget(const void *self, const struct kvmod_request *request,
		       const struct kvmod_segment *segment, uint64_t c)
{
	uint64_t window = (uint64_t)((const struct kvmod_scorer *)self)->window, b = c - window;
	uint64_t seen = kvmod_tokens_seen(segment);
	uint64_t low = b / (uint64_t)((const struct pyramidkv *)self)->beta, high = 2 * b - low;
	uint32_t layer, n_layers = kvmod_layers_of(request, segment, &layer);

	if (seen < 2 * b || n_layers == 1)
		return c;
	if (high >= seen - window) {
		high = seen - window;
		low = 2 * b - high;
	}
	return window + high - layer * ((high - low) / (n_layers - 1));
}

KVMOD_SCORER(pyramidkv, struct pyramidkv, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "SnapKV's scores, budgets that fall with the layer (2406.02069)",
	     .score = score, .what = KVMOD_NEED_K | KVMOD_NEED_ALL_LAYERS,
	     .rows = KVMOD_ROWS_OF_WINDOW, .budget = budget);
