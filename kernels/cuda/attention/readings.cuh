/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attention of a segment's newest rows, in two readings of its keys: the first for
 * each row's largest logit and sum, the second for what the rows pay to each position.
 * Logits are not stored: computing them again takes no longer than reading them, and
 * rows x positions of them would need more memory than the keys.
 *
 * A block works on one tile of a KV head at a time. It holds up to KV_UNITS units of
 * eight queries, fewer if shared memory is short; each warp computes the dots of sixteen
 * keys at a time with all units. A unit is eight rows of one query head, or, where only
 * one row is used, eight query heads.
 */
#ifndef KV_KERNELS_CUDA_ATTENTION_READINGS_CUH
#define KV_KERNELS_CUDA_ATTENTION_READINGS_CUH

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/base/logit.cuh"
#include "kernels/cuda/base/paths.cuh"

#define KV_UNITS KV_WARPS
#define KV_COLUMNS (8 * KV_UNITS)

template <class P> struct kv_rows_memory {
	/* of each query: positions that it sees, largest logit, weight in scores and in attention by head */
	uint32_t limit[KV_COLUMNS];
	float max[KV_COLUMNS], ranks[KV_COLUMNS], heads[KV_COLUMNS];
	float warp_max[KV_WARPS][KV_COLUMNS], warp_sum[KV_WARPS][KV_COLUMNS];
	float score[KV_ATTENTION_TILE];
	typename P::Stage stages[KV_UNITS];	/* memory is allocated for p.units only */
};

/* Sixteen keys that a warp holds for all units. */
template <class P> struct kv_held {
	typename P::Held held;

	__device__ __forceinline__ kv_held(const struct kv_keys &k, uint32_t at)
	{
		typename P::Batch batch;

		P::load(batch, k, at);
		P::hold(held, batch);
	}

	__device__ __forceinline__ void dots(const typename P::Stage &s, float acc[4]) const
	{
		P::dots(s, held, acc);
	}
};

/* Query `column` of a unit is row `row + column` of a head, or of head + column if rows is 1. */
struct kv_unit {
	uint32_t head, row, count;
	uint32_t query;			/* the first query's place in arrays by row */
	bool last;			/* the last unit of its head */
};

static __device__ __forceinline__ uint32_t kv_n_units(const struct kv_attention &p, const struct kv_attention_task &t)
{
	return t.n_rows == 1 ? (p.group + 7) / 8 : p.group * ((t.n_rows + 7) / 8);
}

static __device__ __forceinline__ struct kv_unit kv_unit_of(const struct kv_attention &p,
							   const struct kv_attention_task &t, uint32_t i)
{
	uint32_t per_head = (t.n_rows + 7) / 8;
	struct kv_unit u = { 8 * i, 0, 0, 8 * i, true };

	if (t.n_rows == 1) {
		u.count = min(8u, p.group - u.head);
		return u;
	}
	u.head = i / per_head;
	u.row = i % per_head * 8;
	u.count = min(8u, t.n_rows - u.row);
	u.query = u.head * t.n_rows + u.row;
	u.last = u.row + 8 >= t.n_rows;
	return u;
}

/* Sets column `threadIdx.x` of the units from `first` on. second: the totals of the rows are known. */
template <class P>
static __device__ __forceinline__ void kv_set_column(const struct kv_attention &p, const struct kv_attention_task &t,
						     struct kv_rows_memory<P> &s, uint32_t first, bool second)
{
	uint32_t i = first + threadIdx.x / 8, c = threadIdx.x % 8, row;
	struct kv_unit u = kv_unit_of(p, t, i);
	bool there = i < kv_n_units(p, t) && c < u.count;
	float weight = 0;

	row = t.n_rows == 1 ? 0 : u.row + c;
	s.limit[threadIdx.x] = there ? p.limits[t.limits + row] : 0;
	s.max[threadIdx.x] = 0;
	if (there && second) {
		weight = p.row_weight[t.queries + u.query + c];
		s.max[threadIdx.x] = p.row_max[t.queries + u.query + c];
	}
	s.ranks[threadIdx.x] = row + p.params.window >= t.n_rows ? weight : 0;
	s.heads[threadIdx.x] = row + t.head_rows >= t.n_rows ? weight : 0;
}

/* Stages units from `first` on, as many as fit into shared memory, one by each warp. */
template <class P>
static __device__ void kv_stage_units(const struct kv_attention &p, const struct kv_attention_task &t,
				      struct kv_rows_memory<P> &s, uint32_t first, bool second)
{
	uint32_t i = first + threadIdx.x / 32;

	__syncthreads();
	if (threadIdx.x / 32 < p.units && i < kv_n_units(p, t)) {
		struct kv_unit u = kv_unit_of(p, t, i);
		struct kv_queries q;

		q.data = t.q + u.row * t.q_row_stride + u.head * t.q_head_stride;
		q.step = t.n_rows == 1 ? t.q_head_stride : t.q_row_stride;
		q.count = u.count;
		q.type = p.q_type;
		q.dim = p.dim;
		P::stage(s.stages[threadIdx.x / 32], q, 0, 1);
	}
	if (threadIdx.x < 8 * p.units)
		kv_set_column(p, t, s, first, second);
	__syncthreads();
}

static __device__ __forceinline__ struct kv_keys kv_task_keys(const struct kv_attention &p, const struct kv_attention_task &t)
{
	struct kv_keys k = { t.k, t.k_stride, t.n, p.dim };

	return k;
}

/* --- the first reading ------------------------------------------------------------ */

/* Adds this lane's logits of sixteen keys to the largest and the sum of two queries. */
static __device__ __forceinline__ void kv_add_logits(const struct kv_attention &p, const uint32_t *limit, uint32_t row,
						     const float acc[4], float max[2], float sum[2])
{
	uint32_t lane = threadIdx.x % 32, at = row + lane / 4;

#pragma unroll
	for (int c = 0; c < 2; c++) {
		uint32_t sees = limit[2 * (lane % 4) + c];
		float low = at < sees ? kv_logit(p, acc[c]) : -INFINITY;
		float high = at + 8 < sees ? kv_logit(p, acc[2 + c]) : -INFINITY;
		float now = fmaxf(max[c], fmaxf(low, high));

		sum[c] = sum[c] * exp2f(max[c] - now) + (exp2f(low - now) + exp2f(high - now));
		max[c] = now;
		/* NaN if a logit is not finite, also for -infinity */
		if (at < sees)
			sum[c] = fmaf(low, 0.f, sum[c]);
		if (at + 8 < sees)
			sum[c] = fmaf(high, 0.f, sum[c]);
	}
}

/* The largest and the sum of a unit's queries over the lanes of a warp. */
template <class P>
static __device__ __forceinline__ void kv_join_lanes(struct kv_rows_memory<P> &s, uint32_t unit, const float max[2],
						     const float sum[2])
{
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

#pragma unroll
	for (int c = 0; c < 2; c++) {
		float all = kv_max_keys(max[c]), total = kv_sum_keys(sum[c] * exp2f(max[c] - all));

		if (lane < 4) {
			s.warp_max[warp][8 * unit + 2 * lane + c] = all;
			s.warp_sum[warp][8 * unit + 2 * lane + c] = total;
		}
	}
}

/* The same over the warps for column `threadIdx.x`, into the arrays by row. */
template <class P>
static __device__ __forceinline__ void kv_join_warps(const struct kv_attention &p, const struct kv_attention_task &t,
						     const struct kv_rows_memory<P> &s, uint32_t first, uint32_t tile)
{
	uint32_t i = first + threadIdx.x / 8, c = threadIdx.x % 8;
	struct kv_unit u = kv_unit_of(p, t, i);
	float all = -FLT_MAX, total = 0;

	if (i >= kv_n_units(p, t) || c >= u.count)
		return;
	for (int w = 0; w < KV_WARPS; w++)
		all = fmaxf(all, s.warp_max[w][threadIdx.x]);
	for (int w = 0; w < KV_WARPS; w++)
		total += s.warp_sum[w][threadIdx.x] * exp2f(s.warp_max[w][threadIdx.x] - all);
	p.stats[t.stats + (uint64_t)(u.query + c) * t.n_tiles + tile] = make_float2(all, total);
}

template <class P>
static __device__ void kv_read_first(const struct kv_attention &p, const struct kv_attention_task &t,
				     struct kv_rows_memory<P> &s, uint32_t tile, bool staged)
{
	uint32_t n_units = kv_n_units(p, t), end = min((tile + 1) * p.tile, t.n);
	struct kv_keys k = kv_task_keys(p, t);

	for (uint32_t first = 0; first < n_units; first += p.units) {
		float max[KV_UNITS][2], sum[KV_UNITS][2], acc[4];
		uint32_t here = min(p.units, n_units - first);

		if (!staged || n_units > p.units)
			kv_stage_units(p, t, s, first, false);
#pragma unroll
		for (int u = 0; u < KV_UNITS; u++)
			for (int c = 0; c < 2; c++) {
				max[u][c] = -FLT_MAX;
				sum[u][c] = 0;
			}
		for (uint32_t row = tile * p.tile + threadIdx.x / 32 * 16; row < end; row += 16 * KV_WARPS) {
			kv_held<P> held(k, row);

#pragma unroll
			for (int u = 0; u < KV_UNITS; u++)
				if (u < here) {
					held.dots(s.stages[u], acc);
					kv_add_logits(p, s.limit + 8 * u, row, acc, max[u], sum[u]);
				}
		}
#pragma unroll
		for (int u = 0; u < KV_UNITS; u++)
			kv_join_lanes(s, u, max[u], sum[u]);
		__syncthreads();
		if (threadIdx.x < 8 * here)
			kv_join_warps(p, t, s, first, tile);
		__syncthreads();
	}
}

/* --- between: the rows' totals ------------------------------------------------------ */

/* The total of a row over all tiles, by a warp. A row that sees no position pays nothing. */
static __device__ void kv_total(const struct kv_attention &p, uint32_t task, uint32_t query, float share)
{
	const struct kv_attention_task &t = p.tasks[task];
	const float2 *stats = p.stats + t.stats + (uint64_t)query * t.n_tiles;
	bool sees = p.limits[t.limits + query % t.n_rows] > 0;
	float max = -FLT_MAX;
	double sum = 0;

	for (uint32_t i = threadIdx.x % 32; i < t.n_tiles; i += 32)
		max = fmaxf(max, stats[i].x);
	for (uint32_t d = 16; d; d /= 2)
		max = fmaxf(max, __shfl_xor_sync(KV_LANES, max, d));
	for (uint32_t i = threadIdx.x % 32; i < t.n_tiles; i += 32)
		sum += (double)stats[i].y * exp2f(stats[i].x - max);
	for (uint32_t d = 16; d; d /= 2)
		sum += __shfl_xor_sync(KV_LANES, sum, d);
	if (threadIdx.x % 32)
		return;
	p.row_max[t.queries + query] = sees ? max : 0;
	p.row_weight[t.queries + query] = sees ? (float)(share / sum) : 0;
	if (sees && !(sum > 0 && isfinite(sum)))
		p.out.results[task / p.n_kv_heads].status = KVMOD_ENUMERIC;
}

static __device__ void kv_totals(const struct kv_attention &p)
{
	uint32_t step = gridDim.x * KV_WARPS, per_task = p.group * p.rows;
	bool mean = p.averages;

	for (uint64_t i = blockIdx.x * KV_WARPS + threadIdx.x / 32; i < (uint64_t)p.n_tasks * per_task; i += step) {
		uint32_t task = i / per_task, query = i % per_task;
		uint32_t n_rows = p.tasks[task].n_rows;

		if (p.tasks[task].n_tiles && query < p.group * n_rows)
			kv_total(p, task, query, mean ? 1.f / ((float)n_rows * p.group) : 1);
	}
}

/* --- the second reading ------------------------------------------------------------- */

/*
 * Writes what a unit's queries pay to this lane's keys, by query head. One row: each
 * query is a head. Several rows: their sum, averaged with the head's last unit.
 */
static __device__ void kv_keep_attention(const struct kv_attention &p, const struct kv_attention_task &t,
					 const struct kv_unit &u, uint32_t at, const float a[4])
{
	uint32_t column = 2 * (threadIdx.x % 4);
	float *to = p.attention + p.group * t.positions + (uint64_t)u.head * t.n + at;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		float sum = a[2 * i] + a[2 * i + 1];

		if (t.n_rows == 1) {
			for (int c = 0; c < 2; c++)
				if (column + c < u.count && at + 8 * i < t.n)
					to[(uint64_t)(column + c) * t.n + 8 * i] = a[2 * i + c];
			continue;
		}
		sum += __shfl_xor_sync(KV_LANES, sum, 1);
		sum += __shfl_xor_sync(KV_LANES, sum, 2);
		if (column == 0 && at + 8 * i < t.n) {
			sum += u.row ? to[8 * i] : 0;
			if (u.last && t.head_rows > 1)
				sum /= max(1u, kv_count_above(p.limits + t.limits + t.n_rows - t.head_rows,
							      t.head_rows, at + 8 * i));
			to[8 * i] = sum;
		}
	}
}

/* Adds what the staged units pay to sixteen keys. */
template <class P>
static __device__ __forceinline__ void kv_pay(const struct kv_attention &p, const struct kv_attention_task &t,
					      struct kv_rows_memory<P> &s, const kv_held<P> &held, uint32_t first,
					      uint32_t n_units, uint32_t row)
{
	uint32_t lane = threadIdx.x % 32, at = row + lane / 4, place = row % p.tile + lane / 4;
	float score[2] = { 0, 0 }, acc[4], own[4];

#pragma unroll 1
	for (uint32_t u = 0; u < p.units && first + u < n_units; u++) {
		held.dots(s.stages[u], acc);
#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t column = 8 * u + 2 * (lane % 4) + i % 2;
			float e = 0;

			if (at + i / 2 * 8 < s.limit[column])
				e = exp2f(kv_logit(p, acc[i]) - s.max[column]);
			score[i / 2] += e * s.ranks[column];
			own[i] = e * s.heads[column];
		}
		if (p.attention)
			kv_keep_attention(p, t, kv_unit_of(p, t, first + u), at, own);
	}
#pragma unroll
	for (int i = 0; i < 2; i++) {
		score[i] += __shfl_xor_sync(KV_LANES, score[i], 1);
		score[i] += __shfl_xor_sync(KV_LANES, score[i], 2);
		if (lane % 4 == 0)
			s.score[place + 8 * i] = first ? s.score[place + 8 * i] + score[i] : score[i];
	}
}

template <class P>
static __device__ void kv_read_second(const struct kv_attention &p, const struct kv_attention_task &t,
				      struct kv_rows_memory<P> &s, uint32_t tile, bool staged)
{
	uint32_t n_units = kv_n_units(p, t), begin = tile * p.tile, end = min(begin + p.tile, t.n);
	struct kv_keys k = kv_task_keys(p, t);

	for (uint32_t first = 0; first < n_units; first += p.units) {
		if (!staged || n_units > p.units)
			kv_stage_units(p, t, s, first, true);
		for (uint32_t row = begin + threadIdx.x / 32 * 16; row < end; row += 16 * KV_WARPS)
			kv_pay(p, t, s, kv_held<P>(k, row), first, n_units, row);
	}
	__syncthreads();
	for (uint32_t i = begin + threadIdx.x; i < end; i += KV_THREADS)
		p.score[t.positions + i] = s.score[i - begin];
	__syncthreads();
}

/* --- both ---------------------------------------------------------------------------- */

/* The task of a tile. */
static __device__ uint32_t kv_find_task(const struct kv_attention &p, uint32_t item)
{
	uint32_t low = 0, high = p.n_tasks - 1;

	while (low < high) {
		uint32_t middle = (low + high + 1) / 2;

		if (p.tasks[middle].first_item <= item)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* Each block reads consecutive tiles, so it stages the queries of a head once. */
template <class P>
static __device__ void kv_read(const struct kv_attention &p, struct kv_rows_memory<P> &s, bool second)
{
	uint32_t first = (uint64_t)p.n_items * blockIdx.x / gridDim.x;
	uint32_t end = (uint64_t)p.n_items * (blockIdx.x + 1) / gridDim.x;
	uint32_t staged = UINT32_MAX;

	for (uint32_t item = first; item < end; item++) {
		uint32_t task = staged;

		if (item == first || item - p.tasks[staged].first_item >= p.tasks[staged].n_tiles)
			task = kv_find_task(p, item);
		const struct kv_attention_task &t = p.tasks[task];
		uint32_t tile = item - t.first_item;

		if (second)
			kv_read_second(p, t, s, tile, staged == task);
		else
			kv_read_first(p, t, s, tile, staged == task);
		staged = task;
	}
}

#endif
