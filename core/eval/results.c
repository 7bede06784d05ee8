/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps the results of `kvmod eval` in a file that a kill does no harm to. */
#include "core/eval/results.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER "kvmod_eval"
#define FORMAT 1

/* Between prompt and case: no text that JSON allows unescaped has it. */
#define SEPARATOR '\x1f'

static char *key_of(const char *id, const char *name)
{
	char *key;

	if (asprintf(&key, "%s%c%s", id, SEPARATOR, name) < 0)
		cli_no_memory();
	return key;
}

static void remember(struct eval_results *r, json_t *row)
{
	char *key = key_of(json_string_value(json_object_get(row, "id")),
			   json_string_value(json_object_get(row, "case")));

	if (json_object_set(r->rows, key, row))
		cli_no_memory();
	free(key);
}

/* --- reading -------------------------------------------------------------------------- */

/* The name of a setting that differs. */
static const char *difference(json_t *a, json_t *b)
{
	const char *key;
	json_t *value;

	json_object_foreach(a, key, value)
		if (!json_equal(value, json_object_get(b, key)))
			return key;
	json_object_foreach(b, key, value)
		if (!json_object_get(a, key))
			return key;
	return NULL;
}

static char *shown(json_t *settings, const char *key)
{
	json_t *value = json_object_get(settings, key);
	char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : cli_strdup("not set");

	if (!text)
		cli_no_memory();
	return text;
}

static int check_header(const struct eval_results *r, json_t *line, json_t *settings)
{
	json_t *theirs = json_object_get(line, "settings");
	const char *key;
	char *was, *is;

	if (json_integer_value(json_object_get(line, HEADER)) != FORMAT || !json_is_object(theirs))
		return cli_error("%s:1: expected results of `kvmod eval`", cli_show(r->path));
	key = difference(theirs, settings);
	if (!key)
		return CLI_OK;
	was = shown(theirs, key);
	is = shown(settings, key);
	cli_error("%s:1: these are results of other settings: %s was %s, and is %s", cli_show(r->path),
		  cli_show(key), cli_show(was), cli_show(is));
	free(was);
	free(is);
	return CLI_FAILED;
}

static int take_line(struct eval_results *r, const char *text, size_t n, unsigned number, json_t *settings)
{
	json_error_t reason;
	json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &reason);
	int err = CLI_OK;

	if (!line)
		return cli_error("%s:%u: %s, expected a result of `kvmod eval`", cli_show(r->path), number,
				 reason.text);
	if (number == 1)
		err = check_header(r, line, settings);
	else if (json_is_string(json_object_get(line, "id")) && json_is_string(json_object_get(line, "case")))
		remember(r, line);
	else
		err = cli_error("%s:%u: no \"id\" or \"case\", expected a result of `kvmod eval`",
				cli_show(r->path), number);
	json_decref(line);
	return err;
}

/* Is a line without its end the beginning of a first line of ours? */
static bool is_half_header(const char *line, size_t n)
{
	static const char begin[] = "{\"" HEADER "\":";

	return !memcmp(line, begin, n < sizeof(begin) - 1 ? n : sizeof(begin) - 1);
}

/* Where the last whole line ends is where results are appended. */
static int read_all(struct eval_results *r, json_t *settings, bool *is_new)
{
	char *line = NULL;
	size_t room = 0;
	unsigned number = 0;
	off_t end = 0;
	ssize_t n;
	int err = CLI_OK;

	while (!err && (n = getline(&line, &room, r->file)) > 0 && line[n - 1] == '\n') {
		err = take_line(r, line, (size_t)n - 1, ++number, settings);
		end += n;
	}
	if (!err && n > 0 && number == 0 && !is_half_header(line, (size_t)n))
		err = cli_error("%s:1: expected results of `kvmod eval`", cli_show(r->path));
	free(line);
	if (err)
		return err;
	if (ferror(r->file))
		return cli_error("%s: %s", cli_show(r->path), strerror(errno));
	*is_new = number == 0;
	if (fflush(r->file) || ftruncate(fileno(r->file), end) || fseeko(r->file, end, SEEK_SET))
		return cli_error("%s: %s", cli_show(r->path), strerror(errno));
	return CLI_OK;
}

/* --- writing -------------------------------------------------------------------------- */

/* A line that could not be written whole is taken back. */
static int append(struct eval_results *r, json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT), *whole;
	int file = fileno(r->file), reason, n;
	off_t before = lseek(file, 0, SEEK_END);
	bool done;

	n = text ? asprintf(&whole, "%s\n", text) : -1;
	if (n < 0)
		cli_no_memory();
	done = cli_write_all(file, whole, (size_t)n) && !fdatasync(file);
	reason = errno;
	free(whole);
	free(text);
	if (done)
		return CLI_OK;
	if (before < 0 || ftruncate(file, before))
		cli_error("%s: half a line is left at its end, which the next run drops", cli_show(r->path));
	return cli_error("%s: %s", cli_show(r->path), strerror(reason));
}

static int open_file(struct eval_results *r, json_t *settings)
{
	bool is_new = false;
	struct stat about;
	json_t *header;
	int err;

	r->file = fopen(r->path, "a+e");
	if (!r->file)
		return cli_error("%s: %s", cli_show(r->path), strerror(errno));
	if (!fstat(fileno(r->file), &about) && !S_ISREG(about.st_mode))
		return cli_error("%s: expected a regular file", cli_show(r->path));
	if (flock(fileno(r->file), LOCK_EX | LOCK_NB))
		return cli_error("%s: another `kvmod eval` writes to it", cli_show(r->path));
	rewind(r->file);
	err = read_all(r, settings, &is_new);
	if (err || !is_new)
		return err;
	header = json_pack("{s:i, s:O}", HEADER, FORMAT, "settings", settings);
	if (!header)
		cli_no_memory();
	err = append(r, header);
	json_decref(header);
	return err;
}

int eval_results_open(struct eval_results *r, const char *path, json_t *settings)
{
	int err;

	*r = (struct eval_results){ .path = path, .rows = json_object() };
	if (!r->rows || !settings)
		cli_no_memory();
	err = path ? open_file(r, settings) : CLI_OK;
	json_decref(settings);
	return err;
}

void eval_results_close(struct eval_results *r)
{
	if (r->file)
		fclose(r->file);
	json_decref(r->rows);
	*r = (struct eval_results){ 0 };
}

json_t *eval_results_find(const struct eval_results *r, const char *id, const char *name)
{
	char *key = key_of(id, name);
	json_t *row = json_object_get(r->rows, key);

	free(key);
	return row;
}

int eval_results_check(const struct eval_results *r, const char *id, const char *name, const char *digest)
{
	json_t *row = eval_results_find(r, id, name);
	const char *theirs = row ? json_string_value(json_object_get(row, "digest")) : NULL;

	if (!row || (theirs && !strcmp(theirs, digest)))
		return CLI_OK;
	return cli_error("%s: has a result of another prompt %s: expected the data that it began with",
			 cli_show(r->path), cli_show(id));
}

int eval_results_add(struct eval_results *r, json_t *row)
{
	int err;

	if (!row)
		cli_no_memory();
	err = r->file ? append(r, row) : CLI_OK;
	if (!err)
		remember(r, row);
	json_decref(row);
	return err;
}
