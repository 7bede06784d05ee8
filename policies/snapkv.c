/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SnapKV (arXiv 2404.14469): what the last queries of the prompt attend to,
 * smoothed, is what the answer will attend to. A set for each KV head.
 */
#include "policies/snapkv.h"

KVMOD_PARAMS(policy, snapkv, SNAPKV_PARAMS);

static int32_t snapkv_workspace(void *self, const struct kvmod_request *request,
				struct kvmod_workspace *need)
{
	struct kv_extent extent = kv_extent(request);

	need->host = kv_scratch_bytes(self, request, kv_attention_floats(&extent));
	return 0;
}

static int32_t decide_head(const void *self_, const struct kv_task *t)
{
	const struct snapkv *self = self_;
	uint32_t window = (uint32_t)self->window;
	uint64_t c = kv_budget(t->request, t->segment, &self->budget, window);
	const float *scores;
	int32_t error;

	if (t->n <= c) {
		kv_keep_whole(t);
		return 0;
	}
	error = kv_window_scores(t, window, (uint32_t)self->pool, self->pooling, &scores);
	if (error == 0)
		kv_keep_heaviest(t, scores, t->n - window, (uint32_t)c - window);
	return error;
}

static int32_t snapkv_compress(void *self_, const struct kvmod_request *request,
			       struct kvmod_plan *plan)
{
	struct snapkv *self = self_;
	struct kv_extent extent = kv_extent(request);

	kv_mark_over_budget(&self->instance, request, plan, &self->budget,
			    (uint32_t)self->window, &self->said_raised);
	kv_each_head(&self->instance, request, plan, request->scratch,
		     kv_attention_floats(&extent), decide_head, self);
	return 0;
}

static const struct kvmod_policy_ops snapkv_ops = {
	.size = sizeof(snapkv_ops),
	.name = "snapkv",
	.description = "what the last queries attend to, for each KV head its own (2404.14469)",
	.devices = KVMOD_ON_CPU,
	.instance_size = sizeof(struct snapkv),
	.params = snapkv_params,
	.n_params = sizeof(snapkv_params) / sizeof(*snapkv_params),
	.open = snapkv_open,
	.needs = snapkv_needs,
	.workspace = snapkv_workspace,
	.compress = snapkv_compress,
};

static int32_t snapkv_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &snapkv_ops);
}

KVMOD_MODULE("snapkv", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "SnapKV: positions that the last queries of the prompt attend to", 0,
	     snapkv_init, NULL);
