/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Words: equal names, the nearest name to an unknown one, lists of devices, yes and no;
 * and text that is safe to show.
 */
#include "core/base/names.h"

#include <stdio.h>
#include <string.h>

const char *kv_kind_name(enum kv_kind kind)
{
	static const char *const names[] = { "policy", "engine", "device" };

	return names[kind];
}

static char fold(char c)
{
	return c == '-' ? '_' : c;
}

int kv_name_cmp(const char *a, const char *b)
{
	while (*a && fold(*a) == fold(*b)) {
		a++;
		b++;
	}
	return (unsigned char)fold(*a) - (unsigned char)fold(*b);
}

bool kv_name_eq(const char *a, const char *b)
{
	return kv_name_cmp(a, b) == 0;
}

bool kv_name_is(const char *text, size_t n, const char *name)
{
	size_t i = 0;

	while (i < n && name[i] && fold(text[i]) == fold(name[i]))
		i++;
	return i == n && name[i] == '\0';
}

static bool name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '_';
}

bool kv_name_valid(const char *name)
{
	size_t n = 0;

	while (name_char(name[n]))
		n++;
	return n > 0 && name[n] == '\0' && n < sizeof(((struct kv_nearest *)NULL)->best);
}

/* --- devices of a policy: "cpu npu" -------------------------------------------------- */

const char *kv_devices_next(const char **rest, size_t *length)
{
	const char *name = *rest + strspn(*rest, " ");

	*length = strcspn(name, " ");
	*rest = name + *length;
	return *length ? name : NULL;
}

bool kv_devices_valid(const char *devices)
{
	const char *rest = devices, *name;
	char copy[sizeof(((struct kv_nearest *)NULL)->best)];
	size_t n, n_names = 0;

	if (strcmp(devices, KV_ANY_DEVICE) == 0)
		return true;
	for (; (name = kv_devices_next(&rest, &n)); n_names++) {
		if (n >= sizeof(copy))
			return false;
		memcpy(copy, name, n);
		copy[n] = '\0';
		if (!kv_name_valid(copy))
			return false;
	}
	return n_names > 0;
}

bool kv_devices_have(const char *devices, const char *name)
{
	const char *rest = devices, *one;
	size_t n;

	if (!name || strcmp(devices, KV_ANY_DEVICE) == 0)
		return true;
	while ((one = kv_devices_next(&rest, &n)))
		if (kv_name_is(one, n, name))
			return true;
	return false;
}

bool kv_devices_overlap(const char *a, const char *b)
{
	const char *name;
	char copy[sizeof(((struct kv_nearest *)NULL)->best)];
	size_t n;

	if (strcmp(a, KV_ANY_DEVICE) == 0)
		return true;
	while ((name = kv_devices_next(&a, &n))) {
		snprintf(copy, sizeof(copy), "%.*s", (int)n, name);
		if (kv_devices_have(b, copy))
			return true;
	}
	return false;
}

/* --- the nearest name ------------------------------------------------------------------ */

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned ab = a < b ? a : b;

	return ab < c ? ab : c;
}

/* Edit distance; swapping two neighbours counts as one edit. */
static unsigned distance(const char *a, const char *b)
{
	enum { LONGEST = sizeof(((struct kv_nearest *)NULL)->best) };
	unsigned row[3][LONGEST + 1];
	size_t n = strlen(a), m = strlen(b);

	if (n >= LONGEST || m >= LONGEST)
		return LONGEST;
	for (size_t j = 0; j <= m; j++)
		row[0][j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		unsigned *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= m; j++) {
			unsigned differ = fold(a[i - 1]) != fold(b[j - 1]);

			now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + differ);
			if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) &&
			    fold(a[i - 2]) == fold(b[j - 1]) && before[j - 2] + 1 < now[j])
				now[j] = before[j - 2] + 1;
		}
	}
	return row[n % 3][m];
}

void kv_nearest_start(struct kv_nearest *nearest, const char *wanted)
{
	size_t n = strlen(wanted);

	nearest->wanted = wanted;
	nearest->best[0] = '\0';
	/* A name at a greater distance is a different word. */
	nearest->distance = n < 4 ? 2 : (unsigned)(n / 3 + 2);
}

void kv_nearest_offer(struct kv_nearest *nearest, const char *name)
{
	unsigned d = distance(nearest->wanted, name);

	if (d >= nearest->distance || strlen(name) >= sizeof(nearest->best))
		return;
	nearest->distance = d;
	strcpy(nearest->best, name);
}

const char *kv_nearest_hint(const struct kv_nearest *nearest, char *text, size_t room)
{
	text[0] = '\0';
	if (nearest->best[0])
		snprintf(text, room, "; did you mean `%s`?", nearest->best);
	return text;
}

bool kv_parse_bool(const char *text, int32_t *value)
{
	static const char *const words[] = {
		"no", "yes", "false", "true", "off", "on", "0", "1",
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		if (strcmp(text, words[i]) != 0)
			continue;
		*value = (int32_t)(i % 2);
		return true;
	}
	return false;
}

int kv_utf8_length(const char *s, size_t n)
{
	const unsigned char *u = (const unsigned char *)s;
	unsigned char least = 0x80, most = 0xbf;	/* of the second byte */
	int length;

	if (!n)
		return 0;
	if (u[0] < 0x80)
		return 1;
	if (u[0] < 0xc2 || u[0] > 0xf4)
		return -1;
	length = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
	if (u[0] == 0xe0)
		least = 0xa0;		/* else it would fit two bytes */
	else if (u[0] == 0xed)
		most = 0x9f;		/* surrogates */
	else if (u[0] == 0xf0)
		least = 0x90;
	else if (u[0] == 0xf4)
		most = 0x8f;		/* above U+10FFFF */
	for (int i = 1; i < length; i++) {
		if ((size_t)i == n)
			return 0;
		if (u[i] < least || u[i] > most)
			return -1;
		least = 0x80;
		most = 0xbf;
	}
	return length;
}

/* --- text that is safe to show ----------------------------------------------------- */

/* Decodes a UTF-8 character of known length. */
static uint32_t code_point(const unsigned char *u, int length)
{
	uint32_t c = length == 1 ? u[0] : u[0] & (0xffu >> (length + 1));

	for (int i = 1; i < length; i++)
		c = c << 6 | (u[i] & 0x3f);
	return c;
}

/*
 * Control characters (C0, DEL and C1) drive a terminal, line separators break a line, and
 * direction marks make text look like different text.
 */
static bool is_harmful(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* Writes what is shown for the character at s to text; returns its length in s. */
static size_t show_character(const char *s, size_t n, char text[KV_SHOWN_ROOM])
{
	int length = kv_utf8_length(s, n);
	uint32_t c;

	if (length <= 0) {
		snprintf(text, KV_SHOWN_ROOM, "\\x%02x", (unsigned char)*s);
		return 1;
	}
	c = code_point((const unsigned char *)s, length);
	if (c == '\n' || c == '\t')
		snprintf(text, KV_SHOWN_ROOM, " ");
	else if (is_harmful(c))
		snprintf(text, KV_SHOWN_ROOM, c < 0x100 ? "\\x%02x" : "\\u%04x", (unsigned)c);
	else
		snprintf(text, KV_SHOWN_ROOM, "%.*s", length, s);
	return (size_t)length;
}

size_t kv_show(const char *from, char *to, size_t room)
{
	size_t n = strlen(from), shown = 0, added;
	char text[KV_SHOWN_ROOM];
	bool fits = true;

	if (room)
		*to = '\0';
	for (size_t i = 0; i < n; shown += added) {
		i += show_character(from + i, n - i, text);
		added = strlen(text);
		fits = fits && shown + added < room;
		if (fits)
			memcpy(to + shown, text, added + 1);
	}
	return shown;
}
