/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compaction of rows in device memory: many gathers (K and V of all segments) in one
 * launch. The caller prepares, writes the table on the host, copies the table to the
 * device on the stream of the launch, and launches.
 */
#ifndef KV_KERNELS_CUDA_GATHER_GATHER_H
#define KV_KERNELS_CUDA_GATHER_GATHER_H

#include <kvmod/device.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kv_gather_job {
	uint32_t n_gathers, n_tiles;
	uint32_t n_spans, in_place;	/* in_place: some gather's source and target overlap */
	uint64_t n_indices;
	size_t table_bytes;
};

/*
 * Gathers lie `stride` bytes apart; their spans and indices are on the host. Two
 * neighbours with the same array, as K and V have, share one copy on the device.
 * KVMOD_EINVAL if source and target overlap and a row would move away from the front.
 */
int kv_cuda_gather_prepare(const struct kvmod_gather *gathers, uint32_t n_gathers, uint32_t stride,
			   struct kv_gather_job *job);
/*
 * How many gathers, from the first on, make a launch of their own: until their lists
 * have n_indices elements in all, and never between two that share a list. So the GPU
 * moves rows while the host copies the next lists.
 */
uint32_t kv_cuda_gather_part(const struct kvmod_gather *gathers, uint32_t n_gathers, uint32_t stride,
			     uint64_t n_indices);
void kv_cuda_gather_table(const struct kv_gather_job *job, const struct kvmod_gather *gathers,
			  uint32_t stride, void *table);
int kv_cuda_gather(const struct kv_gather_job *job, void *table, void *stream);

#ifdef __cplusplus
}
#endif
#endif
