/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions on rows of attention: a launch and its memory, and double arithmetic. */
#ifndef KV_TESTS_ATTEND_H
#define KV_TESTS_ATTEND_H

#include "kernels/cuda/attend/attend.h"
#include "kernels/cuda/refreekv/by_attention.h"
#include "tests/cuda/gpu.h"

struct attend {
	struct kv_attention_job job;
	uint32_t *amounts;		/* [segment][KV head] */
	void *table, *scratch;
	struct kv_attention_output device, host;
	size_t output_bytes;
	struct cache *caches;
};

/* amount: the same for every head. Ends the program if the job is refused. */
void attend_make(struct attend *a, const struct kv_attention_params *p, struct cache *caches, uint32_t n, uint32_t amount);
void attend_queue(struct attend *a, void *stream);
void attend_fetch(struct attend *a);
void attend_free(struct attend *a);

/* Indices of KV head g of segment i. */
const uint32_t *attend_indices(const struct attend *a, uint32_t i, uint32_t g);

/*
 * Is that what double arithmetic decides for segment i, but for what rounding may
 * change? If not, `why` says what is wrong.
 */
bool attend_is_right(const struct attend *a, uint32_t i, char *why, size_t room);

#endif
