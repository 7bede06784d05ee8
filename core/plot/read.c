/* SPDX-License-Identifier: Apache-2.0 */
/* Reads files of JSON values, and says at which line something else than expected is. */
#include "core/plot/plot.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int plot_error(const struct plot_file *f, const char *format, ...)
{
	char text[600];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return cli_error("%s:%u: %s", f->name, f->line, text);
}

int plot_open(struct plot_file *f, const char *name)
{
	*f = (struct plot_file){ .name = strcmp(name, "-") ? name : "stdin", .line = 1 };
	return cli_read_file(&f->text, name);
}

void plot_close(struct plot_file *f)
{
	cli_text_free(&f->text);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Moves on to the next value, and counts lines up to there. */
static bool find_next(struct plot_file *f)
{
	while (f->at < f->text.n && is_blank(f->text.bytes[f->at]))
		f->at++;
	if (f->at == f->text.n)
		return false;
	for (; f->line_at < f->at; f->line_at++)
		f->line += f->text.bytes[f->line_at] == '\n';
	return true;
}

int plot_next(struct plot_file *f, const char *expected, json_t **value)
{
	json_error_t error;
	const char *from, *end;

	*value = NULL;
	if (!find_next(f))
		return CLI_OK;
	from = f->text.bytes + f->at;
	end = f->one_a_line ? memchr(from, '\n', f->text.n - f->at) : NULL;
	*value = json_loadb(from, end ? (size_t)(end - from) : f->text.n - f->at,
			    JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
	if (!*value) {
		f->line += error.line > 1 ? (unsigned)error.line - 1 : 0;
		return plot_error(f, "%s: expected %s", error.text, expected);
	}
	f->at += (size_t)error.position;
	return CLI_OK;
}

static int next_object(struct plot_file *f, const char *expected, json_t **object)
{
	char text[PLOT_SHOWN_ROOM];
	int err = plot_next(f, expected, object);

	if (err || !*object || json_is_object(*object))
		return err;
	err = plot_error(f, "%s: expected %s", plot_shown(*object, text), expected);
	json_decref(*object);
	*object = NULL;
	return err;
}

/* Skips the objects before that line. */
static int on_line(struct plot_file *f, uint64_t line, const char *expected, json_t **object)
{
	int err = next_object(f, expected, object);

	while (!err && *object && f->line < line) {
		json_decref(*object);
		err = next_object(f, expected, object);
	}
	if (err || (*object && f->line == line))
		return err;
	json_decref(*object);
	*object = NULL;
	return cli_error("%s: no object begins on line %llu", f->name, (unsigned long long)line);
}

int plot_only(struct plot_file *f, uint64_t line, const char *expected, json_t **object)
{
	json_t *more;
	int err;

	if (line)
		return on_line(f, line, expected, object);
	err = next_object(f, expected, object);
	if (!err && !*object)
		err = cli_error("%s: the file is empty, expected %s", f->name, expected);
	if (err)
		return err;
	err = plot_next(f, expected, &more);
	if (!err && more)
		err = plot_error(f, "a second object: expected one, or --line=N, the line of the one "
				 "to draw");
	json_decref(more);
	if (err) {
		json_decref(*object);
		*object = NULL;
	}
	return err;
}

/* --- members ---------------------------------------------------------------------------- */

const char *plot_shown(const json_t *value, char *text)
{
	char *dump = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;

	if (!value)
		snprintf(text, PLOT_SHOWN_ROOM, "missing");
	else if (!dump)
		snprintf(text, PLOT_SHOWN_ROOM, "?");
	else if (strlen(dump) < 40)
		snprintf(text, PLOT_SHOWN_ROOM, "%s", dump);
	else
		snprintf(text, PLOT_SHOWN_ROOM, "%.36s...", dump);
	free(dump);
	return text;
}

int plot_real(const struct plot_file *f, const json_t *object, const char *member, double low,
	      double high, const char *what, double *value)
{
	const json_t *number = json_object_get(object, member);
	char text[PLOT_SHOWN_ROOM];

	*value = json_number_value(number);
	if (json_is_number(number) && *value >= low && *value <= high)
		return CLI_OK;
	return plot_error(f, "`%s` is %s: expected %s", member, plot_shown(number, text), what);
}

int plot_text(const struct plot_file *f, const json_t *object, const char *member,
	      const char *expected, const char **value)
{
	const json_t *string = json_object_get(object, member);
	char text[PLOT_SHOWN_ROOM];

	*value = json_string_value(string);
	if (*value)
		return CLI_OK;
	return plot_error(f, "`%s` is %s: expected %s", member, plot_shown(string, text), expected);
}
