/* SPDX-License-Identifier: Apache-2.0 */
/* The launches of column reductions. */
#include <cuda_runtime.h>

#include "kernels/cuda/base/launch.cuh"
#include "kernels/cuda/columns/kernels.cuh"

static struct kv_columns_launch kv_columns_launch_of(const struct kv_columns_job *job, const void *table, char *scratch)
{
	struct kv_columns_places s = kv_columns_places(job);
	struct kv_columns_launch p = {};

	p.entries = (const struct kv_columns_entry *)table;
	p.queries = (uint4 *)(scratch + s.queries);
	p.factors = (float2 *)(scratch + s.factors);
	p.stats = (float2 *)(scratch + s.stats);
	p.scale = kv_logit_scale(job->scale, job->softcap);
	p.softcap = job->softcap;
	p.n_entries = job->n_entries;
	p.n_units = job->n_units;
	p.chunks = job->chunks;
	p.dim = job->head_dim;
	p.k_type = job->k_type;
	return p;
}

/* A reading: the first or the second. */
template <class Shape, bool SECOND>
static cudaError_t kv_launch_reading(const struct kv_columns_launch &p, uint32_t n_items, cudaStream_t stream)
{
	void (*kernel)(struct kv_columns_launch) = kv_read_keys<Shape::chunks, Shape::batches, Shape::parts, SECOND>;
	cudaError_t err = kv_allow_shared((const void *)kernel, KV_RING_BYTES, KV_RING_BYTES);

	if (err == cudaSuccess) {
		kernel<<<n_items, KV_ROW_THREADS, KV_RING_BYTES, stream>>>(p);
		err = cudaPeekAtLastError();
	}
	return err;
}

int kv_cuda_columns(const struct kv_columns_job *job, const void *table, void *scratch, void *stream_)
{
	struct kv_columns_launch p = kv_columns_launch_of(job, table, (char *)scratch);
	cudaStream_t stream = (cudaStream_t)stream_;
	auto launch = [&](auto shape) {
		cudaError_t err = kv_launch_reading<decltype(shape), false>(p, job->n_items, stream);

		if (err != cudaSuccess)
			return err;
		kv_total_rows<<<(8 * p.n_units + KV_THREADS - 1) / KV_THREADS, KV_THREADS, 0, stream>>>(p);
		return kv_launch_reading<decltype(shape), true>(p, job->n_items, stream);
	};
	cudaError_t err;

	if (job->n_items == 0)
		return 0;
	kv_split_queries<<<(p.n_units + KV_WARPS - 1) / KV_WARPS, KV_THREADS, 0, stream>>>(p);
	if (job->parts == 1)
		err = kv_with_rows<1>(job->chunks, job->batches, launch);
	else
		err = kv_with_rows<2>(job->chunks, job->batches, launch);
	return err == cudaSuccess ? 0 : KVMOD_EDEVICE;
}
