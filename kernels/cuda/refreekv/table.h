/* SPDX-License-Identifier: Apache-2.0 */
/* The table and the scratch memory of a decision, as host and kernel share them. */
#ifndef KV_KERNELS_CUDA_REFREEKV_TABLE_H
#define KV_KERNELS_CUDA_REFREEKV_TABLE_H

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/refreekv/refreekv.h"

/* A tile has 1, 2 or 4 batches; a batch has sixteen positions for each warp. */
#define KV_BATCH (16 * KV_WARPS)
#define KV_BATCHES 4

/*
 * A part is the positions of a tile that have a sum of squares of their own: 16, or 32 in
 * a large tile, which halves the bytes written. So a tile has 16 parts at most.
 */
#define KV_TILE_PARTS 16
#define KV_LONG_PART 32u

struct kv_segment_entry {
	const char *q;			/* of the first row that the norm uses */
	int64_t q_row_stride, q_head_stride;
	uint64_t stats;			/* where the statistics of its rows begin */
	uint32_t n, n_rows;
	uint32_t first_tile;
	uint32_t first_limit;
	uint32_t first_cell;
	uint32_t batches;		/* of each of its tiles */
};

struct kv_head_entry {
	const char *k;
	int64_t stride;
};

/*
 * The progress of a segment; all zero before and after a launch. done: items that are
 * done; stats_done: the same for the rows' statistics; stats_ready: 1 when those are
 * complete.
 */
struct kv_counters {
	uint32_t done, stats_done, stats_ready, reserved;
};

KV_BOTH static inline uint32_t kv_part(uint32_t batches)
{
	return batches == KV_BATCHES ? KV_LONG_PART : 16;
}

/* Is everything kept, whatever the attention is? */
KV_BOTH static inline int kv_keeps_all(const struct kv_refreekv_params *params, uint32_t n)
{
	return n <= (uint64_t)params->sinks + params->recent || params->threshold <= 0;
}

/* Where the parts of the table begin, in bytes. */
struct kv_table_layout {
	size_t segments, heads, first_tiles, counters, queue, limits, end;
};

static inline struct kv_table_layout kv_table_layout(const struct kv_refreekv_job *job)
{
	struct kv_table_layout l;
	size_t n = job->n_segments;

	l.segments = 0;
	l.heads = l.segments + n * sizeof(struct kv_segment_entry);
	l.first_tiles = l.heads + n * job->n_kv_heads * sizeof(struct kv_head_entry);
	l.counters = l.first_tiles + n * sizeof(uint32_t);
	l.queue = l.counters + n * sizeof(struct kv_counters);
	l.limits = l.queue + sizeof(uint32_t);
	l.end = l.limits + job->n_limits * sizeof(uint32_t);
	return l;
}

/* The tiles of a query head are read by fours, so they take the room of a multiple of four. */
KV_BOTH static inline uint32_t kv_padded(uint32_t tiles)
{
	return (tiles + 3) & ~3u;
}

/* The query heads of a KV head come in groups of eight; how many groups? */
static inline uint32_t kv_groups(const struct kv_refreekv_job *job)
{
	return (job->n_q_heads / job->n_kv_heads + 7) / 8;
}

/* The most bytes that a block keeps of a group of query heads. */
static inline size_t kv_stage_bytes(uint32_t dim)
{
	return dim <= 128 ? 8240 : 12352;
}

/* Where the parts of the scratch memory begin. A cell is a tile of one query head. */
struct kv_scratch_layout {
	size_t stages, cells, parts;
	size_t stats_max, stats_sum, row_references, end;
};

static inline struct kv_scratch_layout kv_scratch_layout(const struct kv_refreekv_job *job)
{
	struct kv_scratch_layout l;
	size_t cells = (size_t)(job->n_cells + kv_padded(1)) * job->n_q_heads;
	size_t units = (size_t)job->n_segments * job->n_kv_heads * kv_groups(job);
	size_t stats = job->rows > 1 ? job->n_stats : 0;
	size_t rows = job->rows > 1 ? (size_t)job->n_limits * job->n_q_heads : 0;

	l.stages = 0;
	l.cells = l.stages + units * kv_stage_bytes(job->head_dim);
	l.parts = l.cells + cells * 4 * sizeof(float);
	l.stats_max = l.parts + cells * KV_TILE_PARTS * sizeof(float);
	l.stats_sum = l.stats_max + stats * sizeof(float);
	l.row_references = l.stats_sum + stats * sizeof(float);
	l.end = l.row_references + rows * sizeof(float);
	return l;
}

#endif
