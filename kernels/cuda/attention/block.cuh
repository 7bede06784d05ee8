/* SPDX-License-Identifier: Apache-2.0 */
/* A decision by attention as its blocks know it: the launch, and ranks of positions. */
#ifndef KV_KERNELS_CUDA_ATTENTION_BLOCK_CUH
#define KV_KERNELS_CUDA_ATTENTION_BLOCK_CUH

#include "kernels/cuda/attention/tasks.h"

struct kv_attention {
	const struct kv_attention_task *tasks;	/* [segment][KV head] */
	const uint32_t *limits;
	/* Arrays by row, task after task; see struct kv_attention_task. */
	float2 *stats;			/* largest logit and sum of a tile */
	float *row_max, *row_weight;
	/* Arrays by position, task after task. */
	float *score, *pooled;
	float *attention;		/* [query head][n]; NULL: the rule does not need it */
	uint64_t *order, *spare;	/* sorted values of kv_rank(); room to sort them */
	double *sums;			/* of squares, from this chunk of ranks to the last */
	uint64_t *last;			/* [task][query head]: the last rank that is kept */
	struct kv_attention_output out;
	struct kv_attention_params params;	/* rule points to host memory */
	uint32_t rule, averages;	/* its number and flag */
	float scale, softcap;		/* see logit.cuh */
	uint32_t n_segments, n_tasks, n_items, n_limits;
	uint32_t n_q_heads, n_kv_heads, group, dim, q_type;
	uint32_t tile, rows;
	uint32_t units;			/* of eight queries that a block holds */
};

/*
 * A position's rank as a number: smaller is heavier, ties go to the older. No two
 * positions of a head have the same.
 */
static __device__ __forceinline__ uint64_t kv_rank(float score, uint32_t position)
{
	uint32_t bits = __float_as_uint(score + 0.f);	/* -0 is 0 */

	bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
	return (uint64_t)~bits << 32 | position;
}

/* The score in a rank; scores are not negative. */
static __device__ __forceinline__ float kv_rank_score(uint64_t rank)
{
	return __uint_as_float(~(uint32_t)(rank >> 32) & 0x7fffffffu);
}

/* The status of a task's segment. */
static __device__ __forceinline__ int32_t kv_status_of(const struct kv_attention &p, uint32_t task)
{
	return p.out.results[task / p.n_kv_heads].status;
}

/* Is a task to be decided? Not if it is kept whole, or after an error in its segment. */
static __device__ __forceinline__ bool kv_is_cut(const struct kv_attention &p, uint32_t task)
{
	return p.tasks[task].n_tiles && kv_status_of(p, task) == 0;
}

#endif
