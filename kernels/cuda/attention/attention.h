/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attention that the newest rows of queries pay to each position, and the
 * positions that a rule keeps for it: for each KV head of many segments (layers x
 * sequences, each of its own length), in one launch. The rules are in attend/attend.h
 * and refreekv/by_attention.h. Three calls make a decision:
 *
 *	kv_cuda_attention_prepare()	checks the segments and computes memory sizes
 *	kv_cuda_attention_table()	writes a table on the host, for the caller
 *					to copy to the device on the same stream
 *	kv_cuda_attention()		the launch
 *
 * The launch allocates nothing and waits for nothing, so a graph can capture it; it
 * does not write to the table, so the graph can be replayed. The same input gives
 * the same bits.
 */
#ifndef KV_KERNELS_CUDA_ATTENTION_ATTENTION_H
#define KV_KERNELS_CUDA_ATTENTION_ATTENTION_H

#include <stdbool.h>

#include <kvmod/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kv_attention_rule;
struct kv_attention_task;

/*
 * The oldest `sinks` and the newest `tail` positions have no rank and are kept. The
 * others are ranked by the attention that the newest `window` rows and the query
 * heads of a group pay to them, pooled; of equal positions the older ranks first.
 * Not every rule uses this rank.
 */
struct kv_attention_params {
	const struct kv_attention_rule *rule;
	uint32_t sinks, tail;
	uint32_t window;
	uint32_t pool, pool_max;	/* width, odd, 1: none; 1: the maximum, 0: the average */
	double share;			/* of what, the rule says; else 0 */
};

struct kv_attention_result {
	int32_t status;			/* 0; or KVMOD_ENUMERIC: everything is kept */
	uint32_t reserved;
	double loss;			/* at the cut, if the rule has_loss; else 0 */
};

/*
 * What a launch writes, all on the device. counts: [segment][KV head]. indices:
 * ascending; those of KV head g of a segment begin at first + g * stride, where
 * stride is the length of the segment's longest head, and first is the sum of
 * n_kv_heads * stride over the segments before.
 */
struct kv_attention_output {
	struct kv_attention_result *results;
	uint32_t *counts, *indices;
};

struct kv_attention_job {
	struct kv_attention_params params;
	uint32_t n_segments, n_q_heads, n_kv_heads, head_dim;
	uint32_t k_type, q_type;
	uint32_t aligned;		/* every key begins at a multiple of 16 bytes, 4 if q8_0 */
	uint32_t tile;			/* positions of one head that a block reads at a time */
	uint32_t rows;			/* the most that a segment uses */
	uint32_t units;			/* of eight queries that a block may hold; 0: as many as fit */
	float scale, softcap;
	uint32_t n_items;		/* tiles of all heads */
	uint32_t n_limits;
	uint64_t n_positions, n_queries, n_stats, n_sums;
	uint64_t n_indices;		/* elements of the output's indices */
	size_t table_bytes, scratch_bytes;
};

/* How the positions of a KV head are chosen, once their attention is known. */
struct kv_attention_rule {
	uint32_t number;		/* among the rules of one kernel */
	uint32_t averages;		/* 1: ranks are by the mean of rows and heads; 0: by the sum */
	uint32_t sorts;			/* 1: needs scratch for a sorted ranking */
	uint32_t equal_heads;		/* 1: heads of a segment must have equal lengths */
	uint32_t has_loss;		/* 1: results say the loss at the cut */
	/* Can the rule take these parameters and amounts? 0 or KVMOD_EINVAL. */
	int (*check)(const struct kv_attention_params *params, const uint32_t *amounts);
	/*
	 * For how many of the newest rows the mean attention of each query head is kept;
	 * amount: the segment's. NULL: the rule does not need it.
	 */
	uint32_t (*head_rows)(uint32_t amount);
	/* Must this KV head be read? If not, it is kept whole. */
	bool (*reads)(const struct kv_attention_params *params, const struct kv_attention_task *task);
	int (*launch)(const struct kv_attention_job *job, const void *table, void *scratch,
		      const struct kv_attention_output *output, void *stream);
};

/*
 * All segments must have the same heads, dimension, types, scale and softcap; each
 * head may have its own length, unless the rule has equal_heads. amounts is [segment]
 * [KV head], of what the rule says, or NULL. KVMOD_EINVAL or KVMOD_ENOTSUP if segments,
 * parameters or amounts do not fit, or if a view is not aligned to its elements.
 */
int kv_cuda_attention_prepare(const struct kv_attention_params *params,
			      const struct kvmod_segment *const *segments, uint32_t n_segments,
			      const uint32_t *amounts, struct kv_attention_job *job);

/* table: job->table_bytes on the host */
void kv_cuda_attention_table(const struct kv_attention_job *job,
			     const struct kvmod_segment *const *segments, const uint32_t *amounts,
			     void *table);

/*
 * table and scratch (job->scratch_bytes, 256-byte aligned) are on the device; stream
 * is a cudaStream_t. 0; or KVMOD_EDEVICE, and CUDA's last error is the reason.
 */
static inline int kv_cuda_attention(const struct kv_attention_job *job, const void *table, void *scratch,
				    const struct kv_attention_output *output, void *stream)
{
	return job->params.rule->launch(job, table, scratch, output, stream);
}

#ifdef __cplusplus
}
#endif
#endif
