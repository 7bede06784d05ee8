/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/engine.h - an engine runs a model and owns its cache: one for each
 * sequence, ragged by layer and KV head. An engine never learns a policy's name.
 *
 * Threads: calls into one instance are serial, except cancel().
 */
#ifndef KVMOD_ENGINE_H
#define KVMOD_ENGINE_H

#include <kvmod/policy.h>

#ifdef __cplusplus
extern "C" {
#endif

/* tokenize flags */
#define KVMOD_TOKENIZE_BOS	1u	/* begin with the start token, if the model uses one */
#define KVMOD_TOKENIZE_SPECIAL	2u	/* "<|im_end|>" in the text is that token, not characters */

struct kvmod_message {
	const char *role;		/* "system", "user", "assistant" */
	const char *text;
};

/* How much of a conversation's last message chat_part() renders. */
#define KVMOD_CHAT_WHOLE	0u	/* all of it, as chat() does */
/* What comes before the message, and its text. The message stays open. */
#define KVMOD_CHAT_CONTEXT	1u
/* More text of an open message, and what closes it and opens the answer. */
#define KVMOD_CHAT_QUESTION	2u

/* An engine's sequence; opaque. */
struct kvmod_seq;

/*
 * New tokens of one sequence. They take the positions logical, logical + 1, ...
 * The logits of the last n_logits tokens go to logits, [n_logits][n_vocab] f32.
 */
struct kvmod_batch_item {
	uint32_t size;
	uint32_t n_tokens;
	struct kvmod_seq *seq;
	const int32_t *tokens;
	float *logits;			/* the caller's host memory; may be NULL if n_logits is 0 */
	uint32_t n_logits;
	uint32_t reserved;
};

struct kvmod_batch {
	uint32_t size;
	uint32_t n_items;		/* each for a different sequence */
	uint32_t item_stride;
	uint32_t reserved;
	const struct kvmod_batch_item *items;
	/* Called after each chunk with the tokens of the batch done so far. May be NULL. */
	void (*progress)(void *arg, uint64_t done);
	void *progress_arg;
};

/* Bytes of a sequence's cache. Other structs contain it by value, so it never changes. */
struct kvmod_bytes {
	uint32_t size;
	uint32_t reserved;
	uint64_t used;			/* K and V rows that are cached */
	uint64_t held;			/* memory allocated for them */
	uint64_t full;			/* what `used` would be if nothing had ever been cut */
};

/* Engine flags. */
#define KVMOD_ENGINE_CLOSES_GAPS	1u	/* apply() honours KVMOD_PLAN_CLOSES_GAPS */
#define KVMOD_ENGINE_WHOLE		2u	/* apply() cuts nothing: fullkv only */
/*
 * apply() and replay() honour k_store and v_store of keeps. An engine without this flag
 * gets plans in which both are KVMOD_STORE_SAME.
 */
#define KVMOD_ENGINE_STORES		4u

/* Calls are required unless marked optional. */
struct kvmod_engine_ops {
	uint32_t size;
	uint32_t flags;			/* KVMOD_ENGINE_... */
	const char *name;		/* "ggml" */
	const char *description;
	uint32_t instance_size;
	uint32_t n_params;
	const struct kvmod_param *params;	/* [n_params] */

	/* Loads the model that the parameters name. [may block] */
	int32_t (*open)(void *self);
	void (*close)(void *self);
	const struct kvmod_model *(*model)(void *self);

	/*
	 * Text to tokens. *n_tokens is the room on entry and the count on return;
	 * KVMOD_ERANGE, with the count, if the room was too small. Text that begins
	 * with the start token gets no second one. The engine may refuse text that cannot
	 * fit the context with KVMOD_EINVAL before it reads the text.
	 */
	int32_t (*tokenize)(void *self, const char *text, size_t length, uint32_t flags,
			    int32_t *tokens, size_t *n_tokens);
	/* The bytes of one token, which may be part of a character; *length as above. */
	int32_t (*detokenize)(void *self, int32_t token, char *text, size_t *length);
	/*
	 * Renders messages as tokens with the model's chat template, open for the
	 * assistant's answer. The text of a message is never read as special tokens.
	 * If the first message is not a system message, the model's default one is added.
	 * With first = 0 the call renders the continuation after an answer: the cache
	 * already has the conversation so far.
	 * KVMOD_EINVAL for messages that the template has no place for.
	 */
	int32_t (*chat)(void *self, const struct kvmod_message *messages, size_t n_messages,
			uint32_t first, int32_t *tokens, size_t *n_tokens);

	int32_t (*seq_open)(void *self, struct kvmod_seq **seq);
	void (*seq_close)(void *self, struct kvmod_seq *seq);
	/* Makes a second sequence with the same content; the cache is copied. */
	int32_t (*seq_fork)(void *self, struct kvmod_seq *seq, struct kvmod_seq **copy);
	/* Drops positions >= logical; KVMOD_ERANGE if `logical` is beyond the sequence's end. */
	int32_t (*seq_truncate)(void *self, struct kvmod_seq *seq, uint64_t logical);
	uint64_t (*seq_length)(void *self, struct kvmod_seq *seq);	/* logical */

	/*
	 * Called before the steps of a prompt of n_tokens tokens: `needs` lists what to
	 * collect while they run (NULL: nothing). KVMOD_ERANGE, before any work, if the
	 * prompt cannot fit the context; the message of host->fail() has the numbers.
	 */
	int32_t (*prompt_begin)(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
				const struct kvmod_needs *needs);
	/*
	 * Runs a batch; the engine itself splits long items into chunks. After an error
	 * every sequence of the batch is as it was before.
	 */
	int32_t (*step)(void *self, const struct kvmod_batch *batch);
	/* Makes a running step() return KVMOD_ECANCELED soon. [any thread, signal handlers too] */
	void (*cancel)(void *self);

	/*
	 * Describes the sequence's cache, with what `needs` of prompt_begin() asked for:
	 * a segment for every layer except those that cache only a window. Valid until the
	 * next call with this seq. The engine fills in all of *out except phase, state and
	 * scratch.
	 */
	int32_t (*request)(void *self, struct kvmod_seq *seq, struct kvmod_request *out);
	/*
	 * Cuts the cache of seq to a plan that the core has checked, and frees memory. Closes
	 * the gaps if both the plan's flags and the engine's say so.
	 * The plan answers the engine's last request for seq: keep i is for segment i.
	 * A segment with a status other than 0 stays whole; so does a segment whose cut
	 * fails for lack of memory.
	 */
	int32_t (*apply)(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan);
	void (*bytes)(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out);

	/*
	 * Optional: how many more tokens the sequence can take at present. Without this call
	 * the answer is the model's context less the logical length.
	 */
	uint64_t (*seq_room)(void *self, struct kvmod_seq *seq);
	/*
	 * Optional: refuses what open() would refuse, with the same messages, as far as
	 * that shows without loading weights. Called instead of open(): after
	 * KVMOD_OK the core calls model(), serves() and close(), and nothing else.
	 * Without it `kvmod check` opens the engine as a session does. [may block]
	 */
	int32_t (*check)(void *self);
	/*
	 * Optional: can request() supply what a policy needs? If not, KVMOD_ENOTSUP, and
	 * the message says what is missing. Without this call, that shows only with the
	 * first prompt.
	 */
	int32_t (*serves)(void *self, const struct kvmod_needs *needs);
	/*
	 * Optional: chat() for a message that comes in two parts, a context and, when that
	 * is in the cache, a question. The two are tokenized apart, and so is what comes
	 * before the context. With KVMOD_CHAT_QUESTION there is one message, whose text may
	 * be empty, and `first` is ignored. n_opening, if not NULL, gets the number of tokens
	 * that begin before the text of the last message; of a question these are none.
	 * Both parts belong to a message of role "user". KVMOD_EINVAL for a context of which
	 * the template would strip everything.
	 */
	int32_t (*chat_part)(void *self, const struct kvmod_message *messages, size_t n_messages,
			     uint32_t first, uint32_t part, int32_t *tokens, size_t *n_tokens,
			     size_t *n_opening);
	/*
	 * Optional: the newest prompt of seq, of n_tokens tokens, was run with more than these
	 * needs. From now on the sequence is one that was run with them: request() shows no
	 * more, and no more is collected or held in memory. NULL: nothing. They ask for nothing
	 * that the prompt was not run with.
	 */
	int32_t (*seq_narrow)(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			      const struct kvmod_needs *needs);
};

#ifdef __cplusplus
}
#endif
#endif
