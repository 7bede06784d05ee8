/* SPDX-License-Identifier: Apache-2.0 */
/* Scorers whose level is found by replaying: KVMOD_BY_LOSS, and the parameter `store`. */
#define KVMOD_MODULE_SYMBOL by_loss_module
#include "tests/fixture.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include <kvmod/scorer.h>

#include "core/run/describe.h"

#define LAYERS 3u
#define HEADS 2u
#define N 60u
#define SINKS 2u
#define WINDOW 3u
#define LEVELS 8u

static struct kv_shape shape = {
	.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = 2 * HEADS, .n_kv_heads = HEADS,
	.head_dim = 64,
};
static struct kv_described cache;

/* --- the scorer: position i of any head is worth 1 / 2^(i mod 11), more in later heads ------------ */

#define PARAMS(P, owner) \
	KVMOD_P_LEVEL(P, owner, "0.25") \
	KVMOD_P_SINKS(P, owner, "2") \
	KVMOD_P_WINDOW(P, owner, "3") \
	KVMOD_P_LOSS(P, owner, "0.5") \
	KVMOD_P_REPLAY_ROWS(P, owner, "16") \
	KVMOD_P_STORE(P, owner, "same")

static float worth(uint32_t layer, uint32_t g, uint32_t i)
{
	return ldexpf(1 + (float)(layer * HEADS + g) / 16, -(int)(i % 11));
}

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = worth(head->segment->layer, head->g, i);
	return KVMOD_OK;
}

static double level_at(const void *self, uint32_t k)
{
	(void)self;
	return ldexp(1, -(int)k);
}

KVMOD_SCORER_POLICY(by_loss, struct kvmod_scorer, PARAMS, "", "cpu", .score = score,
		    .select = KVMOD_BY_LOSS, .level_at = level_at, .n_levels = LEVELS)
KVMOD_SCORER_POLICY(no_levels, struct kvmod_scorer, PARAMS, "", "cpu", .score = score,
		    .select = KVMOD_BY_LOSS)
#define BARE(P, owner) KVMOD_P_LEVEL(P, owner, "0.25")
KVMOD_SCORER_POLICY(no_loss, struct kvmod_scorer, BARE, "", "cpu", .score = score,
		    .select = KVMOD_BY_LOSS, .level_at = level_at, .n_levels = LEVELS)

static int32_t init(const struct kvmod_host *host)
{
	int32_t err = by_loss_init(host);

	if (err == KVMOD_OK)
		err = no_levels_init(host);
	return err == KVMOD_OK ? no_loss_init(host) : err;
}

KVMOD_MODULE("by_loss_test", "1.0", "Apache-2.0", "The kvmod authors", "", 0, init, NULL);

/* --- the engine, where a plan loses what it drops --------------------------------------------------- */

static double unit;			/* of loss, for each position that is dropped */
static int32_t answer;
static double by_store;			/* loss of any plan that stores rows as another type */
static unsigned n_trials;
static uint32_t rows_asked, stores[2];

static double n_dropped(const struct kvmod_plan *plan)
{
	double n = 0;

	for (uint32_t i = 0; i < LAYERS; i++)
		for (uint32_t g = 0; g < HEADS; g++)
			n += N - kvmod_plan_count(&cache.request, plan, i, g);
	return n;
}

static int32_t replay(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t rows,
		      double *loss)
{
	(void)r;
	n_trials++;
	rows_asked = rows;
	stores[0] = kvmod_keep_at(plan, 0)->k_store;
	stores[1] = kvmod_keep_at(plan, LAYERS - 1)->v_store;
	*loss = unit * n_dropped(plan) + (stores[0] ? by_store : 0);
	return answer;
}

/* --- a decision ----------------------------------------------------------------------------------------- */

static void describe(uint32_t head_dim)
{
	shape.head_dim = head_dim;
	kv_undescribe(&cache);
	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	cache.request.replay = replay;
	answer = KVMOD_OK;
	n_trials = 0;
	by_store = 0;
}

static struct kvmod_plan *decide(const char *params, int32_t code)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	return fixture_decide(&by_loss_module, "by_loss", params, &model, &cache.request, code);
}

static bool keeps(const struct kvmod_plan *plan, uint32_t l, uint32_t g, uint32_t at)
{
	const struct kvmod_keep *keep = kvmod_keep_at(plan, l);

	for (uint32_t k = 0; k < keep->counts[g]; k++)
		if (keep->indices[g * keep->index_stride + k] == at)
			return true;
	return keep->kind == KVMOD_KEEP_ALL;
}

/* Every score of at least `level` is kept, with sinks and window, and nothing else. */
static void check(const struct kvmod_plan *plan, double level)
{
	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint32_t i = 0; i < N; i++)
				ck_assert_int_eq(keeps(plan, l, g, i), i < SINKS || i >= N - WINDOW ||
						 (double)worth(l, g, i) >= level);
}

/* How many positions a level drops. */
static double dropped_at(double level)
{
	double n = 0;

	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint32_t i = SINKS; i < N - WINDOW; i++)
				n += (double)worth(l, g, i) < level;
	return n;
}

/* The highest level whose loss is small enough, whichever that is, in few trials. */
START_TEST(highest_level)
{
	double level = level_at(NULL, (uint32_t)_i);
	struct kvmod_plan *plan;

	describe(64);
	unit = 0.5 / dropped_at(level);
	plan = decide("", KVMOD_OK);
	check(plan, level);
	ck_assert_uint_le(n_trials, 4);
	ck_assert_uint_eq(rows_asked, 16);
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(everything)
{
	struct kvmod_plan *plan;

	describe(64);
	unit = 0.5 / dropped_at(level_at(NULL, LEVELS - 1)) * 1.01;
	plan = decide("", KVMOD_OK);
	ck_assert_double_eq(n_dropped(plan), 0);
	kvmod_plan_free(plan);
}
END_TEST

/* What storing alone may lose is bounded too. */
START_TEST(stores_lose_too_much)
{
	struct kvmod_plan *plan;

	describe(64);
	unit = 0;
	by_store = _i ? 0.51 : 0.5;
	plan = decide("store = q8_0/q4_0", KVMOD_OK);
	ck_assert_uint_eq(kvmod_keep_at(plan, 0)->k_store, _i ? KVMOD_STORE_SAME : KVMOD_Q8_0);
	ck_assert_uint_eq(kvmod_keep_at(plan, LAYERS - 1)->v_store, _i ? KVMOD_STORE_SAME : KVMOD_Q4_0);
	ck_assert_int_eq(n_dropped(plan) > 0, !_i);
	kvmod_plan_free(plan);
}
END_TEST

/* Half of the tokens at most are run again. */
START_TEST(rows)
{
	describe(64);
	unit = 0;
	kvmod_plan_free(decide("replay_rows = 1000", KVMOD_OK));
	ck_assert_uint_eq(rows_asked, N / 2);
}
END_TEST

START_TEST(without_the_service)
{
	struct kvmod_plan *plan;

	describe(64);
	cache.request.replay = NULL;
	plan = decide("", KVMOD_OK);
	check(plan, 0.25);
	ck_assert_msg(strstr(fixture_log, "the host cannot replay tokens: every score of at least 0.25 is kept"),
		      "%s", fixture_log);
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(the_service_fails)
{
	struct kvmod_plan *plan;

	describe(64);
	answer = KVMOD_ENOMEM;
	plan = decide("store = q8_0", KVMOD_ENOMEM);
	for (uint32_t l = 0; l < LAYERS; l++) {
		ck_assert_uint_eq(kvmod_keep_at(plan, l)->kind, KVMOD_KEEP_ALL);
		ck_assert_uint_eq(kvmod_keep_at(plan, l)->k_store, KVMOD_STORE_SAME);
	}
	ck_assert_uint_eq(n_trials, 1);
	kvmod_plan_free(plan);
}
END_TEST

/* What is tried is stored as what is planned; blocks that do not fit are not asked for. */
START_TEST(stored)
{
	static const struct { const char *params; uint32_t k, v; } cases[] = {
		{ "", KVMOD_STORE_SAME, KVMOD_STORE_SAME },
		{ "store = q8_0", KVMOD_Q8_0, KVMOD_Q8_0 },
		{ "store = q8_0/q4_0", KVMOD_Q8_0, KVMOD_Q4_0 },
	};
	bool fits = _i < 3;
	struct kvmod_plan *plan;
	uint32_t k = fits ? cases[_i % 3].k : KVMOD_STORE_SAME, v = fits ? cases[_i % 3].v : KVMOD_STORE_SAME;

	describe(fits ? 64 : 48);
	unit = 0.01;
	plan = decide(cases[_i % 3].params, KVMOD_OK);
	ck_assert_uint_eq(stores[0], k);
	ck_assert_uint_eq(stores[1], v);
	for (uint32_t l = 0; l < LAYERS; l++) {
		ck_assert_uint_eq(kvmod_keep_at(plan, l)->k_store, k);
		ck_assert_uint_eq(kvmod_keep_at(plan, l)->v_store, v);
	}
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(what_authors_may_forget)
{
	static const char *const cases[][2] = {
		{ "no_levels", "policy no_levels: the scorer no_levels lacks level_at() and n_levels, which "
		  "KVMOD_BY_LOSS needs" },
		{ "no_loss", "policy no_loss: the scorer no_loss lacks the parameters `loss` and `replay_rows`" },
	};
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	assert_fails(fixture_open_with(ctx, &by_loss_module, cases[_i][0], "", &model, &policy),
		     KVMOD_EINVAL, cases[_i][1]);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(needs)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	assert_ok(fixture_open_with(ctx, &by_loss_module, "by_loss", "", &model, &policy));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->what, KVMOD_NEED_ALL_LAYERS);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("scorers by loss");
	TCase *tc = tcase_create("scorers by loss");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_loop_test(tc, highest_level, 0, LEVELS);
	tcase_add_test(tc, everything);
	tcase_add_loop_test(tc, stores_lose_too_much, 0, 2);
	tcase_add_test(tc, rows);
	tcase_add_test(tc, without_the_service);
	tcase_add_test(tc, the_service_fails);
	tcase_add_loop_test(tc, stored, 0, 6);
	tcase_add_loop_test(tc, what_authors_may_forget, 0, 2);
	tcase_add_test(tc, needs);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
