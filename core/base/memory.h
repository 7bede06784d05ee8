/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is freed all at once, and lists of strings in it. */
#ifndef KV_CORE_BASE_MEMORY_H
#define KV_CORE_BASE_MEMORY_H

#include "core/base/log.h"

/* Allocations that are freed all at once. Zeroed, an arena is empty. */
struct kv_arena {
	struct kv_chunk *chunks;
};

/* Zeroed bytes, or NULL after kv_fail(). */
void *kv_arena_alloc(struct kv_arena *arena, size_t size);
char *kv_arena_strdup(struct kv_arena *arena, const char *text);
char *kv_arena_strndup(struct kv_arena *arena, const char *text, size_t n);
char *kv_arena_printf(struct kv_arena *arena, const char *format, ...) KV_PRINTF(2, 3);
void kv_arena_free(struct kv_arena *arena);

int kv_no_memory(void);			/* sets the message; returns KVMOD_ENOMEM */

struct kv_strings {
	const char **item;
	size_t n, room;
};

int kv_strings_add(struct kv_arena *arena, struct kv_strings *list, const char *text);

#endif
