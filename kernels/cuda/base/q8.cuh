/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The path for q8_0 keys: dots on the tensor cores (see keys.cuh). The bytes of a block
 * are exact as f16, so a block is a chunk of 32 dimensions, whose sum is multiplied by
 * the block's scale.
 *
 * Two blocks take 17 words of four bytes. Word 0 holds the first scale and the first
 * two elements of the first block; word 8 holds the last two elements of that block
 * and the second scale. So the first block is read from its third element on, and its
 * first two elements are the last ones of lane t = 3.
 */
#ifndef KV_KERNELS_CUDA_BASE_Q8_CUH
#define KV_KERNELS_CUDA_BASE_Q8_CUH

#include "kernels/cuda/base/memory.cuh"
#include "kernels/cuda/base/mma.cuh"

/* Four signed bytes x as f16: the bits of 1024 + 128 + x, minus 1152. */
static __device__ __forceinline__ uint2 kv_widen(uint32_t bytes)
{
	const __half2 bias = __halves2half2(__ushort_as_half(0x6480), __ushort_as_half(0x6480));
	uint32_t low = __byte_perm(bytes ^ 0x80808080, 0x64646464, 0x4140);
	uint32_t high = __byte_perm(bytes ^ 0x80808080, 0x64646464, 0x4342);
	__half2 a = __hsub2(*(__half2 *)&low, bias), b = __hsub2(*(__half2 *)&high, bias);

	return make_uint2(*(uint32_t *)&a, *(uint32_t *)&b);
}

/* Keys of up to 32 CHUNKS dimensions, a multiple of 64, at addresses that are multiples of four. */
template <int CHUNKS> struct kv_q8 {
	enum { AHEAD = CHUNKS < 8 };

	typedef kv_mma<__half, CHUNKS> Half;
	typedef typename Half::Stage Stage;

	/* Words 0 and 8 of two blocks, then two words of each block for this lane alone; of keys g and g + 8. */
	struct Batch {
		uint32_t words[2][CHUNKS / 2][6];
	};

	struct Held {
		uint4 a[CHUNKS][2];		/* operands */
		__half2 scales[2][CHUNKS / 2];	/* of pairs of blocks */
	};

	/* The bytes of a key. */
	static __device__ __forceinline__ uint32_t bytes(uint32_t dim)
	{
		return dim / 32 * 34;
	}

	template <bool ONCE>
	static __device__ __forceinline__ void load_key(uint32_t (*words)[6], const struct kv_keys &k, uint32_t row)
	{
		const char *key = k.data + min(row, k.n - 1) * k.stride, *own = key + 8 * (threadIdx.x % 4);

#pragma unroll
		for (int i = 0; i < CHUNKS / 2; i++, key += 68, own += 68) {
			bool there = 64 * i < k.dim;

			words[i][0] = there ? kv_load_word<ONCE>(key) : 0;
			words[i][1] = there ? kv_load_word<ONCE>(key + 32) : 0;
			words[i][2] = there ? kv_load_word<ONCE>(own + 4) : 0;
			words[i][3] = there ? kv_load_word<ONCE>(own + 8) : 0;
			words[i][4] = there ? kv_load_word<ONCE>(own + 36) : 0;
			words[i][5] = there ? kv_load_word<ONCE>(own + 40) : 0;
		}
	}

	template <bool ONCE = false>
	static __device__ __forceinline__ void load(Batch &b, const struct kv_keys &k, uint32_t row)
	{
		load_key<ONCE>(b.words[0], k, row + threadIdx.x % 32 / 4);
		load_key<ONCE>(b.words[1], k, row + threadIdx.x % 32 / 4 + 8);
	}

	/* An empty batch. */
	static __device__ __forceinline__ void clear(Batch &b)
	{
#pragma unroll
		for (int i = 0; i < CHUNKS / 2; i++)
#pragma unroll
			for (int k = 0; k < 6; k++)
				b.words[0][i][k] = b.words[1][i][k] = 0;
	}

	static __device__ __forceinline__ void stage(Stage &s, const struct kv_queries &q, uint32_t warp, uint32_t warps)
	{
		Half::template stage<true>(s, q, warp, warps);
	}

	/* Blocks i and i + 1 of key g (y = 0) or g + 8 (y = 1), half y of an operand. */
	static __device__ __forceinline__ void hold_blocks(Held &h, const uint32_t words[6], int y, int i)
	{
		uint32_t last = __byte_perm(words[3], words[0], threadIdx.x % 4 == 3 ? 0x7610 : 0x3210);
		uint32_t bytes[2][2] = { { words[2], last }, { words[4], words[5] } };
		uint32_t scales = __byte_perm(words[0], words[1], 0x7610);

		h.scales[y][i / 2] = *(__half2 *)&scales;
#pragma unroll
		for (int k = 0; k < 2; k++)
#pragma unroll
			for (int e = 0; e < 2; e++) {
				uint2 x = kv_widen(bytes[k][e]);

				(y ? h.a[i + k][e].y : h.a[i + k][e].x) = x.x;
				(y ? h.a[i + k][e].w : h.a[i + k][e].z) = x.y;
			}
	}

	static __device__ __forceinline__ void hold(Held &h, const Batch &b)
	{
#pragma unroll
		for (int i = 0; i < CHUNKS; i += 2) {
			hold_blocks(h, b.words[0][i / 2], 0, i);
			hold_blocks(h, b.words[1][i / 2], 1, i);
		}
	}

	/* SHARED: the queries are in shared memory, and are read again for each batch. */
	template <bool SHARED>
	static __device__ __forceinline__ void sum_up(const Stage &s, const Held &h, float acc[4])
	{
		uint32_t lane = threadIdx.x % 32;

		acc[0] = acc[1] = acc[2] = acc[3] = 0;
#pragma unroll
		for (int j = 0; j < CHUNKS; j++) {
			float sum[4] = {};

			/* small parts first, for less rounding */
#pragma unroll
			for (int p = 2; p >= 0; p--) {
				uint4 part = SHARED ? kv_load_shared(&s.parts[p][j][lane]) : s.parts[p][j][lane];

				kv_pair<__half>::mma(sum, h.a[j][0].x, h.a[j][0].y, h.a[j][0].z, h.a[j][0].w, part.x, part.y);
				kv_pair<__half>::mma(sum, h.a[j][1].x, h.a[j][1].y, h.a[j][1].z, h.a[j][1].w, part.z, part.w);
			}
#pragma unroll
			for (int i = 0; i < 4; i++) {
				__half2 scales = h.scales[i / 2][j / 2];

				acc[i] = fmaf(sum[i], j % 2 ? __high2float(scales) : __low2float(scales), acc[i]);
			}
		}
#pragma unroll
		for (int i = 0; i < 4; i++)
			acc[i] *= s.unscale[2 * (lane % 4) + i % 2];
	}

	static __device__ __forceinline__ void dots(const Stage &s, const Held &h, float acc[4])
	{
		sum_up<true>(s, h, acc);
	}

	static __device__ __forceinline__ void dots(const Stage &s, const Batch &b, float acc[4])
	{
		Held h;

		hold(h, b);
		sum_up<false>(s, h, acc);
	}
};

#endif
