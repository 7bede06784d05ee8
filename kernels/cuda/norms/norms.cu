/* SPDX-License-Identifier: Apache-2.0 */
/* The launch of norms of Wo v. */
#include <cuda_runtime.h>

#include "kernels/cuda/base/launch.cuh"
#include "kernels/cuda/norms/kernel.cuh"

int kv_cuda_norms(const struct kv_norms_job *job, const void *table, void *stream)
{
	struct kv_norms_launch p = { (const struct kv_norms_entry *)table, job->n_entries };
	cudaError_t err = kv_with_rows<1>(job->chunks, job->batches, [&](auto shape) {
		void (*kernel)(struct kv_norms_launch) = kv_norms_of_values<shape.chunks, shape.batches>;
		cudaError_t error = kv_allow_shared((const void *)kernel, KV_RING_BYTES, KV_RING_BYTES);

		if (error != cudaSuccess)
			return error;
		kernel<<<job->n_items, KV_ROW_THREADS, KV_RING_BYTES, (cudaStream_t)stream>>>(p);
		return cudaPeekAtLastError();
	});

	return err == cudaSuccess ? 0 : KVMOD_EDEVICE;
}
