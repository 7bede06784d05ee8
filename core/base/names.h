/* SPDX-License-Identifier: Apache-2.0 */
/* Names: comparing them, finding the nearest to an unknown one; yes and no; UTF-8. */
#ifndef KV_CORE_BASE_NAMES_H
#define KV_CORE_BASE_NAMES_H

#include <config.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The kinds of things that modules provide and configurations name. */
enum kv_kind { KV_POLICY, KV_ENGINE, KV_DEVICE };
const char *kv_kind_name(enum kv_kind kind);	/* "policy", ... */

/* Names are equal if they differ only in '-' and '_'. */
bool kv_name_eq(const char *a, const char *b);
/* The same for a name that is the first n bytes of a longer text. */
bool kv_name_is(const char *text, size_t n, const char *name);
/* An order of names, for sorting: 0 if they are equal. */
int kv_name_cmp(const char *a, const char *b);
/* Letters, digits, '-' and '_', not empty. */
bool kv_name_valid(const char *name);

/*
 * Where a policy runs, in its table and in its file's metadata: names of devices separated
 * by spaces, "cpu npu", or only KV_ANY_DEVICE. KV_CPU is the host's own device.
 */
#define KV_CPU		"cpu"
#define KV_ANY_DEVICE	"*"
bool kv_devices_valid(const char *devices);
/* Does the list have this device? NULL stands for any device: always true. */
bool kv_devices_have(const char *devices, const char *name);
/* Do both lists have some device in common? */
bool kv_devices_overlap(const char *a, const char *b);
/* The next name of the list at *rest and its length; moves *rest past it. NULL: no more names. */
const char *kv_devices_next(const char **rest, size_t *length);

/* Finds the nearest of the names offered to it. */
struct kv_nearest {
	const char *wanted;
	char best[64];			/* "": no name is near */
	unsigned distance;
};
void kv_nearest_start(struct kv_nearest *nearest, const char *wanted);
void kv_nearest_offer(struct kv_nearest *nearest, const char *name);
/* Writes "; did you mean `x`?", or "", to text; returns text. */
const char *kv_nearest_hint(const struct kv_nearest *nearest, char *text, size_t room);
#define KV_HINT_ROOM 96

/* If text is a word for yes or no, sets *value to 1 or 0 and returns true. */
bool kv_parse_bool(const char *text, int32_t *value);

/*
 * Bytes of the UTF-8 character at s: 1 to 4; 0 if the text ends inside the character,
 * -1 if the bytes are not UTF-8.
 */
int kv_utf8_length(const char *s, size_t n);

/*
 * Text as one line of UTF-8 that is safe to print on a terminal: newlines and tabs
 * become spaces; bytes that are not UTF-8 and control characters become "\x9b",
 * direction marks and line separators "\u202e". The text is truncated before the first
 * character that does not fit into `room` bytes. Returns the length of the whole text.
 * Applied to its own result, kv_show() changes nothing.
 */
size_t kv_show(const char *from, char *to, size_t room);
#define KV_SHOWN_ROOM 8		/* for one character, including the terminating zero */

#endif
