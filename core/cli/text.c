/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows, and UTF-8 that comes in pieces. */
#include "core/cli/text.h"
#include "core/base/names.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int cli_text_add(struct cli_text *text, const char *bytes, size_t n)
{
	if (text->n + n + 1 > text->room) {
		size_t room = 2 * (text->n + n) + 64;
		char *grown = realloc(text->bytes, room);

		if (!grown)
			return -1;
		text->bytes = grown;
		text->room = room;
	}
	if (n)
		memcpy(text->bytes + text->n, bytes, n);
	text->n += n;
	text->bytes[text->n] = '\0';
	return 0;
}

void cli_text_free(struct cli_text *text)
{
	free(text->bytes);
	*text = (struct cli_text){ 0 };
}

void cli_text_drop_bom(struct cli_text *text, size_t from)
{
	static const char bom[] = "\xef\xbb\xbf";
	const size_t n = sizeof(bom) - 1;

	if (text->n - from < n || memcmp(text->bytes + from, bom, n))
		return;
	/* With the NUL at the end. */
	memmove(text->bytes + from, text->bytes + from + n, text->n - from - n + 1);
	text->n -= n;
}

void cli_text_tidy(struct cli_text *text, size_t from)
{
	size_t n = from;

	if (text->n == from)
		return;
	cli_text_drop_bom(text, from);
	for (size_t i = from; i < text->n; i++) {
		bool ends_line = i + 1 == text->n || text->bytes[i + 1] == '\n';

		if (text->bytes[i] != '\r' || !ends_line)
			text->bytes[n++] = text->bytes[i];
	}
	text->n = n;
	text->bytes[n] = '\0';
}

size_t cli_utf8_bad(const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		int length = kv_utf8_length(s + i, n - i);

		if (length <= 0 || !s[i])
			return i;
		i += (size_t)length;
	}
	return n;
}

static int add_bad(struct cli_text *out)
{
	return cli_text_add(out, "\xef\xbf\xbd", 3);
}

/* Takes one byte more; a character is decided after four at the latest. */
static int add_byte(struct cli_utf8_stream *s, char byte, struct cli_text *out)
{
	int err, length;

	s->held[s->n_held++] = byte;
	length = kv_utf8_length(s->held, s->n_held);
	if (length == 0)
		return 0;
	if (length > 0) {
		err = cli_text_add(out, s->held, s->n_held);
		s->n_held = 0;
		return err;
	}
	/* The new byte broke what was held, and may begin something itself. */
	if (s->n_held == 1) {
		s->n_held = 0;
		return add_bad(out);
	}
	s->n_held = 0;
	return add_bad(out) ? -1 : add_byte(s, byte, out);
}

int cli_utf8_add(struct cli_utf8_stream *s, const char *bytes, size_t n, struct cli_text *out)
{
	for (size_t i = 0; i < n; i++)
		if (add_byte(s, bytes[i], out))
			return -1;
	return 0;
}

int cli_utf8_end(struct cli_utf8_stream *s, struct cli_text *out)
{
	int err = s->n_held ? add_bad(out) : 0;

	s->n_held = 0;
	return err;
}
