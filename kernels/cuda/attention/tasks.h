/* SPDX-License-Identifier: Apache-2.0 */
/* The table and the scratch memory of a decision by attention, as host and kernel share them. */
#ifndef KV_KERNELS_CUDA_ATTENTION_TASKS_H
#define KV_KERNELS_CUDA_ATTENTION_TASKS_H

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/base/limits.h"

/* A chunk of a sorted ranking has this many ranks, one for each thread of a block. */
#define KV_RANKS KV_THREADS

/* The largest tile; tiles are multiples of 16 * KV_WARPS. */
#define KV_ATTENTION_TILE 512

/* One KV head of one segment, and the places at which its parts of the arrays begin. */
struct kv_attention_task {
	const char *k, *q;		/* q: of the first row used and its first query head */
	int64_t k_stride, q_row_stride, q_head_stride;
	uint64_t positions;		/* in arrays by position, n elements */
	uint64_t queries;		/* in arrays by row: [query head][row] */
	uint64_t stats;			/* [query head][row][tile] */
	uint64_t sums;			/* [query head][chunk of ranks] */
	uint64_t indices;
	uint32_t n;
	uint32_t begin, m;		/* positions begin ... begin + m - 1 have a rank */
	uint32_t budget;
	uint32_t n_rows, head_rows;	/* the newest of them, whose attention is kept by query head */
	uint32_t limits;		/* how many positions each row sees, the first ones */
	uint32_t first_item, n_tiles;	/* no tiles: kept whole, without being read */
};

static inline size_t kv_attention_limits_at(const struct kv_attention_job *job)
{
	return (size_t)job->n_segments * job->n_kv_heads * sizeof(struct kv_attention_task);
}

KV_BOTH static inline uint32_t kv_rank_chunks(uint32_t m)
{
	return (m + KV_RANKS - 1) / KV_RANKS;
}

/* Where the parts of the scratch memory begin. */
struct kv_attention_scratch {
	size_t last, order, spare, sums, stats, row_max, row_weight, score, pooled, attention, end;
};

static inline struct kv_attention_scratch kv_attention_scratch(const struct kv_attention_job *job)
{
	struct kv_attention_scratch s;
	size_t n = job->n_positions, group = job->n_q_heads / job->n_kv_heads;
	const struct kv_attention_rule *rule = job->params.rule;
	size_t ranked = rule->sorts ? n : 0;

	s.last = 0;
	s.order = s.last + (size_t)job->n_segments * job->n_q_heads * sizeof(uint64_t);
	s.spare = s.order + ranked * sizeof(uint64_t);
	s.sums = s.spare + ranked * sizeof(uint64_t);
	s.stats = s.sums + (ranked ? job->n_sums : 0) * sizeof(double);
	s.row_max = s.stats + job->n_stats * 2 * sizeof(float);
	s.row_weight = s.row_max + job->n_queries * sizeof(float);
	s.score = s.row_weight + job->n_queries * sizeof(float);
	s.pooled = s.score + n * sizeof(float);
	s.attention = s.pooled + (job->params.pool > 1 ? n : 0) * sizeof(float);
	s.end = s.attention + (rule->head_rows ? n * group : 0) * sizeof(float);
	return s;
}

#endif
