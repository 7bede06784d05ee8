/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts for `kvmod heads`: filler in which passkeys are hidden, as in the texts that
 * DuoAttention (arXiv 2410.10819) finds retrieval heads with.
 */
#include "core/cli/heads.h"
#include "core/testkit/random.h"

#include <stdarg.h>
#include <string.h>

#define N_KEYS		5
#define KEY_WORDS	8

static const char *const adjectives[] = {
	"quiet", "old", "bright", "narrow", "heavy", "gentle", "distant", "broken", "golden", "simple",
	"clever", "muddy", "hollow", "early", "patient", "wooden",
};
static const char *const nouns[] = {
	"river", "baker", "lantern", "garden", "teacher", "bridge", "market", "sailor", "window",
	"orchard", "station", "letter", "valley", "farmer", "clock", "harbour",
};
static const char *const verbs[] = {
	"follows", "watches", "carries", "paints", "repairs", "remembers", "visits", "measures",
	"describes", "forgets", "crosses", "borrows",
};
static const char *const places[] = {
	"near the mill", "after the rain", "before noon", "behind the church", "in the evening",
	"on the hill", "under the stars", "beside the road", "without a word", "at the fair",
};
static const char *const key_words[] = {
	"amber", "falcon", "cobalt", "willow", "ember", "violet", "tundra", "pepper", "marble", "cedar",
	"saffron", "orbit", "canyon", "velvet", "walnut", "comet", "indigo", "thistle", "copper",
	"meadow", "raven", "lagoon", "ginger", "quartz",
};
static const char *const ordinals[N_KEYS] = { "first", "second", "third", "fourth", "fifth" };

#define PICK(r, list) ((list)[kv_random_range(r, 0, CLI_COUNT(list) - 1)])

static int add(struct cli_text *text, const char *format, ...) CLI_PRINTF(2, 3);
static int add(struct cli_text *text, const char *format, ...)
{
	char piece[256];
	va_list args;

	va_start(args, format);
	vsnprintf(piece, sizeof(piece), format, args);
	va_end(args);
	return cli_text_add(text, piece, strlen(piece)) ? cli_error("out of memory") : CLI_OK;
}

static void draw_key(struct kv_random *r, char *key, size_t room)
{
	size_t n = 0;

	for (int i = 0; i < KEY_WORDS; i++)
		n += (size_t)snprintf(key + n, room - n, "%s%s", i ? " " : "", PICK(r, key_words));
}

static int add_filler(struct kv_random *r, struct cli_text *text)
{
	const char *first = PICK(r, adjectives), *who = PICK(r, nouns), *does = PICK(r, verbs);
	const char *second = PICK(r, adjectives), *whom = PICK(r, nouns);

	return add(text, "The %s %s %s the %s %s %s. ", first, who, does, second, whom,
		   PICK(r, places));
}

/* A sentence for both the text, where it is to be remembered, and the answer. */
static int add_key(struct kv_random *r, uint32_t k, struct cli_text *text, struct cli_text *answer)
{
	char key[160];

	draw_key(r, key, sizeof(key));
	if (add(text, "Remember this: the %s passkey is %s. ", ordinals[k], key))
		return CLI_FAILED;
	return add(answer, "%sThe %s passkey is %s.", k ? " " : "", ordinals[k], key);
}

/* The text, and the answer that it asks for. */
static int write_text(uint64_t seed, uint32_t n_sentences, struct cli_text *text,
		      struct cli_text *answer)
{
	struct kv_random r = { .state = seed };
	int err = add(text, "Below is a long text with passkeys hidden in it.\n\n");

	/* Each passkey has its part of the text, and a place in it that is drawn. */
	for (uint32_t k = 0; k < N_KEYS && !err; k++) {
		uint32_t share = (k + 1) * n_sentences / N_KEYS - k * n_sentences / N_KEYS;
		uint32_t before = kv_random_range(&r, 0, share);

		for (uint32_t i = 0; i < share && !err; i++) {
			err = i == before ? add_key(&r, k, text, answer) : CLI_OK;
			if (!err)
				err = add_filler(&r, text);
		}
		if (!err && before == share)
			err = add_key(&r, k, text, answer);
	}
	if (err)
		return err;
	text->n--;			/* the blank after the last sentence */
	return add(text, "\n\nWhat are the passkeys in the text, in their order?");
}

static int make(const struct cli_model *m, const struct cli_heads_text *how, uint32_t n_sentences,
		struct cli_tokens *tokens, size_t *n_answer)
{
	struct cli_text text = { 0 }, answer = { 0 };
	int err = write_text(how->seed, n_sentences, &text, &answer);

	cli_tokens_free(tokens);
	if (!err && how->raw)
		err = add(&text, "\n\n") ? CLI_FAILED : cli_add_raw(m, &text, true, tokens);
	else if (!err)
		err = cli_add_chat(m, NULL, text.bytes, true, KVMOD_CHAT_WHOLE, tokens);
	*n_answer = tokens->n;
	if (!err)
		err = cli_add_raw(m, &answer, false, tokens);
	*n_answer = tokens->n - *n_answer;
	cli_text_free(&text);
	cli_text_free(&answer);
	return err;
}

#define FEW	5
#define MANY	25

/* As many sentences as there is room for; two samples show how long they are. */
int cli_heads_passkeys(const struct cli_model *m, const struct cli_heads_text *how,
		       struct cli_tokens *tokens, size_t *n_answer)
{
	uint64_t n = FEW;
	size_t few, many;

	if (make(m, how, FEW, tokens, n_answer))
		return CLI_FAILED;
	few = tokens->n;
	if (make(m, how, MANY, tokens, n_answer))
		return CLI_FAILED;
	many = tokens->n;
	if (how->length > few && many > few)
		n += (how->length - few) * (MANY - FEW) / (many - few);
	for (;; n -= n / 64 + 1) {
		if (make(m, how, (uint32_t)n, tokens, n_answer))
			return CLI_FAILED;
		if (tokens->n <= how->length || n <= FEW)
			return CLI_OK;
	}
}
