/* SPDX-License-Identifier: Apache-2.0 */
/* What a block of a decision on rows needs to know, and what blocks do together. */
#ifndef KV_CUDA_ATTEND_CUH
#define KV_CUDA_ATTEND_CUH

#include "kernels/cuda/attend_table.h"
#include "kernels/cuda/launch.cuh"

#define KV_THREADS (32 * KV_WARPS)

struct kv_attend {
	const struct kv_attend_task *tasks;	/* [segment][KV head] */
	const uint32_t *limits;
	/* Arrays of rows, by task; see struct kv_attend_task. */
	float2 *stats;			/* largest logit and sum of a tile */
	float *row_max, *row_weight;
	/* Arrays of positions, by task. */
	float *score, *pooled;
	float *attention;		/* [query head][n]; NULL: not wanted */
	uint64_t *order, *spare;	/* the ranking, as kv_rank() has it */
	double *sums;			/* squares of this chunk of ranks and all after it */
	uint64_t *last;			/* [task][query head]: ranks up to here are kept */
	struct kv_attend_output out;
	struct kv_attend_params params;
	float scale, softcap;		/* scale without softcap: times log2(e) */
	uint32_t n_segments, n_tasks, n_items, n_limits;
	uint32_t n_q_heads, n_kv_heads, group, dim, q_type;
	uint32_t tile, rows;
	uint32_t units;			/* of eight queries that a block holds */
};

/*
 * A position's rank as a number: smaller is heavier, ties go to the older. No two
 * positions of a head have the same.
 */
static __device__ __forceinline__ uint64_t kv_rank(float score, uint32_t position)
{
	uint32_t bits = __float_as_uint(score + 0.f);	/* -0 is 0 */

	bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
	return (uint64_t)~bits << 32 | position;
}

/* The score in it, none negative. */
static __device__ __forceinline__ float kv_rank_score(uint64_t rank)
{
	return __uint_as_float(~(uint32_t)(rank >> 32) & 0x7fffffffu);
}

/* What is wrong with a task's segment; by tasks and segments alike. */
static __device__ __forceinline__ int32_t kv_status_of(const struct kv_attend &p, uint32_t task)
{
	return p.out.results[task / p.n_kv_heads].status;
}

/*
 * The sum of what the threads before this one have, and of all. room: one for each
 * warp; the block has to meet before it is used again.
 */
template <class T>
static __device__ __forceinline__ T kv_sum_before(T x, T *room, T *total)
{
	uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	T sum = x, before = 0, all = 0;

#pragma unroll
	for (uint32_t d = 1; d < 32; d *= 2) {
		T other = __shfl_up_sync(KV_LANES, sum, d);

		if (lane >= d)
			sum += other;
	}
	if (lane == 31)
		room[warp] = sum;
	__syncthreads();
#pragma unroll
	for (uint32_t i = 0; i < KV_WARPS; i++) {
		before += i < warp ? room[i] : 0;
		all += room[i];
	}
	*total = all;
	/* the same as sum - x, but for rounding */
	T within = __shfl_up_sync(KV_LANES, sum, 1);
	return before + (lane ? within : 0);
}

/* The sum over the block, everywhere; room as above. */
static __device__ __forceinline__ double kv_block_sum(double x, double *room)
{
	double total;

	kv_sum_before(x, room, &total);
	__syncthreads();
	return total;
}

#endif
