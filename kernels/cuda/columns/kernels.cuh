/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Column reductions of attention in four steps: queries as parts, partial maxima and sums
 * of rows by tiles of keys, totals of rows, columns. Products are computed twice, as
 * fp32 logits of all rows would be larger than everything else.
 *
 * In both readings a block holds a tile of keys, and queries stream past (see rows.cuh).
 * So a column's reduction stays in registers, and its order depends on nothing but the
 * shape. A unit of queries has either eight rows of one head or a few rows of each of
 * several heads: lane (g, t) has those of columns 2t and 2t + 1, which always belong to
 * the same head.
 */
#ifndef KV_KERNELS_CUDA_COLUMNS_KERNELS_CUH
#define KV_KERNELS_CUDA_COLUMNS_KERNELS_CUH

#include "kernels/cuda/base/logit.cuh"
#include "kernels/cuda/base/rows.cuh"
#include "kernels/cuda/columns/table.h"

#define KV_QUERY_PARTS 2		/* 22 bits of each element */

struct kv_columns_launch {
	const struct kv_columns_entry *entries;
	uint4 *queries;			/* [unit][part][chunk][lane] */
	float2 *factors;		/* [query]: from products to logits; the total, infinity if there is none */
	float2 *stats;			/* [tile][query] of each entry: largest logit and sum */
	float scale, softcap;		/* see logit.cuh */
	uint32_t n_entries, n_units;
	uint32_t chunks, dim, k_type;
};

/* 2^x, and 0 where that is less than the smallest normal number. */
static __device__ __forceinline__ float kv_exp2(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* kv_soften() in a few instructions: absolute errors are some 1e-7 of the cap. */
static __device__ __forceinline__ float kv_soften_fast(float x, float cap)
{
	float e = kv_exp2(2 * KV_LOG2_E / cap * x);

	return cap * KV_LOG2_E * (1 - __fdividef(2, e + 1));
}

static __device__ __forceinline__ const struct kv_columns_entry &kv_entry_of(const struct kv_columns_launch &p,
									     const uint32_t *first, uint32_t number)
{
	return p.entries[kv_last_below(first, sizeof(struct kv_columns_entry) / 4, p.n_entries, number)];
}

/* Is there such a query, or is it only part of a unit? */
static __device__ __forceinline__ bool kv_is_query(const struct kv_columns_entry &e, uint32_t query)
{
	return query % e.padded < e.n_rows && query / e.padded < e.group;
}

/* --- queries as parts ------------------------------------------------------------------ */

/* A warp for each unit. Queries that are there for the shape alone are zero. */
static __global__ __launch_bounds__(KV_THREADS)
void kv_split_queries(const __grid_constant__ struct kv_columns_launch p)
{
	uint32_t unit = blockIdx.x * KV_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;

	if (unit >= p.n_units)
		return;

	const struct kv_columns_entry &e = kv_entry_of(p, &p.entries->first_unit, unit);
	uint32_t query = (unit - e.first_unit) * 8 + lane / 4, row = query % e.padded, head = query / e.padded;
	bool there = kv_is_query(e, query);
	const char *q = e.q + (there ? row * e.q_stride + head * e.q_head_stride : 0);
	uint4 *to = p.queries + (uint64_t)unit * KV_QUERY_PARTS * p.chunks * 32 + lane;
	float unscale = kv_split_row(KVMOD_F32, e.wide_q, q, there ? p.dim : 0, p.chunks, to, 32, p.chunks * 32);

	if (lane % 4 == 0)
		p.factors[(uint64_t)unit * 8 + lane / 4] = make_float2(there ? unscale * p.scale : 0, INFINITY);
}

/* --- both readings ------------------------------------------------------------------------ */

template <int CHUNKS, int ROWS> struct kv_columns_memory {
	enum { UNITS = KV_SLOT_UNITS(CHUNKS, KV_QUERY_PARTS) };

	uint32_t position[ROWS];	/* of each key; UINT32_MAX: none */
	float4 factors[KV_SLOTS][UNITS][4];	/* of two queries: see kv_columns_launch */
	float4 stats[2][KV_ROW_WARPS][UNITS][4];	/* of two queries, by each warp */
};

/* A block's work. */
struct kv_columns_item {
	float *out;
	int64_t out_stride;
	uint64_t stats;
	uint32_t n_units, n_queries;	/* units of this slice; queries of the entry */
	uint32_t unit, first_unit;	/* the first one within the entry, and of all */
	uint32_t tile, m, group, padded, n_seen, reduce;
	uint32_t first_row, last_row;	/* that see the tile's first position, and all of it */
};

static __device__ __forceinline__ struct kv_columns_item kv_item_of(const struct kv_columns_entry &e, uint32_t item)
{
	struct kv_columns_item i;

	i.out = e.out;
	i.out_stride = e.out_stride;
	i.stats = e.stats;
	i.n_units = e.n_units / e.n_slices;
	i.n_queries = e.n_units * 8;
	i.unit = item / e.n_tiles * i.n_units;
	i.first_unit = e.first_unit + i.unit;
	i.tile = item % e.n_tiles;
	i.m = e.m;
	i.group = e.group;
	i.padded = e.padded;
	i.n_seen = e.n_seen;
	i.reduce = e.reduce;
	return i;
}

/* The rows that a unit has of a head. */
static __device__ __forceinline__ uint32_t kv_unit_rows(const struct kv_columns_item &i)
{
	return min(i.padded, 8u);
}

/* From the first row of a unit to that of the next one; slices begin with the first row of a head. */
static __device__ __forceinline__ uint32_t kv_next_row(const struct kv_columns_item &i, uint32_t row)
{
	return row + 8 < i.padded ? row + 8 : 0;
}

/* Queues the copies of a step's units. */
template <int CHUNKS, int ROWS>
static __device__ __forceinline__ void kv_copy_units(const struct kv_columns_launch &p, const struct kv_columns_item &i,
						     struct kv_columns_memory<CHUNKS, ROWS> &s, uint4 *ring,
						     uint32_t slot, uint32_t step)
{
	enum { UNITS = kv_columns_memory<CHUNKS, ROWS>::UNITS, WORDS = KV_QUERY_PARTS * CHUNKS * 32 };
	uint32_t first = step * UNITS, here = min((uint32_t)UNITS, i.n_units - first);
	const uint4 *from = p.queries + (uint64_t)(i.first_unit + first) * WORDS;
	const uint4 *factors = (const uint4 *)(p.factors + (uint64_t)(i.first_unit + first) * 8);

	for (uint32_t k = threadIdx.x; k < here * WORDS; k += KV_ROW_THREADS)
		kv_copy_to_shared(ring + slot * KV_SLOT_WORDS + k, from + k, true);
	if (threadIdx.x < here * 4)
		kv_copy_to_shared((uint4 *)s.factors[slot][0] + threadIdx.x, factors + threadIdx.x, true);
}

/* Logits that a row does not see become -infinity. */
template <int BATCHES, int ROWS, int CHUNKS>
static __device__ __forceinline__ void kv_hide(const struct kv_columns_item &i,
					       const struct kv_columns_memory<CHUNKS, ROWS> &s, uint32_t row,
					       float (*x)[4])
{
	uint32_t lane = threadIdx.x % 32, first = row + (2 * (lane % 4) & (kv_unit_rows(i) - 1));
	const uint32_t *position = s.position + threadIdx.x / 32 * 16 * BATCHES + lane / 4;

#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 4; k++)
			if (first + k % 2 < kv_columns_first_row(i.n_seen, position[16 * b + 8 * (k / 2)]))
				x[b][k] = -INFINITY;
}

/*
 * The logits of a unit, whose first row is `row`: x[b] in the layout of keys.cuh. PLAIN:
 * there is no soft cap, and every row sees every key.
 */
template <bool PLAIN, int CHUNKS, int BATCHES, int PARTS, int ROWS>
static __device__ __forceinline__ void kv_logits(const struct kv_columns_launch &p, const struct kv_columns_item &i,
						 const struct kv_columns_memory<CHUNKS, ROWS> &s,
						 const kv_held_rows<CHUNKS, BATCHES, PARTS> &rows, const uint4 *columns,
						 float4 factors, uint32_t row, float (*x)[4])
{
	kv_multiply<KV_QUERY_PARTS>(rows, columns, x);
#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 4; k++) {
			x[b][k] *= rows.unscale[b][k / 2] * (k % 2 ? factors.z : factors.x);
			if (!PLAIN && p.softcap > 0)
				x[b][k] = kv_soften_fast(x[b][k], p.softcap);
		}
	if (!PLAIN && row < i.last_row)
		kv_hide<BATCHES>(i, s, row, x);
}

/* Does a row of the unit see a key? Do all of them see all keys? */
static __device__ __forceinline__ bool kv_sees_any(const struct kv_columns_item &i, uint32_t row)
{
	return i.first_row < row + kv_unit_rows(i);
}

static __device__ __forceinline__ bool kv_is_plain(const struct kv_columns_launch &p, const struct kv_columns_item &i,
						   uint32_t row)
{
	return !(p.softcap > 0) && row >= i.last_row;
}

/* --- the first reading: rows ---------------------------------------------------------------- */

/* The largest logit and the sum of two queries over a warp's keys. */
template <int BATCHES> static __device__ __forceinline__ float4 kv_join_keys(float (*x)[4])
{
	float max[2] = { -INFINITY, -INFINITY }, sum[2] = { 0, 0 }, base;

#pragma unroll
	for (int c = 0; c < 2; c++) {
#pragma unroll
		for (int b = 0; b < BATCHES; b++)
			max[c] = fmaxf(max[c], fmaxf(x[b][c], x[b][2 + c]));
		max[c] = kv_max_keys(max[c]);
	}
#pragma unroll
	for (int c = 0; c < 2; c++) {
		base = max[c] == -INFINITY ? 0 : max[c];
#pragma unroll
		for (int b = 0; b < BATCHES; b++)
			sum[c] += kv_exp2(x[b][c] - base) + kv_exp2(x[b][2 + c] - base);
		sum[c] = kv_sum_keys(sum[c]);
	}
	return make_float4(max[0], sum[0], max[1], sum[1]);
}

/* Joins what the warps found for a step's queries, one for each thread. */
template <int CHUNKS, int ROWS>
static __device__ __forceinline__ void kv_join_warps(const struct kv_columns_launch &p, const struct kv_columns_item &i,
						     const struct kv_columns_memory<CHUNKS, ROWS> &s, uint32_t step)
{
	enum { UNITS = kv_columns_memory<CHUNKS, ROWS>::UNITS };
	uint32_t first = step * UNITS, k = threadIdx.x;
	float max = -INFINITY, sum = 0;

	if (k >= 8 * UNITS || first + k / 8 >= i.n_units)
		return;
#pragma unroll
	for (int w = 0; w < KV_ROW_WARPS; w++)
		max = fmaxf(max, ((const float2 *)s.stats[step % 2][w])[k].x);
#pragma unroll
	for (int w = 0; w < KV_ROW_WARPS; w++) {
		float2 one = ((const float2 *)s.stats[step % 2][w])[k];

		sum += one.y > 0 ? one.y * kv_exp2(one.x - max) : one.y;
	}
	p.stats[i.stats + (uint64_t)i.tile * i.n_queries + (i.unit + first) * 8 + k] = make_float2(max, sum);
}

template <int CHUNKS, int BATCHES, int PARTS, int ROWS>
static __device__ __forceinline__ void kv_read_rows(const struct kv_columns_launch &p, const struct kv_columns_item &i,
						    struct kv_columns_memory<CHUNKS, ROWS> &s, uint4 *ring,
						    const kv_held_rows<CHUNKS, BATCHES, PARTS> &rows)
{
	enum { UNITS = kv_columns_memory<CHUNKS, ROWS>::UNITS, WORDS = KV_QUERY_PARTS * CHUNKS * 32 };
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = 0;
	uint32_t n_steps = (i.n_units + UNITS - 1) / UNITS;

	kv_stream(n_steps, [&](uint32_t slot, uint32_t step) { kv_copy_units(p, i, s, ring, slot, step); },
		  [&](uint32_t slot, uint32_t step) {
			if (step)
				kv_join_warps(p, i, s, step - 1);
			uint32_t here = min((uint32_t)UNITS, i.n_units - step * UNITS);

#pragma unroll 1
			for (uint32_t u = 0; u < here; u++) {
				const uint4 *columns = ring + slot * KV_SLOT_WORDS + u * WORDS;
				const float4 *factors = &s.factors[slot][u][lane % 4];
				float4 found[2] = { make_float4(-INFINITY, 0, -INFINITY, 0) };
				float x[2][BATCHES][4];
				bool two = u + 1 < here && row + 8 < i.padded && kv_is_plain(p, i, row);

				if (two) {
					kv_logits<true>(p, i, s, rows, columns, factors[0], row, x[0]);
					kv_logits<true>(p, i, s, rows, columns + WORDS, factors[4], row, x[1]);
					found[0] = kv_join_keys<BATCHES>(x[0]);
					found[1] = kv_join_keys<BATCHES>(x[1]);
				} else if (kv_sees_any(i, row)) {
					kv_logits<false>(p, i, s, rows, columns, factors[0], row, x[0]);
					found[0] = kv_join_keys<BATCHES>(x[0]);
				}
				if (lane < 4) {
					s.stats[step % 2][warp][u][lane] = found[0];
					if (two)
						s.stats[step % 2][warp][u + 1][lane] = found[1];
				}
				u += two;
				row = two ? row + 8 : row;
				row = kv_next_row(i, row);
			}
		  });
	__syncthreads();
	kv_join_warps(p, i, s, n_steps - 1);
}

/* The total of each query over all tiles, by a thread. */
static __global__ __launch_bounds__(KV_THREADS)
void kv_total_rows(const __grid_constant__ struct kv_columns_launch p)
{
	uint32_t query = blockIdx.x * KV_THREADS + threadIdx.x, unit = query / 8;
	float max = -INFINITY, sum = 0;

	if (unit >= p.n_units)
		return;

	const struct kv_columns_entry &e = kv_entry_of(p, &p.entries->first_unit, unit);
	const float2 *stats = p.stats + e.stats + (query - 8 * e.first_unit);
	uint32_t n_tiles = e.n_tiles, n_queries = 8 * e.n_units;

	if (!kv_is_query(e, query - 8 * e.first_unit))
		return;

#pragma unroll 8
	for (uint32_t i = 0; i < n_tiles; i++)
		max = fmaxf(max, stats[(uint64_t)i * n_queries].x);
#pragma unroll 8
	for (uint32_t i = 0; i < n_tiles; i++) {
		float2 one = stats[(uint64_t)i * n_queries];

		sum += one.y > 0 ? one.y * kv_exp2(one.x - max) : one.y;
	}
	/* who sees nothing keeps infinity, and so pays nothing; as what is no query does */
	if (sum != 0)
		p.factors[query].y = max + log2f(sum);
}

/* --- the second reading: columns -------------------------------------------------------------- */

/* Adds what the lanes of a head found for its keys to `out`, and starts anew. */
template <int BATCHES, int ROWS>
static __device__ __forceinline__ void kv_add_columns(const struct kv_columns_item &i, const uint32_t *positions,
						      uint32_t unit, float (*found)[2])
{
	uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 * BATCHES + lane / 4;
	uint32_t lanes = kv_unit_rows(i) / 2, head = ((i.unit + unit) * 8 + 2 * (lane % 4)) / i.padded;

#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 2; k++) {
			uint32_t number = first + 16 * b + 8 * k;
			float sum = found[b][k];

			if (lanes > 1)
				sum += __shfl_xor_sync(KV_LANES, sum, 1);
			if (lanes > 2)
				sum += __shfl_xor_sync(KV_LANES, sum, 2);
			if (lane % lanes == 0 && head < i.group && i.tile * ROWS + number < i.m)
				i.out[head * i.out_stride + positions[number]] += sum;
			found[b][k] = 0;
		}
}

/* Raises `out` to the largest that the lanes found. Numbers that are not negative compare as integers. */
template <int BATCHES, int ROWS>
static __device__ __forceinline__ void kv_raise_columns(const struct kv_columns_item &i, const uint32_t *positions,
							const float (*found)[2])
{
	uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 * BATCHES + lane / 4;

#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 2; k++) {
			uint32_t number = first + 16 * b + 8 * k;
			float max = found[b][k];

			max = fmaxf(max, __shfl_xor_sync(KV_LANES, max, 1));
			max = fmaxf(max, __shfl_xor_sync(KV_LANES, max, 2));
			if (lane % 4 == 0 && i.tile * ROWS + number < i.m)
				atomicMax((int *)i.out + positions[number], __float_as_int(max));
		}
}

/* What a unit's queries pay, joined with what was found before. */
template <int BATCHES>
static __device__ __forceinline__ void kv_pay(uint32_t reduce, float (*x)[4], float4 factors, float (*found)[2])
{
#pragma unroll
	for (int b = 0; b < BATCHES; b++)
#pragma unroll
		for (int k = 0; k < 2; k++) {
			float even = kv_exp2(x[b][2 * k] - factors.y);
			float odd = kv_exp2(x[b][2 * k + 1] - factors.w);

			if (reduce == KVMOD_COLUMNS_SUM)
				found[b][k] += even + odd;
			else
				found[b][k] = fmaxf(found[b][k], fmaxf(even, odd));
		}
}

template <int CHUNKS, int BATCHES, int PARTS, int ROWS>
static __device__ __forceinline__ void kv_read_columns(const struct kv_columns_launch &p, const struct kv_columns_item &i,
						       struct kv_columns_memory<CHUNKS, ROWS> &s, uint4 *ring,
						       const kv_held_rows<CHUNKS, BATCHES, PARTS> &rows)
{
	enum { UNITS = kv_columns_memory<CHUNKS, ROWS>::UNITS, WORDS = KV_QUERY_PARTS * CHUNKS * 32 };
	uint32_t lane = threadIdx.x % 32, row = 0;
	float found[BATCHES][2] = {};

	kv_stream((i.n_units + UNITS - 1) / UNITS,
		  [&](uint32_t slot, uint32_t step) { kv_copy_units(p, i, s, ring, slot, step); },
		  [&](uint32_t slot, uint32_t step) {
			uint32_t here = min((uint32_t)UNITS, i.n_units - step * UNITS);

#pragma unroll 1
			for (uint32_t u = 0; u < here; u++) {
				const uint4 *columns = ring + slot * KV_SLOT_WORDS + u * WORDS;
				const float4 *factors = &s.factors[slot][u][lane % 4];
				float x[2][BATCHES][4];
				bool two = u + 1 < here && row + 8 < i.padded && kv_is_plain(p, i, row);

				if (two) {
					kv_logits<true>(p, i, s, rows, columns, factors[0], row, x[0]);
					kv_logits<true>(p, i, s, rows, columns + WORDS, factors[4], row, x[1]);
					kv_pay<BATCHES>(i.reduce, x[0], factors[0], found);
					kv_pay<BATCHES>(i.reduce, x[1], factors[4], found);
				} else if (kv_sees_any(i, row)) {
					kv_logits<false>(p, i, s, rows, columns, factors[0], row, x[0]);
					kv_pay<BATCHES>(i.reduce, x[0], factors[0], found);
				}
				u += two;
				row = two ? row + 8 : row;
				row = kv_next_row(i, row);
				/* that was the last unit of its heads */
				if (i.reduce == KVMOD_COLUMNS_SUM && row == 0)
					kv_add_columns<BATCHES, ROWS>(i, s.position, step * UNITS + u, found);
			}
		  });
	if (i.reduce == KVMOD_COLUMNS_MAX)
		kv_raise_columns<BATCHES, ROWS>(i, s.position, found);
}

/* --- the kernel of a reading -------------------------------------------------------------------- */

template <int CHUNKS, int BATCHES, int PARTS, bool SECOND>
static __global__ __launch_bounds__(KV_ROW_THREADS, KV_ROW_BLOCKS)
void kv_read_keys(const __grid_constant__ struct kv_columns_launch p)
{
	typedef kv_held_rows<CHUNKS, BATCHES, PARTS> Rows;
	extern __shared__ uint4 ring[];
	__shared__ struct kv_columns_memory<CHUNKS, Rows::ROWS> s;
	const struct kv_columns_entry &e = kv_entry_of(p, &p.entries->first_item, blockIdx.x);
	struct kv_columns_item i = kv_item_of(e, blockIdx.x - e.first_item);
	struct kv_row_source source = { e.k, e.k_stride, p.k_type, p.dim, (bool)e.wide_k };
	uint32_t warp = threadIdx.x / 32;
	Rows rows;

	for (uint32_t k = threadIdx.x; k < Rows::ROWS; k += KV_ROW_THREADS) {
		uint32_t number = i.tile * Rows::ROWS + k;

		s.position[k] = number < i.m ? kv_columns_position(&e, number) : UINT32_MAX;
	}
	__syncthreads();
	i.first_row = kv_columns_first_row(i.n_seen, s.position[0]);
	i.last_row = kv_columns_first_row(i.n_seen, s.position[Rows::ROWS - 1]);
	kv_hold_rows(rows, ring + warp * Rows::ROOM, source, [&](uint32_t k) {
		/* what is after the last position reads the first one */
		uint32_t position = s.position[warp * 16 * BATCHES + k];

		return position == UINT32_MAX ? s.position[0] : position;
	});
	__syncthreads();
	if (SECOND)
		kv_read_columns(p, i, s, ring, rows);
	else
		kv_read_rows(p, i, s, ring, rows);
}

#endif
