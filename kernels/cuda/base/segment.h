/* SPDX-License-Identifier: Apache-2.0 */
/* What every decision on a GPU asks of a segment before it describes it to a kernel. */
#ifndef KV_CUDA_BASE_SEGMENT_H
#define KV_CUDA_BASE_SEGMENT_H

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

/* What keys begin at a multiple of, to be read by as many bytes: those of q8_0 have blocks of 34. */
static inline size_t kv_key_alignment(uint32_t type)
{
	return type == KVMOD_Q8_0 ? 4 : 16;
}

/* Are heads, dimension and types such as the kernels take? KVMOD_EINVAL, KVMOD_ENOTSUP. */
int kv_check_shape(const struct kvmod_segment *segment);
/* One launch decides segments that are alike in all but length. */
bool kv_same_shape(const struct kvmod_segment *a, const struct kvmod_segment *b);
/* Are queries there, each element where it may be read? */
bool kv_queries_fit(const struct kvmod_segment *segment);
/* How many cached positions of a head row `row` of the segment's sees. */
uint32_t kv_seen(const struct kvmod_segment *segment, const struct kvmod_head *head, uint32_t row);

#endif
