/* SPDX-License-Identifier: Apache-2.0 */
/* The rules that select by attention: a budget for each head, a shared budget, or a share of the whole. */
#ifndef KV_KERNELS_CUDA_ATTEND_ATTEND_H
#define KV_KERNELS_CUDA_ATTEND_ATTEND_H

#include "kernels/cuda/attention/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SnapKV: each KV head keeps its heaviest positions. amounts: how many, besides sinks and tail. */
extern const struct kv_attention_rule kv_attend_top;
/* AdaKV: heads of a segment share their budgets. amounts as above; share: alpha. */
extern const struct kv_attention_rule kv_attend_shared;
/*
 * Twilight: each query head ranks by its own last row, and keeps its heaviest positions
 * until they have `share` of that row's attention; a KV head keeps the union. Without
 * sinks, tail, window and pooling. amounts: NULL.
 */
extern const struct kv_attention_rule kv_attend_mass;

/* The numbers of the rules in their kernel. */
#define KV_ATTEND_TOP		0u
#define KV_ATTEND_SHARED	1u
#define KV_ATTEND_MASS		2u

/* The launch of these rules; see kv_cuda_attention(). */
int kv_cuda_attend(const struct kv_attention_job *job, const void *table, void *scratch,
		   const struct kv_attention_output *output, void *stream);

#ifdef __cplusplus
}
#endif
#endif
