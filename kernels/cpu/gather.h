/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction of rows in host memory. */
#ifndef KV_KERNELS_CPU_GATHER_H
#define KV_KERNELS_CPU_GATHER_H

#include <kvmod/device.h>

/*
 * Copies the rows that *g names to the front of g->dst, in order; checks
 * nothing. dst may be src, or lie below it in the same memory: a row never moves
 * away from the front, so no row is overwritten before it is read.
 */
void kv_cpu_gather(const struct kvmod_gather *g);

#endif
