/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is freed all at once, and lists of strings in it. */
#ifndef KVMOD_BASE_MEMORY_H
#define KVMOD_BASE_MEMORY_H

#include "core/base/log.h"

/* Allocations that are freed all at once. Zeroed, a pile is empty. */
struct kv_pile {
	struct kv_chunk *chunks;
};

/* Zeroed bytes, or NULL after kv_fail(). */
void *kv_pile_alloc(struct kv_pile *pile, size_t size);
char *kv_pile_strdup(struct kv_pile *pile, const char *text);
char *kv_pile_strndup(struct kv_pile *pile, const char *text, size_t n);
char *kv_pile_printf(struct kv_pile *pile, const char *format, ...) KV_PRINTF(2, 3);
void kv_pile_free(struct kv_pile *pile);

int kv_no_memory(void);			/* KVMOD_ENOMEM, said in words */

struct kv_strings {
	const char **item;
	size_t n, room;
};

int kv_strings_add(struct kv_pile *pile, struct kv_strings *list, const char *text);

#endif
