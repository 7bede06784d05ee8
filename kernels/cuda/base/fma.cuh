/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The path for f32 keys, and for keys that the tensor cores cannot take (see
 * paths.cuh): dots in fp32 arithmetic (see keys.cuh).
 */
#ifndef KV_KERNELS_CUDA_BASE_FMA_CUH
#define KV_KERNELS_CUDA_BASE_FMA_CUH

#include "kernels/cuda/base/keys.cuh"

template <uint32_t TYPE, bool ALIGNED> struct kv_fma {
	enum { AHEAD = 0 };		/* see mma.cuh */

	/* Keys g and g + 8 stay in memory. */
	struct Batch {
		const char *low, *high;
		uint32_t dim;
	};

	struct Stage {
		float4 q[8][KV_MAX_DIM / 4];
		uint32_t count;
	};

	/* The bytes of a key. */
	static __device__ __forceinline__ uint32_t bytes(uint32_t dim)
	{
		return TYPE == KVMOD_F32 ? 4 * dim : TYPE == KVMOD_Q8_0 ? dim / 32 * 34 : 2 * dim;
	}

	template <bool ONCE = false>
	static __device__ __forceinline__ void load(Batch &b, const struct kv_keys &k, uint32_t row)
	{
		uint32_t g = threadIdx.x % 32 / 4;

		b.low = k.data + min(row + g, k.n - 1) * k.stride;
		b.high = k.data + min(row + g + 8, k.n - 1) * k.stride;
		b.dim = k.dim;
	}

	typedef Batch Held;		/* keys are read again for each stage */

	static __device__ __forceinline__ void hold(Held &h, const Batch &b)
	{
		h = b;
	}

	/* An empty batch. */
	static __device__ __forceinline__ void clear(Batch &b)
	{
		b.low = b.high = NULL;
		b.dim = 0;
	}

	/* By `warps` warps, of which this one has number `warp`; they must meet before dots(). */
	static __device__ __forceinline__ void stage(Stage &s, const struct kv_queries &q, uint32_t warp, uint32_t warps)
	{
		uint32_t per_row = q.dim / 8, thread = 32 * warp + threadIdx.x % 32;
		float x[8];

		if (thread == 0)
			s.count = q.count;
#pragma unroll 1
		for (uint32_t i = thread; i < 8 * per_row; i += 32 * warps) {
			float4 *to = &s.q[i / per_row][i % per_row * 2];

			kv_query8(q, i / per_row, i % per_row * 8, x);
			to[0] = make_float4(x[0], x[1], x[2], x[3]);
			to[1] = make_float4(x[4], x[5], x[6], x[7]);
		}
	}

	static __device__ __forceinline__ void key8(const char *row, uint32_t at, float x[8])
	{
		if (TYPE == KVMOD_F32 && ALIGNED) {
			*(float4 *)x = __ldg((const float4 *)row + at / 4);
			*(float4 *)(x + 4) = __ldg((const float4 *)row + at / 4 + 1);
		} else {
			kv_elements8<TYPE>(row, at, x);
		}
	}

	static __device__ __forceinline__ void column8(const Stage &s, uint32_t c, uint32_t at, float x[8])
	{
		*(float4 *)x = s.q[c][at / 4];
		*(float4 *)(x + 4) = s.q[c][at / 4 + 1];
	}

	/* Sums over the four lanes of a key; lane t gets those of queries 2t and 2t + 1. */
	static __device__ __forceinline__ void reduce(float sum[2][8], float acc[4])
	{
		uint32_t t = threadIdx.x % 4;

#pragma unroll
		for (int r = 0; r < 2; r++) {
			float half[4];

#pragma unroll
			for (int c = 0; c < 4; c++) {
				float mine = t & 2 ? sum[r][c + 4] : sum[r][c];
				float other = t & 2 ? sum[r][c] : sum[r][c + 4];

				half[c] = mine + __shfl_xor_sync(KV_LANES, other, 2);
			}
#pragma unroll
			for (int c = 0; c < 2; c++) {
				float mine = t & 1 ? half[c + 2] : half[c];
				float other = t & 1 ? half[c] : half[c + 2];

				acc[2 * r + c] = mine + __shfl_xor_sync(KV_LANES, other, 1);
			}
		}
	}

	static __device__ __forceinline__ void dots(const Stage &s, const Batch &b, float acc[4])
	{
		float sum[2][8] = {};

		for (uint32_t at = 8 * (threadIdx.x % 4); at < b.dim; at += 32) {
			float low[8], high[8], q[8];

			key8(b.low, at, low);
			key8(b.high, at, high);
#pragma unroll
			for (int c = 0; c < 8; c++) {
				if (c >= s.count)
					break;
				column8(s, c, at, q);
#pragma unroll
				for (int i = 0; i < 8; i++) {
					sum[0][c] = fmaf(low[i], q[i], sum[0][c]);
					sum[1][c] = fmaf(high[i], q[i], sum[1][c]);
				}
			}
		}
		reduce(sum, acc);
	}
};

#endif
