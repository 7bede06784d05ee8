/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversations. libllama renders the template with marks in place of the
 * messages' texts; special tokens are then looked for in what the template says
 * only, and everything between two of them is tokenized as one text, so that
 * words merge across a mark as they would in the whole.
 */
#include "engine.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In place of message i: the blanks around it tell whether the template trims. */
#define MARK_FORMAT "\t\001%zu\001\t"
#define MARK_SIZE 32

struct chat {
	struct gg_engine *engine;
	struct llama_chat_message *messages;
	const char **texts; /* what the marks stand for */
	char (*marks)[MARK_SIZE];
	size_t n;
	bool first;
	char *pending; /* plain text that is not yet tokens */
	size_t n_pending;
	int32_t *tokens;
	size_t room, n_tokens;
};

/* --- messages ---------------------------------------------------------------------------- */

/*
 * The system message that a template supplies itself stands in it word for word,
 * between the opening of the turn and its end.
 */
static char *default_system(const char *template)
{
	static const char opening[] = "<|im_start|>system", closing[] = "<|im_end|>";
	const char *at = template, *end;

	while ((at = strstr(at, opening))) {
		at += sizeof(opening) - 1;
		/* A line break in Jinja's notation, or as it is. */
		if (!strncmp(at, "\\n", 2))
			at += 2;
		else if (*at == '\n')
			at++;
		end = strstr(at, closing);
		if (end && end > at && strcspn(at, "'\"{}") > (size_t)(end - at))
			return strndup(at, (size_t)(end - at));
	}
	return NULL;
}

static void add(struct chat *chat, const char *role, const char *text)
{
	size_t i = chat->n++;

	snprintf(chat->marks[i], MARK_SIZE, MARK_FORMAT, i);
	chat->messages[i] = (struct llama_chat_message){ role, chat->marks[i] };
	chat->texts[i] = text;
}

static int32_t check_message(struct gg_engine *engine, const struct kvmod_message *message)
{
	static const char *const roles[] = { "system", "user", "assistant" };

	for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
		if (!strcmp(message->role, roles[i]))
			return gg_check_text(engine, message->text, strlen(message->text));
	}
	return gg_fail(engine, KVMOD_EINVAL, "role \"%s\", expected system, user or assistant",
		       message->role);
}

static int32_t check_messages(struct gg_engine *engine, const struct kvmod_message *messages, size_t n)
{
	int32_t code = KVMOD_OK;

	if (!n)
		return gg_fail(engine, KVMOD_EINVAL, "a conversation without messages");
	for (size_t i = 0; i < n && !code; i++)
		code = check_message(engine, &messages[i]);
	return code;
}

static bool chat_new(struct chat *chat, const char *system, const struct kvmod_message *messages, size_t n)
{
	size_t room = n + 3;

	chat->messages = calloc(room, sizeof(*chat->messages));
	chat->texts = calloc(room, sizeof(*chat->texts));
	chat->marks = calloc(room, sizeof(*chat->marks));
	if (!chat->messages || !chat->texts || !chat->marks)
		return false;
	if (system && strcmp(messages[0].role, "system"))
		add(chat, "system", system);
	/* What was said before: its text is in the cache, so it stands for nothing. */
	if (!chat->first) {
		add(chat, "user", "");
		add(chat, "assistant", "");
	}
	for (size_t i = 0; i < n; i++)
		add(chat, messages[i].role, messages[i].text);
	return true;
}

static void chat_free(struct chat *chat)
{
	free(chat->messages);
	free(chat->texts);
	free(chat->marks);
	free(chat->pending);
}

/* --- rendering ---------------------------------------------------------------------------- */

static int32_t render(struct chat *chat, const char *template, char **out)
{
	struct gg_engine *engine = chat->engine;
	int32_t n = llama_chat_apply_template(template, chat->messages, chat->n, true, NULL, 0);
	char *text;

	if (n < 0)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: its chat template is none that libllama knows: use --raw",
			       engine->model);
	text = calloc((size_t)n + 1, 1);
	if (!text)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for a conversation");
	llama_chat_apply_template(template, chat->messages, chat->n, true, text, n);
	*out = text;
	return KVMOD_OK;
}

/* --- tokens -------------------------------------------------------------------------------- */

static int32_t no_memory(const struct chat *chat)
{
	return gg_fail(chat->engine, KVMOD_ENOMEM, "no memory for a conversation");
}

static void push_token(struct chat *chat, int32_t token)
{
	if (chat->n_tokens < chat->room)
		chat->tokens[chat->n_tokens] = token;
	chat->n_tokens++;
}

static int32_t push_text(struct chat *chat, const char *text, size_t n)
{
	char *grown = realloc(chat->pending, chat->n_pending + n + 1);

	if (!grown)
		return no_memory(chat);
	memcpy(grown + chat->n_pending, text, n);
	chat->pending = grown;
	chat->n_pending += n;
	return KVMOD_OK;
}

/* Makes tokens of the plain text so far. */
static int32_t flush(struct chat *chat)
{
	size_t room = chat->n_tokens < chat->room ? chat->room - chat->n_tokens : 0;
	int32_t code;

	if (!chat->n_pending)
		return KVMOD_OK;
	code = gg_tokenize(chat->engine, chat->pending, chat->n_pending, 0,
			   room ? chat->tokens + chat->n_tokens : NULL, &room);
	chat->n_tokens += room;
	chat->n_pending = 0;
	return code == KVMOD_ERANGE ? KVMOD_OK : code;
}

/* What the template itself says. */
static int32_t push_template(struct chat *chat, const char *text, size_t n)
{
	int32_t code = KVMOD_OK;

	while (n && !code) {
		const struct gg_special *special = gg_special_at(&chat->engine->text, text, n);
		size_t length = special ? special->length : 1;

		if (special) {
			code = flush(chat);
			push_token(chat, special->token);
		} else {
			code = push_text(chat, text, 1);
		}
		text += length;
		n -= length;
	}
	return code;
}

/* A message, without the blanks around it if the template trims. */
static int32_t push_message(struct chat *chat, const char *text, bool trim_front, bool trim_back)
{
	size_t n;

	while (trim_front && isspace((unsigned char)*text))
		text++;
	n = strlen(text);
	while (trim_back && n && isspace((unsigned char)text[n - 1]))
		n--;
	return push_text(chat, text, n);
}

/* The mark of message i in the rest of a rendered text; *size: with its blanks. */
static const char *find_mark(const struct chat *chat, size_t i, const char *text, size_t *size,
			     bool *trim_front, bool *trim_back)
{
	const char *bare = chat->marks[i] + 1; /* without the blank before it */
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

static int32_t push_rendered(struct chat *chat, const char *text)
{
	size_t from = 0, size;
	bool front, back;
	int32_t code = KVMOD_OK;

	for (size_t i = 0; i < chat->n && !code; i++) {
		const char *mark = find_mark(chat, i, text, &size, &front, &back);

		if (!mark)
			return gg_fail(chat->engine, KVMOD_ENOTSUP,
				       "%s: its chat template leaves out a %s message: use --raw",
				       chat->engine->model, chat->messages[i].role);
		/* What stands before the end of the last answer is in the cache. */
		if (!chat->first && !from && !strcmp(chat->messages[i].role, "assistant"))
			from = i + 1;
		else if (chat->first || from) {
			code = push_template(chat, text, (size_t)(mark - text));
			if (!code)
				code = push_message(chat, chat->texts[i], front, back);
		}
		text = mark + size;
	}
	if (!code)
		code = push_template(chat, text, strlen(text));
	return code ? code : flush(chat);
}

/* Templates of libllama leave the start token to the tokenizer. */
static void push_bos(struct chat *chat, const char *rendered)
{
	int32_t bos = chat->engine->text.bos;
	const char *text;

	if (!chat->first || !chat->engine->text.add_bos || bos < 0)
		return;
	text = llama_vocab_get_text(chat->engine->text.vocab, bos);
	if (!text || strncmp(rendered, text, strlen(text)))
		push_token(chat, bos);
}

int32_t gg_chat(void *self, const struct kvmod_message *messages, size_t n_messages, uint32_t first,
		int32_t *tokens, size_t *n_tokens)
{
	struct gg_engine *engine = self;
	struct chat chat = { .engine = engine, .first = first, .tokens = tokens, .room = *n_tokens };
	const char *template = llama_model_chat_template(engine->text.model, NULL);
	int32_t code = check_messages(engine, messages, n_messages);
	char *rendered = NULL, *system;

	if (code)
		return code;
	if (!template)
		return gg_fail(engine, KVMOD_ENOTSUP, "%s has no chat template: use --raw", engine->model);
	system = default_system(template);
	if (chat_new(&chat, system, messages, n_messages))
		code = render(&chat, template, &rendered);
	else
		code = no_memory(&chat);
	if (!code) {
		push_bos(&chat, rendered);
		code = push_rendered(&chat, rendered);
	}
	free(rendered);
	free(system);
	chat_free(&chat);
	if (code)
		return code;
	*n_tokens = chat.n_tokens;
	return chat.n_tokens > chat.room ? KVMOD_ERANGE : KVMOD_OK;
}
