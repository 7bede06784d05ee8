/* SPDX-License-Identifier: Apache-2.0 */
/* A decision on the attention of the last row alone: keys are read once. */
#ifndef KV_CUDA_LAST_CUH
#define KV_CUDA_LAST_CUH

#include "kernels/cuda/finish.cuh"

/* The query heads of a KV head come in groups of eight. */
static __device__ __forceinline__ struct kv_queries kv_group(const struct kv_launch &p,
							     const struct kv_place &w, uint32_t g, uint32_t group)
{
	struct kv_queries q;

	q.step = w.s.q_head_stride;
	q.data = w.s.q + (int64_t)(g * p.ratio + 8 * group) * q.step;
	q.count = min(8u, p.ratio - 8 * group);
	q.type = p.q_type;
	q.dim = p.dim;
	return q;
}

/* The stage of a group, where its first tile leaves it for the one that finishes. */
template <class P>
static __device__ __forceinline__ typename P::Stage *kv_kept_stage(const struct kv_launch &p, uint32_t segment,
								   uint32_t first_head)
{
	uint32_t unit = first_head / p.ratio * p.groups + first_head % p.ratio / 8;

	return (typename P::Stage *)(p.stages + (size_t)(segment * p.n_kv_heads * p.groups + unit) * p.stage_bytes);
}

template <class P>
static __device__ __forceinline__ void kv_keep_stage(const struct kv_launch &p, const typename P::Stage &stage,
						     uint32_t segment, uint32_t first_head)
{
	uint4 *to = (uint4 *)kv_kept_stage<P>(p, segment, first_head);

	for (uint32_t i = threadIdx.x; i < sizeof(stage) / 16; i += blockDim.x)
		to[i] = ((const uint4 *)&stage)[i];
}

/* Squared attention of sixteen positions, by a warp for each group of heads. */
template <class P> struct kv_again_last {
	__device__ __forceinline__ void operator()(const struct kv_launch &p, const struct kv_place &w,
						   struct kv_heads *heads, uint32_t begin, bool sinks) const
	{
		uint32_t lane = threadIdx.x % 32, limit = p.limits[w.s.first_limit];

#pragma unroll 1
		for (uint32_t u = threadIdx.x / 32; u < p.n_kv_heads * p.groups; u += KV_WARPS) {
			uint32_t g = u / p.groups, first = g * p.ratio + u % p.groups * 8;
			float acc[4];

			P::dots(*kv_kept_stage<P>(p, w.segment, first), kv_keys_of(p, w, g), begin, acc);
			for (int i = 0; i < 4; i++) {
				uint32_t h = first + 2 * (lane % 4) + i % 2, row = lane / 4 + i / 2 * 8;
				uint32_t at = begin + row;

				if (h < min(first + 8, (g + 1) * p.ratio))
					heads->squares[h][row] = at < limit && (at < p.sinks) == sinks ?
						kv_square(kv_logit(p, acc[i]), heads->max[h]) : 0;
			}
		}
	}
};

/* Positions from one batch of a warp to its next. */
#define KV_STRIDE (16 * KV_WARPS)

/* What a block works on. */
struct kv_item {
	struct kv_place w;
	struct kv_keys keys;
	struct kv_queries q;
	uint32_t head;			/* the first query head of the group */
	uint32_t tile;			/* in the segment */
	uint32_t valid;			/* 0: there are no more */
};

/* What the warps of a block tell each other of their keys, by query. */
struct kv_tile_sums {
	float max[KV_WARPS][8], sum[KV_WARPS][8], sum2[KV_WARPS][8], sink2[KV_WARPS][8];
};

template <class P> struct kv_shared {
	union {
		typename P::Ring rings[KV_WARPS];
		struct kv_heads heads;		/* when there are no more items */
	};
	typename P::Stage stage;
	struct kv_tile_sums sums[2];	/* of this item, of the one before */
	struct kv_item items[4];	/* before, this, next, the one after it */
	uint32_t segment, more;		/* to finish; are there perhaps others? */
};

/* By a whole warp. */
static __device__ __forceinline__ void kv_fill_item(const struct kv_launch &p, uint32_t number, struct kv_item *item)
{
	uint32_t group, g, tile;
	struct kv_place w;

	if (number >= p.n_items) {
		item->valid = 0;
		return;
	}
	kv_place_of(p, kv_find_segment(p, number / (p.groups * p.n_kv_heads)), &w);
	if (threadIdx.x % 32)
		return;
	number -= w.s.first_tile * p.n_kv_heads * p.groups;
	group = number % p.groups;
	number /= p.groups;
	g = p.interleaved ? number % p.n_kv_heads : number / w.n_tiles;
	tile = p.interleaved ? number / p.n_kv_heads : number % w.n_tiles;
	item->w = w;
	item->keys = kv_keys_of(p, w, g);
	item->q = kv_group(p, w, g, group);
	item->head = g * p.ratio + 8 * group;
	item->tile = tile;
	item->valid = 1;
}

/* Fills in an item that lane 0 drew, and draws another unless there are no more. */
static __device__ __forceinline__ uint32_t kv_next_item(const struct kv_launch &p, uint32_t drawn, struct kv_item *item)
{
	drawn = __shfl_sync(KV_LANES, drawn, 0);
	kv_fill_item(p, drawn, item);
	return drawn < p.n_items ? kv_draw(p) : drawn;
}

/* This warp's largest logits; x[b][i] of positions past the limit becomes -inf. */
template <int B>
static __device__ __forceinline__ void kv_tile_max(float x[B][4], uint32_t begin, uint32_t limit,
						   struct kv_tile_sums *sums, float sum[2])
{
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	float max[2] = { -INFINITY, -INFINITY };

	sum[0] = sum[1] = 0;
#pragma unroll
	for (int b = 0; b < B; b++)
#pragma unroll
		for (int i = 0; i < 4; i++) {
			if (begin + KV_STRIDE * b + i / 2 * 8 >= limit) {
				x[b][i] = -INFINITY;
				continue;
			}
			/* nothing, or NaN if the logit is not finite */
			sum[i % 2] = fmaf(x[b][i], 0.f, sum[i % 2]);
			max[i % 2] = fmaxf(max[i % 2], x[b][i]);
		}
#pragma unroll
	for (int c = 0; c < 2; c++) {
		max[c] = kv_max_keys(max[c]);
		if (lane < 4)
			sums->max[warp][2 * lane + c] = max[c];
	}
}

/* Sums of exp(x - max) and its squares; squares of each part go to memory. */
template <int B>
static __device__ __forceinline__ void kv_tile_sum(const struct kv_launch &p, const float x[B][4], uint32_t begin,
						   float sum[2], float *const parts[2], struct kv_tile_sums *sums)
{
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	float max[2] = { -FLT_MAX, -FLT_MAX }, total[2] = { 0, 0 }, sink2[2] = { 0, 0 };

#pragma unroll
	for (int c = 0; c < 2; c++)
		for (int i = 0; i < KV_WARPS; i++)
			max[c] = fmaxf(max[c], sums->max[i][2 * (lane % 4) + c]);
#pragma unroll
	for (int b = 0; b < B; b++) {
		float part[2] = { 0, 0 };

#pragma unroll
		for (int i = 0; i < 4; i++) {
			float e = exp2f(x[b][i] - max[i % 2]);

			sum[i % 2] += e;
			if (begin + KV_STRIDE * b + i / 2 * 8 >= p.sinks)
				part[i % 2] += e * e;
			else
				sink2[i % 2] += e * e;
		}
#pragma unroll
		for (int c = 0; c < 2; c++) {
			part[c] = kv_sum_keys(part[c]);
			total[c] += part[c];
			if (lane < 4 && parts[c])
				parts[c][b * KV_WARPS] = part[c];
		}
	}
#pragma unroll
	for (int c = 0; c < 2; c++) {
		sum[c] = kv_sum_keys(sum[c]);
		sink2[c] = kv_sum_keys(sink2[c]);
		if (lane < 4) {
			sums->sum[warp][2 * lane + c] = sum[c];
			sums->sum2[warp][2 * lane + c] = total[c];
			sums->sink2[warp][2 * lane + c] = sink2[c];
		}
	}
}

/* One thread for each query adds up the warps. */
static __device__ __forceinline__ void kv_tile_store(const struct kv_launch &p, const struct kv_item &item,
						     const struct kv_tile_sums *sums)
{
	uint32_t column = threadIdx.x;
	size_t cell = kv_cell(p, item.w, item.head + column, item.tile);
	float max = -FLT_MAX, sum = 0, sum2 = 0, sink2 = 0;

	if (column >= item.q.count)
		return;
	for (int i = 0; i < KV_WARPS; i++) {
		max = fmaxf(max, sums->max[i][column]);
		sum += sums->sum[i][column];
		sum2 += sums->sum2[i][column];
		sink2 += sums->sink2[i][column];
	}
	p.max[cell] = max;
	p.sum[cell] = sum;
	p.sum2[cell] = sum2;
	if (p.norm_all)
		p.sink2[cell] = sink2;
}

/* Warps take turns, sixteen keys each: the first of this warp's batch b of an item. */
template <int B> static __device__ __forceinline__ uint32_t kv_batch(const struct kv_item &item, int b)
{
	return 16 * (item.tile * B * KV_WARPS + b * KV_WARPS + threadIdx.x / 32);
}

template <class P, int B> struct kv_depth {
	enum { N = P::DEPTH < B ? P::DEPTH : B };
};

/* Dots of this warp's 16 B keys. Fetches run ahead, from one item into the next. */
template <class P, int B>
static __device__ __forceinline__ void kv_tile_dots(const struct kv_item &item, const struct kv_item &next,
						    typename P::Ring &ring, const typename P::Stage &stage, float x[B][4])
{
	const int depth = kv_depth<P, B>::N;
	struct kv_keys keys = item.keys;
	uint32_t begin = kv_batch<B>(item, 0);
	bool any = true;

#pragma unroll
	for (int b = 0; b < B; b++) {
		P::template wait<depth>();
		P::dots(stage, ring, b % depth, keys, begin + KV_STRIDE * b, x[b]);
		if (b + depth == B) {
			any = next.valid;
			keys = next.keys;
			begin = kv_batch<B>(next, -B);
		}
		__syncwarp();
		P::fetch(ring, b % depth, keys, begin + KV_STRIDE * (b + depth), any);
	}
}

/* Logits in units of log 2 */
template <int B> static __device__ __forceinline__ void kv_tile_logits(const struct kv_launch &p, float x[B][4])
{
	for (int b = 0; b < B; b++)
		for (int i = 0; i < 4; i++)
			x[b][i] = kv_logit(p, x[b][i]);
}

/* Attention of a tile goes to memory as its sums; the caller's first warp publishes them. */
template <int B>
static __device__ __forceinline__ void kv_end_item(const struct kv_launch &p, const struct kv_item &item,
						   const float x[B][4], float sum[2], struct kv_tile_sums *sums)
{
	uint32_t lane = threadIdx.x % 32, part = threadIdx.x / 32;
	float *parts[2];

	for (int c = 0; c < 2; c++) {
		uint32_t column = 2 * (lane % 4) + c;

		parts[c] = column >= item.q.count ? NULL :
			   p.parts + kv_cell(p, item.w, item.head + column, item.tile) * (B * KV_WARPS) + part;
	}
	kv_tile_sum<B>(p, x, kv_batch<B>(item, 0) + lane / 4, sum, parts, sums);
	__syncthreads();
	if (threadIdx.x < 32)
		kv_tile_store(p, item, sums);
}

/* Prepares the two items that a block begins with; what it returns is lane 0's draw. */
template <class P, int B>
static __device__ __forceinline__ uint32_t kv_first_items(const struct kv_launch &p, struct kv_shared<P> &s)
{
	uint32_t warp = threadIdx.x / 32, drawn = 0;

	if (warp == 0)
		kv_fill_item(p, blockIdx.x, &s.items[0]);
	if (warp == KV_WARPS - 1)
		drawn = kv_next_item(p, blockIdx.x + gridDim.x, &s.items[1]);
	__syncthreads();
	if (!s.items[0].valid)
		return drawn;
#pragma unroll
	for (int b = 0; b < kv_depth<P, B>::N; b++)
		P::fetch(s.rings[warp], b, s.items[0].keys, kv_batch<B>(s.items[0], b), true);
	P::stage(s.stage, s.items[0].q, warp, KV_WARPS);
	__syncthreads();
	return drawn;
}

/*
 * Blocks take items from a queue in order, and when there are no more finish the
 * segments that are ready. What takes time is asked for early: keys as soon as
 * there is room for them, items two ahead, and whether a tile was its segment's
 * last when the next one has been read.
 */
template <class P, int B>
__global__ __launch_bounds__(32 * KV_WARPS, 2) void kv_decide_last(const __grid_constant__ struct kv_launch p)
{
	extern __shared__ uint4 memory[];
	struct kv_shared<P> &s = *(struct kv_shared<P> *)memory;
	uint32_t warp = threadIdx.x / 32, done = 0, all = 0, drawn = kv_first_items<P, B>(p, s);
	uint32_t segment = p.n_segments;
	bool offered = false;
	float x[B][4], sum[2];

	if (blockIdx.x == 0)
		kv_report_whole(p);
	for (uint32_t i = 0; s.items[i % 4].valid; i++) {
		const struct kv_item &item = s.items[i % 4], &next = s.items[(i + 1) % 4];

		if (warp == KV_WARPS - 1)
			drawn = kv_next_item(p, drawn, &s.items[(i + 2) % 4]);
		kv_tile_dots<P, B>(item, next, s.rings[warp], s.stage, x);
		kv_tile_logits<B>(p, x);
		kv_tile_max<B>(x, kv_batch<B>(item, 0) + threadIdx.x % 32 / 4,
			       p.limits[item.w.s.first_limit], &s.sums[i % 2], sum);
		if (item.tile == 0)
			kv_keep_stage<P>(p, s.stage, item.w.segment, item.head);
		if (threadIdx.x == 0 && all && done == all - 1) {
			kv_offer_segment(p, segment);
			offered = true;
		}
		__syncthreads();
		if (next.valid)
			P::stage(s.stage, next.q, warp, KV_WARPS);
		kv_end_item<B>(p, item, x, sum, &s.sums[i % 2]);
		if (warp == 0) {
			__syncwarp();
			segment = item.w.segment;
			all = item.w.n_tiles * p.n_kv_heads * p.groups;
			done = kv_count(&p.counters[segment].done, all);
		}
	}
	__syncthreads();
	if (warp == 0) {
		bool own = __shfl_sync(KV_LANES, all && done == all - 1, 0);

		s.more = __shfl_sync(KV_LANES, offered, 0) || !own;
		segment = __shfl_sync(KV_LANES, segment, 0);
		s.segment = own ? segment : kv_take_segment(p);
		kv_fence();
	}
	__syncthreads();
	while (s.segment < p.n_segments) {
		struct kv_place w;

		kv_place_of(p, s.segment, &w);
		kv_finish(p, w, &s.heads, B * KV_WARPS, kv_again_last<P>());
		if (!s.more)
			break;
		__syncthreads();
		if (warp == 0) {
			s.segment = kv_take_segment(p);
			kv_fence();
		}
		__syncthreads();
	}
}

#endif
