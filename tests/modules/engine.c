/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines that run nothing, for the tests of `check`, and policies that get along
 * with them or not. Built with TEST_ENGINE: an engine and the policy `shared`; without:
 * the policies `alone`, `needy` and `shared`, whose name the engine's module has taken.
 */
#include <kvmod/engine.h>

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static int32_t keep_all(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	(void)self;
	(void)request;
	(void)plan;
	return KVMOD_OK;
}

#define POLICY(name_, needs_) { \
		.size = sizeof(struct kvmod_policy_ops), .name = name_, .description = "for tests", \
		.instance_size = sizeof(struct kvmod_instance), \
		.needs = needs_, .compress = keep_all, \
	}

#ifndef TEST_NO_SHARED
KVMOD_NO_PARAMS(policy, shared);
static const struct kvmod_policy_ops shared = POLICY("shared", NULL);
#endif

#ifdef TEST_ENGINE

enum { OK, REFUSE, CRASH, HANG };

struct self {
	struct kvmod_instance base;
	int32_t answer;
};

#define PARAMS(P, owner) \
	P(owner, struct self, answer, CHOICE, "ok", "ok|refuse|crash|hang", "what opening it comes to")
#define DEFINE_PARAMS(owner) KVMOD_PARAMS(engine, owner, PARAMS)
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
DEFINE_PARAMS(TEST_ENGINE);
#define params_of_engine CAT(TEST_ENGINE, _params)

static const struct kvmod_model about = {
	.size = sizeof(about), .n_layers = 1, .n_q_heads = 2, .n_kv_heads = 1, .head_dim = 32,
	.n_vocab = 10, .context = 64, .name = "none", .architecture = "none", .scale = 1,
};

static int32_t answer(const struct self *self, const char *call)
{
	const struct kvmod_host *host = self->base.host;

	if (self->answer == CRASH)
		raise(SIGSEGV);
	while (self->answer == HANG)
		pause();
	if (self->answer == REFUSE)
		return host->fail(host->ctx, KVMOD_EFORMAT, "no model for %s()", call);
	host->log(host->ctx, KVMOD_INFO, "%s()", call);
	return KVMOD_OK;
}

static int32_t open_it(void *self)
{
	return answer(self, "open");
}

static void close_it(void *self)
{
	const struct kvmod_host *host = ((struct kvmod_instance *)self)->host;

	host->log(host->ctx, KVMOD_INFO, "close()");
}

static const struct kvmod_model *model(void *self)
{
	(void)self;
	return &about;
}

#ifndef TEST_OLD
static int32_t check(void *self)
{
	return answer(self, "check");
}

static int32_t serves(void *self, const struct kvmod_needs *needs)
{
	const struct kvmod_host *host = ((struct kvmod_instance *)self)->host;

	if (needs->what & KVMOD_NEED_COLSUM)
		return host->fail(host->ctx, KVMOD_ENOTSUP, "column sums are not collected");
	return KVMOD_OK;
}
#endif

/* Nothing calls these; they must be there. */
static int32_t nothing(void)
{
	abort();
}
#define NOTHING (void *)nothing

static const struct kvmod_engine_ops ops = {
#ifdef TEST_OLD
	.size = offsetof(struct kvmod_engine_ops, check),
#else
	.size = sizeof(ops), .check = check, .serves = serves,
#endif
	.name = KVMOD_STR(TEST_ENGINE), .description = "for tests",
	.instance_size = sizeof(struct self), .params = params_of_engine,
	.n_params = sizeof(params_of_engine) / sizeof(*params_of_engine),
	.open = open_it, .close = close_it, .model = model,
	.tokenize = NOTHING, .detokenize = NOTHING, .chat = NOTHING, .seq_open = NOTHING,
	.seq_close = NOTHING, .seq_fork = NOTHING, .seq_truncate = NOTHING, .seq_length = NOTHING,
	.prompt_begin = NOTHING, .step = NOTHING, .cancel = NOTHING, .request = NOTHING,
	.apply = NOTHING, .bytes = NOTHING,
};

static int32_t init(const struct kvmod_host *host)
{
	int32_t code = host->register_engine(host->ctx, &ops);

	return code ? code : host->register_policy(host->ctx, &shared);
}

KVMOD_MODULE(KVMOD_STR(TEST_ENGINE), "1", "Apache-2.0", "me", "for tests", 0, init, NULL);

#else

KVMOD_NO_PARAMS(policy, alone);
KVMOD_NO_PARAMS(policy, needy);

static int32_t needs(void *self, struct kvmod_needs *out)
{
	(void)self;
	out->what = KVMOD_NEED_COLSUM;
	return KVMOD_OK;
}

static const struct kvmod_policy_ops alone = POLICY("alone", NULL), needy = POLICY("needy", needs);

static int32_t init(const struct kvmod_host *host)
{
	int32_t code = host->register_policy(host->ctx, &alone);

	if (!code)
		code = host->register_policy(host->ctx, &needy);
#ifndef TEST_NO_SHARED
	if (!code)
		code = host->register_policy(host->ctx, &shared);
#endif
	return code;
}

KVMOD_MODULE(TEST_NAME, "1", "Apache-2.0", "me", "for tests", 0, init, NULL);

#endif
