/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keydiff, lagkv, expected and contribution against plain double precision: shapes and
 * types at random, caches that earlier turns left ragged, every way that RoPE turns.
 */
#include "tests/policies.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/values_reference.h"

/* --- a decision, and what it ought to be ----------------------------------------------- */

static const struct asked {
	const char *policy, *params;
	struct values_params p;
} cases[] = {
	{ "keydiff", "budget=0.25", { RULE_KEYDIFF, .permille = 250 } },
	{ "keydiff", "budget=40", { RULE_KEYDIFF, .count = 40 } },
	{ "lagkv", "budget=0.5 lag=16", { RULE_LAGKV, .permille = 500, .sinks = 4, .lag = 16 } },
	{ "lagkv", "budget=0.25 sinks=0 lag=11", { RULE_LAGKV, .permille = 250, .lag = 11 } },
	{ "lagkv", "budget=60 sinks=7 lag=32", { RULE_LAGKV, .count = 60, .sinks = 7, .lag = 32 } },
	{ "expected", "budget=0.25", { RULE_EXPECTED, .permille = 250, .sinks = 4, .future = 512 } },
	{ "expected", "budget=30 sinks=0 future=33 epsilon=0.001",
	  { RULE_EXPECTED, .count = 30, .future = 33, .epsilon = 0.001 } },
	{ "contribution", "", { RULE_CONTRIBUTION, .sinks = 4, .window = 32, .rows = 64, .pool = 33,
				.level = 0.03 } },
	{ "contribution", "level=0.1 window=8 sinks=1 rows=9 pool=3",
	  { RULE_CONTRIBUTION, .sinks = 1, .window = 8, .rows = 9, .pool = 3, .level = 0.1 } },
};
#define N_CASES ((int)(sizeof(cases) / sizeof(*cases)))

static const struct asked *asked;
static unsigned n_sure, n_segments;

/* The plan is the reference's where no choice hangs on rounding. */
static void check_plan(const struct kvmod_request *request, const struct kvmod_plan *plan,
		       const struct kvmod_model *model)
{
	struct values_params p = asked->p;
	uint32_t kept[MAX_N];

	p.model = model;
	for (uint32_t i = 0; i < request->n_segments; i++, n_segments++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		struct policy_answer answer;

		ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s", policies_said);
		ck_assert_int_eq(values_decide(s, &p, &answer), 0);
		ck_assert(answer.finite);
		for (uint32_t g = 0; g < s->n_kv_heads && answer.tie > 2e-6; g++) {
			uint32_t n = vectors_kept(request, plan, i, g, kept), at = 0;

			for (uint32_t k = 0; k < kvmod_head_at(s, g)->n; k++)
				if (answer.kept[(size_t)g * answer.stride + k])
					ck_assert_msg(at < n && kept[at++] == k, "%s %s: layer %u, KV head %u",
						      asked->policy, asked->params, i, g);
			ck_assert_uint_eq(at, n);
		}
		n_sure += answer.tie > 2e-6;
		free(answer.kept);
	}
}

static struct kvmod_policy *open_asked(struct kvmod_ctx *ctx, const struct asked *what,
				       const struct kv_shape *shape)
{
	asked = what;
	n_sure = n_segments = 0;
	return open_policy(ctx, what->policy, what->params, shape);
}

static void check_request(struct kvmod_policy *policy, const struct kvmod_request *request,
			  const struct kvmod_model *model)
{
	struct kvmod_plan *plan = decide(policy, request);

	check_plan(request, plan, model);
	kvmod_plan_free(plan);
}

/* --- shapes ------------------------------------------------------------------------------ */

START_TEST(any_shape)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_random r = { 40 + (uint64_t)_i };

	for (int round = 0; round < 10; round++) {
		struct kv_shape shape = draw_shape(&r, KVMOD_F32 + (uint32_t)round % 5);
		struct kvmod_model model = madeup_model(&shape);
		struct kvmod_policy *policy = open_asked(ctx, &cases[_i], &shape);
		struct madeup m;

		ck_assert_int_eq(madeup_first(&m, &shape, kv_random_range(&r, 1, 250), 40,
					      KVMOD_NEED_Q_STATS), 0);
		check_request(policy, &m.d.request, &model);
		ck_assert_uint_gt(n_sure, 0);
		madeup_free(&m);
		kvmod_policy_close(policy);
	}
	kvmod_unref(ctx);
}
END_TEST

/* Each turn begins with what the one before left, in each KV head its own number. */
START_TEST(ten_turns)
{
	const struct kv_shape shape = {
		.n_layers = 2, .n_segments = 2, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 32,
		.type = KVMOD_F32,
	};
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = madeup_model(&shape);
	struct madeup m, next;
	struct kvmod_plan *ragged;
	struct kvmod_policy *policy;
	uint32_t rows = cases[_i].p.rows ? cases[_i].p.rows : 1;

	ck_assert_int_eq(madeup_first(&m, &shape, 300, 40, KVMOD_NEED_Q_STATS), 0);
	ragged = decide_once(ctx, "topp", "whole_layers=0", &m);
	ck_assert_int_eq(madeup_next(&next, &m, ragged, 30, rows, KVMOD_NEED_Q_STATS), 0);
	kvmod_plan_free(ragged);
	policy = open_asked(ctx, &cases[_i], &shape);
	for (int turn = 0; turn < 10; turn++) {
		struct kvmod_plan *plan = decide(policy, &next.d.request);

		if (turn == 0)
			ck_assert_uint_ne(next.d.heads[0].n, next.d.heads[1].n);
		check_plan(&next.d.request, plan, &model);
		madeup_free(&m);
		m = next;
		ck_assert_int_eq(madeup_next(&next, &m, plan, 45, rows, KVMOD_NEED_Q_STATS), 0);
		kvmod_plan_free(plan);
	}
	ck_assert_uint_gt(n_sure, n_segments / 2);
	madeup_free(&m);
	madeup_free(&next);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* --- RoPE ---------------------------------------------------------------------------------- */

static const float some_freqs[] = { 1, 0.7f, 0.1f, 0.02f, 0, 6.2831853f, 1e-6f, 0.3f };

/* As a model tells it: by its base, or pair by pair, which may be a part of a head. */
START_TEST(every_rope)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 120);
	uint64_t base;

	for (int round = 0; round < 12; round++) {
		struct kvmod_model model = madeup_model(&usual);
		struct kvmod_policy *policy = NULL;

		model.rope_interleaved = round % 2;
		model.rope_base = round % 4 < 2 ? 10000 : 500000;
		if (round / 4 == 1) {
			model.rope_base = 0;
			model.rope_freqs = some_freqs;
			model.n_rope_freqs = 1 + 7 * (uint32_t)(round % 4 < 2);
			model.rope_magnitude = 1.3f;
		}
		base = round / 4 == 2 ? 77 : 0;
		for (uint32_t i = 0; i < m.d.request.n_segments; i++)
			m.d.segments[i].phase_base = base;
		asked = &cases[5];
		n_sure = n_segments = 0;
		ck_assert_int_eq(kvmod_configure(ctx, "/dev/null",
						 (const char *[]){ "policy expected.budget=0.25" }, 1), 0);
		ck_assert_int_eq(kvmod_policy_open(ctx, "expected", "cpu", &model, &policy), 0);
		check_request(policy, &m.d.request, &model);
		ck_assert_uint_eq(n_sure, n_segments);
		kvmod_policy_close(policy);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* Sinks that moved carry the phase of another position, and are there as they are. */
START_TEST(turned_keys)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = madeup_model(&usual);
	struct madeup m = make(&usual, 120);
	struct kvmod_policy *policy = open_asked(ctx, &cases[6], &usual);

	for (uint32_t i = 0; i < total_heads(&m); i++) {
		m.d.heads[i].n_turned = 4;
		m.d.heads[i].turn = 50;
	}
	check_request(policy, &m.d.request, &model);
	ck_assert_uint_eq(n_sure, n_segments);
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* Covariances so large that a softmax in float has one position, and all others are 0. */
START_TEST(large_covariances)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = madeup_model(&usual);
	struct madeup m = make(&usual, 200);
	struct kvmod_policy *policy = open_asked(ctx, &cases[5], &usual);

	for (uint32_t i = 0; i < m.d.request.n_segments; i++) {
		const struct kvmod_view *cov = &m.d.segments[i].q_cov;
		float *x = (float *)(m.bytes + ((const unsigned char *)cov->data - m.bytes));

		for (uint32_t k = 0; k < usual.n_q_heads * usual.head_dim * usual.head_dim; k++)
			x[k] *= 300;
	}
	check_request(policy, &m.d.request, &model);
	ck_assert_uint_eq(n_sure, n_segments);
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(what_expected_cannot_do)
{
	static const float freqs[17] = { 1 };
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = madeup_model(&usual);
	struct madeup m = make(&usual, 120);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;

	model.rope_base = 0;
	ck_assert_int_eq(kvmod_policy_open(ctx, "expected", "cpu", &model, &policy), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), "policy expected: the model's RoPE is not known: rope_base is 0, "
			 "expected more than 0");
	model.rope_freqs = freqs;
	model.n_rope_freqs = 17;	/* of a head of 32 */
	ck_assert_int_eq(kvmod_policy_open(ctx, "expected", "cpu", &model, &policy), 0);
	for (int round = 0; round < 2; round++) {
		plan = decide(policy, &m.d.request);
		ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_ENOTSUP);
		ck_assert_ptr_nonnull(strstr(policies_said, round ?
					     "its statistics are of 0 queries, and 32 of its 32" :
					     "its statistics are of 120 queries, and 34 of its 32"));
		kvmod_plan_free(plan);
		model.n_rope_freqs = 16;
		kvmod_policy_close(policy);
		ck_assert_int_eq(kvmod_policy_open(ctx, "expected", "cpu", &model, &policy), 0);
		for (uint32_t i = 0; i < m.d.request.n_segments; i++)
			m.d.segments[i].n_q_stat = 0;
	}
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* --- needs, bounds, odd numbers --------------------------------------------------------------- */

START_TEST(what_is_asked_for)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_policy *policy = open_policy(ctx, "expected", "sinks=7", &usual);
	const struct kvmod_needs *needs = kvmod_policy_needs(policy);

	ck_assert_uint_eq(needs->what, KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_Q_STATS);
	ck_assert_uint_eq(needs->q_stats_skip, 7);
	ck_assert_uint_eq(kvmod_needs_rows(needs, 1000), 0);
	kvmod_policy_close(policy);
	policy = open_policy(ctx, "contribution", "rows=50 window=9", &usual);
	ck_assert_uint_eq(kvmod_needs_rows(kvmod_policy_needs(policy), 1000), 50);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(even_pool_is_refused)
{
	struct kvmod_model model = madeup_model(&usual);
	struct kvmod_ctx *ctx = policies_context(true);
	const char *override = "policy contribution.pool=4";
	struct kvmod_policy *policy;

	ck_assert_int_eq(kvmod_configure(ctx, "/dev/null", &override, 1), 0);
	ck_assert_int_eq(kvmod_policy_open(ctx, "contribution", "cpu", &model, &policy), KVMOD_EINVAL);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "pool = 4 is even"));
	kvmod_unref(ctx);
}
END_TEST

/* 4 sinks, a last partition of 16, and 15 after it: 100 = 4 + 5 * 16 + 16. */
START_TEST(lagkv_raises_its_budget)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 100);
	struct kvmod_policy *policy = open_policy(ctx, "lagkv", "budget=10 lag=16", &usual);
	struct kvmod_plan *plan;
	uint32_t kept[MAX_N];

	for (int i = 0; i < 3; i++) {
		plan = decide(policy, &m.d.request);
		for (uint32_t head = 0; head < total_heads(&m); head++) {
			ck_assert_uint_eq(kept_of(&m, plan, head, kept), 4 + 16);
			ck_assert_uint_eq(kept[3], 3);
			ck_assert_uint_eq(kept[4], 84);
		}
		kvmod_plan_free(plan);
	}
	ck_assert_uint_eq(policies_n_said, 1);
	ck_assert_ptr_nonnull(strstr(policies_said, "a budget of 10 of 100 positions is below what is "
				     "always kept: raised to 20"));
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* Dimensions that are the same in all rows tell nothing, and are no division by 0. */
START_TEST(constant_dimensions)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = madeup_model(&usual);
	struct madeup m = make(&usual, 200);

	for (uint32_t i = 0; i < total_heads(&m); i++)
		for (uint32_t row = 0; row < 200; row++)
			for (uint32_t d = 0; d < usual.head_dim / 2; d++) {
				const unsigned char *k = m.d.heads[i].k.data, *v = m.d.heads[i].v.data;

				memcpy(m.bytes + (k - m.bytes) + row * m.d.heads[i].k.stride + 4 * d, &(float){ 3 }, 4);
				memcpy(m.bytes + (v - m.bytes) + row * m.d.heads[i].v.stride + 4 * d, &(float){ 0 }, 4);
			}
	for (int i = 0; i < N_CASES; i++) {
		struct kvmod_policy *policy = open_asked(ctx, &cases[i], &usual);

		check_request(policy, &m.d.request, &model);
		ck_assert_uint_gt(n_sure, 0);
		kvmod_policy_close(policy);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* One number of KV head 1 in layer 2, of K or of V: that layer stays whole, alone. */
START_TEST(numbers_that_are_not_finite)
{
	static const char *const policies_of[][2] = {
		{ "keydiff", "" }, { "lagkv", "lag=16" }, { "expected", "" }, { "contribution", "" },
	};
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 100);
	const struct kvmod_head *head = &m.d.heads[2 * 3 + 1];
	const struct kvmod_view *view = _i / 2 ? &head->v : &head->k;
	float bad = _i % 2 ? INFINITY : NAN;

	memcpy(m.bytes + ((const unsigned char *)view->data - m.bytes) + 50 * view->stride, &bad, sizeof(bad));
	for (int i = _i / 2; i < 4; i++) {		/* keydiff reads no V */
		struct kvmod_policy *policy = open_policy(ctx, policies_of[i][0], policies_of[i][1], &usual);
		struct kvmod_plan *plan = decide(policy, &m.d.request);

		ck_assert_msg(strstr(policies_said, "layer 2: KV head 1: ") &&
			      strstr(policies_said, "not finite"), "%s: %s", policies_of[i][0], policies_said);
		for (uint32_t s = 0; s < 3; s++)
			ck_assert_int_eq(kvmod_keep_at(plan, s)->status, s == 2 ? KVMOD_ENUMERIC : 0);
		kvmod_plan_free(plan);
		kvmod_policy_close(policy);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	tcase_add_loop_test(tcase, any_shape, 0, N_CASES);
	tcase_add_loop_test(tcase, ten_turns, 0, N_CASES);
	tcase_add_test(tcase, every_rope);
	tcase_add_test(tcase, turned_keys);
	tcase_add_test(tcase, large_covariances);
	tcase_add_test(tcase, what_expected_cannot_do);
	tcase_add_test(tcase, what_is_asked_for);
	tcase_add_test(tcase, even_pool_is_refused);
	tcase_add_test(tcase, lagkv_raises_its_budget);
	tcase_add_test(tcase, constant_dimensions);
	tcase_add_loop_test(tcase, numbers_that_are_not_finite, 0, 4);
}

int main(void)
{
	return policies_run("policies of keys and values", add);
}
