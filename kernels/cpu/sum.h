/* SPDX-License-Identifier: Apache-2.0 */
/* The least that reading memory can cost: what decisions are measured against. */
#ifndef KV_CPU_SUM_H
#define KV_CPU_SUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum of n bytes, with the widest loads there are. [any thread] */
uint64_t kv_cpu_sum_bytes(const void *data, size_t n);

#endif
