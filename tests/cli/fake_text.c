/* SPDX-License-Identifier: Apache-2.0 */
/* Text of the engine `fake`: a byte is a token, and a few tokens stand above the bytes. */
#include "tests/cli/fake_engine.h"

#include <string.h>
#include <time.h>

static const char *const special[] = { "<bos>", "<end>", "<user>", "<assistant>", "<system>" };

/* --- time ----------------------------------------------------------------------- */

static void wait_1ms(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* Nothing ends it: only steps can be cancelled. */
void fake_take_time(const struct fake *f)
{
	for (int64_t ms = 0; ms < f->delay; ms++)
		wait_1ms();
}

int32_t fake_take_time_or_stop(struct fake *f)
{
	const struct kvmod_host *host = f->instance.host;

	for (int64_t ms = 0; ms < f->delay; ms++) {
		wait_1ms();
		if (atomic_load(&f->cancelled))
			return host->fail(host->ctx, KVMOD_ECANCELED, "stopped on request");
	}
	return KVMOD_OK;
}

/* --- text ---------------------------------------------------------------------- */

/* Tokens go where there is room; all are counted. */
struct writer {
	int32_t *tokens;
	size_t room, n;
};

static void put(struct writer *w, int32_t token)
{
	if (w->n < w->room)
		w->tokens[w->n] = token;
	w->n++;
}

static size_t special_at(const char *text, size_t length, int32_t *token)
{
	for (int32_t i = 0; i < VOCAB - BOS; i++) {
		size_t n = strlen(special[i]);

		if (n <= length && !memcmp(text, special[i], n)) {
			*token = BOS + i;
			return n;
		}
	}
	return 0;
}

static void put_text(struct writer *w, const char *text, size_t length, uint32_t flags)
{
	for (size_t i = 0, n; i < length; i += n) {
		int32_t token = (unsigned char)text[i];

		n = flags & KVMOD_TOKENIZE_SPECIAL ? special_at(text + i, length - i, &token) : 0;
		n = n ? n : 1;
		put(w, token);
	}
}

static int32_t written(const struct writer *w, size_t *n_tokens)
{
	*n_tokens = w->n;
	return w->n > w->room ? KVMOD_ERANGE : KVMOD_OK;
}

int32_t fake_tokenize(void *self, const char *text, size_t length, uint32_t flags,
		      int32_t *tokens, size_t *n_tokens)
{
	struct writer w = { tokens, *n_tokens, 0 };

	fake_take_time(self);
	if (flags & KVMOD_TOKENIZE_BOS)
		put(&w, BOS);
	put_text(&w, text, length, flags);
	return written(&w, n_tokens);
}

int32_t fake_detokenize(void *self, int32_t token, char *text, size_t *length)
{
	const struct fake *f = self;
	size_t room = *length;

	if (f->broken == BROKEN_TEXT)
		return KVMOD_EIO;
	*length = token < BOS ? (size_t)f->repeat : 0;
	if (*length > room)
		return KVMOD_ERANGE;
	if (*length)
		memset(text, token, *length);
	return KVMOD_OK;
}

int32_t fake_chat_part(void *self, const struct kvmod_message *messages, size_t n_messages,
		       uint32_t first, uint32_t part, int32_t *tokens, size_t *n_tokens,
		       size_t *n_opening)
{
	struct writer w = { tokens, *n_tokens, 0 };
	size_t opening = 0;

	if (((struct fake *)self)->broken == BROKEN_CHAT)
		return KVMOD_EIO;
	fake_take_time(self);
	if (part != KVMOD_CHAT_QUESTION)
		put(&w, first ? BOS : END);
	for (size_t i = 0; i < n_messages; i++) {
		if (part != KVMOD_CHAT_QUESTION)
			put(&w, *messages[i].role == 's' ? SYSTEM : USER);
		opening = w.n;
		put_text(&w, messages[i].text, strlen(messages[i].text), 0);
	}
	if (part != KVMOD_CHAT_CONTEXT)
		put(&w, ASSISTANT);
	if (n_opening)
		*n_opening = opening;
	return written(&w, n_tokens);
}

int32_t fake_chat(void *self, const struct kvmod_message *messages, size_t n_messages,
		  uint32_t first, int32_t *tokens, size_t *n_tokens)
{
	return fake_chat_part(self, messages, n_messages, first, KVMOD_CHAT_WHOLE, tokens, n_tokens,
			      NULL);
}
