/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scorers that decide over layers: sequences that compete each by itself, budgets and
 * shares of layers, positions that come first, and sums over the heads of a layer.
 */
#define KVMOD_MODULE_SYMBOL scorers_module
#include "tests/fixture.h"

#include <math.h>
#include <string.h>

#include <kvmod/scorer.h>

#include "core/run/describe.h"

#define SEQUENCES 2u
#define LAYERS 2u
#define HEADS 2u
#define N 8u

/* --- the scorers -------------------------------------------------------------------- */

static float table[SEQUENCES][LAYERS][HEADS][N];
static bool second_layer_fails, second_layer_fails_late;

static const float *row_of(const struct kvmod_task *head)
{
	return table[head->segment->sequence][head->segment->layer][head->g];
}

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	memcpy(out, row_of(head), head->m * sizeof(*out));
	return second_layer_fails && head->segment->layer == 1 ? KVMOD_EIO : KVMOD_OK;
}

#define USUAL(P, owner) \
	KVMOD_P_BUDGET(P, owner, "4") \
	KVMOD_P_SINKS(P, owner, "1") \
	KVMOD_P_WINDOW(P, owner, "2") \
	KVMOD_P_POOL(P, owner, "3") \
	KVMOD_P_WHOLE_LAYERS(P, owner, "0")
#define POOLS .flags = KVMOD_SCORER_POOLS

KVMOD_SCORER_POLICY(by_sequence, struct kvmod_scorer, USUAL, "", "cpu", .score = score,
		    .select = KVMOD_PER_SEQUENCE, POOLS)
KVMOD_SCORER_POLICY(pooled, struct kvmod_scorer, USUAL, "", "cpu", .score = score,
		    .select = KVMOD_PER_SEQUENCE)

/* One more in the first layer, none in the second. */
static uint64_t falls(const void *self, const struct kvmod_request *request,
		      const struct kvmod_segment *segment, uint64_t c)
{
	uint32_t below, n_layers = kvmod_layers_of(request, segment, &below);

	(void)self;
	ck_assert_uint_eq(n_layers, LAYERS);
	ck_assert_uint_eq(below, segment->layer);
	ck_assert_uint_eq(c, 4);
	return below ? 0 : c + 1;
}

KVMOD_SCORER_POLICY(falling, struct kvmod_scorer, USUAL, "", "cpu", .score = score,
		    .budget = falls, POOLS)
KVMOD_SCORER_POLICY(falling_together, struct kvmod_scorer, USUAL, "", "cpu", .score = score,
		    .select = KVMOD_PER_LAYER, .budget = falls, POOLS)

/* Scores as above; the notes are what is lightest. */
static int32_t score_and_note(const void *self, const struct kvmod_task *head, float *out)
{
	ck_assert_uint_eq(head->budget, 4);
	for (uint32_t i = 0; i < head->m; i++)
		head->notes[i] = 1 - row_of(head)[i];
	for (uint32_t s = 0; head->sums && s < 2; s++) {
		ck_assert_double_eq(head->sums[s], 0);
		head->sums[s] += (double)(1 + head->g) * (s ? 100 : 1) + head->segment->layer;
	}
	head->scratch[0] = head->scratch[99] = NAN;
	return score(self, head, out);
}

static size_t floats(const void *self, const struct kvmod_request *request)
{
	(void)self;
	(void)request;
	return 100;
}

static uint32_t n_first;

/* Of the scored positions, sinks too, the lightest. */
static int32_t first(const void *self, const struct kvmod_task *head, uint8_t *marks)
{
	(void)self;
	ck_assert_uint_eq(head->budget, 4);
	for (uint32_t i = 0; i < head->m; i++)
		ck_assert_float_eq(head->notes[i], 1 - row_of(head)[i]);
	for (uint32_t s = 0; head->sums && s < 2; s++)	/* of heads 0 and 1 */
		ck_assert_double_eq(head->sums[s], (s ? 300 : 3) + 2.0 * head->segment->layer);
	head->scratch[0] = head->scratch[99] = NAN;
	head->kit->mark_heaviest(head->notes, head->m, n_first, marks);
	return second_layer_fails_late && head->segment->layer == 1 ? KVMOD_EIO : KVMOD_OK;
}

#define FIRST .score = score_and_note, .first = first, .floats = floats, POOLS
KVMOD_SCORER_POLICY(first_of_head, struct kvmod_scorer, USUAL, "", "cpu", FIRST)
KVMOD_SCORER_POLICY(first_of_layer, struct kvmod_scorer, USUAL, "", "cpu",
		    .select = KVMOD_PER_LAYER, FIRST, .n_sums = 2)
KVMOD_SCORER_POLICY(first_of_sequence, struct kvmod_scorer, USUAL, "", "cpu",
		    .select = KVMOD_PER_SEQUENCE, FIRST, .n_sums = 2)

#define LEVEL(P, owner) \
	KVMOD_P_SINKS(P, owner, "1") \
	KVMOD_P_LEVEL(P, owner, "100")

static int32_t first_two(const void *self, const struct kvmod_task *head, uint8_t *marks)
{
	(void)self;
	(void)head;
	marks[0] = marks[1] = 1;
	return KVMOD_OK;
}

KVMOD_SCORER_POLICY(first_of_level, struct kvmod_scorer, LEVEL, "", "cpu", .score = score,
		    .select = KVMOD_ABOVE_LEVEL, .first = first_two)

/* What spread() got, and gives. */
static struct kvmod_layers got;
static uint32_t n_spread, gives[LAYERS], got_n_scored[LAYERS];
static double got_sums[LAYERS][2];

static void spread(const void *self, const struct kvmod_layers *layers, uint32_t *counts)
{
	(void)self;
	n_spread++;
	got = *layers;
	ck_assert_uint_le(layers->n_layers, LAYERS);
	memcpy(got_sums, layers->sums, layers->n_layers * sizeof(*got_sums));
	memcpy(got_n_scored, layers->n_scored, layers->n_layers * sizeof(*got_n_scored));
	for (uint32_t l = 0; l < layers->n_layers; l++) {
		ck_assert_uint_eq(counts[l], 0);
		ck_assert_uint_eq(layers->segments[l]->sequence, layers->segments[0]->sequence);
		ck_assert(l == 0 || layers->segments[l]->layer > layers->segments[l - 1]->layer);
		counts[l] = gives[layers->segments[l]->layer];
	}
}

static int32_t score_and_sum(const void *self, const struct kvmod_task *head, float *out)
{
	for (uint32_t s = 0; s < 2; s++)
		head->sums[s] += (double)(1 + head->g) * (s ? 100 : 1) + head->segment->layer;
	return score(self, head, out);
}

KVMOD_SCORER_POLICY(spreading, struct kvmod_scorer, USUAL, "", "cpu", .score = score_and_sum,
		    .select = KVMOD_PER_SEQUENCE, .spread = spread, .n_sums = 2, POOLS)

/* What an author may have got wrong. */
KVMOD_SCORER_POLICY(no_sequence, struct kvmod_scorer, USUAL, "", "cpu", .score = score,
		    .select = KVMOD_PER_REQUEST, .spread = spread)
KVMOD_SCORER_POLICY(no_sharing, struct kvmod_scorer, USUAL, "", "cpu", .score = score, .n_sums = 1)
KVMOD_SCORER_POLICY(no_such, struct kvmod_scorer, USUAL, "", "cpu", .score = score, .select = 99)

/* |Wo v|, of the other KV head; 0 where that head does not cache the position. */
static int32_t score_by_norm(const void *self, const struct kvmod_task *head, float *out)
{
	int32_t err = head->kit->wo_norms(head, 1 - head->g, head->scratch);

	(void)self;
	if (err == KVMOD_OK)
		memcpy(out, head->scratch, head->m * sizeof(*out));
	return err;
}

KVMOD_SCORER_POLICY(by_norm, struct kvmod_scorer, USUAL, "", "cpu", .score = score_by_norm,
		    .what = KVMOD_NEED_WO_NORM, .floats = floats, POOLS)
KVMOD_SCORER_POLICY(unasked, struct kvmod_scorer, USUAL, "", "cpu", .score = score_by_norm,
		    .floats = floats)

static int32_t scorers_init(const struct kvmod_host *host)
{
	int32_t (*const all[])(const struct kvmod_host *) = {
		by_sequence_init, pooled_init, falling_init, falling_together_init,
		first_of_head_init, first_of_layer_init, first_of_sequence_init,
		first_of_level_init, spreading_init, no_sequence_init, no_sharing_init, no_such_init,
		by_norm_init, unasked_init,
	};
	int32_t err = KVMOD_OK;

	for (size_t i = 0; i < sizeof(all) / sizeof(*all) && err == KVMOD_OK; i++)
		err = all[i](host);
	return err;
}

KVMOD_MODULE("scorers", "1", "Apache-2.0", "", "", 0, scorers_init, NULL);

/* --- a request, a decision --------------------------------------------------------------- */

static struct kv_described cache;

/* The i-th segment of the request is this one of the cache: layers 0 and 1 of sequence 0, 1. */
static void order(const uint32_t *segments, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		cache.segment_list[i] = &cache.segments[segments[i]];
	cache.request.n_segments = n;
}

static const struct kv_shape shape = {
	.n_layers = LAYERS, .n_segments = SEQUENCES * LAYERS, .n_q_heads = 2 * HEADS,
	.n_kv_heads = HEADS, .head_dim = 4,
};

/* Sinks and window are heavy, which must not matter, and sequence 1 outweighs sequence 0. */
static const float some[SEQUENCES][LAYERS][HEADS][N] = {
	{ { { 9, .1f, .9f, .3f, .8f, .2f, 9, 9 }, { 9, .7f, .1f, .1f, .1f, .7f, 9, 9 } },
	  { { 9, .05f, .04f, .03f, .02f, .01f, 9, 9 }, { 9, .95f, .6f, .6f, .6f, .1f, 9, 9 } } },
	{ { { 9, 1, 2, 3, 4, 5, 9, 9 }, { 9, 6, 6, 6, 6, 6, 9, 9 } },
	  { { 9, 6, 6, 6, 6, 6, 9, 9 }, { 9, 7, 1, 1, 1, 2, 9, 9 } } },
};

static void setup(void)
{
	memcpy(table, some, sizeof(table));
	second_layer_fails = second_layer_fails_late = false;
	n_spread = 0;
	kv_undescribe(&cache);
	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
}

static int open_policy(struct kvmod_ctx *ctx, const char *name, const char *params,
		       struct kvmod_policy **policy)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	return fixture_open_with(ctx, &scorers_module, name, params, &model, policy);
}

static struct kvmod_plan *decide(const char *name, const char *params)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 1024);

	return fixture_decide(&scorers_module, name, params, &model, &cache.request, KVMOD_OK);
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

/* Of both heads of the segments in the order of the cache, however the request has them. */
static void assert_kept(const char *name, const char *params, const char *const *expected)
{
	struct kvmod_plan *plan = decide(name, params);

	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(&cache.request, i);

		for (uint32_t g = 0; g < HEADS; g++) {
			const char *text = expected[(s->sequence * LAYERS + s->layer) * HEADS + g];

			ck_assert_msg(strcmp(kept(plan, i, g), text) == 0, "%s, segment %u, head %u: "
				      "kept %s, expected %s", name, i, g, kept(plan, i, g), text);
		}
	}
	kvmod_plan_free(plan);
}

#define SETS(...) ((const char *const []){ __VA_ARGS__ })

/* --- the tests -------------------------------------------------------------------------------- */

static const uint32_t orders[][SEQUENCES * LAYERS] = {
	{ 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 2, 0, 3, 1 }, { 0, 2, 1, 3 },
};
#define N_ORDERS (sizeof(orders) / sizeof(*orders))

/*
 * Of each sequence's 20 scored positions its four heaviest. Of equal scores the oldest comes
 * first, then the first layer, wherever the request has it.
 */
START_TEST(each_sequence_by_itself)
{
	for (size_t i = 0; i < N_ORDERS; i++) {
		setup();
		order(orders[i], 4);
		assert_kept("by_sequence", "", SETS("02467", "0167", "067", "0167",
						    "067", "01267", "0167", "0167"));
		/* One of them alone is as it was. */
		order(orders[0] + 2, 2);
		assert_kept("by_sequence", "", SETS("", "", "", "", "067", "01267", "0167",
						    "0167"));
	}
}
END_TEST

/* A sequence within its budget stays whole, whatever the others are. */
START_TEST(sequence_within_its_budget)
{
	setup();
	for (uint32_t i = 0; i < LAYERS; i++) {
		cache.segments[i].logical = 4;
		for (uint32_t g = 0; g < HEADS; g++)
			cache.heads[i * HEADS + g].n = 4;
	}
	order(orders[2], 4);
	assert_kept("by_sequence", "", SETS("whole", "whole", "whole", "whole",
					    "067", "01267", "0167", "0167"));
	assert_kept("by_sequence", "budget = 8", SETS("whole", "whole", "whole", "whole",
						      "whole", "whole", "whole", "whole"));
}
END_TEST

/* It takes no budget along. */
START_TEST(layer_that_does_not_take_part)
{
	struct kvmod_plan *plan;

	setup();
	order(orders[1], 4);
	assert_kept("by_sequence", "whole_layers = 1,",
		    SETS("02467", "067", "whole", "whole", "067", "01267", "whole", "whole"));
	second_layer_fails = true;
	plan = decide("by_sequence", "");
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EIO);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, 0);
	ck_assert_str_eq(kept(plan, 1, 1), "01267");
	ck_assert_str_eq(kept(plan, 3, 0), "02467");
	kvmod_plan_free(plan);
}
END_TEST

/* The toolkit pools unless the scorer does: the average of three, a sink among them. */
START_TEST(who_pools)
{
	setup();
	order(orders[0], 2);
	assert_kept("by_sequence", "", SETS("02467", "0167", "067", "0167"));
	assert_kept("pooled", "", SETS("0167", "0167", "0167", "0167"));
}
END_TEST

START_TEST(budgets_of_layers)
{
	for (size_t i = 0; i < N_ORDERS; i++) {
		setup();
		order(orders[i], 4);
		/* What is below sinks and window is raised to them. */
		assert_kept("falling", "", SETS("02467", "01567", "067", "067",
						"04567", "01267", "067", "067"));
		assert_kept("falling_together", "", SETS("02467", "01567", "067", "067",
							 "067", "0123467", "067", "067"));
	}
	/* It is not asked where all is kept. */
	assert_kept("falling", "budget = 8", SETS("whole", "whole", "whole", "whole",
						  "whole", "whole", "whole", "whole"));
}
END_TEST

START_TEST(what_comes_first)
{
	setup();
	order(orders[0], 2);
	n_first = 0;
	assert_kept("first_of_head", "", SETS("0267", "0167", "0167", "0167"));
	/* The lightest of each head. */
	n_first = 1;
	assert_kept("first_of_head", "", SETS("0167", "0267", "0567", "0567"));
	/* Of more than the budget buys, the older. */
	n_first = 3;
	assert_kept("first_of_head", "", SETS("0167", "0267", "0367", "0267"));
	/* All of them: a sink is no scored position, and takes nobody's place. */
	n_first = 6;
	assert_kept("first_of_head", "", SETS("0167", "0167", "0167", "0167"));
	assert_kept("first_of_level", "", SETS("01", "01", "01", "01"));
}
END_TEST

START_TEST(what_comes_first_of_those_that_share)
{
	for (size_t i = 0; i < N_ORDERS; i++) {
		setup();
		order(orders[i], 4);
		n_first = 1;
		/* Two of a layer, which buys two. */
		assert_kept("first_of_layer", "", SETS("0167", "0267", "0567", "0567",
						       "0167", "0167", "0167", "0267"));
		assert_kept("first_of_sequence", "", SETS("0167", "0267", "0567", "0567",
							  "0167", "0167", "0167", "0267"));
	}
	n_first = 0;
	assert_kept("first_of_sequence", "", SETS("02467", "0167", "067", "0167",
						  "067", "01267", "0167", "0167"));
}
END_TEST

/* A layer whose first() fails leaves the competition. */
START_TEST(what_comes_first_fails)
{
	struct kvmod_plan *plan;

	setup();
	order(orders[0], 2);
	n_first = 0;
	second_layer_fails_late = true;
	for (int i = 0; i < 2; i++) {
		plan = decide(i ? "first_of_sequence" : "first_of_head", "");
		ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EIO);
		ck_assert_str_eq(kept(plan, 1, 0), "whole");
		ck_assert_str_eq(kept(plan, 0, 0), i ? "02467" : "0267");
		kvmod_plan_free(plan);
	}
}
END_TEST

static void assert_layers(uint32_t n_layers, uint64_t budget, double sum)
{
	ck_assert_uint_eq(got.size, sizeof(got));
	ck_assert_uint_eq(got.n_layers, n_layers);
	ck_assert_uint_eq(got.budget, budget);
	for (uint32_t l = 0; l < n_layers; l++)
		for (uint32_t s = 0; s < 2; s++)
			ck_assert_double_eq(got_sums[l][s], (s ? 100 : 1) * sum + 2.0 * l);
}

START_TEST(spread_over_layers)
{
	for (size_t i = 0; i < N_ORDERS; i++) {
		setup();
		order(orders[i], 4);
		gives[0] = 3;
		gives[1] = 0;
		assert_kept("spreading", "", SETS("023467", "012567", "067", "067",
						  "034567", "012367", "067", "067"));
		ck_assert_uint_eq(n_spread, SEQUENCES);
		assert_layers(2, 2, 3);
	}
}
END_TEST

/* A head that has fewer keeps all of it; the layer's longest says how many there are. */
START_TEST(spread_over_ragged_heads)
{
	setup();
	order(orders[0], 2);
	cache.heads[0].n = 5;		/* of which two are scored */
	cache.heads[3].n = 3;		/* none */
	gives[0] = 4;
	gives[1] = 99;
	assert_kept("spreading", "", SETS("01234", "0123567", "01234567", "012"));
	ck_assert_uint_eq(got_n_scored[0], 5);
	ck_assert_uint_eq(got_n_scored[1], 5);
}
END_TEST

START_TEST(spread_where_a_layer_is_whole)
{
	struct kvmod_plan *plan;

	setup();
	order(orders[1], 4);
	gives[0] = gives[1] = 2;
	assert_kept("spreading", "whole_layers = 1,",
		    SETS("02467", "01567", "whole", "whole", "04567", "01267", "whole", "whole"));
	assert_layers(1, 1, 3);
	second_layer_fails = true;
	plan = decide("spreading", "");
	assert_layers(1, 1, 3);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EIO);
	ck_assert_str_eq(kept(plan, 3, 0), "02467");
	kvmod_plan_free(plan);
	/* Not called where all is kept. */
	n_spread = 0;
	kvmod_plan_free(decide("spreading", "budget = 8"));
	ck_assert_uint_eq(n_spread, 0);
}
END_TEST

START_TEST(norms_of_values)
{
	/* [query head][position]: two for each KV head */
	static const float norms[2 * HEADS][N] = {
		{ 0, 1, 1, 4, 1, 1 }, { 0, 1, 1, 1, 1, 2 },
		{ 0, 2, 5, 1, 1, 1 }, { 0, 3, 1, 1, 1, 1 },
	};
	static const int32_t of_first[] = { 0, 1, 2, 3, 8, 9 };
	static const int32_t of_second[] = { 0, 2, 3, 5, 6, 7, 8, 9 };
	struct kvmod_plan *plan;

	setup();
	order(orders[0], 2);
	plan = decide("unasked", "");
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "its segment has no |Wo v|: a policy's needs ask for it "
			     "with KVMOD_NEED_WO_NORM"), "%s", fixture_log);
	kvmod_plan_free(plan);
	for (uint32_t i = 0; i < LAYERS; i++)
		cache.segments[i].wo_norm = kv_view(KVMOD_F32, norms, sizeof(float),
						    sizeof(*norms));
	assert_kept("by_norm", "budget = 5", SETS("01267", "03567", "01267", "03567"));
	/* What is index 2 of head 0 is index 1 of head 1. */
	setup();
	order(orders[0], 2);
	for (uint32_t i = 0; i < LAYERS; i++) {
		cache.segments[i].wo_norm = kv_view(KVMOD_F32, norms, sizeof(float),
						    sizeof(*norms));
		cache.segments[i].logical = 10;
		cache.heads[i * HEADS].n = 6;
		cache.heads[i * HEADS].positions = of_first;
		cache.heads[i * HEADS + 1].positions = of_second;
	}
	assert_kept("by_norm", "budget = 5", SETS("02345", "01267", "02345", "01267"));
}
END_TEST

START_TEST(what_authors_may_forget)
{
	static const char *const cases[][2] = {
		{ "no_sequence", "policy no_sequence: the scorer no_sequence lacks "
		  "KVMOD_PER_SEQUENCE, which spread() needs" },
		{ "no_sharing", "policy no_sharing: the scorer no_sharing lacks heads that share, "
		  "which sums over them need" },
		{ "no_such", "policy no_such: the scorer no_such lacks a known way to select" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct kvmod_ctx *ctx = fixture_context();
		struct kvmod_policy *policy;

		assert_fails(open_policy(ctx, cases[i][0], "", &policy), KVMOD_EINVAL, cases[i][1]);
		kvmod_unref(ctx);
	}
}
END_TEST

START_TEST(needs)
{
	static const char *const names[] = {
		"falling", "falling_together", "by_sequence", "spreading",
	};

	for (int i = 0; i < 4; i++) {
		struct kvmod_ctx *ctx = fixture_context();
		struct kvmod_policy *policy;

		assert_ok(open_policy(ctx, names[i], "", &policy));
		ck_assert_uint_eq(kvmod_policy_needs(policy)->what,
				  i < 2 ? 0 : KVMOD_NEED_ALL_LAYERS);
		kvmod_policy_close(policy);
		kvmod_unref(ctx);
	}
}
END_TEST

FIXTURE_MAIN("scorers over layers", each_sequence_by_itself, sequence_within_its_budget,
	     layer_that_does_not_take_part, who_pools, budgets_of_layers, what_comes_first,
	     what_comes_first_of_those_that_share, what_comes_first_fails, spread_over_layers,
	     spread_over_ragged_heads, spread_where_a_layer_is_whole, norms_of_values,
	     what_authors_may_forget, needs)
