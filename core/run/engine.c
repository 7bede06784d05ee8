/* SPDX-License-Identifier: Apache-2.0 */
/* Engines: how the core opens, checks and closes them. */
#include "core/modules/call.h"
#include "core/run/builtin.h"
#include "core/run/engine.h"
#include "core/run/policy.h"
#include "core/run/request.h"

#include <stdlib.h>
#include <string.h>

struct kvmod_engine {
	struct kvmod_ctx *ctx;
	struct kv_provider *provider;
	const struct kvmod_engine_ops *ops;
	void *instance;
};

static void stop(struct kvmod_engine *e)
{
	KV_CALL_VOID(e->ops->close(e->instance));
}

static const struct kvmod_model *model_of(const struct kvmod_engine *e)
{
	const struct kvmod_model *model;

	KV_CALL_VOID(model = e->ops->model(e->instance));
	return model;
}

/* Opens or checks the engine, and validates its model. */
static int start(struct kvmod_engine *e, bool check)
{
	int err;

	if (check && KVMOD_HAS(e->ops, check) && e->ops->check)
		err = KV_CALL_ENGINE(e->ops, check, e->instance);
	else
		err = KV_CALL_ENGINE(e->ops, open, e->instance);
	if (err != KVMOD_OK)
		return err;
	err = kv_model_check(model_of(e));
	if (err == KVMOD_OK)
		return err;
	kv_fail_in(err, "engine %s", e->ops->name);
	stop(e);
	return err;
}

static int open_or_check(struct kvmod_ctx *ctx, const char *name, bool check,
			 struct kvmod_engine **out)
{
	struct kvmod_engine *e;
	int err;

	if (!name)
		name = kvmod_config_get(ctx, "kvmod", "engine");
	if (!name)
		name = "ggml";
	e = calloc(1, sizeof(*e));
	if (!e)
		return kv_fail(KVMOD_ENOMEM, "no memory for an engine");
	e->ctx = ctx;
	err = kv_provider_get(ctx, KV_ENGINE, name, NULL, &e->provider);
	if (err != KVMOD_OK)
		goto no_provider;
	e->ops = e->provider->ops;
	err = kv_instance_new(ctx, e->provider, &e->instance);
	if (err != KVMOD_OK)
		goto no_instance;
	err = start(e, check);
	if (err != KVMOD_OK)
		goto not_open;
	*out = e;
	return KVMOD_OK;

not_open:
	kv_instance_free(e->instance);
no_instance:
	kv_provider_put(ctx, e->provider);
no_provider:
	free(e);
	return err;
}

int kvmod_engine_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **out)
{
	return open_or_check(ctx, name, false, out);
}

int kv_engine_check(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **out)
{
	return open_or_check(ctx, name, true, out);
}

/* The needs are no criterion: a policy that cuts by position alone has none either. */
int kv_engine_can_cut(struct kvmod_engine *e, struct kvmod_policy *policy)
{
	if (!(e->ops->flags & KVMOD_ENGINE_WHOLE) || !policy ||
	    strcmp(kvmod_policy_ops(policy)->name, kv_fullkv_ops.name) == 0)
		return KVMOD_OK;
	return kv_fail(KVMOD_ENOTSUP,
		       "engine %s cannot cut its cache: use the policy fullkv with this engine",
		       e->ops->name);
}

int kv_engine_serves(struct kvmod_engine *e, struct kvmod_policy *policy)
{
	int err = kv_engine_can_cut(e, policy);

	if (err || !KVMOD_HAS(e->ops, serves) || !e->ops->serves)
		return err;
	return KV_CALL_ENGINE(e->ops, serves, e->instance, kvmod_policy_needs(policy));
}

void kvmod_engine_close(struct kvmod_engine *e)
{
	if (!e)
		return;
	stop(e);
	kv_instance_free(e->instance);
	kv_provider_put(e->ctx, e->provider);
	free(e);
}

struct kvmod_ctx *kv_engine_ctx(const struct kvmod_engine *e)
{
	return e->ctx;
}

const struct kvmod_engine_ops *kvmod_engine_ops(const struct kvmod_engine *e)
{
	return e->ops;
}

void *kvmod_engine_instance(const struct kvmod_engine *e)
{
	return e->instance;
}

const struct kvmod_model *kvmod_engine_model(const struct kvmod_engine *e)
{
	return model_of(e);
}

/* --- text ------------------------------------------------------------------------ */

/* After a success the engine has written what it counts: there must have been room for it. */
static int check_count(const struct kvmod_engine *e, const char *call, size_t n, size_t room, int err)
{
	if (err != KVMOD_OK || n <= room)
		return err;
	return kv_fail(KVMOD_EINVAL, "engine %s: %s() answered %zu, expected at most %zu, the room",
		       e->ops->name, call, n, room);
}

int kvmod_engine_tokenize(struct kvmod_engine *e, const char *text, size_t length, uint32_t flags,
			  int32_t *tokens, size_t *n_tokens)
{
	size_t room = *n_tokens;
	int err = KV_CALL_ENGINE(e->ops, tokenize, e->instance, text, length, flags, tokens, n_tokens);

	return check_count(e, "tokenize", *n_tokens, room, err);
}

int kvmod_engine_detokenize(struct kvmod_engine *e, int32_t token, char *text, size_t *length)
{
	size_t room = *length;
	int err = KV_CALL_ENGINE(e->ops, detokenize, e->instance, token, text, length);

	return check_count(e, "detokenize", *length, room, err);
}

int kvmod_engine_chat(struct kvmod_engine *e, const struct kvmod_message *messages,
		      size_t n_messages, uint32_t first, int32_t *tokens, size_t *n_tokens)
{
	size_t room = *n_tokens;
	int err = KV_CALL_ENGINE(e->ops, chat, e->instance, messages, n_messages, first, tokens,
				 n_tokens);

	return check_count(e, "chat", *n_tokens, room, err);
}

/* An engine without chat_part() renders whole messages alone, and cannot tell their opening. */
static int chat_whole(struct kvmod_engine *e, const struct kvmod_message *messages,
		      size_t n_messages, uint32_t first, uint32_t part, int32_t *tokens,
		      size_t *n_tokens)
{
	if (part == KVMOD_CHAT_WHOLE)
		return kvmod_engine_chat(e, messages, n_messages, first, tokens, n_tokens);
	return kv_fail(KVMOD_ENOTSUP, "engine %s cannot render a message in two parts, a context and "
		       "a question", e->ops->name);
}

int kvmod_engine_chat_part(struct kvmod_engine *e, const struct kvmod_message *messages,
			   size_t n_messages, uint32_t first, uint32_t part, int32_t *tokens,
			   size_t *n_tokens, size_t *n_opening)
{
	size_t room = *n_tokens, opening = 0;
	int err;

	if (!KVMOD_HAS(e->ops, chat_part) || !e->ops->chat_part)
		err = chat_whole(e, messages, n_messages, first, part, tokens, n_tokens);
	else
		err = KV_CALL_ENGINE(e->ops, chat_part, e->instance, messages, n_messages, first, part,
				     tokens, n_tokens, &opening);
	err = check_count(e, "chat_part", *n_tokens, room, err);
	if (err == KVMOD_OK && opening > *n_tokens)
		err = kv_fail(KVMOD_EINVAL, "engine %s: chat_part() answered an opening of %zu of %zu tokens",
			      e->ops->name, opening, *n_tokens);
	if (n_opening)
		*n_opening = err == KVMOD_OK ? opening : 0;
	return err;
}
