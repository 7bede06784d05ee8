/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instructions the kernels use: the best that the processor has, chosen at
 * run time. The environment variable KVMOD_SIMD (scalar, avx2, avx512) caps it.
 * [any thread]
 */
#ifndef KV_KERNELS_CPU_SIMD_H
#define KV_KERNELS_CPU_SIMD_H

#include <stdbool.h>

enum kv_simd { KV_SIMD_SCALAR, KV_SIMD_AVX2, KV_SIMD_AVX512 };

enum kv_simd kv_simd_level(void);
/* The value of KVMOD_SIMD, if no level has that name; else NULL. */
const char *kv_simd_unknown(void);
/* For tests. False, and nothing changes, if this processor or build lacks it. */
bool kv_simd_set_level(enum kv_simd level);
/* "avx2" */
const char *kv_simd_name(enum kv_simd level);

#endif
