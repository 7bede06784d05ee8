/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Computes the key that identifies a template: a hash of its text as Jinja reads it.
 * Published copies differ in blanks within a tag, in "\n" or a line break within a string,
 * and in the default system message, which makers of models change most often.
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

/* The template's text as Jinja reads it, for the caller to free; NULL: no memory. */
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

static const char opening[] = "<|im_start|>system\n", closing[] = "<|im_end|>";

static bool is_closing(const char *text)
{
	return !strncmp(text, closing, sizeof(closing) - 1);
}

/* Bytes up to the closing, or to what plain quoted text cannot have: any escape but "\\". */
static size_t plain_length(const char *text)
{
	size_t i = 0;

	for (; !is_closing(text + i); i++) {
		unsigned char c = (unsigned char)text[i];

		if ((c < ' ' && c != '\n') || c == '\'' || c == '"' || c == 0x7f)
			break;
		if (opens(text + i, "{%#") || (c == '\\' && text[i + 1] != '\\'))
			break;
		i += c == '\\';
	}
	return i;
}

/* The *n bytes that state the message word for word; NULL: none. Reads each byte once. */
static const char *find_system(const char *text, size_t *n)
{
	while ((text = strstr(text, opening))) {
		text += sizeof(opening) - 1;
		*n = plain_length(text);
		if (*n && is_closing(text + *n))
			return text;
		text += *n; /* an opening before here has no other end */
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
	const char *next;

	while (*text) {
		next = hole ? strstr(text, hole) : NULL;
		while (*text && text != next)
			hash = (hash ^ (unsigned char)*text++) * 0x100000001b3u;
		if (next)
			text += strlen(hole);
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
