/* SPDX-License-Identifier: Apache-2.0 */
/* Twilight's top-p on a GPU: a rule over the kernels' attention (kernels/cuda/attend). */
#include "kernels/cuda/attend/attend.h"
#include "policies/cuda/params.h"
#include "policies/cuda/policies.h"
#include "policies/cuda/ranking.h"

KVMOD_PARAMS(policy, topp, TOPP_PARAMS);
KVMOD_RUNS_ON(topp, "cuda");

static bool takes(const void *self_, const struct kvmod_request *request,
		  const struct kvmod_segment *segment, uint32_t *amounts)
{
	const struct topp *self = self_;

	(void)request;
	(void)amounts;
	return !kvmod_layer_listed(&self->whole_layers, segment->layer);
}

static struct kv_ranking ranking(const struct topp *self)
{
	return (struct kv_ranking){
		.params = { .rule = &kv_attend_mass, .pool = 1, .share = self->p },
		.takes = takes,
	};
}

static int32_t topp_workspace(void *self, const struct kvmod_request *request,
			      struct kvmod_workspace *need)
{
	struct kv_ranking how = ranking(self);

	return kv_ranking_workspace(self, &how, request, need);
}

static int32_t topp_compress(void *self, const struct kvmod_request *request,
			     struct kvmod_plan *plan)
{
	struct kv_ranking how = ranking(self);

	return kv_ranking_decide(self, &how, request, plan);
}

KV_CUDA_NEEDS(needs_on_gpu, topp_needs)

const struct kvmod_policy_ops kv_cuda_topp_ops = {
	.size = sizeof(kv_cuda_topp_ops),
	.flags = KVMOD_POLICY_MAY_DROP_NEWEST,
	.name = "topp",
	.description = "the heaviest positions that hold p of the attention (2502.02770)",
	.devices = "cuda",
	.instance_size = sizeof(struct topp),
	.params = topp_params,
	.n_params = sizeof(topp_params) / sizeof(*topp_params),
	.needs = needs_on_gpu,
	.workspace = topp_workspace,
	.compress = topp_compress,
};
