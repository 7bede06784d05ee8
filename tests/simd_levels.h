/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of all SIMD levels: reports once which levels this machine lacks. */
#ifndef KV_TESTS_SIMD_LEVELS_H
#define KV_TESTS_SIMD_LEVELS_H

#include <stdio.h>

#include "kernels/cpu/simd.h"

static inline void simd_say_missing(void)
{
	enum kv_simd best = kv_simd_level();

	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++)
		if (!kv_simd_set_level(level))
			printf("skipped: the %s kernels, for which this processor is too old\n",
			       kv_simd_name(level));
	kv_simd_set_level(best);
}

#endif
