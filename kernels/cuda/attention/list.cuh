/* SPDX-License-Identifier: Apache-2.0 */
/* The list of positions that a KV head keeps, from the last rank that its rule keeps. */
#ifndef KV_KERNELS_CUDA_ATTENTION_LIST_CUH
#define KV_KERNELS_CUDA_ATTENTION_LIST_CUH

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/base/warp.cuh"

/* How many positions each warp of a block keeps, in this step and in the one before. */
struct kv_list_memory {
	uint32_t counts[2][KV_WARPS];
};

/* Does one of n_lists rankings keep position i? Their scores lie t.n elements apart. */
static __device__ __forceinline__ bool kv_is_kept(const struct kv_attention_task &t, const float *scores,
						  const uint64_t *last, uint32_t n_lists, uint32_t i)
{
	if (i < t.begin || i >= t.begin + t.m)
		return true;
	for (uint32_t l = 0; l < n_lists; l++)
		if (kv_rank(scores[(uint64_t)l * t.n + i], i) <= last[l])
			return true;
	return false;
}

#define KV_LIST_STEPS 4		/* of 32 positions, for each warp at a time */

/* Writes the list and the count of a task. scores NULL: all positions are kept. */
static __device__ void kv_list_task(const struct kv_attention &p, struct kv_list_memory &s, uint32_t task,
				    const float *scores, uint32_t n_lists)
{
	const struct kv_attention_task &t = p.tasks[task];
	const uint64_t *last = p.last + (uint64_t)task * p.group;
	uint32_t *to = p.out.indices + t.indices, lane = threadIdx.x % 32, warp = threadIdx.x / 32, parity = 0;
	uint32_t kept = 0;

	for (uint32_t begin = 0; begin < t.n; begin += KV_LIST_STEPS * KV_THREADS, parity ^= 1) {
		uint32_t first = begin + warp * 32 * KV_LIST_STEPS + lane, mask[KV_LIST_STEPS], mine = 0, total = 0;
		uint32_t at = kept;

#pragma unroll
		for (int j = 0; j < KV_LIST_STEPS; j++) {
			uint32_t i = first + 32 * j;

			mask[j] = __ballot_sync(KV_LANES, i < t.n && (!scores || kv_is_kept(t, scores, last, n_lists, i)));
			mine += __popc(mask[j]);
		}
		if (lane == 0)
			s.counts[parity][warp] = mine;
		__syncthreads();
		for (uint32_t w = 0; w < KV_WARPS; w++) {
			at += w < warp ? s.counts[parity][w] : 0;
			total += s.counts[parity][w];
		}
		kept += total;
#pragma unroll
		for (int j = 0; j < KV_LIST_STEPS; j++) {
			if (mask[j] >> lane & 1)
				to[at + __popc(mask[j] & ((1u << lane) - 1))] = first + 32 * j;
			at += __popc(mask[j]);
		}
	}
	if (threadIdx.x == 0)
		p.out.counts[task] = kept;
	__syncthreads();
}

#endif
