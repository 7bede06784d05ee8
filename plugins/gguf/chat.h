/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversations as text: a known template is rendered exactly, by a row of a table
 * (templates.c, render_known.c), any other as libllama guesses (render_guess.c).
 */
#ifndef KV_PLUGINS_GGUF_CHAT_H
#define KV_PLUGINS_GGUF_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvmod/engine.h>

struct gg_engine;

/* Where a byte of a rendered conversation comes from. */
enum gg_from {
	GG_FROM_MESSAGE,	/* text, whatever it says */
	GG_FROM_TEMPLATE,	/* may hold special tokens */
	GG_FROM_BOS,		/* the byte stands for the start token */
	GG_FROM_EOS,		/* or the end token */
};

struct gg_rendered {
	char *bytes;
	unsigned char *from;	/* enum gg_from, one for each byte */
	size_t n, room;
	size_t text;		/* where the text of the last message begins */
	bool failed;		/* no memory: everything later is dropped */
};

void gg_put(struct gg_rendered *out, enum gg_from from, const char *bytes, size_t n);
void gg_rendered_free(struct gg_rendered *out);

/* --- rows of the table ------------------------------------------------------------- */

/* Bytes of a row's texts that are replaced when the row is rendered. */
enum gg_mark {
	GG_MARK_BOS = 1,	/* the model's start token */
	GG_MARK_EOS,		/* its end token */
	GG_MARK_TEXT,		/* the message's text */
	GG_MARK_SYSTEM,		/* in a user's turn: the system message's text */
	GG_MARK_TODAY,		/* the date: 05 Mar 2026 */
	GG_MARK_DATE,		/* the date: 2026-03-05 */
	GG_MARK_STRIP,		/* from here to the next one, without the blanks at both ends */
	GG_MARK_STRIPPED,
};
#define GG_BOS		"\001"
#define GG_EOS		"\002"
#define GG_TEXT		"\003"
#define GG_SYSTEM	"\004"
#define GG_TODAY	"\005"
#define GG_DATE		"\006"
#define GG_STRIP(text)	"\007" text "\010"
#define GG_MARKS	"\001\002\003\004\005\006\007\010"

enum gg_template_flag {
	/* Users and assistants alternate, or the template raises an exception. */
	GG_TURNS		= 1,
	/* The system message is in the last user's turn, not in the first. */
	GG_SYSTEM_LAST		= 2,
	/* An empty system message counts as none. */
	GG_SKIP_EMPTY_SYSTEM	= 4,
	/* After an answer, no prompt for another follows. */
	GG_NO_PROMPT		= 8,
	/* Only the text after an answer's last </think> is kept. */
	GG_DROP_THOUGHTS	= 16,
	/* The same, but an answer to the last question keeps its thoughts, */
	GG_QWEN3_THOUGHTS	= 32,
	/* and has thoughts, if empty ones, where it is the last message. */
	GG_LAST_THINKS		= 64,
	/* Like GG_DROP_THOUGHTS, but the last message stays as it is. */
	GG_QWQ_THOUGHTS		= 128,
};

struct gg_template {
	const char *name;		/* for the parameter chat_template */
	const char *begin;		/* of the conversation; NULL, here and below: nothing */
	const char *system;		/* a system message that comes first */
	const char *no_system;		/* in its place, if there is none */
	const char *system_user;	/* instead of `system`: a user's turn that contains it */
	const char *later_system;	/* a system message further on; NULL: refused */
	const char *user, *assistant;
	const char *last_assistant;	/* as the last message; NULL: like `assistant` */
	const char *generation;		/* the prompt for an answer */
	uint32_t flags;
};

/* "auto", then the rows in their order. */
#define GG_TEMPLATE_NAMES \
	"auto|chatml|chatml-bos|chatml-think|smollm2|qwen1.5|qwen2|qwen2.5|qwen3|" \
	"qwen3-instruct|qwen3-thinking|qwq|llama-2|llama-3|llama-3.1|llama-3.2|" \
	"mistral-v0.1|mistral-v0.2|mistral-v1|mistral-v3|mistral-v3-tekken|mistral-v7|" \
	"mistral-v7-tekken|zephyr|vicuna|deepseek-coder|deepseek-llm|deepseek-r1|" \
	"deepseek-r1-think|falcon3|openchat|openchat-3.6|" \
	"solar|yi"

extern const struct gg_template gg_templates[];
extern const size_t gg_n_templates;

/*
 * Finds the row that renders this template as Jinja does; *row is NULL if the table has
 * none. *system: the default system message that the template states, for the caller to
 * free; NULL if it states none word for word. False: no memory.
 */
bool gg_template_find(const char *template, const struct gg_template **row, char **system);
/*
 * The key of a template in the table: equal for templates that differ only in what Jinja
 * ignores, and in the default system message (*system, as above).
 */
bool gg_template_key(const char *template, uint64_t *key, char **system);

/* --- rendering ------------------------------------------------------------------------ */

/* The arguments of chat_part(); `system` below is the template's default system message. */
struct gg_conversation {
	const struct kvmod_message *messages;
	size_t n;
	bool first;
	uint32_t part;		/* KVMOD_CHAT_... */
};

int32_t gg_render_known(struct gg_engine *engine, const struct gg_template *row, const char *system,
			const struct gg_conversation *talk, struct gg_rendered *out);
int32_t gg_render_guess(struct gg_engine *engine, const char *template, const char *system,
			const struct gg_conversation *talk, struct gg_rendered *out);

/* --- conversations as tokens (chat.c) ---------------------------------------------- */

/* Finds the template; the vocabulary must have been read. */
int32_t gg_chat_open(struct gg_engine *engine);
int32_t gg_chat(void *self, const struct kvmod_message *messages, size_t n_messages,
		uint32_t first, int32_t *tokens, size_t *n_tokens);
int32_t gg_chat_part(void *self, const struct kvmod_message *messages, size_t n_messages,
		     uint32_t first, uint32_t part, int32_t *tokens, size_t *n_tokens,
		     size_t *n_opening);
/* "ggml" or "llama": the section of the configuration that messages name. */
const char *gg_engine_name(const struct gg_engine *engine);

#endif
