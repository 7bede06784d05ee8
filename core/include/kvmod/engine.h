/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/engine.h - an engine runs a model and owns its cache: one of its own for
 * every sequence, ragged by layer and KV head. It never knows a policy's name.
 *
 * Threads: calls into one instance are serial, but for cancel().
 */
#ifndef KVMOD_ENGINE_H
#define KVMOD_ENGINE_H

#include <kvmod/policy.h>

#ifdef __cplusplus
extern "C" {
#endif

/* tokenize flags */
#define KVMOD_TOKENIZE_BOS	1u	/* the start token, if the model wants one */
#define KVMOD_TOKENIZE_SPECIAL	2u	/* "<|im_end|>" in the text is that token, not characters */

struct kvmod_message {
	const char *role;		/* "system", "user", "assistant" */
	const char *text;
};

/* An engine's sequence: opaque. */
struct kvmod_seq;

/*
 * New tokens of one sequence. They take the positions logical, logical + 1, ...
 * Logits of the last n_logits of them go to logits, [n_logits][n_vocab] f32.
 */
struct kvmod_batch_item {
	uint32_t size;
	uint32_t n_tokens;
	struct kvmod_seq *seq;
	const int32_t *tokens;
	float *logits;			/* on the host, the caller's; may be NULL if n_logits is 0 */
	uint32_t n_logits;
	uint32_t reserved;
};

struct kvmod_batch {
	uint32_t size;
	uint32_t n_items;		/* each of another sequence */
	uint32_t item_stride;
	uint32_t reserved;
	const struct kvmod_batch_item *items;
	/* After each chunk: tokens of the batch done so far. May be NULL. */
	void (*progress)(void *arg, uint64_t done);
	void *progress_arg;
};

/* Bytes of a sequence's cache. Stands in other structs by value: fixed for ever. */
struct kvmod_bytes {
	uint32_t size;
	uint32_t reserved;
	uint64_t used;			/* K and V rows that are cached */
	uint64_t held;			/* what was taken from the system for them */
	uint64_t full;			/* `used` if nothing had ever been cut */
};

/* Engine flags. */
#define KVMOD_ENGINE_CLOSES_GAPS	1u	/* apply() does, where a plan has its flag */
#define KVMOD_ENGINE_WHOLE		2u	/* apply() cuts nothing: the one policy is fullkv */
/*
 * apply() and replay() honour k_store and v_store of keeps. In plans for an engine without
 * this flag both are KVMOD_STORE_SAME.
 */
#define KVMOD_ENGINE_STORES		4u

/* Calls are required where they do not say otherwise. */
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
	 * KVMOD_ERANGE, with the count, if the room was too small. A text that begins
	 * with the start token gets no second one. One that cannot fit the context may
	 * be refused with KVMOD_EINVAL before it is read.
	 */
	int32_t (*tokenize)(void *self, const char *text, size_t length, uint32_t flags,
			    int32_t *tokens, size_t *n_tokens);
	/* The bytes of one token, which may be part of a character; *length as above. */
	int32_t (*detokenize)(void *self, int32_t token, char *text, size_t *length);
	/*
	 * Renders messages with the model's chat template, open for the assistant's
	 * answer, as tokens: text of the messages itself is never read as special
	 * tokens. The model's own default system message is supplied where the
	 * first message is not a system one. With first = 0 it renders what goes on
	 * after an answer: the conversation so far is in the cache already.
	 * KVMOD_EINVAL for messages that the template has no place for.
	 */
	int32_t (*chat)(void *self, const struct kvmod_message *messages, size_t n_messages,
			uint32_t first, int32_t *tokens, size_t *n_tokens);

	int32_t (*seq_open)(void *self, struct kvmod_seq **seq);
	void (*seq_close)(void *self, struct kvmod_seq *seq);
	/* A second sequence with the same content; memory is copied. */
	int32_t (*seq_fork)(void *self, struct kvmod_seq *seq, struct kvmod_seq **copy);
	/* Forgets positions >= logical; KVMOD_ERANGE if it is longer than the sequence. */
	int32_t (*seq_truncate)(void *self, struct kvmod_seq *seq, uint64_t logical);
	uint64_t (*seq_length)(void *self, struct kvmod_seq *seq);	/* logical */

	/*
	 * Before the steps of a prompt of n_tokens: what to collect while they run
	 * (NULL: nothing). KVMOD_ERANGE if it cannot fit the context, with the
	 * numbers said through host->fail, before any work.
	 */
	int32_t (*prompt_begin)(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
				const struct kvmod_needs *needs);
	/*
	 * Runs a batch; long items are cut into chunks by the engine itself. On an
	 * error no sequence of the batch has changed.
	 */
	int32_t (*step)(void *self, const struct kvmod_batch *batch);
	/* Ends a step in progress with KVMOD_ECANCELED, soon. [any thread, signal handlers too] */
	void (*cancel)(void *self);

	/*
	 * Describes the sequence's cache as `needs` of prompt_begin asked: every layer a
	 * segment, but for those that cache a window alone. Valid until the next call with
	 * this seq. In *out the engine fills all but phase, state and scratch.
	 */
	int32_t (*request)(void *self, struct kvmod_seq *seq, struct kvmod_request *out);
	/*
	 * Cuts the cache of seq to a plan that was checked, and gives memory back; closes
	 * the gaps where the plan's flags and the engine's say so.
	 * The plan answers the engine's last request for seq: keep i is of its segment i.
	 * A segment with a status other than 0 stays whole, and so does one for which
	 * there is no memory.
	 */
	int32_t (*apply)(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan);
	void (*bytes)(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out);

	/*
	 * Optional: how many more tokens the sequence can take as it is now. Without this call that
	 * is what its logical length leaves of the model's context.
	 */
	uint64_t (*seq_room)(void *self, struct kvmod_seq *seq);
	/*
	 * Optional: what open() would refuse, as far as it can be told without
	 * loading weights, in open()'s words. It takes open()'s place: after
	 * KVMOD_OK the core calls model(), serves() and close(), and nothing else.
	 * Without it `kvmod check` opens the engine as a session does. [may block]
	 */
	int32_t (*check)(void *self);
	/*
	 * Optional: can request() show what a policy needs? KVMOD_ENOTSUP, and in
	 * words what is missing, if not. Without it, that shows with the first prompt.
	 */
	int32_t (*serves)(void *self, const struct kvmod_needs *needs);
};

#ifdef __cplusplus
}
#endif
#endif
