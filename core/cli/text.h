/* SPDX-License-Identifier: Apache-2.0 */
/* Growing text buffers, and UTF-8 that arrives in pieces. */
#ifndef KV_CORE_CLI_TEXT_H
#define KV_CORE_CLI_TEXT_H

#include <stddef.h>

/* Bytes, with a NUL after them. A struct of zeros is an empty text. */
struct cli_text {
	char *bytes;
	size_t n, room;
};

/* 0, or -1 if memory ran out and the text is unchanged. */
int cli_text_add(struct cli_text *text, const char *bytes, size_t n);
void cli_text_free(struct cli_text *text);

/*
 * Adds all of a regular file, a pipe or a terminal; "-" is stdin. CLI_FAILED after the
 * reason was printed (input.c).
 */
int cli_read_file(struct cli_text *text, const char *file);

/* Drops a UTF-8 byte order mark (BOM) at `from`, if there is one. */
void cli_text_drop_bom(struct cli_text *text, size_t from);
/*
 * From `from` on, drops a BOM and turns CR LF into LF. A CR at the end is dropped too:
 * in "$(cat FILE)" the shell has removed the LF behind it.
 */
void cli_text_tidy(struct cli_text *text, size_t from);

/* The offset of the first byte that is not part of UTF-8 without NULs; n if there is none. */
size_t cli_utf8_bad(const char *s, size_t n);

/* A token may be part of a character: the bytes of an incomplete one wait in `held`. */
struct cli_utf8_stream {
	char held[4];
	size_t n_held;
};

/*
 * Adds to out the characters that these bytes complete; bytes that are not UTF-8
 * become U+FFFD. 0, or -1 if memory ran out.
 */
int cli_utf8_add(struct cli_utf8_stream *stream, const char *bytes, size_t n,
		 struct cli_text *out);
/* The same at the end of the text, where an incomplete character becomes U+FFFD. */
int cli_utf8_end(struct cli_utf8_stream *stream, struct cli_text *out);

#endif
