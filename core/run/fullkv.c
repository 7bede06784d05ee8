/* SPDX-License-Identifier: Apache-2.0 */
/* The policy that keeps everything. Built in, so that a policy is always available. */
#include "core/run/builtin.h"
#include "core/base/names.h"

/* A new plan already keeps every segment whole. */
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
	.devices = KV_ANY_DEVICE,
	.instance_size = sizeof(struct kvmod_instance),
	.compress = compress,
};
