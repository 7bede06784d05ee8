/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Twilight's top-p rule (arXiv 2502.02770), as an evictor: each query head takes
 * the heaviest positions until they hold `p` of its attention, and a KV head
 * keeps what any of its query heads took. Counts differ from head to head.
 */
#include <string.h>

#include <kvmod/toolkit.h>

struct topp {
	struct kvmod_instance instance;
	double p;
	struct kvmod_list whole_layers;
};

#define PARAMS(P, owner) \
	P(owner, struct topp, p, REAL, "0.95", "0..1", \
	  "share of the newest query's attention that is kept (Twilight's config: 0.85)") \
	P(owner, struct topp, whole_layers, LIST, "2", "0..", \
	  "layers kept whole: that many first ones, or a list")

static int32_t needs_of(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	needs->rows.value = needs->rows.is_count = 1;
	return KVMOD_OK;
}

/* Of a thread: the attention of a group's query heads, and a mark for each position. */
static size_t floats(const struct kvmod_request *request)
{
	struct kvmod_extent extent = kvmod_extent_of(request);

	return ((size_t)extent.group + 1) * extent.n;
}

static int32_t workspace(void *self, const struct kvmod_request *request,
			 struct kvmod_workspace *need)
{
	need->host = kvmod_toolkit_of(self)->scratch_bytes(self, request, floats(request));
	return KVMOD_OK;
}

static int32_t decide_head(const void *self, const struct kvmod_task *head)
{
	float *attention = head->scratch;
	uint8_t *marks = (uint8_t *)(attention + (size_t)head->group * head->n);
	int32_t error = head->kit->last_attention(head, attention);

	if (error)
		return error;
	memset(marks, 0, head->n);
	for (uint32_t h = 0; h < head->group; h++, attention += head->n)
		head->kit->mark_mass(attention, head->n, ((const struct topp *)self)->p, marks);
	head->kit->keep_marked(head, marks);
	return KVMOD_OK;
}

static int32_t compress(void *self_, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct topp *self = self_;

	for (uint32_t i = 0; i < request->n_segments; i++)
		if (!kvmod_layer_listed(&self->whole_layers, kvmod_segment_at(request, i)->layer))
			kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	kvmod_toolkit_of(self)->each_head(&self->instance, request, plan, request->scratch,
					  floats(request), decide_head, self);
	return KVMOD_OK;
}

KVMOD_POLICY(topp, struct topp, PARAMS,
	     "the heaviest positions that hold p of the attention (2502.02770)",
	     KVMOD_POLICY_MAY_DROP_NEWEST, "cpu",
	     .needs = needs_of, .workspace = workspace, .compress = compress)
KVMOD_MODULE("topp", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "Twilight's top-p rule as an evictor, ragged by KV head", 0, topp_init, NULL);
