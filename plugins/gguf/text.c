/* SPDX-License-Identifier: Apache-2.0 */
/* Text to tokens and back: reads the vocabulary with libllama, and checks every text. */
#include "engine.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_special(const struct llama_vocab *vocab, int32_t token)
{
	return llama_vocab_get_attr(vocab, token) &
	       (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED);
}

/* Longest first: where two tokens match the text, the longer is meant. */
static int by_length(const void *a, const void *b)
{
	const struct gg_special *x = a, *y = b;

	if (x->length != y->length)
		return x->length < y->length ? 1 : -1;
	return (x->token > y->token) - (x->token < y->token);
}

/*
 * The most bytes of text that a token stands for; 0: there is no such bound, because some
 * tokens absorb blanks beside them, or the text is changed before it is split.
 */
static size_t longest_token(const struct llama_vocab *vocab)
{
	enum llama_vocab_type type = llama_vocab_type(vocab);
	int32_t n = llama_vocab_n_tokens(vocab), longest = 0;

	if (type != LLAMA_VOCAB_TYPE_BPE && type != LLAMA_VOCAB_TYPE_SPM)
		return 0;
	for (int32_t i = 0; i < n; i++) {
		int32_t n_bytes = -llama_token_to_piece(vocab, i, NULL, 0, 0, true);

		if (llama_vocab_get_attr(vocab, i) & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP))
			return 0;
		longest = n_bytes > longest ? n_bytes : longest;
	}
	return (size_t)longest;
}

static int32_t read_specials(struct gg_engine *engine)
{
	struct gg_text *text = &engine->text;
	int32_t n = llama_vocab_n_tokens(text->vocab);

	text->specials = calloc((size_t)n + 1, sizeof(*text->specials));
	text->end_tokens = calloc((size_t)n + 1, sizeof(*text->end_tokens));
	if (!text->specials || !text->end_tokens)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the vocabulary");
	for (int32_t i = 0; i < n; i++) {
		const char *name = llama_vocab_get_text(text->vocab, i);

		if (llama_vocab_is_eog(text->vocab, i))
			text->end_tokens[text->n_end_tokens++] = i;
		if (name && *name && is_special(text->vocab, i))
			text->specials[text->n_specials++] = (struct gg_special){ name, strlen(name), i };
	}
	text->longest = longest_token(text->vocab);
	qsort(text->specials, text->n_specials, sizeof(*text->specials), by_length);
	return KVMOD_OK;
}

const struct gg_special *gg_special_at(const struct gg_text *text, const char *at, size_t n)
{
	for (size_t i = 0; i < text->n_specials; i++) {
		const struct gg_special *special = &text->specials[i];

		if (special->length <= n && !memcmp(special->text, at, special->length))
			return special;
	}
	return NULL;
}

/* Reads the vocabulary alone from gguf. */
static int32_t load(struct gg_engine *engine, struct gguf_context *gguf)
{
	struct llama_model_params params = llama_model_default_params();
	ggml_backend_dev_t no_devices[] = { NULL };
	struct gg_text *text = &engine->text;
	const char *why;

	params.vocab_only = true;
	params.devices = no_devices;
	gg_log_begin(engine);
	text->model = llama_model_init_from_user(gguf, NULL, NULL, params);
	why = gg_log_end();
	if (!text->model)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: cannot read the vocabulary (%s)",
			       engine->model, *why ? why : "libllama gives no reason");
	text->vocab = llama_model_get_vocab(text->model);
	return KVMOD_OK;
}

static int32_t read_text(struct gg_engine *engine, struct gguf_context *gguf)
{
	int32_t code = gg_special_prepare(engine, gguf);

	if (!code)
		code = load(engine, gguf);
	/* A test's model without a vocabulary can still run token ids. */
	if (code || llama_vocab_type(engine->text.vocab) == LLAMA_VOCAB_TYPE_NONE)
		return code;
	code = read_specials(engine);
	if (code)
		return code;
	gg_special_settle(engine, gguf);
	return gg_chat_open(engine);
}

int32_t gg_text_open(struct gg_engine *engine)
{
	struct gguf_context *gguf;
	const char *why;
	char path[32];
	int fd;
	int32_t code = gg_vocab_write(engine, &fd);

	if (code)
		return code;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	gg_log_begin(engine);
	gguf = gguf_init_from_file(path, (struct gguf_init_params){ .no_alloc = true });
	why = gg_log_end();
	close(fd);
	if (!gguf)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: cannot read the vocabulary (%s)",
			       engine->model, *why ? why : "ggml gives no reason");
	code = read_text(engine, gguf);
	gguf_free(gguf);
	return code;
}

void gg_text_close(struct gg_engine *engine)
{
	struct gg_text *text = &engine->text;

	if (text->model)
		llama_model_free(text->model);
	free(text->specials);
	free(text->end_tokens);
	free(text->system);
	memset(text, 0, sizeof(*text));
}

static int32_t check_vocab(struct gg_engine *engine)
{
	if (llama_vocab_type(engine->text.vocab) == LLAMA_VOCAB_TYPE_NONE)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s has no vocabulary: only token ids can be run", engine->model);
	return KVMOD_OK;
}

/* Bytes of the first character; 0: the bytes are not UTF-8 as RFC 3629 defines it. */
static size_t character(const unsigned char *s, size_t left)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t n;

	if (s[0] < 0x80)
		return 1;
	n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (s[0] < 0xc2 || s[0] > 0xf4 || left < n)
		return 0;
	if (s[0] == 0xe0)
		low = 0xa0; /* shorter forms exist */
	else if (s[0] == 0xed)
		high = 0x9f; /* surrogates */
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f; /* past U+10FFFF */
	for (size_t i = 1; i < n; i++) {
		if (s[i] < low || s[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return n;
}

/*
 * Refuses a text of more bytes than all tokens of a full context could stand for, before
 * it is tokenized: that may take minutes.
 */
static int32_t check_length(struct gg_engine *engine, size_t length)
{
	uint64_t limit = engine->limit;
	size_t longest = engine->text.longest;

	if (longest && length > limit * longest)
		return gg_fail(engine, KVMOD_EINVAL,
			       "a text of %zu bytes exceeds the context of %llu tokens of at most %zu bytes",
			       length, (unsigned long long)limit, longest);
	if (length > INT32_MAX)
		return gg_fail(engine, KVMOD_EINVAL, "a text of %zu bytes is too long, expected at most %d",
			       length, INT32_MAX);
	return KVMOD_OK;
}

/* libllama throws a C++ exception, through C, at text that is not UTF-8. */
int32_t gg_check_text(struct gg_engine *engine, const char *text, size_t length)
{
	const unsigned char *s = (const unsigned char *)text;
	int32_t code = check_length(engine, length);
	size_t n;

	for (size_t i = 0; i < length && !code; i += n) {
		n = character(s + i, length - i);
		if (!n)
			return gg_fail(engine, KVMOD_EINVAL,
				       "the text is not UTF-8: byte %zu of %zu is 0x%02x", i,
				       length, s[i]);
	}
	return code;
}

void gg_repair_text(char *text)
{
	size_t length = strlen(text), n;

	for (size_t i = 0; i < length; i += n) {
		n = character((const unsigned char *)text + i, length - i);
		if (n)
			continue;
		text[i] = '?';
		n = 1;
	}
}

/* The start token to put before a text; -1: none, or the text begins with it. */
static int32_t start_of(const struct gg_text *text, const char *bytes, size_t length, uint32_t flags)
{
	const struct gg_special *first;

	if (!(flags & KVMOD_TOKENIZE_BOS) || !text->add_bos)
		return -1;
	first = flags & KVMOD_TOKENIZE_SPECIAL ? gg_special_at(text, bytes, length) : NULL;
	return first && first->token == text->bos ? -1 : text->bos;
}

int32_t gg_tokenize(void *self, const char *text, size_t length, uint32_t flags, int32_t *tokens,
		    size_t *n_tokens)
{
	struct gg_engine *engine = self;
	size_t given = *n_tokens < INT32_MAX ? *n_tokens : INT32_MAX, room, n_first;
	int32_t code = check_vocab(engine), start, n;

	if (!code)
		code = gg_check_text(engine, text, length);
	if (code)
		return code;
	start = start_of(&engine->text, text, length, flags);
	n_first = start >= 0;
	if (n_first && given)
		tokens[0] = start;
	room = given > n_first ? given - n_first : 0;
	code = gg_llama_tokenize(engine, text, length, flags & KVMOD_TOKENIZE_SPECIAL,
				tokens ? tokens + n_first : NULL, room, &n);
	if (code)
		return code;
	if (n == INT32_MIN)
		return gg_fail(engine, KVMOD_EINVAL, "a text of %zu bytes has too many tokens", length);
	*n_tokens = n_first + (size_t)(n < 0 ? -n : n);
	return n < 0 || *n_tokens > given ? KVMOD_ERANGE : KVMOD_OK;
}

int32_t gg_detokenize(void *self, int32_t token, char *text, size_t *length)
{
	struct gg_engine *engine = self;
	int32_t room = *length > INT32_MAX ? INT32_MAX : (int32_t)*length;
	int32_t code = check_vocab(engine), n;

	if (code)
		return code;
	if (token < 0 || token >= llama_vocab_n_tokens(engine->text.vocab))
		return gg_fail(engine, KVMOD_EINVAL, "token %d is not in the vocabulary of %d tokens",
			       token, llama_vocab_n_tokens(engine->text.vocab));
	n = llama_token_to_piece(engine->text.vocab, token, text, room, 0, true);
	*length = (size_t)(n < 0 ? -n : n);
	return n < 0 ? KVMOD_ERANGE : KVMOD_OK;
}
