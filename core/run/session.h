/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions and sequences, for the files that they are made of: session.c, left.c. */
#ifndef KV_CORE_RUN_SESSION_H
#define KV_CORE_RUN_SESSION_H

#include "core/run/engine.h"
#include "core/run/stores.h"

struct kvmod_session {
	struct kvmod_engine *engine;
	const struct kvmod_engine_ops *ops;
	void *instance;			/* the engine's */
	const struct kvmod_model *model;
	struct kvmod_policy *policy;
	struct kvmod_needs collects;	/* without a policy; size 0: nothing */
	uint64_t leave_below;		/* tokens, as set in [kvmod] */
	struct kv_stores stores;
	struct kvmod_plan *plan;	/* of the last decision; its memory is reused */
	uint64_t next_sequence;
};

#define NOT_NAMED UINT32_MAX		/* in `kept`: no request contains this layer */

struct kvmod_sequence {
	struct kvmod_session *session;
	struct kvmod_seq *seq;		/* the engine's */
	uint64_t id;
	void *state;			/* the policy's */
	int status;			/* not 0: begin() failed, so the policy is not asked */
	uint64_t n_prompt;		/* tokens of the last prompt */
	uint64_t decoded;		/* tokens since then */
	uint64_t opening;		/* of the first prompt: the chat template's tokens */
	bool is_context;		/* the last prompt: what is asked about it comes later */
	struct kvmod_left left;		/* by the last cut */
	uint32_t *kept;			/* by the last cut, [n_layers][n_kv_heads]; or NOT_NAMED */
};

/* Of a struct whose caller may know fewer fields. */
void kv_copy_out(void *to, uint32_t room, void *from, uint32_t size);

/* What the engine says of the sequence, checked. */
int kv_ask_engine(struct kvmod_sequence *sequence, struct kvmod_request *request);
/* Records what the engine holds now, whatever was planned. */
void kv_note_left(struct kvmod_sequence *sequence);

#endif
