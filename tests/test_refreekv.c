/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV: golden vectors, and random caches against double arithmetic. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/kvmod.h>

#include "core/testkit/vectors.h"
#include "kernels/cpu/simd.h"
#include "tests/simd_levels.h"
#include "core/testkit/random.h"
#include "tests/refreekv_layer.h"
#include "tests/refreekv_reference.h"

#define LEVELS (KV_SIMD_AVX512 + 1)
#define MAX_N 4200	/* three chunks */

extern const struct kvmod_module kvmod_module_refreekv;

static void quiet(void *arg, uint32_t level, const char *line)
{
	char *last = arg;

	if (last && level <= KVMOD_WARN)
		snprintf(last, 256, "%s", line);
}

static struct kvmod_ctx *context(char **overrides, size_t n, char *last)
{
	struct kvmod_ctx *ctx;

	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, quiet, last);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &kvmod_module_refreekv), 0);
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", (const char *const *)overrides, n) == 0,
		      "%s", kvmod_error());
	return ctx;
}

/* --- golden vectors ---------------------------------------------------------------- */

static void check_case(const struct vectors_case *c)
{
	char *overrides[VECTORS_MAX_PARAMS], why[256];
	size_t n = vectors_overrides(c, overrides);
	struct kvmod_ctx *ctx = context(overrides, n, NULL);
	struct kvmod_model model = vectors_model(c);
	struct vectors_request r;
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;

	ck_assert_msg(kvmod_policy_open(ctx, "refreekv", "cpu", &model, &policy) == 0,
		      "%s: %s", c->name, kvmod_error());
	ck_assert_int_eq(vectors_request(c, KVMOD_F32, &r), 0);
	ck_assert_int_eq(kvmod_plan_new(&r.d.request, &plan), 0);
	ck_assert_msg(kvmod_decide(policy, &r.d.request, plan) == 0, "%s: %s", c->name, kvmod_error());
	ck_assert_msg(vectors_match(c, &r.d.request, plan, why, sizeof(why)), "%s: %s", c->name, why);
	kvmod_plan_free(plan);
	vectors_request_free(&r);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	while (n)
		free(overrides[--n]);
}

static unsigned check_file(const char *path)
{
	struct vectors v;
	struct vectors_case *c;
	unsigned n = 0;
	int more;

	ck_assert_int_eq(vectors_open(&v, path), 0);
	while ((more = vectors_next(&v, &c)) > 0) {
		if (strcmp(c->policy, "refreekv") == 0) {
			check_case(c);
			n++;
		}
		vectors_case_free(c);
	}
	ck_assert_msg(more == 0, "%s", v.error);
	vectors_close(&v);
	return n;
}

START_TEST(golden)
{
	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	ck_assert_uint_eq(check_file(GOLDEN "refreekv.txt"), 81);
	ck_assert_uint_eq(check_file(GOLDEN "policies.txt"), 8);
}
END_TEST

/* --- random layers ------------------------------------------------------------------- */

/* Mostly within a tile, some of several tiles, a few of several chunks. */
static uint32_t random_length(struct kv_random *r)
{
	uint32_t kind = kv_random_range(r, 0, 39);

	if (kind == 0)
		return kv_random_range(r, 1900, MAX_N);
	return kind < 10 ? kv_random_range(r, 321, 1200) : kv_random_range(r, 1, 320);
}

static struct shape random_shape(struct kv_random *r, uint32_t type)
{
	static const uint32_t heads[][2] = { { 9, 3 }, { 4, 1 }, { 5, 5 }, { 14, 2 }, { 8, 2 }, { 6, 3 } };
	uint32_t i = kv_random_range(r, 0, 5);
	struct shape s = {
		.type = type,
		.n = random_length(r),
		.n_q_heads = heads[i][0], .n_kv_heads = heads[i][1],
		.head_dim = type == KVMOD_Q8_0 ? 32 * kv_random_range(r, 1, 4) : 8 * kv_random_range(r, 1, 16),
		.ragged = kv_random_range(r, 0, 2) == 0,
	};

	s.n_rows = kv_random_range(r, 1, 12);
	if (s.n_rows > s.n)
		s.n_rows = s.n;
	return s;
}

static struct reference_params random_params(struct kv_random *r)
{
	static const double thresholds[] = { 0.01, 0.05, 0.2, 0.5, 0.9, 1 };
	struct reference_params p = {
		.threshold = thresholds[kv_random_range(r, 0, 5)],
		.sinks = kv_random_range(r, 0, 3) ? 4 : kv_random_range(r, 0, 130),
		.recent = kv_random_range(r, 0, 3) ? 1 : kv_random_range(r, 1, 120),
		.rows = kv_random_range(r, 0, 1) ? 1 : kv_random_range(r, 1, 12),
		.window = kv_random_range(r, 1, 12),
		.by_attention = kv_random_range(r, 0, 2) == 0,
	};

	p.norm_all = !p.by_attention && kv_random_range(r, 0, 2) == 0;
	return p;
}

struct opened {
	struct kvmod_ctx *ctx;
	struct kvmod_policy *policy;
	char last[256];		/* of what was logged */
};

static void policy_open(struct opened *o, const struct reference_params *p, int threads)
{
	struct kvmod_model model = { .size = sizeof(model), .n_layers = 1, .name = "made-up" };
	char *overrides[9];
	size_t n = 0;

	ck_assert(asprintf(&overrides[n++], "kvmod.threads=%d", threads) > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.threshold=%g", p->threshold) > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.sinks=%u", p->sinks) > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.recent=%u", p->recent) > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.rows=%u", p->rows) > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.window=%u", p->window) > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.rank=%s",
			   p->by_attention ? "attention" : "position") > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.norm_scope=%s",
			   p->norm_all ? "all" : "ranked") > 0);
	ck_assert(asprintf(&overrides[n++], "policy refreekv.whole_layers=0") > 0);
	o->last[0] = '\0';
	o->ctx = context(overrides, n, o->last);
	ck_assert_msg(kvmod_policy_open(o->ctx, "refreekv", "cpu", &model, &o->policy) == 0,
		      "%s", kvmod_error());
	while (n)
		free(overrides[--n]);
}

static void policy_close(struct opened *o)
{
	kvmod_policy_close(o->policy);
	kvmod_unref(o->ctx);
}

static struct kvmod_plan *decide(struct opened *o, const struct kvmod_request *request)
{
	struct kvmod_plan *plan;

	ck_assert_int_eq(kvmod_plan_new(request, &plan), 0);
	ck_assert_msg(kvmod_decide(o->policy, request, plan) == 0, "%s", kvmod_error());
	return plan;
}

/* kept[i] of one KV head */
static void plan_read(const struct kvmod_request *request, const struct kvmod_plan *plan,
		      uint32_t segment, uint32_t g, uint32_t n, unsigned char *kept)
{
	uint32_t *list = malloc(n * sizeof(*list)), count, i;

	ck_assert_ptr_nonnull(list);
	count = vectors_kept(request, plan, segment, g, list);
	memset(kept, 0, n);
	for (i = 0; i < count; i++)
		kept[list[i]] = 1;
	free(list);
}

/* Is the plan the reference's, wherever no decision is within rounding of another? */
static void check_plan(const struct layer *l, const struct kvmod_plan *plan,
		       const struct reference *ref, const char *what)
{
	uint32_t n = l->heads[0].n, g;
	unsigned char kept[MAX_N];

	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, ref->finite ? 0 : KVMOD_ENUMERIC);
	if (!ref->finite || ref->margin < 2e-5)
		return;
	ck_assert_msg(kvmod_plan_count(&l->request, plan, 0, 0) == ref->count,
		      "%s: keeps %u, expected %u of %u (margin %g)", what,
		      (unsigned)kvmod_plan_count(&l->request, plan, 0, 0), ref->count, n, ref->margin);
	ck_assert_msg(fabs(kvmod_keep_at(plan, 0)->loss - ref->loss) < 3e-4 * ref->loss + 1e-6,
		      "%s: loss %.9g, expected %.9g (margin %g, tie %g)", what, kvmod_keep_at(plan, 0)->loss,
		      ref->loss, ref->margin, ref->tie);
	for (g = 0; g < l->segment.n_kv_heads && ref->tie > 1e-4; g++) {
		plan_read(&l->request, plan, 0, g, n, kept);
		ck_assert_msg(memcmp(kept, ref->kept + (size_t)g * n, n) == 0,
			      "%s: another set for KV head %u", what, g);
	}
}

static void describe(char *text, size_t room, const struct shape *s, const struct reference_params *p)
{
	snprintf(text, room, "%s n=%u heads=%u/%u dim=%u given=%u ragged=%d; threshold=%g sinks=%u "
		 "recent=%u rows=%u window=%u attention=%d all=%d", kv_type_name(s->type), s->n,
		 s->n_q_heads, s->n_kv_heads, s->head_dim, s->n_rows, s->ragged, p->threshold,
		 p->sinks, p->recent, p->rows, p->window, p->by_attention, p->norm_all);
}

static void check_random(struct kv_random *r, uint32_t type)
{
	struct shape s = random_shape(r, type);
	struct reference_params p = random_params(r);
	struct reference ref;
	struct opened o;
	struct layer l;
	struct kvmod_plan *plan;
	char what[256];

	describe(what, sizeof(what), &s, &p);
	layer_make(&l, r, &s);
	policy_open(&o, &p, 2);
	ck_assert_int_eq(reference_decide(&l.segment, &p, &ref), 0);
	plan = decide(&o, &l.request);
	check_plan(&l, plan, &ref, what);
	kvmod_plan_free(plan);
	free(ref.kept);
	policy_close(&o);
	layer_free(&l);
}

START_TEST(random_layers)
{
	struct kv_random r = { 7 };

	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	for (int round = 0; round < 60; round++)
		for (uint32_t type = KVMOD_F32; type <= KVMOD_Q8_0; type++)
			check_random(&r, type);
}
END_TEST

/* --- properties ------------------------------------------------------------------------ */

static bool plans_equal(const struct kvmod_request *request, const struct kvmod_plan *a,
			const struct kvmod_plan *b)
{
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		if (memcmp(&kvmod_keep_at(a, i)->loss, &kvmod_keep_at(b, i)->loss, sizeof(double)))
			return false;
		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			uint32_t n = kvmod_head_at(s, g)->n;
			unsigned char x[MAX_N], y[MAX_N];

			plan_read(request, a, i, g, n, x);
			plan_read(request, b, i, g, n, y);
			if (memcmp(x, y, n))
				return false;
		}
	}
	return true;
}

/* Bit by bit the same for any number of threads. */
START_TEST(threads)
{
	static const int counts[] = { 1, 2, 5 };
	struct kv_random r = { 11 };

	for (int round = 0; round < 12; round++) {
		struct shape s = random_shape(&r, KVMOD_F16);
		struct reference_params p = random_params(&r);
		struct kvmod_plan *plan[3];
		struct opened o[3];
		struct layer l;

		s.n = MAX_N - s.n % 700;
		layer_make(&l, &r, &s);
		for (int t = 0; t < 3; t++) {
			policy_open(&o[t], &p, counts[t]);
			plan[t] = decide(&o[t], &l.request);
		}
		ck_assert(plans_equal(&l.request, plan[0], plan[1]));
		ck_assert(plans_equal(&l.request, plan[0], plan[2]));
		for (int t = 0; t < 3; t++) {
			kvmod_plan_free(plan[t]);
			policy_close(&o[t]);
		}
		layer_free(&l);
	}
}
END_TEST

/* The more may be lost, the fewer are kept. */
START_TEST(threshold_falls)
{
	static const double thresholds[] = { 0, 1e-6, 0.001, 0.01, 0.05, 0.2, 0.6, 1 };
	struct kv_random r = { 13 };
	struct shape s = { KVMOD_F16, 500, 9, 3, 64, 3, false };
	struct reference_params p = { .sinks = 4, .recent = 3, .rows = 1, .window = 8 };
	uint64_t before = s.n;
	struct layer l;

	layer_make(&l, &r, &s);
	for (size_t i = 0; i < sizeof(thresholds) / sizeof(*thresholds); i++) {
		struct opened o;
		struct kvmod_plan *plan;
		uint64_t count;

		p.threshold = thresholds[i];
		policy_open(&o, &p, 1);
		plan = decide(&o, &l.request);
		count = kvmod_plan_count(&l.request, plan, 0, 0);
		ck_assert(count <= before && (i > 0 || count == s.n));
		before = count;
		kvmod_plan_free(plan);
		policy_close(&o);
	}
	ck_assert_uint_eq(before, 7);	/* threshold 1: sinks and recent */
	layer_free(&l);
}
END_TEST

/* A bad key or query leaves its layer whole, says so, and no other layer. */
START_TEST(not_finite)
{
	static const float bad[] = { NAN, INFINITY };
	struct kv_random r = { 17 };
	struct shape s = { KVMOD_F32, 300, 4, 2, 16, 9, false };
	struct reference_params p = { 0.3, 4, 1, 1, 8, _i & 1, false };
	struct layer l[2];
	struct kvmod_segment segments[2];
	const struct kvmod_segment *list[] = { &segments[0], &segments[1] };
	struct kvmod_request request;
	struct kvmod_plan *plan;
	struct opened o;

	policy_open(&o, &p, 2);
	layer_make(&l[0], &r, &s);
	layer_make(&l[1], &r, &s);
	l[0].segment.softcap = l[1].segment.softcap = 0;
	/* dimension 3 at position 150 of the second KV head, which a query likes; or a query */
	((float *)(void *)l[0].q)[((s.n_rows - 1) * s.n_q_heads + 2) * s.head_dim + 3] = 1;
	if (_i & 4)
		((float *)(void *)l[0].q)[(s.n_rows - 1) * s.n_q_heads * s.head_dim] = bad[_i >> 1 & 1];
	else
		memcpy((char *)(uintptr_t)l[0].heads[1].k.data + 150 * l[0].heads[1].k.stride + 12,
		       &bad[_i >> 1 & 1], sizeof(float));
	segments[0] = l[0].segment;
	segments[1] = l[1].segment;
	segments[1].sequence = 1;
	request = l[0].request;
	request.n_segments = 2;
	request.segments = list;
	plan = decide(&o, &request);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_ENUMERIC);
	ck_assert_uint_eq(kvmod_plan_count(&request, plan, 0, 1), s.n);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, 0);
	ck_assert_uint_lt(kvmod_plan_count(&request, plan, 1, 1), s.n);
	ck_assert_ptr_nonnull(strstr(o.last, "attention is not finite"));
	kvmod_plan_free(plan);
	policy_close(&o);
	layer_free(&l[0]);
	layer_free(&l[1]);
}
END_TEST

/* After a ragged policy there is no one length for a layer. */
START_TEST(unequal_heads)
{
	struct kv_random r = { 19 };
	struct shape s = { KVMOD_F32, 60, 4, 2, 8, 1, false };
	struct reference_params p = { .threshold = 0.3, .sinks = 4, .recent = 1, .rows = 1, .window = 8 };
	struct kvmod_plan *plan;
	struct opened o;
	struct layer l;

	policy_open(&o, &p, 1);
	layer_make(&l, &r, &s);
	l.heads[1].n = 40;
	plan = decide(&o, &l.request);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_ENOTSUP);
	ck_assert_ptr_nonnull(strstr(o.last, "different lengths"));
	kvmod_plan_free(plan);
	policy_close(&o);
	layer_free(&l);
}
END_TEST

/* Wide logits: the sinks take all there is, as far as fp32 goes. */
START_TEST(nothing_left)
{
	struct kv_random r = { 23 };
	struct shape s = { KVMOD_F32, 50, 2, 1, 8, 1, false };
	struct reference_params p = { .threshold = 0.3, .sinks = 1, .recent = 1, .rows = 1, .window = 8 };
	struct kvmod_plan *plan;
	struct opened o;
	struct layer l;
	float *k;

	policy_open(&o, &p, 1);
	layer_make(&l, &r, &s);
	l.segment.softcap = 0;
	for (uint32_t h = 0; h < 2; h++)
		for (uint32_t d = 0; d < 8; d++)
			((float *)(void *)l.q)[h * 8 + d] = 10;
	for (uint32_t d = 0; d < 8; d++) {
		k = (float *)(uintptr_t)l.heads[0].k.data;
		memcpy(k + d, &(float){ 100 }, sizeof(float));
	}
	plan = decide(&o, &l.request);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	ck_assert_uint_eq(kvmod_plan_count(&l.request, plan, 0, 0), 50);
	kvmod_plan_free(plan);
	policy_close(&o);
	layer_free(&l);
}
END_TEST

static void expect_layers(const char *whole, const char *expected)
{
	char *overrides[2] = { NULL, NULL }, kept[6] = "";
	struct kvmod_model model = { .size = sizeof(model), .n_layers = 5, .name = "made-up" };
	struct kv_random r = { 29 };
	struct shape s = { KVMOD_F16, 200, 4, 2, 16, 1, false };
	struct kvmod_segment segments[5];
	const struct kvmod_segment *list[5];
	struct kvmod_request request;
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;
	struct kvmod_ctx *ctx;
	struct layer l;

	ck_assert(asprintf(&overrides[0], "policy refreekv.whole_layers=%s", whole) > 0);
	ck_assert(asprintf(&overrides[1], "policy refreekv.threshold=1") > 0);
	ctx = context(overrides, 2, NULL);
	layer_make(&l, &r, &s);
	request = l.request;
	request.n_layers = request.n_segments = 5;
	request.segments = list;
	kvmod_list_segments(list, segments, 5);
	for (uint32_t i = 0; i < 5; i++) {
		segments[i] = l.segment;
		segments[i].layer = i;
	}
	ck_assert_int_eq(kvmod_policy_open(ctx, "refreekv", "cpu", &model, &policy), 0);
	ck_assert_int_eq(kvmod_plan_new(&request, &plan), 0);
	ck_assert_int_eq(kvmod_decide(policy, &request, plan), 0);
	for (uint32_t i = 0; i < 5; i++)
		kept[i] = kvmod_plan_count(&request, plan, i, 0) == 200 ? 'w' : '.';
	ck_assert_str_eq(kept, expected);
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	layer_free(&l);
	free(overrides[0]);
	free(overrides[1]);
}

START_TEST(whole_layers)
{
	expect_layers("2", "ww...");
	expect_layers("0", ".....");
	expect_layers("5", "wwwww");
	expect_layers("1,3-4", ".w.ww");
	expect_layers("3,", "...w.");
}
END_TEST

/* Rows as a fraction are of the cached length: the same as that many. */
START_TEST(rows_fraction)
{
	char *overrides[] = { strdup("policy refreekv.rows=5%"), strdup("policy refreekv.whole_layers=0"),
			      strdup("policy refreekv.threshold=0.2") };
	struct kvmod_model model = { .size = sizeof(model), .n_layers = 1, .name = "made-up" };
	struct kv_random r = { 31 };
	struct shape s = { KVMOD_F32, 200, 4, 2, 16, 12, false };
	struct reference_params p = { .threshold = 0.2, .sinks = 4, .recent = 1, .rows = 10, .window = 8 };
	struct kvmod_ctx *ctx = context(overrides, 3, NULL);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;
	struct reference ref;
	struct layer l;

	layer_make(&l, &r, &s);
	ck_assert_int_eq(kvmod_policy_open(ctx, "refreekv", "cpu", &model, &policy), 0);
	ck_assert(!kvmod_policy_needs(policy)->rows.is_count);
	ck_assert_int_eq(reference_decide(&l.segment, &p, &ref), 0);
	ck_assert_int_eq(kvmod_plan_new(&l.request, &plan), 0);
	ck_assert_int_eq(kvmod_decide(policy, &l.request, plan), 0);
	ck_assert_double_gt(ref.margin, 2e-5);
	check_plan(&l, plan, &ref, "rows=5%");
	kvmod_plan_free(plan);
	free(ref.kept);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	layer_free(&l);
	for (int i = 0; i < 3; i++)
		free(overrides[i]);
}
END_TEST

START_TEST(refused_together)
{
	char *overrides[] = { strdup("policy refreekv.rank=attention"), strdup("policy refreekv.norm_scope=all") };
	struct kvmod_model model = { .size = sizeof(model), .n_layers = 1, .name = "made-up" };
	struct kvmod_ctx *ctx = context(overrides, 2, NULL);
	struct kvmod_policy *policy;

	ck_assert_int_eq(kvmod_policy_open(ctx, "refreekv", "cpu", &model, &policy), KVMOD_EINVAL);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "norm_scope = all goes with rank = position"));
	kvmod_unref(ctx);
	free(overrides[0]);
	free(overrides[1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("refreekv");
	TCase *tc = tcase_create("decisions");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, golden, 0, LEVELS);
	tcase_add_loop_test(tc, random_layers, 0, LEVELS);
	tcase_add_test(tc, threads);
	tcase_add_test(tc, threshold_falls);
	tcase_add_loop_test(tc, not_finite, 0, 8);
	tcase_add_test(tc, unequal_heads);
	tcase_add_test(tc, nothing_left);
	tcase_add_test(tc, whole_layers);
	tcase_add_test(tc, rows_fraction);
	tcase_add_test(tc, refused_together);
	suite_add_tcase(suite, tc);
	simd_say_missing();
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
