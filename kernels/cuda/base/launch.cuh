/* SPDX-License-Identifier: Apache-2.0 */
/* What a launch asks of the GPU at hand: its shared memory and its multiprocessors. */
#ifndef KV_KERNELS_CUDA_BASE_LAUNCH_CUH
#define KV_KERNELS_CUDA_BASE_LAUNCH_CUH

#include <stddef.h>

/* The most shared memory that a block may have. */
static inline cudaError_t kv_shared_limit(size_t *bytes)
{
	int device, limit;
	cudaError_t err = cudaGetDevice(&device);

	if (err == cudaSuccess)
		err = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
	if (err == cudaSuccess)
		*bytes = limit;
	return err;
}

/*
 * Allows a kernel shared memory: up to `most`, whatever this launch needs, because
 * the setting also holds for launches by other threads.
 */
static inline cudaError_t kv_allow_shared(const void *kernel, size_t needed, size_t most)
{
	size_t limit;
	cudaError_t err = kv_shared_limit(&limit);

	if (err != cudaSuccess)
		return err;
	if (needed > limit)
		return cudaErrorLaunchOutOfResources;
	return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
				    (int)(most < limit ? most : limit));
}

static inline cudaError_t kv_multiprocessors(int *n)
{
	int device;
	cudaError_t err = cudaGetDevice(&device);

	return err == cudaSuccess ? cudaDeviceGetAttribute(n, cudaDevAttrMultiProcessorCount, device) : err;
}

#endif
