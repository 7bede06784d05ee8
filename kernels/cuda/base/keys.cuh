/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dots of eight query vectors with sixteen keys, by one warp.
 *
 * Lane (g, t) = (lane / 4, lane % 4) holds of keys g and g + 8 the elements
 * 32 j + 8 t ... + 7 for every j, and ends with four dots: acc[0] and acc[1] of
 * key g with queries 2t and 2t + 1, acc[2] and acc[3] of key g + 8. That is the
 * layout of a tensor core's operands, up to a permutation of the dimension,
 * which a dot does not see. So keys go from memory straight into the operand.
 *
 * A path is how that is done: kv_mma for aligned f16 and bf16, kv_q8 for q8_0 where
 * blocks come in pairs (it has other elements in a lane, see there), kv_fma for the
 * rest; paths.cuh chooses. A path has
 *
 *	Stage		the queries as a block shares them, which stage() writes
 *	Batch		sixteen keys as a warp has them, which load() fills, while it works
 *			on others if the path loads AHEAD; clear() makes one of nothing
 *	Held		the same, which hold() makes ready to go past many stages
 *	dots()		of a stage with either
 *	bytes()		of a key
 */
#ifndef KV_CUDA_BASE_KEYS_CUH
#define KV_CUDA_BASE_KEYS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <float.h>
#include <stdint.h>

#include <kvmod/types.h>

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/base/warp.cuh"

/* Keys of one KV head: n rows that lie stride bytes apart. */
struct kv_keys {
	const char *data;
	int64_t stride;
	uint32_t n, dim;
};

/* Up to eight query vectors, `step` bytes apart; those past count read as zero. */
struct kv_queries {
	const char *data;
	int64_t step;
	uint32_t count, type, dim;
};

/* Blocks that have room on a multiprocessor: queries of more than 128 dimensions leave it for one. */
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

template <uint32_t TYPE>
static __device__ __forceinline__ void kv_elements8(const char *row, uint32_t at, float x[8])
{
#pragma unroll
	for (int i = 0; i < 8; i++)
		x[i] = kv_element<TYPE>(row, at + i);
}

/* Elements at ... at + 7 of query `column`. All loads are under way before one is waited for. */
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
