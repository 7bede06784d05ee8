/* SPDX-License-Identifier: Apache-2.0 */
/* AdaKV on a GPU: a rule over the kernels' attention (kernels/cuda/attend). */
#include "policies/adakv.h"

#include "kernels/cuda/attend/attend.h"
#include "policies/cuda/policies.h"
#include "policies/cuda/ranking.h"

KVMOD_PARAMS(policy, adakv, ADAKV_PARAMS);
KVMOD_RUNS_ON(adakv, "cuda");

static bool takes(const void *self_, const struct kvmod_request *request,
		  const struct kvmod_segment *segment, uint32_t *amounts)
{
	const struct adakv *self = self_;

	return kv_window_takes(&self->budget, (uint32_t)self->window, request, segment, amounts);
}

static struct kv_ranking ranking(const struct adakv *self)
{
	return (struct kv_ranking){
		.params = {
			.rule = &kv_attend_shared,
			.tail = (uint32_t)self->window,
			.window = (uint32_t)self->window,
			.pool = (uint32_t)self->pool,
			.pool_max = self->pooling == KV_POOL_MAX,
			.share = self->alpha,
		},
		.takes = takes,
	};
}

static int32_t adakv_workspace(void *self, const struct kvmod_request *request,
			       struct kvmod_workspace *need)
{
	struct kv_ranking how = ranking(self);

	return kv_ranking_workspace(self, &how, request, need);
}

static int32_t adakv_compress(void *self_, const struct kvmod_request *request,
			      struct kvmod_plan *plan)
{
	struct adakv *self = self_;
	struct kv_ranking how = ranking(self);

	kv_mark_over_budget(&self->instance, request, plan, &self->budget,
			    (uint32_t)self->window, &self->said_raised);
	return kv_ranking_decide(self, &how, request, plan);
}

const struct kvmod_policy_ops kv_cuda_adakv_ops = {
	.size = sizeof(kv_cuda_adakv_ops),
	.name = "adakv",
	.description = "SnapKV's scores, heads of a layer share its budget (2407.11550)",
	.devices = KVMOD_ON_CUDA,
	.instance_size = sizeof(struct adakv),
	.params = adakv_params,
	.n_params = sizeof(adakv_params) / sizeof(*adakv_params),
	.param_stride = sizeof(*adakv_params),
	.open = adakv_open,
	.needs = adakv_needs,
	.workspace = adakv_workspace,
	.compress = adakv_compress,
};
