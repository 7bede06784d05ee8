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
 * A path is how that is done: kv_mma for aligned f16 and bf16, kv_fma for the
 * rest. Its Stage is the queries as a block shares them, its Ring the keys that
 * are on their way to a warp. Keys by a ring or straight from memory give the
 * same bits.
 */
#ifndef KV_CUDA_KEYS_CUH
#define KV_CUDA_KEYS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <float.h>
#include <stdint.h>


#include "kernels/cuda/table.h"
#define KV_LANES 0xffffffffu

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

template <uint32_t TYPE>
static __device__ __forceinline__ float kv_element(const char *row, uint32_t i)
{
	if (TYPE == KVMOD_F32)
		return ((const float *)row)[i];
	if (TYPE == KVMOD_F16)
		return __half2float(((const __half *)row)[i]);
	return __bfloat162float(((const __nv_bfloat16 *)row)[i]);
}

/* Elements at ... at + 7 of query `column`. */
static __device__ __forceinline__ void kv_query8(const struct kv_queries &q, uint32_t column,
						 uint32_t at, float x[8])
{
	const char *row = q.data + column * q.step;
	bool there = column < q.count && at < q.dim;

#pragma unroll
	for (int i = 0; i < 8; i++) {
		if (!there)
			x[i] = 0;
		else if (q.type == KVMOD_F32)
			x[i] = kv_element<KVMOD_F32>(row, at + i);
		else if (q.type == KVMOD_F16)
			x[i] = kv_element<KVMOD_F16>(row, at + i);
		else
			x[i] = kv_element<KVMOD_BF16>(row, at + i);
	}
}

#endif
