/* SPDX-License-Identifier: Apache-2.0 */
/* Words: when two names are the same, which is nearest to an unknown one, yes and no, UTF-8. */
#ifndef KVMOD_NAMES_H
#define KVMOD_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* '-' and '_' are the same. */
bool kv_name_eq(const char *a, const char *b);
/* Letters, digits, '-' and '_', not empty. */
bool kv_name_valid(const char *name);

/* The nearest of the names offered to it; none is near while best is NULL. */
struct kv_nearest {
	const char *wanted;
	char best[64];			/* "" : none is near */
	unsigned distance;
};
void kv_nearest_start(struct kv_nearest *nearest, const char *wanted);
void kv_nearest_offer(struct kv_nearest *nearest, const char *name);
/* "; did you mean `x`?", or "". Lives as long as nearest->best does. */
const char *kv_nearest_hint(const struct kv_nearest *nearest, char *text, size_t room);
#define KV_HINT_ROOM 96

/* Is it a word for yes or no? Then *value is 1 or 0. */
bool kv_parse_bool(const char *text, int32_t *value);

/* Puts '?' where a byte would break a line or a terminal. */
void kv_one_line(char *text);

/*
 * Bytes of the UTF-8 character at s: 1 to 4; 0 if the end cuts it off, -1 if
 * there is none.
 */
int kv_utf8_length(const char *s, size_t n);

#endif
