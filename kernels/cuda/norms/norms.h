/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1 norms of Wo v, by query head and position (see struct kvmod_norms). The caller checks
 * all jobs, then prepares as many as one launch takes, writes the table, copies the table
 * to the device, and launches, until no job is left.
 */
#ifndef KV_KERNELS_CUDA_NORMS_NORMS_H
#define KV_KERNELS_CUDA_NORMS_NORMS_H

#include <kvmod/device.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Jobs of one launch: they have the same head_dim. */
struct kv_norms_job {
	uint32_t n_entries, n_items;	/* of the table; blocks */
	uint32_t chunks, batches;	/* see rows.cuh, of values */
	size_t table_bytes;
};

/* Jobs lie `stride` bytes apart. 0; or KVMOD_EINVAL or KVMOD_ENOTSUP, and why. */
int32_t kv_cuda_norms_check(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			    char *why, size_t room);
/* Returns how many of n_jobs jobs, 1 or more, make the launch. */
uint32_t kv_cuda_norms_prepare(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			       struct kv_norms_job *job);
void kv_cuda_norms_table(const struct kv_norms_job *job, const struct kvmod_norms *jobs,
			 uint32_t stride, void *table);
/* 0; or KVMOD_EDEVICE, and CUDA's last error is the reason. */
int kv_cuda_norms(const struct kv_norms_job *job, const void *table, void *stream);

#ifdef __cplusplus
}
#endif
#endif
