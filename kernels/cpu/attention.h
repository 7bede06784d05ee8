/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attention that some rows of queries pay to the keys of one KV head, over a
 * cache of any length and on any number of threads.
 *
 * The positions are scanned in parts. A scan reads its keys once and leaves the
 * softmax of its part; the totals of all parts then give the attention to any
 * positions. Logits are either kept in between or computed again: to read a few
 * keys twice costs less than to store all logits, to multiply all of them twice
 * costs more.
 *
 * Which positions make a part is the caller's choice. Results depend on that choice
 * and on the order of a part's scans, not on who scans which part. [any thread; parts
 * and positions of its own]
 */
#ifndef KV_KERNELS_CPU_ATTENTION_H
#define KV_KERNELS_CPU_ATTENTION_H

#include <kvmod/toolkit.h>

/*
 * Positions whose logits are in a near cache together. A range of whole tiles is
 * read fastest.
 */
#define KV_TILE KVMOD_TILE

struct kv_attention {
	/* Set by the caller, or by kv_attention_of(). */
	const struct kvmod_segment *segment;
	const struct kvmod_head *head;
	uint32_t g;			/* which KV head of the segment */
	uint32_t row, n_rows;		/* rows row .. row + n_rows - 1 of segment->q */
	uint32_t group;			/* query heads that share a KV head */
	uint32_t head_dim;
	uint32_t n;			/* cached positions */
	uint32_t n_parts;
	float *logits;			/* [n_rows][group][n], to keep them in; NULL: not kept */
	/*
	 * [n], added to all logits; NULL: none. With it attention is another: of what is
	 * weighted by exp(bias). A model's attention sink, which has no value, gets none of it.
	 */
	const float *bias;

	/* In the caller's memory, after kv_attention_lay_out(). */
	float *q;			/* [n_rows][group][head_dim], scaled */
	uint32_t *sees;			/* [n_rows]: see kvmod_row_sees() */
	/*
	 * Softmax of each part, [n_rows][group][n_parts]: the largest logit, and the
	 * sums of exp(logit - max) and of its square. kv_attention_total() puts
	 * exp(max - query_max) in the place of max.
	 */
	float *max, *sum, *squares;
	float *query_max;		/* [n_rows][group]: over all parts */
	float *query_weight;		/* [n_rows][group]: 1 / the sum of all parts */
};

/* Rows row .. row + n_rows - 1 of a segment and KV head g, in one part, no logits kept. */
struct kv_attention kv_attention_of(const struct kvmod_segment *segment, uint32_t g,
				    uint32_t row, uint32_t n_rows);
/*
 * Points the arrays into memory, 64-byte aligned, and returns the bytes that they
 * take: a multiple of 64. memory NULL: only that.
 */
size_t kv_attention_lay_out(struct kv_attention *a, void *memory);
/* Reads the queries, and empties all parts. */
void kv_attention_load(const struct kv_attention *a);

/* Adds positions begin .. end-1 to a part. */
void kv_attention_scan(const struct kv_attention *a, uint32_t part, uint32_t begin, uint32_t end);
/* After all scans. KVMOD_ENUMERIC if a row that sees something has no finite attention. */
int kv_attention_total(const struct kv_attention *a);

/* What follows needs the totals. */

/*
 * Of one row and query head of the group: the share of its attention that lies in
 * each part, and the sum of the squares of what it pays to the positions there.
 * [n_parts] each; NULL: not wanted.
 */
void kv_attention_parts(const struct kv_attention *a, uint32_t row, uint32_t h,
			double *share, double *squares);
/*
 * Adds `weight` times what the newest n_rows of the rows pay to positions begin ..
 * end-1: query head h of the group to out[h * head_stride + i - begin]. A
 * head_stride of 0 adds up the group.
 */
void kv_attention_add(const struct kv_attention *a, uint32_t n_rows, uint32_t begin, uint32_t end,
		      float weight, float *out, size_t head_stride);
/* Raises out[i - begin] to the most that any row and query head pays to position i. */
void kv_attention_raise(const struct kv_attention *a, uint32_t begin, uint32_t end, float *out);
/* Makes attention of the kept logits, in place: [n_rows][group][n], 0 where a row cannot see. */
void kv_attention_of_logits(const struct kv_attention *a);

#endif
