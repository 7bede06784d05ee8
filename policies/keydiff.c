/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KeyDiff (arXiv 2504.15364): keys that point where most keys point are redundant; those
 * that differ from their mean direction draw attention of their own, and are kept.
 */
#include <kvmod/scorer.h>

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25")

static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct kvmod_extent extent = kvmod_extent_of(request);

	(void)self;
	return 2 * (size_t)extent.n + extent.head_dim;
}

/* A key of length 0 has no direction: its cosine to any other counts as 0. */
static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	const struct kvmod_view *k = &head->head->k;
	uint32_t dim = head->segment->head_dim;
	float *norms = head->scratch, *inverse = norms + head->n, *anchor = inverse + head->n;

	(void)self;
	head->kit->norms(k, dim, 0, head->n, norms);
	for (uint32_t i = 0; i < head->n; i++)
		inverse[i] = norms[i] == 0 ? 0 : 1 / norms[i];
	/* The anchor's own length changes no order. */
	head->kit->sum(k, dim, 0, head->n, inverse, anchor);
	head->kit->dots(k, dim, 0, head->m, anchor, 1, out, head->n);
	for (uint32_t i = 0; i < head->m; i++)
		out[i] *= -inverse[i];
	return KVMOD_OK;
}

KVMOD_SCORER(keydiff, struct kvmod_scorer, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "the keys least like the mean key of their head (2504.15364)",
	     .score = score, .what = KVMOD_NEED_K, .floats = floats);
