/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a head table, which kvmod-policies(7) describes: every line must be the one that is
 * expected next, so what is missing, double or too much shows where it is.
 */
#define _GNU_SOURCE 1			/* strtof_l() */
#include "duo_table.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_BYTES	(1 << 20)	/* far above that of any model */
#define BLANKS		" \t\r\n"

struct table {
	const struct kvmod_host *host;
	const char *path;
	FILE *file;
	locale_t c_locale;		/* in which numbers have a point */
	char *line;
	size_t room;
	unsigned number;		/* of the line */
	char *text;			/* of it, without the blanks at its ends; NULL: end of file */
};

/* "PATH:7: `wrong text`: " and what was expected. */
static int32_t expected(const struct table *t, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static int32_t expected(const struct table *t, const char *format, ...)
{
	const char *more = t->text && strlen(t->text) > 60 ? "..." : "";
	char what[200];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (ferror(t->file))
		return t->host->fail(t->host->ctx, KVMOD_EIO, "%s: %s", t->path, strerror(errno));
	if (!t->text)
		return t->host->fail(t->host->ctx, KVMOD_EFORMAT, "%s:%u: the file ends here: expected "
				     "%s", t->path, t->number + 1, what);
	return t->host->fail(t->host->ctx, KVMOD_EFORMAT, "%s:%u: `%.60s%s`: expected %s", t->path,
			     t->number, t->text, more, what);
}

/* Goes to the next line that is neither blank nor a comment; false at the end. */
static bool next(struct table *t)
{
	ssize_t n;

	while ((n = getline(&t->line, &t->room, t->file)) > 0) {
		t->number++;
		for (char *nul; (nul = memchr(t->line, 0, (size_t)n));)
			*nul = '?';
		while (n > 0 && strchr(BLANKS, t->line[n - 1]))
			t->line[--n] = '\0';
		t->text = t->line + strspn(t->line, BLANKS);
		if (*t->text && *t->text != '#')
			return true;
	}
	t->text = NULL;
	return false;
}

/* The value of the line "key = value"; NULL if it is another line. */
static const char *value_of(const struct table *t, const char *key)
{
	const char *at = t->text;

	if (!at || strncmp(at, key, strlen(key)) != 0)
		return NULL;
	at += strlen(key);
	at += strspn(at, BLANKS);
	return *at == '=' ? at + 1 + strspn(at + 1, BLANKS) : NULL;
}

/* The next line must have the model's value; blanks at its ends do not count. */
static int32_t read_value(struct table *t, const char *key, const char *wanted)
{
	const char *value;
	size_t n;

	wanted += strspn(wanted, BLANKS);
	for (n = strlen(wanted); n > 0 && strchr(BLANKS, wanted[n - 1]);)
		n--;
	next(t);
	value = value_of(t, key);
	if (value && strlen(value) == n && strncmp(value, wanted, n) == 0)
		return KVMOD_OK;
	return expected(t, "%s = %.*s, as in the model in use (`kvmod heads` makes its table)", key,
			(int)n, wanted);
}

static int32_t read_count(struct table *t, const char *key, uint32_t count)
{
	char value[16];

	snprintf(value, sizeof(value), "%u", count);
	return read_value(t, key, value);
}

/* Reads a score and goes past it; false if there is none. */
static bool read_score(const struct table *t, char **at, float *score)
{
	char *end, *begin = *at + strspn(*at, BLANKS);

	*at = begin + strcspn(begin, BLANKS);
	if (*at - begin == 1 && *begin == '-') {
		*score = DUO_NOT_MEASURED;
		return true;
	}
	*score = strtof_l(begin, &end, t->c_locale);
	return end == *at && end > begin && fabsf(*score) < DUO_NOT_MEASURED;
}

/* "7: 0.01 0.5 -" */
static int32_t read_layer(struct table *t, uint32_t layer, uint32_t n, float *scores)
{
	char label[16], *at;
	bool good = true;

	snprintf(label, sizeof(label), "%u:", layer);
	if (!next(t) || strncmp(t->text, label, strlen(label)) != 0)
		return expected(t, "the scores of layer %u: `%s ...`", layer, label);
	at = t->text + strlen(label);
	for (uint32_t g = 0; g < n && good; g++)
		good = read_score(t, &at, &scores[g]);
	return good && *at == '\0' ? KVMOD_OK :
	       expected(t, "%u scores, one for each KV head, each a number or -", n);
}

static int32_t read_all(struct table *t, const struct kvmod_model *model, float *scores)
{
	int32_t code;

	if (!next(t) || strcmp(t->text, "kvmod-heads 1") != 0)
		return expected(t, "kvmod-heads 1, the first line of a head table");
	if ((code = read_value(t, "model", model->name)) ||
	    (code = read_value(t, "architecture", model->architecture ? model->architecture : "")) ||
	    (code = read_count(t, "layers", model->n_layers)) ||
	    (code = read_count(t, "kv_heads", model->n_kv_heads)))
		return code;
	for (uint32_t layer = 0; layer < model->n_layers && !code; layer++)
		code = read_layer(t, layer, model->n_kv_heads,
				  scores + (size_t)layer * model->n_kv_heads);
	if (!code && next(t))
		return expected(t, "nothing after the scores of %u layers", model->n_layers);
	return code;
}

static int32_t open_file(struct table *t)
{
	int fd = open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return t->host->fail(t->host->ctx, errno == ENOENT ? KVMOD_ENOENT : KVMOD_EIO, "%s: %s: "
				     "expected a head table (`kvmod heads` makes one)", t->path,
				     strerror(errno));
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MAX_BYTES)
		t->file = fdopen(fd, "r");
	if (t->file)
		return KVMOD_OK;
	close(fd);
	return t->host->fail(t->host->ctx, KVMOD_EFORMAT, "%s: expected a head table, a regular file of "
			     "at most %d bytes", t->path, MAX_BYTES);
}

int32_t duo_table_read(const struct kvmod_host *host, const char *path,
		       const struct kvmod_model *model, float *scores)
{
	struct table t = { .host = host, .path = path };
	int32_t code;

	t.c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (!t.c_locale)
		return host->fail(host->ctx, KVMOD_ENOMEM, "no memory for a head table");
	code = open_file(&t);
	if (!code) {
		code = read_all(&t, model, scores);
		fclose(t.file);
	}
	free(t.line);
	freelocale(t.c_locale);
	return code;
}
