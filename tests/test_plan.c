/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: what may be applied, what is refused and in which words; the host gather. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/kvmod.h>

#include "core/run/describe.h"

#define HEADS 2u

/* One segment of two KV heads with n positions each; no memory behind them. */
struct fixture {
	struct kv_described d;
	struct kvmod_plan *plan;
	struct kvmod_keep *keep;
};

static struct fixture *fixture_new(uint32_t n0, uint32_t n1)
{
	static const struct kv_shape shape = {
		.n_layers = 1, .n_segments = 1, .n_q_heads = HEADS, .n_kv_heads = HEADS, .head_dim = 8,
	};
	struct fixture *f = calloc(1, sizeof(*f));

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(kv_describe(&f->d, &shape, n0, 0), 0);
	f->d.heads[1].n = n1;
	ck_assert_int_eq(kvmod_plan_new(&f->d.request, &f->plan), 0);
	f->keep = kvmod_keep_at(f->plan, 0);
	return f;
}

static void fixture_free(struct fixture *f)
{
	kv_undescribe(&f->d);
	kvmod_plan_free(f->plan);
	free(f);
}

static void set_head(struct fixture *f, uint32_t g, uint32_t n, const uint32_t *index)
{
	f->keep->kind = KVMOD_KEEP_HEADS;
	f->keep->counts[g] = n;
	memcpy(f->keep->indices + g * f->keep->index_stride, index, n * sizeof(*index));
}

static void set_spans(struct fixture *f, uint32_t n, const struct kvmod_span *spans)
{
	f->keep->kind = KVMOD_KEEP_SPANS;
	f->keep->n_spans = n;
	memcpy(f->keep->spans, spans, n * sizeof(*spans));
}

static void refused(struct fixture *f, const char *why)
{
	ck_assert_int_eq(kvmod_plan_check(&f->d.request, f->plan, 0, 0), KVMOD_EPLAN);
	ck_assert_str_eq(kvmod_error(), why);
}

static void accepted(struct fixture *f, uint32_t flags)
{
	ck_assert_int_eq(kvmod_plan_check(&f->d.request, f->plan, 0, flags), 0);
}

START_TEST(new_plan_keeps_all)
{
	struct fixture *f = fixture_new(10, 6);

	accepted(f, 0);
	ck_assert_uint_eq(f->keep->kind, KVMOD_KEEP_ALL);
	ck_assert(isnan(f->keep->loss));
	ck_assert_uint_eq(kvmod_plan_count(&f->d.request, f->plan, 0, 0), 10);
	ck_assert_uint_eq(kvmod_plan_count(&f->d.request, f->plan, 0, 1), 6);
	/* Without `logical`, the tokens seen are what the longest head caches. */
	ck_assert_double_eq(kvmod_plan_budget(&f->d.request, f->plan), 16.0 / 20.0);
	f->d.segments[0].logical = 40;
	ck_assert_double_eq(kvmod_plan_budget(&f->d.request, f->plan), 16.0 / 80.0);
	fixture_free(f);
}
END_TEST

static void is_new(const struct fixture *f)
{
	static const struct kvmod_span none;
	const struct kvmod_keep *keep = kvmod_keep_at(f->plan, 0);

	ck_assert_uint_eq(f->plan->n_keeps, 1);
	ck_assert_uint_eq(keep->kind, KVMOD_KEEP_ALL);
	ck_assert_int_eq(keep->status, 0);
	ck_assert(isnan(keep->loss));
	ck_assert_uint_eq(keep->n_spans, 0);
	for (uint32_t i = 0; i < keep->max_spans; i++)
		ck_assert_mem_eq(&keep->spans[i], &none, sizeof(none));
	for (uint32_t g = 0; g < HEADS; g++)
		ck_assert_uint_eq(keep->counts[g], 0);
}

/* As dirty as a plan can be, up to the ends of its arrays. */
static void spoil(struct fixture *f, uint32_t n)
{
	struct kvmod_keep *keep = f->keep = kvmod_keep_at(f->plan, 0);

	memset(keep->spans, 0xff, keep->max_spans * sizeof(*keep->spans));
	memset(keep->counts, 0xff, HEADS * sizeof(*keep->counts));
	memset(keep->indices, 0xff, HEADS * n * sizeof(*keep->indices));
	keep->kind = KVMOD_KEEP_HEADS;
	keep->status = KVMOD_EPLAN;
	keep->loss = 1;
	keep->n_spans = 3;
}

START_TEST(renewed_plan_is_new)
{
	static const uint32_t lengths[] = { 10, 10, 3, 9, 11, 11, 4000, 2, 4001 };
	struct fixture *f = fixture_new(10, 6);

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		const struct kvmod_plan *before = f->plan;
		bool fits = f->d.heads[0].n >= lengths[i];

		spoil(f, f->d.heads[0].n);
		f->d.heads[0].n = lengths[i];
		ck_assert_int_eq(kvmod_plan_renew(&f->d.request, &f->plan), 0);
		if (fits)
			ck_assert_ptr_eq(f->plan, before);
		is_new(f);
		accepted(f, 0);
		ck_assert_uint_eq(kvmod_plan_count(&f->d.request, f->plan, 0, 0), lengths[i]);
	}
	spoil(f, 4001);
	/* what has grown has room for a little more, and no more than there is */
	for (uint32_t n = 5000; n <= 5300; n += 20) {
		const struct kvmod_plan *before = f->plan;

		f->d.heads[0].n = n;
		ck_assert_int_eq(kvmod_plan_renew(&f->d.request, &f->plan), 0);
		ck_assert(n == 5000 || f->plan == before);
		spoil(f, n);
	}
	fixture_free(f);
}
END_TEST

START_TEST(spans)
{
	struct fixture *f = fixture_new(10, 10);

	set_spans(f, 2, (struct kvmod_span[]){ { 0, 4 }, { 7, 10 } });
	accepted(f, 0);
	ck_assert_uint_eq(kvmod_plan_count(&f->d.request, f->plan, 0, 1), 7);
	ck_assert_double_eq(kvmod_plan_budget(&f->d.request, f->plan), 0.7);

	set_spans(f, 2, (struct kvmod_span[]){ { 0, 4 }, { 4, 10 } });
	accepted(f, 0);
	set_spans(f, 2, (struct kvmod_span[]){ { 0, 4 }, { 3, 10 } });
	refused(f, "span 1 begins at 3, before 4, the end of the span before");
	set_spans(f, 1, (struct kvmod_span[]){ { 5, 5 } });
	refused(f, "span 0 is 5..5, expected a part of 0..10");
	set_spans(f, 1, (struct kvmod_span[]){ { 5, 11 } });
	refused(f, "span 0 is 5..11, expected a part of 0..10");
	set_spans(f, 1, (struct kvmod_span[]){ { 0, 9 } });
	refused(f, "the newest position, 9, is missing");
	accepted(f, KVMOD_POLICY_MAY_DROP_NEWEST);
	f->keep->n_spans = 0;
	refused(f, "0 spans, expected 1 to 6");
	f->keep->n_spans = f->keep->max_spans + 1;
	refused(f, "7 spans, expected 1 to 6");
	fixture_free(f);
}
END_TEST

START_TEST(spans_need_equal_heads)
{
	struct fixture *f = fixture_new(10, 6);

	set_spans(f, 1, (struct kvmod_span[]){ { 0, 10 } });
	refused(f, "spans need KV heads of one length, but heads 0 and 1 cache 10 and 6 positions");
	fixture_free(f);
}
END_TEST

START_TEST(heads)
{
	struct fixture *f = fixture_new(10, 6);

	set_head(f, 0, 3, (uint32_t[]){ 0, 4, 9 });
	set_head(f, 1, 1, (uint32_t[]){ 5 });
	accepted(f, 0);
	ck_assert_uint_eq(kvmod_plan_count(&f->d.request, f->plan, 0, 0), 3);
	ck_assert_uint_eq(kvmod_plan_count(&f->d.request, f->plan, 0, 1), 1);
	ck_assert_double_eq(kvmod_plan_budget(&f->d.request, f->plan), 4.0 / 20.0);

	set_head(f, 1, 1, (uint32_t[]){ 4 });
	refused(f, "KV head 1 does not keep the newest position, 5");
	accepted(f, KVMOD_POLICY_MAY_DROP_NEWEST);
	set_head(f, 1, 1, (uint32_t[]){ 6 });
	refused(f, "KV head 1 keeps index 6, expected 0 to 5");
	set_head(f, 1, 2, (uint32_t[]){ 5, 5 });
	refused(f, "KV head 1 keeps index 5 after 5, expected ascending indices");
	set_head(f, 1, 2, (uint32_t[]){ 5, 2 });
	refused(f, "KV head 1 keeps index 2 after 5, expected ascending indices");
	f->keep->counts[1] = 0;
	refused(f, "KV head 1 keeps 0 positions, expected 1 to 6");
	f->keep->counts[1] = 7;
	refused(f, "KV head 1 keeps 7 positions, expected 1 to 6");
	fixture_free(f);
}
END_TEST

START_TEST(unknown_kind)
{
	struct fixture *f = fixture_new(10, 10);

	f->keep->kind = 9;
	refused(f, "kind 9, expected 0 (all), 1 (spans) or 2 (heads)");
	fixture_free(f);
}
END_TEST

/* Whatever is kept, all of it too. */
START_TEST(what_rows_are_stored_as)
{
	struct fixture *f = fixture_new(10, 10);

	ck_assert_uint_eq(f->keep->k_store, KVMOD_STORE_SAME);
	ck_assert_uint_eq(f->keep->v_store, KVMOD_STORE_SAME);
	f->keep->k_store = KVMOD_F16;
	f->keep->v_store = KVMOD_BF16;
	accepted(f, 0);
	f->keep->k_store = 6;
	refused(f, "K: unknown element type 6 to store rows as, expected 0 (unchanged) to 5");
	f->keep->k_store = KVMOD_STORE_SAME;
	f->keep->v_store = 77;
	refused(f, "V: unknown element type 77 to store rows as, expected 0 (unchanged) to 5");
	f->keep->v_store = KVMOD_Q4_0;
	refused(f, "V: cannot store rows as element type 5: its blocks of 32 do not divide the head "
		   "dimension, 8");
	f->keep->v_store = KVMOD_Q8_0;
	refused(f, "V: cannot store rows as element type 4: its blocks of 32 do not divide the head "
		   "dimension, 8");
	f->d.segments[0].head_dim = 96;
	f->keep->k_store = KVMOD_Q4_0;
	accepted(f, 0);
	set_spans(f, 1, (struct kvmod_span[]){ { 5, 10 } });
	accepted(f, 0);
	fixture_free(f);
}
END_TEST

/* Rows hold their own number; rows further apart than they are long, too. */
static void fill(unsigned char *memory, uint64_t n, uint64_t bytes, int64_t stride)
{
	memset(memory, 0xee, (size_t)(n * (uint64_t)stride));
	for (uint64_t i = 0; i < n; i++)
		memset(memory + (int64_t)i * stride, (int)i, bytes);
}

static void check_rows(const unsigned char *memory, const uint32_t *index, uint64_t n,
		       uint64_t bytes, int64_t stride)
{
	for (uint64_t i = 0; i < n; i++)
		for (uint64_t b = 0; b < bytes; b++)
			ck_assert_uint_eq(memory[(int64_t)i * stride + (int64_t)b], index[i]);
}

START_TEST(gather)
{
	static const uint32_t kept[] = { 0, 1, 2, 5, 8, 9, 10, 19 };
	static const struct kvmod_span some[] = {
		{ 0, 3 }, { 5, 6 }, { 8, 11 }, { 19, 20 }
	};
	bool in_place = _i & 1, use_spans = _i & 2, wide = _i & 4;
	int64_t stride = wide ? 24 : 16;
	unsigned char src[20 * 24], dst[20 * 24];
	struct kvmod_gather g = {
		.size = sizeof(g), .row_bytes = 16, .src = src, .dst = in_place ? src : dst,
		.src_stride = stride, .dst_stride = in_place ? stride : 16,
		.indices = kept, .n_indices = 8,
	};

	if (use_spans) {
		g.spans = some;
		g.n_spans = 4;
	}
	fill(src, 20, 16, stride);
	kvmod_gather_host(&g);
	check_rows(g.dst, kept, 8, 16, g.dst_stride);
}
END_TEST

START_TEST(gather_nothing)
{
	unsigned char src[16] = { 7 }, dst[16] = { 3 };
	struct kvmod_gather g = {
		.size = sizeof(g), .row_bytes = 16, .src = src, .dst = dst,
		.src_stride = 16, .dst_stride = 16,
	};

	kvmod_gather_host(&g);
	ck_assert_uint_eq(dst[0], 3);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan");
	TCase *tc = tcase_create("plan");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, new_plan_keeps_all);
	tcase_add_test(tc, renewed_plan_is_new);
	tcase_add_test(tc, spans);
	tcase_add_test(tc, spans_need_equal_heads);
	tcase_add_test(tc, heads);
	tcase_add_test(tc, unknown_kind);
	tcase_add_test(tc, what_rows_are_stored_as);
	tcase_add_loop_test(tc, gather, 0, 8);
	tcase_add_test(tc, gather_nothing);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
