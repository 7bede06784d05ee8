/* SPDX-License-Identifier: Apache-2.0 */
/* Text to tokens and back, by libllama on a vocabulary that was checked first. */
#ifndef KV_PLUGINS_GGUF_TEXT_H
#define KV_PLUGINS_GGUF_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <gguf.h>
#include <llama.h>

struct gg_engine;
struct gg_template;

/* A control token or a user-defined one, and its text. */
struct gg_special {
	const char *text;
	size_t length;
	int32_t token;
};

struct gg_text {
	struct llama_model *model;	/* vocabulary only */
	const struct llama_vocab *vocab;
	int32_t *end_tokens;
	uint32_t n_end_tokens;
	struct gg_special *specials;
	size_t n_specials;
	int32_t bos, eos;		/* as the file names them, not libllama's guesses; -1: none */
	bool add_bos;			/* a text begins with the start token */
	size_t longest;			/* bytes of the longest token; 0: not known */
	const struct gg_template *template;	/* that renders; NULL: libllama renders */
	char *system;			/* the default message that the template states; NULL: none */
	bool warned_of_guess;
};

/* --- the vocabulary in the header (vocab.c) ---------------------------------------- */

/* Refuses a vocabulary that libllama would misread or end the process for. */
int32_t gg_vocab_check(struct gg_engine *engine);
/*
 * Writes the keys that were checked, and no others, to a file in memory for libllama.
 * The caller closes *fd.
 */
int32_t gg_vocab_write(struct gg_engine *engine, int *fd);

/* --- the tokenizer (text.c, tokenizer_stack.c, special_tokens.c) ------------------- */

int32_t gg_text_open(struct gg_engine *engine);
void gg_text_close(struct gg_engine *engine);
/*
 * Before libllama reads the vocabulary from gguf: turns the tokens that the chat template
 * writes into control tokens.
 */
int32_t gg_special_prepare(struct gg_engine *engine, struct gguf_context *gguf);
/* After that: finds the start and end tokens that the file names, and warns of what it lacks. */
void gg_special_settle(struct gg_engine *engine, const struct gguf_context *gguf);
/* The longest special token that begins at `at`, within n bytes; NULL: none does. */
const struct gg_special *gg_special_at(const struct gg_text *text, const char *at, size_t n);
/* llama_tokenize() on a stack that suffices for words of any length. *n: what it returns. */
int32_t gg_llama_tokenize(struct gg_engine *engine, const char *text, size_t length, bool special,
			  int32_t *tokens, size_t room, int32_t *n);
/* Refuses text that is not UTF-8, or too long for the context whatever its tokens are. */
int32_t gg_check_text(struct gg_engine *engine, const char *text, size_t length);
/* Replaces each byte that is not UTF-8 by '?'. */
void gg_repair_text(char *text);
int32_t gg_tokenize(void *self, const char *text, size_t length, uint32_t flags,
		    int32_t *tokens, size_t *n_tokens);
int32_t gg_detokenize(void *self, int32_t token, char *text, size_t *length);

#endif
