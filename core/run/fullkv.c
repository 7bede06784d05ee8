/* SPDX-License-Identifier: Apache-2.0 */
/* The policy that keeps everything. It is built in, so there is always one. */
#include "core/run/builtin.h"

/* The plan comes with every segment whole. */
static int32_t compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	(void)self;
	(void)request;
	(void)plan;
	return KVMOD_OK;
}

const struct kvmod_policy_ops kv_fullkv_ops = {
	.size = sizeof(kv_fullkv_ops),
	.name = "fullkv",
	.description = "keeps every position: the full cache",
	.devices = KVMOD_ON_CPU | KVMOD_ON_CUDA,
	.instance_size = sizeof(struct kvmod_instance),
	.compress = compress,
};
