/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV's decision on a GPU where positions are ranked by attention. */
#ifndef KV_KERNELS_CUDA_REFREEKV_BY_ATTENTION_H
#define KV_KERNELS_CUDA_REFREEKV_BY_ATTENTION_H

#include "kernels/cuda/attention/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * All heads of a segment, of equal length, keep the same number of positions: the
 * fewest with which the norm of the attention lacks no more than `share` of itself.
 * Without pooling. amounts: how many of the newest rows the norm is of, the same for
 * all heads of a segment.
 */
extern const struct kv_attention_rule kv_refreekv_by_attention;

/* The launch of this rule; see kv_cuda_attention(). */
int kv_cuda_refreekv_by_attention(const struct kv_attention_job *job, const void *table, void *scratch,
				  const struct kv_attention_output *output, void *stream);

#ifdef __cplusplus
}
#endif
#endif
