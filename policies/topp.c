/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Twilight's top-p rule (arXiv 2502.02770), as an evictor: each query head takes
 * the heaviest positions until they hold `p` of its attention, and a KV head
 * keeps what any of its query heads took. Counts differ from head to head.
 */
#include "policies/topp.h"

KVMOD_PARAMS(policy, topp, TOPP_PARAMS);

static int32_t topp_workspace(void *self, const struct kvmod_request *request,
			      struct kvmod_workspace *need)
{
	struct kv_extent extent = kv_extent(request);

	need->host = kv_scratch_bytes(self, request, kv_attention_floats(&extent));
	return 0;
}

/* The marks of what is taken go where the first query head's attention was. */
static int32_t decide_head(const void *self_, const struct kv_task *t)
{
	const struct topp *self = self_;
	uint32_t *kept = t->keep->indices + t->g * t->keep->index_stride, n = 0;
	float *attention, *taken;
	int32_t error = kv_last_attention(t, &attention);

	if (error)
		return error;
	taken = attention;
	for (uint32_t h = 0; h < t->group; h++, attention += t->n) {
		struct kv_cut cut = kv_heaviest_mass(attention, t->n, self->p);

		for (uint32_t i = 0; i < t->n; i++)
			taken[i] = kv_cut_takes(&cut, attention[i]) || (h > 0 && taken[i] > 0);
	}
	for (uint32_t i = 0; i < t->n; i++)
		if (taken[i] > 0)
			kept[n++] = i;
	t->keep->counts[t->g] = n;
	return 0;
}

static int32_t topp_compress(void *self_, const struct kvmod_request *request,
			     struct kvmod_plan *plan)
{
	struct topp *self = self_;
	struct kv_extent extent = kv_extent(request);

	for (uint32_t i = 0; i < request->n_segments; i++)
		if (!kv_layer_listed(&self->whole_layers, kvmod_segment_at(request, i)->layer))
			kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	kv_each_head(&self->instance, request, plan, request->scratch,
		     kv_attention_floats(&extent), decide_head, self);
	return 0;
}

static const struct kvmod_policy_ops topp_ops = {
	.size = sizeof(topp_ops),
	.flags = KVMOD_POLICY_MAY_DROP_NEWEST,
	.name = "topp",
	.description = "the heaviest positions that hold p of the attention (2502.02770)",
	.devices = KVMOD_ON_CPU,
	.instance_size = sizeof(struct topp),
	.params = topp_params,
	.n_params = sizeof(topp_params) / sizeof(*topp_params),
	.needs = topp_needs,
	.workspace = topp_workspace,
	.compress = topp_compress,
};

static int32_t topp_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &topp_ops);
}

KVMOD_MODULE("topp", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "Twilight's top-p rule as an evictor, ragged by KV head", 0,
	     topp_init, NULL);
