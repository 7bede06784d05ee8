/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and queries as a warp reads them, and the dots of eight queries with sixteen
 * keys that one warp computes.
 *
 * Lane (g, t) = (lane / 4, lane % 4) holds elements 32 j + 8 t ... + 7 of keys g and
 * g + 8, for every j, and ends with four dots: acc[0] and acc[1] are those of key g
 * with queries 2t and 2t + 1, acc[2] and acc[3] those of key g + 8. A tensor core's
 * operands have the same layout, up to a permutation of the dimension, which does not
 * change a dot. So keys go from memory straight into the operand.
 *
 * A path is one way to do this: kv_mma for aligned f16 and bf16, kv_q8 for q8_0 with an
 * even number of blocks (its lanes hold other elements, see q8.cuh), kv_fma for all
 * other keys; paths.cuh chooses. A path has
 *
 *	Stage		queries in the layout that a block shares; stage() writes it
 *	Batch		sixteen keys in the layout that a warp reads; load() fills it, a
 *			batch early if the path loads AHEAD; clear() makes an empty one
 *	Held		a batch that hold() prepared for many stages
 *	dots()		the dots of a stage with a batch, held or not
 *	bytes()		the bytes of a key
 */
#ifndef KV_KERNELS_CUDA_BASE_KEYS_CUH
#define KV_KERNELS_CUDA_BASE_KEYS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <float.h>
#include <stdint.h>

#include <kvmod/types.h>

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/base/warp.cuh"

/* Keys of one KV head: n rows, stride bytes apart. */
struct kv_keys {
	const char *data;
	int64_t stride;
	uint32_t n, dim;
};

/* Up to eight queries, `step` bytes apart; queries from number `count` on read as zero. */
struct kv_queries {
	const char *data;
	int64_t step;
	uint32_t count, type, dim;
};

/* Blocks that fit on a multiprocessor: with queries of more than 128 dimensions, only one does. */
template <class P> struct kv_room {
	enum { BLOCKS = sizeof(typename P::Stage) > 9000 ? 1 : 2 };
};

template <uint32_t TYPE>
static __device__ __forceinline__ float kv_element(const char *row, uint32_t i)
{
	uint16_t bits;

	if (TYPE == KVMOD_F32)
		return __ldg((const float *)row + i);
	bits = __ldg((const uint16_t *)row + i);
	if (TYPE == KVMOD_F16)
		return __half2float(__ushort_as_half(bits));
	return __bfloat162float(__ushort_as_bfloat16(bits));
}

/* Elements at ... at + 7 of a row of plain numbers. */
template <uint32_t TYPE>
static __device__ __forceinline__ void kv_elements8(const char *row, uint32_t at, float x[8])
{
#pragma unroll
	for (int i = 0; i < 8; i++)
		x[i] = kv_element<TYPE>(row, at + i);
}

/* Elements at ... at + 7 of a row of q8_0; at is a multiple of 8. */
template <> __device__ __forceinline__ void kv_elements8<KVMOD_Q8_0>(const char *row, uint32_t at, float x[8])
{
	const char *block = row + at / 32 * 34;
	float scale = __half2float(*(const __half *)block);

#pragma unroll
	for (int i = 0; i < 4; i++) {
		char2 pair = *(const char2 *)(block + 2 + at % 32 + 2 * i);

		x[2 * i] = scale * (float)(signed char)pair.x;
		x[2 * i + 1] = scale * (float)(signed char)pair.y;
	}
}

/* The same of q4_0. */
template <> __device__ __forceinline__ void kv_elements8<KVMOD_Q4_0>(const char *row, uint32_t at, float x[8])
{
	const char *block = row + at / 32 * 18;
	float scale = __half2float(*(const __half *)block);

#pragma unroll
	for (int i = 0; i < 4; i++) {
		uchar2 pair = *(const uchar2 *)(block + 2 + at % 16 + 2 * i);

		x[2 * i] = scale * (float)((int)(at % 32 < 16 ? pair.x & 15 : pair.x >> 4) - 8);
		x[2 * i + 1] = scale * (float)((int)(at % 32 < 16 ? pair.y & 15 : pair.y >> 4) - 8);
	}
}

/* Elements at ... at + 7 of query `column`. All loads are issued before the first one is used. */
static __device__ __forceinline__ void kv_query8(const struct kv_queries &q, uint32_t column,
						 uint32_t at, float x[8])
{
	bool there = column < q.count && at < q.dim;
	const char *row = q.data + (there ? column * q.step : 0);

	at = there ? at : 0;
	if (q.type == KVMOD_F32)
		kv_elements8<KVMOD_F32>(row, at, x);
	else if (q.type == KVMOD_F16)
		kv_elements8<KVMOD_F16>(row, at, x);
	else
		kv_elements8<KVMOD_BF16>(row, at, x);
#pragma unroll
	for (int i = 0; i < 8; i++)
		x[i] = there ? x[i] : 0;
}

#endif
