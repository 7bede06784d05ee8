/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyramidkv, cake, criticalkv and defensivekv, held against references in double precision:
 * caches of any shape, several sequences, layers in any order, layers that cache a window,
 * conversations, and a layer that fails.
 */
#include "tests/policies.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/layers_reference.h"

static const char *const names[] = { "pyramidkv", "cake", "criticalkv", "defensivekv" };
#define N_RULES 4
/* A choice nearer than this may fall otherwise in single precision. */
#define NEAR 2e-5

/* --- parameters ------------------------------------------------------------------------- */

static void print_params(const struct layers_params *p, char *out, size_t room)
{
	int n = p->count ? snprintf(out, room, "budget=%u ", p->count) :
		snprintf(out, room, "budget=%u.%u%% ", p->permille / 10, p->permille % 10);

	n += snprintf(out + n, room - (size_t)n, "window=%u pool=%u ", p->window, p->pool);
	out += n;
	room -= (size_t)n;
	if (p->rule == RULE_PYRAMIDKV)
		snprintf(out, room, "beta=%u pooling=%s", p->beta, p->pool_max ? "max" : "average");
	else if (p->rule == RULE_CAKE)
		snprintf(out, room, "gamma=%g tau1=%g tau2=%g", p->gamma, p->tau1, p->tau2);
	else if (p->rule == RULE_CRITICALKV)
		snprintf(out, room, "first=%g epsilon=%g pooling=%s", p->first, p->epsilon,
			 p->pool_max ? "max" : "average");
	else
		snprintf(out, room, "first=%g", p->first);
}

static struct layers_params draw_params(struct kv_random *r, enum layers_rule rule)
{
	static const double taus[] = { 0.5, 1, 1.5, 2 };
	static const double shares[] = { 0, 0.25, 0.5, 0.75, 0.9375, 1 };
	struct layers_params p = {
		.rule = rule, .permille = kv_random_range(r, 50, 900),
		.window = kv_random_range(r, 1, ROWS), .pool = 1 + 2 * kv_random_range(r, 0, 3),
		.beta = kv_random_range(r, 1, 30), .gamma = kv_random_range(r, 0, 300),
		.tau1 = taus[kv_random_range(r, 0, 3)], .tau2 = taus[kv_random_range(r, 0, 3)],
		.first = shares[kv_random_range(r, 0, 5)],
		.epsilon = kv_random_range(r, 0, 1) ? 0.25 : 0,
	};

	if (kv_random_range(r, 0, 2) == 0)
		p.count = kv_random_range(r, 1, 150);
	p.pool_max = rule != RULE_CAKE && rule != RULE_DEFENSIVEKV && kv_random_range(r, 0, 1);
	return p;
}

/* --- a decision against the reference --------------------------------------------------------- */

static bool agrees(const struct kvmod_request *request, const struct kvmod_plan *plan,
		   const struct layers_answer *answer)
{
	uint32_t kept[MAX_N];

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			const unsigned char *marks = answer->kept +
				((size_t)i * answer->n_heads + g) * answer->stride;
			uint32_t n = vectors_kept(request, plan, i, g, kept), at = 0;

			for (uint32_t k = 0; k < kvmod_head_at(s, g)->n; k++)
				if (marks[k] && (at == n || kept[at++] != k))
					return false;
			if (at != n)
				return false;
		}
	}
	return true;
}

/* The plan, and whether it is the reference's beyond doubt. */
static struct kvmod_plan *decide_and_check(struct kvmod_policy *policy,
					   const struct kvmod_request *request,
					   const struct layers_params *p, bool *sure)
{
	struct kvmod_plan *plan = decide(policy, request);
	struct layers_answer answer;
	char text[256];

	print_params(p, text, sizeof(text));
	ck_assert_int_eq(layers_decide(request, p, &answer), 0);
	for (uint32_t i = 0; i < request->n_segments; i++)
		ck_assert_int_eq(kvmod_keep_at(plan, i)->status,
				 answer.failed[i] ? KVMOD_ENUMERIC : 0);
	*sure = answer.tie > NEAR;
	ck_assert_msg(!*sure || agrees(request, plan, &answer), "%s %s: n = %u of %u",
		      names[p->rule], text, kvmod_longest_head(kvmod_segment_at(request, 0)),
		      (unsigned)kvmod_segment_at(request, 0)->logical);
	layers_free(&answer);
	return plan;
}

static struct kvmod_policy *open_rule(struct kvmod_ctx *ctx, const struct layers_params *p,
				      const struct kv_shape *shape)
{
	char text[256];

	print_params(p, text, sizeof(text));
	return open_policy(ctx, names[p->rule], text, shape);
}

/* --- caches ------------------------------------------------------------------------------ */

/*
 * Half of the cache's layers become those of a second sequence, from the last on, with fewer
 * positions than the first.
 */
static void make_two_sequences(struct madeup *m, struct kv_random *r)
{
	uint32_t n_layers = m->shape.n_layers / 2, n = m->d.heads[0].n;
	uint32_t shorter = n > 2 * ROWS ? n - kv_random_range(r, 0, n / 2 - ROWS) : n;

	m->d.request.n_layers = n_layers;
	for (uint32_t i = n_layers; i < m->shape.n_segments; i++) {
		m->d.segments[i].sequence = 7;
		m->d.segments[i].layer = 2 * n_layers - 1 - i;
		m->d.segments[i].logical = shorter;
		for (uint32_t g = 0; g < m->shape.n_kv_heads; g++)
			m->d.heads[i * m->shape.n_kv_heads + g].n = shorter;
	}
}

static void shuffle(struct madeup *m, struct kv_random *r)
{
	for (uint32_t i = m->shape.n_segments; i-- > 1;) {
		uint32_t other = kv_random_range(r, 0, i);
		const struct kvmod_segment *s = m->d.segment_list[i];

		m->d.segment_list[i] = m->d.segment_list[other];
		m->d.segment_list[other] = s;
	}
}

/* Of the model's layers the first, and every other one, caches a window and is not named. */
static void leave_out_window_layers(struct madeup *m)
{
	uint32_t n_layers = m->d.request.n_layers;

	for (uint32_t i = 0; i < m->shape.n_segments; i++)
		m->d.segments[i].layer = 2 * m->d.segments[i].layer + 1;
	m->d.request.n_layers = 2 * n_layers;
	m->d.request.n_window_layers = n_layers;
}

#define ROUNDS 25

START_TEST(caches_of_any_shape)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_random r = { 100 + (uint64_t)_i };
	unsigned n_sure = 0, n_cut = 0;

	for (int round = 0; round < ROUNDS; round++) {
		struct kv_shape shape = draw_shape(&r, KVMOD_F32 + (uint32_t)round % 5);
		struct layers_params p = draw_params(&r, (enum layers_rule)_i);
		struct kvmod_policy *policy;
		struct kvmod_plan *plan;
		struct madeup m;
		bool sure;

		shape.n_layers = shape.n_segments *= 1 + (uint32_t)round % 2;
		m = make(&shape, kv_random_range(&r, 1, 180));
		if (round % 2)
			make_two_sequences(&m, &r);
		if (round % 3 == 0)
			leave_out_window_layers(&m);
		shape.n_layers = m.d.request.n_layers;
		shuffle(&m, &r);
		policy = open_rule(ctx, &p, &shape);
		plan = decide_and_check(policy, &m.d.request, &p, &sure);
		n_sure += sure;
		n_cut += kvmod_plan_budget(&m.d.request, plan) < 1;
		kvmod_plan_free(plan);
		kvmod_policy_close(policy);
		madeup_free(&m);
	}
	ck_assert_uint_gt(n_sure, ROUNDS / 2);
	ck_assert_uint_gt(n_cut, ROUNDS / 2);
	kvmod_unref(ctx);
}
END_TEST

/* --- later turns ------------------------------------------------------------------------- */

static const struct kv_shape layers_shape = {
	.n_layers = 4, .n_segments = 4, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 32,
	.type = KVMOD_F32,
};

/* Prompts of every length; every other conversation begins with another policy's ragged cut. */
START_TEST(conversations)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_random r = { 200 + (uint64_t)_i };
	unsigned n_sure = 0;

	for (int talk = 0; talk < 4; talk++) {
		struct layers_params p = draw_params(&r, (enum layers_rule)_i);
		struct kvmod_policy *policy = open_rule(ctx, &p, &layers_shape);
		struct kvmod_policy *other =
			open_policy(ctx, "topp", "p=0.8 whole_layers=0", &layers_shape);
		struct madeup m = make(&layers_shape, 150), next;

		for (int turn = 0; turn < 5; turn++) {
			bool ragged = talk % 2 && turn == 0, sure = false;
			struct kvmod_plan *plan = ragged ? decide(other, &m.d.request) :
				decide_and_check(policy, &m.d.request, &p, &sure);

			n_sure += sure;
			ck_assert_int_eq(madeup_next(&next, &m, plan, kv_random_range(&r, 1, 50),
						     ROWS, KVMOD_NEED_WO_NORM), 0);
			kvmod_plan_free(plan);
			madeup_free(&m);
			m = next;
		}
		madeup_free(&m);
		kvmod_policy_close(policy);
		kvmod_policy_close(other);
	}
	ck_assert_uint_gt(n_sure, 6);
	kvmod_unref(ctx);
}
END_TEST

/* --- a layer that fails -------------------------------------------------------------------- */

/* The others share what is theirs, as if it were not there. */
START_TEST(layer_that_fails)
{
	const struct layers_params p = {
		.rule = (enum layers_rule)_i, .permille = 250, .window = 8, .pool = 5, .beta = 20,
		.gamma = 200, .tau1 = 1, .tau2 = 1, .first = 0.25, .epsilon = 1e-4,
	};
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&layers_shape, 120);
	struct kvmod_policy *policy = open_rule(ctx, &p, &layers_shape);
	const struct kvmod_head *bad = &m.d.heads[1 * 3 + 2];	/* of layer 1 */
	struct kvmod_plan *plan;
	float nan = NAN;
	bool sure;

	memcpy(m.bytes + ((const unsigned char *)bad->k.data - m.bytes), &nan, sizeof(nan));
	plan = decide_and_check(policy, &m.d.request, &p, &sure);
	ck_assert(sure);
	ck_assert_uint_eq(policies_n_said, 1);
	ck_assert_ptr_nonnull(strstr(policies_said, "layer 1: KV head 2: attention is not finite"));
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->kind, KVMOD_KEEP_ALL);
	ck_assert_uint_eq(kvmod_keep_at(plan, 2)->kind, KVMOD_KEEP_HEADS);
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* --- counts --------------------------------------------------------------------------------- */

/* Of 200 positions: what a head of the first layer and of the last keeps, and all heads. */
static const struct {
	const char *name, *params;
	uint32_t n_layers, first, last, all;	/* first and last 0: they differ */
} counts[] = {
	/* B = 30, low = 1, high = 59, steps of 19 */
	{ "pyramidkv", "budget=50 window=20", 4, 79, 22, 3 * (79 + 60 + 41 + 22) },
	{ "pyramidkv", "budget=25% window=20", 4, 79, 22, 3 * (79 + 60 + 41 + 22) },
	/* n < 2B */
	{ "pyramidkv", "budget=130 window=20", 4, 130, 130, 3 * 4 * 130 },
	/* high = 180 = m, so that low = 10; steps of 85 */
	{ "pyramidkv", "budget=115 window=20", 3, 200, 30, 3 * (200 + 115 + 30) },
	{ "pyramidkv", "budget=50 window=20", 1, 50, 50, 3 * 50 },
	{ "pyramidkv", "budget=50 window=20 beta=1", 4, 50, 50, 3 * 4 * 50 },
	/* As much as there is, and a budget below the window. */
	{ "pyramidkv", "budget=200", 4, 200, 200, 3 * 4 * 200 },
	{ "pyramidkv", "budget=9", 4, 32, 32, 3 * 4 * 32 },
	{ "cake", "budget=50", 4, 0, 0, 3 * 4 * 50 },
	{ "cake", "budget=50", 1, 50, 50, 3 * 50 },
	{ "cake", "budget=200", 4, 200, 200, 3 * 4 * 200 },
	{ "cake", "budget=9", 4, 32, 32, 3 * 4 * 32 },
	{ "criticalkv", "budget=50", 4, 50, 50, 3 * 4 * 50 },
	{ "criticalkv", "budget=200", 4, 200, 200, 3 * 4 * 200 },
	{ "criticalkv", "budget=9", 4, 32, 32, 3 * 4 * 32 },
	{ "defensivekv", "budget=50 first=0", 4, 0, 0, 3 * 4 * 50 },
	{ "defensivekv", "budget=50 first=0.2", 1, 0, 0, 3 * 50 },
	/* Attention is even, and all of the budget goes to what comes first. */
	{ "defensivekv", "budget=50", 4, 50, 50, 3 * 4 * 50 },
	{ "defensivekv", "budget=200", 4, 200, 200, 3 * 4 * 200 },
	{ "defensivekv", "budget=9", 4, 32, 32, 3 * 4 * 32 },
};

START_TEST(what_is_kept)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_shape shape = layers_shape;
	struct kvmod_plan *plan;
	struct madeup m;
	uint64_t all = 0;

	shape.n_layers = shape.n_segments = counts[_i].n_layers;
	m = make(&shape, 200);
	plan = decide_once(ctx, counts[_i].name, counts[_i].params, &m);
	for (uint32_t i = 0; i < shape.n_layers; i++)
		for (uint32_t g = 0; g < 3; g++) {
			uint64_t n = kvmod_plan_count(&m.d.request, plan, i, g);

			if (counts[_i].first && i == 0)
				ck_assert_uint_eq(n, counts[_i].first);
			if (counts[_i].last && i + 1 == shape.n_layers)
				ck_assert_uint_eq(n, counts[_i].last);
			all += n;
		}
	ck_assert_uint_eq(all, counts[_i].all);
	/* Layers of cake differ, and heads of defensivekv do. */
	if (counts[_i].first == 0)
		ck_assert_uint_ne(kvmod_plan_count(&m.d.request, plan, 0, 0),
				  kvmod_plan_count(&m.d.request, plan, shape.n_layers - 1, 2));
	ck_assert_uint_eq(policies_n_said, strstr(counts[_i].params, "budget=9") != NULL);
	ck_assert(!policies_n_said || strstr(policies_said, "raised to 32"));
	kvmod_plan_free(plan);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* After a second turn of one token there is one row, and no variance: layers are alike. */
START_TEST(cake_of_a_single_row)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m;
	struct kvmod_plan *plan;

	ck_assert_int_eq(madeup_first(&m, &layers_shape, 100, 1, 0), 0);
	plan = decide_once(ctx, "cake", "budget=45", &m);
	for (uint32_t i = 0; i < 4; i++)
		for (uint32_t g = 0; g < 3; g++)
			ck_assert_uint_eq(kvmod_plan_count(&m.d.request, plan, i, g), 45);
	kvmod_plan_free(plan);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* Norms of zero are worth nothing, and are no error. */
START_TEST(values_of_zero)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct madeup m = make(&layers_shape, 100);
	uint32_t kept[MAX_N];

	for (uint32_t i = 0; i < 4; i++) {
		const struct kvmod_view *norms = &m.d.segments[i].wo_norm;

		for (uint32_t h = 0; h < 6; h++)
			memset(m.bytes + ((const unsigned char *)norms->data - m.bytes) +
			       h * norms->head_stride, 0, 40 * sizeof(float));
	}
	for (int rule = RULE_CRITICALKV; rule <= RULE_DEFENSIVEKV; rule++) {
		struct kvmod_plan *plan = decide_once(ctx, names[rule], "budget=50 first=0", &m);

		for (uint32_t i = 0; i < 4; i++)
			for (uint32_t g = 0; g < 3; g++)
				if (vectors_kept(&m.d.request, plan, i, g, kept) <= 60)
					ck_assert_uint_ge(kept[0], 40);
		kvmod_plan_free(plan);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(needs)
{
	static const uint32_t what[N_RULES] = {
		KVMOD_NEED_K | KVMOD_NEED_ALL_LAYERS, KVMOD_NEED_K | KVMOD_NEED_ALL_LAYERS,
		KVMOD_NEED_K | KVMOD_NEED_WO_NORM,
		KVMOD_NEED_K | KVMOD_NEED_WO_NORM | KVMOD_NEED_ALL_LAYERS,
	};
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_policy *policy = open_policy(ctx, names[_i], "window=7", &layers_shape);

	ck_assert_uint_eq(kvmod_policy_needs(policy)->what, what[_i]);
	ck_assert_double_eq(kvmod_policy_needs(policy)->rows.value, 7);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	tcase_add_loop_test(tcase, caches_of_any_shape, 0, N_RULES);
	tcase_add_loop_test(tcase, conversations, 0, N_RULES);
	tcase_add_loop_test(tcase, layer_that_fails, 0, N_RULES);
	tcase_add_loop_test(tcase, what_is_kept, 0, sizeof(counts) / sizeof(*counts));
	tcase_add_test(tcase, cake_of_a_single_row);
	tcase_add_test(tcase, values_of_zero);
	tcase_add_loop_test(tcase, needs, 0, N_RULES);
}

int main(void)
{
	return policies_run("layers", add);
}
