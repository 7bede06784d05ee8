/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows, and UTF-8 that comes in pieces. */
#ifndef KVMOD_CLI_TEXT_H
#define KVMOD_CLI_TEXT_H

#include <stddef.h>

/* Bytes, with a NUL after them. All zero is an empty one. */
struct cli_text {
	char *bytes;
	size_t n, room;
};

/* 0, or -1 if memory ran out; the text is as it was then. */
int cli_text_add(struct cli_text *text, const char *bytes, size_t n);
void cli_text_free(struct cli_text *text);

/* Drops the UTF-8 signature (a BOM) if the text has one at `from`: it is no part of a text. */
void cli_text_drop_bom(struct cli_text *text, size_t from);
/*
 * From `from` on: without that signature, and with lines that end in LF, not in CR LF.
 * A CR at the end goes too: a shell has dropped the LF behind it.
 */
void cli_text_tidy(struct cli_text *text, size_t from);

/* Where text stops being UTF-8 without NULs; n if it does not. */
size_t cli_utf8_bad(const char *s, size_t n);

/* A token may be part of a character: what is not whole yet waits in `held`. */
struct cli_utf8_stream {
	char held[4];
	size_t n_held;
};

/*
 * Adds to out what became whole with these bytes; what is not UTF-8 becomes
 * U+FFFD. 0, or -1 if memory ran out.
 */
int cli_utf8_add(struct cli_utf8_stream *stream, const char *bytes, size_t n,
		 struct cli_text *out);
/* The same at the end: what is held is not going to be whole. */
int cli_utf8_end(struct cli_utf8_stream *stream, struct cli_text *out);

#endif
