/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flash attention on the host: the output of attention of new rows of queries to the cached
 * rows of KV heads, each with a length of its own, softmax as it goes along.
 *
 * A KV head is read once for all query heads of its group, and decoded once for many rows.
 * Threads take tasks, which are blocks of queries on stretches of positions; the last one to
 * end a block adds its stretches up. Results do not depend on how many threads there are.
 */
#ifndef KV_KERNELS_CPU_FLASH_H
#define KV_KERNELS_CPU_FLASH_H

#include <kvmod/types.h>

struct kv_flash {
	uint32_t head_dim, n_heads;	/* KV heads */
	uint32_t group;			/* query heads of each */
	uint32_t n_rows;
	float scale;			/* of the logits */
	/* Row t of query head h begins at q + t * q_row + h * q_head, and out alike. */
	const float *q;
	size_t q_row, q_head;
	float *out;
	size_t out_row, out_head;
	/*
	 * All KV heads end to end: head g has the rows from first[g] on, of which row t of the
	 * queries sees n[g] + t + 1. Of any type, head_dim whole blocks. Rows that no query sees
	 * may hold anything; where one that is seen is not finite, so are the outputs of all rows
	 * near those that see it.
	 */
	struct kvmod_view k, v;
	const uint32_t *first, *n;
	uint32_t n_threads;
	void *scratch;			/* 64-byte aligned */
};

/*
 * Bytes of scratch, whatever the lengths are; fewer threads need no more. The first
 * KV_FLASH_COUNTERS of them must be 0, and are 0 again at the end.
 */
size_t kv_flash_scratch(const struct kv_flash *flash);
#define KV_FLASH_COUNTERS 320u
/* The share of a thread: all of 0 .. n_threads - 1 must call this. [each thread] */
void kv_flash_run(const struct kv_flash *flash, uint32_t thread);

#endif
