/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LagKV (arXiv 2504.04704): a position is worth keeping if its key and value stand
 * unevenly, dimension by dimension, in the ranges that the positions after it span. The
 * cache is divided into partitions, each measured by the next and ranked by itself.
 */
#include <math.h>
#include <string.h>

#include <kvmod/scorer.h>

struct lagkv {
	struct kvmod_scorer scorer;
	int64_t lag;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_SINKS(P, owner, "4") \
	P(owner, struct lagkv, lag, INT, "128", "1..65536", \
	  "positions of a partition (the authors' cache class: 1024, with 16 sinks)")

/* Of a head's partitions, those that have a next one. */
static uint32_t n_scored(const struct lagkv *self, uint32_t n)
{
	int64_t sinks = self->scorer.sinks;

	return n < sinks + 2 * self->lag ? 0 : (uint32_t)((n - sinks) / self->lag) - 1;
}

/* The sinks, the last partition, and what follows it. */
static uint32_t least(const void *self, uint32_t n)
{
	return n - n_scored(self, n) * (uint32_t)((const struct lagkv *)self)->lag;
}

/* The rows of a partition and their scores by K and by V; three vectors; marks. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct kvmod_extent e = kvmod_extent_of(request);
	size_t lag = (size_t)((const struct lagkv *)self)->lag;

	return (lag < e.n ? lag : e.n) * (e.head_dim + 2) + 3 * (size_t)e.head_dim + (e.n + 3) / 4;
}

/*
 * Softmax over n rows of their deviation over dimensions, each first moved and stretched
 * so that the next n rows span 0 .. 1. A dimension that is constant there says nothing.
 */
static int32_t score(const struct kvmod_task *head, const struct kvmod_view *rows, uint32_t begin,
		     uint32_t n, float *memory, float *out)
{
	uint32_t dim = head->segment->head_dim;
	float *low = memory, *high = low + dim, *shares = high + dim, *x = shares + dim;
	const struct kvmod_stats next = { .size = sizeof(next), .smallest = low, .largest = high };
	const struct kvmod_view view = { .type = KVMOD_F32, .data = x, .stride = dim * sizeof(*x) };

	head->kit->rows(rows, dim, begin, begin + n, x, dim);
	head->kit->stats(rows, dim, begin + n, begin + 2 * n, &next);
	for (uint32_t d = 0; d < dim; d++) {
		float range = high[d] - low[d];

		high[d] = range == 0 ? 0 : isfinite(range) ? 1 / range : NAN;
		shares[d] = 1 / (float)dim;
	}
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t d = 0; d < dim; d++)
			x[i * dim + d] = (x[i * dim + d] - low[d]) * high[d];
	head->kit->dots(&view, dim, 0, n, shares, 1, out, n);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t d = 0; d < dim; d++)
			x[i * dim + d] -= out[i];
	head->kit->norms(&view, dim, 0, n, out);
	for (uint32_t i = 0; i < n; i++)
		out[i] /= sqrtf((float)dim - 1);
	return head->kit->softmax(out, n);
}

static int32_t keep(const void *self_, const struct kvmod_task *head)
{
	const struct lagkv *self = self_;
	uint32_t n_parts = n_scored(self, head->n), lag = (uint32_t)self->lag;
	uint32_t begin = (uint32_t)self->scorer.sinks, always = least(self, head->n);
	uint64_t c = kvmod_budget_at_least(head->request, head->segment, &self->scorer.budget, always);
	float *of_k = head->scratch, *of_v, *memory;
	uint8_t *marks;

	if (head->n <= c) {
		head->kit->keep_whole(head);
		return KVMOD_OK;
	}
	of_v = of_k + lag;
	memory = of_v + lag;
	marks = (uint8_t *)(memory + (size_t)(lag + 3) * head->segment->head_dim);
	memset(marks, 1, head->n);
	for (uint32_t part = 0; part < n_parts; part++, begin += lag) {
		uint64_t count = (c - always) / n_parts + (part < (c - always) % n_parts);

		if (score(head, &head->head->k, begin, lag, memory, of_k) ||
		    score(head, &head->head->v, begin, lag, memory, of_v))
			return head->kit->fail(head, KVMOD_ENUMERIC, "a key or value of positions %u to %u "
					       "is not finite", begin, begin + 2 * lag - 1);
		for (uint32_t i = 0; i < lag; i++)
			of_k[i] += of_v[i];
		memset(marks + begin, 0, lag);
		head->kit->mark_heaviest(of_k, lag, count, marks + begin);
	}
	head->kit->keep_marked(head, marks);
	return KVMOD_OK;
}

KVMOD_SCORER(lagkv, struct lagkv, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "what stands out from the positions that come after it (2504.04704)",
	     .what = KVMOD_NEED_K | KVMOD_NEED_V, .floats = floats, .keep = keep, .least = least);
