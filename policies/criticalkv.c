/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CriticalKV (arXiv 2502.03805): attention says what is read, and the values say what that
 * adds to the layer's output. A first part of the budget goes by SnapKV's scores alone, the
 * rest by these scores times |Wo v|_1.
 */
#include <kvmod/scorer.h>

struct criticalkv {
	struct kvmod_scorer scorer;
	double first, epsilon;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "5") \
	KVMOD_P_POOLING(P, owner, "average") \
	P(owner, struct criticalkv, first, REAL, "0.5", "0..1", \
	  "share of the budget, the window counted in, that goes by attention alone") \
	P(owner, struct criticalkv, epsilon, REAL, "1e-4", "0..", \
	  "added to a score before it is multiplied by |Wo v|")

static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct criticalkv *self = self_;
	int32_t err = head->kit->window_scores(head, (uint32_t)self->scorer.window,
					       (uint32_t)self->scorer.pool, self->scorer.pooling,
					       head->notes);

	if (err == KVMOD_OK)
		err = head->kit->wo_norms(head, head->g, head->scratch);
	for (uint32_t i = 0; i < head->m && err == KVMOD_OK; i++)
		out[i] = (head->notes[i] + (float)self->epsilon) * head->scratch[i];
	return err;
}

/* By attention alone. */
static int32_t first(const void *self_, const struct kvmod_task *head, uint8_t *marks)
{
	const struct criticalkv *self = self_;
	const struct kvmod_amount share = { .value = self->first };
	uint64_t n = kvmod_amount_of(&share, head->budget);
	uint64_t window = (uint64_t)self->scorer.window;

	if (n > window)
		head->kit->mark_heaviest(head->notes, head->m, n - window, marks);
	return KVMOD_OK;
}

/* |Wo v|, of all positions. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	(void)self;
	return kvmod_extent_of(request).n;
}

KVMOD_SCORER(criticalkv, struct criticalkv, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "half the budget by attention, half by attention times |Wo v| (2502.03805)",
	     .score = score, .what = KVMOD_NEED_K | KVMOD_NEED_WO_NORM,
	     .rows = KVMOD_ROWS_OF_WINDOW, .flags = KVMOD_SCORER_POOLS, .floats = floats,
	     .first = first);
