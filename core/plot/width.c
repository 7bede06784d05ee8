/* SPDX-License-Identifier: Apache-2.0 */
/* How wide characters are, in columns of a monospace font. */
#include "core/plot/plot.h"

#include <locale.h>
#include <string.h>
#include <wchar.h>

/* The code of the UTF-8 character of this length at s. */
wchar_t plot_code(const char *s, int length)
{
	static const unsigned char masks[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
	wchar_t code = (unsigned char)*s & masks[length];

	for (int i = 1; i < length; i++)
		code = code << 6 | ((unsigned char)s[i] & 0x3f);
	return code;
}

int plot_code_width(wchar_t code)
{
	static locale_t utf8;
	locale_t before;
	int width;

	if (!utf8)
		utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	if (!utf8)
		return 1;
	before = uselocale(utf8);
	width = wcwidth(code);
	uselocale(before);
	return width;
}

size_t plot_columns(const char *text, size_t most, size_t *bytes)
{
	size_t n = strlen(text), at = 0, columns = 0;

	while (at < n) {
		int length = kv_utf8_length(text + at, n - at);
		int width = length > 0 ? plot_code_width(plot_code(text + at, length)) : 1;

		width = width < 0 ? 1 : width;
		if (columns + (size_t)width > most)
			break;
		columns += (size_t)width;
		at += length > 0 ? (size_t)length : 1;
	}
	*bytes = at;
	return columns;
}
