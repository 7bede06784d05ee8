/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies, each linked in and as a module: golden vectors, and what must
 * hold for any cache.
 */
#include <check.h>
#undef fail			/* host->fail() is meant */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/madeup.h"
#include "core/testkit/vectors.h"
#include "kernels/cpu/logits.h"
#include "kernels/cpu/simd.h"
#include "policies/cuda/params.h"
#include "tests/simd_levels.h"
#include "core/testkit/random.h"

#define GOLDEN KVMOD_SRCDIR "/tests/golden/policies.txt"

extern const struct kvmod_module kvmod_module_adakv, kvmod_module_random, kvmod_module_snapkv,
	kvmod_module_streamingllm, kvmod_module_topp;

static const struct {
	const struct kvmod_module *module;
	unsigned n_cases;		/* in the golden vectors */
} policies[] = {
	{ &kvmod_module_adakv, 9 },
	{ &kvmod_module_random, 0 },	/* what it draws is its own affair */
	{ &kvmod_module_snapkv, 9 },
	{ &kvmod_module_streamingllm, 8 },
	{ &kvmod_module_topp, 8 },
};
#define N_POLICIES ((int)(sizeof(policies) / sizeof(*policies)))

/* --- a context, a policy, a plan ----------------------------------------------------- */

static unsigned n_said;
static char said[512];

static void listen(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	(void)level;
	n_said++;
	snprintf(said, sizeof(said), "%s", line);
}

/* Policies come linked in, or else from module files of the build tree. */
static struct kvmod_ctx *context(bool linked_in)
{
	struct kvmod_ctx *ctx;

	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, listen, NULL);
	n_said = 0;
	for (int i = 0; linked_in && i < N_POLICIES; i++)
		ck_assert_msg(kvmod_add_builtin(ctx, policies[i].module) == 0, "%s",
			      kvmod_error());
	return ctx;
}

static const char *threads = "kvmod.threads=2";

/* params: "key=value key=value" */
static struct kvmod_policy *open_policy(struct kvmod_ctx *ctx, const char *name,
					const char *params, const struct kv_shape *shape)
{
	struct kvmod_model model = madeup_model(shape);
	struct kvmod_policy *policy;
	char copy[256], text[8][128];
	const char *overrides[9] = { threads };
	size_t n = 0;

	snprintf(copy, sizeof(copy), "%s", params);
	for (char *param = strtok(copy, " "); param; param = strtok(NULL, " ")) {
		snprintf(text[n], sizeof(text[n]), "policy %s.%s", name, param);
		overrides[n + 1] = text[n];
		n++;
	}
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", overrides, n + 1) == 0, "%s",
		      kvmod_error());
	ck_assert_msg(kvmod_policy_open(ctx, name, "cpu", &model, &policy) == 0, "%s",
		      kvmod_error());
	return policy;
}

static struct kvmod_plan *decide(struct kvmod_policy *policy, const struct kvmod_request *request)
{
	struct kvmod_plan *plan;

	ck_assert_int_eq(kvmod_plan_new(request, &plan), 0);
	ck_assert_msg(kvmod_decide(policy, request, plan) == 0, "%s", kvmod_error());
	return plan;
}

/* Opens, decides once, closes; every segment's plan has passed the core's checks. */
static struct kvmod_plan *decide_once(struct kvmod_ctx *ctx, const char *name, const char *params,
				      const struct madeup *m)
{
	struct kvmod_policy *policy = open_policy(ctx, name, params, &m->shape);
	struct kvmod_plan *plan = decide(policy, &m->d.request);

	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s %s: %s", name, params, said);
	kvmod_policy_close(policy);
	return plan;
}

static uint32_t total_heads(const struct madeup *m)
{
	return m->shape.n_segments * m->shape.n_kv_heads;
}

static uint32_t kept_of(const struct madeup *m, const struct kvmod_plan *plan, uint32_t head,
			uint32_t *kept)
{
	return vectors_kept(&m->d.request, plan, head / m->shape.n_kv_heads,
			    head % m->shape.n_kv_heads, kept);
}

#define MAX_N 600

/* How many positions are kept in a and not in b. */
static uint32_t only_in_a(const struct madeup *m, const struct kvmod_plan *a,
			  const struct kvmod_plan *b)
{
	uint32_t in_a[MAX_N], in_b[MAX_N], only = 0;

	for (uint32_t head = 0; head < total_heads(m); head++) {
		uint32_t n_a = kept_of(m, a, head, in_a), n_b = kept_of(m, b, head, in_b);

		for (uint32_t i = 0, j = 0; i < n_a; i++) {
			while (j < n_b && in_b[j] < in_a[i])
				j++;
			only += j == n_b || in_b[j] != in_a[i];
		}
	}
	return only;
}

static bool same_plan(const struct madeup *m, const struct kvmod_plan *a,
		      const struct kvmod_plan *b)
{
	return only_in_a(m, a, b) == 0 && only_in_a(m, b, a) == 0;
}

static struct kv_shape draw_shape(struct kv_random *r, uint32_t type)
{
	static const uint32_t dims[] = { 32, 64, 96, 128 }, groups[] = { 1, 2, 3, 4, 7 };
	uint32_t n_kv_heads = kv_random_range(r, 1, 4), n_layers = kv_random_range(r, 1, 3);

	return (struct kv_shape){
		.n_layers = n_layers,
		.n_segments = n_layers,
		.n_kv_heads = n_kv_heads,
		.n_q_heads = n_kv_heads * groups[kv_random_range(r, 0, 4)],
		.head_dim = dims[kv_random_range(r, 0, 3)],
		.type = type,
	};
}

static const struct kv_shape usual = {
	.n_layers = 3, .n_segments = 3, .n_q_heads = 9, .n_kv_heads = 3, .head_dim = 32,
	.type = KVMOD_F32,
};

/* What needs a policy has of rows is at most this. */
#define ROWS 32

static struct madeup make(const struct kv_shape *shape, uint32_t n)
{
	struct madeup m;

	ck_assert_uint_le(n, MAX_N);
	ck_assert_int_eq(madeup_first(&m, shape, n, ROWS, 0), 0);
	return m;
}

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
			ck_assert_msg(vectors_run(ctx, "/dev/null", &threads, 1, c, KVMOD_F32,
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
	struct kvmod_ctx *ctx = context(true);

	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++)
		if (kv_simd_set_level(level))
			ck_assert_uint_eq(run_vectors(ctx, policies[_i].module->name),
					  policies[_i].n_cases);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(golden_as_module)
{
	struct kvmod_ctx *ctx = context(false);

	ck_assert_uint_eq(run_vectors(ctx, policies[_i].module->name), policies[_i].n_cases);
	kvmod_unref(ctx);
}
END_TEST

/* --- any policy, any cache -------------------------------------------------------------- */

/* Linked in or loaded, alone or with threads: the same plan. */
START_TEST(plans_pass_and_repeat)
{
	const char *name = policies[_i].module->name;
	struct kvmod_ctx *in = context(true), *as_module = context(false);
	struct kv_random r = { 10 + (uint64_t)_i };

	for (int round = 0; round < 12; round++) {
		struct kv_shape shape = draw_shape(&r, KVMOD_F32 + (uint32_t)round % 4);
		struct madeup m = make(&shape, kv_random_range(&r, 1, 200));
		struct kvmod_plan *a, *b;

		threads = "kvmod.threads=1";
		a = decide_once(in, name, "", &m);
		threads = "kvmod.threads=3";
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

static const struct {
	const char *name;
	const char *steps[4];		/* each keeps what the one before it keeps */
} rising[] = {
	{ "random", { "budget=1", "budget=20", "budget=0.5", "budget=1.0" } },
	{ "snapkv", { "budget=33", "budget=50", "budget=0.5", "budget=100%" } },
	{ "streamingllm", { "budget=5", "budget=60", "budget=50%", "budget=1.0" } },
	{ "topp", { "p=0.1 whole_layers=0", "p=0.5 whole_layers=0", "p=0.9 whole_layers=0",
		    "p=1 whole_layers=0" } },
	{ "adakv", { "budget=33 alpha=1", "budget=50 alpha=1", "budget=0.5 alpha=1",
		     "budget=1.0" } },
};

START_TEST(more_budget_never_loses_a_position)
{
	struct kvmod_ctx *ctx = context(true);
	struct madeup m = make(&usual, 300);
	struct kvmod_plan *less = NULL, *more;

	for (int step = 0; step < 4; step++, less = more) {
		more = decide_once(ctx, rising[_i].name, rising[_i].steps[step], &m);
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

START_TEST(budget_is_what_is_kept)
{
	static const struct {
		const char *name, *params;
		uint32_t kept;		/* of 301 positions, a head */
	} cases[] = {
		{ "random", "budget=0.25", 75 },
		{ "random", "budget=0", 1 },
		{ "snapkv", "budget=0.25", 75 },
		{ "snapkv", "budget=10", 32 },
		{ "snapkv", "budget=10 window=10", 10 },
		{ "streamingllm", "budget=100", 100 },
		{ "streamingllm", "budget=0.25 sinks=0", 75 },
		{ "streamingllm", "budget=3 sinks=8", 9 },
		{ "adakv", "budget=0.25", 75 },
	};
	struct kvmod_ctx *ctx = context(true);
	struct madeup m = make(&usual, 301);

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct kvmod_plan *plan = decide_once(ctx, cases[i].name, cases[i].params, &m);
		uint32_t kept[MAX_N], all = 0;

		for (uint32_t head = 0; head < total_heads(&m); head++)
			all += kept_of(&m, plan, head, kept);
		/* AdaKV rounds each head's share. */
		ck_assert_msg(fabs((double)all / total_heads(&m) - cases[i].kept) <=
			      (strcmp(cases[i].name, "adakv") == 0), "%s %s keeps %u",
			      cases[i].name, cases[i].params, all);
		kvmod_plan_free(plan);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* The same cache with K as floats: what Q4_0 reads back as. */
static struct madeup as_floats(const struct madeup *from)
{
	struct kv_shape shape = from->shape;
	struct madeup to;

	shape.type = KVMOD_F32;
	to = make(&shape, from->d.heads[0].n);
	for (uint32_t i = 0; i < shape.n_segments * shape.n_kv_heads; i++)
		for (uint32_t row = 0; row < to.d.heads[i].n; row++)
			kv_cpu_to_f32(from->shape.type,
				      (const char *)from->d.heads[i].k.data + row * from->d.heads[i].k.stride,
				      shape.head_dim,
				      (float *)((char *)(uintptr_t)to.d.heads[i].k.data +
						row * to.d.heads[i].k.stride));
	return to;
}

START_TEST(q4_0_is_read_as_what_it_says)
{
	static const char *const names[] = { "snapkv", "adakv", "topp" };
	struct kvmod_ctx *ctx = context(true);
	struct kv_shape shape = usual;
	struct madeup blocks, floats;
	struct kvmod_plan *a, *b;

	shape.type = KVMOD_Q4_0;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		blocks = make(&shape, 300);
		floats = as_floats(&blocks);
		a = decide_once(ctx, names[i], "", &blocks);
		b = decide_once(ctx, names[i], "", &floats);
		ck_assert_uint_eq(only_in_a(&blocks, a, b), 0);
		ck_assert_uint_eq(only_in_a(&blocks, b, a), 0);
		ck_assert_double_lt(kvmod_plan_budget(&blocks.d.request, a), 1);
		kvmod_plan_free(a);
		kvmod_plan_free(b);
		madeup_free(&blocks);
		madeup_free(&floats);
	}
	kvmod_unref(ctx);
}
END_TEST

START_TEST(types_of_k_agree)
{
	static const char *const names[] = { "snapkv", "adakv", "topp" };
	struct kvmod_ctx *ctx = context(true);
	struct kv_shape shape = usual;
	struct madeup exact, other;
	struct kvmod_plan *a, *b;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		for (uint32_t type = KVMOD_F16; type <= KVMOD_Q8_0; type++) {
			exact = make(&usual, 300);
			shape.type = type;
			other = make(&shape, 300);
			a = decide_once(ctx, names[i], "", &exact);
			b = decide_once(ctx, names[i], "", &other);
			/* Rounding of K moves a few of 2700 across the cut. */
			ck_assert_uint_le(only_in_a(&exact, a, b) + only_in_a(&exact, b, a), 54);
			kvmod_plan_free(a);
			kvmod_plan_free(b);
			madeup_free(&exact);
			madeup_free(&other);
		}
	kvmod_unref(ctx);
}
END_TEST

/* --- what each must do besides ---------------------------------------------------------- */

START_TEST(raised_budget_is_said_once)
{
	struct kvmod_ctx *ctx = context(true);
	struct madeup m = make(&usual, 100);
	struct kvmod_policy *policy = open_policy(ctx, "snapkv", "budget=5", &usual);

	for (int i = 0; i < 3; i++)
		kvmod_plan_free(decide(policy, &m.d.request));
	ck_assert_uint_eq(n_said, 1);
	ck_assert_ptr_nonnull(strstr(said, "raised to 32"));
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(even_pool_is_refused)
{
	static const char *const names[] = { "snapkv", "adakv" };
	struct kvmod_model model = madeup_model(&usual);
	struct kvmod_ctx *ctx = context(true);
	struct kvmod_policy *policy;
	char text[64];
	const char *override = text;

	for (int i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), "policy %s.pool=4", names[i]);
		ck_assert_int_eq(kvmod_configure(ctx, "/dev/null", &override, 1), 0);
		ck_assert_int_eq(kvmod_policy_open(ctx, names[i], "cpu", &model, &policy),
				 KVMOD_EINVAL);
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
		{ "topp", "p=0.495 whole_layers=0" },
	};
	static const uint32_t oldest[] = { 50 - 32, 50 - 32, 50 };
	struct kvmod_ctx *ctx = context(true);
	struct madeup m = make(&usual, 100);

	memset(m.bytes, 0, m.n_bytes);
	for (int i = 0; i < 3; i++) {
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

START_TEST(numbers_that_are_not_finite)
{
	static const char *const cases[][2] = {
		{ "snapkv", "budget=50" }, { "adakv", "budget=50" }, { "topp", "whole_layers=0" },
	};
	struct kvmod_ctx *ctx = context(true);
	struct madeup m = make(&usual, 100);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;
	/* Key 50 of KV head 1 in the last layer. */
	const struct kvmod_head *head = &m.d.heads[2 * 3 + 1];
	float bad = _i ? INFINITY : NAN;

	memcpy(m.bytes + ((const unsigned char *)head->k.data - m.bytes) + 50 * head->k.stride,
	       &bad, sizeof(bad));
	for (int i = 0; i < 3; i++) {
		policy = open_policy(ctx, cases[i][0], cases[i][1], &usual);
		ck_assert_int_eq(kvmod_plan_new(&m.d.request, &plan), 0);
		/* That layer stays whole, and no other. */
		ck_assert_int_eq(kvmod_decide(policy, &m.d.request, plan), 0);
		ck_assert_ptr_nonnull(strstr(said, "layer 2: KV head 1: attention is not finite"));
		for (uint32_t s = 0; s < 3; s++) {
			ck_assert_int_eq(kvmod_keep_at(plan, s)->status,
					 s == 2 ? KVMOD_ENUMERIC : 0);
			ck_assert_uint_eq(kvmod_keep_at(plan, s)->kind,
					  s == 2 ? KVMOD_KEEP_ALL : KVMOD_KEEP_HEADS);
		}
		kvmod_plan_free(plan);
		kvmod_policy_close(policy);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* A second prompt after a ragged cut: each head by the tokens seen, but no set a layer. */
START_TEST(ragged_second_turn)
{
	const char *name = policies[_i].module->name;
	struct kvmod_ctx *ctx = context(true);
	struct madeup first = make(&usual, 300), second;
	struct kvmod_plan *cut = decide_once(ctx, "topp", "whole_layers=0", &first), *plan;
	struct kvmod_policy *policy = open_policy(ctx, name, "", &usual);

	ck_assert_int_eq(madeup_next(&second, &first, cut, 40, 20, 0), 0);
	ck_assert_uint_ne(second.d.heads[0].n, second.d.heads[1].n);
	plan = decide(policy, &second.d.request);
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_int_eq(kvmod_keep_at(plan, i)->status,
				 strcmp(name, "streamingllm") ? 0 : KVMOD_ENOTSUP);
	if (strcmp(name, "snapkv") == 0)
		for (uint32_t g = 0; g < 3; g++)
			ck_assert_uint_eq(kvmod_plan_count(&second.d.request, plan, 0, g),
					  second.d.heads[g].n < 340 / 4 ? second.d.heads[g].n : 340 / 4);
	if (strcmp(name, "streamingllm") == 0)
		ck_assert_ptr_nonnull(strstr(said, "one set a layer"));
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
	struct kvmod_ctx *ctx = context(true);
	struct kvmod_policy *count = open_policy(ctx, "streamingllm", "budget=50 every=8", &usual);
	struct kvmod_policy *share;

	ck_assert_uint_eq(kvmod_policy_needs(count)->decode_every, 8);
	ck_assert_uint_eq(stream(count, 8, 30, 50), 50);
	kvmod_policy_close(count);

	/* A fraction is of all that was seen, so it does not eat itself up. */
	share = open_policy(ctx, "streamingllm", "budget=0.5 every=0", &usual);
	ck_assert_uint_eq(kvmod_policy_needs(share)->decode_every, 0);
	ck_assert_uint_eq(stream(share, 8, 30, 216), (200 + 8 * 29) / 2);
	kvmod_policy_close(share);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(random_draws)
{
	struct kvmod_ctx *ctx = context(true);
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
	struct kvmod_ctx *ctx = context(true);
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
	struct kvmod_ctx *ctx = context(false);
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

int main(void)
{
	Suite *suite = suite_create("policies");
	TCase *tcase = tcase_create("policies");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, golden_linked_in, 0, N_POLICIES);
	tcase_add_loop_test(tcase, golden_as_module, 0, N_POLICIES);
	tcase_add_loop_test(tcase, plans_pass_and_repeat, 0, N_POLICIES);
	tcase_add_loop_test(tcase, more_budget_never_loses_a_position, 0, 5);
	tcase_add_test(tcase, budget_is_what_is_kept);
	tcase_add_test(tcase, types_of_k_agree);
	tcase_add_test(tcase, q4_0_is_read_as_what_it_says);
	tcase_add_test(tcase, raised_budget_is_said_once);
	tcase_add_test(tcase, even_pool_is_refused);
	tcase_add_test(tcase, ties_go_to_the_older);
	tcase_add_loop_test(tcase, numbers_that_are_not_finite, 0, 2);
	tcase_add_loop_test(tcase, ragged_second_turn, 0, N_POLICIES);
	tcase_add_test(tcase, streaming_stays_bounded);
	tcase_add_test(tcase, random_draws);
	tcase_add_loop_test(tcase, parameters_on_a_gpu, 0, 3);
	tcase_add_loop_test(tcase, no_more_workers_than_scratch, 0, N_POLICIES);
	suite_add_tcase(suite, tcase);
	simd_say_missing();
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
