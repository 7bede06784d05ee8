/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns conversations into tokens. Special tokens are looked for only in the template's own
 * text, and everything between two of them is tokenized as one text, so that words merge
 * across the edge of a message as they do in the whole text.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* --- rendered text ------------------------------------------------------------------- */

static bool grow(struct gg_rendered *out, size_t n)
{
	size_t room = out->room;
	unsigned char *from;
	char *bytes;

	if (n <= room)
		return true;
	room = room + room / 2 > n ? room + room / 2 : n + 64;
	bytes = realloc(out->bytes, room);
	if (bytes)
		out->bytes = bytes;
	from = realloc(out->from, room);
	if (from)
		out->from = from;
	if (!bytes || !from)
		return false;
	out->room = room;
	return true;
}

void gg_put(struct gg_rendered *out, enum gg_from from, const char *bytes, size_t n)
{
	if (!n || out->failed)
		return;
	if (!grow(out, out->n + n)) {
		out->failed = true;
		return;
	}
	memcpy(out->bytes + out->n, bytes, n);
	memset(out->from + out->n, from, n);
	out->n += n;
}

void gg_rendered_free(struct gg_rendered *out)
{
	free(out->bytes);
	free(out->from);
	*out = (struct gg_rendered){ 0 };
}

/* --- tokens -------------------------------------------------------------------------- */

struct tokens {
	struct gg_engine *engine;
	int32_t *ids;
	size_t room, n;
	size_t opening;		/* how many begin before the last message's text */
};

static void push_token(struct tokens *tokens, int32_t id)
{
	if (id < 0)
		return; /* the model has no such token */
	if (tokens->n < tokens->room)
		tokens->ids[tokens->n] = id;
	tokens->n++;
}

static int32_t push_text(struct tokens *tokens, const char *text, size_t n)
{
	size_t room = tokens->n < tokens->room ? tokens->room - tokens->n : 0;
	int32_t code;

	if (!n)
		return KVMOD_OK;
	code = gg_tokenize(tokens->engine, text, n, 0, room ? tokens->ids + tokens->n : NULL,
			   &room);
	tokens->n += room;
	return code == KVMOD_ERANGE ? KVMOD_OK : code;
}

static size_t bytes_of(const struct tokens *tokens, size_t first, size_t end)
{
	size_t sum = 0, n;

	for (size_t i = first; i < end; i++) {
		n = 0;
		gg_detokenize(tokens->engine, tokens->ids[i], NULL, &n);
		sum += n;
	}
	return sum;
}

/*
 * How many tokens of the newest run, of `length` bytes, begin within its first `before`
 * bytes. Some tokenizers put a blank before a run.
 */
static size_t count_begun(const struct tokens *tokens, size_t first, size_t length, size_t before)
{
	size_t all = bytes_of(tokens, first, tokens->n), at = 0, i = first;

	if (all > length)
		before += all - length;
	for (; i < tokens->n && at < before; i++)
		at += bytes_of(tokens, i, i + 1);
	return i - first;
}

/* Bytes begin .. end-1, which hold no special token. */
static int32_t push_run(struct tokens *tokens, const struct gg_rendered *all, size_t begin,
			size_t end)
{
	size_t first = tokens->n;
	int32_t code = push_text(tokens, all->bytes + begin, end - begin);

	if (code || all->text < begin || all->text > end || tokens->n > tokens->room)
		return code;
	tokens->opening = first;
	if (all->text > begin)
		tokens->opening += count_begun(tokens, first, end - begin, all->text - begin);
	return KVMOD_OK;
}

/* The end of the template's text that begins at byte i. */
static size_t template_end(const struct gg_rendered *all, size_t i)
{
	while (i < all->n && all->from[i] == GG_FROM_TEMPLATE)
		i++;
	return i;
}

/* Is the text at byte i one token, *id, of *length bytes? If not, it is a byte of plain text. */
static bool token_at(const struct gg_text *text, const struct gg_rendered *all, size_t i,
		     int32_t *id, size_t *length)
{
	const struct gg_special *special;

	*length = 1;
	switch (all->from[i]) {
	case GG_FROM_BOS:
		*id = text->bos;
		return true;
	case GG_FROM_EOS:
		*id = text->eos;
		return true;
	case GG_FROM_TEMPLATE:
		special = gg_special_at(text, all->bytes + i, template_end(all, i) - i);
		if (!special)
			return false;
		*id = special->token;
		*length = special->length;
		return true;
	default:
		return false;
	}
}

/* Bytes begin .. end-1. */
static int32_t push_rendered(struct tokens *tokens, const struct gg_rendered *all, size_t begin,
			     size_t end)
{
	int32_t code = KVMOD_OK, id;
	size_t length;

	for (size_t i = begin; i < end && !code; i += length) {
		if (!token_at(&tokens->engine->text, all, i, &id, &length))
			continue;
		code = push_run(tokens, all, begin, i);
		if (id >= 0) /* else the model has no such token */
			push_token(tokens, id);
		begin = i + length;
	}
	return code ? code : push_run(tokens, all, begin, end);
}

/* A context is tokenized apart from its opening, as from its question: it can be repeated. */
static int32_t push_part(struct tokens *tokens, const struct gg_rendered *all, uint32_t part)
{
	size_t opening = part == KVMOD_CHAT_CONTEXT ? all->text : 0;
	int32_t code = push_rendered(tokens, all, 0, opening);

	return code ? code : push_rendered(tokens, all, opening, all->n);
}

/* Many templates leave the start token to the tokenizer; a message cannot contain it. */
static void push_bos(struct tokens *tokens, const struct gg_rendered *all)
{
	const struct gg_text *own = &tokens->engine->text;
	int32_t id;
	size_t n;

	if (own->bos < 0 || !own->add_bos ||
	    (all->n && token_at(own, all, 0, &id, &n) && id == own->bos))
		return;
	push_token(tokens, own->bos);
}

/* --- the engine's calls ------------------------------------------------------------ */

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

static int32_t check_messages(struct gg_engine *engine, const struct gg_conversation *talk)
{
	int32_t code = KVMOD_OK;

	if (!talk->n)
		return gg_fail(engine, KVMOD_EINVAL, "the conversation has no messages");
	for (size_t i = 0; i < talk->n && !code; i++)
		code = check_message(engine, &talk->messages[i]);
	return code;
}

/* Only a user's message comes in parts, and its second part comes alone. */
static int32_t check_part(struct gg_engine *engine, const struct gg_conversation *talk)
{
	const char *role = talk->messages[talk->n - 1].role;

	switch (talk->part) {
	case KVMOD_CHAT_WHOLE:
		return KVMOD_OK;
	case KVMOD_CHAT_CONTEXT:
		break;
	case KVMOD_CHAT_QUESTION:
		if (talk->n == 1)
			break;
		return gg_fail(engine, KVMOD_EINVAL, "%zu messages, expected a question alone",
			       talk->n);
	default:
		return gg_fail(engine, KVMOD_EINVAL, "part %u of a message, expected 0 to 2",
			       talk->part);
	}
	if (!strcmp(role, "user"))
		return KVMOD_OK;
	return gg_fail(engine, KVMOD_EINVAL, "a part of a message from \"%s\", expected \"user\"",
		       role);
}

static void warn_of_guess(struct gg_engine *engine)
{
	if (!engine->text.warned_of_guess)
		gg_log(engine, KVMOD_WARN,
		       "%s: kvmod does not know the chat template and uses libllama's guess, "
		       "which may differ: set [engine %s] chat_template = NAME, or use --raw",
		       engine->model, gg_engine_name(engine));
	engine->text.warned_of_guess = true;
}

static int32_t render(struct gg_engine *engine, const struct gg_conversation *talk, struct gg_rendered *out)
{
	const char *template = llama_model_chat_template(engine->text.model, NULL);
	const struct gg_template *row = engine->text.template;
	int32_t code;

	if (row)
		return gg_render_known(engine, row, engine->text.system, talk, out);
	if (!template)
		return gg_fail(
			engine, KVMOD_ENOTSUP,
			"%s has no chat template: set [engine %s] chat_template = NAME, "
			"or use --raw",
			engine->model, gg_engine_name(engine));
	code = gg_render_guess(engine, template, engine->text.system, talk, out);
	if (!code)
		warn_of_guess(engine);
	return code;
}

/* What blanks the template strips at the front of a message, it would strip from the question. */
static int32_t check_rendered(struct gg_engine *engine, const struct gg_conversation *talk,
			      const struct gg_rendered *all)
{
	if (all->failed)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for a conversation");
	if (talk->part == KVMOD_CHAT_CONTEXT && all->text == all->n)
		return gg_fail(engine, KVMOD_EINVAL,
			       "the chat template leaves nothing of the context");
	return KVMOD_OK;
}

int32_t gg_chat_part(void *self, const struct kvmod_message *messages, size_t n_messages,
		     uint32_t first, uint32_t part, int32_t *tokens, size_t *n_tokens,
		     size_t *n_opening)
{
	struct tokens out = { .engine = self, .ids = tokens, .room = *n_tokens };
	struct gg_conversation talk = {
		.messages = messages, .n = n_messages, .part = part,
		.first = first || part == KVMOD_CHAT_QUESTION,
	};
	struct gg_rendered all = { 0 };
	int32_t code = check_messages(self, &talk);

	if (!code)
		code = check_part(self, &talk);
	if (!code)
		code = render(self, &talk, &all);
	if (!code)
		code = check_rendered(self, &talk, &all);
	if (!code) {
		if (talk.first && part != KVMOD_CHAT_QUESTION)
			push_bos(&out, &all);
		code = push_part(&out, &all, part);
	}
	gg_rendered_free(&all);
	if (code)
		return code;
	*n_tokens = out.n;
	if (n_opening)
		*n_opening = out.opening;
	return out.n > out.room ? KVMOD_ERANGE : KVMOD_OK;
}

int32_t gg_chat(void *self, const struct kvmod_message *messages, size_t n_messages, uint32_t first,
		int32_t *tokens, size_t *n_tokens)
{
	return gg_chat_part(self, messages, n_messages, first, KVMOD_CHAT_WHOLE, tokens, n_tokens,
			    NULL);
}

const char *gg_engine_name(const struct gg_engine *engine)
{
	const struct kvmod_engine_ops *ops = engine->base.ops;

	return ops->name;
}

int32_t gg_chat_open(struct gg_engine *engine)
{
	const char *template = llama_model_chat_template(engine->text.model, NULL);
	struct gg_text *text = &engine->text;

	if (engine->chat_template > 0)
		text->template = &gg_templates[engine->chat_template - 1];
	else if (template && !gg_template_find(template, &text->template, &text->system))
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the chat template");
	return KVMOD_OK;
}
