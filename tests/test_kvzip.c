/* SPDX-License-Identifier: Apache-2.0 */
/* The policy kvzip, on an engine that answers what a test says when it reads again. */
#include "tests/fixture.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core/run/describe.h"

extern const struct kvmod_module kvmod_module_kvzip;

#define LAYERS 3u
#define HEADS 2u
#define N 50u

static const struct kv_shape shape = {
	.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = 2 * HEADS, .n_kv_heads = HEADS,
	.head_dim = 4,
};
static struct kv_described cache;

/* --- the engine -------------------------------------------------------------------------- */

static float weights[LAYERS][HEADS][N];	/* of each position, by tokens seen */
static struct kvmod_reread asked[8];
static unsigned n_asked;
static int32_t answer;

static int32_t reread(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	uint64_t n = what->end - what->begin;

	ck_assert_uint_lt(n_asked, 8);
	asked[n_asked++] = *what;
	for (uint32_t i = 0; i < r->n_segments; i++)
		for (uint32_t g = 0; g < HEADS; g++, out += n)
			memcpy(out, weights[kvmod_segment_at(r, i)->layer][g] + what->begin, n * sizeof(*out));
	return answer;
}

/* No two are equal; the largest are anywhere. */
static void setup(void)
{
	kv_undescribe(&cache);
	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	cache.request.reread = reread;
	answer = KVMOD_OK;
	n_asked = 0;
	for (uint32_t x = 0; x < LAYERS * HEADS * N; x++)
		(&weights[0][0][0])[x] = (float)(1 + x * 7919 % 9973) / 9974;
}

/* --- a decision -------------------------------------------------------------------------- */

static struct kvmod_plan *decide_with(const char *params, int32_t code)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	return fixture_decide(&kvmod_module_kvzip, "kvzip", params, &model, &cache.request, code);
}

static struct kvmod_plan *decide(const char *params)
{
	return decide_with(params, KVMOD_OK);
}

static uint64_t position(uint32_t l, uint32_t g, uint32_t i)
{
	const struct kvmod_head *head = &cache.heads[l * HEADS + g];

	return head->positions ? (uint64_t)head->positions[i] : i;
}

static bool keeps(const struct kvmod_plan *plan, uint32_t l, uint32_t g, uint64_t at)
{
	const struct kvmod_keep *keep = kvmod_keep_at(plan, l);

	ck_assert_uint_eq(keep->kind, KVMOD_KEEP_HEADS);
	for (uint32_t k = 0; k < keep->counts[g]; k++)
		if (position(l, g, keep->indices[g * keep->index_stride + k]) == at)
			return true;
	return false;
}

/* What a position is worth, by the rule. */
static float worth(uint32_t l, uint32_t g, uint64_t at, uint64_t sinks)
{
	if (at < sinks)
		return 2;
	return at < cache.request.opening ? 0 : weights[l][g][at];
}

/*
 * The plan keeps `n` of all cached positions, and each that it keeps is worth more than each
 * that it drops.
 */
static void check(struct kvmod_plan *plan, uint64_t n, uint64_t sinks)
{
	float least = INFINITY, most = -INFINITY;
	uint64_t n_kept = 0;

	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint32_t i = 0; i < cache.heads[l * HEADS + g].n; i++) {
				float is = worth(l, g, position(l, g, i), sinks);

				if (keeps(plan, l, g, position(l, g, i))) {
					least = fminf(least, is);
					n_kept++;
				} else {
					most = fmaxf(most, is);
				}
			}
	ck_assert_uint_eq(n_kept, n);
	ck_assert_float_gt(least, most);
	kvmod_plan_free(plan);
}

static void check_asked(unsigned i, uint64_t begin, uint64_t end, uint32_t sinks)
{
	ck_assert_uint_lt(i, n_asked);
	ck_assert_uint_eq(asked[i].begin, begin);
	ck_assert_uint_eq(asked[i].end, end);
	ck_assert_uint_eq(asked[i].sinks, sinks);
}

/* --- tests ----------------------------------------------------------------------------------- */

/* The budget is a share of all heads' positions together, rounded down once. */
START_TEST(largest_of_all)
{
	static const struct { const char *params; uint64_t n; } budgets[] = {
		{ "budget = 0.5", 150 }, { "budget = 0.333", 99 }, { "budget = 12%", 36 },
		{ "budget = 0.99", 297 }, { "budget = 9", 54 }, { "", 90 },
	};

	setup();
	check(decide(budgets[_i].params), budgets[_i].n, 4);
	ck_assert_uint_eq(n_asked, 1);
	check_asked(0, 0, N, 4);
}
END_TEST

/* The engine reads a chunk at a time, from the opening's end on. */
START_TEST(chunks)
{
	setup();
	cache.request.opening = 7;
	check(decide("chunk = 16"), 90, 4);
	ck_assert_uint_eq(n_asked, 3);
	check_asked(0, 7, 23, 4);
	check_asked(1, 23, 39, 4);
	check_asked(2, 39, N, 4);
	n_asked = 0;
	check(decide("chunk = 43\nsinks = 2"), 90, 2);
	ck_assert_uint_eq(n_asked, 1);
	check_asked(0, 7, N, 2);
	/* The same sets, however it is read. */
	n_asked = 0;
	cache.request.opening = 0;
	check(decide("chunk = 25"), 90, 4);
	ck_assert_uint_eq(n_asked, 2);
}
END_TEST

/* What the template wrote goes first, but for the sinks, from the newest on. */
START_TEST(opening_goes_first)
{
	struct kvmod_plan *plan;

	setup();
	cache.request.opening = 10;
	plan = decide("budget = 90%");		/* 270: 6 heads of 40, 4 sinks, and 6 more */
	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint64_t at = 0; at < N; at++)
				ck_assert_int_eq(keeps(plan, l, g, at), at <= 4 || at >= 10);
	kvmod_plan_free(plan);
	/* All of it is opening: nothing to read, and the oldest stay. */
	cache.request.opening = N + 3;
	n_asked = 0;
	plan = decide("budget = 20%");
	for (uint64_t at = 0; at < N; at++)
		ck_assert_int_eq(keeps(plan, 2, 1, at), at < 10);
	kvmod_plan_free(plan);
	ck_assert_uint_eq(n_asked, 0);
}
END_TEST

/* The newest position has no privilege, and a head may be left with its sinks. */
START_TEST(drops_the_newest)
{
	struct kvmod_plan *plan;

	setup();
	for (uint32_t i = 0; i < N; i++)
		weights[1][0][i] = 0;
	plan = decide("");
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->counts[0], 4);
	ck_assert(!keeps(plan, 1, 0, N - 1));
	check(plan, 90, 4);
	/* Without sinks, one position. */
	plan = decide("sinks = 0");
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->counts[0], 1);
	kvmod_plan_free(plan);
}
END_TEST

/*
 * After a first cut heads differ, and evicted positions stay evicted: the engine answers 0
 * there. The budget is of all tokens seen.
 */
START_TEST(second_turn)
{
	static int32_t positions[LAYERS * HEADS][N];

	setup();
	fixture_first_cut(cache.heads, LAYERS * HEADS, N, positions[0]);
	for (uint32_t h = 0; h < LAYERS * HEADS; h++)
		for (uint32_t i = 0; i < N; i++)
			if (!fixture_still_caches(h, i))
				weights[h / HEADS][h % HEADS][i] = 0;
	check(decide("chunk = 16"), 90, 4);
	ck_assert_uint_eq(n_asked, 4);
	check_asked(3, 48, N, 4);
	/* 50 + 32 + 26 + 23 + 22 + 20 cached, of 300 seen. */
	n_asked = 0;
	kvmod_plan_free(decide("budget = 60%"));
	ck_assert_uint_eq(n_asked, 0);
}
END_TEST

/* Nothing is read where nothing is cut. */
START_TEST(within_the_budget)
{
	struct kvmod_plan *plan;

	setup();
	cache.request.leave_below = N;
	plan = decide("");
	ck_assert_uint_eq(kvmod_keep_at(plan, 0)->kind, KVMOD_KEEP_ALL);
	kvmod_plan_free(plan);
	cache.request.leave_below = 20;		/* the least that a fraction buys */
	ck_assert_uint_eq(n_asked, 0);
	check(decide(""), 120, 4);
	plan = decide("budget = 100%");
	ck_assert_uint_eq(kvmod_keep_at(plan, 0)->kind, KVMOD_KEEP_ALL);
	kvmod_plan_free(plan);
	ck_assert_uint_eq(n_asked, 1);
}
END_TEST

START_TEST(raised_to_the_sinks)
{
	setup();
	check(decide("budget = 2"), 24, 4);
	ck_assert_ptr_nonnull(strstr(fixture_log, "a budget of 2 of 50 positions is below what is always "
				     "kept: raised to 4"));
}
END_TEST

static void stays_whole(int32_t code, const char *line)
{
	struct kvmod_plan *plan = decide_with("", code);

	for (uint32_t l = 0; l < LAYERS; l++) {
		ck_assert_uint_eq(kvmod_keep_at(plan, l)->kind, KVMOD_KEEP_ALL);
		ck_assert_int_eq(kvmod_keep_at(plan, l)->status, code);
	}
	ck_assert_str_eq(fixture_log, line);
	kvmod_plan_free(plan);
}

/* One line, and the cache stays whole. */
START_TEST(failures)
{
	setup();
	cache.request.reread = NULL;
	stays_whole(KVMOD_ENOTSUP,
		    "policy kvzip: its scores need an engine that can read the context again; "
		    "the cache stays whole\n");
	cache.request.reread = reread;
	answer = KVMOD_ERANGE;
	stays_whole(KVMOD_ERANGE, "policy kvzip: reread() failed: KVMOD_ERANGE; the cache stays whole\n");
	answer = KVMOD_OK;
	weights[2][1][30] = NAN;
	stays_whole(KVMOD_ENUMERIC, "policy kvzip: reread: layer 2: the engine's answer for KV head 1 is "
		    "nan, expected 0 or more; the cache stays whole\n");
}
END_TEST

/* It names no device of its own, reads no rows, and needs all layers. */
START_TEST(needs)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	assert_ok(fixture_open_with(ctx, &kvmod_module_kvzip, "kvzip", "", &model, &policy));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->what, KVMOD_NEED_ALL_LAYERS);
	ck_assert_double_eq(kvmod_policy_needs(policy)->rows.value, 0);
	ck_assert_str_eq(kvmod_policy_ops(policy)->devices, "*");
	ck_assert_uint_eq(kvmod_policy_ops(policy)->flags, KVMOD_POLICY_MAY_DROP_NEWEST);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kvzip");
	TCase *tc = tcase_create("kvzip");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_loop_test(tc, largest_of_all, 0, 6);
	tcase_add_test(tc, chunks);
	tcase_add_test(tc, opening_goes_first);
	tcase_add_test(tc, drops_the_newest);
	tcase_add_test(tc, second_turn);
	tcase_add_test(tc, within_the_budget);
	tcase_add_test(tc, raised_to_the_sinks);
	tcase_add_test(tc, failures);
	tcase_add_test(tc, needs);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
