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

#include <stdatomic.h>

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
	uint32_t n_threads;		/* the most */
	/* 64-byte aligned. Its counters must be 0 at first, and are 0 at the end. */
	void *scratch;
	atomic_uint next;		/* task; 0 at first */
};

/* Bytes of scratch, whatever the lengths are. */
size_t kv_flash_scratch(const struct kv_flash *flash);
/* The part of it that counters take, at its begin. */
#define KV_FLASH_COUNTERS 256u
/* The share of one thread of 0 .. n_threads - 1: all of those that there are must call this. */
void kv_flash_run(struct kv_flash *flash, uint32_t thread);

#endif
