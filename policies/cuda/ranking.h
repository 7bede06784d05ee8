/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policies that rank by rows of attention share on a GPU: the segments that
 * are to be cut go to one launch, and the lists that it wrote go into the plan.
 */
#ifndef KV_POLICIES_CUDA_RANKING_H
#define KV_POLICIES_CUDA_RANKING_H

#include <kvmod/toolkit.h>

#include "kernels/cuda/attention/attention.h"

struct kv_ranking {
	struct kv_attention_params params;
	/*
	 * Is the segment to be decided? amounts: what kv_cuda_attention_prepare() takes,
	 * for each KV head.
	 */
	bool (*takes)(const void *self, const struct kvmod_request *request,
		      const struct kvmod_segment *segment, uint32_t *amounts);
};

/* Where the next part of memory for a launch may begin. */
static inline size_t kv_rounded(size_t bytes)
{
	return (bytes + 255) / 256 * 256;
}

/* What a kernel's prepare() refuses, in words; returns err. */
int32_t kv_refuse_cache(const struct kvmod_host *host, int32_t err);

/* self: the policy's instance */
int32_t kv_ranking_workspace(const void *self, const struct kv_ranking *ranking,
			     const struct kvmod_request *request, struct kvmod_workspace *need);
int32_t kv_ranking_decide(const void *self, const struct kv_ranking *ranking,
			  const struct kvmod_request *request, struct kvmod_plan *plan);

/* Is some head above its budget? amounts: what the budget leaves besides the window. */
bool kv_window_takes(const struct kvmod_amount *budget, uint32_t window,
		     const struct kvmod_request *request, const struct kvmod_segment *segment,
		     uint32_t *amounts);

#endif
