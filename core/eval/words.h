/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text as the metrics compare it: lower case, without punctuation or white space that does
 * not matter, split into words.
 *
 * Upper and lower case, white space and letters are Unicode's, from tables of our own, so that
 * a score does not depend on the locale: Latin, Greek, Cyrillic and Armenian letters have a
 * lower case here; letters of other scripts stay as they are. A byte that is not UTF-8 counts as
 * a letter.
 */
#ifndef KV_CORE_EVAL_WORDS_H
#define KV_CORE_EVAL_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cli/text.h"

/* The lower case of a character, if it is one character, as it is in all but U+0130. */
uint32_t eval_lower(uint32_t c);
/* White space as Python's str.isspace() has it. */
bool eval_is_space(uint32_t c);
/* Part of a word, as \w of Python's re has it; exact for Latin text and its punctuation. */
bool eval_is_word(uint32_t c);

struct eval_word {
	const char *bytes;
	size_t n;
};

struct eval_words {
	size_t n;
	struct eval_word *word;
	size_t room;
	struct cli_text text;		/* what the words point to */
};

/* Lower case, every run of white space one space, none at the ends. */
struct cli_text eval_plain(const char *text);
/* The runs of [a-z0-9] in the lower case: the words of the package rouge_score. */
struct eval_words eval_rouge_words(const char *text);
/* Lower case without ASCII punctuation, split at white space, without "a", "an", "the". */
struct eval_words eval_squad_words(const char *text, bool without_articles);
void eval_words_free(struct eval_words *words);

bool eval_words_equal(const struct eval_words *a, const struct eval_words *b);
/* An order of words, for sorting: 0 if they are equal. */
int eval_word_cmp(const struct eval_word *a, const struct eval_word *b);

#endif
