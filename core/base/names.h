/* SPDX-License-Identifier: Apache-2.0 */
/* Words: when two names are the same, which is nearest to an unknown one, yes and no, UTF-8. */
#ifndef KV_CORE_BASE_NAMES_H
#define KV_CORE_BASE_NAMES_H

#include <config.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a module provides, and a configuration names. */
enum kv_kind { KV_POLICY, KV_ENGINE, KV_DEVICE };
const char *kv_kind_name(enum kv_kind kind);	/* "policy", ... */

/* '-' and '_' are the same. */
bool kv_name_eq(const char *a, const char *b);
/* The same for a name of n bytes that stands in a longer text. */
bool kv_name_is(const char *text, size_t n, const char *name);
/* An order of names, for sorting: 0 where they are the same. */
int kv_name_cmp(const char *a, const char *b);
/* Letters, digits, '-' and '_', not empty. */
bool kv_name_valid(const char *name);

/*
 * Where a policy runs, in its table and in the section of its file: names of devices with
 * spaces between them, "cpu npu", or KV_ANY_DEVICE alone. KV_CPU is the host's own device.
 */
#define KV_CPU		"cpu"
#define KV_ANY_DEVICE	"*"
bool kv_devices_valid(const char *devices);
/* Is that device among them? NULL, no device in particular, always is. */
bool kv_devices_have(const char *devices, const char *name);
/* Is any device among both? */
bool kv_devices_overlap(const char *a, const char *b);
/* The next name of the list at *rest and its length, *rest behind it; NULL: none is left. */
const char *kv_devices_next(const char **rest, size_t *length);

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

/*
 * Bytes of the UTF-8 character at s: 1 to 4; 0 if the end cuts it off, -1 if
 * there is none.
 */
int kv_utf8_length(const char *s, size_t n);

/*
 * Text as one line of UTF-8 that a terminal shows and does not obey: newlines and
 * tabs become spaces; bytes that are no UTF-8 and controls "\x9b", marks of direction
 * and line separators "\u202e". What does not fit into `room` bytes is left out from
 * the first character on that does not. Returns the length of the whole. Shown
 * again, it stays as it is.
 */
size_t kv_show(const char *from, char *to, size_t room);
#define KV_SHOWN_ROOM 8		/* of one character, the terminating zero included */

#endif
