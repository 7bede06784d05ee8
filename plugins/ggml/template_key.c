/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a template is known by: a hash of its text as Jinja reads it. Published
 * copies differ in blanks within a tag, in "\n" or a line break within a string,
 * and in the default system message, which a model's maker changes most often.
 */
#include "chat.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	const char *in;
	char *out;
};

static bool opens(const char *s, const char *kinds)
{
	return s[0] == '{' && s[1] && strchr(kinds, s[1]);
}

static bool closes(const char *s)
{
	return (s[0] == '}' || s[0] == '%') && s[1] == '}';
}

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static void copy(struct reader *r, size_t n)
{
	for (size_t i = 0; i < n && *r->in; i++)
		*r->out++ = *r->in++;
}

/* A quoted string, with line breaks for its "\n". */
static void copy_string(struct reader *r)
{
	char quote = *r->in;

	copy(r, 1);
	while (*r->in && *r->in != quote) {
		if (!strncmp(r->in, "\\n", 2)) {
			*r->out++ = '\n';
			r->in += 2;
		} else {
			copy(r, *r->in == '\\' ? 2 : 1);
		}
	}
	copy(r, 1);
}

/*
 * Blanks within a tag count between two words only, and before a sign that would
 * otherwise belong to the tag's opening.
 */
static void copy_blanks(struct reader *r, const char *begin)
{
	r->in += strspn(r->in, " \t\r\n");
	if (is_word(r->out[-1]) ? is_word(*r->in)
				: r->out == begin + 2 && *r->in && strchr("+-", *r->in))
		*r->out++ = ' ';
}

static void copy_tag(struct reader *r)
{
	const char *begin = r->out;

	copy(r, 2);
	while (*r->in && !closes(r->in)) {
		if (*r->in == '\'' || *r->in == '"')
			copy_string(r);
		else if (strchr(" \t\r\n", *r->in))
			copy_blanks(r, begin);
		else
			copy(r, 1);
	}
	copy(r, 2);
}

static void copy_comment(struct reader *r)
{
	const char *end = strstr(r->in, "#}");

	copy(r, end ? (size_t)(end + 2 - r->in) : strlen(r->in));
}

/* The caller frees it; NULL: no memory. */
static char *normalized(const char *template)
{
	char *text = calloc(strlen(template) + 1, 1);
	struct reader r = { template, text };

	if (!text)
		return NULL;
	while (*r.in) {
		if (opens(r.in, "#"))
			copy_comment(&r);
		else if (opens(r.in, "{%"))
			copy_tag(&r);
		else
			copy(&r, 1);
	}
	/* Jinja drops one line break at the end. */
	if (r.out > text && r.out[-1] == '\n')
		*--r.out = '\0';
	return text;
}

/* --- the default system message ------------------------------------------------------ */

/* Would it be a plain text within quotes, with no escape but for a backslash? */
static bool is_plain(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '\\' && (++i == n || text[i] != '\\'))
			return false;
		if (c == '\'' || c == '"' || (c < ' ' && c != '\n') || c == 0x7f)
			return false;
		if (c == '{' && i + 1 < n && strchr("{%#", text[i + 1]))
			return false;
	}
	return n > 0;
}

/* Where it stands word for word; *n: its bytes. NULL: nowhere. */
static const char *find_system(const char *text, size_t *n)
{
	static const char opening[] = "<|im_start|>system\n", closing[] = "<|im_end|>";
	const char *end;

	while ((text = strstr(text, opening))) {
		text += sizeof(opening) - 1;
		end = strstr(text, closing);
		*n = end ? (size_t)(end - text) : 0;
		if (is_plain(text, *n))
			return text;
	}
	return NULL;
}

static char *unescaped(const char *text, size_t n)
{
	char *copied = calloc(n + 1, 1), *out = copied;

	for (size_t i = 0; copied && i < n; i++) {
		i += text[i] == '\\';
		*out++ = text[i];
	}
	return copied;
}

/* FNV-1a, of the text without `hole`. */
static uint64_t hash_without(const char *text, const char *hole)
{
	uint64_t hash = 0xcbf29ce484222325u;
	size_t n = hole ? strlen(hole) : 0;

	while (*text) {
		if (n && !strncmp(text, hole, n)) {
			text += n;
			continue;
		}
		hash = (hash ^ (unsigned char)*text++) * 0x100000001b3u;
	}
	return hash;
}

bool gg_template_key(const char *template, uint64_t *key, char **system)
{
	char *text = normalized(template), *hole = NULL;
	const char *found = NULL;
	size_t n = 0;

	*system = NULL;
	if (text && (found = find_system(text, &n))) {
		hole = strndup(found, n);
		*system = unescaped(found, n);
	}
	if (!text || (found && (!hole || !*system))) {
		free(*system);
		free(hole);
		free(text);
		*system = NULL;
		return false;
	}
	*key = hash_without(text, hole);
	free(hole);
	free(text);
	return true;
}
