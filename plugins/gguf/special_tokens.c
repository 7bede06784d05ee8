/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Corrects libllama's view of special tokens. Where a file does not name one, libllama
 * guesses (token 11 starts a text); and libllama finds some special tokens even in text
 * that must not contain any.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#define NO_TOKEN UINT32_MAX
/* The most bytes of template to search: a second's work, of which real files need a tenth. */
#define MAX_SEARCH ((uint64_t)4 << 30)

/* --- before libllama reads the vocabulary ---------------------------------------------------- */

static int64_t find(const struct gguf_context *gguf, const char *key, enum gguf_type type)
{
	int64_t id = gguf_find_key(gguf, key);

	return id >= 0 && gguf_get_kv_type(gguf, id) == type ? id : -1;
}

static int64_t find_array(const struct gguf_context *gguf, const char *key, enum gguf_type type)
{
	int64_t id = find(gguf, key, GGUF_TYPE_ARRAY);

	return id >= 0 && gguf_get_arr_type(gguf, id) == type ? id : -1;
}

static const char *string(const struct gguf_context *gguf, const char *key)
{
	int64_t id = find(gguf, key, GGUF_TYPE_STRING);

	return id < 0 ? "" : gguf_get_val_str(gguf, id);
}

static uint32_t named(const struct gguf_context *gguf, const char *key)
{
	int64_t id = find(gguf, key, GGUF_TYPE_UINT32);

	return id < 0 ? NO_TOKEN : gguf_get_val_u32(gguf, id);
}

/*
 * Is it a word that only a template writes? Other "user defined" tokens, runs of blanks and
 * tags like <b>, are ordinary text that is one token.
 */
static bool is_mark(const char *text, const char *template)
{
	if (!strncmp(text, "<|", 2))
		return true;
	return text[strspn(text, " \t\r\n")] && strstr(template, text);
}

/*
 * libllama does not look for control tokens in plain text, but finds "user defined" tokens
 * in any text. A user's text must not be able to end its turn, so the tokens that a template
 * writes become control tokens.
 */
static int32_t make_control(struct gg_engine *engine, struct gguf_context *gguf, int64_t tokens, size_t n)
{
	static const char key[] = "tokenizer.ggml.token_type";
	int64_t types = find_array(gguf, key, GGUF_TYPE_INT32);
	const char *template = string(gguf, "tokenizer.chat_template");
	uint64_t n_own = 0, length = strlen(template);
	bool changed = false;
	int32_t *now;

	if (types < 0 || gguf_get_arr_n(gguf, types) < n)
		return KVMOD_OK; /* libllama will say what is wrong */
	now = malloc(n * sizeof(*now));
	if (!now)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the vocabulary");
	memcpy(now, gguf_get_arr_data(gguf, types), n * sizeof(*now));
	for (size_t i = 0; i < n; i++)
		n_own += now[i] == LLAMA_TOKEN_TYPE_USER_DEFINED;
	if (n_own * length > MAX_SEARCH) {
		free(now);
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: %llu tokens are \"user defined\", expected at most %llu with a chat template of %llu bytes",
			       engine->model, (unsigned long long)n_own,
			       (unsigned long long)(MAX_SEARCH / length), (unsigned long long)length);
	}
	for (size_t i = 0; i < n; i++) {
		if (now[i] == LLAMA_TOKEN_TYPE_USER_DEFINED &&
		    is_mark(gguf_get_arr_str(gguf, tokens, i), template)) {
			now[i] = LLAMA_TOKEN_TYPE_CONTROL;
			changed = true;
		}
	}
	if (changed)
		gguf_set_arr_data(gguf, key, GGUF_TYPE_INT32, now, n);
	free(now);
	return KVMOD_OK;
}

int32_t gg_special_prepare(struct gg_engine *engine, struct gguf_context *gguf)
{
	int64_t tokens = find_array(gguf, "tokenizer.ggml.tokens", GGUF_TYPE_STRING);
	size_t n = tokens < 0 ? 0 : gguf_get_arr_n(gguf, tokens);

	return n ? make_control(engine, gguf, tokens, n) : KVMOD_OK;
}

/* --- after that -------------------------------------------------------------------------------- */

/* libllama's guess is right if the token has the name that libllama expects there. */
static int32_t known(const struct gg_engine *engine, const struct gguf_context *gguf, const char *key,
		     int32_t token, const char *name)
{
	const char *text = token < 0 ? "" : llama_vocab_get_text(engine->text.vocab, token);

	if (named(gguf, key) != NO_TOKEN || !strcmp(text, name) || !strcmp(text, "<|endoftext|>"))
		return token;
	return -1;
}

static void warn_of_gaps(struct gg_engine *engine, const struct gguf_context *gguf)
{
	const struct gg_text *text = &engine->text;
	enum llama_vocab_type type = llama_vocab_type(text->vocab);

	if (text->add_bos && text->bos < 0)
		gg_log(engine, KVMOD_WARN, "%s: no tokenizer.ggml.bos_token_id, although texts should begin with a start token: they begin without one",
		       engine->model);
	/* Other BPE vocabularies have a pre-tokenizer of their own in libllama. */
	if (type == LLAMA_VOCAB_TYPE_BPE && !strcmp(string(gguf, "tokenizer.ggml.model"), "gpt2") &&
	    !*string(gguf, "tokenizer.ggml.pre"))
		gg_log(engine, KVMOD_WARN, "%s: no tokenizer.ggml.pre: text is split into words by a default rule, and answers may be worse; convert the model again",
		       engine->model);
	if (type == LLAMA_VOCAB_TYPE_SPM && gguf_find_key(gguf, "tokenizer.ggml.scores") < 0)
		gg_log(engine, KVMOD_WARN, "%s: no tokenizer.ggml.scores: text is not split into tokens as in training, and answers may be worse; convert the model again",
		       engine->model);
	if (gguf_find_key(gguf, "tokenizer.ggml.token_type") < 0)
		gg_log(engine, KVMOD_WARN, "%s: no tokenizer.ggml.token_type: special tokens are read as text, and answers may be worse; convert the model again",
		       engine->model);
	if (!text->n_end_tokens)
		gg_log(engine, KVMOD_WARN, "%s: no token of the vocabulary ends an answer: answers end only at their maximal length",
		       engine->model);
}

/* Removes token 11, which libllama assumes to end answers if the file names no such token. */
static void drop_end(struct gg_text *text, int32_t token)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < text->n_end_tokens; i++)
		if (text->end_tokens[i] != token)
			text->end_tokens[n++] = text->end_tokens[i];
	text->n_end_tokens = n;
}

void gg_special_settle(struct gg_engine *engine, const struct gguf_context *gguf)
{
	struct gg_text *text = &engine->text;
	int32_t eos = llama_vocab_eos(text->vocab);

	text->bos = known(engine, gguf, "tokenizer.ggml.bos_token_id", llama_vocab_bos(text->vocab), "<s>");
	text->eos = known(engine, gguf, "tokenizer.ggml.eos_token_id", eos, "</s>");
	text->add_bos = llama_vocab_get_add_bos(text->vocab);
	if (text->eos != eos && llama_vocab_eot(text->vocab) != eos)
		drop_end(text, eos);
	warn_of_gaps(engine, gguf);
}
