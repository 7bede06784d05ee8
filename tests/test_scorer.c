/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scorers: each way to select against sets made by hand, what goes with them, and
 * scores that are no numbers.
 */
#define KVMOD_MODULE_SYMBOL scorers_module
#include "tests/fixture.h"

#include <math.h>
#include <string.h>

#include <kvmod/scorer.h>

#include "core/run/describe.h"

#define LAYERS 2u
#define HEADS 2u
#define N 8u

/* --- the scorers -------------------------------------------------------------------- */

static float table[LAYERS][HEADS][N];
static int32_t answer;			/* of score(); with a reason if it is KVMOD_EDEVICE */

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	const struct kvmod_scorer *scorer = self;

	ck_assert_uint_eq(head->n, N);
	ck_assert_uint_eq(head->m, head->n - scorer->window);
	ck_assert_uint_eq(head->group, 2);
	ck_assert_ptr_eq(head->head, kvmod_head_at(head->segment, head->g));
	memcpy(out, table[head->segment->layer][head->g], head->m * sizeof(*out));
	if (answer == KVMOD_EDEVICE)
		return head->kit->fail(head, answer, "the moon is %s", "full");
	return answer;
}

/* It uses all the scratch that it asked for. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	(void)self;
	return 1000 + request->n_segments;
}

static int32_t score_with_scratch(const void *self, const struct kvmod_task *head, float *out)
{
	ck_assert_uint_eq((uintptr_t)head->scratch % 64, 0);
	for (uint32_t i = 0; i < 1000 + LAYERS; i++)
		head->scratch[i] = NAN;
	return score(self, head, out);
}

#define USUAL(P, owner) \
	KVMOD_P_BUDGET(P, owner, "4") \
	KVMOD_P_SINKS(P, owner, "1") \
	KVMOD_P_WINDOW(P, owner, "2") \
	KVMOD_P_WHOLE_LAYERS(P, owner, "0") \
	KVMOD_P_POOL(P, owner, "1") \
	KVMOD_P_POOLING(P, owner, "max") \
	KVMOD_P_DECODE_EVERY(P, owner, "17")
#define LEVEL(P, owner) \
	KVMOD_P_SINKS(P, owner, "1") \
	KVMOD_P_WINDOW(P, owner, "2") \
	KVMOD_P_LEVEL(P, owner, "0.5")
#define BARE(P, owner) \
	KVMOD_P_BUDGET(P, owner, "2")
#define BARE_LEVEL(P, owner) \
	KVMOD_P_LEVEL(P, owner, "1e30")
#define NOTHING(P, owner) \
	KVMOD_P_SINKS(P, owner, "0")

KVMOD_SCORER_POLICY(by_head, struct kvmod_scorer, USUAL, "", "cpu", .score = score)
KVMOD_SCORER_POLICY(by_layer, struct kvmod_scorer, USUAL, "", "cpu",
		    .score = score, .select = KVMOD_PER_LAYER)
KVMOD_SCORER_POLICY(by_request, struct kvmod_scorer, USUAL, "", "cpu",
		    .score = score_with_scratch, .select = KVMOD_PER_REQUEST, .floats = floats)
KVMOD_SCORER_POLICY(by_set, struct kvmod_scorer, USUAL, "", "cpu",
		    .score = score, .select = KVMOD_ONE_SET)
KVMOD_SCORER_POLICY(by_level, struct kvmod_scorer, LEVEL, "", "cpu",
		    .score = score, .select = KVMOD_ABOVE_LEVEL)
KVMOD_SCORER_POLICY(bare, struct kvmod_scorer, BARE, "", "cpu",
		    .score = score, .select = KVMOD_PER_LAYER)
KVMOD_SCORER_POLICY(bare_level, struct kvmod_scorer, BARE_LEVEL, "", "cpu",
		    .score = score, .select = KVMOD_ABOVE_LEVEL)

static void share(const void *self, uint64_t own, uint32_t n_heads, uint32_t *counts)
{
	(void)self;
	ck_assert_uint_eq(own, 1);
	ck_assert_uint_eq(n_heads, HEADS);
	/* The heaviest two of both heads; more than the first one has. */
	ck_assert_uint_eq(counts[0] + counts[1], 2);
	counts[0] = 5 + 2;
	counts[1] = 1;
}

KVMOD_SCORER_POLICY(shared, struct kvmod_scorer, USUAL, "", "cpu",
		    .score = score, .select = KVMOD_PER_LAYER, .share = share)

/* Every other position, by hand. */
static int32_t keep(const void *self, const struct kvmod_task *head)
{
	static const uint32_t even[] = { 6, 0, 2, 4 };

	ck_assert_ptr_nonnull(self);
	return head->kit->keep_listed(head, even, answer ? 9 : 4);
}

static int32_t while_decoding(const void *self, const struct kvmod_request *request)
{
	ck_assert_ptr_nonnull(self);
	return request->phase == KVMOD_DECODE;
}

KVMOD_SCORER_POLICY(late, struct kvmod_scorer, USUAL, "", "cpu",
		    .score = score, .cuts = while_decoding)

#define BY_HAND(P, owner) \
	KVMOD_P_WHOLE_LAYERS(P, owner, "1") \
	KVMOD_P_DECODE_EVERY(P, owner, "5")
KVMOD_SCORER_POLICY(no_probes, struct kvmod_scorer, BY_HAND, "", "cpu",
		    .rows = KVMOD_ROWS_OF_WINDOW, .keep = keep)
KVMOD_SCORER_POLICY(by_hand, struct kvmod_scorer, BY_HAND, "", "cpu", .keep = keep)

/* A rule with a budget, that always keeps the sinks and the last half of a head. */
static uint32_t half(const void *self, uint32_t n)
{
	ck_assert_int_eq(((const struct kvmod_scorer *)self)->sinks, 1);
	return 1 + n / 2;
}

static int32_t keep_half(const void *self, const struct kvmod_task *head)
{
	const struct kvmod_scorer *scorer = self;
	uint64_t c = kvmod_budget_at_least(head->request, head->segment, &scorer->budget,
					   half(self, head->n));

	ck_assert_uint_lt(c, head->n);
	head->kit->keep_heaviest(head, table[head->segment->layer][head->g], head->n / 2,
				 (uint32_t)c - head->n / 2);
	return KVMOD_OK;
}

#define HALF(P, owner) \
	KVMOD_P_BUDGET(P, owner, "6") \
	KVMOD_P_SINKS(P, owner, "1")
KVMOD_SCORER_POLICY(by_half, struct kvmod_scorer, HALF, "", "cpu", .keep = keep_half, .least = half)
KVMOD_SCORER_POLICY(half_no_keep, struct kvmod_scorer, HALF, "", "cpu", .score = score, .least = half)
KVMOD_SCORER_POLICY(half_no_budget, struct kvmod_scorer, NOTHING, "", "cpu", .keep = keep_half,
		    .least = half)

/* Rows that were not asked for, by the calls that return nothing and by attention. */
static int32_t score_unasked(const void *self, const struct kvmod_task *head, float *out)
{
	uint32_t dim = head->segment->head_dim;
	float row[256], *parts[4] = { row, row + 64, row + 128, row + 192 };
	const struct kvmod_stats stats = {
		.size = sizeof(stats), .mean = parts[0], .variance = parts[1], .smallest = parts[2],
		.largest = parts[3],
	};

	(void)self;
	ck_assert_uint_le(dim, 64);
	head->kit->stats(&head->head->v, dim, 0, head->n, &stats);
	for (int i = 0; i < 4; i++)
		ck_assert_float_nan(parts[i][dim - 1]);
	head->kit->sum(&head->head->v, dim, 0, head->n, NULL, row);
	ck_assert_float_nan(row[dim - 1]);
	head->kit->rows(&head->head->v, dim, 0, 1, row, dim);
	ck_assert_float_nan(row[dim - 1]);
	memset(row, 0, sizeof(row));
	head->kit->dots(&head->head->v, dim, 0, head->m, row, 1, out, head->m);
	ck_assert_float_nan(out[head->m - 1]);
	head->kit->norms(&head->head->v, dim, 0, head->m, out);
	return KVMOD_OK;
}

static int32_t score_blind(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	return head->kit->mean_attention(head, 1, head->m, out);
}

static int32_t score_lazy(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	for (uint32_t i = 0; i + 1 < head->m; i++)
		out[i] = 1;
	return KVMOD_OK;
}

KVMOD_SCORER_POLICY(unasked, struct kvmod_scorer, BARE, "", "cpu", .score = score_unasked)
KVMOD_SCORER_POLICY(blind, struct kvmod_scorer, BARE, "", "cpu", .score = score_blind)
KVMOD_SCORER_POLICY(lazy, struct kvmod_scorer, BARE, "", "cpu", .score = score_lazy)

/* What an author may have got wrong. */
KVMOD_SCORER_POLICY(no_budget, struct kvmod_scorer, NOTHING, "", "cpu", .score = score)
KVMOD_SCORER_POLICY(no_level, struct kvmod_scorer, USUAL, "", "cpu",
		    .score = score, .select = KVMOD_ABOVE_LEVEL)
KVMOD_SCORER_POLICY(no_window, struct kvmod_scorer, BARE, "", "cpu",
		    .score = score, .rows = KVMOD_ROWS_OF_WINDOW)
KVMOD_SCORER_POLICY(no_layer, struct kvmod_scorer, BARE, "", "cpu",
		    .score = score, .share = share)
KVMOD_SCORER_POLICY(no_score, struct kvmod_scorer, BARE, "", "cpu", .what = KVMOD_NEED_K)
KVMOD_SCORER_POLICY(no_such, struct kvmod_scorer, BARE, "", "cpu",
		    .score = score, .select = 99)

/* What all heads need, made once: 10 times the layer; or a failure. */
static unsigned n_prepared;

static size_t prepared_floats(const void *self, const struct kvmod_request *request)
{
	(void)self;
	return request->n_segments;
}

static int32_t prepare(const void *self, const struct kvmod_request *request, float *memory)
{
	const struct kvmod_host *host = ((const struct kvmod_scorer *)self)->instance.host;

	n_prepared++;
	for (uint32_t i = 0; i < request->n_segments; i++)
		memory[i] = 10.0f * (float)request->segments[i]->layer;
	return answer ? host->fail(host->ctx, answer, "it is too late") : KVMOD_OK;
}

/* The newer of two, and the higher layer. */
static int32_t score_prepared(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = head->prepared[head->i] + (float)i;
	return KVMOD_OK;
}

KVMOD_SCORER_POLICY(prepared_alone, struct kvmod_scorer, USUAL, "", "cpu", .score = score_prepared,
		    .prepare = prepare, .prepared_floats = prepared_floats)
KVMOD_SCORER_POLICY(prepared, struct kvmod_scorer, USUAL, "", "cpu", .score = score_prepared,
		    .select = KVMOD_PER_REQUEST, .prepare = prepare, .prepared_floats = prepared_floats)
KVMOD_SCORER_POLICY(no_floats, struct kvmod_scorer, BARE, "", "cpu", .score = score_prepared,
		    .prepare = prepare)

/* An author's own parameter, check and queries. */
struct own {
	struct kvmod_scorer scorer;
	double alpha;
};
#define OWN(P, owner) \
	KVMOD_P_BUDGET(P, owner, "4") \
	KVMOD_P_WINDOW(P, owner, "3") \
	P(owner, struct own, alpha, REAL, "0.25", "0..1", "of the author's own")

static int32_t open_own(void *self, const struct kvmod_model *model)
{
	const struct kvmod_host *host = ((struct kvmod_instance *)self)->host;

	(void)model;
	if (((struct own *)self)->alpha == 0.25)
		return KVMOD_OK;
	return host->fail(host->ctx, KVMOD_EINVAL, "alpha is wrong");
}

static int32_t needs_own(const void *self, struct kvmod_needs *needs)
{
	const struct own *own = self;

	ck_assert_double_eq(needs->rows.value, 3);
	ck_assert_uint_eq(needs->what, KVMOD_NEED_K | KVMOD_NEED_V);
	needs->q_stats_skip = (uint32_t)own->scorer.window + 8;
	needs->min_rows = own->alpha == 0.25;
	return KVMOD_OK;
}

static int32_t needs_nothing(const void *self, struct kvmod_needs *needs)
{
	const struct kvmod_host *host = ((const struct kvmod_instance *)self)->host;

	(void)needs;
	return host->fail(host->ctx, KVMOD_ENOTSUP, "it is in want of nothing");
}

KVMOD_SCORER_POLICY(own, struct own, OWN, "", "cpu", .score = score,
		    .what = KVMOD_NEED_K | KVMOD_NEED_V, .rows = KVMOD_ROWS_OF_WINDOW,
		    .open = open_own, .needs = needs_own)
KVMOD_SCORER_POLICY(modest, struct own, OWN, "", "cpu", .score = score, .needs = needs_nothing)

static int32_t scorers_init(const struct kvmod_host *host)
{
	int32_t (*const all[])(const struct kvmod_host *) = {
		by_head_init, by_layer_init, by_request_init, by_level_init, bare_init,
		bare_level_init, shared_init, by_hand_init, no_budget_init, no_level_init, no_window_init,
		no_probes_init, no_layer_init, no_score_init, no_such_init, own_init, unasked_init, blind_init,
		lazy_init, by_set_init, late_init, prepared_alone_init, prepared_init, no_floats_init,
		modest_init, by_half_init, half_no_keep_init, half_no_budget_init,
	};
	int32_t err = KVMOD_OK;

	for (size_t i = 0; i < sizeof(all) / sizeof(*all) && err == KVMOD_OK; i++)
		err = all[i](host);
	return err;
}

KVMOD_MODULE("scorers", "1", "Apache-2.0", "", "", 0, scorers_init, NULL);

/* --- a request, a decision --------------------------------------------------------------- */

static const struct kv_shape shape = {
	.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = 2 * HEADS, .n_kv_heads = HEADS,
	.head_dim = 4,
};
static struct kv_described cache;

static void setup(const float scores[LAYERS][HEADS][N])
{
	memcpy(table, scores, sizeof(table));
	answer = KVMOD_OK;
	kv_undescribe(&cache);
	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
}

static int open_policy(struct kvmod_ctx *ctx, const char *name, const char *params,
		       struct kvmod_policy **policy)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	return fixture_open_with(ctx, &scorers_module, name, params, &model, policy);
}

/* One decision of a policy that was opened for it. */
static struct kvmod_plan *decide_with(const char *name, const char *params, int32_t code)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	return fixture_decide(&scorers_module, name, params, &model, &cache.request, code);
}

static struct kvmod_plan *decide(const char *name, const char *params)
{
	return decide_with(name, params, KVMOD_OK);
}

/* What a head keeps: "0267"; "whole" if its segment is. */
static const char *kept(const struct kvmod_plan *plan, uint32_t i, uint32_t g)
{
	static char text[N + 8];
	const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

	if (keep->kind == KVMOD_KEEP_ALL)
		return "whole";
	for (uint32_t k = 0; k < keep->counts[g]; k++)
		text[k] = (char)('0' + keep->indices[g * keep->index_stride + k]);
	text[keep->counts[g]] = '\0';
	return text;
}

static void assert_kept(const char *name, const char *params, const char *const expected[4])
{
	struct kvmod_plan *plan = decide(name, params);

	for (uint32_t i = 0; i < LAYERS; i++)
		for (uint32_t g = 0; g < HEADS; g++)
			ck_assert_msg(strcmp(kept(plan, i, g), expected[i * HEADS + g]) == 0,
				      "%s, layer %u, head %u: kept %s, expected %s", name, i, g,
				      kept(plan, i, g), expected[i * HEADS + g]);
	kvmod_plan_free(plan);
}

/* The sink's score, 9, has no part in the choice, and equal ones are there twice. */
static const float some[LAYERS][HEADS][N] = {
	{ { 9, .1f, .9f, .3f, .8f, .2f }, { 9, .7f, .1f, .1f, .1f, .7f } },
	{ { 9, .05f, .04f, .03f, .02f, .01f }, { 9, .95f, .6f, .6f, .6f, .1f } },
};

/* --- the tests -------------------------------------------------------------------------------- */

/* budget 4, 1 sink, 2 in the window: each head's own budget is 1 of positions 1 to 5. */
START_TEST(each_way_to_select)
{
	setup(some);
	assert_kept("by_head", "", (const char *[]){ "0267", "0167", "0167", "0167" });
	assert_kept("by_layer", "", (const char *[]){ "02467", "067", "067", "01267" });
	assert_kept("by_request", "", (const char *[]){ "02467", "0167", "067", "0167" });
	assert_kept("by_level", "", (const char *[]){ "02467", "01567", "067", "0123467" });
	/* Sums of the heads: .8, 1.0, .4, .9, .9, and 1.0, .64, .63, .62, .11. */
	assert_kept("by_set", "", (const char *[]){ "0267", "0267", "0167", "0167" });
	assert_kept("by_set", "budget = 6",
		    (const char *[]){ "024567", "024567", "012367", "012367" });
}
END_TEST

/* Fractions are of the tokens seen. */
START_TEST(budgets)
{
	setup(some);
	assert_kept("by_head", "budget = 0.5", (const char *[]){ "0267", "0167", "0167", "0167" });
	assert_kept("by_head", "budget = 63%", (const char *[]){ "02467", "01567", "01267", "01267" });
	assert_kept("by_head", "budget = 8", (const char *[]){ "whole", "whole", "whole", "whole" });
	assert_kept("by_layer", "budget = 8", (const char *[]){ "whole", "whole", "whole", "whole" });
	assert_kept("by_request", "budget = 8", (const char *[]){ "whole", "whole", "whole", "whole" });
	/* A fraction of all 32 is rounded once: 20 and 21; each head's would be 5, 20 in all. */
	assert_kept("by_request", "budget = 63%", (const char *[]){ "02467", "01567", "067", "0123467" });
	assert_kept("by_request", "budget = 66%", (const char *[]){ "023467", "01567", "067", "0123467" });
	/* 16 of 20 ranked positions: the least four go, whoever has them. */
	assert_kept("by_request", "budget = 7",
		    (const char *[]){ "01234567", "01234567", "0167", "01234567" });
}
END_TEST

START_TEST(layers_left_whole)
{
	setup(some);
	assert_kept("by_head", "whole_layers = 1", (const char *[]){ "whole", "whole", "0167", "0167" });
	assert_kept("by_layer", "whole_layers = 1,", (const char *[]){ "02467", "067", "whole", "whole" });
	/* Its budget is not the others'. */
	assert_kept("by_request", "whole_layers = 1",
		    (const char *[]){ "whole", "whole", "067", "01267" });
}
END_TEST

/* The largest of three: position 2 is as good as 3, and older. */
START_TEST(pooled)
{
	static const float peak[LAYERS][HEADS][N] = {
		{ { 0, .1f, .2f, .9f, .2f, .1f }, { 0, 0, 0, 0, 0, .5f } },
		{ { .9f, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 } },
	};

	setup(peak);
	/* A sink's score counts for those beside it. */
	assert_kept("by_head", "pool = 3", (const char *[]){ "0267", "0467", "0167", "0167" });
	assert_kept("by_head", "pool = 3\npooling = average",
		    (const char *[]){ "0367", "0467", "0167", "0167" });
}
END_TEST

START_TEST(raised_once)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;
	const char *said;

	setup(some);
	assert_kept("by_layer", "budget = 1", (const char *[]){ "067", "067", "067", "067" });
	assert_ok(open_policy(ctx, "by_head", "budget = 1", &policy));
	assert_ok(kvmod_plan_new(&cache.request, &plan));
	for (int i = 0; i < 3; i++)
		assert_ok(kvmod_decide(policy, &cache.request, plan));
	ck_assert_str_eq(kept(plan, 1, 1), "067");
	said = strstr(fixture_log, "a budget of 1 of 8 positions is below what is always kept: "
		      "raised to 3");
	ck_assert_msg(said, "%s", fixture_log);
	ck_assert_ptr_null(strstr(said + 1, "a budget of"));
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* Without sinks and window; a head may drop its newest position, but not all. */
START_TEST(one_at_least)
{
	setup(some);
	/* Layer 0: 9 of each head, .9 and .8; layer 1: 9 of each head, .95 and a .6. */
	assert_kept("bare", "", (const char *[]){ "024", "0", "0", "012" });
	table[0][1][0] = table[1][0][0] = -1;
	assert_kept("bare", "", (const char *[]){ "024", "1", "1", "0123" });
	assert_kept("bare_level", "", (const char *[]){ "0", "1", "1", "0" });
}
END_TEST

START_TEST(shared_the_author_s_way)
{
	setup(some);
	/* 7 and 1 were given; the first has 5, and 2 go on to the second. */
	assert_kept("shared", "", (const char *[]){ "01234567", "012567", "01234567", "012367" });
}
END_TEST

START_TEST(kept_by_hand)
{
	struct kvmod_plan *plan;

	setup(some);
	assert_kept("by_hand", "", (const char *[]){ "whole", "whole", "0246", "0246" });
	answer = 1;
	plan = decide("by_hand", "");
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "9 positions listed of 8"), "%s", fixture_log);
	kvmod_plan_free(plan);
}
END_TEST

/* Once for a decision, and only if there is one. */
START_TEST(prepared_first)
{
	struct kvmod_plan *plan;

	setup(some);
	n_prepared = 0;
	assert_kept("prepared_alone", "", (const char *[]){ "0567", "0567", "0567", "0567" });
	ck_assert_uint_eq(n_prepared, 1);
	assert_kept("prepared", "", (const char *[]){ "067", "067", "04567", "04567" });
	ck_assert_uint_eq(n_prepared, 2);
	assert_kept("prepared", "budget = 8", (const char *[]){ "whole", "whole", "whole", "whole" });
	assert_kept("prepared_alone", "budget = 1.0", (const char *[]){ "whole", "whole", "whole", "whole" });
	assert_kept("prepared_alone", "whole_layers = 2", (const char *[]){ "whole", "whole", "whole", "whole" });
	ck_assert_uint_eq(n_prepared, 2);
	answer = KVMOD_EBUSY;
	plan = decide_with("prepared", "", KVMOD_EBUSY);
	ck_assert_str_eq(kept(plan, 0, 0), "whole");
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EBUSY);
	ck_assert_ptr_nonnull(strstr(fixture_log, "it is too late"));
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(kept_by_hand_within_a_budget)
{
	setup(some);
	assert_kept("by_half", "", (const char *[]){ "024567", "014567", "014567", "014567" });
	assert_kept("by_half", "budget = 25%", (const char *[]){ "04567", "04567", "04567", "04567" });
	ck_assert_msg(strstr(fixture_log, "a budget of 2 of 8 positions is below what is always kept: "
			     "raised to 5"), "%s", fixture_log);
	assert_kept("by_half", "budget = 8", (const char *[]){ "whole", "whole", "whole", "whole" });
}
END_TEST

static void assert_failed(const char *name, int32_t code, const char *words)
{
	struct kvmod_plan *plan = decide(name, "");

	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, code);
	ck_assert_str_eq(kept(plan, 1, 0), "whole");
	ck_assert_msg(strstr(fixture_log, words), "%s: expected `%s`, got: %s", name, words, fixture_log);
	kvmod_plan_free(plan);
}

/* NaN or infinity fails the segment, alone, and the head is named. */
START_TEST(scores_that_are_not_finite)
{
	static const char *const names[] = { "by_head", "by_layer", "by_request", "by_level" };
	static const char *const left[] = { "0267", "02467", "02467", "02467" };
	static const float bad[] = { NAN, INFINITY, -INFINITY };

	for (int i = 0; i < 12; i++) {
		struct kvmod_plan *plan;

		setup(some);
		table[1][1][3] = bad[i / 4];
		assert_failed(names[i % 4], KVMOD_ENUMERIC,
			      "layer 1: KV head 1: the score of position 3 is not finite");
		plan = decide(names[i % 4], "");
		ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
		ck_assert_str_eq(kept(plan, 0, 0), left[i % 4]);
		kvmod_plan_free(plan);
	}
	/* Each is finite, but not their sum. */
	setup(some);
	table[1][0][3] = table[1][1][3] = 3e38f;
	assert_failed("by_set", KVMOD_ENUMERIC, "layer 1: KV head 0: the score of position 3 is not finite");
	/* What is not scored is not looked at. */
	setup(some);
	table[1][1][6] = NAN;
	assert_kept("by_head", "", (const char *[]){ "0267", "0167", "0167", "0167" });
}
END_TEST

/* Indices of one list would name other positions in each head. */
START_TEST(one_set_of_unequal_heads)
{
	struct kvmod_plan *plan;

	setup(some);
	cache.heads[2 + 1].n = N - 1;
	assert_failed("by_set", KVMOD_ENOTSUP, "its KV heads hold different numbers of positions, and "
		      "by_set keeps one set a layer");
	plan = decide("by_set", "");
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	ck_assert_str_eq(kept(plan, 0, 1), "0267");
	kvmod_plan_free(plan);
	/* A layer that is kept whole needs no set. */
	plan = decide("by_set", "whole_layers = 2");
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, 0);
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(cuts_when_it_likes)
{
	setup(some);
	assert_kept("late", "", (const char *[]){ "whole", "whole", "whole", "whole" });
	cache.request.phase = KVMOD_DECODE;
	assert_kept("late", "", (const char *[]){ "0267", "0167", "0167", "0167" });
}
END_TEST

/* Each is finite, but their sum is not. */
START_TEST(pooled_beyond_all_numbers)
{
	struct kvmod_plan *plan;

	setup(some);
	for (uint32_t i = 0; i < N; i++)
		table[1][0][i] = 3e38f;
	plan = decide("by_head", "pool = 3\npooling = average");
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_ENUMERIC);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(scores_that_fail)
{
	setup(some);
	answer = KVMOD_EDEVICE;
	assert_failed("by_head", KVMOD_EDEVICE, "the moon is full");
	assert_failed("by_request", KVMOD_EDEVICE, "the moon is full");
	answer = KVMOD_EIO;
	assert_failed("by_layer", KVMOD_EIO, "it failed, and did not say why");
	/* No code of ours, and yet no success. */
	answer = 42;
	assert_failed("by_level", KVMOD_EINVAL, "it failed, and did not say why");
}
END_TEST

START_TEST(what_was_not_asked_for)
{
	setup(some);
	assert_failed("unasked", KVMOD_ENUMERIC, "the score of position 0 is not finite (K and V were not "
		      "asked for)");
	assert_failed("blind", KVMOD_EINVAL, "its segment has no keys: a policy's needs ask for them with "
		      "KVMOD_NEED_K");
	assert_failed("lazy", KVMOD_ENUMERIC, "is not finite");
}
END_TEST

START_TEST(what_authors_may_forget)
{
	static const char *const cases[][2] = {
		{ "no_budget", "policy no_budget: the scorer no_budget lacks the parameter `budget`" },
		{ "no_level", "policy no_level: the scorer no_level lacks the parameter `level`" },
		{ "no_window", "policy no_window: the scorer no_window lacks the parameter `window`" },
		{ "no_probes", "policy no_probes: the scorer no_probes lacks the parameter `window`" },
		{ "no_layer", "policy no_layer: the scorer no_layer lacks KVMOD_PER_LAYER, which share() needs" },
		{ "no_score", "policy no_score: the scorer no_score lacks score() or keep()" },
		{ "no_floats", "policy no_floats: the scorer no_floats lacks prepared_floats(), which "
		  "prepare() needs" },
		{ "no_such", "policy no_such: the scorer no_such lacks a known way to select" },
		{ "half_no_keep",
		  "policy half_no_keep: the scorer half_no_keep lacks keep(), which least() needs" },
		{ "half_no_budget",
		  "policy half_no_budget: the scorer half_no_budget lacks the parameter `budget`" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct kvmod_ctx *ctx = fixture_context();
		struct kvmod_policy *policy;

		assert_fails(open_policy(ctx, cases[i][0], "", &policy), KVMOD_EINVAL, cases[i][1]);
		kvmod_unref(ctx);
	}
}
END_TEST

START_TEST(needs_and_flags)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	assert_ok(open_policy(ctx, "own", "", &policy));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->what, KVMOD_NEED_K | KVMOD_NEED_V);
	ck_assert_double_eq(kvmod_policy_needs(policy)->rows.value, 3);
	ck_assert_uint_eq(kvmod_policy_needs(policy)->rows.is_count, 1);
	ck_assert_uint_eq(kvmod_policy_needs(policy)->decode_every, 0);
	ck_assert_uint_eq(kvmod_policy_needs(policy)->q_stats_skip, 11);
	ck_assert_uint_eq(kvmod_policy_needs(policy)->min_rows, 1);
	ck_assert_uint_eq(kvmod_policy_ops(policy)->flags, 0);
	ck_assert_uint_eq(kvmod_policy_ops(policy)->instance_size, sizeof(struct own));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);

	ctx = fixture_context();
	assert_ok(open_policy(ctx, "by_head", "", &policy));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->decode_every, 17);
	ck_assert_double_eq(kvmod_policy_needs(policy)->rows.value, 0);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);

	ctx = fixture_context();
	assert_fails(open_policy(ctx, "modest", "", &policy), KVMOD_ENOTSUP,
		     "policy modest: it is in want of nothing");
	kvmod_unref(ctx);

	/* Nothing keeps it from dropping the newest. */
	ctx = fixture_context();
	assert_ok(open_policy(ctx, "bare", "", &policy));
	ck_assert_uint_eq(kvmod_policy_ops(policy)->flags, KVMOD_POLICY_MAY_DROP_NEWEST);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);

	ctx = fixture_context();
	assert_fails(open_policy(ctx, "own", "alpha = 0.5", &policy), KVMOD_EINVAL,
		     "policy own: alpha is wrong");
	kvmod_unref(ctx);
	ctx = fixture_context();
	assert_fails(open_policy(ctx, "by_head", "pool = 4", &policy), KVMOD_EINVAL,
		     "policy by_head: pool = 4 is even: the width of the pooling must be odd");
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("scorer", each_way_to_select, budgets, layers_left_whole, pooled, raised_once,
	     one_at_least, shared_the_author_s_way, kept_by_hand, kept_by_hand_within_a_budget,
	     prepared_first, scores_that_are_not_finite, one_set_of_unequal_heads, cuts_when_it_likes,
	     pooled_beyond_all_numbers, scores_that_fail, what_was_not_asked_for, what_authors_may_forget, needs_and_flags)
