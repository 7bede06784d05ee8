/* SPDX-License-Identifier: Apache-2.0 */
/* What the processor can do at best: the limits that decisions are compared with. */
#ifndef KV_KERNELS_CPU_LIMITS_H
#define KV_KERNELS_CPU_LIMITS_H

#include <stddef.h>
#include <stdint.h>

/* The sum of n bytes, with the widest loads of the SIMD level. [any thread] */
uint64_t kv_cpu_sum_bytes(const void *data, size_t n);
/*
 * Does at least n multiply-adds of floats in registers, as fast as the SIMD level
 * allows; returns how many. *sum is of no use but to be needed. [any thread]
 */
uint64_t kv_cpu_multiply_add(uint64_t n, float *sum);

#endif
