/* SPDX-License-Identifier: Apache-2.0 */
/*
 * |Wo v|_1: how much the value of a cached position can change a layer's output, as struct
 * kvmod_norms of <kvmod/device.h> describes it, on the host.
 *
 * Values of up to 48 positions lie side by side, one in a lane, and rows of Wo pass by. All
 * arithmetic is fp32. A norm does not depend on what other positions a call has, nor on the
 * number of threads.
 */
#ifndef KV_KERNELS_CPU_WO_NORMS_H
#define KV_KERNELS_CPU_WO_NORMS_H

#include <kvmod/device.h>

/* Scratch memory, 64-byte aligned, for these jobs on n_threads threads: some 100 KiB for each. */
size_t kv_wo_norms_scratch(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			   uint32_t n_threads);
/*
 * Runs the jobs on n_threads of the host's threads; host NULL: on the caller's. No two jobs
 * have the same `out`. KVMOD_EINVAL, KVMOD_ENOTSUP: a job is wrong, and nothing was done.
 */
int32_t kv_wo_norms(const struct kvmod_host *host, const struct kvmod_norms *jobs, uint32_t n_jobs,
		    uint32_t stride, uint32_t n_threads, void *scratch);

#endif
