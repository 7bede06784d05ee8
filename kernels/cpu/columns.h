/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention that rows of queries pay to the positions of KV heads, reduced over the rows: what
 * struct kvmod_columns of <kvmod/device.h> describes, on the host.
 *
 * Up to 48 rows of one query head at a time have their logits computed once, in a near cache,
 * for all positions; they become weights when all are there. Threads share the work by query
 * heads and by slices of the rows. Results do not depend on how many threads there are.
 */
#ifndef KV_KERNELS_CPU_COLUMNS_H
#define KV_KERNELS_CPU_COLUMNS_H

#include <kvmod/device.h>

/*
 * Scratch memory, 64-byte aligned, for these jobs on n_threads threads: for each thread at most
 * 4 MiB (or 64 bytes a position, if that is more), and 4 bytes a position for each of at most
 * 64 slices. 0 for jobs that kv_columns() refuses.
 */
size_t kv_columns_scratch(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
			  uint32_t n_threads);
/*
 * Runs the jobs on n_threads of the host's threads; host NULL: on the caller's. No two jobs
 * have the same `out`. KVMOD_EINVAL, KVMOD_ENOTSUP: a job is wrong, and nothing was done.
 */
int32_t kv_columns(const struct kvmod_host *host, const struct kvmod_columns *jobs, uint32_t n_jobs,
		   uint32_t stride, uint32_t n_threads, void *scratch);

#endif
