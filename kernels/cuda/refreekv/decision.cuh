/* SPDX-License-Identifier: Apache-2.0 */
/* A decision as its blocks know it: the launch, the work in it, and the signals between blocks. */
#ifndef KV_KERNELS_CUDA_REFREEKV_DECISION_CUH
#define KV_KERNELS_CUDA_REFREEKV_DECISION_CUH

#include "kernels/cuda/base/keys.cuh"
#include "kernels/cuda/base/memory.cuh"
#include "kernels/cuda/base/warp.cuh"
#include "kernels/cuda/refreekv/table.h"

/*
 * A tile of one query head: its largest logit x, the sum of 2^(y - x) over its
 * logits y, and the sums of the squares that are ranked and of the sinks'.
 */
struct __align__(16) kv_cell {
	float max, sum, sum2, sink2;
};

struct kv_launch {
	const struct kv_segment_entry *segments;
	const struct kv_head_entry *heads;
	const uint32_t *first_tiles, *limits;
	struct kv_counters *counters;
	uint32_t *queue;
	/* cells: [segment][query head][padded tile]; parts: [cell][part]; the rest by query head */
	char *stages;			/* [segment][KV head][group], stage_bytes each */
	size_t stage_bytes;
	struct kv_cell *cells;
	float *parts;
	float *stats_max, *stats_sum, *row_references;
	struct kv_refreekv_result *results;
	struct kv_refreekv_params params;
	float scale, softcap;		/* see logit.cuh */
	uint32_t n_segments, n_tiles;
	uint32_t n_q_heads, n_kv_heads, ratio, groups, dim, q_type;
	uint32_t n_items;		/* [segment][KV head][tile][group]; several rows: see many_rows_steps.cuh */
	uint32_t interleaved;		/* 1: items are [segment][tile][KV head][group], as keys lie in memory */
	uint32_t blocks;		/* how many run at once */
	uint32_t workers;		/* one row: the blocks that read; the others finish */
	uint32_t kept;			/* one row: groups in the shared memory of a block that finishes */
	uint32_t spare_cell;		/* one row: the cell of a made-up segment of one tile */
	uint32_t row_heads;		/* several rows: query heads of one of `groups` */
	uint32_t lag;			/* several rows: segments between a segment's two readings */
	uint32_t sinks, recent, norm_all;	/* as in params */
};

/* The segment that a block works on. */
struct kv_place {
	struct kv_segment_entry s;
	uint32_t segment, n_tiles;
};

static __device__ __forceinline__ uint32_t kv_find_segment(const struct kv_launch &p, uint32_t tile)
{
	return kv_find(p.n_segments, tile, [&](uint32_t i) { return p.first_tiles[i]; });
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

static __device__ __forceinline__ size_t kv_cell_at(const struct kv_launch &p, const struct kv_place &w,
						 uint32_t head, uint32_t tile)
{
	return (size_t)p.n_q_heads * w.s.first_cell + (size_t)head * kv_padded(w.n_tiles) + tile;
}

/*
 * The next item of the queue, by lane 0 of a warp; the first two items of each block
 * are not from the queue. Each block ends by drawing one item too many, after which the
 * counter is zero again.
 */
static __device__ __forceinline__ uint32_t kv_draw(const struct kv_launch &p)
{
	return threadIdx.x % 32 ? 0 : 2 * p.workers + atomicInc(p.queue, p.n_items - p.workers - 1);
}

/* Lane 0 counts an item of a segment as done, for its block, after a __syncthreads(). */
static __device__ __forceinline__ void kv_say_done(const struct kv_launch &p, uint32_t segment)
{
	if (threadIdx.x % 32 == 0 && segment < p.n_segments)
		asm volatile("red.release.gpu.global.add.u32 [%0], 1;"
			     :: "l"(&p.counters[segment].done) : "memory");
}

/* The block that finishes a segment waits for all its items, and resets the counter to zero. */
static __device__ __forceinline__ void kv_wait_done(const struct kv_launch &p, uint32_t segment, uint32_t total)
{
	uint32_t *done = &p.counters[segment].done, n = 0;

	if (threadIdx.x == 0) {
		for (;;) {
			asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(done) : "memory");
			if (n == total)
				break;
			__nanosleep(40);
		}
		*done = 0;
	}
	__syncthreads();
}

#endif
