/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies, each linked in and as a module: golden vectors, and what must
 * hold for any cache; test_policies_each has what is one policy's own.
 */
#include "tests/policies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/logits.h"
#include "kernels/cpu/simd.h"
#include "tests/simd_levels.h"

#define GOLDEN KVMOD_SRCDIR "/tests/golden/policies.txt"

/* --- golden vectors ------------------------------------------------------------------- */

static unsigned run_vectors(struct kvmod_ctx *ctx, const char *policy)
{
	struct vectors v;
	struct vectors_case *c;
	unsigned n = 0;
	char why[512];
	int got;

	ck_assert_msg(vectors_open(&v, GOLDEN) == 0, "%s", v.error);
	while ((got = vectors_next(&v, &c)) == 1) {
		if (strcmp(c->policy, policy) == 0) {
			n++;
			ck_assert_msg(vectors_run(ctx, "/dev/null", &policies_threads, 1, c, KVMOD_F32,
						  "cpu", why, sizeof(why)) == 0, "%s: %s", c->name, why);
		}
		vectors_case_free(c);
	}
	ck_assert_msg(got == 0, "%s", v.error);
	vectors_close(&v);
	return n;
}

START_TEST(golden_linked_in)
{
	struct kvmod_ctx *ctx = policies_context(true);

	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++)
		if (kv_simd_set_level(level))
			ck_assert_uint_eq(run_vectors(ctx, policies[_i].module->name),
					  policies[_i].n_cases);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(golden_as_module)
{
	struct kvmod_ctx *ctx = policies_context(false);

	ck_assert_uint_eq(run_vectors(ctx, policies[_i].module->name), policies[_i].n_cases);
	kvmod_unref(ctx);
}
END_TEST

static int look_up(void *arg, const char *path, int error, const struct kvmod_modinfo *info)
{
	const char *policy;

	(void)arg;
	ck_assert_msg(!error, "%s: %s", path, kvmod_error());
	for (unsigned n = 0; (policy = kvmod_modinfo_get(info, "policy", n)); n++) {
		int i = 0;

		while (i < n_policies && strcmp(policies[i].module->name, policy) != 0)
			i++;
		ck_assert_msg(i < n_policies, "%s: the policy %s is not in the list of tests/policies.c",
			      path, policy);
	}
	return 0;
}

/* Modules of the build tree bring no policy that the tests do not know. */
START_TEST(list_is_complete)
{
	struct kvmod_ctx *ctx = policies_context(false);

	ck_assert_int_eq(kvmod_configure(ctx, "/dev/null", NULL, 0), 0);
	ck_assert_int_eq(kvmod_modules_each(ctx, look_up, NULL), 0);
	kvmod_unref(ctx);
}
END_TEST

/* --- any policy, any cache -------------------------------------------------------------- */

/* Linked in or loaded, alone or with threads: the same plan. */
START_TEST(plans_pass_and_repeat)
{
	const char *name = policies[_i].module->name;
	struct kvmod_ctx *in = policies_context(true), *as_module = policies_context(false);
	struct kv_random r = { 10 + (uint64_t)_i };

	for (int round = 0; round < 12; round++) {
		struct kv_shape shape = draw_shape(&r, KVMOD_F32 + (uint32_t)round % 5);
		struct madeup m = make(&shape, kv_random_range(&r, 1, 200));
		struct kvmod_plan *a, *b;

		policies_threads = "kvmod.threads=1";
		a = decide_once(in, name, "", &m);
		policies_threads = "kvmod.threads=3";
		b = decide_once(as_module, name, "", &m);
		ck_assert(same_plan(&m, a, b));
		kvmod_plan_free(a);
		kvmod_plan_free(b);
		madeup_free(&m);
	}
	kvmod_unref(in);
	kvmod_unref(as_module);
}
END_TEST

START_TEST(more_budget_never_loses_a_position)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 300);
	struct kvmod_plan *less = NULL, *more;

	for (int step = 0; step < 4; step++, less = more) {
		more = decide_once(ctx, policies[_i].module->name, policies[_i].rising[step], &m);
		if (!less)
			continue;
		ck_assert_uint_eq(only_in_a(&m, less, more), 0);
		ck_assert_uint_gt(only_in_a(&m, more, less), 0);
		kvmod_plan_free(less);
	}
	ck_assert_double_eq(kvmod_plan_budget(&m.d.request, less), 1);
	kvmod_plan_free(less);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* What a head keeps of 301 positions, on an average. */
static double kept_on_average(const char *name, const char *params)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&usual, 301);
	struct kvmod_plan *plan = decide_once(ctx, name, params, &m);
	uint32_t kept[MAX_N], n = total_heads(&m), all = 0;

	for (uint32_t head = 0; head < n; head++)
		all += kept_of(&m, plan, head, kept);
	kvmod_plan_free(plan);
	madeup_free(&m);
	kvmod_unref(ctx);
	return (double)all / n;
}

/* Whether layers and heads share it or not. */
START_TEST(budget_is_what_is_kept)
{
	const struct known_policy *p = &policies[_i];
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_policy *policy = open_policy(ctx, p->module->name, "", &usual);
	bool has_budget = policy_has(policy, "budget");
	char params[128];

	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	if (!has_budget)
		return;
	snprintf(params, sizeof(params), "%s budget=0.25", p->cuts);
	/* AdaKV rounds each head's share. */
	ck_assert_double_eq_tol(kept_on_average(p->module->name, params), 75, 1);
}
END_TEST

START_TEST(bounds_of_budgets)
{
	static const struct {
		const char *name, *params;
		uint32_t kept;
	} cases[] = {
		{ "random", "budget=0", 1 },
		{ "snapkv", "budget=10", 32 },
		{ "snapkv", "budget=10 window=10", 10 },
		{ "streamingllm", "budget=100", 100 },
		{ "streamingllm", "budget=0.25 sinks=0", 75 },
		{ "streamingllm", "budget=3 sinks=8", 9 },
		{ "h2o", "", 60 },
		{ "h2o", "heavy=0 recent=0", 1 },
		{ "h2o", "heavy=17 recent=0.25", 92 },
		{ "rkv", "", 128 },
		{ "rkv", "budget=3", 8 },
		{ "rkv", "budget=40 window=40", 40 },
		{ "tova", "budget=0", 1 },
		{ "tova", "budget=10 window=20", 20 },
		{ "expected", "budget=2", 4 },
		{ "keydiff", "budget=0", 1 },
		{ "lagkv", "budget=0.25", 173 },
		{ "cake", "budget=10", 32 },
		{ "criticalkv", "budget=10 window=10", 10 },
		{ "defensivekv", "budget=10", 32 },
		{ "kvzip", "budget=2", 4 },
		{ "pyramidkv", "budget=10", 32 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		ck_assert_msg(kept_on_average(cases[i].name, cases[i].params) == cases[i].kept, "%s %s",
			      cases[i].name, cases[i].params);
}
END_TEST

static void copy_rows(const struct kvmod_view *from, uint32_t n, uint32_t dim, const struct kvmod_view *to)
{
	for (uint32_t row = 0; row < n; row++)
		kv_cpu_to_f32(from->type, (const char *)from->data + row * from->stride, dim,
			      (float *)((char *)(uintptr_t)to->data + row * to->stride));
}

/* The same cache with K and V as floats: what Q4_0 reads back as. */
static struct madeup as_floats(const struct madeup *from)
{
	struct kv_shape shape = from->shape;
	struct madeup to;

	shape.type = KVMOD_F32;
	to = make(&shape, from->d.heads[0].n);
	for (uint32_t i = 0; i < shape.n_segments * shape.n_kv_heads; i++) {
		const struct kvmod_head *head = &from->d.heads[i];

		copy_rows(&head->k, head->n, shape.head_dim, &to.d.heads[i].k);
		copy_rows(&head->v, head->n, shape.head_dim, &to.d.heads[i].v);
	}
	return to;
}

START_TEST(q4_0_is_read_as_what_it_says)
{
	const struct known_policy *p = &policies[_i];
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_shape shape = usual;
	struct madeup blocks, floats;
	struct kvmod_plan *a, *b;

	shape.type = KVMOD_Q4_0;
	blocks = make(&shape, 300);
	floats = as_floats(&blocks);
	a = decide_once(ctx, p->module->name, p->cuts, &blocks);
	b = decide_once(ctx, p->module->name, p->cuts, &floats);
	ck_assert(same_plan(&blocks, a, b));
	ck_assert_double_lt(kvmod_plan_budget(&blocks.d.request, a), 1);
	kvmod_plan_free(a);
	kvmod_plan_free(b);
	madeup_free(&blocks);
	madeup_free(&floats);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(types_of_k_agree)
{
	const struct known_policy *p = &policies[_i];
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup exact = make(&usual, 300), other;
	struct kvmod_plan *a = decide_once(ctx, p->module->name, p->cuts, &exact), *b;

	for (uint32_t type = KVMOD_F16; type <= KVMOD_Q8_0; type++) {
		struct kv_shape shape = usual;

		shape.type = type;
		other = make(&shape, 300);
		b = decide_once(ctx, p->module->name, p->cuts, &other);
		/* Rounding of K and V moves a few of 2700 across the cut. */
		ck_assert_uint_le(only_in_a(&exact, a, b) + only_in_a(&exact, b, a), 40);
		kvmod_plan_free(b);
		madeup_free(&other);
	}
	kvmod_plan_free(a);
	madeup_free(&exact);
	kvmod_unref(ctx);
}
END_TEST

/* --- a host whose threads grow in number --------------------------------------------- */

static struct kvmod_host growing;
static const struct kvmod_host *real_host;
static int32_t (*real_init)(const struct kvmod_host *host);
static struct kvmod_policy_ops growing_ops;
static int32_t (*growing_policy_needs)(void *self, struct kvmod_needs *needs);
static uint32_t n_asked, most_workers;

/* One when the scratch is measured, sixty-four ever after. */
static uint32_t growing_threads(void *ctx)
{
	(void)ctx;
	return n_asked++ ? 64 : 1;
}

/* From the last on: it takes all the work, and has its scratch at the very end. */
static void backwards(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
	(void)ctx;
	most_workers = n > most_workers ? n : most_workers;
	while (n-- > 0)
		fn(arg, n);
}

static int32_t growing_needs(void *self, struct kvmod_needs *needs)
{
	((struct kvmod_instance *)self)->host = &growing;
	return growing_policy_needs ? growing_policy_needs(self, needs) : KVMOD_OK;
}

static int32_t register_growing(void *ctx, const struct kvmod_policy_ops *ops)
{
	growing_ops = *ops;
	growing_policy_needs = ops->needs;
	growing_ops.needs = growing_needs;
	return real_host->register_policy(ctx, &growing_ops);
}

static int32_t init_growing(const struct kvmod_host *host)
{
	real_host = host;
	growing = *host;
	growing.n_threads = growing_threads;
	growing.parallel = backwards;
	growing.register_policy = register_growing;
	return real_init(&growing);
}

START_TEST(no_more_workers_than_scratch)
{
	struct kvmod_module module = *policies[_i].module;
	struct kvmod_ctx *ctx = policies_context(false);
	struct madeup m = make(&usual, 300);

	real_init = module.init;
	module.init = init_growing;
	n_asked = most_workers = 0;
	ck_assert_int_eq(kvmod_add_builtin(ctx, &module), 0);
	kvmod_plan_free(decide_once(ctx, module.name, "", &m));
	if (n_asked) {
		ck_assert_uint_ge(n_asked, 2);
		ck_assert_uint_eq(most_workers, 1);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	simd_say_missing();
	tcase_add_loop_test(tcase, golden_linked_in, 0, n_policies);
	tcase_add_loop_test(tcase, golden_as_module, 0, n_policies);
	tcase_add_test(tcase, list_is_complete);
	tcase_add_loop_test(tcase, plans_pass_and_repeat, 0, n_policies);
	tcase_add_loop_test(tcase, more_budget_never_loses_a_position, 0, n_policies);
	tcase_add_loop_test(tcase, budget_is_what_is_kept, 0, n_policies);
	tcase_add_test(tcase, bounds_of_budgets);
	tcase_add_loop_test(tcase, types_of_k_agree, 0, n_policies);
	tcase_add_loop_test(tcase, q4_0_is_read_as_what_it_says, 0, n_policies);
	tcase_add_loop_test(tcase, no_more_workers_than_scratch, 0, n_policies);
}

int main(void)
{
	return policies_run("policies", add);
}
