/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a gather, which the host writes and the kernel reads. */
#ifndef KV_KERNELS_CUDA_GATHER_TABLE_H
#define KV_KERNELS_CUDA_GATHER_TABLE_H

#include "kernels/cuda/gather/gather.h"

#define KV_GATHER_TILE 32768u		/* bytes that a block moves, at most, unless a row is longer */

/* One gather; its rows are numbered as in the target. */
struct kv_gather_entry {
	const char *src;
	char *dst;
	int64_t src_stride, dst_stride;
	uint64_t first_index;		/* of its list of rows, if n_spans is 0 */
	uint32_t n_rows, row_bytes;
	uint32_t first_span, n_spans;
	uint32_t tile_rows;		/* rows of a tile */
	uint32_t in_place;		/* a tile may write only after all tiles before it have read */
	uint32_t done;			/* tiles that have read; zero before and after a launch */
	uint32_t aligned;		/* 16, 4 or 1: all addresses are multiples of it */
};

/* A span of the source, and the row of the target at which it begins. */
struct kv_gather_span {
	uint32_t begin, target;
};

struct kv_gather_layout {
	size_t entries, spans, first_tiles, queue, indices, end;
};

static inline struct kv_gather_layout kv_gather_layout(const struct kv_gather_job *job)
{
	struct kv_gather_layout l;
	size_t n = job->n_gathers;

	l.entries = 0;
	l.spans = l.entries + n * sizeof(struct kv_gather_entry);
	l.first_tiles = l.spans + job->n_spans * sizeof(struct kv_gather_span);
	l.queue = l.first_tiles + n * sizeof(uint32_t);
	l.indices = l.queue + sizeof(uint32_t);
	l.end = l.indices + job->n_indices * sizeof(uint32_t);
	return l;
}

#endif
