/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a head table, which kvmod-policies(7) describes: every line must be the one that is
 * expected next, so what is missing, double or too much shows where it is.
 */
#define _GNU_SOURCE 1			/* strtod_l() */
#include "duo_table.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
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
	uint32_t n_layers, n_kv_heads;
};

/* "PATH:7: `wrong text`: " and what was expected. */
static int32_t expected(const struct table *t, int32_t code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int32_t expected(const struct table *t, int32_t code, const char *format, ...)
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
		return t->host->fail(t->host->ctx, code, "%s:%u: the file ends here: expected %s",
				       t->path, t->number + 1, what);
	return t->host->fail(t->host->ctx, code, "%s:%u: `%.60s%s`: expected %s", t->path, t->number,
			       t->text, more, what);
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

/* The value of the line "key = value"; NULL after a message. */
static const char *value_of(struct table *t, const char *key)
{
	size_t n = strlen(key);

	if (next(t) && strncmp(t->text, key, n) == 0) {
		const char *equals = t->text + n + strspn(t->text + n, BLANKS);

		if (*equals == '=')
			return equals + 1 + strspn(equals + 1, BLANKS);
	}
	expected(t, KVMOD_EFORMAT, "%s = ...", key);
	return NULL;
}

static int32_t other_model(const struct table *t, const char *key, const char *ours, size_t n)
{
	return expected(t, KVMOD_EINVAL, "%s = %.*s, as in the model in use (`kvmod heads` makes its "
			"table)", key, (int)n, ours);
}

/* wanted NULL: any. */
static int32_t read_name(struct table *t, const char *key, const char *wanted)
{
	const char *value = value_of(t, key);
	size_t n;

	if (!value)
		return KVMOD_EFORMAT;
	if (!wanted)
		return KVMOD_OK;
	wanted += strspn(wanted, BLANKS);
	n = strlen(wanted);
	while (n > 0 && strchr(BLANKS, wanted[n - 1]))
		n--;
	return strlen(value) == n && strncmp(value, wanted, n) == 0 ? KVMOD_OK :
	       other_model(t, key, wanted, n);
}

/* wanted 0: any. */
static int32_t read_count(struct table *t, const char *key, uint32_t wanted, uint32_t *count)
{
	const char *value = value_of(t, key);
	char ours[16];

	if (!value)
		return KVMOD_EFORMAT;
	if (strlen(value) > 5 || strspn(value, "0123456789") != strlen(value) ||
	    !strtoul(value, NULL, 10))
		return expected(t, KVMOD_EFORMAT, "%s = a whole number", key);
	*count = (uint32_t)strtoul(value, NULL, 10);
	snprintf(ours, sizeof(ours), "%u", wanted);
	return !wanted || *count == wanted ? KVMOD_OK : other_model(t, key, ours, strlen(ours));
}

/* Reads a score and goes past it; false if there is none. */
static bool read_score(const struct table *t, char **at, float *score)
{
	char *end, *begin = *at + strspn(*at, BLANKS);
	double value;

	*at = begin + strcspn(begin, BLANKS);
	if (*at - begin == 1 && *begin == '-') {
		*score = DUO_NOT_MEASURED;
		return true;
	}
	value = strtod_l(begin, &end, t->c_locale);
	*score = (float)value;
	return end == *at && end > begin && fabs(value) < (double)FLT_MAX;
}

/* "7: 0.01 0.5 -"; scores NULL: only checks. */
static int32_t read_layer(struct table *t, uint32_t layer, float *scores)
{
	char label[16], *at;
	bool good = true;
	float score;

	snprintf(label, sizeof(label), "%u:", layer);
	if (!next(t) || strncmp(t->text, label, strlen(label)) != 0)
		return expected(t, KVMOD_EFORMAT, "the scores of layer %u: `%u: ...`", layer, layer);
	at = t->text + strlen(label);
	for (uint32_t g = 0; g < t->n_kv_heads && good; g++) {
		good = read_score(t, &at, &score);
		if (scores)
			scores[(size_t)layer * t->n_kv_heads + g] = score;
	}
	return good && *at == '\0' ? KVMOD_OK :
	       expected(t, KVMOD_EFORMAT, "%u scores, one for each KV head, each a number or -",
			t->n_kv_heads);
}

static int32_t read_all(struct table *t, const struct kvmod_model *model, float *scores)
{
	int32_t code;

	if (!next(t) || strcmp(t->text, "kvmod-heads 1") != 0)
		return expected(t, KVMOD_EFORMAT, "kvmod-heads 1, the first line of a head table");
	if ((code = read_name(t, "model", model ? model->name : NULL)) ||
	    (code = read_name(t, "architecture", model ? model->architecture : NULL)) ||
	    (code = read_count(t, "layers", model ? model->n_layers : 0, &t->n_layers)) ||
	    (code = read_count(t, "kv_heads", model ? model->n_kv_heads : 0, &t->n_kv_heads)))
		return code;
	for (uint32_t layer = 0; layer < t->n_layers && !code; layer++)
		code = read_layer(t, layer, model ? scores : NULL);
	if (!code && next(t))
		return expected(t, KVMOD_EFORMAT, "nothing after the scores of %u layers", t->n_layers);
	return code;
}

static int32_t open_file(struct table *t)
{
	int fd = open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st = { 0 };

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MAX_BYTES)
		t->file = fdopen(fd, "r");
	if (t->file)
		return KVMOD_OK;
	if (fd >= 0)
		close(fd);
	if (st.st_size > MAX_BYTES && S_ISREG(st.st_mode))
		return t->host->fail(t->host->ctx, KVMOD_EFORMAT, "%s: %lld bytes: expected a head "
				       "table, at most %d", t->path, (long long)st.st_size, MAX_BYTES);
	if (st.st_mode && !S_ISREG(st.st_mode))
		return t->host->fail(t->host->ctx, KVMOD_EFORMAT, "%s: expected a head table, a "
				       "regular file", t->path);
	return t->host->fail(t->host->ctx, errno == ENOENT ? KVMOD_ENOENT : KVMOD_EIO,
			       "%s: %s: expected a head table (`kvmod heads` makes one)", t->path,
			       strerror(errno));
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
