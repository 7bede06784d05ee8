/* SPDX-License-Identifier: Apache-2.0 */
/* A session on the engine without a model, with a policy that watches how it is called. */
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL watch_module
#include "tests/watch.h"

/* --- a policy that watches how it is called -------------------------------------- */

struct watch {
	struct kvmod_instance base;
	int32_t fails, no_begin;
	int64_t every;
};

#define WATCH_PARAMS(P, owner) \
	P(owner, struct watch, fails, BOOL, "no", "", "compress() fails") \
	P(owner, struct watch, no_begin, BOOL, "no", "", "begin() fails") \
	P(owner, struct watch, every, INT, "0", "0..100", "decode calls")
KVMOD_PARAMS(policy, watch, WATCH_PARAMS);

char calls[256];
int states[4], n_begun;
uint64_t opening;
uint32_t question_later;

static int32_t watch_needs(void *self, struct kvmod_needs *needs)
{
	needs->decode_every = (uint32_t)((struct watch *)self)->every;
	return KVMOD_OK;
}

static int32_t watch_begin(void *self, uint64_t id, void **state)
{
	struct watch *watch = self;

	(void)id;
	if (watch->no_begin)
		return watch->base.host->fail(watch->base.host->ctx, KVMOD_ENOMEM, "no state");
	strcat(calls, "b");
	*state = &states[n_begun++];
	return KVMOD_OK;
}

static void watch_end(void *self, uint64_t id, void *state)
{
	(void)self;
	(void)id;
	ck_assert_ptr_nonnull(state);
	strcat(calls, "e");
}

/* Keeps the newest half, heads one after the other one position more. */
static int32_t watch_compress(void *self_, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	struct watch *self = self_;

	strcat(calls, r->phase == KVMOD_PREFILL ? "P" : "D");
	++*(int *)r->state;
	opening = r->opening;
	question_later = r->question_later;
	if (self->fails)
		return self->base.host->fail(self->base.host->ctx, KVMOD_ENUMERIC, "on request");
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			uint32_t n = kvmod_head_at(s, g)->n, count = n / 2 + g;

			count = count > n ? n : count;
			keep->counts[g] = count;
			for (uint32_t k = 0; k < count; k++)
				keep->indices[g * keep->index_stride + k] = n - count + k;
		}
	}
	return KVMOD_OK;
}

static const struct kvmod_policy_ops watch_ops = {
	.size = sizeof(watch_ops), .name = "watch", .description = "watches how it is called",
	.instance_size = sizeof(struct watch),
	.params = watch_params, .n_params = 3,
	.needs = watch_needs, .begin = watch_begin, .end = watch_end, .compress = watch_compress,
};

static int32_t watch_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &watch_ops);
}

KVMOD_MODULE("watch-test", "1", "Apache-2.0", "kvmod", "for this test", 0, watch_init, NULL);

/* --- fixture ------------------------------------------------------------------------ */

struct kvmod_ctx *ctx;
struct kvmod_engine *engine;
struct kvmod_policy *policy;
struct kvmod_session *session;
struct kvmod_sequence *sequence;
const struct kvmod_model *model;
float *logits;

static void quiet(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

void start(const char *name, const char *const *overrides, size_t n)
{
	const char *all[8] = { "kvmod.leave_below=0" };		/* what comes after it counts */

	ck_assert_uint_lt(n, 8);
	for (size_t i = 0; i < n; i++)
		all[i + 1] = overrides[i];
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, quiet, NULL);
	ck_assert_msg(kvmod_add_builtin(ctx, &kvmod_module_fake) == 0, "%s", kvmod_error());
	ck_assert_int_eq(kvmod_add_builtin(ctx, &kvmod_module_streamingllm), 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &kvmod_module_h2o), 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &watch_module), 0);
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", all, n + 1) == 0, "%s", kvmod_error());
	ck_assert_msg(kvmod_engine_open(ctx, "fake", &engine) == 0, "%s", kvmod_error());
	model = kvmod_engine_model(engine);
	logits = calloc(16 * model->n_vocab, sizeof(*logits));
	ck_assert_ptr_nonnull(logits);
	if (name)
		ck_assert_msg(kvmod_policy_open(ctx, name, "cpu", model, &policy) == 0,
			      "%s", kvmod_error());
	ck_assert_int_eq(kvmod_session_open(engine, policy, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
}

void tear_down(void)
{
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	kvmod_policy_close(policy);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
	free(logits);
}

struct kvmod_prompted prompt_with(struct kvmod_sequence *to, uint64_t n, uint64_t n_opening,
				  uint32_t flags)
{
	int32_t tokens[1024];
	struct kvmod_prompt p = {
		.size = sizeof(p), .tokens = tokens, .n_tokens = n, .logits = logits,
		.n_opening = n_opening, .flags = flags,
	};
	struct kvmod_prompted out = { .size = sizeof(out) };

	for (uint64_t i = 0; i < n; i++)
		tokens[i] = (int32_t)('a' + i % 26);
	ck_assert_msg(kvmod_sequence_prompt(to, &p, &out) == 0, "%s", kvmod_error());
	return out;
}

struct kvmod_prompted prompt(uint64_t n)
{
	return prompt_with(sequence, n, 0, 0);
}

void decode(uint32_t n)
{
	int32_t token = 'x';
	float *to = logits;

	for (uint32_t i = 0; i < n; i++)
		ck_assert_int_eq(kvmod_session_decode(session, &sequence, &token, &to, 1), 0);
}

uint32_t cached(uint32_t layer, uint32_t head)
{
	const struct kvmod_engine_ops *ops = kvmod_engine_ops(engine);
	struct kvmod_request r = { .size = sizeof(r) };

	ck_assert_int_eq(ops->request(kvmod_engine_instance(engine),
				      kvmod_sequence_engine_seq(sequence), &r), 0);
	return kvmod_head_at(kvmod_segment_at(&r, layer), head)->n;
}
