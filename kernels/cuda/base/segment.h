/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of a segment before its description goes to a kernel. */
#ifndef KV_KERNELS_CUDA_BASE_SEGMENT_H
#define KV_KERNELS_CUDA_BASE_SEGMENT_H

#include <stdbool.h>

#include <kvmod/types.h>

static inline size_t kv_element_bytes(uint32_t type)
{
	return type == KVMOD_F32 ? 4 : 2;
}

static inline bool kv_aligned_to(const void *p, int64_t stride, size_t bytes)
{
	return (uintptr_t)p % bytes == 0 && stride % (int64_t)bytes == 0;
}

/* The alignment of keys that are read in wide words; blocks of q8_0 have 34 bytes. */
static inline size_t kv_key_alignment(uint32_t type)
{
	return type == KVMOD_Q8_0 ? 4 : 16;
}

/* Can the kernels take its heads, dimension and types? 0, KVMOD_EINVAL or KVMOD_ENOTSUP. */
int kv_check_shape(const struct kvmod_segment *segment);
/* Can one launch decide both segments? They may differ in length alone. */
bool kv_same_shape(const struct kvmod_segment *a, const struct kvmod_segment *b);
/* Does it have queries, with every element aligned? */
bool kv_queries_fit(const struct kvmod_segment *segment);
/* How many of a head's cached positions row `row` of the segment's queries sees. */
uint32_t kv_seen(const struct kvmod_segment *segment, const struct kvmod_head *head, uint32_t row);

#endif
