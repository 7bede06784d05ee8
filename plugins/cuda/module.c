/* SPDX-License-Identifier: Apache-2.0 */
/* The module "cuda": registers the device and all policies that run on it. */
#include "config.h"
#include "plugins/cuda/device.h"
#include "policies/cuda/policies.h"

KVMOD_NO_PARAMS(device, cuda);
KVMOD_BUILT_FOR(cuda, CUDA_BUILT_FOR);

static int32_t cuda_init(const struct kvmod_host *host)
{
	static const struct kvmod_policy_ops *const policies[] = {
		&kv_cuda_adakv_ops,
		&kv_cuda_refreekv_ops,
		&kv_cuda_snapkv_ops,
		&kv_cuda_topp_ops,
	};
	int32_t err = host->register_device(host->ctx, &kv_cuda_device_ops);

	for (size_t i = 0; !err && i < sizeof(policies) / sizeof(*policies); i++)
		err = host->register_policy(host->ctx, policies[i]);
	return err;
}

/* Resident: CUDA's runtime leaves handlers behind. */
KVMOD_MODULE("cuda", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "NVIDIA GPUs as a device, and the policies that run on them",
	     KVMOD_MODULE_RESIDENT, cuda_init, NULL);
