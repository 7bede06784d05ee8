/* SPDX-License-Identifier: Apache-2.0 */
/* SnapKV on a GPU: a rule over the kernels' attention (kernels/cuda/attend). */
#include "kernels/cuda/attend/attend.h"
#include "policies/cuda/params.h"
#include "policies/cuda/policies.h"
#include "policies/cuda/ranking.h"

KVMOD_PARAMS(policy, snapkv, SNAPKV_PARAMS);
KVMOD_RUNS_ON(snapkv, "cuda");

static bool takes(const void *self_, const struct kvmod_request *request,
		  const struct kvmod_segment *segment, uint32_t *amounts)
{
	const struct kvmod_scorer *self = self_;

	return kv_window_takes(&self->budget, (uint32_t)self->window, request, segment, amounts);
}

static struct kv_ranking ranking(const struct kvmod_scorer *self)
{
	return (struct kv_ranking){
		.params = {
			.rule = &kv_attend_top,
			.tail = (uint32_t)self->window,
			.window = (uint32_t)self->window,
			.pool = (uint32_t)self->pool,
			.pool_max = self->pooling == KVMOD_POOL_MAX,
		},
		.takes = takes,
	};
}

static int32_t snapkv_workspace(void *self, const struct kvmod_request *request,
				struct kvmod_workspace *need)
{
	struct kv_ranking how = ranking(self);

	return kv_ranking_workspace(self, &how, request, need);
}

static int32_t snapkv_compress(void *self_, const struct kvmod_request *request,
			       struct kvmod_plan *plan)
{
	struct kvmod_scorer *self = self_;
	struct kv_ranking how = ranking(self);

	kvmod_mark_over_budget(&self->instance, request, plan, &self->budget,
			    (uint32_t)self->window, &self->said_raised);
	return kv_ranking_decide(self, &how, request, plan);
}

KV_CUDA_NEEDS(needs_on_gpu, kv_window_needs)

const struct kvmod_policy_ops kv_cuda_snapkv_ops = {
	.size = sizeof(kv_cuda_snapkv_ops),
	.name = "snapkv",
	.description = "what the last queries attend to, for each KV head its own (2404.14469)",
	.devices = "cuda",
	.instance_size = sizeof(struct kvmod_scorer),
	.params = snapkv_params,
	.n_params = sizeof(snapkv_params) / sizeof(*snapkv_params),
	.open = kv_window_open,
	.needs = needs_on_gpu,
	.workspace = snapkv_workspace,
	.compress = snapkv_compress,
};
