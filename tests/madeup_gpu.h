/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A made-up device that checks how the core treats memory and streams: the host cannot
 * read its pointers, and work queued on a stream runs when somebody waits for the stream.
 */
#ifndef KV_TESTS_MADEUP_GPU_H
#define KV_TESTS_MADEUP_GPU_H

#include <kvmod/device.h>
#include <kvmod/policy.h>

/* Its name may be another one, that the core never heard of. */
#ifndef MADEUP_DEVICE
#define MADEUP_DEVICE cuda
#endif

/* The module "cuda": the device, and the policy "positive" for it. */
extern const struct kvmod_module gpu_module;

/* What happened, and what is to fail. */
struct gpu {
	unsigned n_opened, n_closed;
	unsigned n_allocations, n_live;
	unsigned n_host_live;		/* allocations of the host's memory */
	unsigned n_to_host, n_from_host, n_gathers, n_waits;
	unsigned n_queued;		/* and not done */
	uint64_t bytes_copied;
	int32_t fail_open, fail_wait, fail_copy, fail_host_alloc;	/* a code; 0: succeed */
	unsigned fail_allocation;	/* which one, from 1; 0: none */
};
extern struct gpu gpu;

/* Memory of it, as the device itself gives it. NULL: none. */
void *gpu_alloc(uint64_t bytes);
void gpu_free(void *memory);
/* The host's pointer to memory of the device; aborts if `memory` is not the device's. */
void *gpu_reach(const void *memory);
/* Runs fn(arg) when the stream gets there. */
int32_t gpu_launch(void *stream, void (*fn)(void *arg), void *arg);

#endif
