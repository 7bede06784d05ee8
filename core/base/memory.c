/* SPDX-License-Identifier: Apache-2.0 */
/* Allocations that are freed all at once. */
#include "core/base/memory.h"

#include <stdlib.h>
#include <string.h>

struct kv_chunk {
	struct kv_chunk *next;
	max_align_t memory[];
};

int kv_no_memory(void)
{
	return kv_fail(KVMOD_ENOMEM, "out of memory");
}

void *kv_arena_alloc(struct kv_arena *arena, size_t size)
{
	struct kv_chunk *chunk = NULL;

	if (size <= SIZE_MAX - sizeof(*chunk))
		chunk = calloc(1, sizeof(*chunk) + size);
	if (!chunk) {
		kv_no_memory();
		return NULL;
	}
	chunk->next = arena->chunks;
	arena->chunks = chunk;
	return chunk->memory;
}

char *kv_arena_strndup(struct kv_arena *arena, const char *text, size_t n)
{
	char *copy = kv_arena_alloc(arena, n + 1);

	return copy ? memcpy(copy, text, n) : NULL;
}

char *kv_arena_strdup(struct kv_arena *arena, const char *text)
{
	return kv_arena_strndup(arena, text, strlen(text));
}

char *kv_arena_printf(struct kv_arena *arena, const char *format, ...)
{
	va_list args;
	char *text;
	int n;

	va_start(args, format);
	n = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (n < 0) {
		kv_no_memory();
		return NULL;
	}
	text = kv_arena_alloc(arena, (size_t)n + 1);
	if (!text)
		return NULL;
	va_start(args, format);
	vsnprintf(text, (size_t)n + 1, format, args);
	va_end(args);
	return text;
}

void kv_arena_free(struct kv_arena *arena)
{
	while (arena->chunks) {
		struct kv_chunk *chunk = arena->chunks;

		arena->chunks = chunk->next;
		free(chunk);
	}
}

int kv_strings_add(struct kv_arena *arena, struct kv_strings *list, const char *text)
{
	const char **item = list->item;

	if (list->n == list->room) {
		size_t room = list->room ? 2 * list->room : 8;

		item = kv_arena_alloc(arena, room * sizeof(*item));
		if (!item)
			return KVMOD_ENOMEM;
		if (list->n)
			memcpy(item, list->item, list->n * sizeof(*item));
		list->item = item;
		list->room = room;
	}
	list->item[list->n++] = text;
	return KVMOD_OK;
}
