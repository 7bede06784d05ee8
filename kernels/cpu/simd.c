/* SPDX-License-Identifier: Apache-2.0 */
/* Which level is used, and the calls that every level shares. */
#include <config.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/cpu/ops.h"

#define N_LEVELS 3

static const char *const names[N_LEVELS] = { "scalar", "avx2", "avx512" };

static const struct kv_cpu_ops *const tables[N_LEVELS] = {
	[KV_SIMD_SCALAR] = &kv_cpu_scalar,
};

static atomic_int current = -1;	/* -1: not chosen yet */

static bool supported(int level)
{
	return level >= 0 && level < N_LEVELS && tables[level];
}

static int highest(int cap)
{
	while (!supported(cap))
		cap--;
	return cap;
}

static int choose(void)
{
	const char *wanted = getenv("KVMOD_SIMD");
	int i;

	for (i = 0; wanted && i < N_LEVELS; i++)
		if (!strcmp(wanted, names[i]))
			return highest(i);
	return highest(N_LEVELS - 1);
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
