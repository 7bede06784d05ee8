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

void *kv_pile_alloc(struct kv_pile *pile, size_t size)
{
	struct kv_chunk *chunk = NULL;

	if (size <= SIZE_MAX - sizeof(*chunk))
		chunk = calloc(1, sizeof(*chunk) + size);
	if (!chunk) {
		kv_no_memory();
		return NULL;
	}
	chunk->next = pile->chunks;
	pile->chunks = chunk;
	return chunk->memory;
}

char *kv_pile_strndup(struct kv_pile *pile, const char *text, size_t n)
{
	char *copy = kv_pile_alloc(pile, n + 1);

	return copy ? memcpy(copy, text, n) : NULL;
}

char *kv_pile_strdup(struct kv_pile *pile, const char *text)
{
	return kv_pile_strndup(pile, text, strlen(text));
}

char *kv_pile_printf(struct kv_pile *pile, const char *format, ...)
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
	text = kv_pile_alloc(pile, (size_t)n + 1);
	if (!text)
		return NULL;
	va_start(args, format);
	vsnprintf(text, (size_t)n + 1, format, args);
	va_end(args);
	return text;
}

void kv_pile_free(struct kv_pile *pile)
{
	while (pile->chunks) {
		struct kv_chunk *chunk = pile->chunks;

		pile->chunks = chunk->next;
		free(chunk);
	}
}

int kv_strings_add(struct kv_pile *pile, struct kv_strings *list, const char *text)
{
	const char **item = list->item;

	if (list->n == list->room) {
		size_t room = list->room ? 2 * list->room : 8;

		item = kv_pile_alloc(pile, room * sizeof(*item));
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
