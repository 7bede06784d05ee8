/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Renders a template that kvmod does not know, by libllama's guess: libllama gets marks in
 * place of the messages' texts, and the texts replace the marks afterwards.
 */
#include "engine.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Stands for message i: the blanks around it tell whether the template trims messages. */
#define MARK_FORMAT "\t\001%zu\001\t"
#define MARK_SIZE 32

struct guess {
	struct gg_engine *engine;
	struct llama_chat_message *messages;
	const char **texts; /* what the marks stand for */
	char (*marks)[MARK_SIZE];
	size_t n;
	size_t n_cached; /* so many of the oldest are in the cache, the last one perhaps open */
	uint32_t part;
	struct gg_rendered *out;
};

static void add(struct guess *guess, const char *role, const char *text)
{
	size_t i = guess->n++;

	snprintf(guess->marks[i], MARK_SIZE, MARK_FORMAT, i);
	guess->messages[i] = (struct llama_chat_message){ role, guess->marks[i] };
	guess->texts[i] = text;
}

static bool guess_new(struct guess *guess, const char *system, const struct gg_conversation *talk)
{
	size_t room = talk->n + 3;

	guess->messages = calloc(room, sizeof(*guess->messages));
	guess->texts = calloc(room, sizeof(*guess->texts));
	guess->marks = calloc(room, sizeof(*guess->marks));
	if (!guess->messages || !guess->texts || !guess->marks)
		return false;
	if (system && strcmp(talk->messages[0].role, "system"))
		add(guess, "system", system);
	/* Earlier messages are in the cache: two empty ones take their place. */
	if (!talk->first) {
		add(guess, "user", "");
		add(guess, "assistant", "");
		guess->n_cached = guess->n;
	}
	for (size_t i = 0; i < talk->n; i++)
		add(guess, talk->messages[i].role, talk->messages[i].text);
	if (talk->part == KVMOD_CHAT_QUESTION)
		guess->n_cached = guess->n - 1;
	return true;
}

static void guess_free(struct guess *guess)
{
	free(guess->messages);
	free(guess->texts);
	free(guess->marks);
}

static int32_t no_memory(struct gg_engine *engine)
{
	return gg_fail(engine, KVMOD_ENOMEM, "no memory for a conversation");
}

static int32_t render(struct guess *guess, const char *template, char **out)
{
	struct gg_engine *engine = guess->engine;
	int32_t n = llama_chat_apply_template(template, guess->messages, guess->n, true, NULL, 0);
	char *text;

	if (n < 0)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: neither kvmod nor libllama knows the chat template: "
			       "set [engine %s] chat_template = NAME, or use --raw",
			       engine->model, gg_engine_name(engine));
	text = calloc((size_t)n + 1, 1);
	if (!text)
		return no_memory(engine);
	llama_chat_apply_template(template, guess->messages, guess->n, true, text, n);
	*out = text;
	return KVMOD_OK;
}

/* A message, without the blanks around it if the template trims messages. */
static void put_message(struct gg_rendered *out, const char *text, bool trim_front, bool trim_back)
{
	size_t n;

	while (trim_front && isspace((unsigned char)*text))
		text++;
	n = strlen(text);
	while (trim_back && n && isspace((unsigned char)text[n - 1]))
		n--;
	gg_put(out, GG_FROM_MESSAGE, text, n);
}

/* The mark of message i in the rest of a rendered text; *size includes its blanks. */
static const char *find_mark(const struct guess *guess, size_t i, const char *text, size_t *size,
			     bool *trim_front, bool *trim_back)
{
	const char *bare = guess->marks[i] + 1; /* without the blank before it */
	size_t n = strlen(bare) - 1;
	const char *at = text;

	while ((at = strchr(at, '\001')) && strncmp(at, bare, n))
		at++;
	if (!at)
		return NULL;
	*trim_front = at == text || at[-1] != '\t';
	*trim_back = at[n] != '\t';
	*size = n + !*trim_front + !*trim_back;
	return at - !*trim_front;
}

/* Message i, and what comes before it. Parts of the last one are not stripped where they meet. */
static void put_next(struct guess *guess, size_t i, const char *before, size_t n, bool trim_front,
		     bool trim_back)
{
	bool question = guess->part == KVMOD_CHAT_QUESTION;
	bool open = guess->part == KVMOD_CHAT_CONTEXT && i + 1 == guess->n;
	struct gg_rendered *out = guess->out;

	if (!question)
		gg_put(out, GG_FROM_TEMPLATE, before, n);
	out->text = out->n;
	put_message(out, guess->texts[i], trim_front && !question, trim_back && !open);
}

static int32_t put_rendered(struct guess *guess, const char *text)
{
	bool front, back;
	size_t size;

	for (size_t i = 0; i < guess->n; i++) {
		const char *mark = find_mark(guess, i, text, &size, &front, &back);

		if (!mark)
			return gg_fail(guess->engine, KVMOD_ENOTSUP,
				       "%s: the chat template leaves out a %s message: use --raw",
				       guess->engine->model, guess->messages[i].role);
		if (i >= guess->n_cached)
			put_next(guess, i, text, (size_t)(mark - text), front, back);
		text = mark + size;
	}
	if (guess->part != KVMOD_CHAT_CONTEXT)
		gg_put(guess->out, GG_FROM_TEMPLATE, text, strlen(text));
	return KVMOD_OK;
}

int32_t gg_render_guess(struct gg_engine *engine, const char *template, const char *system,
			const struct gg_conversation *talk, struct gg_rendered *out)
{
	struct guess guess = { .engine = engine, .part = talk->part, .out = out };
	char *rendered = NULL;
	int32_t code;

	if (guess_new(&guess, system, talk))
		code = render(&guess, template, &rendered);
	else
		code = no_memory(engine);
	if (!code)
		code = put_rendered(&guess, rendered);
	free(rendered);
	guess_free(&guess);
	return code;
}
