/* SPDX-License-Identifier: Apache-2.0 */
/*
 * H2O (arXiv 2306.14048): keeps the heavy hitters, positions that got the most attention
 * since they are cached, and the newest positions. A set for each KV head.
 */
#include <math.h>
#include <string.h>

#include <kvmod/toolkit.h>

struct h2o {
	struct kvmod_instance instance;
	struct kvmod_amount heavy, recent;
	int64_t rows, decode_every;
};

#define PARAMS(P, owner) \
	P(owner, struct h2o, heavy, AMOUNT, "0.1", "0..", \
	  "positions kept for the attention they got: a fraction of the tokens seen, or a count") \
	P(owner, struct h2o, recent, AMOUNT, "0.1", "0..", \
	  "newest positions kept, at least 1: a fraction of the tokens seen, or a count") \
	P(owner, struct h2o, rows, INT, "0", "0..65536", \
	  "newest queries whose attention counts; 0: all, whose sums the engine collects") \
	P(owner, struct h2o, decode_every, INT, "64", "0..1000000", \
	  "decoded tokens from one cut to the next; 0: cut after prompts only (the paper: 1)")

/* Sums that come with `rows` are of the queries before these, and may be missing. */
static int32_t needs_of(void *self_, struct kvmod_needs *needs)
{
	const struct h2o *self = self_;

	needs->decode_every = (uint32_t)self->decode_every;
	needs->rows = (struct kvmod_amount){ .value = (double)self->rows, .is_count = 1 };
	needs->what = self->rows ? KVMOD_NEED_K : KVMOD_NEED_COLSUM;
	needs->takes = KVMOD_NEED_COLSUM;
	return KVMOD_OK;
}

static int32_t workspace(void *self, const struct kvmod_request *request,
			 struct kvmod_workspace *need)
{
	need->host = kvmod_toolkit_of(self)->scratch_bytes(self, request, kvmod_extent_of(request).n);
	return KVMOD_OK;
}

static uint64_t recent_of(const struct h2o *self, const struct kvmod_segment *segment)
{
	uint64_t recent = kvmod_amount_of(&self->recent, kvmod_tokens_seen(segment));

	return recent > 0 ? recent : 1;
}

/* What `heavy` and `recent` buy together; as fractions, no less than kvmod_budget_of() does. */
static uint64_t budget_of(const struct h2o *self, const struct kvmod_request *request,
			  const struct kvmod_segment *segment)
{
	uint64_t heavy = kvmod_amount_of(&self->heavy, kvmod_tokens_seen(segment));
	uint64_t c = heavy + recent_of(self, segment);

	if (self->heavy.is_count && self->recent.is_count)
		return c;
	return c > request->leave_below ? c : request->leave_below;
}

/* The attention that each of the first m positions got, the mean over the query heads. */
static int32_t sum(const struct h2o *self, const struct kvmod_task *head, uint32_t m, float *out)
{
	const struct kvmod_segment *s = head->segment;
	const char *sums = s->colsum.data;
	uint32_t rows = self->rows < s->n_rows ? (uint32_t)self->rows : s->n_rows;
	int32_t error = rows ? head->kit->mean_attention(head, rows, m, out) : KVMOD_OK;
	double total = 0;

	if (rows == 0)
		memset(out, 0, m * sizeof(*out));
	for (uint32_t i = 0; i < m; i++)
		out[i] *= (float)rows;
	for (uint32_t h = 0; sums && h < head->group; h++) {
		const float *of = (const void *)(sums + (head->g * head->group + h) * s->colsum.head_stride);

		for (uint32_t i = 0; i < m; i++)
			out[i] += of[i] / (float)head->group;
	}
	for (uint32_t i = 0; i < m; i++)
		total += out[i];
	if (error || isfinite(total))
		return error;
	return head->kit->fail(head, KVMOD_ENUMERIC, "its column sums of attention are not finite");
}

static int32_t keep(const void *self, const struct kvmod_task *head)
{
	uint64_t c = budget_of(self, head->request, head->segment);
	uint64_t recent = recent_of(self, head->segment);
	int32_t error;

	if (head->n <= c) {
		head->kit->keep_whole(head);
		return KVMOD_OK;
	}
	error = sum(self, head, head->n - (uint32_t)recent, head->scratch);
	if (error == KVMOD_OK)
		head->kit->keep_heaviest(head, head->scratch, head->n - (uint32_t)recent,
					 (uint32_t)(c - recent));
	return error;
}

static int32_t compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		if (kvmod_longest_head(segment) > budget_of(self, request, segment))
			kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	}
	kvmod_toolkit_of(self)->each_head(self, request, plan, request->scratch,
					  kvmod_extent_of(request).n, keep, self);
	return KVMOD_OK;
}

KVMOD_POLICY(h2o, struct h2o, PARAMS,
	     "the positions that got the most attention, and the newest (2306.14048)", 0,
	     "cpu", .needs = needs_of, .workspace = workspace, .compress = compress)
KVMOD_MODULE("h2o", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "H2O: heavy hitters of attention, and the newest positions", 0, h2o_init, NULL);
