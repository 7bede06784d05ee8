/* SPDX-License-Identifier: Apache-2.0 */
/* AdaKV on a GPU: a rule over the kernels' attention (kernels/cuda/attend). */
#include "kernels/cuda/attend/attend.h"
#include "policies/cuda/params.h"
#include "policies/cuda/policies.h"
#include "policies/cuda/ranking.h"

KVMOD_PARAMS(policy, adakv, ADAKV_PARAMS);
KVMOD_RUNS_ON(adakv, "cuda");

static bool takes(const void *self_, const struct kvmod_request *request,
		  const struct kvmod_segment *segment, uint32_t *amounts)
{
	const struct adakv *self = self_;

	return kv_window_takes(&self->scorer.budget, (uint32_t)self->scorer.window, request, segment, amounts);
}

static struct kv_ranking ranking(const struct adakv *self)
{
	return (struct kv_ranking){
		.params = {
			.rule = &kv_attend_shared,
			.tail = (uint32_t)self->scorer.window,
			.window = (uint32_t)self->scorer.window,
			.pool = (uint32_t)self->scorer.pool,
			.pool_max = self->scorer.pooling == KVMOD_POOL_MAX,
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

	kvmod_mark_over_budget(&self->scorer.instance, request, plan, &self->scorer.budget,
			    (uint32_t)self->scorer.window, &self->scorer.said_raised);
	return kv_ranking_decide(self, &how, request, plan);
}

KV_CUDA_NEEDS(needs_on_gpu, kv_window_needs)

const struct kvmod_policy_ops kv_cuda_adakv_ops = {
	.size = sizeof(kv_cuda_adakv_ops),
	.name = "adakv",
	.description = "SnapKV's scores, heads of a layer share its budget (2407.11550)",
	.devices = "cuda",
	.instance_size = sizeof(struct adakv),
	.params = adakv_params,
	.n_params = sizeof(adakv_params) / sizeof(*adakv_params),
	.open = kv_window_open,
	.needs = needs_on_gpu,
	.workspace = adakv_workspace,
	.compress = adakv_compress,
};
