/* SPDX-License-Identifier: Apache-2.0 */
/* What a block of a decision needs to know, and how blocks tell each other. */
#ifndef KV_CUDA_LAUNCH_CUH
#define KV_CUDA_LAUNCH_CUH

#include "kernels/cuda/keys.cuh"

struct kv_launch {
	const struct kv_segment_entry *segments;
	const struct kv_head_entry *heads;
	const uint32_t *first_tiles, *limits;
	struct kv_counters *counters;
	uint32_t *queue;
	/* cells: [segment][query head][padded tile]; parts: a cell's; the rest by query head */
	char *stages;			/* [segment][KV head][group], stage_bytes each */
	size_t stage_bytes;
	float *max, *sum, *sum2, *sink2, *parts;
	float *stats_max, *stats_sum, *row_max, *row_weight;
	struct kv_refreekv_result *results;
	struct kv_refreekv_params params;
	double keep, per_head;		/* 1 - threshold, 1 / n_q_heads */
	float scale, softcap;		/* scale without softcap: times log2(e) */
	uint32_t n_segments, n_tiles;
	uint32_t n_q_heads, n_kv_heads, ratio, groups, dim, q_type;
	uint32_t n_items;		/* [segment][KV head][tile][group of query heads] */
	uint32_t interleaved;		/* or [segment][tile][KV head][group]: as keys lie in memory */
	uint32_t blocks;		/* that run at once */
	uint32_t sinks, recent, norm_all;	/* as in params */
};

/* A segment, as a block works on it. */
struct kv_place {
	struct kv_segment_entry s;
	uint32_t segment, n_tiles;
};

/* The last segment that begins at or before a tile; every lane gets it. */
static __device__ __forceinline__ uint32_t kv_find_segment(const struct kv_launch &p, uint32_t tile)
{
	uint32_t lane = threadIdx.x % 32, low = 0, count = p.n_segments;

	while (count > 1) {
		uint32_t step = (count + 31) / 32, at = lane * step;
		bool before = at < count && p.first_tiles[low + at] <= tile;
		uint32_t k = __popc(__ballot_sync(KV_LANES, before)) - 1;

		low += k * step;
		count = min(step, count - k * step);
	}
	return low;
}

static __device__ __forceinline__ void kv_place_of(const struct kv_launch &p, uint32_t segment,
						   struct kv_place *w)
{
	w->segment = segment;
	w->s = p.segments[segment];
	w->n_tiles = segment + 1 < p.n_segments ? p.first_tiles[segment + 1] : p.n_tiles;
	w->n_tiles -= w->s.first_tile;
}

static __device__ __forceinline__ struct kv_keys kv_keys_of(const struct kv_launch &p,
							   const struct kv_place &w, uint32_t g)
{
	struct kv_head_entry h = p.heads[w.segment * p.n_kv_heads + g];
	struct kv_keys k = { h.k, h.stride, w.s.n, p.dim };

	return k;
}

static __device__ __forceinline__ size_t kv_cell(const struct kv_launch &p, const struct kv_place &w,
						 uint32_t head, uint32_t tile)
{
	return (size_t)p.n_q_heads * w.s.first_cell + (size_t)head * kv_padded(w.n_tiles) + tile;
}

/* Rare, and long: not in the way of the rest. */
static __device__ __noinline__ float kv_soften(float x, float cap)
{
	return cap * tanhf(x / cap) * 1.44269504f;
}

/* A logit in units of log 2, from a dot. */
static __device__ __forceinline__ float kv_logit(const struct kv_launch &p, float dot)
{
	return p.softcap > 0 ? kv_soften(dot * p.scale, p.softcap) : dot * p.scale;
}

/*
 * The next item of the queue, by lane 0 of a warp: each block began with two of
 * its own. The counter is zero again when every block has drawn one too many.
 */
static __device__ __forceinline__ uint32_t kv_draw(const struct kv_launch &p)
{
	return threadIdx.x % 32 ? 0 : 2 * gridDim.x + atomicInc(p.queue, p.n_items - gridDim.x - 1);
}

/* What was written before it is there for whoever reads after its own. */
static __device__ __forceinline__ void kv_fence(void)
{
	asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/*
 * Counts what a warp's lanes have written as done, by lane 0. Whoever gets
 * total - 1 may, after a fence, read what all wrote; the counter is zero again.
 */
static __device__ __forceinline__ uint32_t kv_count(uint32_t *counter, uint32_t total)
{
	if (threadIdx.x % 32)
		return 0;
	kv_fence();
	return atomicInc(counter, total - 1);
}

/*
 * Segments whose tiles have all been read and that nobody finishes yet. Whoever
 * saw the last tile says so here, and looks here before it ends: so none is left
 * behind, and no block ever waits for one that might not be running.
 */
static __device__ __forceinline__ void kv_offer_segment(const struct kv_launch &p, uint32_t segment)
{
	kv_fence();
	atomicExch(&p.counters[segment].ready, 1);
}

/* Takes one, by a whole warp; n_segments if there is none. */
static __device__ __forceinline__ uint32_t kv_take_segment(const struct kv_launch &p)
{
	uint32_t lane = threadIdx.x % 32;

	for (uint32_t base = 0; base < p.n_segments; base += 32) {
		uint32_t i = base + lane, ready = 0;

		if (i < p.n_segments)
			ready = *(volatile uint32_t *)&p.counters[i].ready;
		for (uint32_t some = __ballot_sync(KV_LANES, ready); some; some &= some - 1) {
			uint32_t first = __ffs(some) - 1, taken = 0;

			if (lane == first)
				taken = atomicExch(&p.counters[i].ready, 0);
			if (__shfl_sync(KV_LANES, taken, first))
				return base + first;
		}
	}
	return p.n_segments;
}

/* Over the eight keys g of the lanes of one t. */
static __device__ __forceinline__ float kv_sum_keys(float x)
{
	x += __shfl_xor_sync(KV_LANES, x, 4);
	x += __shfl_xor_sync(KV_LANES, x, 8);
	return x + __shfl_xor_sync(KV_LANES, x, 16);
}

static __device__ __forceinline__ float kv_max_keys(float x)
{
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 4));
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 8));
	return fmaxf(x, __shfl_xor_sync(KV_LANES, x, 16));
}

#endif
