/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which blocks read for a decision on several rows. Blocks take steps from
 * one queue. A segment's first reading comes before its second, with the readings of a
 * few other segments in between, so that the first is done when the second begins. A
 * block that waits for a first reading waits only for blocks that are running.
 */
#ifndef KV_KERNELS_CUDA_REFREEKV_MANY_ROWS_STEPS_CUH
#define KV_KERNELS_CUDA_REFREEKV_MANY_ROWS_STEPS_CUH

#include "kernels/cuda/refreekv/decision.cuh"

#define KV_ROW_GROUPS 4		/* that a block reads for at once */
#define KV_ROW_COLUMNS (8 * KV_ROW_GROUPS)

/* The work of a block at a time: a tile of a KV head, for some groups of some query heads. */
struct kv_step {
	struct kv_place w;
	struct kv_keys keys;
	uint32_t head, tile;		/* the first query head, the tile */
	uint32_t group, n_groups;	/* the first of the heads' groups, and how many they have */
	uint32_t seen;			/* do all rows see all of the tile? */
	uint32_t second, valid;
};

/* How many groups of eight rows a query head has. */
static __device__ __forceinline__ uint32_t kv_row_groups(const struct kv_place &w)
{
	return (w.s.n_rows + 7) / 8;
}

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

static __device__ __forceinline__ size_t kv_row_index(const struct kv_launch &p, const struct kv_place &w,
						      uint32_t head, uint32_t row)
{
	return (size_t)p.n_q_heads * w.s.first_limit + (size_t)head * w.s.n_rows + row;
}

/* How many tiles the segments before this one have. */
static __device__ __forceinline__ uint32_t kv_tiles_before(const struct kv_launch &p, uint32_t segment)
{
	return segment < p.n_segments ? p.first_tiles[segment] : p.n_tiles;
}

/*
 * Tile number x in the order of reading: first readings of the first p.lag segments, then
 * in turn the first reading of one more segment and the second reading of the oldest
 * one. Returns the tile's number in that reading of its segment.
 */
static __device__ __forceinline__ uint32_t kv_order_tile(const struct kv_launch &p, uint32_t x, struct kv_place *w,
							bool *second)
{
	uint32_t segment, ahead;

	*second = false;
	if (x < kv_tiles_before(p, p.lag)) {
		kv_place_of(p, kv_find_segment(p, x), w);
		return x - w->s.first_tile;
	}
	segment = kv_find(p.n_segments, x, [&](uint32_t i) {
		return kv_tiles_before(p, i + p.lag) + kv_tiles_before(p, i);
	});
	x -= kv_tiles_before(p, segment + p.lag) + kv_tiles_before(p, segment);
	ahead = kv_tiles_before(p, segment + p.lag + 1) - kv_tiles_before(p, segment + p.lag);
	*second = x >= ahead;
	kv_place_of(p, *second ? segment : segment + p.lag, w);
	return *second ? x - ahead : x;
}

/* By a whole warp. */
static __device__ __forceinline__ void kv_fill_step(const struct kv_launch &p, uint32_t number, struct kv_step *step)
{
	uint32_t per_tile = p.n_kv_heads * p.groups, g, first;
	struct kv_place w;
	bool second;

	if (number >= p.n_items) {
		step->valid = 0;
		return;
	}
	first = kv_order_tile(p, number / per_tile, &w, &second);
	if (threadIdx.x % 32)
		return;
	number = first * per_tile + number % per_tile;
	first = number % p.groups * p.row_heads;
	number /= p.groups;
	g = p.interleaved ? number % p.n_kv_heads : number / w.n_tiles;
	step->tile = p.interleaved ? number / p.n_kv_heads : number % w.n_tiles;
	step->w = w;
	step->keys = kv_keys_of(p, w, g);
	step->head = g * p.ratio + first;
	step->group = 0;
	step->n_groups = min(p.row_heads, p.ratio - first) * kv_row_groups(w);
	step->seen = (step->tile + 1) * KV_BATCHES * KV_BATCH <= p.limits[w.s.first_limit];
	step->second = second;
	step->valid = 1;
}

/* Each block ends by drawing one step too many, after which the queue is at its beginning again. */
static __device__ __forceinline__ uint32_t kv_draw_step(const struct kv_launch &p)
{
	return threadIdx.x % 32 ? 0 : atomicInc(p.queue, p.n_items + gridDim.x - 1);
}

/* Is this the last step of a tile? All others have KV_ROW_GROUPS groups. */
static __device__ __forceinline__ bool kv_ends_tile(const struct kv_step &step)
{
	return step.group + KV_ROW_GROUPS >= step.n_groups;
}

/* The step after `before`: of the same tile, or the one that lane 0 drew, which then draws another. */
static __device__ __forceinline__ uint32_t kv_next_step(const struct kv_launch &p, uint32_t drawn,
						        const struct kv_step &before, struct kv_step *step)
{
	if (before.valid && !kv_ends_tile(before)) {
		if (threadIdx.x % 32 == 0) {
			*step = before;
			step->group += KV_ROW_GROUPS;
		}
	} else {
		drawn = __shfl_sync(KV_LANES, drawn, 0);
		kv_fill_step(p, drawn, step);
		drawn = drawn < p.n_items ? kv_draw_step(p) : drawn;
	}
	__syncwarp();
	return drawn;
}

/* Column c of a step: a row of one of its query heads; or none, if not there. */
struct kv_column {
	uint32_t head, row;
	bool there;
};

static __device__ __forceinline__ struct kv_column kv_column_of(const struct kv_step &step, uint32_t c)
{
	uint32_t i = step.group + c / 8, each = kv_row_groups(step.w);
	struct kv_column column = { step.head + i / each, i % each * 8 + c % 8, false };

	column.there = i < step.n_groups && column.row < step.w.s.n_rows;
	return column;
}

#endif
