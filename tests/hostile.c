/* SPDX-License-Identifier: Apache-2.0 */
/* The policy and the engine of tests/hostile.h, and the cache that both see. */
#include <stdlib.h>

#define KVMOD_MODULE_SYMBOL hostile_module
#include "tests/hostile.h"

struct hostile hostile;
struct hostile_engine engine;
struct kv_described cache;
struct kvmod_plan *plan;
struct kvmod_ctx *ctx;
struct kvmod_policy *policy;

/* --- the policy ------------------------------------------------------------------- */

static int32_t hostile_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	*needs = hostile.needs;
	needs->size = UINT32_MAX;
	hostile.kept_needs = needs;
	return KVMOD_OK;
}

static int32_t hostile_begin(void *self, uint64_t sequence, void **state)
{
	(void)self;
	(void)sequence;
	hostile.kept_state = state;
	return KVMOD_EIO;
}

static int32_t hostile_workspace(void *self, const struct kvmod_request *r,
				 struct kvmod_workspace *need)
{
	(void)self;
	need->size = UINT32_MAX;
	need->host = 64;
	if (hostile.in_workspace)
		hostile.in_workspace((struct kvmod_request *)(uintptr_t)r);
	return KVMOD_OK;
}

static int32_t hostile_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *out)
{
	(void)self;
	for (uint32_t i = 0; i < out->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(out, i);

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ .begin = N / 2, .end = N };
	}
	if (hostile.deed)
		hostile.deed((struct kvmod_request *)(uintptr_t)r, out);
	return hostile.code;
}

static const struct kvmod_policy_ops hostile_ops = {
	.size = sizeof(hostile_ops), .name = "hostile", .description = "writes where it may not",
	.instance_size = sizeof(struct kvmod_instance),
	.needs = hostile_needs, .begin = hostile_begin, .workspace = hostile_workspace,
	.compress = hostile_compress,
};

static int32_t hostile_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &hostile_ops);
}

KVMOD_MODULE("hostile-test", "1", "Apache-2.0", "kvmod", "for this test", 0, hostile_init, NULL);

void scribble(struct kvmod_request *r)
{
	struct kvmod_segment *s = (struct kvmod_segment *)(uintptr_t)r->segments[0];
	struct kvmod_head *head = (struct kvmod_head *)(uintptr_t)s->heads[1];

	head->n = UINT32_MAX;
	head->positions = WILD;
	head->k = (struct kvmod_view){ .type = 77, .data = WILD };
	((const struct kvmod_head **)(uintptr_t)s->heads)[0] = WILD;
	s->heads = WILD;
	s->layer = s->n_kv_heads = s->n_q_heads = UINT32_MAX;
	s->logical = UINT64_MAX;
	s->size = 0;
	((const struct kvmod_segment **)(uintptr_t)r->segments)[1] = NULL;
	r->segments = WILD;
	r->n_segments = r->n_layers = UINT32_MAX;
	r->device = WILD;
	r->stream = WILD;
	r->replay_ctx = WILD;
	r->size = 0;
}

/* --- a cache, and an engine's services --------------------------------------------- */

static int32_t engine_replay(const struct kvmod_request *r, const struct kvmod_plan *trial,
			     uint32_t rows, double *loss)
{
	(void)rows;
	engine.n_served++;
	ck_assert_ptr_eq(r->segments[0], &cache.segments[0]);
	ck_assert_uint_eq(trial->n_keeps, LAYERS);
	ck_assert_uint_eq(kvmod_plan_count(r, trial, 0, 0), N / 2);
	*loss = engine.loss;
	return engine.code;
}

static int32_t engine_reread(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	uint64_t n = LAYERS * HEADS * (what->end - what->begin);

	ck_assert_ptr_eq(r->segments[0], &cache.segments[0]);
	engine.n_served++;
	for (uint64_t i = 0; i < n; i++)
		out[i] = 0.5f;
	out[n - 1] = engine.weight;
	return KVMOD_OK;
}

static int32_t engine_ask(const struct kvmod_request *r, const struct kvmod_ask *what, float *out)
{
	const struct kvmod_reread everything = { .end = N };

	engine.asked = *what;
	return engine.code ? engine.code : engine_reread(r, &everything, out);
}

static void make_request(void)
{
	static const struct kv_shape shape = {
		.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = HEADS, .n_kv_heads = HEADS,
		.head_dim = DIM, .type = KVMOD_F32,
	};
	static float keys[N * DIM], queries[HEADS * DIM];
	static int32_t positions[N];

	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	for (uint32_t i = 0; i < N; i++)
		positions[i] = (int32_t)i;
	for (uint32_t i = 0; i < LAYERS * HEADS; i++) {
		cache.heads[i].k = kv_view(KVMOD_F32, keys, DIM * sizeof(float), 0);
		cache.heads[i].positions = positions;
	}
	for (uint32_t l = 0; l < LAYERS; l++)
		kv_describe_queries(&cache.segments[l], queries, 1);
	cache.request.replay = engine_replay;
	cache.request.reread = engine_reread;
	cache.request.ask = engine_ask;
	cache.request.replay_ctx = &cache;
}

static void set_up(void)
{
	fixture_setup();
	hostile = (struct hostile){
		.needs = { .what = KVMOD_NEED_K, .rows = { .value = 1, .is_count = 1 } },
	};
	engine = (struct hostile_engine){ .loss = 0.25, .weight = 1 };
	ctx = fixture_context();
	assert_ok(kvmod_add_builtin(ctx, &hostile_module));
	make_request();
	assert_ok(kvmod_plan_new(&cache.request, &plan));
	policy = NULL;
}

static void tear_down(void)
{
	kvmod_plan_free(plan);
	kv_undescribe(&cache);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	fixture_teardown();
}

int decide(hostile_deed *what)
{
	if (!policy)
		assert_ok(kvmod_policy_open(ctx, "hostile", "cpu", &fixture_model, &policy));
	hostile.deed = what;
	fixture_log[0] = '\0';
	return kvmod_decide(policy, &cache.request, plan);
}

void is_whole(uint32_t i, int status)
{
	ck_assert_uint_eq(kvmod_keep_at(plan, i)->kind, KVMOD_KEEP_ALL);
	ck_assert_int_eq(kvmod_keep_at(plan, i)->status, status);
	ck_assert_uint_eq(kvmod_plan_count(&cache.request, plan, i, 1), N);
}

void is_cut(uint32_t i)
{
	ck_assert_int_eq(kvmod_keep_at(plan, i)->status, 0);
	ck_assert_uint_eq(kvmod_plan_count(&cache.request, plan, i, 1), N / 2);
}

int hostile_run(const char *name, void (*add)(TCase *tc))
{
	Suite *suite = suite_create(name);
	TCase *tc = tcase_create(name);
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	add(tc);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
