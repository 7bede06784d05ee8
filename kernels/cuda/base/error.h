/* SPDX-License-Identifier: Apache-2.0 */
/* Failed CUDA calls in words, for the device and the policies alike. */
#ifndef KV_KERNELS_CUDA_BASE_ERROR_H
#define KV_KERNELS_CUDA_BASE_ERROR_H

#include <cuda_runtime_api.h>

#include <kvmod/module.h>

/*
 * Reports a failed CUDA call to the host, with `what` the call was for. Returns
 * KVMOD_ENOMEM or KVMOD_EDEVICE; 0, without a report, after a call that succeeded.
 */
int32_t kv_cuda_say(const struct kvmod_host *host, cudaError_t error, const char *what);

/* CUDA's reason for the result `err` of a kernel's launch; cudaSuccess if err is 0. */
cudaError_t kv_cuda_cause(int err);

#endif
