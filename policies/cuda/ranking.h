/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The common part of the policies that rank positions by attention on a GPU: one launch
 * decides all segments that are to be cut, and its lists go into the plan.
 */
#ifndef KV_POLICIES_CUDA_RANKING_H
#define KV_POLICIES_CUDA_RANKING_H

#include <kvmod/toolkit.h>

#include "kernels/cuda/attention/attention.h"

struct kv_ranking {
	struct kv_attention_params params;
	/*
	 * Is the segment to be decided? If so, writes amounts for each of its KV heads, as
	 * kv_cuda_attention_prepare() takes them.
	 */
	bool (*takes)(const void *self, const struct kvmod_request *request,
		      const struct kvmod_segment *segment, uint32_t *amounts);
};

/* The offset of the next part of a launch's memory. */
static inline size_t kv_rounded(size_t bytes)
{
	return (bytes + 255) / 256 * 256;
}

/* Reports that a kernel's prepare() refused a cache; returns err. */
int32_t kv_refuse_cache(const struct kvmod_host *host, int32_t err);

/* The policy's workspace() and compress(). self: the policy's instance */
int32_t kv_ranking_workspace(const void *self, const struct kv_ranking *ranking,
			     const struct kvmod_request *request, struct kvmod_workspace *need);
int32_t kv_ranking_decide(const void *self, const struct kv_ranking *ranking,
			  const struct kvmod_request *request, struct kvmod_plan *plan);

/* Is some head above its budget? Writes what the budget leaves besides the window to amounts. */
bool kv_window_takes(const struct kvmod_amount *budget, uint32_t window,
		     const struct kvmod_request *request, const struct kvmod_segment *segment,
		     uint32_t *amounts);

#endif
