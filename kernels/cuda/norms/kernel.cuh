/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1 norms of Wo v. A block holds a tile of values; the rows of Wo of one query head
 * stream past (see rows.cuh), so products never leave registers.
 */
#ifndef KV_KERNELS_CUDA_NORMS_KERNEL_CUH
#define KV_KERNELS_CUDA_NORMS_KERNEL_CUH

#include "kernels/cuda/base/rows.cuh"
#include "kernels/cuda/norms/table.h"

struct kv_norms_launch {
	const struct kv_norms_entry *entries;
	uint32_t n_entries;
};

/* The rows of Wo of one query head. */
struct kv_wo_rows {
	const char *data;
	int64_t stride;
	uint32_t n, dim;
	bool wide;
};

/* Eight elements of a row that is not aligned. */
static __device__ __forceinline__ uint4 kv_load_unaligned(const char *row)
{
	const uint16_t *from = (const uint16_t *)row;
	uint32_t words[4];

#pragma unroll
	for (int i = 0; i < 4; i++)
		words[i] = __ldg(from + 2 * i) | (uint32_t)__ldg(from + 2 * i + 1) << 16;
	return make_uint4(words[0], words[1], words[2], words[3]);
}

/* Where word k of a step's units comes from, a lane's elements of an operand. NULL: it is zero. */
template <int CHUNKS>
static __device__ __forceinline__ const char *kv_source_of_word(const struct kv_wo_rows &wo, uint32_t step, uint32_t k)
{
	uint32_t unit = step * KV_SLOT_UNITS(CHUNKS, 1) + k / (32 * CHUNKS), e = 8 * unit + k % 32 / 4;
	uint32_t at = k / 32 % CHUNKS * 32 + 8 * (k % 4);

	return e < wo.n && at < wo.dim ? wo.data + e * wo.stride + 2 * at : NULL;
}

/* Queues the copies of the units of a step. */
template <int CHUNKS>
static __device__ __forceinline__ void kv_copy_wo(const struct kv_wo_rows &wo, uint4 *slot, uint32_t step)
{
	if (wo.wide) {
#pragma unroll
		for (uint32_t i = 0; i < KV_SLOT_WORDS; i += KV_ROW_THREADS) {
			const char *from = kv_source_of_word<CHUNKS>(wo, step, i + threadIdx.x);

			kv_copy_to_shared(slot + i + threadIdx.x, from ? from : wo.data, from);
		}
		return;
	}
#pragma unroll 1
	for (uint32_t k = threadIdx.x; k < KV_SLOT_WORDS; k += KV_ROW_THREADS) {
		const char *from = kv_source_of_word<CHUNKS>(wo, step, k);

		slot[k] = from ? kv_load_unaligned(from) : make_uint4(0, 0, 0, 0);
	}
}

/* Adds the magnitudes of a unit's products to the sum of each row. */
template <int BATCHES>
static __device__ __forceinline__ void kv_add_magnitudes(const float (*acc)[4], float (*sum)[2])
{
#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 2; k++)
			sum[b][k] += fabsf(acc[b][2 * k]) + fabsf(acc[b][2 * k + 1]);
}

template <int CHUNKS, int BATCHES>
static __global__ __launch_bounds__(KV_ROW_THREADS, KV_ROW_BLOCKS)
void kv_norms_of_values(const __grid_constant__ struct kv_norms_launch p)
{
	typedef kv_held_rows<CHUNKS, BATCHES, 1> Rows;
	enum { UNITS = KV_SLOT_UNITS(CHUNKS, 1) };
	extern __shared__ uint4 ring[];
	uint32_t which = kv_last_below(&p.entries->first_item, sizeof(*p.entries) / 4, p.n_entries, blockIdx.x);
	const struct kv_norms_entry &e = p.entries[which];
	uint32_t item = blockIdx.x - e.first_item, tile = item % e.n_tiles, head = item / e.n_tiles, n = e.n;
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	uint32_t first = tile * Rows::ROWS + warp * 16 * BATCHES;
	struct kv_row_source values = { e.v, e.v_stride, e.v_type, e.dim, (bool)e.wide_v };
	struct kv_wo_rows wo = { e.wo + (uint64_t)head * e.dim * 2, e.wo_stride, e.n_out, e.dim, false };
	float *out = e.out + head * e.out_stride;
	float sum[BATCHES][2] = {};
	Rows rows;

	/* head_dim is a multiple of 8, so the slices of all heads are aligned */
	wo.wide = e.wide_wo;
	kv_hold_rows(rows, ring + warp * Rows::ROOM, values, [&](uint32_t k) { return min(first + k, n - 1); });
	__syncthreads();
	kv_stream((wo.n + 8 * UNITS - 1) / (8 * UNITS),
		  [&](uint32_t slot, uint32_t step) { kv_copy_wo<CHUNKS>(wo, ring + slot * KV_SLOT_WORDS, step); },
		  [&](uint32_t slot, uint32_t step) {
#pragma unroll 2
			for (uint32_t u = 0; u < UNITS; u++) {
				float acc[BATCHES][4];

				kv_multiply<1>(rows, ring + slot * KV_SLOT_WORDS + u * CHUNKS * 32, acc);
				kv_add_magnitudes<BATCHES>(acc, sum);
			}
		  });
#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 2; k++) {
			uint32_t i = first + 16 * b + 8 * k + lane / 4;

			sum[b][k] += __shfl_xor_sync(KV_LANES, sum[b][k], 1);
			sum[b][k] += __shfl_xor_sync(KV_LANES, sum[b][k], 2);
			if (lane % 4 == 0 && i < n)
				out[i] = sum[b][k] * rows.unscale[b][k];
		}
}

#endif
