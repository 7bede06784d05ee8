/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions by attention for tests: a launch with its memory, and a check by double arithmetic. */
#ifndef KV_TESTS_CUDA_ATTENTION_H
#define KV_TESTS_CUDA_ATTENTION_H

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

/* amount: for every head. Ends the program if prepare() refuses the caches. */
void attend_make(struct attend *a, const struct kv_attention_params *p, struct cache *caches, uint32_t n, uint32_t amount);
void attend_queue(struct attend *a, void *stream);
void attend_fetch(struct attend *a);
void attend_free(struct attend *a);

/* The indices that KV head g of segment i keeps. */
const uint32_t *attend_indices(const struct attend *a, uint32_t i, uint32_t g);

/*
 * Does the decision on segment i agree with double arithmetic, up to rounding? If not,
 * `why` says what is wrong.
 */
bool attend_is_right(const struct attend *a, uint32_t i, char *why, size_t room);

#endif
