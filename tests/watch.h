/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of sessions share: one on the engine `fake`, a prompt, decoding. */
#ifndef KV_TESTS_WATCH_H
#define KV_TESTS_WATCH_H

#include <check.h>
#undef fail			/* the old name of ck_abort_msg() */
#include <kvmod/kvmod.h>

extern const struct kvmod_module kvmod_module_fake, kvmod_module_h2o, kvmod_module_streamingllm;

/*
 * The policy `watch` keeps the newest half. Its calls so far: b(egin), P(refill),
 * D(ecode), e(nd); how often each sequence was decided; what the newest request said.
 */
extern char calls[256];
extern int states[4], n_begun;
extern uint64_t opening;
extern uint32_t question_later;

extern struct kvmod_ctx *ctx;
extern struct kvmod_engine *engine;
extern struct kvmod_policy *policy;
extern struct kvmod_session *session;
extern struct kvmod_sequence *sequence;
extern const struct kvmod_model *model;
extern float *logits;		/* room for 16 tokens' */

/* Opens all of these, with this policy (NULL: none) and n overrides. */
void start(const char *name, const char *const *overrides, size_t n);
void tear_down(void);
/* Appends n tokens to `sequence`, or to another one. */
struct kvmod_prompted prompt(uint64_t n);
struct kvmod_prompted prompt_with(struct kvmod_sequence *to, uint64_t n, uint64_t n_opening,
				  uint32_t flags);
void decode(uint32_t n);
/* Positions that the engine caches in a KV head. */
uint32_t cached(uint32_t layer, uint32_t head);

#endif
