/* SPDX-License-Identifier: Apache-2.0 */
/*
 * INI files, through inih. Its packaged library tells a handler no line numbers
 * and cuts what is too long for it without a word, so it gets its lines from a
 * reader of ours, which counts and refuses what inih would misread.
 */
#include "core/base/regular.h"
#include "core/config/entries.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILE	(1 << 20)
#define MAX_SECTION	49		/* inih's */
#define BYTE_ORDER_MARK	"\xef\xbb\xbf"	/* inih skips it */

struct reader {
	struct kv_config *config;
	struct kv_source *source;
	FILE *file;
	size_t bytes;
	unsigned line;
	int err;
};

static int refuse(struct reader *r, int code, const char *format, ...) KV_PRINTF(3, 4);

static int refuse(struct reader *r, int code, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	r->err = kv_fail(code, "%s:%u: %s", r->source->path, r->line, text);
	return r->err;
}

static bool blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Does nothing but blanks, or a comment, stand from here on? */
static bool ends_here(const char *text, const char *end)
{
	while (text < end && blank(*text))
		text++;
	return text == end || *text == ';' || *text == '#';
}

static bool has_control(const char *text, const char *end)
{
	for (; text < end; text++)
		if (((unsigned char)*text < ' ' && !blank(*text)) || *text == 0x7f)
			return true;
	return false;
}

/* The section's own line is an entry too, so that an empty one is checked as well. */
static int check_section(struct reader *r, const char *text, const char *end)
{
	const char *close = memchr(text, ']', (size_t)(end - text));
	char name[MAX_SECTION + 1];
	size_t n;
	int err;

	if (!close || !ends_here(close + 1, end))
		return refuse(r, KVMOD_EFORMAT, "expected `[section]` and nothing after it");
	n = (size_t)(close - text - 1);
	if (n > MAX_SECTION)
		return refuse(r, KVMOD_EFORMAT, "the name of the section is too long: at most %d bytes",
			      MAX_SECTION);
	memcpy(name, text + 1, n);
	name[n] = '\0';
	err = kv_config_add(r->config, r->source, r->line, name, NULL, NULL);
	return err ? refuse(r, err, "%s", kvmod_error()) : err;
}

/* To inih a `:` is as good as a `=`, but not to people who read the file. */
static int check_pair(struct reader *r, const char *text, const char *end)
{
	const char *equal = memchr(text, '=', (size_t)(end - text));
	const char *colon = memchr(text, ':', (size_t)(end - text));

	if (colon && (!equal || colon < equal))
		return refuse(r, KVMOD_EFORMAT, "expected `%.*s = value`, with `=` and not `:`",
			      (int)(colon - text), text);
	if (!equal)
		return refuse(r, KVMOD_EFORMAT, "expected `key = value` or `[section]`");
	return KVMOD_OK;
}

static int check_line(struct reader *r, const char *text, const char *end)
{
	if (has_control(text, end))
		return refuse(r, KVMOD_EFORMAT, "the line holds control characters: expected text");
	if (ends_here(text, end))
		return KVMOD_OK;
	if (blank(*text))
		return refuse(r, KVMOD_EFORMAT,
			      "the line begins with a blank: a value cannot continue on another line");
	if (*text == '[')
		return check_section(r, text, end);
	return check_pair(r, text, end);
}

/* Bytes of one line as inih will see it, up to its newline; -1: it has more than `room` holds. */
static int read_line(struct reader *r, char *line, int room)
{
	int n = 0, c;

	while ((c = getc(r->file)) != EOF && c != '\n') {
		if (n + 2 >= room)	/* the newline and the zero need room as well */
			return -1;
		line[n++] = (char)c;
	}
	if (n > 0 && line[n - 1] == '\r')
		n--;
	line[n] = '\0';
	r->bytes += (size_t)n + 1;
	return n;
}

/* inih's reader: the next line, as fgets() would give it. */
static char *next_line(char *line, int room, void *stream)
{
	struct reader *r = stream;
	const char *text = line;
	int n, c = r->err ? EOF : getc(r->file);

	if (c == EOF)
		return NULL;
	ungetc(c, r->file);
	r->line++;
	n = read_line(r, line, room);
	if (n < 0) {
		refuse(r, KVMOD_EFORMAT, "the line is too long: at most %d bytes", room - 2);
	} else if (r->bytes > MAX_FILE) {
		r->err = kv_fail(KVMOD_EFORMAT, "%s: the file is too long: at most %d bytes",
				 r->source->path, MAX_FILE);
	} else {
		if (r->line == 1 && strncmp(line, BYTE_ORDER_MARK, 3) == 0)
			text += 3;
		check_line(r, text, line + n);
	}
	return r->err ? NULL : line;
}

static int pair(void *user, const char *section, const char *key, const char *value)
{
	struct reader *r = user;
	int err;

	if (r->err)
		return 0;
	err = kv_config_add(r->config, r->source, r->line, section, key, value);
	if (err)
		refuse(r, err, "%s", kvmod_error());
	return !err;
}

static int open_file(const char *path, FILE **file)
{
	struct stat st;
	int fd = kv_open_regular(path, &st), why = errno;

	if (fd < 0)
		return kv_fail(why == ENOENT ? KVMOD_ENOENT : KVMOD_EIO, "%s: %s", path,
			       kv_open_regular_error(&st, why));
	*file = fdopen(fd, "r");
	if (*file)
		return KVMOD_OK;
	close(fd);
	return kv_no_memory();
}

static struct kv_source *new_source(struct kv_config *config, const char *path)
{
	struct kv_source *source = kv_arena_alloc(&config->arena, sizeof(*source));
	const char *slash = strrchr(path, '/');

	if (!source)
		return NULL;
	source->path = kv_arena_strdup(&config->arena, path);
	source->dir = slash ? kv_arena_strndup(&config->arena, path, (size_t)(slash - path) + 1) :
			      kv_arena_strdup(&config->arena, "./");
	return source->path && source->dir ? source : NULL;
}

int kv_ini_read(struct kv_config *config, const char *path)
{
	struct reader r = { .config = config, .source = new_source(config, path) };
	int err, bad_line;

	if (!r.source)
		return KVMOD_ENOMEM;
	err = open_file(path, &r.file);
	if (err)
		return err;
	bad_line = ini_parse_stream(next_line, &r, pair, &r);
	if (ferror(r.file) && !r.err)
		r.err = kv_fail(KVMOD_EIO, "%s: %s", path, strerror(errno));
	fclose(r.file);
	if (r.err || bad_line == 0)
		return r.err;
	return kv_fail(KVMOD_EFORMAT, "%s:%d: expected `key = value` or `[section]`", path, bad_line);
}
