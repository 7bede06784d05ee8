/* SPDX-License-Identifier: Apache-2.0 */
/* Reads JSONL files of prompts, and chooses some of each. */
#include "core/eval/data.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/regular.h"
#include "core/cli/cli.h"

struct reader {
	struct eval_data *data;
	const struct eval_reading *how;
	const char *file;
	unsigned line;
	json_t *ids;			/* of all files: id -> "FILE:LINE" */
};

/* --- messages --------------------------------------------------------------------- */

/* How much of a text from the file a message shows. */
#define SHOWN 40

static bool broken(struct reader *r, const char *format, ...) CLI_PRINTF(2, 3);

static bool broken(struct reader *r, const char *format, ...)
{
	char what[640], message[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	snprintf(message, sizeof(message), "%s:%u: %s", r->file, r->line, what);
	r->data->n_broken++;
	if (r->how->broken)
		r->how->broken(r->how->arg, message);
	return false;
}

static const char *type_name(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "a list";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a decimal";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	default:
		return "null";
	}
}

/* jansson returns NULL, or less than 0, if memory runs out. */
static json_t *have(json_t *value)
{
	if (!value)
		cli_no_memory();
	return value;
}

static void set(json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new_nocheck(object, key, have(value)))
		cli_no_memory();
}

/* --- members of a line ------------------------------------------------------------- */

static json_t *get(const json_t *line, const char *key)
{
	json_t *value = json_object_get(line, key);

	return json_is_null(value) ? NULL : value;
}

#define SPACE " \t\n\v\f\r"

static bool is_blank(const char *text)
{
	return !text[strspn(text, SPACE)];
}

/* The text of a member, or NULL if it is not there. False: it is broken. */
static bool get_text(struct reader *r, const json_t *line, const char *key, const char **text)
{
	const json_t *value = get(line, key);

	*text = json_string_value(value);
	if (value && !*text)
		return broken(r, "`%s` is %s, expected a string", key, type_name(value));
	if (*text && is_blank(*text))
		return broken(r, "`%s` is blank, expected text", key);
	return true;
}

/* The byte offset of a character; the text's length if it has fewer. */
static size_t byte_of(const char *text, json_int_t character)
{
	const char *s = text;

	for (; *s; s++)
		if (((unsigned char)*s & 0xc0) != 0x80 && character-- == 0)
			break;
	return (size_t)(s - text);
}

static json_int_t n_characters(const char *text)
{
	json_int_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static bool read_question_at(struct reader *r, const json_t *line, struct eval_prompt *p)
{
	const json_t *at = get(line, "question_at");
	json_int_t n;

	if (!at)
		return true;
	if (!json_is_integer(at))
		return broken(r, "`question_at` is %s, expected an integer", type_name(at));
	n = n_characters(p->text);
	if (json_integer_value(at) < 1 || json_integer_value(at) >= n)
		return broken(r, "`question_at` is %" JSON_INTEGER_FORMAT ", expected 1 to %"
			      JSON_INTEGER_FORMAT " in a prompt of %" JSON_INTEGER_FORMAT
			      " characters", json_integer_value(at), n - 1, n);
	p->question = byte_of(p->text, json_integer_value(at));
	return true;
}

static void keep_prompt(struct eval_prompt *p, const char *prompt)
{
	set(p->memory, "prompt", json_string_nocheck(prompt));
	p->text = json_string_value(json_object_get(p->memory, "prompt"));
	p->n = strlen(p->text);
}

static void join(struct eval_prompt *p, const char *context, const char *question)
{
	size_t n = strlen(context), room = n + strlen(question) + 3;
	const char *between = strchr(SPACE, context[n - 1]) ? "" : "\n\n";
	char *both = cli_alloc(room);

	snprintf(both, room, "%s%s%s", context, between, question);
	keep_prompt(p, both);
	free(both);
	p->question = n + strlen(between);
}

#define EITHER "`prompt`, or `context` and `question`"

static bool read_prompt(struct reader *r, const json_t *line, struct eval_prompt *p)
{
	const char *prompt, *context, *question;

	if (!get_text(r, line, "prompt", &prompt) || !get_text(r, line, "context", &context) ||
	    !get_text(r, line, "question", &question))
		return false;
	if (prompt && (context || question))
		return broken(r, "`prompt` and `%s`, expected " EITHER,
			      context ? "context" : "question");
	if (prompt) {
		keep_prompt(p, prompt);
		return read_question_at(r, line, p);
	}
	if (!context || !question)
		return broken(r, "no `%s`, expected " EITHER,
			      context ? "question" : question ? "context" : "prompt");
	if (get(line, "question_at"))
		return broken(r, "`question_at` and `context`, expected `question_at` only with "
			      "`prompt`");
	join(p, context, question);
	return true;
}

/* All answers as one list; NULL if there are none. */
static bool get_answers(struct reader *r, const json_t *line, json_t **list)
{
	json_t *answers = get(line, "answers"), *answer = get(line, "answer");

	*list = NULL;
	if (answers && answer)
		return broken(r, "`answers` and `answer`, expected one of them");
	if (answers && !json_is_array(answers))
		return broken(r, "`answers` is %s, expected a list of strings", type_name(answers));
	if (answer && !json_is_string(answer))
		return broken(r, "`answer` is %s, expected a string", type_name(answer));
	for (size_t i = 0; i < json_array_size(answers); i++)
		if (!json_is_string(json_array_get(answers, i)))
			return broken(r, "`answers` has %s, expected strings",
				      type_name(json_array_get(answers, i)));
	if (answer)
		*list = have(json_pack("[O]", answer));
	else if (json_array_size(answers))
		*list = json_incref(answers);
	return true;
}

static void keep_answers(struct eval_prompt *p, json_t *list)
{
	p->n_answers = json_array_size(list);
	p->answers = cli_alloc(p->n_answers * sizeof(*p->answers));
	for (size_t i = 0; i < p->n_answers; i++)
		p->answers[i] = json_string_value(json_array_get(list, i));
	set(p->memory, "answers", list);
}

static bool read_metric(struct reader *r, const json_t *line, struct eval_prompt *p)
{
	const char *name;

	if (!get_text(r, line, "metric", &name))
		return false;
	if (!name && p->n_answers)
		return broken(r, "answers without `metric`, expected " EVAL_METRIC_NAMES);
	if (name && !eval_metric_find(name, &p->metric))
		return broken(r, "metric `%.*s`, expected " EVAL_METRIC_NAMES, SHOWN, name);
	for (size_t i = 0; i < p->n_answers; i++) {
		const char *expected = eval_metric_refuses(p->metric, p->answers[i]);

		if (expected)
			return broken(r, "answer `%.*s`, expected %s for metric %s", SHOWN,
				      p->answers[i], expected, eval_metric_name(p->metric));
	}
	return true;
}

static bool read_answers(struct reader *r, const json_t *line, struct eval_prompt *p)
{
	json_t *list;

	if (!get_answers(r, line, &list))
		return false;
	if (list)
		keep_answers(p, list);
	return read_metric(r, line, p);
}

/* --- names ------------------------------------------------------------------------ */

/* "FILE:LINE" */
static json_t *place(const struct reader *r)
{
	size_t room = strlen(r->file) + 16;
	char *text = cli_alloc(room);
	json_t *string;

	snprintf(text, room, "%s:%u", r->file, r->line);
	string = cli_json_text(text);
	free(text);
	return string;
}

/* "gsm8k" of "data/gsm8k.jsonl" */
static json_t *file_stem(const char *file)
{
	const char *base = strrchr(file, '/');
	char *stem = cli_strdup(base ? base + 1 : file), *dot = strrchr(stem, '.');
	json_t *string;

	if (dot && dot > stem)
		*dot = '\0';
	string = cli_json_text(stem);
	free(stem);
	return string;
}

static bool read_names(struct reader *r, const json_t *line, struct eval_prompt *p)
{
	const char *id, *task, *before;

	if (!get_text(r, line, "id", &id) || !get_text(r, line, "task", &task))
		return false;
	set(p->memory, "id", id ? json_string_nocheck(id) : place(r));
	set(p->memory, "task", task ? json_string_nocheck(task) : file_stem(r->file));
	p->id = json_string_value(json_object_get(p->memory, "id"));
	p->task = json_string_value(json_object_get(p->memory, "task"));
	before = json_string_value(json_object_get(r->ids, p->id));
	if (before)
		return broken(r, "id `%.*s` is that of %s too, expected each id once", SHOWN, p->id,
			      before);
	set(r->ids, p->id, place(r));
	return true;
}

/* --- digest ----------------------------------------------------------------------- */

/* FNV-1a of the text and the NUL behind it. */
static void hash(uint64_t *digest, const char *text)
{
	do
		*digest = (*digest ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	while (*text++);
}

static uint64_t digest_of(const struct eval_prompt *p)
{
	uint64_t digest = UINT64_C(0xcbf29ce484222325);
	char question[32];

	snprintf(question, sizeof(question), "%zu", p->question);
	hash(&digest, p->text);
	hash(&digest, question);
	if (p->n_answers)
		hash(&digest, eval_metric_name(p->metric));
	for (size_t i = 0; i < p->n_answers; i++)
		hash(&digest, p->answers[i]);
	return digest;
}

/* --- prompts ---------------------------------------------------------------------- */

static void prompt_free(struct eval_prompt *p)
{
	json_decref(p->memory);
	free(p->answers);
}

static void add(struct eval_data *data, const struct eval_prompt *p)
{
	if (data->n == data->room) {
		data->room = 2 * data->room + 64;
		data->prompts = reallocarray(data->prompts, data->room, sizeof(*data->prompts));
		if (!data->prompts)
			cli_no_memory();
	}
	data->prompts[data->n++] = *p;
}

static json_t *parse(struct reader *r, const char *text, size_t n)
{
	json_error_t error;
	json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);

	if (!line && json_error_code(&error) == json_error_out_of_memory)
		cli_no_memory();
	if (!line) {
		broken(r, "bad JSON near byte %d: %s; expected an object", error.position,
		       error.text);
	} else if (!json_is_object(line)) {
		broken(r, "%s, expected an object", type_name(line));
		json_decref(line);
		line = NULL;
	}
	return line;
}

static void read_line(struct reader *r, const char *text, size_t n)
{
	struct eval_prompt p = { .file = r->file, .line = r->line };
	json_t *line = parse(r, text, n);
	bool good;

	if (!line)
		return;
	p.memory = have(json_object());
	good = read_prompt(r, line, &p) && read_answers(r, line, &p) && read_names(r, line, &p);
	json_decref(line);
	if (good && r->how->with_question && !p.question) {
		r->data->n_without_question++;
		good = false;
	}
	if (!good) {
		prompt_free(&p);
		return;
	}
	p.digest = digest_of(&p);
	add(r->data, &p);
}

/* --- files ------------------------------------------------------------------------ */

static int fail(struct eval_data *data, const char *file, const char *why)
{
	snprintf(data->error, sizeof(data->error), "%s: %s", file, why);
	return CLI_FAILED;
}

/* Of the prompts from `first` on, keeps per_file evenly spaced ones. */
static void choose(struct eval_data *data, size_t first, size_t per_file)
{
	size_t found = data->n - first, step, kept = 0;

	if (!per_file || found <= per_file)
		return;
	step = found / per_file;
	for (size_t i = 0; i < found; i++) {
		struct eval_prompt *p = &data->prompts[first + i];

		if (i % step || kept == per_file)
			prompt_free(p);
		else
			data->prompts[first + kept++] = *p;
	}
	data->n = first + kept;
}

static int read_lines(struct reader *r, FILE *f)
{
	static const char bom[] = "\xef\xbb\xbf";
	bool is_empty = true;
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	int why;

	for (r->line = 1; errno = 0, (n = getline(&line, &room, f)) >= 0; r->line++) {
		bool has_bom = r->line == 1 && n >= 3 && !memcmp(line, bom, 3);
		const char *text = line + (has_bom ? 3 : 0);

		n -= text - line;
		/* A NUL is not blank: it is for the parser to refuse. */
		if (strspn(text, SPACE) == (size_t)n)
			continue;
		is_empty = false;
		read_line(r, text, (size_t)n);
	}
	why = errno;
	free(line);
	if (!feof(f))
		return fail(r->data, r->file, strerror(why));
	if (is_empty)
		return fail(r->data, r->file, "empty, expected a JSON object in each line");
	return CLI_OK;
}

static int read_file(struct reader *r)
{
	struct stat st = { 0 };
	int fd = kv_open_regular(r->file, &st), err;
	size_t first = r->data->n;
	FILE *f;

	if (fd < 0)
		return fail(r->data, r->file, kv_open_regular_error(&st, errno));
	f = fdopen(fd, "r");
	if (!f) {
		close(fd);
		return fail(r->data, r->file, strerror(errno));
	}
	err = read_lines(r, f);
	fclose(f);
	choose(r->data, first, r->how->per_file);
	return err;
}

int eval_data_read(struct eval_data *data, const char *const *files, size_t n_files,
		   const struct eval_reading *how)
{
	struct reader r = { .data = data, .how = how, .ids = have(json_object()) };
	int err = CLI_OK;

	*data = (struct eval_data){ 0 };
	for (size_t i = 0; i < n_files && !err; i++) {
		r.file = files[i];
		err = read_file(&r);
	}
	json_decref(r.ids);
	return err;
}

void eval_data_free(struct eval_data *data)
{
	for (size_t i = 0; i < data->n; i++)
		prompt_free(&data->prompts[i]);
	free(data->prompts);
	*data = (struct eval_data){ 0 };
}
