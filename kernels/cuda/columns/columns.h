/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Column reductions of attention: what rows of queries pay to each position, as a sum or
 * a maximum over the rows (see struct kvmod_columns). The caller checks all jobs, then
 * prepares as many as one launch takes, writes the table, copies the table to the
 * device, and launches, until no job is left. Launches on one stream may share scratch.
 */
#ifndef KV_KERNELS_CUDA_COLUMNS_COLUMNS_H
#define KV_KERNELS_CUDA_COLUMNS_COLUMNS_H

#include <kvmod/device.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Jobs of one launch. */
struct kv_columns_job {
	uint32_t n_entries;		/* of the table: jobs with a position that some row sees */
	uint32_t n_items, n_units;	/* blocks of a reading; units of eight queries */
	uint32_t chunks, parts, batches;	/* see rows.cuh, of keys */
	uint32_t split;			/* blocks of one head each */
	uint32_t head_dim, k_type;
	float scale, softcap;
	size_t table_bytes;
	uint64_t scratch_bytes;
};

/* Jobs lie `stride` bytes apart. 0; or KVMOD_EINVAL or KVMOD_ENOTSUP, and why. */
int32_t kv_cuda_columns_check(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
			      char *why, size_t room);
/* Returns how many of n_jobs jobs, 1 or more, make the launch. */
uint32_t kv_cuda_columns_prepare(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
				 struct kv_columns_job *job);
/* `taken`: what prepare() returned */
void kv_cuda_columns_table(const struct kv_columns_job *job, const struct kvmod_columns *jobs,
			   uint32_t taken, uint32_t stride, void *table);
/* scratch: 16-byte aligned. 0; or KVMOD_EDEVICE, and CUDA's last error is the reason. */
int kv_cuda_columns(const struct kv_columns_job *job, const void *table, void *scratch,
		    void *stream);

#ifdef __cplusplus
}
#endif
#endif
