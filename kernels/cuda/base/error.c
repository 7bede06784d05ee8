/* SPDX-License-Identifier: Apache-2.0 */
/* Failed CUDA calls in words, for the device and the policies alike. */
#include "kernels/cuda/base/error.h"

int32_t kv_cuda_say(const struct kvmod_host *host, cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return 0;
	/* Cleared, or the next call would find this error again. */
	cudaGetLastError();
	return host->fail(host->ctx,
			  error == cudaErrorMemoryAllocation ? KVMOD_ENOMEM : KVMOD_EDEVICE,
			  "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

cudaError_t kv_cuda_cause(int err)
{
	cudaError_t error = err ? cudaGetLastError() : cudaSuccess;

	return err && error == cudaSuccess ? cudaErrorLaunchFailure : error;
}
