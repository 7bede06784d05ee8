/* SPDX-License-Identifier: Apache-2.0 */
/* What a policy must do besides: its bounds, ties, numbers that are not finite, second turns. */
#include "tests/policies.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "policies/cuda/params.h"

START_TEST(raised_budget_is_said_once)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 100);
	struct kvmod_policy *policy = open_policy(ctx, "snapkv", "budget=5", &usual);

	for (int i = 0; i < 3; i++)
		kvmod_plan_free(decide(policy, &m.d.request));
	ck_assert_uint_eq(policies_n_said, 1);
	ck_assert_ptr_nonnull(strstr(policies_said, "raised to 32"));
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(even_pool_is_refused)
{
	const char *name = policies[_i].module->name, *override;
	struct kvmod_model model = madeup_model(&usual);
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_policy *policy = open_policy(ctx, name, "", &usual);
	bool has_pool = policy_has(policy, "pool");
	char text[64];

	kvmod_policy_close(policy);
	override = text;
	snprintf(text, sizeof(text), "policy %s.pool=4", name);
	ck_assert_int_eq(kvmod_configure(ctx, "/dev/null", &override, 1), has_pool ? 0 : KVMOD_EINVAL);
	if (has_pool) {
		ck_assert_int_eq(kvmod_policy_open(ctx, name, "cpu", &model, &policy), KVMOD_EINVAL);
		ck_assert_ptr_nonnull(strstr(kvmod_error(), "pool = 4 is even"));
	}
	kvmod_unref(ctx);
}
END_TEST

/* All keys equal: attention is even, and the oldest win. */
START_TEST(ties_go_to_the_older)
{
	static const char *const cases[][2] = {
		{ "snapkv", "budget=50 pool=1" }, { "adakv", "budget=50 pool=1 alpha=0" },
		{ "topp", "p=0.495 whole_layers=0" }, { "h2o", "heavy=40 recent=10 rows=32" },
		{ "knorm", "budget=50 whole_layers=0" }, { "rkv", "budget=50" }, { "tova", "budget=50" },
		{ "expected", "budget=50" }, { "keydiff", "budget=50" },
		{ "cake", "budget=50 pool=1" }, { "criticalkv", "budget=50 pool=1" },
		{ "defensivekv", "budget=50" },
	};
	static const uint32_t oldest[] = {
		50 - 32, 50 - 32, 50, 40, 50, 50 - 8, 50 - 1, 50, 50, 50 - 32, 50 - 32, 50 - 32,
	};
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 100);

	memset(m.bytes, 0, m.n_bytes);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct kvmod_plan *plan = decide_once(ctx, cases[i][0], cases[i][1], &m);
		uint32_t kept[MAX_N];

		for (uint32_t head = 0; head < total_heads(&m); head++) {
			ck_assert_uint_eq(kept_of(&m, plan, head, kept), 50);
			ck_assert_uint_eq(kept[oldest[i] - 1], oldest[i] - 1);
		}
		kvmod_plan_free(plan);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* Key 50 of KV head 1 in the last layer: that layer stays whole, and no other. */
START_TEST(numbers_that_are_not_finite)
{
	const struct known_policy *p = &policies[_i / 2];
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 100);
	/* Column sums are finite: h2o adds up attention by itself. */
	bool is_h2o = strcmp(p->module->name, "h2o") == 0;
	struct kvmod_policy *policy =
		open_policy(ctx, p->module->name, is_h2o ? "rows=20" : p->cuts, &usual);
	bool reads = kvmod_policy_needs(policy)->what & KVMOD_NEED_K;
	const struct kvmod_head *head = &m.d.heads[2 * 3 + 1];
	float bad = _i % 2 ? INFINITY : NAN;
	struct kvmod_plan *plan;

	memcpy(m.bytes + ((const unsigned char *)head->k.data - m.bytes) + 50 * head->k.stride,
	       &bad, sizeof(bad));
	plan = decide(policy, &m.d.request);
	ck_assert_msg(!reads || (strstr(policies_said, "layer 2: ") && strstr(policies_said, "not finite")),
		      "%s: %s", p->module->name, policies_said);
	for (uint32_t s = 0; s < 3; s++) {
		bool fails = reads && s == 2;

		ck_assert_int_eq(kvmod_keep_at(plan, s)->status, fails ? KVMOD_ENUMERIC : 0);
		ck_assert_int_eq(kvmod_keep_at(plan, s)->kind == KVMOD_KEEP_ALL, fails);
	}
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(column_sums_that_are_not_finite)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 100);
	struct kvmod_policy *policy = open_policy(ctx, "h2o", "", &usual);
	const struct kvmod_view *sums = &m.d.segments[1].colsum;
	struct kvmod_plan *plan;
	float bad = _i ? INFINITY : NAN;

	/* Of query head 8, which shares KV head 2, at position 7. */
	memcpy(m.bytes + ((const unsigned char *)sums->data - m.bytes) + 8 * sums->head_stride +
	       7 * sizeof(float), &bad, sizeof(bad));
	plan = decide(policy, &m.d.request);
	ck_assert_msg(strstr(policies_said, "layer 1: KV head 2: its column sums of attention are not finite"),
		      "%s", policies_said);
	for (uint32_t s = 0; s < 3; s++)
		ck_assert_int_eq(kvmod_keep_at(plan, s)->status, s == 1 ? KVMOD_ENUMERIC : 0);
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* A second prompt after a ragged cut: each head by the tokens seen, but no set a layer. */
START_TEST(ragged_second_turn)
{
	const char *name = policies[_i].module->name;
	bool one_set = strcmp(name, "streamingllm") == 0 || strcmp(name, "tova") == 0 ||
		       strcmp(name, "refreekv") == 0;
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup first = make(&usual, 300), second;
	struct kvmod_plan *cut = decide_once(ctx, "topp", "whole_layers=0", &first), *plan;
	struct kvmod_policy *policy = open_policy(ctx, name, policies[_i].cuts, &usual);

	ck_assert_int_eq(madeup_next(&second, &first, cut, 40, 20, EXTRAS), 0);
	ck_assert_uint_ne(second.d.heads[0].n, second.d.heads[1].n);
	plan = decide(policy, &second.d.request);
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_int_eq(kvmod_keep_at(plan, i)->status, one_set ? KVMOD_ENOTSUP : 0);
	if (strcmp(name, "snapkv") == 0)
		for (uint32_t g = 0; g < 3; g++)
			ck_assert_uint_eq(kvmod_plan_count(&second.d.request, plan, 0, g),
					  second.d.heads[g].n < 136 ? second.d.heads[g].n : 136);
	if (one_set)
		ck_assert_ptr_nonnull(strstr(policies_said, "keeps one "));
	kvmod_plan_free(plan);
	kvmod_plan_free(cut);
	kvmod_policy_close(policy);
	madeup_free(&first);
	madeup_free(&second);
	kvmod_unref(ctx);
}
END_TEST

/* Decodes `steps` times `every` tokens, cutting after each; what is left in the end. */
static uint32_t stream(struct kvmod_policy *policy, uint32_t every, int steps, uint32_t most)
{
	struct madeup m = make(&usual, 200), grown;
	uint32_t left = 0;

	for (int i = 0; i < steps; i++) {
		struct kvmod_plan *plan = decide(policy, &m.d.request);

		left = (uint32_t)kvmod_plan_count(&m.d.request, plan, 0, 0);
		ck_assert_uint_le(left, most);
		ck_assert_int_eq(madeup_next(&grown, &m, plan, every, 0, 0), 0);
		grown.d.request.phase = KVMOD_DECODE;
		ck_assert_int_eq(grown.d.heads[0].positions[3], 3);
		ck_assert_int_eq(grown.d.heads[0].positions[left - 1],
				 (int32_t)(200 + every * (uint32_t)i) - 1);
		kvmod_plan_free(plan);
		madeup_free(&m);
		m = grown;
	}
	madeup_free(&m);
	return left;
}

START_TEST(streaming_stays_bounded)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_policy *count = open_policy(ctx, "streamingllm", "budget=50 decode_every=8", &usual);
	struct kvmod_policy *share;

	ck_assert_uint_eq(kvmod_policy_needs(count)->decode_every, 8);
	ck_assert_uint_eq(stream(count, 8, 30, 50), 50);
	kvmod_policy_close(count);

	/* A fraction is of all that was seen, so it does not eat itself up. */
	share = open_policy(ctx, "streamingllm", "budget=0.5 decode_every=0", &usual);
	ck_assert_uint_eq(kvmod_policy_needs(share)->decode_every, 0);
	ck_assert_uint_eq(stream(share, 8, 30, 216), (200 + 8 * 29) / 2);
	kvmod_policy_close(share);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(random_draws)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, MAX_N);
	struct kvmod_plan *a = decide_once(ctx, "random", "seed=1", &m);
	struct kvmod_plan *b = decide_once(ctx, "random", "seed=2", &m);
	uint32_t kept[MAX_N], halves[2] = { 0 };

	/* 9 heads of 150: about a quarter of them is in both. */
	ck_assert_uint_gt(only_in_a(&m, a, b), 900);
	for (uint32_t head = 0; head < total_heads(&m); head++)
		for (uint32_t i = kept_of(&m, a, head, kept); i-- > 0;)
			halves[kept[i] >= MAX_N / 2]++;
	ck_assert_uint_eq(halves[0] + halves[1], 9 * 150);
	ck_assert_uint_gt(halves[0], 600);
	ck_assert_uint_gt(halves[1], 600);
	kvmod_plan_free(b);

	for (uint32_t i = 0; i < 3; i++)
		m.d.segments[i].sequence = 7;
	b = decide_once(ctx, "random", "seed=1", &m);
	ck_assert_uint_gt(only_in_a(&m, a, b), 900);
	kvmod_plan_free(a);
	kvmod_plan_free(b);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* --- versions for a GPU -------------------------------------------------------------- */

KVMOD_PARAMS(policy, gpu_adakv, ADAKV_PARAMS);
KVMOD_PARAMS(policy, gpu_snapkv, SNAPKV_PARAMS);
KVMOD_PARAMS(policy, gpu_topp, TOPP_PARAMS);

static const struct {
	const char *name;
	const struct kvmod_param *params;
	uint32_t n_params;
} gpu_versions[] = {
	{ "adakv", gpu_adakv_params, sizeof(gpu_adakv_params) / sizeof(*gpu_adakv_params) },
	{ "snapkv", gpu_snapkv_params, sizeof(gpu_snapkv_params) / sizeof(*gpu_snapkv_params) },
	{ "topp", gpu_topp_params, sizeof(gpu_topp_params) / sizeof(*gpu_topp_params) },
};

/* Word for word: the two share a section of the configuration. */
START_TEST(parameters_on_a_gpu)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_policy *policy = open_policy(ctx, gpu_versions[_i].name, "", &usual);
	const struct kvmod_policy_ops *ops = kvmod_policy_ops(policy);

	ck_assert_uint_eq(ops->n_params, gpu_versions[_i].n_params);
	for (uint32_t i = 0; i < ops->n_params; i++) {
		const struct kvmod_param *a = &ops->params[i], *b = &gpu_versions[_i].params[i];

		ck_assert_str_eq(a->name, b->name);
		ck_assert_uint_eq(a->type, b->type);
		ck_assert_str_eq(a->def, b->def);
		ck_assert_str_eq(a->range, b->range);
		ck_assert_str_eq(a->help, b->help);
	}
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	tcase_add_test(tcase, raised_budget_is_said_once);
	tcase_add_loop_test(tcase, even_pool_is_refused, 0, n_policies);
	tcase_add_test(tcase, ties_go_to_the_older);
	tcase_add_loop_test(tcase, numbers_that_are_not_finite, 0, 2 * n_policies);
	tcase_add_loop_test(tcase, column_sums_that_are_not_finite, 0, 2);
	tcase_add_loop_test(tcase, ragged_second_turn, 0, n_policies);
	tcase_add_test(tcase, streaming_stays_bounded);
	tcase_add_test(tcase, random_draws);
	tcase_add_loop_test(tcase, parameters_on_a_gpu, 0, 3);
}

int main(void)
{
	return policies_run("policies, each", add);
}
