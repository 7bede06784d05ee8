/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Twilight's top-p rule (arXiv 2502.02770), as an evictor: each query head takes
 * the heaviest positions until they hold `p` of its attention, and a KV head
 * keeps what any of its query heads took. Counts differ from head to head.
 */
#include <string.h>

#include <kvmod/scorer.h>

struct topp {
	struct kvmod_scorer scorer;
	double p;
};

#define PARAMS(P, owner) \
	P(owner, struct topp, p, REAL, "0.95", "0..1", \
	  "share of the newest query's attention that is kept (Twilight's config: 0.85)") \
	KVMOD_P_WHOLE_LAYERS(P, owner, "2")

/* The attention of a group's query heads, and a mark for each position. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct kvmod_extent extent = kvmod_extent_of(request);

	(void)self;
	return ((size_t)extent.group + 1) * extent.n;
}

static double sum(const float *x, uint32_t n)
{
	double total = 0;

	for (uint32_t i = 0; i < n; i++)
		total += x[i];
	return total;
}

static int32_t keep(const void *self, const struct kvmod_task *head)
{
	const struct kvmod_segment *segment = head->segment;
	float *attention = head->scratch;
	uint8_t *marks = (uint8_t *)(attention + (size_t)head->group * head->n);
	int32_t error = head->kit->last_attention(head, attention);

	if (error)
		return error;
	memset(marks, 0, head->n);
	for (uint32_t h = 0; h < head->group; h++, attention += head->n) {
		double mass = 1;

		if (segment->sink_logits)	/* which take their share, and have no position */
			mass = sum(attention, head->n);
		head->kit->mark_mass(attention, head->n, ((const struct topp *)self)->p * mass, marks);
	}
	head->kit->keep_marked(head, marks);
	return KVMOD_OK;
}

KVMOD_SCORER(topp, struct topp, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "the heaviest positions that hold p of the attention (2502.02770)",
	     .what = KVMOD_NEED_K, .rows = 1, .floats = floats, .keep = keep);
