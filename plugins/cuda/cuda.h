/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module "cuda": NVIDIA GPUs as a device, and the policies that run there.
 * The GPU is the first that CUDA_VISIBLE_DEVICES shows.
 */
#ifndef KV_PLUGINS_CUDA_H
#define KV_PLUGINS_CUDA_H

#include <cuda_runtime_api.h>

#include <kvmod/device.h>
#include <kvmod/policy.h>

extern const struct kvmod_device_ops kv_cuda_device_ops;

/*
 * Says in words that a CUDA call failed; returns KVMOD_ENOMEM or KVMOD_EDEVICE,
 * or 0 where it did not. what: what it was for.
 */
int32_t kv_cuda_say(const struct kvmod_host *host, cudaError_t error, const char *what);

/* Why a kernel's launch answered `err`: CUDA remembers it. cudaSuccess if err is 0. */
static inline cudaError_t kv_cuda_cause(int err)
{
	cudaError_t error = err ? cudaGetLastError() : cudaSuccess;

	return err && error == cudaSuccess ? cudaErrorLaunchFailure : error;
}

#endif
