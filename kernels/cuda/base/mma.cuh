/* SPDX-License-Identifier: Apache-2.0 */
/* The path for f16 and bf16 keys: dots on the tensor cores (see keys.cuh). */
#ifndef KV_KERNELS_CUDA_BASE_MMA_CUH
#define KV_KERNELS_CUDA_BASE_MMA_CUH

#include "kernels/cuda/base/keys.cuh"
#include "kernels/cuda/base/memory.cuh"

/* take() rounds two floats to a pair of T, and leaves the rounding errors in them. */
template <class T> struct kv_pair;

template <> struct kv_pair<__nv_bfloat16> {
	enum { SCALED = 0 };

	static __device__ __forceinline__ uint32_t take(float &x, float &y)
	{
		__nv_bfloat162 p = __floats2bfloat162_rn(x, y);

		x -= __low2float(p);
		y -= __high2float(p);
		return *(uint32_t *)&p;
	}
	static __device__ __forceinline__ void mma(float acc[4], uint32_t a0, uint32_t a1,
						   uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
	{
		asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
		    "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
		    : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
		    : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
	}
};

template <> struct kv_pair<__half> {
	enum { SCALED = 1 };	/* see query_scale() */

	static __device__ __forceinline__ uint32_t take(float &x, float &y)
	{
		__half2 p = __floats2half2_rn(x, y);

		x -= __low2float(p);
		y -= __high2float(p);
		return *(uint32_t *)&p;
	}
	static __device__ __forceinline__ void mma(float acc[4], uint32_t a0, uint32_t a1,
						   uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
	{
		asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
		    "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
		    : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
		    : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
	}
};

/* The power of two that brings the largest element of a row into the range of f16: into 2^13 ... 2^14. */
static __device__ __forceinline__ float kv_scale_to_f16(float largest)
{
	if (!(largest >= 0x1p-100f && largest <= 0x1p100f))
		return 1;
	return __uint_as_float((127 + 13 + 127 - (__float_as_uint(largest) >> 23)) << 23);
}

/*
 * Keys of up to 32 CHUNKS dimensions. Each query element is exactly the sum of three
 * elements of T, so products are exact, and sums are fp32.
 */
template <class T, int CHUNKS> struct kv_mma {
	enum { AHEAD = CHUNKS < 8 };	/* two batches fit in registers */

	/* A lane's elements of key g and of key g + 8. */
	struct Batch {
		uint4 low[CHUNKS], high[CHUNKS];
	};

	struct Stage {
		uint4 parts[3][CHUNKS][32];
		float unscale[8];
	};

	/* The bytes of a key. */
	static __device__ __forceinline__ uint32_t bytes(uint32_t dim)
	{
		return 2 * dim;
	}

	static __device__ __forceinline__ const char *address(const struct kv_keys &k, uint32_t row)
	{
		return k.data + min(row, k.n - 1) * k.stride + 16 * (threadIdx.x % 4);
	}

	template <bool ONCE = false>
	static __device__ __forceinline__ void load(Batch &b, const struct kv_keys &k, uint32_t row)
	{
		uint32_t lane = threadIdx.x % 32, at = 8 * (lane % 4);
		const char *low = address(k, row + lane / 4), *high = address(k, row + lane / 4 + 8);

#pragma unroll
		for (int j = 0; j < CHUNKS; j++) {
			bool there = at + 32 * j < k.dim;

			b.low[j] = there ? kv_load_keys<ONCE>(low + 64 * j) : make_uint4(0, 0, 0, 0);
			b.high[j] = there ? kv_load_keys<ONCE>(high + 64 * j) : make_uint4(0, 0, 0, 0);
		}
	}

	/* An empty batch. */
	static __device__ __forceinline__ void clear(Batch &b)
	{
#pragma unroll
		for (int j = 0; j < CHUNKS; j++)
			b.low[j] = b.high[j] = make_uint4(0, 0, 0, 0);
	}

	/* The scale of query g. */
	static __device__ float scale_down(const struct kv_queries &q)
	{
		uint32_t lane = threadIdx.x % 32;
		float x[8], largest = 0;

		for (int j = 0; j < CHUNKS; j++) {
			kv_query8(q, lane / 4, 32 * j + 8 * (lane % 4), x);
			for (int i = 0; i < 8; i++)
				largest = fmaxf(largest, fabsf(x[i]));
		}
		largest = fmaxf(largest, __shfl_xor_sync(KV_LANES, largest, 1));
		largest = fmaxf(largest, __shfl_xor_sync(KV_LANES, largest, 2));
		return kv_scale_to_f16(largest);
	}

	/* Only f16 needs a scale: its range is short. */
	static __device__ __forceinline__ float query_scale(const struct kv_queries &q)
	{
		if constexpr (kv_pair<T>::SCALED)
			return scale_down(q);
		else
			return 1;
	}

	/* Shifts 32 elements that four lanes hold by two; the first two become the last. */
	static __device__ __forceinline__ void turn(float x[8])
	{
		float next[2];

#pragma unroll
		for (int i = 0; i < 2; i++)
			next[i] = __shfl_sync(KV_LANES, x[i], threadIdx.x + 1, 4);
#pragma unroll
		for (int i = 0; i < 6; i++)
			x[i] = x[i + 2];
		x[6] = next[0];
		x[7] = next[1];
	}

	/* The operand of lane (g, t) for chunk j: query g as three parts. */
	template <bool TURNED>
	static __device__ __forceinline__ void split(const struct kv_queries &q, int j, float scale,
						     uint4 parts[3])
	{
		uint32_t lane = threadIdx.x % 32;
		float x[8];

		kv_query8(q, lane / 4, 32 * j + 8 * (lane % 4), x);
		if (TURNED && j % 2 == 0)
			turn(x);
		for (int i = 0; i < 8; i++)
			x[i] *= scale;
#pragma unroll
		for (int p = 0; p < 3; p++) {
			parts[p].x = kv_pair<T>::take(x[0], x[1]);
			parts[p].y = kv_pair<T>::take(x[2], x[3]);
			parts[p].z = kv_pair<T>::take(x[4], x[5]);
			parts[p].w = kv_pair<T>::take(x[6], x[7]);
		}
	}

	/*
	 * By `warps` warps, of which this one has number `warp`; they must meet before dots().
	 * TURNED: every other chunk begins with its third element.
	 */
	template <bool TURNED = false>
	static __device__ __forceinline__ void stage(Stage &s, const struct kv_queries &q, uint32_t warp, uint32_t warps)
	{
		uint32_t lane = threadIdx.x % 32;
		float scale = query_scale(q);
		uint4 parts[3];

		if (warp == 0 && lane % 4 == 0)
			s.unscale[lane / 4] = 1 / scale;
#pragma unroll 1
		for (int j = warp; j < CHUNKS; j += warps) {
			split<TURNED>(q, j, scale, parts);
			for (int p = 0; p < 3; p++)
				s.parts[p][j][lane] = parts[p];
		}
	}

	/* Each part of the queries has a sum of its own: three independent chains, and less rounding. */
	static __device__ __forceinline__ void add(float sums[3][4], const uint4 &low, const uint4 &high,
						   const uint4 parts[3])
	{
#pragma unroll
		for (int p = 0; p < 3; p++)
			kv_pair<T>::mma(sums[p], low.x, high.x, low.y, high.y, parts[p].x, parts[p].y);
#pragma unroll
		for (int p = 0; p < 3; p++)
			kv_pair<T>::mma(sums[p], low.z, high.z, low.w, high.w, parts[p].z, parts[p].w);
	}

	/*
	 * Keys for many queries, as operands. `nothing` is always 0: if the compiler knew
	 * that, it would move the keys into place again for each query.
	 */
	struct Held {
		uint4 a[CHUNKS][2];
	};

	static __device__ __forceinline__ void hold(Held &h, const Batch &b)
	{
		uint32_t nothing;

		asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(nothing));
#pragma unroll
		for (int j = 0; j < CHUNKS; j++) {
			const uint4 &low = b.low[j], &high = b.high[j];

			h.a[j][0] = make_uint4(low.x | nothing, high.x | nothing, low.y | nothing, high.y | nothing);
			h.a[j][1] = make_uint4(low.z | nothing, high.z | nothing, low.w | nothing, high.w | nothing);
		}
	}

	static __device__ __forceinline__ void put_together(const Stage &s, const float sums[3][4], float acc[4])
	{
#pragma unroll
		for (int i = 0; i < 4; i++) {
			acc[i] = sums[0][i] + (sums[1][i] + sums[2][i]);
			if (kv_pair<T>::SCALED)
				acc[i] *= s.unscale[2 * (threadIdx.x % 4) + i % 2];
		}
	}

	static __device__ __forceinline__ void dots(const Stage &s, const Batch &b, float acc[4])
	{
		uint32_t lane = threadIdx.x % 32;
		float sums[3][4] = {};

#pragma unroll
		for (int j = 0; j < CHUNKS; j++) {
			uint4 parts[3] = { s.parts[0][j][lane], s.parts[1][j][lane], s.parts[2][j][lane] };

			add(sums, b.low[j], b.high[j], parts);
		}
		put_together(s, sums, acc);
	}

	static __device__ __forceinline__ void dots(const Stage &s, const Held &h, float acc[4])
	{
		uint32_t lane = threadIdx.x % 32;
		float sums[3][4] = {};

#pragma unroll
		for (int j = 0; j < CHUNKS; j++) {
#pragma unroll
			for (int p = 0; p < 3; p++) {
				uint4 part = kv_load_shared(&s.parts[p][j][lane]);

				kv_pair<T>::mma(sums[p], h.a[j][0].x, h.a[j][0].y, h.a[j][0].z, h.a[j][0].w, part.x, part.y);
				kv_pair<T>::mma(sums[p], h.a[j][1].x, h.a[j][1].y, h.a[j][1].z, h.a[j][1].w, part.z, part.w);
			}
		}
		put_together(s, sums, acc);
	}
};

#endif
