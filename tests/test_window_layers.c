/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model in which the first of four layers caches only a window: requests name
 * three layers, and everything that counts layers copes. And a policy that wants rows
 * stored as another type, of an engine that cannot.
 */
#include <check.h>
#undef fail			/* the old name of ck_abort_msg() */
#include <stdio.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL half_module
#include <kvmod/kvmod.h>

extern const struct kvmod_module kvmod_module_window;

#define LAYERS	4u
#define NAMED	3u
#define HEADS	2u

/* --- a policy that keeps the newest half ---------------------------------------------- */

struct half {
	struct kvmod_instance base;
	int64_t k_store, v_store;
	int32_t fails;
};

#define HALF_PARAMS(P, owner) \
	P(owner, struct half, k_store, INT, "0", "0..100", "element type in which to store K") \
	P(owner, struct half, v_store, INT, "0", "0..100", "element type in which to store V") \
	P(owner, struct half, fails, BOOL, "no", "", "its plan is refused")
KVMOD_PARAMS(policy, half, HALF_PARAMS);

static int32_t half_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_ALL_LAYERS;
	return KVMOD_OK;
}

static int32_t half_compress(void *self_, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	const struct half *self = self_;

	ck_assert_uint_eq(r->n_layers, LAYERS);
	ck_assert_uint_eq(r->n_window_layers, LAYERS - NAMED);
	for (uint32_t i = 0; i < r->n_segments; i++) {
		struct kvmod_keep *keep = plan->keeps[i];
		uint32_t n = r->segments[i]->heads[0]->n;

		ck_assert_uint_eq(r->segments[i]->layer, i + 1);
		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ n / 2, self->fails ? n + 1 : n };
		keep->k_store = (uint32_t)self->k_store;
		keep->v_store = (uint32_t)self->v_store;
	}
	return KVMOD_OK;
}

static const struct kvmod_policy_ops half_ops = {
	.size = sizeof(half_ops), .name = "half", .description = "keeps the newest half",
	.instance_size = sizeof(struct half),
	.params = half_params, .n_params = sizeof(half_params) / sizeof(half_params[0]),
	.needs = half_needs, .compress = half_compress,
};

static int32_t half_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &half_ops);
}

KVMOD_MODULE("window-test", "1", "Apache-2.0", "kvmod", "for this test", 0, half_init, NULL);

/* --- fixture ------------------------------------------------------------------------ */

static struct kvmod_ctx *ctx;
static struct kvmod_engine *engine;
static struct kvmod_policy *policy;
static struct kvmod_session *session;
static struct kvmod_sequence *sequence;
static char logged[2048];

static void note(void *arg, uint32_t level, const char *line)
{
	size_t n = strlen(logged);

	(void)arg;
	(void)level;
	snprintf(logged + n, sizeof(logged) - n, "%s\n", line);
}

static void start(const char *one, const char *two)
{
	const char *overrides[] = { "kvmod.leave_below=0", one, two };

	logged[0] = '\0';
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, note, NULL);
	kvmod_set_log_level(ctx, KVMOD_WARN);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &kvmod_module_window), 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &half_module), 0);
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", overrides, 3), "%s", kvmod_error());
	ck_assert_msg(!kvmod_engine_open(ctx, "fake", &engine), "%s", kvmod_error());
	ck_assert_msg(!kvmod_policy_open(ctx, "half", "cpu", kvmod_engine_model(engine), &policy), "%s",
		      kvmod_error());
	ck_assert_int_eq(kvmod_session_open(engine, policy, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
}

static void tear_down(void)
{
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	kvmod_policy_close(policy);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
}

static struct kvmod_prompted prompt(uint32_t n)
{
	int32_t tokens[64];
	struct kvmod_prompt p = { .size = sizeof(p), .tokens = tokens, .n_tokens = n };
	struct kvmod_prompted out = { .size = sizeof(out) };

	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)('a' + i % 26);
	ck_assert_msg(!kvmod_sequence_prompt(sequence, &p, &out), "%s", kvmod_error());
	return out;
}

static void ask_engine(struct kvmod_request *r)
{
	const struct kvmod_engine_ops *ops = kvmod_engine_ops(engine);

	*r = (struct kvmod_request){ .size = sizeof(*r) };
	ck_assert_int_eq(ops->request(kvmod_engine_instance(engine),
				      kvmod_sequence_engine_seq(sequence), r), 0);
}

/* --- tests ----------------------------------------------------------------------------- */

START_TEST(layers_that_are_named_are_cut)
{
	const uint64_t row = 2 * 32 * sizeof(float);
	struct kvmod_prompted out;
	struct kvmod_request r;
	uint64_t seen = 99;
	double shares[41];

	start("policy half.k_store=0", "policy half.v_store=0");
	out = prompt(40);
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq(out.budget, 0.5);
	/* The window's layer is not a policy's to cut. */
	ck_assert_uint_eq(out.before.used, LAYERS * HEADS * 40 * row);
	ck_assert_uint_eq(out.after.used, (NAMED * HEADS * 20 + HEADS * 40) * row);
	ask_engine(&r);
	ck_assert_uint_eq(r.n_segments, NAMED);
	for (uint32_t i = 0; i < NAMED; i++)
		ck_assert_uint_eq(r.segments[i]->heads[1]->n, 20);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 0, &seen), 0);
	ck_assert_uint_eq(seen, 0);
	for (uint32_t l = 1; l < LAYERS; l++) {
		ck_assert_uint_eq(kvmod_sequence_kept(sequence, l, 1, &seen), 20);
		ck_assert_uint_eq(seen, 40);
	}
	/* The newest half, in all layers that count. */
	ck_assert_int_eq(kvmod_sequence_positions(sequence, shares, 41), 0);
	for (int i = 0; i < 41; i++)
		ck_assert_double_eq(shares[i], i >= 20 && i < 40);
	ck_assert_str_eq(logged, "");
}
END_TEST

/* A session without a policy cuts nothing, but a window's layer still does not cache all. */
START_TEST(whole_sequences_name_no_window_layer)
{
	struct kvmod_left left = { .size = sizeof(left) };
	uint64_t seen = 99;

	start("policy half.k_store=0", "policy half.v_store=0");
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	ck_assert_int_eq(kvmod_session_open(engine, NULL, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
	ck_assert_double_eq(prompt(40).budget, 1);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 0, &seen), 0);
	ck_assert_uint_eq(seen, 0);
	for (uint32_t l = 1; l < LAYERS; l++) {
		ck_assert_uint_eq(kvmod_sequence_kept(sequence, l, 1, &seen), 40);
		ck_assert_uint_eq(seen, 40);
	}
	kvmod_sequence_left(sequence, &left);
	ck_assert_uint_eq(left.seen, 40);
	ck_assert_double_eq(left.budget, 1);
	ck_assert_str_eq(logged, "");
}
END_TEST

START_TEST(all_layers_are_all_that_are_named)
{
	struct kvmod_plan *plan = NULL;
	struct kvmod_request r;

	start("policy half.k_store=0", "policy half.v_store=0");
	prompt(40);
	ask_engine(&r);
	r.n_segments--;
	ck_assert_int_eq(kvmod_plan_new(&r, &plan), 0);
	ck_assert_int_eq(kvmod_decide(policy, &r, plan), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "policy half: sequence 0 has 2 segments, but the policy decides over "
			 "all 3 layers at once");
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(engine_that_cannot_store_keeps_rows_as_they_are)
{
	struct kvmod_prompted out;

	start("policy half.k_store=5", "policy half.v_store=2");
	out = prompt(40);
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq(out.budget, 0.5);
	out = prompt(20);
	ck_assert_int_eq(out.status, 0);
	/* Said once. */
	ck_assert_str_eq(logged, "policy half asks to store rows as another type, but engine fake cannot: "
			 "the rows stay unchanged\n");
}
END_TEST

START_TEST(unknown_type_costs_compression_only)
{
	struct kvmod_prompted out;

	start("policy half.k_store=0", "policy half.v_store=77");
	out = prompt(40);
	ck_assert_int_eq(out.status, KVMOD_EPLAN);
	ck_assert_double_eq(out.budget, 1);
	ck_assert_str_eq(logged, "policy half: layer 1: V: unknown element type 77 to store rows as, "
			 "expected 0 (unchanged) to 5; 3 of 3 segments stay whole\n");
}
END_TEST

/* What is refused is as it was in each respect. */
START_TEST(refused_segments_store_nothing)
{
	struct kvmod_plan *plan = NULL;
	struct kvmod_request r;

	start("policy half.k_store=2", "policy half.fails=yes");
	prompt(40);
	ask_engine(&r);
	ck_assert_int_eq(kvmod_plan_new(&r, &plan), 0);
	ck_assert_int_eq(kvmod_decide(policy, &r, plan), 0);
	ck_assert_int_eq(plan->keeps[0]->status, KVMOD_EPLAN);
	ck_assert_uint_eq(plan->keeps[0]->k_store, KVMOD_STORE_SAME);
	kvmod_plan_free(plan);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("window layers");
	TCase *tc = tcase_create("window layers");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, NULL, tear_down);
	tcase_add_test(tc, layers_that_are_named_are_cut);
	tcase_add_test(tc, whole_sequences_name_no_window_layer);
	tcase_add_test(tc, all_layers_are_all_that_are_named);
	tcase_add_test(tc, engine_that_cannot_store_keeps_rows_as_they_are);
	tcase_add_test(tc, unknown_type_costs_compression_only);
	tcase_add_test(tc, refused_segments_store_nothing);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
