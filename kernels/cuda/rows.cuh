/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A decision on the attention of several rows. Of a row its largest logit and its
 * sum must be known before squares can be formed, so each segment is read twice:
 * first for those, tile by tile, then for the mean attention of its positions.
 *
 * Blocks take items from one queue, a segment's first reading before its second.
 * So whoever waits for a first reading waits for blocks that are running.
 */
#ifndef KV_CUDA_ROWS_CUH
#define KV_CUDA_ROWS_CUH

#include "kernels/cuda/finish.cuh"

template <class P> struct kv_rows_shared {
	typename P::Stage stages[KV_WARPS];	/* the first is the block's, too */
	struct kv_heads heads;
	float max[KV_WARPS][8], sum[KV_WARPS][8];
	float sum2[KV_BATCHES * KV_WARPS], sink2[KV_WARPS];	/* of sixteen positions; of a warp */
	uint32_t item, last;
};

/* Eight rows of a query head, from `row` on. */
static __device__ __forceinline__ struct kv_queries kv_rows_of(const struct kv_launch &p, const struct kv_place &w,
							       uint32_t head, uint32_t row)
{
	struct kv_queries q;

	q.data = w.s.q + row * w.s.q_row_stride + head * w.s.q_head_stride;
	q.step = w.s.q_row_stride;
	q.count = min(8u, w.s.n_rows - row);
	q.type = p.q_type;
	q.dim = p.dim;
	return q;
}

/* How many cached positions this lane's query `c` (0 or 1) of eight rows sees. */
static __device__ __forceinline__ uint32_t kv_row_limit(const struct kv_launch &p, const struct kv_place &w,
							uint32_t row, int c)
{
	row += 2 * (threadIdx.x % 4) + c;
	return row < w.s.n_rows ? p.limits[w.s.first_limit + row] : 0;
}

static __device__ __forceinline__ size_t kv_row_index(const struct kv_launch &p, const struct kv_place &w,
						      uint32_t head, uint32_t row)
{
	return (size_t)p.n_q_heads * w.s.first_limit + (size_t)head * w.s.n_rows + row;
}

/* First position of batch b of a tile, for this warp and lane. */
static __device__ __forceinline__ uint32_t kv_row_position(uint32_t tile, int b)
{
	return 16 * (tile * KV_BATCHES * KV_WARPS + b * KV_WARPS + threadIdx.x / 32) + threadIdx.x % 32 / 4;
}

/* Largest logit and sum of eight rows over a tile, by the block. */
template <class P>
static __device__ void kv_rows_stats(const struct kv_launch &p, const struct kv_place &w, struct kv_rows_shared<P> &s,
				     const struct kv_keys &k, uint32_t head, uint32_t row, uint32_t tile)
{
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = threadIdx.x;
	typename P::Batch batch;
	float x[KV_BATCHES][4], max[2] = { -FLT_MAX, -FLT_MAX }, sum[2] = { 0, 0 };
	uint32_t limit[2] = { kv_row_limit(p, w, row, 0), kv_row_limit(p, w, row, 1) };

#pragma unroll
	for (int b = 0; b < KV_BATCHES; b++) {
		uint32_t at = kv_row_position(tile, b);

		P::load(batch, k, at - lane / 4);
		P::dots(s.stages[0], batch, x[b]);
		for (int i = 0; i < 4; i++) {
			x[b][i] = at + i / 2 * 8 < limit[i % 2] ? kv_logit(p, x[b][i]) : -INFINITY;
			if (at + i / 2 * 8 < limit[i % 2])
				sum[i % 2] = fmaf(x[b][i], 0.f, sum[i % 2]);	/* NaN if not finite */
			max[i % 2] = fmaxf(max[i % 2], x[b][i]);
		}
	}
	for (int c = 0; c < 2; c++) {
		max[c] = kv_max_keys(max[c]);
		for (int b = 0; b < KV_BATCHES; b++)
			sum[c] += exp2f(x[b][c] - max[c]) + exp2f(x[b][2 + c] - max[c]);
		sum[c] = kv_sum_keys(sum[c]);
		if (lane < 4) {
			s.max[warp][2 * lane + c] = max[c];
			s.sum[warp][2 * lane + c] = sum[c];
		}
	}
	__syncthreads();
	if (column < 8 && row + column < w.s.n_rows) {
		size_t at = w.s.stats + (size_t)(head * w.s.n_rows + row + column) * w.n_tiles + tile;
		float all = -FLT_MAX, total = 0;

		for (int i = 0; i < KV_WARPS; i++)
			all = fmaxf(all, s.max[i][column]);
		for (int i = 0; i < KV_WARPS; i++)
			total += s.sum[i][column] * exp2f(s.max[i][column] - all);
		p.stats_max[at] = all;
		p.stats_sum[at] = total;
	}
}

/* From the tiles' statistics to the rows'. */
static __device__ void kv_rows_combine(const struct kv_launch &p, const struct kv_place &w)
{
	for (uint32_t i = threadIdx.x; i < p.n_q_heads * w.s.n_rows; i += blockDim.x) {
		const float *max = p.stats_max + w.s.stats + (size_t)i * w.n_tiles;
		const float *sum = p.stats_sum + w.s.stats + (size_t)i * w.n_tiles;
		float all = -FLT_MAX;
		double total = 0;

		for (uint32_t t = 0; t < w.n_tiles; t++)
			all = fmaxf(all, max[t]);
		for (uint32_t t = 0; t < w.n_tiles; t++)
			total += (double)sum[t] * exp2f(max[t] - all);
		p.row_max[kv_row_index(p, w, 0, i)] = all;
		p.row_weight[kv_row_index(p, w, 0, i)] = (float)(1 / total);
	}
}

/* Adds eight rows' attention to the keys of this lane, from dots: a[0] is key g, a[1] key g + 8. */
static __device__ __forceinline__ void kv_rows_add(const struct kv_launch &p, const struct kv_place &w, uint32_t head,
						   uint32_t row, uint32_t at, const float acc[4], float a[2])
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		uint32_t j = row + 2 * (threadIdx.x % 4) + i % 2;

		if (at + i / 2 * 8 < kv_row_limit(p, w, row, i % 2)) {
			size_t index = kv_row_index(p, w, head, j);

			a[i / 2] += exp2f(kv_logit(p, acc[i]) - p.row_max[index]) * p.row_weight[index];
		}
	}
}

/* The mean over the rows that see position `at`, in all lanes of the key. */
static __device__ __forceinline__ float kv_rows_mean(const struct kv_launch &p, const struct kv_place &w,
						     uint32_t at, float a)
{
	const uint32_t *limits = p.limits + w.s.first_limit;
	uint32_t unseen = 0;

	a += __shfl_xor_sync(KV_LANES, a, 1);
	a += __shfl_xor_sync(KV_LANES, a, 2);
	while (unseen < w.s.n_rows && limits[unseen] <= at)
		unseen++;
	return unseen < w.s.n_rows ? a / (w.s.n_rows - unseen) : 0;
}

/* Squared mean attention of a head over a tile, by the block: its parts and sums. */
template <class P>
static __device__ void kv_rows_squares(const struct kv_launch &p, const struct kv_place &w, struct kv_rows_shared<P> &s,
				       const struct kv_keys &k, uint32_t head, uint32_t tile)
{
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	size_t cell = kv_cell_at(p, w, head, tile);
	float a[KV_BATCHES][2] = {}, acc[4], sum2 = 0, sink2 = 0;
	typename P::Batch batch;

	for (uint32_t row = 0; row < w.s.n_rows; row += 8) {
		__syncthreads();
		P::stage(s.stages[0], kv_rows_of(p, w, head, row), warp, KV_WARPS);
		__syncthreads();
#pragma unroll
		for (int b = 0; b < KV_BATCHES; b++) {
			P::load(batch, k, kv_row_position(tile, b) - lane / 4);
			P::dots(s.stages[0], batch, acc);
			kv_rows_add(p, w, head, row, kv_row_position(tile, b), acc, a[b]);
		}
	}
#pragma unroll
	for (int b = 0; b < KV_BATCHES; b++) {
		float part = 0;

		for (int i = 0; i < 2; i++) {
			uint32_t at = kv_row_position(tile, b) + 8 * i;
			float mean = kv_rows_mean(p, w, at, a[b][i]);

			if (at >= p.sinks)
				part += mean * mean;
			else
				sink2 += mean * mean;
		}
		part = kv_sum_keys(part);
		if (lane == 0)
			s.sum2[b * KV_WARPS + warp] = part;
	}
	sink2 = kv_sum_keys(sink2);
	if (lane == 0)
		s.sink2[warp] = sink2;
	__syncthreads();
	if (threadIdx.x < KV_TILE_PARTS)
		p.parts[cell * KV_TILE_PARTS + threadIdx.x] = s.sum2[2 * threadIdx.x] + s.sum2[2 * threadIdx.x + 1];
	if (threadIdx.x == 0) {
		for (int i = 0; i < KV_BATCHES * KV_WARPS; i++)
			sum2 += s.sum2[i];
		for (int i = 1; i < KV_WARPS; i++)
			sink2 += s.sink2[i];
		/* attention needs no weight any more */
		p.cells[cell] = { 0, (float)(tile == 0), sum2, p.norm_all ? sink2 : 0 };
	}
}

/* Attention of a part, by a warp for each query head. */
template <class P> struct kv_again_rows {
	struct kv_rows_shared<P> &s;

	__device__ __forceinline__ void operator()(const struct kv_launch &p, const struct kv_place &w,
						   struct kv_heads *heads, uint32_t begin, bool sinks) const
	{
		uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

		for (uint32_t h = warp; h < p.n_q_heads; h += KV_WARPS) {
			struct kv_keys k = kv_keys_of(p, w, h / p.ratio);
			float a[2][2] = {}, acc[4];
			typename P::Batch batch;

			for (uint32_t row = 0; row < w.s.n_rows; row += 8) {
				__syncwarp();
				P::stage(s.stages[warp], kv_rows_of(p, w, h, row), 0, 1);
				__syncwarp();
				for (int b = 0; b < 2; b++) {
					P::load(batch, k, begin + 16 * b);
					P::dots(s.stages[warp], batch, acc);
					kv_rows_add(p, w, h, row, begin + 16 * b + lane / 4, acc, a[b]);
				}
			}
			for (int i = 0; i < 4; i++) {
				uint32_t at = begin + lane / 4 + 8 * i;
				float mean = kv_rows_mean(p, w, at, a[i / 2][i % 2]);

				if (lane % 4 == 0)
					heads->of[h].attention[lane / 4 + 8 * i] = (at < p.sinks) == sinks ?
						mean * exp2f(-heads->reference[h]) : 0;
			}
		}
	}
};

/* Is this block the last of `total`? Then it may read what all wrote. */
static __device__ bool kv_last_block(uint32_t *counter, uint32_t total, uint32_t *last)
{
	__syncthreads();
	if (threadIdx.x == 0) {
		kv_fence();
		*last = atomicInc(counter, total - 1) == total - 1;
		kv_fence();
	}
	__syncthreads();
	return *last;
}

/* A tile of a KV head, read the first time. */
template <class P>
static __device__ void kv_rows_first(const struct kv_launch &p, const struct kv_place &w, struct kv_rows_shared<P> &s,
				     uint32_t g, uint32_t tile)
{
	struct kv_counters *counters = &p.counters[w.segment];
	struct kv_keys k = kv_keys_of(p, w, g);

	for (uint32_t h = g * p.ratio; h < (g + 1) * p.ratio; h++)
		for (uint32_t row = 0; row < w.s.n_rows; row += 8) {
			__syncthreads();
			P::stage(s.stages[0], kv_rows_of(p, w, h, row), threadIdx.x / 32, KV_WARPS);
			__syncthreads();
			kv_rows_stats(p, w, s, k, h, row, tile);
		}
	if (!kv_last_block(&counters->stats_done, w.n_tiles * p.n_kv_heads, &s.last))
		return;
	kv_rows_combine(p, w);
	__syncthreads();
	if (threadIdx.x == 0) {
		kv_fence();
		atomicExch(&counters->stats_ready, 1);
	}
}

/* And the second time. */
template <class P>
static __device__ void kv_rows_second(const struct kv_launch &p, const struct kv_place &w, struct kv_rows_shared<P> &s,
				      uint32_t g, uint32_t tile)
{
	struct kv_counters *counters = &p.counters[w.segment];
	struct kv_keys k = kv_keys_of(p, w, g);
	struct kv_refreekv_result result;

	if (threadIdx.x == 0) {
		while (!atomicAdd(&counters->stats_ready, 0))
			__nanosleep(100);
		kv_fence();
	}
	__syncthreads();
	for (uint32_t h = g * p.ratio; h < (g + 1) * p.ratio; h++)
		kv_rows_squares(p, w, s, k, h, tile);
	if (!kv_last_block(&counters->done, w.n_tiles * p.n_kv_heads, &s.last))
		return;
	if (threadIdx.x == 0)
		counters->stats_ready = 0;
	result = kv_finish(p, w, &s.heads, kv_again_rows<P>{ s }, false);
	if (threadIdx.x == 0)
		p.results[w.segment] = result;
}

template <class P>
__global__ __launch_bounds__(32 * KV_WARPS, 1) void kv_decide_rows(const __grid_constant__ struct kv_launch p)
{
	extern __shared__ uint4 memory[];
	struct kv_rows_shared<P> &s = *(struct kv_rows_shared<P> *)memory;
	uint32_t items = 2 * p.n_tiles * p.n_kv_heads;

	if (blockIdx.x == 0)
		kv_report_whole(p);
	for (;;) {
		struct kv_place w;
		uint32_t at, g, half;

		__syncthreads();
		if (threadIdx.x == 0)
			s.item = atomicInc(p.queue, items + gridDim.x - 1);
		__syncthreads();
		if (s.item >= items)
			break;
		kv_place_of(p, kv_find_segment(p, s.item / (2 * p.n_kv_heads)), &w);
		at = s.item - 2 * p.n_kv_heads * w.s.first_tile;
		half = w.n_tiles * p.n_kv_heads;
		g = at % p.n_kv_heads;
		if (at < half)
			kv_rows_first(p, w, s, g, at / p.n_kv_heads);
		else
			kv_rows_second(p, w, s, g, (at - half) / p.n_kv_heads);
	}
}

#endif
