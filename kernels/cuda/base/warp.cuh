/* SPDX-License-Identifier: Apache-2.0 */
/* Sums, maxima and searches by the lanes of a warp and by the threads of a block. */
#ifndef KV_KERNELS_CUDA_BASE_WARP_CUH
#define KV_KERNELS_CUDA_BASE_WARP_CUH

#include <stdint.h>

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/base/memory.cuh"

#define KV_LANES 0xffffffffu

/* --- all lanes, or the eight of one t --------------------------------------------- */

/* Lane (g, t) = (lane / 4, lane % 4) has key g (see keys.cuh): over the eight keys of one t. */
static __device__ __forceinline__ float kv_sum_keys(float x)
{
	x += __shfl_xor_sync(KV_LANES, x, 4);
	x += __shfl_xor_sync(KV_LANES, x, 8);
	return x + __shfl_xor_sync(KV_LANES, x, 16);
}

static __device__ __forceinline__ float kv_sum_warp(float x)
{
	x += __shfl_xor_sync(KV_LANES, x, 1);
	x += __shfl_xor_sync(KV_LANES, x, 2);
	return kv_sum_keys(x);
}

static __device__ __forceinline__ float kv_max_keys(float x)
{
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 4));
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 8));
	return fmaxf(x, __shfl_xor_sync(KV_LANES, x, 16));
}

static __device__ __forceinline__ float kv_max_warp(float x)
{
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 1));
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 2));
	return kv_max_keys(x);
}

/* --- eight neighbouring lanes ----------------------------------------------------- */

static __device__ __forceinline__ float kv_sum8(float x)
{
#pragma unroll
	for (int d = 4; d; d /= 2)
		x += __shfl_xor_sync(KV_LANES, x, d);
	return x;
}

static __device__ __forceinline__ float kv_max8(float x)
{
#pragma unroll
	for (int d = 4; d; d /= 2)
		x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, d));
	return x;
}

/* The sum over the lanes of the eight that come before this one. */
static __device__ __forceinline__ float kv_sum8_before(float x)
{
	uint32_t u = threadIdx.x % 8;
	float other = __shfl_up_sync(KV_LANES, x, 1, 8);

	x = u ? other : 0;
#pragma unroll
	for (uint32_t d = 1; d < 8; d *= 2) {
		other = __shfl_up_sync(KV_LANES, x, d, 8);
		x += u >= d ? other : 0;
	}
	return x;
}

static __device__ __forceinline__ float kv_sum8_after(float x)
{
	uint32_t u = threadIdx.x % 8;
	float other = __shfl_down_sync(KV_LANES, x, 1, 8);

	x = u < 7 ? other : 0;
#pragma unroll
	for (uint32_t d = 1; d < 8; d *= 2) {
		other = __shfl_down_sync(KV_LANES, x, d, 8);
		x += u + d < 8 ? other : 0;
	}
	return x;
}

/* --- a block of KV_WARPS warps ---------------------------------------------------- */

/*
 * The sum over the threads before this one, and over the whole block. room: one
 * element for each warp; the block has to meet before room is used again.
 */
template <class T>
static __device__ __forceinline__ T kv_block_sum_before(T x, T *room, T *total)
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
	/* sum - x would round once more */
	T within = __shfl_up_sync(KV_LANES, sum, 1);
	return before + (lane ? within : 0);
}

/* The sum over the block, in every thread; room as above. */
static __device__ __forceinline__ double kv_block_sum(double x, double *room)
{
	double total;

	kv_block_sum_before(x, room, &total);
	__syncthreads();
	return total;
}

/*
 * Is this block the last of `total` that come here? Then it may read what all of
 * them wrote. The counter is zero before the first block and after the last.
 */
static __device__ bool kv_last_block(uint32_t *counter, uint32_t total, uint32_t *last)
{
	__syncthreads();
	if (threadIdx.x == 0) {
		kv_fence();
		*last = atomicInc(counter, total - 1) == total - 1;
		kv_fence();
	}
	__syncthreads();
	return *last;
}

/* --- searches in ascending numbers ------------------------------------------------ */

/* By one thread: how many of n numbers are above x. */
static __device__ __forceinline__ uint32_t kv_count_above(const uint32_t *numbers, uint32_t n, uint32_t x)
{
	uint32_t low = 0, high = n;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (numbers[middle] <= x)
			low = middle + 1;
		else
			high = middle;
	}
	return n - low;
}

/* By one thread: the last of n numbers, `step` apart, that is not above x. */
static __device__ uint32_t kv_last_below(const uint32_t *a, uint32_t step, uint32_t n, uint32_t x)
{
	uint32_t low = 0;

	while (n > 1) {
		uint32_t half = n / 2;

		low += a[(low + half) * step] <= x ? half : 0;
		n -= half;
	}
	return low;
}

/* By a warp: the last i of `count` whose begin(i) is not above x; every lane gets i. */
template <class Begin>
static __device__ __forceinline__ uint32_t kv_find(uint32_t count, uint32_t x, const Begin &begin)
{
	uint32_t lane = threadIdx.x % 32, low = 0;

	while (count > 1) {
		uint32_t step = (count + 31) / 32, at = lane * step;
		bool before = at < count && begin(low + at) <= x;
		uint32_t k = __popc(__ballot_sync(KV_LANES, before)) - 1;

		low += k * step;
		count = min(step, count - k * step);
	}
	return low;
}

#endif
