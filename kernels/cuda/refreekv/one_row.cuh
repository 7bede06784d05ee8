/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel of a decision on the attention of the last row alone: keys are read once. */
#ifndef KV_KERNELS_CUDA_REFREEKV_ONE_ROW_CUH
#define KV_KERNELS_CUDA_REFREEKV_ONE_ROW_CUH

#include "kernels/cuda/base/logit.cuh"
#include "kernels/cuda/refreekv/finish.cuh"

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

/* The work of a block at a time: a tile of a group of query heads. */
struct kv_item {
	struct kv_keys keys;
	struct kv_queries q;
	size_t cell;			/* of the first query head of the group */
	uint32_t next_head;		/* cells between one query head and the next */
	uint32_t segment, limit;
	uint32_t begin, batches;	/* the tile's first position and its size */
	uint32_t valid;			/* 0: no item is left */
};

/* The results of the warps for each sixteen positions of a tile, by query. */
struct kv_tile_sums {
	float max[8][33], sum[8][33], sum2[8][33], sink2[8][33];
};

/* The queries and keys with which a group's attention is computed again. */
template <class P> struct kv_kept {
	typename P::Stage stage;
	struct kv_keys keys;
};

/* The shared memory of a block that reads. */
template <class P> struct kv_reader {
	typename P::Stage stages[2];	/* of this item, of the next */
	struct kv_tile_sums sums[2];	/* of this item, of the one before */
	struct kv_item items[4];	/* before, this, next, the one after it */
};

/* The shared memory of either; a block that finishes has p.kept groups behind its heads. */
template <class P> union kv_shared {
	struct kv_reader<P> reader;
	struct kv_heads heads;
};

/* Two blocks with more shared memory leave the L1 cache too small for the loads under way. */
#define KV_SHARED_MOST 98304u

template <class P> static size_t kv_size_shared(struct kv_launch *p)
{
	size_t bytes = offsetof(struct kv_heads, of) + p->n_q_heads * sizeof(struct kv_heads::kv_children_of);
	size_t room = (KV_SHARED_MOST - bytes) / sizeof(struct kv_kept<P>);
	size_t groups = p->n_kv_heads * p->groups;

	static_assert(sizeof(struct kv_heads) < KV_SHARED_MOST && sizeof(struct kv_reader<P>) <= KV_SHARED_MOST,
		      "shared memory for any block");
	p->kept = (uint32_t)(groups < room ? groups : room);
	bytes += p->kept * sizeof(struct kv_kept<P>);
	return bytes > sizeof(struct kv_reader<P>) ? bytes : sizeof(struct kv_reader<P>);
}

template <class P>
static __device__ __forceinline__ struct kv_kept<P> *kv_kept_group(const struct kv_launch &p, struct kv_heads &s,
								   uint32_t segment, uint32_t u)
{
	if (u < p.kept)
		return (struct kv_kept<P> *)&s.of[p.n_q_heads] + u;
	u += segment * p.n_kv_heads * p.groups;
	return (struct kv_kept<P> *)(p.stages + (size_t)u * p.stage_bytes);
}

/* The block that will finish a segment keeps the segment's groups. */
template <class P>
static __device__ __forceinline__ void kv_keep_groups(const struct kv_launch &p, const struct kv_place &w,
						      struct kv_heads &s)
{
	uint32_t at = 64 * (threadIdx.x % 8), bytes = p.dim * (p.q_type == KVMOD_F32 ? 4 : 2);

	for (uint32_t h = threadIdx.x / 8; at < bytes && h < p.n_q_heads; h += blockDim.x / 8)
		kv_prefetch(w.s.q + h * w.s.q_head_stride + at);
#pragma unroll 1
	for (uint32_t u = threadIdx.x / 32; u < p.n_kv_heads * p.groups; u += KV_WARPS) {
		struct kv_kept<P> *kept = kv_kept_group<P>(p, s, w.segment, u);
		uint32_t g = u / p.groups;

		P::stage(kept->stage, kv_group(p, w, g, u % p.groups), 0, 1);
		if (threadIdx.x % 32 == 0)
			kept->keys = kv_keys_of(p, w, g);
	}
	__syncthreads();
}

/* The attention of a part, once more: each warp takes groups of heads in turn. */
template <class P> struct kv_again_last {
	__device__ __forceinline__ void operator()(const struct kv_launch &p, const struct kv_place &w,
						   struct kv_heads *heads, uint32_t begin, bool sinks) const
	{
		uint32_t lane = threadIdx.x % 32, limit = p.limits[w.s.first_limit];
		uint32_t part = kv_part(w.s.batches);

#pragma unroll 1
		for (uint32_t u = threadIdx.x / 32; u < p.n_kv_heads * p.groups; u += KV_WARPS) {
			const struct kv_kept<P> *kept = kv_kept_group<P>(p, *heads, w.segment, u);
			uint32_t g = u / p.groups, first = g * p.ratio + u % p.groups * 8;
			typename P::Batch batch, second;
			float acc[4];

			P::load(batch, kept->keys, begin);
			if (P::AHEAD && part > 16)
				P::load(second, kept->keys, begin + 16);
#pragma unroll 1
			for (uint32_t row = lane / 4; row < part; row += 16) {
				P::dots(kept->stage, batch, acc);
				for (int i = 0; i < 4; i++) {
					uint32_t h = first + 2 * (lane % 4) + i % 2, at = begin + row + i / 2 * 8;

					if (h < min(first + 8, (g + 1) * p.ratio))
						heads->of[h].attention[at - begin] = at < limit && (at < p.sinks) == sinks ?
							exp2f(kv_logit(p, acc[i]) - heads->reference[h]) : 0;
				}
				if (P::AHEAD)
					batch = second;
				else if (row + 16 < part)
					P::load(batch, kept->keys, begin + 16);
			}
		}
	}
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
	item->keys = kv_keys_of(p, w, g);
	item->q = kv_group(p, w, g, group);
	item->cell = kv_cell_at(p, w, g * p.ratio + 8 * group, tile);
	item->next_head = kv_padded(w.n_tiles);
	item->segment = w.segment;
	item->begin = tile * w.s.batches * KV_BATCH;
	item->batches = w.s.batches;
	item->limit = p.limits[w.s.first_limit];
	item->valid = 1;
}

/* Fills in the item that lane 0 drew, and draws another one unless none is left. */
static __device__ __forceinline__ uint32_t kv_next_item(const struct kv_launch &p, uint32_t drawn, struct kv_item *item)
{
	drawn = __shfl_sync(KV_LANES, drawn, 0);
	kv_fill_item(p, drawn, item);
	return drawn < p.n_items ? kv_draw(p) : drawn;
}

/*
 * From the logits of sixteen keys (in this lane those at positions `at` and `at` + 8) to
 * the largest, and to the sums of exp(x - largest) and of its squares.
 */
static __device__ __forceinline__ void kv_part_sums(const struct kv_launch &p, const float x[4], uint32_t at,
						    uint32_t limit, uint32_t part, struct kv_tile_sums *sums)
{
	bool sees[2] = { at < limit, at + 8 < limit }, ranked[2] = { at >= p.sinks, at + 8 >= p.sinks };
	uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (int c = 0; c < 2; c++) {
		float a = sees[0] ? x[c] : -INFINITY, b = sees[1] ? x[2 + c] : -INFINITY;
		float max = fmaxf(kv_max_keys(fmaxf(a, b)), -FLT_MAX), sum, sum2, sink2 = 0;

		/* 0, or NaN if a logit is not finite */
		sum = (sees[0] ? a * 0.f : 0) + (sees[1] ? b * 0.f : 0);
		a = exp2f(a - max);
		b = exp2f(b - max);
		sum = kv_sum_keys(sum + a + b);
		a *= a;
		b *= b;
		sum2 = kv_sum_keys((ranked[0] ? a : 0) + (ranked[1] ? b : 0));
		if (at - lane / 4 < p.sinks)
			sink2 = kv_sum_keys((ranked[0] ? 0 : a) + (ranked[1] ? 0 : b));
		if (lane < 4) {
			sums->max[2 * lane + c][part] = max;
			sums->sum[2 * lane + c][part] = sum;
			sums->sum2[2 * lane + c][part] = sum2;
			sums->sink2[2 * lane + c][part] = sink2;
		}
	}
}

/* Writes the sums of the tile and of its parts to memory, by a warp for each query. */
static __device__ __forceinline__ void kv_end_item(const struct kv_launch &p, const struct kv_item &item,
						   const struct kv_tile_sums *sums)
{
	uint32_t column = threadIdx.x / 32, lane = threadIdx.x % 32;
	uint32_t step = kv_part(item.batches) / 16;
	size_t cell = item.cell + column * item.next_head;
	float max = -FLT_MAX, sum = 0, sum2 = 0, sink2 = 0, all, e, part;

	if (column >= item.q.count)
		return;
	if (lane < item.batches * KV_WARPS) {
		max = sums->max[column][lane];
		sum = sums->sum[column][lane];
		sum2 = sums->sum2[column][lane];
		sink2 = sums->sink2[column][lane];
	}
	all = kv_max_warp(max);
	e = exp2f(max - all);
	sum = kv_sum_warp(sum * e);
	e *= e;
	sum2 *= e;
	part = sum2;
	if (step > 1)
		part += __shfl_xor_sync(KV_LANES, sum2, 1);
	if (lane < item.batches * KV_WARPS && lane % step == 0)
		kv_store_kept(&p.parts[cell * KV_TILE_PARTS + lane / step], part);
	sum2 = kv_sum_warp(sum2);
	sink2 = kv_sum_warp(sink2 * e);
	if (lane == 0) {
		struct kv_cell tile = { all, sum, sum2, p.norm_all ? sink2 : 0 };

		kv_store_kept((float4 *)&p.cells[cell], *(float4 *)&tile);
	}
}

/* The warps take sixteen keys each in turn: the first position of this warp's batch b. */
static __device__ __forceinline__ uint32_t kv_batch(const struct kv_item &item, uint32_t b)
{
	return item.begin + 16 * (b * KV_WARPS + threadIdx.x / 32);
}

/*
 * Reads this warp's keys of an item. If the path loads AHEAD, `batch` holds the item's
 * first batch on entry, and the next item's on return. A limit of 0 reads nothing: it
 * runs the code once while the first keys are under way.
 */
template <class P>
static __device__ __forceinline__ void kv_read_item(const struct kv_launch &p, const struct kv_item &item,
						    const struct kv_item &next, typename P::Batch &batch, uint32_t limit,
						    const typename P::Stage &stage, struct kv_tile_sums *sums,
						    uint32_t batches)
{
	uint32_t part = threadIdx.x / 32, lane = threadIdx.x % 32;

#pragma unroll 1
	for (uint32_t b = 0; b < batches; b++, part += KV_WARPS) {
		const struct kv_item &ahead = b + 1 < batches ? item : next;
		typename P::Batch fetched;
		float x[4];

		P::clear(fetched);
		if (P::AHEAD && ahead.valid)
			P::template load<true>(fetched, ahead.keys, kv_batch(ahead, b + 1 < batches ? b + 1 : 0));
		if (!P::AHEAD && limit)
			P::template load<true>(batch, item.keys, kv_batch(item, b));
		P::dots(stage, batch, x);
		for (int i = 0; i < 4; i++)
			x[i] = kv_logit(p, x[i]);
		kv_part_sums(p, x, kv_batch(item, b) + lane / 4, limit, part, sums);
		if (P::AHEAD)
			batch = fetched;
	}
}

/*
 * A block that reads takes items from a queue in order. It asks early for what takes
 * time: for keys as soon as registers are free, for queries an item ahead, for items two
 * ahead. It reports an item as done after it has read the next one.
 */
template <class P> static __device__ __forceinline__ void kv_work(const struct kv_launch &p, struct kv_reader<P> &s)
{
	uint32_t warp = threadIdx.x / 32, drawn = blockIdx.x, done = p.n_segments;
	typename P::Batch batch;

	if (warp == KV_WARPS - 1)
		kv_fill_item(p, drawn, &s.items[0]);
	drawn += p.workers;
	P::clear(batch);
	__syncthreads();
#pragma unroll 1
	for (int i = -1; i < 0 || s.items[i & 3].valid; i++) {
		const struct kv_item &next = s.items[(i + 1) & 3], &item = i < 0 ? next : s.items[i & 3];

		if (warp == KV_WARPS - 1)
			drawn = kv_next_item(p, drawn, &s.items[(i + 2) & 3]);
		if (next.valid)
			P::stage(s.stages[(i + 1) & 1], next.q, warp, KV_WARPS);
		kv_read_item<P>(p, item, next, batch, i < 0 ? 0 : item.limit, s.stages[i & 1], &s.sums[i & 1],
				   i < 0 ? 1 : item.batches);
		__syncthreads();
		if (i >= 0)
			kv_end_item(p, item, &s.sums[i & 1]);
		if (warp == KV_WARPS - 2) {
			kv_say_done(p, done);
			done = i < 0 ? done : item.segment;
		}
	}
	__syncthreads();
	if (warp == KV_WARPS - 2)
		kv_say_done(p, done);
}

/*
 * A block that finishes takes every (number of such blocks)-th segment from `segment` on,
 * and waits until the segment's tiles have been read. Code comes from memory the first
 * time it runs, so the block begins with a made-up segment, while others read.
 */
template <class P>
static __device__ __forceinline__ void kv_end_segments(const struct kv_launch &p, struct kv_heads &s,
						       uint32_t segment)
{
	uint32_t kept = p.n_segments;
	bool rehearsal = true;

#pragma unroll 1
	while (segment < p.n_segments) {
		struct kv_refreekv_result r;
		struct kv_place w;

		kv_place_of(p, segment, &w);
		if (w.n_tiles == 0) {
			segment += gridDim.x - p.workers;
			continue;
		}
		if (kept != segment)
			kv_keep_groups<P>(p, w, s);
		kept = segment;
		if (rehearsal)
			kv_make_up(p, &w);
		else
			kv_wait_done(p, segment, w.n_tiles * p.n_kv_heads * p.groups);
		r = kv_finish(p, w, &s, kv_again_last<P>{}, rehearsal);
		if (!rehearsal) {
			if (threadIdx.x == 0)
				p.results[segment] = r;
			segment += gridDim.x - p.workers;
		}
		rehearsal = false;
		__syncthreads();
	}
}

/*
 * The blocks that read have the lower numbers and start first; those that finish wait for
 * them. So no block waits for one that cannot run.
 */
template <class P>
__global__ __launch_bounds__(32 * KV_WARPS, 2) void kv_decide_last(const __grid_constant__ struct kv_launch p)
{
	extern __shared__ uint4 memory[];
	union kv_shared<P> &s = *(union kv_shared<P> *)memory;

	if (blockIdx.x < p.workers) {
		kv_work<P>(p, s.reader);
		return;
	}
	if (blockIdx.x == p.workers)
		kv_report_whole(p);
	kv_end_segments<P>(p, s.heads, blockIdx.x - p.workers);
}

#endif
