/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy replay where the question comes later, on an engine that answers what a test says
 * when it reads again, is asked, or runs tokens again.
 */
#include "tests/fixture.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/run/describe.h"
#include "core/testkit/random.h"

extern const struct kvmod_module kvmod_module_replay, kvmod_module_contribution;

#define LAYERS 3u
#define HEADS 2u
#define GROUP 2u
#define N 50u
#define DIM 32u
#define ROWS 8u
#define SINKS 2u
#define WINDOW 3u
#define LEVELS 21u

#define PARAMS "sinks = 2\nwindow = 3\nrows = 8\npool = 1\nreplay_rows = 16\nloss = 0.5\n" \
	"later_loss = 0.25\n"

static const struct kv_shape shape = {
	.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = GROUP * HEADS, .n_kv_heads = HEADS,
	.head_dim = DIM, .type = KVMOD_F32,
};
static struct kv_described cache;

/* --- the engine ------------------------------------------------------------------------------- */

static float repeated[LAYERS][HEADS][N], answered[LAYERS][HEADS][N];	/* by tokens seen */
static struct kvmod_reread reread_parts[8];
static struct kvmod_ask asked;
static char question[256];
static char calls[64];			/* r(eread), a(sk), p(lay again) */
static int32_t reread_code, ask_code;
static double unit;			/* of loss, for each position that is dropped */

static void note(char call)
{
	size_t n = strlen(calls);

	ck_assert_uint_lt(n + 1, sizeof(calls));
	calls[n] = call;
}

/* Positions from begin to end of all heads. */
static void hand_out(float (*from)[HEADS][N], uint64_t begin, uint64_t end, float *out)
{
	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++, out += end - begin)
			memcpy(out, from[l][g] + begin, (end - begin) * sizeof(*out));
}

static int32_t reread(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	(void)r;
	ck_assert_uint_lt(strlen(calls), 8);
	reread_parts[strlen(calls)] = *what;
	note('r');
	hand_out(repeated, what->begin, what->end, out);
	return reread_code;
}

static int32_t ask(const struct kvmod_request *r, const struct kvmod_ask *what, float *out)
{
	(void)r;
	note('a');
	asked = *what;
	snprintf(question, sizeof(question), "%s", what->question);
	hand_out(answered, 0, N, out);
	return ask_code;
}

static uint32_t n_dropped(const struct kvmod_plan *plan)
{
	uint32_t n = 0;

	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			n += (uint32_t)(cache.heads[l * HEADS + g].n - kvmod_plan_count(&cache.request, plan, l, g));
	return n;
}

static int32_t replay(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t rows,
		      double *loss)
{
	(void)r;
	note('p');
	ck_assert_uint_eq(rows, 16);
	*loss = unit * n_dropped(plan);
	return KVMOD_OK;
}

/* --- the cache -------------------------------------------------------------------------------- */

static struct kv_random draws;

static void fill(float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = kv_random_normal(&draws);
}

static void describe_rows(void)
{
	static float k[LAYERS * HEADS][N * DIM], v[LAYERS * HEADS][N * DIM], q[LAYERS][ROWS * GROUP * HEADS * DIM];

	for (uint32_t h = 0; h < LAYERS * HEADS; h++) {
		fill(k[h], N * DIM);
		fill(v[h], N * DIM);
		cache.heads[h].k = kv_view(KVMOD_F32, k[h], DIM * sizeof(float), 0);
		cache.heads[h].v = kv_view(KVMOD_F32, v[h], DIM * sizeof(float), 0);
	}
	for (uint32_t l = 0; l < LAYERS; l++) {
		fill(q[l], sizeof(q[l]) / sizeof(float));
		kv_describe_queries(&cache.segments[l], q[l], ROWS);
	}
}

/* Weights of all sizes, each of its own; what repeats and what answers need is not the same. */
static void setup(void)
{
	draws = (struct kv_random){ 5 };
	kv_undescribe(&cache);
	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	describe_rows();
	cache.request.replay = replay;
	cache.request.reread = reread;
	cache.request.ask = ask;
	cache.request.question_later = 1;
	reread_code = ask_code = KVMOD_OK;
	memset(calls, 0, sizeof(calls));
	for (uint32_t x = 0; x < LAYERS * HEADS * N; x++) {
		(&repeated[0][0][0])[x] = exp2f(-11 * (float)(1 + x * 7919 % 9973) / 9974);
		(&answered[0][0][0])[x] = exp2f(-13 * (float)(1 + x * 6151 % 9967) / 9968);
	}
}

/* --- a decision ------------------------------------------------------------------------------- */

static struct kvmod_plan *decide_as(const struct kvmod_module *module, const char *params, int32_t code)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	memset(calls, 0, sizeof(calls));
	return fixture_decide(module, module->name, params, &model, &cache.request, code);
}

static struct kvmod_plan *decide(const char *params, int32_t code)
{
	char all[200];

	snprintf(all, sizeof(all), PARAMS "%s%s", strstr(params, "shortest") ? "" : "shortest = 0\n", params);
	return decide_as(&kvmod_module_replay, all, code);
}

static uint32_t position(uint32_t l, uint32_t g, uint32_t i)
{
	const struct kvmod_head *head = &cache.heads[l * HEADS + g];

	return head->positions ? (uint32_t)head->positions[i] : i;
}

/* Is index i of a head kept? */
static bool keeps(const struct kvmod_plan *plan, uint32_t l, uint32_t g, uint32_t i)
{
	const struct kvmod_keep *keep = kvmod_keep_at(plan, l);

	for (uint32_t k = 0; keep->kind == KVMOD_KEEP_HEADS && k < keep->counts[g]; k++)
		if (keep->indices[g * keep->index_stride + k] == i)
			return true;
	return keep->kind == KVMOD_KEEP_ALL;
}

static double level_at(uint32_t k)
{
	return k < LEVELS ? exp2(-0.5 * k) : 0;
}

/* The rule: what repeating needs, or what an answer does, whichever is more. */
static bool is_kept(uint32_t l, uint32_t g, uint32_t i, float weight, double level)
{
	uint32_t at = position(l, g, i), n = cache.heads[l * HEADS + g].n;
	float of_answer = weight * answered[l][g][at];
	float of_repetition = at < cache.request.opening ? 0 : repeated[l][g][at];

	return i < SINKS || i + WINDOW >= n || (double)fmaxf(of_answer, of_repetition) >= level;
}

static uint32_t dropped_at(float weight, double level)
{
	uint32_t n = 0;

	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint32_t i = 0; i < cache.heads[l * HEADS + g].n; i++)
				n += !is_kept(l, g, i, weight, level);
	return n;
}

static void check(struct kvmod_plan *plan, float weight, double level)
{
	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint32_t i = 0; i < cache.heads[l * HEADS + g].n; i++)
				ck_assert_int_eq(keeps(plan, l, g, i), is_kept(l, g, i, weight, level));
	kvmod_plan_free(plan);
}

static void check_part(uint32_t i, uint64_t begin, uint64_t end)
{
	ck_assert_uint_eq(reread_parts[i].begin, begin);
	ck_assert_uint_eq(reread_parts[i].end, end);
	ck_assert_uint_eq(reread_parts[i].sinks, SINKS);
}

/* --- where the question comes later ----------------------------------------------------------- */

/* The highest level that loses little enough, whichever that is, for each weight of an answer. */
START_TEST(largest_of_both)
{
	static const struct { const char *params; float weight; } weights[] = {
		{ "", 3 }, { "answer_weight = 0", 0 }, { "answer_weight = 1", 1 }, { "answer_weight = 40", 40 },
	};

	setup();
	for (size_t w = 0; w < sizeof(weights) / sizeof(*weights); w++) {
		for (uint32_t k = 0; k <= LEVELS; k++) {
			uint32_t n = dropped_at(weights[w].weight, level_at(k));

			if (k && n == dropped_at(weights[w].weight, level_at(k - 1)))
				continue;	/* a higher level does as well */
			unit = n ? 0.25 / n : 1;
			check(decide(weights[w].params, KVMOD_OK), weights[w].weight, level_at(k));
			ck_assert_int_eq(strncmp(calls, "rap", 3), 0);
			ck_assert_uint_eq(strspn(calls + 2, "p"), strlen(calls) - 2);
		}
	}
}
END_TEST

/* The context is read again a chunk at a time, from the opening's end on, and asked once. */
START_TEST(what_is_asked)
{
	setup();
	cache.request.opening = 7;
	unit = 0.25 / dropped_at(3, level_at(5));
	check(decide("chunk = 16", KVMOD_OK), 3, level_at(5));
	ck_assert_int_eq(strncmp(calls, "rrrap", 5), 0);
	check_part(0, 7, 23);
	check_part(1, 23, 39);
	check_part(2, 39, N);
	ck_assert_uint_eq(asked.n_answer, 16);
	ck_assert_ptr_nonnull(strstr(question, "the text above?"));
	/* All of it is the opening: nothing is repeated, and an answer counts. */
	cache.request.opening = N + 3;
	unit = 0.25 / dropped_at(3, level_at(9));
	check(decide("", KVMOD_OK), 3, level_at(9));
	ck_assert_int_eq(strncmp(calls, "ap", 2), 0);
}
END_TEST

/* After a first cut heads differ, and what they cache is known by its positions. */
START_TEST(second_turn)
{
	static int32_t positions[LAYERS * HEADS][N];

	setup();
	fixture_first_cut(cache.heads, LAYERS * HEADS, N, positions[0]);
	unit = 0.25 / dropped_at(3, level_at(4));
	check(decide("chunk = 20", KVMOD_OK), 3, level_at(4));
	ck_assert_int_eq(strncmp(calls, "rrrap", 5), 0);
}
END_TEST

/* A short sequence, of which all is kept, is neither read again nor asked. */
START_TEST(short_sequences)
{
	struct kvmod_plan *plan;

	setup();
	plan = decide("shortest = 50", KVMOD_OK);
	ck_assert_uint_eq(n_dropped(plan), 0);
	ck_assert_str_eq(calls, "");
	kvmod_plan_free(plan);
}
END_TEST

/* More sinks than there are tokens are no reason to fail. */
START_TEST(all_sinks)
{
	struct kvmod_plan *plan;

	setup();
	unit = 1;
	plan = decide_as(&kvmod_module_replay, "shortest = 0\nsinks = 60\nrows = 8\nreplay_rows = 16", KVMOD_OK);
	ck_assert_str_eq(fixture_log, "");
	ck_assert_uint_eq(n_dropped(plan), 0);
	for (uint32_t l = 0; l < LAYERS; l++)
		ck_assert_int_eq(kvmod_keep_at(plan, l)->status, KVMOD_OK);
	kvmod_plan_free(plan);
}
END_TEST

/* --- where it does not, or the engine lacks a service ----------------------------------------- */

static void check_same(const struct kvmod_plan *a, const struct kvmod_plan *b)
{
	for (uint32_t l = 0; l < LAYERS; l++)
		for (uint32_t g = 0; g < HEADS; g++)
			for (uint32_t i = 0; i < N; i++)
				ck_assert_int_eq(keeps(a, l, g, i), keeps(b, l, g, i));
}

/* What the policy contribution keeps at a level. */
static struct kvmod_plan *by_contribution(double level)
{
	char params[100];

	snprintf(params, sizeof(params), "sinks = 2\nwindow = 3\nrows = 8\npool = 1\nlevel = %.17g", level);
	return decide_as(&kvmod_module_contribution, params, KVMOD_OK);
}

START_TEST(ranks_by_contribution)
{
	struct kvmod_plan *expected, *plan;
	uint32_t k = 7;

	setup();
	if (_i == 0)
		cache.request.question_later = 0;
	else if (_i == 1)
		cache.request.reread = NULL;
	else if (_i == 2)
		cache.request.ask = NULL;
	/* The highest level that drops no more than this one. */
	expected = by_contribution(level_at(k));
	ck_assert_uint_gt(n_dropped(expected), 20);
	ck_assert_uint_lt(n_dropped(expected), 250);
	unit = 0.5 / n_dropped(expected);
	for (; k > 0; k--) {
		struct kvmod_plan *higher = by_contribution(level_at(k - 1));
		uint32_t more = n_dropped(higher) - n_dropped(expected);

		kvmod_plan_free(higher);
		if (more)
			break;
	}
	plan = decide("", KVMOD_OK);
	check_same(plan, expected);
	ck_assert_uint_gt(strlen(calls), 0);
	ck_assert_uint_eq(strspn(calls, "p"), strlen(calls));
	kvmod_plan_free(plan);
	kvmod_plan_free(expected);
}
END_TEST

/* Where nothing can be measured, nothing is asked, and the level is that of the configuration. */
START_TEST(without_replay)
{
	struct kvmod_plan *expected, *plan;

	setup();
	cache.request.replay = NULL;
	expected = by_contribution(0.06);
	plan = decide("level = 0.06", KVMOD_OK);
	ck_assert_uint_gt(n_dropped(plan), 0);
	check_same(plan, expected);
	ck_assert_str_eq(calls, "");
	ck_assert_ptr_nonnull(strstr(fixture_log, "the host cannot replay tokens: every score of at least "
				     "0.06 is kept"));
	kvmod_plan_free(plan);
	kvmod_plan_free(expected);
}
END_TEST

/* --- failures --------------------------------------------------------------------------------- */

static void stays_whole(int32_t code, const char *after, const char *line)
{
	struct kvmod_plan *plan = decide("", code);

	for (uint32_t l = 0; l < LAYERS; l++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, l);

		ck_assert_uint_eq(keep->kind, KVMOD_KEEP_ALL);
		ck_assert_int_eq(keep->status, code);
		ck_assert_uint_eq(keep->k_store, KVMOD_STORE_SAME);
		ck_assert_uint_eq(keep->v_store, KVMOD_STORE_SAME);
	}
	ck_assert_str_eq(calls, after);
	ck_assert_str_eq(fixture_log, line);
	kvmod_plan_free(plan);
}

/* One line, and the cache stays whole as it is. */
START_TEST(failures)
{
	setup();
	ask_code = KVMOD_ERANGE;
	stays_whole(KVMOD_ERANGE, "ra", "policy replay: ask() failed: KVMOD_ERANGE; the cache stays whole\n");
	ask_code = KVMOD_OK;
	answered[2][1][30] = NAN;
	stays_whole(KVMOD_ENUMERIC, "ra", "policy replay: ask: layer 2: the engine's answer for KV head 1 is "
		    "nan, expected 0 or more; the cache stays whole\n");
	reread_code = KVMOD_ENOMEM;
	stays_whole(KVMOD_ENOMEM, "r", "policy replay: reread() failed: KVMOD_ENOMEM; the cache stays whole\n");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("replay");
	TCase *tc = tcase_create("replay");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_test(tc, largest_of_both);
	tcase_add_test(tc, what_is_asked);
	tcase_add_test(tc, second_turn);
	tcase_add_test(tc, short_sequences);
	tcase_add_test(tc, all_sinks);
	tcase_add_loop_test(tc, ranks_by_contribution, 0, 3);
	tcase_add_test(tc, without_replay);
	tcase_add_test(tc, failures);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
