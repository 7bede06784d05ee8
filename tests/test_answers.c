/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What passes between a policy, the core and an engine's services: plans that are refused,
 * plans that are tried out, and the reasons of failures.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL answers_module
#include "tests/fixture.h"

#include "core/run/decide.h"

#define LAYERS 3u
#define HEADS 2u
#define N 16u
#define DIM 32u

extern const struct kvmod_module kvmod_module_fake;

/* --- the policy --------------------------------------------------------------------------- */

static void (*deed)(const struct kvmod_request *r, struct kvmod_plan *plan);
static const struct kvmod_host *host;
static int32_t answer;			/* of a service of the engine */
static char said[256];

static int32_t answers_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	return KVMOD_OK;
}

static int32_t answers_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	host = ((struct kvmod_instance *)self)->host;
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);
		uint32_t n = kvmod_head_at(kvmod_segment_at(r, i), 0)->n;

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ .begin = n / 2, .end = n };
	}
	if (deed)
		deed(r, plan);
	return KVMOD_OK;
}

static const struct kvmod_policy_ops answers_ops = {
	.size = sizeof(answers_ops), .name = "answers", .description = "does as a test says",
	.instance_size = sizeof(struct kvmod_instance),
	.needs = answers_needs, .compress = answers_compress,
};

static int32_t answers_init(const struct kvmod_host *of)
{
	return of->register_policy(of->ctx, &answers_ops);
}

KVMOD_MODULE("answers-test", "1", "Apache-2.0", "kvmod", "for this test", 0, answers_init, NULL);

/* --- a cache, and an engine's services ------------------------------------------------------ */

static float keys[N * DIM];
static struct kvmod_head heads[HEADS];
static const struct kvmod_head *head_list[HEADS];
static struct kvmod_segment segments[LAYERS];
static const struct kvmod_segment *segment_list[LAYERS];
static struct kvmod_request request;
static struct kvmod_plan *plan;
static struct kvmod_ctx *ctx;
static struct kvmod_policy *policy;
static struct kvmod_keep tried[LAYERS];	/* that replay() got */
static unsigned n_served;		/* calls that reached the engine */

static int32_t engine_replay(const struct kvmod_request *r, const struct kvmod_plan *trial,
			     uint32_t rows, double *loss)
{
	(void)r;
	(void)rows;
	n_served++;
	for (uint32_t i = 0; i < trial->n_keeps && i < LAYERS; i++)
		tried[i] = *kvmod_keep_at(trial, i);
	*loss = 0.25;
	return KVMOD_OK;
}

static int32_t engine_reread(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	(void)r;
	n_served++;
	for (uint64_t i = 0; i < LAYERS * HEADS * (what->end - what->begin); i++)
		out[i] = 0.5f;
	return KVMOD_OK;
}

static int32_t engine_ask(const struct kvmod_request *r, const struct kvmod_ask *what, float *out)
{
	const struct kvmod_reread everything = { .end = N };

	(void)what;
	return engine_reread(r, &everything, out);
}

static void make_request(void)
{
	for (uint32_t g = 0; g < HEADS; g++)
		heads[g] = (struct kvmod_head){
			.size = sizeof(heads[g]), .n = N,
			.k = { .type = KVMOD_F32, .data = keys, .stride = DIM * sizeof(float) },
		};
	kvmod_list_heads(head_list, heads, HEADS);
	for (uint32_t l = 0; l < LAYERS; l++)
		segments[l] = (struct kvmod_segment){
			.size = sizeof(segments[l]), .layer = l, .logical = N, .n_q_heads = HEADS,
			.n_kv_heads = HEADS, .head_dim = DIM, .scale = 1, .heads = head_list,
		};
	kvmod_list_segments(segment_list, segments, LAYERS);
	request = (struct kvmod_request){
		.size = sizeof(request), .phase = KVMOD_PREFILL, .n_layers = LAYERS,
		.n_segments = LAYERS, .segments = segment_list,
		.replay = engine_replay, .reread = engine_reread, .ask = engine_ask,
	};
}

static void set_up(void)
{
	fixture_setup();
	deed = NULL;
	n_served = 0;
	memset(tried, 0xff, sizeof(tried));
	ctx = fixture_context();
	assert_ok(kvmod_add_builtin(ctx, &answers_module));
	make_request();
	assert_ok(kvmod_plan_new(&request, &plan));
	assert_ok(kvmod_policy_open(ctx, "answers", "cpu", &fixture_model, &policy));
}

static void tear_down(void)
{
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	fixture_teardown();
}

static int decide(void (*what)(const struct kvmod_request *r, struct kvmod_plan *plan))
{
	deed = what;
	fixture_log[0] = '\0';
	return kvmod_decide(policy, &request, plan);
}

/* --- plans that are refused ------------------------------------------------------------------ */

#define NO_ROOM "policy answers: keep 1 of the plan has no room for the 16 positions of its " \
		"segment: expected a plan of kvmod_plan_new()"

/* A host's own mistake costs the plan, and nothing is written where no keep is. */
START_TEST(refused_plans)
{
	struct kvmod_keep own[LAYERS], *list[LAYERS];
	struct kvmod_plan bad = { .size = sizeof(bad), .n_keeps = LAYERS, .flags = 7, .keeps = list };
	struct kvmod_counters c = { .size = sizeof(c) };
	const char *why = NO_ROOM;

	for (uint32_t i = 0; i < LAYERS; i++) {
		own[i] = *kvmod_keep_at(plan, i);
		own[i].kind = KVMOD_KEEP_SPANS;
		list[i] = &own[i];
	}
	switch (_i) {
	case 0:
		bad.keeps = NULL;
		why = "policy answers: the plan's keeps are NULL";
		break;
	case 1:
		list[1] = NULL;
		break;
	case 2:
		own[1].size = 8;	/* ends before all that is to be written */
		break;
	case 3:
		own[1].size = offsetof(struct kvmod_keep, loss);
		break;
	case 4:
		bad.size = offsetof(struct kvmod_plan, keeps);
		why = "policy answers: the plan has size 16, expected at least 24";
		break;
	}
	assert_fails(kvmod_decide(policy, &request, &bad), KVMOD_EINVAL, why);
	ck_assert_ptr_nonnull(strstr(fixture_log, why));
	kvmod_policy_counters(policy, &c);
	ck_assert_uint_eq(c.failed_calls, 1);
	ck_assert_uint_eq(bad.flags, _i == 4 ? 7 : 0);
	for (uint32_t i = 0; i < LAYERS; i++) {
		bool written = (_i == 1 || _i == 2) ? i != 1 : _i == 3;

		ck_assert_int_eq(own[i].status, written ? KVMOD_EINVAL : KVMOD_OK);
		ck_assert_uint_eq(own[i].kind, written ? KVMOD_KEEP_ALL : KVMOD_KEEP_SPANS);
	}
}
END_TEST

/* --- services ---------------------------------------------------------------------------------- */

static const struct kvmod_reread one_position = { .size = sizeof(one_position), .end = 1 };
static const struct kvmod_ask a_question = { .size = sizeof(a_question), .question = "What?" };
static int32_t (*kept_replay)(const struct kvmod_request *, const struct kvmod_plan *, uint32_t, double *);
static int32_t (*kept_reread)(const struct kvmod_request *, const struct kvmod_reread *, float *);
static int32_t (*kept_ask)(const struct kvmod_request *, const struct kvmod_ask *, float *);

static void keep_services(const struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)p;
	kept_replay = r->replay;
	kept_reread = r->reread;
	kept_ask = r->ask;
}

static void use_kept_replay(const struct kvmod_request *r, struct kvmod_plan *p)
{
	double loss = -1;

	ck_assert_ptr_null(r->replay);
	answer = kept_replay(r, p, 1, &loss);
	snprintf(said, sizeof(said), "%s", kvmod_error());
	ck_assert_double_eq(loss, -1);
}

static void use_kept_reread(const struct kvmod_request *r, struct kvmod_plan *p)
{
	float out[LAYERS * HEADS];

	(void)p;
	ck_assert_ptr_null(r->reread);
	answer = kept_reread(r, &one_position, out);
	snprintf(said, sizeof(said), "%s", kvmod_error());
}

static void use_kept_ask(const struct kvmod_request *r, struct kvmod_plan *p)
{
	float out[LAYERS * HEADS * N];

	(void)p;
	ck_assert_ptr_null(r->ask);
	answer = kept_ask(r, &a_question, out);
	snprintf(said, sizeof(said), "%s", kvmod_error());
}

/* A call that one request offered is not there in the next, whose engine has none. */
START_TEST(services_of_another_request)
{
	assert_ok(decide(keep_services));
	request.replay = NULL;
	request.reread = NULL;
	assert_ok(decide(use_kept_replay));
	ck_assert_int_eq(answer, KVMOD_ENOTSUP);
	ck_assert_str_eq(said, "replay: this engine has none");
	assert_ok(decide(use_kept_reread));
	ck_assert_int_eq(answer, KVMOD_ENOTSUP);
	ck_assert_str_eq(said, "reread: this engine has none");
	/* The host's struct ends before the call, as one of an older kvmod does. */
	request.size = offsetof(struct kvmod_request, ask);
	assert_ok(decide(use_kept_ask));
	ck_assert_int_eq(answer, KVMOD_ENOTSUP);
	ck_assert_str_eq(said, "ask: this engine has none");
	ck_assert_uint_eq(n_served, 0);
}
END_TEST

/* Layer 1 is given up, with wishes in it that nobody can read; layer 2 has good ones. */
static void try_stores(const struct kvmod_request *r, struct kvmod_plan *p)
{
	double loss = -1;

	kvmod_keep_at(p, 1)->status = KVMOD_ENUMERIC;
	kvmod_keep_at(p, 1)->k_store = kvmod_keep_at(p, 1)->v_store = 77;
	kvmod_keep_at(p, 2)->k_store = KVMOD_Q8_0;
	kvmod_keep_at(p, 2)->v_store = KVMOD_F16;
	answer = r->replay(r, p, 1, &loss);
	if (answer == 0)
		ck_assert_double_eq(loss, 0.25);
}

static void stores_are(uint32_t i, uint32_t k, uint32_t v)
{
	ck_assert_uint_eq(tried[i].k_store, k);
	ck_assert_uint_eq(tried[i].v_store, v);
}

START_TEST(stores_of_trials)
{
	assert_ok(decide(try_stores));
	ck_assert_int_eq(answer, 0);
	ck_assert_uint_eq(tried[0].kind, KVMOD_KEEP_SPANS);
	ck_assert_uint_eq(tried[1].kind, KVMOD_KEEP_ALL);
	ck_assert_int_eq(tried[1].status, KVMOD_ENUMERIC);
	stores_are(1, KVMOD_STORE_SAME, KVMOD_STORE_SAME);
	stores_are(2, KVMOD_Q8_0, KVMOD_F16);
	/* An engine that cannot gets none, and the answer keeps what the policy wants. */
	assert_ok(kv_decide(policy, &request, plan, 0));
	ck_assert_int_eq(answer, 0);
	ck_assert_uint_eq(tried[2].kind, KVMOD_KEEP_SPANS);
	stores_are(1, KVMOD_STORE_SAME, KVMOD_STORE_SAME);
	stores_are(2, KVMOD_STORE_SAME, KVMOD_STORE_SAME);
	ck_assert_uint_eq(kvmod_keep_at(plan, 2)->k_store, KVMOD_Q8_0);
}
END_TEST

/* --- reasons ----------------------------------------------------------------------------------- */

/* The policy gives layer 2 up, and goes on asking. */
static void ask_after_failing(const struct kvmod_request *r, struct kvmod_plan *p)
{
	float out[LAYERS * HEADS * N];
	double loss;

	kvmod_keep_at(p, 2)->status = host->fail(host->ctx, KVMOD_ENUMERIC, "a key is odd");
	ck_assert_int_eq(r->replay(r, p, 1, &loss), 0);
	ck_assert_str_eq(kvmod_error(), "a key is odd");
	ck_assert_int_eq(r->reread(r, &one_position, out), 0);
	ck_assert_str_eq(kvmod_error(), "a key is odd");
	ck_assert_int_eq(r->ask(r, &a_question, out), 0);
	ck_assert_str_eq(kvmod_error(), "a key is odd");
	ck_assert_uint_eq(n_served, 3);
}

START_TEST(services_keep_the_reason)
{
	assert_ok(decide(ask_after_failing));
	ck_assert_int_eq(kvmod_keep_at(plan, 2)->status, KVMOD_ENUMERIC);
	ck_assert_str_eq(fixture_log, "policy answers: layer 2: a key is odd; 1 of 3 segments stay whole\n");
}
END_TEST

static void give_up_two(const struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	kvmod_keep_at(p, 0)->status = host->fail(host->ctx, KVMOD_ENOTSUP, "no such type");
	kvmod_keep_at(p, 2)->status = host->fail(host->ctx, KVMOD_ENUMERIC, "a key is odd");
}

static void give_up_silently(const struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	kvmod_keep_at(p, 1)->status = KVMOD_ENOTSUP;
	kvmod_keep_at(p, 2)->status = KVMOD_EIO;
}

static void give_up_after_a_bad_one(const struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	kvmod_keep_at(p, 0)->spans[0].end = N + 1;
	kvmod_keep_at(p, 1)->status = host->fail(host->ctx, KVMOD_ENOTSUP, "no such type");
	kvmod_keep_at(p, 2)->status = host->fail(host->ctx, KVMOD_ENUMERIC, "a key is odd");
}

/* Words go with the layer that they are about. */
START_TEST(reasons_of_several)
{
	assert_ok(decide(give_up_two));
	ck_assert_str_eq(fixture_log, "policy answers: layer 0: KVMOD_ENOTSUP (the last reason given: a key "
			 "is odd); 2 of 3 segments stay whole\n");
	assert_ok(decide(give_up_silently));
	ck_assert_str_eq(fixture_log, "policy answers: layer 1: KVMOD_ENOTSUP; 2 of 3 segments stay whole\n");
	assert_ok(decide(give_up_after_a_bad_one));
	ck_assert_str_eq(fixture_log, "policy answers: layer 0: span 0 is 8..17, expected a part of 0..16; "
			 "3 of 3 segments stay whole\n");
}
END_TEST

/* --- in a session ------------------------------------------------------------------------------- */

/* The engine without a model, that says of itself what a test says, and offers replay(). */
static const struct kvmod_engine_ops *fake;
static struct kvmod_engine_ops wrapped;
static struct kvmod_model model;

static const struct kvmod_model *wrapped_model(void *self)
{
	(void)self;
	return &model;
}

static int32_t wrapped_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out)
{
	int32_t err = fake->request(self, seq, out);

	out->replay = engine_replay;
	return err;
}

static int32_t wrapped_init(const struct kvmod_host *of)
{
	return of->register_engine(of->ctx, &wrapped);
}

static struct kvmod_module wrapped_module;

/* The table of a module that is only reachable through an engine that is open. */
static void wrap(uint32_t flags)
{
	struct kvmod_engine *engine;

	assert_ok(kvmod_add_builtin(ctx, &kvmod_module_fake));
	assert_ok(kvmod_engine_open(ctx, "fake", &engine));
	fake = kvmod_engine_ops(engine);
	model = *kvmod_engine_model(engine);
	kvmod_engine_close(engine);
	wrapped = *fake;
	wrapped.name = "wrapped";
	wrapped.flags = flags;
	wrapped.model = wrapped_model;
	wrapped.request = wrapped_request;
	wrapped_module = answers_module;
	wrapped_module.name = "wrapped-test";
	wrapped_module.init = wrapped_init;
	assert_ok(kvmod_add_builtin(ctx, &wrapped_module));
}

static void run_prompt(struct kvmod_engine *engine)
{
	int32_t tokens[40];
	struct kvmod_prompt prompt = { .size = sizeof(prompt), .tokens = tokens, .n_tokens = 40 };
	struct kvmod_prompted out = { .size = sizeof(out) };
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;

	for (int32_t i = 0; i < 40; i++)
		tokens[i] = 'a' + i % 26;
	kvmod_policy_close(policy);
	assert_ok(kvmod_policy_open(ctx, "answers", "cpu", &model, &policy));
	assert_ok(kvmod_session_open(engine, policy, &session));
	assert_ok(kvmod_sequence_open(session, &sequence));
	deed = try_stores;
	answer = -1;
	assert_ok(kvmod_sequence_prompt(sequence, &prompt, &out));
	ck_assert_int_eq(answer, 0);
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
}

/* An engine tries out what it would be asked to apply. */
START_TEST(sessions_try_what_they_apply)
{
	const char *overrides[] = { "kvmod.leave_below=0" };
	struct kvmod_engine *engine;
	bool stores = _i;

	wrap(stores ? KVMOD_ENGINE_STORES : 0);
	assert_ok(kvmod_configure(ctx, "/dev/null", overrides, 1));
	assert_ok(kvmod_engine_open(ctx, "wrapped", &engine));
	ck_assert_uint_ge(model.n_layers, LAYERS);
	run_prompt(engine);
	ck_assert_uint_eq(n_served, 1);
	stores_are(2, stores ? KVMOD_Q8_0 : KVMOD_STORE_SAME, stores ? KVMOD_F16 : KVMOD_STORE_SAME);
	kvmod_engine_close(engine);
}
END_TEST

/* [kvmod] store stands for layers of which the policy says nothing. */
START_TEST(sessions_have_a_store)
{
	const char *overrides[] = { "kvmod.leave_below=0", "kvmod.store=q8_0/q4_0" };
	struct kvmod_engine *engine;
	bool stores = _i;

	wrap(stores ? KVMOD_ENGINE_STORES : 0);
	assert_ok(kvmod_configure(ctx, "/dev/null", overrides, 2));
	assert_ok(kvmod_engine_open(ctx, "wrapped", &engine));
	run_prompt(engine);
	ck_assert_uint_eq(n_served, 1);
	stores_are(0, stores ? KVMOD_Q8_0 : KVMOD_STORE_SAME, stores ? KVMOD_Q4_0 : KVMOD_STORE_SAME);
	stores_are(1, KVMOD_STORE_SAME, KVMOD_STORE_SAME);
	stores_are(2, stores ? KVMOD_Q8_0 : KVMOD_STORE_SAME, stores ? KVMOD_F16 : KVMOD_STORE_SAME);
	kvmod_engine_close(engine);
}
END_TEST

/* Opening an engine reports a wrong model. */
START_TEST(models_of_engines)
{
	struct kvmod_engine *engine = NULL;

	wrap(0);
	model.n_vocab = 0;
	assert_fails(kvmod_engine_open(ctx, "wrapped", &engine), KVMOD_EINVAL, "engine wrapped: the model "
		     "has a vocabulary of 0 tokens, expected 1 to 2147483647");
	ck_assert_ptr_null(engine);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("answers");
	TCase *tc = tcase_create("answers");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_loop_test(tc, refused_plans, 0, 5);
	tcase_add_test(tc, services_of_another_request);
	tcase_add_test(tc, stores_of_trials);
	tcase_add_test(tc, services_keep_the_reason);
	tcase_add_test(tc, reasons_of_several);
	tcase_add_loop_test(tc, sessions_try_what_they_apply, 0, 2);
	tcase_add_loop_test(tc, sessions_have_a_store, 0, 2);
	tcase_add_test(tc, models_of_engines);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
