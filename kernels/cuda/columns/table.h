/* SPDX-License-Identifier: Apache-2.0 */
/* The table and the scratch memory of column reductions, as host and kernels share them. */
#ifndef KV_KERNELS_CUDA_COLUMNS_TABLE_H
#define KV_KERNELS_CUDA_COLUMNS_TABLE_H

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/base/rows.h"
#include "kernels/cuda/columns/columns.h"

#define KV_COLUMNS_SPANS 4

/*
 * One KV head. Its keys are those of m positions that the spans name and some row sees,
 * numbered 0 ... m-1. Its queries are head after head, `padded` rows each, in units of
 * eight: so a unit is either eight rows of one head, or up to four heads of few rows.
 */
struct kv_columns_entry {
	const char *k, *q;
	float *out;
	int64_t k_stride, q_stride, q_head_stride, out_stride;
	uint64_t stats;			/* the place of its partial sums: [tile][query] */
	uint32_t m, n_rows, group, padded;
	uint32_t n_seen;
	uint32_t reduce;
	uint32_t first_unit, n_units;
	/* An item is a tile of keys with a slice of units. */
	uint32_t first_item, n_tiles, n_slices;
	uint32_t wide_k, wide_q;	/* 16-byte aligned */
	uint32_t n_spans, begin[KV_COLUMNS_SPANS];
	uint32_t place[KV_COLUMNS_SPANS];	/* the number of the span's first position */
	uint32_t reserved;
};

/* The position with number i. */
KV_BOTH static inline uint32_t kv_columns_position(const struct kv_columns_entry *e, uint32_t i)
{
	uint32_t s = 0;

	while (s + 1 < e->n_spans && e->place[s + 1] <= i)
		s++;
	return e->begin[s] + (i - e->place[s]);
}

/* The first row that sees a position. */
KV_BOTH static inline uint32_t kv_columns_first_row(uint32_t n_seen, uint32_t position)
{
	return position < n_seen ? 0 : position - n_seen + 1;
}

/* Where the parts of the scratch memory begin. */
struct kv_columns_places {
	uint64_t queries;		/* [unit][part][chunk][lane], 16 bytes each */
	uint64_t factors;		/* [unit][8]: a query's factor, and its total */
	uint64_t stats;
};

static inline struct kv_columns_places kv_columns_places(const struct kv_columns_job *job)
{
	struct kv_columns_places s;

	s.queries = 0;
	s.factors = s.queries + (uint64_t)job->n_units * 2 * job->chunks * 512;
	s.stats = s.factors + (uint64_t)job->n_units * 64;
	return s;
}

#endif
