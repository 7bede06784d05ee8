/* SPDX-License-Identifier: Apache-2.0 */
/* Divides memory that the caller brings; the same calls without memory count its bytes. */
#ifndef KV_KERNELS_CPU_ARENA_H
#define KV_KERNELS_CPU_ARENA_H

#include <stddef.h>

struct kv_arena {
	void *base;			/* NULL: only count */
	size_t used;			/* bytes */
};

/* Bytes up to the end of a cache line. */
static inline size_t kv_line_bytes(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

/* Room for n elements of that size, in whole cache lines; NULL without memory. */
static inline void *kv_take(struct kv_arena *arena, size_t n, size_t size)
{
	void *memory = arena->base ? (char *)arena->base + arena->used : NULL;

	arena->used += kv_line_bytes(n * size);
	return memory;
}

#endif
