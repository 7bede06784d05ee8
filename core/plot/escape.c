/* SPDX-License-Identifier: Apache-2.0 */
/* Text from files, made harmless: as a string of gnuplot, and as text of XML. */
#include "core/plot/plot.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void plot_add_bytes(struct cli_text *text, const char *bytes, size_t n)
{
	if (cli_text_add(text, bytes, n))
		cli_no_memory();
}

void plot_add(struct cli_text *text, const char *format, ...)
{
	char *line;
	va_list args;
	int n;

	va_start(args, format);
	n = vasprintf(&line, format, args);
	va_end(args);
	if (n < 0)
		cli_no_memory();
	plot_add_bytes(text, line, (size_t)n);
	free(line);
}

void *plot_grow(void *array, size_t n, size_t size)
{
	/* Room doubles at powers of two. */
	if (n & (n - 1))
		return array;
	array = reallocarray(array, n ? 2 * n : 1, size);
	if (!array)
		cli_no_memory();
	return array;
}

size_t plot_step(size_t n, size_t most)
{
	size_t power = 1;

	while (n / power / 10 > most)
		power *= 10;
	return n / power <= most ? power : n / power / 2 <= most ? 2 * power :
	       n / power / 5 <= most ? 5 * power : 10 * power;
}

/* --- gnuplot -------------------------------------------------------------------------- */

/* U+FFFE and U+FFFF, which no XML may have, not even as a reference. */
static bool is_nothing(const char *s, size_t n)
{
	return n >= 3 && (!memcmp(s, "\xef\xbf\xbe", 3) || !memcmp(s, "\xef\xbf\xbf", 3));
}

/*
 * Letters, digits and a few signs stay as they are. Every other byte is written in octal, so
 * that nothing in the string can end it or mean something to gnuplot: no quote (gnuplot 5.4
 * misreads a doubled one at the start of a string), backquote, backslash, @ or #. cli_show()
 * has made words of control characters.
 */
static void add_in_quotes(struct cli_text *script, const char *shown, size_t n)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,:;=+-_/()";

	for (size_t i = 0; i < n; i++) {
		if (is_nothing(shown + i, n - i)) {
			plot_add(script, "\\357\\277\\275");	/* U+FFFD */
			i += 2;
		} else if (i >= 2 && !memcmp(shown + i - 2, "]]>", 3)) {
			/* gnuplot leaves this as it is, and XML must not have it: U+FF1E. */
			plot_add(script, "\\357\\274\\236");
		} else if (strchr(plain, shown[i])) {
			plot_add_bytes(script, shown + i, 1);
		} else {
			plot_add(script, "\\%03o", (unsigned char)shown[i]);
		}
	}
}

void plot_add_quoted(struct cli_text *script, const char *text)
{
	const char *shown = cli_show(text);

	plot_add_bytes(script, "\"", 1);
	add_in_quotes(script, shown, strlen(shown));
	plot_add_bytes(script, "\"", 1);
}

size_t plot_add_name(struct cli_text *script, const char *name, size_t most)
{
	const char *shown = cli_show(name);
	size_t n, columns = plot_columns(shown, most, &n);
	bool fits = n == strlen(shown);

	if (!fits)
		columns = plot_columns(shown, most - 1, &n) + 1;
	plot_add_bytes(script, "\"", 1);
	add_in_quotes(script, shown, n);
	plot_add(script, "%s\"", fits ? "" : "\u2026");
	return columns;
}

/* --- XML ------------------------------------------------------------------------------- */

/* What stands for the character of this length at s, or NULL: the character itself. */
static const char *entity(const char *s, int length)
{
	unsigned char c = (unsigned char)*s;

	if (length <= 0)
		return "\uFFFD";
	switch (c) {
	case '&':
		return "&amp;";
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	case '\t':
	case '\n':
	case '\r':
		return " ";
	}
	if (c < 0x20 || is_nothing(s, (size_t)length))
		return "\uFFFD";
	return NULL;
}

void plot_add_xml(struct cli_text *svg, const char *text, size_t n)
{
	for (size_t at = 0; at < n;) {
		int length = kv_utf8_length(text + at, n - at);
		const char *instead = entity(text + at, length);
		size_t step = length > 0 ? (size_t)length : 1;

		if (instead)
			plot_add_bytes(svg, instead, strlen(instead));
		else
			plot_add_bytes(svg, text + at, step);
		at += step;
	}
}
