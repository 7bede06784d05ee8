/* SPDX-License-Identifier: Apache-2.0 */
/* Chooses the SIMD level that the kernels use. */
#include <config.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/cpu/ops.h"

#define N_LEVELS 3

static const char *const names[N_LEVELS] = { "scalar", "avx2", "avx512" };

static const struct kv_cpu_ops *const tables[N_LEVELS] = {
	[KV_SIMD_SCALAR] = &kv_cpu_scalar,
#if defined(__x86_64__)
	[KV_SIMD_AVX2] = &kv_cpu_avx2,
	[KV_SIMD_AVX512] = &kv_cpu_avx512,
#endif
};

static atomic_int current = -1;	/* -1: not chosen yet */

static bool supported(int level)
{
	if (level < 0 || level >= N_LEVELS || !tables[level])
		return false;
#if defined(__x86_64__)
	if (level == KV_SIMD_AVX2)	/* F16C is older: it comes along */
		return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
	if (level == KV_SIMD_AVX512)
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
			__builtin_cpu_supports("avx512bw") && supported(KV_SIMD_AVX2);
#endif
	return true;
}

static int highest(int cap)
{
	while (!supported(cap))
		cap--;
	return cap;
}

/* The level of that name; N_LEVELS: no level has it. */
static int wanted(const char *name)
{
	int i = 0;

	while (i < N_LEVELS && !(name && !strcmp(name, names[i])))
		i++;
	return i;
}

static int choose(void)
{
	int level = wanted(getenv("KVMOD_SIMD"));

	return highest(level < N_LEVELS ? level : N_LEVELS - 1);
}

const char *kv_simd_unknown(void)
{
	const char *name = getenv("KVMOD_SIMD");

	return name && *name && wanted(name) == N_LEVELS ? name : NULL;
}

enum kv_simd kv_simd_level(void)
{
	int level = atomic_load_explicit(&current, memory_order_relaxed);

	if (level < 0) {
		level = choose();
		atomic_store_explicit(&current, level, memory_order_relaxed);
	}
	return (enum kv_simd)level;
}

bool kv_simd_set_level(enum kv_simd level)
{
	if (!supported((int)level))
		return false;
	atomic_store_explicit(&current, (int)level, memory_order_relaxed);
	return true;
}

const char *kv_simd_name(enum kv_simd level)
{
	return names[level];
}

const struct kv_cpu_ops *kv_cpu_ops(void)
{
	return tables[kv_simd_level()];
}
