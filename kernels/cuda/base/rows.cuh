/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products on the tensor cores of rows that warps hold in registers and columns that all
 * go past them: keys and queries, or values and rows of Wo. Where columns are many, this
 * order converts each row once, whatever its type, and reads shared memory least.
 *
 * A warp holds BATCHES batches of sixteen rows of up to 32 CHUNKS elements, in the layout
 * of keys.cuh. An element is the sum of PARTS f16 elements, times a power of two of its
 * row: one part is exact for f16 and bf16, two have 22 bits. Columns come in units of
 * eight, as parts in the layout of kv_mma's stages, and may have two parts as well.
 */
#ifndef KV_KERNELS_CUDA_BASE_ROWS_CUH
#define KV_KERNELS_CUDA_BASE_ROWS_CUH

#include "kernels/cuda/base/mma.cuh"
#include "kernels/cuda/base/rows.h"

struct kv_row_source {
	const char *data;
	int64_t stride;
	uint32_t type, dim;
	bool wide;			/* 16-byte aligned */
};

template <int CHUNKS, int BATCHES, int PARTS> struct kv_held_rows {
	enum {
		ROWS = 16 * BATCHES * KV_ROW_WARPS,	/* of a block */
		PART = BATCHES * CHUNKS * 64,		/* words of 16 bytes of a warp's rows */
		ROOM = PARTS * PART,
	};

	uint4 a[PARTS][BATCHES][CHUNKS][2];		/* operands */
	float unscale[BATCHES][2];			/* of rows g and g + 8 */
};

/* --- elements of any type ----------------------------------------------------------- */

/* Elements at ... at + 7 of a row that is 16-byte aligned. */
template <uint32_t TYPE>
static __device__ __forceinline__ void kv_wide8(const char *row, uint32_t at, float x[8])
{
	if (TYPE == KVMOD_F32) {
		*(float4 *)x = __ldg((const float4 *)row + at / 4);
		*(float4 *)(x + 4) = __ldg((const float4 *)row + at / 4 + 1);
		return;
	}

	uint4 words = __ldg((const uint4 *)row + at / 8);
	uint32_t pairs[4] = { words.x, words.y, words.z, words.w };

#pragma unroll
	for (int i = 0; i < 4; i++) {
		x[2 * i] = __uint_as_float(pairs[i] << 16);
		x[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000);
	}
}

static __device__ __forceinline__ void kv_load8(uint32_t type, bool wide, const char *row, uint32_t at, float x[8])
{
	switch (type) {
	case KVMOD_F32:
		return wide ? kv_wide8<KVMOD_F32>(row, at, x) : kv_elements8<KVMOD_F32>(row, at, x);
	case KVMOD_F16:
		return kv_elements8<KVMOD_F16>(row, at, x);
	case KVMOD_BF16:
		return wide ? kv_wide8<KVMOD_BF16>(row, at, x) : kv_elements8<KVMOD_BF16>(row, at, x);
	case KVMOD_Q8_0:
		return kv_elements8<KVMOD_Q8_0>(row, at, x);
	default:
		return kv_elements8<KVMOD_Q4_0>(row, at, x);
	}
}

/* Rounds eight elements to f16, and leaves the rounding errors in them. */
static __device__ __forceinline__ uint4 kv_take8(float x[8])
{
	uint4 part;

	part.x = kv_pair<__half>::take(x[0], x[1]);
	part.y = kv_pair<__half>::take(x[2], x[3]);
	part.z = kv_pair<__half>::take(x[4], x[5]);
	part.w = kv_pair<__half>::take(x[6], x[7]);
	return part;
}

/*
 * By the four lanes of a row: its parts, this lane's eight elements of each chunk, go to
 * to[0], to[step], ... and, if there are two, to + second. Returns what undoes the scale.
 */
static __device__ __forceinline__ float kv_split_row(uint32_t type, bool wide, const char *row, uint32_t dim,
						     uint32_t chunks, uint4 *to, uint32_t step, uint32_t second)
{
	uint32_t at = 8 * (threadIdx.x % 4);
	float x[8], largest = 0, scale;

#pragma unroll 2
	for (uint32_t i = at; i < dim; i += 32) {
		kv_load8(type, wide, row, i, x);
#pragma unroll
		for (int k = 0; k < 8; k++)
			largest = fmaxf(largest, fabsf(x[k]));
	}
	largest = fmaxf(largest, __shfl_xor_sync(KV_LANES, largest, 1));
	largest = fmaxf(largest, __shfl_xor_sync(KV_LANES, largest, 2));
	scale = kv_scale_to_f16(largest);
#pragma unroll 2
	for (uint32_t j = 0; j < chunks; j++, at += 32, to += step) {
#pragma unroll
		for (int k = 0; k < 8; k++)
			x[k] = 0;
		if (at < dim)
			kv_load8(type, wide, row, at, x);
#pragma unroll
		for (int k = 0; k < 8; k++)
			x[k] *= scale;
		to[0] = kv_take8(x);
		if (second)
			to[second] = kv_take8(x);
	}
	return 1 / scale;
}

/* Not inlined: long, and called before a warp holds anything. */
static __device__ __noinline__ float kv_convert_row(uint32_t type, bool wide, const char *row, uint32_t dim,
						    uint32_t chunks, uint4 *to, uint32_t second)
{
	return kv_split_row(type, wide, row, dim, chunks, to, 64, second);
}

/* --- rows into registers --------------------------------------------------------------- */

/* Queues the copy of an f16 row, this lane's elements. */
template <int CHUNKS>
static __device__ __forceinline__ void kv_copy_row(const char *row, uint32_t dim, uint4 *to)
{
#pragma unroll
	for (int j = 0; j < CHUNKS; j++) {
		uint32_t at = 32 * j + 8 * (threadIdx.x % 4);

		kv_copy_to_shared(to + 64 * j, at < dim ? row + 2 * at : row, at < dim);
	}
}

/*
 * Row i of the warp's 16 BATCHES rows is at position(i). A lane's rows go through `room`,
 * ROOM words of shared memory, which no other lane reads.
 */
template <int CHUNKS, int BATCHES, int PARTS, class Position>
static __device__ __forceinline__ void kv_hold_rows(kv_held_rows<CHUNKS, BATCHES, PARTS> &r, uint4 *room,
						    const struct kv_row_source &s, const Position &position)
{
	typedef kv_held_rows<CHUNKS, BATCHES, PARTS> Rows;
	const uint32_t second = PARTS > 1 ? Rows::PART : 0;
	uint32_t lane = threadIdx.x % 32, nothing;
	bool plain = s.type == KVMOD_F16 && s.wide;

	room += lane;
#pragma unroll 1
	for (int i = 0; i < 2 * BATCHES; i++) {
		uint4 *to = room + (i / 2 * CHUNKS * 2 + i % 2) * 32;
		const char *row = s.data + position(8 * i + lane / 4) * s.stride;
		float unscale = 1;

		if (plain)
			kv_copy_row<CHUNKS>(row, s.dim, to);
		else
			unscale = kv_convert_row(s.type, s.wide, row, s.dim, CHUNKS, to, second);
#pragma unroll
		for (int k = 0; k < 2 * BATCHES; k++)
			r.unscale[k / 2][k % 2] = k == i ? unscale : r.unscale[k / 2][k % 2];
	}
	kv_end_copies();
	kv_await_copies<0>();
	/* always 0: see kv_mma::hold() */
	asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(nothing));
#pragma unroll
	for (int p = 0; p < PARTS; p++)
#pragma unroll
		for (int b = 0; b < BATCHES; b++)
#pragma unroll
			for (int j = 0; j < CHUNKS; j++) {
				uint4 low = room[p * Rows::PART + (b * CHUNKS + j) * 64];
				uint4 high = room[p * Rows::PART + (b * CHUNKS + j) * 64 + 32];

				r.a[p][b][j][0] = make_uint4(low.x | nothing, high.x | nothing,
							     low.y | nothing, high.y | nothing);
				r.a[p][b][j][1] = make_uint4(low.z | nothing, high.z | nothing,
							     low.w | nothing, high.w | nothing);
			}
}

/* --- products ----------------------------------------------------------------------------- */

/*
 * The products of the warp's rows with a unit of eight columns of COLUMN_PARTS parts, up
 * to the scales: acc[b] in the layout of keys.cuh. Small parts come first, for less
 * rounding; the product of two small parts is less than what a sum of fp32 keeps.
 */
template <int COLUMN_PARTS, int CHUNKS, int BATCHES, int PARTS>
static __device__ __forceinline__ void kv_multiply(const kv_held_rows<CHUNKS, BATCHES, PARTS> &r, const uint4 *unit,
						   float (*acc)[4])
{
	uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (int b = 0; b < BATCHES; b++)
		acc[b][0] = acc[b][1] = acc[b][2] = acc[b][3] = 0;
#pragma unroll
	for (int c = COLUMN_PARTS - 1; c >= 0; c--)
#pragma unroll
		for (int j = 0; j < CHUNKS; j++) {
			uint4 x = unit[(c * CHUNKS + j) * 32 + lane];

#pragma unroll
			for (int p = c ? 0 : PARTS - 1; p >= 0; p--) {
#pragma unroll
				for (int b = 0; b < BATCHES; b++)
					kv_pair<__half>::mma(acc[b], r.a[p][b][j][0].x, r.a[p][b][j][0].y,
							     r.a[p][b][j][0].z, r.a[p][b][j][0].w, x.x, x.y);
#pragma unroll
				for (int b = 0; b < BATCHES; b++)
					kv_pair<__half>::mma(acc[b], r.a[p][b][j][1].x, r.a[p][b][j][1].y,
							     r.a[p][b][j][1].z, r.a[p][b][j][1].w, x.z, x.w);
			}
		}
}

/* --- columns on their way -------------------------------------------------------------------- */

/*
 * Columns stream through a ring of slots in shared memory; each slot holds the units of
 * one step. While the block works on a step, copies for the next steps are under way.
 */
#define KV_SLOTS 4
#define KV_SLOT_BYTES 16384
#define KV_SLOT_WORDS (KV_SLOT_BYTES / 16)
#define KV_RING_BYTES (KV_SLOTS * KV_SLOT_BYTES)

/* The units of a slot. */
#define KV_SLOT_UNITS(chunks, column_parts) (KV_SLOT_BYTES / 512 / ((chunks) * (column_parts)))

/*
 * copy(slot, step) queues a thread's copies for a step, and work(slot, step) works on what
 * is there; both are called by all threads of the block, which meet before each work().
 * Before the first copy the block must have met, too, if it used the ring otherwise.
 */
template <class Copy, class Work>
static __device__ __forceinline__ void kv_stream(uint32_t n_steps, const Copy &copy, const Work &work)
{
	for (uint32_t i = 0; i < KV_SLOTS - 1; i++) {
		if (i < n_steps)
			copy(i, i);
		kv_end_copies();
	}
#pragma unroll 1
	for (uint32_t i = 0; i < n_steps; i++) {
		uint32_t next = i + KV_SLOTS - 1;

		kv_await_copies<KV_SLOTS - 2>();
		__syncthreads();
		if (next < n_steps)
			copy(next % KV_SLOTS, next);
		kv_end_copies();
		work(i % KV_SLOTS, i);
	}
}

/* --- the choice of a kernel ------------------------------------------------------------- */

template <int CHUNKS, int BATCHES, int PARTS> struct kv_row_shape {
	enum { chunks = CHUNKS, batches = BATCHES, parts = PARTS };
};

template <int CHUNKS, int PARTS, class Launch>
static cudaError_t kv_with_batches(uint32_t batches, const Launch &launch)
{
	if (batches == 1)
		return launch(kv_row_shape<CHUNKS, 1, PARTS>());
	return launch(kv_row_shape<CHUNKS, KV_MOST_BATCHES(CHUNKS, PARTS), PARTS>());
}

/* Calls launch(kv_row_shape<...>()) with chunks and batches as rows.h counts them. */
template <int PARTS, class Launch>
static cudaError_t kv_with_rows(uint32_t chunks, uint32_t batches, const Launch &launch)
{
	if (chunks == 2)
		return kv_with_batches<2, PARTS>(batches, launch);
	if (chunks == 4)
		return kv_with_batches<4, PARTS>(batches, launch);
	return kv_with_batches<8, PARTS>(batches, launch);
}

#endif
