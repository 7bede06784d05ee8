/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decisions on a GPU that look at whole rows of attention: which positions each KV
 * head of many segments (layers x sequences, each of its own length) keeps. One
 * launch for all of them. The calls are those of refreekv.h:
 *
 *	kv_cuda_attend_prepare()	checks, and says how much memory it takes
 *	kv_cuda_attend_table()		writes a table on the host, for the caller
 *					to copy to the device on the same stream
 *	kv_cuda_attend()		the launch
 *
 * The launch allocates nothing and waits for nothing, so it can be captured in a
 * graph; it does not write to the table, so it can be replayed. The same input
 * gives the same bits.
 */
#ifndef KV_CUDA_ATTEND_H
#define KV_CUDA_ATTEND_H

#include <kvmod/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many positions a KV head keeps of those that have a rank. */
#define KV_ATTEND_TOP		0u	/* as many as its budget */
#define KV_ATTEND_SHARED	1u	/* heads of a segment share their budgets: AdaKV */
#define KV_ATTEND_MASS		2u	/* until each query head has `share` of its last row */
#define KV_ATTEND_NORM		3u	/* ReFreeKV: until a layer's norm lacks only `share` */

/*
 * The oldest `sinks` and the newest `tail` positions have no rank and are kept. The
 * others are ranked by the attention that the newest `window` rows and the query
 * heads of a group pay them, pooled; ties go to the older. MASS has no such rank:
 * each query head has its own, by its last row, and a KV head keeps the union.
 */
struct kv_attend_params {
	uint32_t rule;			/* KV_ATTEND_... */
	uint32_t sinks, tail;
	uint32_t window;
	uint32_t pool, pool_max;	/* width, odd, 1: none; 1: the maximum, 0: the average */
	double share;			/* MASS: p; NORM: threshold; SHARED: alpha; else 0 */
};

struct kv_attend_result {
	int32_t status;			/* 0, or KVMOD_ENUMERIC: then everything is kept */
	uint32_t reserved;
	double loss;			/* NORM: at the cut; else 0 */
};

/*
 * What a launch writes, all on the device. counts: [segment][KV head]. Of the
 * indices, ascending, those of KV head g of a segment begin at first + g * stride:
 * stride is the length of the segment's longest head, first is the sum of
 * n_kv_heads * stride over the segments before.
 */
struct kv_attend_output {
	struct kv_attend_result *results;
	uint32_t *counts, *indices;
};

struct kv_attend_job {
	struct kv_attend_params params;
	uint32_t n_segments, n_q_heads, n_kv_heads, head_dim;
	uint32_t k_type, q_type;
	uint32_t aligned;		/* every key begins at a multiple of 16 bytes, 4 if q8_0 */
	uint32_t tile;			/* positions that a block reads of one head */
	uint32_t rows;			/* the most that a segment uses */
	uint32_t units;			/* of eight queries that a block may hold; 0: as many as there is room for */
	float scale, softcap;
	uint32_t n_items;		/* tiles of all heads */
	uint32_t n_limits;
	uint64_t n_positions, n_queries, n_stats, n_sums;
	uint64_t n_indices;		/* room that the output's must have */
	size_t table_bytes, scratch_bytes;
};

/*
 * All segments have the same heads, dimension, types, scale and softcap; lengths are
 * each head's own, but NORM wants them equal within a segment. amounts is [segment]
 * [KV head]. TOP and SHARED: the budget, positions besides sinks and tail; NORM: how
 * many of the newest rows make the norm, the same within a segment; MASS: NULL.
 * KVMOD_EINVAL or KVMOD_ENOTSUP if that is not so, or if a view is not aligned to its
 * elements.
 */
int kv_cuda_attend_prepare(const struct kv_attend_params *params,
			   const struct kvmod_segment *const *segments, uint32_t n_segments,
			   const uint32_t *amounts, struct kv_attend_job *job);

/* table: job->table_bytes on the host */
void kv_cuda_attend_table(const struct kv_attend_job *job,
			  const struct kvmod_segment *const *segments, const uint32_t *amounts,
			  void *table);

/*
 * table and scratch (job->scratch_bytes, 256-byte aligned) are on the device;
 * stream is a cudaStream_t. 0, or KVMOD_EDEVICE and
 * CUDA's last error says why.
 */
int kv_cuda_attend(const struct kv_attend_job *job, const void *table, void *scratch,
		   const struct kv_attend_output *output, void *stream);

#ifdef __cplusplus
}
#endif
#endif
