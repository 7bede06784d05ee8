/* SPDX-License-Identifier: Apache-2.0 */
/* The engine `fake`: its shape, its tokens, and what its text and its steps share. */
#ifndef KV_TESTS_CLI_FAKE_ENGINE_H
#define KV_TESTS_CLI_FAKE_ENGINE_H

#include <stdatomic.h>

#include <kvmod/engine.h>

#define LAYERS	4
#ifndef FAKE_WINDOW_LAYERS
#define FAKE_WINDOW_LAYERS 0	/* the first ones, which no request names; never cut */
#endif
#define NAMED	(LAYERS - FAKE_WINDOW_LAYERS)
#define Q_HEADS	4
#define HEADS	2		/* KV heads */
#define DIM	32

/* Tokens above the bytes, one after the other. */
enum { BOS = 256, END, USER, ASSISTANT, SYSTEM, VOCAB };

enum { REPLAY_NO, REPLAY_YES, REPLAY_FAILS, REPLAY_NAN };
enum { BROKEN_NOTHING, BROKEN_REQUEST, BROKEN_APPLY, BROKEN_TEXT, BROKEN_CHAT };

struct fake {
	struct kvmod_instance instance;
	const char *model;
	int64_t context, threads;
	int32_t context_override;
	int64_t delay;			/* ms a text, and a chunk of a step */
	int64_t repeat;			/* how many times a token has its byte */
	const char *notes;		/* a file for what it was asked to run; "": none */
	int32_t broken, replay;		/* one of these each */
	const char *device;		/* where it says that all layers are; "": the host */
	atomic_int cancelled;
	struct kvmod_model about;
};

/* Waits for the engine's delay; or until it is cancelled, with a reason. */
void fake_take_time(const struct fake *f);
int32_t fake_take_time_or_stop(struct fake *f);

/* Text to tokens and back, as kvmod_engine_ops has it. */
int32_t fake_tokenize(void *self, const char *text, size_t length, uint32_t flags,
		      int32_t *tokens, size_t *n_tokens);
int32_t fake_detokenize(void *self, int32_t token, char *text, size_t *length);
int32_t fake_chat(void *self, const struct kvmod_message *messages, size_t n_messages,
		  uint32_t first, int32_t *tokens, size_t *n_tokens);
int32_t fake_chat_part(void *self, const struct kvmod_message *messages, size_t n_messages,
		       uint32_t first, uint32_t part, int32_t *tokens, size_t *n_tokens,
		       size_t *n_opening);

#endif
