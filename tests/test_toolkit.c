/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The toolkit's calls, through the table that the host hands out, against plain
 * arithmetic; test_toolkit_attention has those about attention.
 */
#include "tests/kit.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"
#include "kernels/cpu/ops.h"
#include "tests/simd_levels.h"

/* --- rows ------------------------------------------------------------------------------ */

/* Rows with odd alignment and stride, and what they hold. */
struct block {
	char *memory;
	struct kvmod_view view;
	uint32_t n, dim;
	float *values;			/* [n][dim] */
};

static struct block block_of(struct kv_random *r, uint32_t type)
{
	struct block b = {
		.n = kv_random_range(r, 1, 900),
		.dim = kvmod_block_size(type) > 1 ? 32 * kv_random_range(r, 1, 5) : kv_random_range(r, 1, 150),
	};
	size_t stride = kvmod_row_bytes(type, b.dim) + kv_random_range(r, 0, 50);
	char *base;

	b.memory = malloc(b.n * stride + 64);
	b.values = malloc((size_t)b.n * b.dim * sizeof(float));
	ck_assert(b.memory && b.values);
	base = b.memory + kv_random_range(r, 0, 63);
	b.view = (struct kvmod_view){ .type = type, .data = base, .stride = (int64_t)stride };
	for (uint32_t i = 0; i < b.n; i++) {
		float *row = b.values + (size_t)i * b.dim;

		for (uint32_t d = 0; d < b.dim; d++)
			row[d] = 3 + kv_random_normal(r);
		kv_encode(type, row, b.dim, base + i * stride);
		for (uint32_t d = 0; d < b.dim; d++)
			row[d] = kv_element(type, base + i * stride, d);
	}
	return b;
}

static void free_block(struct block *b)
{
	free(b->memory);
	free(b->values);
}

static double value(const struct block *b, uint32_t i, uint32_t d)
{
	return b->values[(size_t)i * b->dim + d];
}

/* Each row by itself. */
static void check_each_row(const struct block *b, uint32_t begin, uint32_t end)
{
	uint32_t n = end - begin, dim = b->dim;
	size_t stride = dim + 3;
	float *out = calloc(n * stride + 1, sizeof(*out)), *q = b->values;

	ck_assert_ptr_nonnull(out);
	kit->rows(&b->view, dim, begin, end, out, stride);
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t d = 0; d < dim; d++)
			ck_assert_float_eq(out[i * stride + d], (float)value(b, begin + i, d));
		for (uint32_t d = dim; d < stride; d++)
			ck_assert_float_eq(out[i * stride + d], 0);
	}
	out[n] = -7;
	kit->norms(&b->view, dim, begin, end, out);
	ck_assert_float_eq(out[n], -7);
	for (uint32_t i = 0; i < n; i++) {
		double square = 0;

		for (uint32_t d = 0; d < dim; d++)
			square += value(b, begin + i, d) * value(b, begin + i, d);
		ck_assert_double_eq_tol(out[i], sqrt(square), 1e-6 * sqrt(square));
	}
	/* With the first row. */
	out[n] = -7;
	kit->dots(&b->view, dim, begin, end, q, 1, out, n);
	ck_assert_float_eq(out[n], -7);
	for (uint32_t i = 0; i < n; i++) {
		double dot = 0;

		for (uint32_t d = 0; d < dim; d++)
			dot += value(b, begin + i, d) * value(b, 0, d);
		ck_assert_double_eq_tol(out[i], dot, 1e-5 * fabs(dot) + 1e-4);
	}
	free(out);
}

/* x'Mx + v.x with a matrix and a vector made of the rows; sums are long, and cancel. */
static void check_forms(struct kv_random *r, const struct block *b, uint32_t begin, uint32_t end)
{
	uint32_t n = end - begin, dim = b->dim;
	float *matrix = malloc((size_t)dim * dim * sizeof(*matrix)), *out = malloc((n + 1) * sizeof(*out));
	float vector[160];

	ck_assert(matrix && out);
	for (uint32_t d = 0; d < dim; d++) {
		vector[d] = kv_random_normal(r);
		for (uint32_t e = 0; e <= d; e++)
			matrix[d * dim + e] = matrix[e * dim + d] = kv_random_normal(r);
	}
	out[n] = -7;
	kit->quadratic(&b->view, dim, begin, end, matrix, vector, out);
	ck_assert_float_eq(out[n], -7);
	for (uint32_t i = 0; i < n; i++) {
		double sum = 0, size = 0;

		for (uint32_t d = 0; d < dim; d++)
			for (uint32_t e = 0; e <= dim; e++) {
				double term = e < dim ? value(b, begin + i, d) * value(b, begin + i, e) *
							(double)matrix[d * dim + e] :
					      value(b, begin + i, d) * (double)vector[d];

				sum += term;
				size += fabs(term);
			}
		ck_assert_double_eq_tol(out[i], sum, 2e-7 * size);
	}
	free(matrix);
	free(out);
}

/* Over all rows. */
static void check_columns(const struct block *b, uint32_t begin, uint32_t end)
{
	uint32_t n = end - begin, dim = b->dim;
	float *weights = malloc(n * sizeof(*weights)), got[4][160], sum[160], weighted[160];
	const struct kvmod_stats all = { sizeof(all), 0, got[0], got[1], got[2], got[3] };
	const struct kvmod_stats one = { sizeof(one), 0, NULL, sum, NULL, NULL };

	ck_assert_ptr_nonnull(weights);
	for (uint32_t i = 0; i < n; i++)
		weights[i] = 0.5f + (float)(i % 3);
	kit->stats(&b->view, dim, begin, end, &all);
	kit->stats(&b->view, dim, begin, end, &one);
	ck_assert_mem_eq(sum, got[1], dim * sizeof(*sum));
	kit->sum(&b->view, dim, begin, end, NULL, sum);
	kit->sum(&b->view, dim, begin, end, weights, weighted);
	for (uint32_t d = 0; d < dim; d++) {
		double total = 0, by_weight = 0, square = 0, low = INFINITY, high = -INFINITY;

		for (uint32_t i = begin; i < end; i++) {
			total += value(b, i, d);
			by_weight += value(b, i, d) * weights[i - begin];
			low = fmin(low, value(b, i, d));
			high = fmax(high, value(b, i, d));
		}
		for (uint32_t i = begin; i < end; i++)
			square += (value(b, i, d) - total / n) * (value(b, i, d) - total / n);
		ck_assert_double_eq_tol(sum[d], total, 1e-5 * fabs(total) + 1e-5);
		ck_assert_double_eq_tol(weighted[d], by_weight, 1e-5 * fabs(by_weight) + 1e-5);
		ck_assert_double_eq_tol(got[0][d], total / n, 1e-5);
		ck_assert_double_eq_tol(got[1][d], square / n, 1e-5 * square / n + 1e-6);
		ck_assert_float_eq(got[2][d], (float)low);
		ck_assert_float_eq(got[3][d], (float)high);
	}
	free(weights);
}

START_TEST(blocks_of_rows)
{
	struct kv_random r = { 5 };

	kit_get();
	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++)
		for (int round = 0; kv_simd_set_level(level) && round < 40; round++) {
			struct block b = block_of(&r, KVMOD_F32 + (uint32_t)round % 5);
			uint32_t begin = kv_random_range(&r, 0, b.n - 1);
			uint32_t end = kv_random_range(&r, begin + 1, b.n);

			check_each_row(&b, begin, end);
			check_forms(&r, &b, begin, end < begin + 40 ? end : begin + 40);
			check_columns(&b, begin, end);
			free_block(&b);
		}
}
END_TEST

START_TEST(no_rows_and_no_numbers)
{
	float rows[5][24] = { { 0 } }, out[24] = { -1 }, low[24], high[24], mean[24];
	const struct kvmod_view view = { .type = KVMOD_F32, .data = rows, .stride = sizeof(*rows) };
	const struct kvmod_stats stats = { sizeof(stats), 0, mean, NULL, low, high };

	kit_get();
	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++) {
		if (!kv_simd_set_level(level))
			continue;
		kit->norms(&view, 24, 2, 2, out);
		kit->rows(&view, 24, 5, 5, out, 24);
		kit->dots(&view, 24, 0, 0, rows[0], 1, out, 24);
		kit->quadratic(&view, 24, 1, 1, rows[0], rows[0], out);
		ck_assert_float_eq(out[0], -1);
		kit->sum(&view, 24, 3, 3, NULL, mean);
		for (uint32_t d = 0; d < 24; d++)
			ck_assert_float_eq(mean[d], 0);
		/* In a vector, and in what is left of one. */
		for (uint32_t d = 0; d < 24; d += 23) {
			rows[3][d] = NAN;
			rows[1][d] = 2;
			kit->norms(&view, 24, 0, 5, out);
			for (uint32_t i = 0; i < 5; i++)
				ck_assert(isnan(out[i]) == (i == 3));
			kit->stats(&view, 24, 0, 5, &stats);
			for (uint32_t e = 0; e < 24; e++)
				ck_assert(isnan(mean[e]) == (e == d));
			ck_assert_float_eq(low[d], 0);
			ck_assert_float_eq(high[d], 2);
			rows[3][d] = rows[1][d] = 0;
		}
		out[0] = -1;
	}
}
END_TEST

/* --- arrays ------------------------------------------------------------------------------ */

START_TEST(arrays_of_numbers)
{
	static const float rows[3][4] = { { 1, 0, .5f, 2 }, { 2, 0, .25f, 4 }, { 6, 0, .25f, 3 } };
	float mean[5] = { 0, 0, 0, 0, -7 }, squares[5] = { 0, 0, 0, 0, -7 };

	kit_get();
	ck_assert_double_eq(kit->total(rows[0], 12), 19);
	ck_assert_double_eq(kit->total(NULL, 0), 0);
	ck_assert_double_eq_tol(kit->entropy(rows[0], 3, 1e-10f), .5 * log(2), 1e-6);
	ck_assert_double_eq_tol(kit->entropy(rows[0], 3, 1), -log(2) - .5 * log(1.5), 1e-6);
	for (uint32_t row = 0; row < 3; row++)
		kit->moments(rows[row], 4, row + 1, mean, squares);
	ck_assert_float_eq_tol(mean[0], 3, 1e-6);
	ck_assert_float_eq_tol(squares[0], 14, 1e-5);
	ck_assert_float_eq(mean[1], 0);
	ck_assert_float_eq(squares[1], 0);
	ck_assert_float_eq_tol(mean[2], 1.f / 3, 1e-6);
	ck_assert_float_eq_tol(squares[2], 1.f / 24, 1e-6);
	ck_assert_float_eq_tol(mean[3], 3, 1e-6);
	ck_assert_float_eq_tol(squares[3], 2, 1e-6);
	ck_assert(mean[4] == -7 && squares[4] == -7);
}
END_TEST

/* --- selection and sets ----------------------------------------------------------------------- */

START_TEST(marking)
{
	const float scores[] = { .1f, .3f, .2f, .3f, -1, .3f };
	uint8_t marks[6] = { 0, 0, 1, 0, 0, 0 };

	kit_get();
	kit->mark_heaviest(scores, 6, 2, marks);
	ck_assert_mem_eq(marks, ((uint8_t[]){ 0, 1, 1, 1, 0, 0 }), 6);
	kit->mark_heaviest(scores, 6, 0, marks);
	ck_assert_mem_eq(marks, ((uint8_t[]){ 0, 1, 1, 1, 0, 0 }), 6);
	kit->mark_heaviest(scores, 6, 99, marks);
	ck_assert_mem_eq(marks, ((uint8_t[]){ 1, 1, 1, 1, 1, 1 }), 6);
	memset(marks, 0, sizeof(marks));
	/* .3 + .3 + .3 is the least above .7; -1 is not looked at. */
	kit->mark_mass(scores, 4, .65, marks);
	ck_assert_mem_eq(marks, ((uint8_t[]){ 0, 1, 1, 1, 0, 0 }), 6);
}
END_TEST

/* Each head by another call. */
static int32_t keep(const void *self, const struct kvmod_task *t)
{
	static const float scores[] = { 1, 5, 3, 5, 2, 0, 0, 0 };
	static const uint8_t marks[] = { 0, 0, 1, 0, 0, 9, 0, 1 };
	static const uint32_t list[] = { 7, 2, 2, 0, 7 };

	(void)self;
	ck_assert_uint_eq(t->n, 8);
	if (t->i == 0 && t->g == 0)
		t->kit->keep_heaviest(t, scores, 6, 3);
	else if (t->i == 0 && t->g == 1)
		t->kit->keep_marked(t, marks);
	else if (t->i == 0)
		return t->kit->keep_listed(t, list, 5);
	else
		t->kit->keep_whole(t);
	return KVMOD_OK;
}

static void assert_list(const struct kvmod_plan *plan, uint32_t i, uint32_t g, uint32_t n,
			const uint32_t *list)
{
	const struct kvmod_keep *k = kvmod_keep_at(plan, i);

	ck_assert_uint_eq(k->counts[g], n);
	ck_assert_mem_eq(k->indices + g * k->index_stride, list, n * sizeof(*list));
}

START_TEST(sets)
{
	struct madeup m = kit_cache(&kit_shape, 8);
	struct kvmod_plan *plan = kit_run(&m, "rows = 0", keep);

	ck_assert_msg(kvmod_keep_at(plan, 0)->status == 0, "%s", fixture_log);
	assert_list(plan, 0, 0, 5, (uint32_t[]){ 1, 2, 3, 6, 7 });
	assert_list(plan, 0, 1, 3, (uint32_t[]){ 2, 5, 7 });
	assert_list(plan, 0, 2, 3, (uint32_t[]){ 0, 2, 7 });
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

static int32_t list_too_much(const void *self, const struct kvmod_task *t)
{
	static const uint32_t list[9] = { 7, 8 };

	(void)self;
	t->kit->keep_whole(t);
	return t->g ? KVMOD_OK : t->kit->keep_listed(t, list, t->i ? 9 : 2);
}

START_TEST(lists_that_do_not_fit)
{
	struct madeup m = kit_cache(&kit_shape, 8);
	struct kvmod_plan *plan = kit_run(&m, "rows = 0", list_too_much);

	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EINVAL);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "position 8 listed of 8"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

START_TEST(ends)
{
	struct kvmod_span spans[2];
	struct kvmod_keep k = { .size = sizeof(k), .spans = spans, .max_spans = 2 };

	kvmod_keep_ends(&k, 10, 2, 3);
	ck_assert_uint_eq(k.kind, KVMOD_KEEP_SPANS);
	ck_assert_uint_eq(k.n_spans, 2);
	ck_assert(spans[0].begin == 0 && spans[0].end == 2);
	ck_assert(spans[1].begin == 7 && spans[1].end == 10);
	kvmod_keep_ends(&k, 10, 0, 4);
	ck_assert_uint_eq(k.n_spans, 1);
	ck_assert(spans[0].begin == 6 && spans[0].end == 10);
	kvmod_keep_ends(&k, 10, 4, 0);
	ck_assert_uint_eq(k.n_spans, 1);
	ck_assert(spans[0].begin == 0 && spans[0].end == 4);
}
END_TEST

/* --- work, shared out ---------------------------------------------------------------------------- */

static atomic_uint visits[2][3];

/* Whoever else had this scratch at the same time would be seen in it. */
static int32_t visit(const void *self, const struct kvmod_task *t)
{
	(void)self;
	ck_assert_uint_eq((uintptr_t)t->scratch % 64, 0);
	ck_assert_ptr_eq(t->kit, kit);
	ck_assert_ptr_eq(t->segment, kvmod_segment_at(t->request, t->i));
	ck_assert_ptr_eq(t->head, kvmod_head_at(t->segment, t->g));
	for (uint32_t i = 0; i < 1000; i++)
		t->scratch[i] = (float)(t->i * 3 + t->g);
	for (uint32_t i = 0; i < 1000; i++)
		ck_assert_float_eq(t->scratch[i], (float)(t->i * 3 + t->g));
	atomic_fetch_add(&visits[t->i][t->g], 1);
	t->kit->keep_whole(t);
	return KVMOD_OK;
}

/* Eight threads: for six heads, for one, and for more than there are. */
START_TEST(each_head_once)
{
	static const uint32_t heads[] = { 3, 1, 2 };

	for (size_t k = 0; k < 3; k++) {
		struct kv_shape shape = kit_shape;
		struct madeup m;

		shape.n_kv_heads = heads[k];
		shape.n_segments = k == 1 ? 1 : 2;
		m = kit_cache(&shape, 30);
		memset(visits, 0, sizeof(visits));
		kit_run_and_free(&m, "", visit);
		for (uint32_t i = 0; i < 2; i++)
			for (uint32_t g = 0; g < 3; g++)
				ck_assert_uint_eq(visits[i][g], i < shape.n_segments && g < heads[k]);
	}
}
END_TEST

static int32_t fail_some(const void *self, const struct kvmod_task *t)
{
	(void)self;
	t->kit->keep_whole(t);
	if (t->i == 1 && t->g > 0)
		return t->kit->fail(t, KVMOD_EIO, "%s %u", "tape", t->g);
	/* A reason, but no failure: it is not said. */
	t->kit->fail(t, KVMOD_EIO, "nothing");
	return KVMOD_OK;
}

static int32_t fail_without_code(const void *self, const struct kvmod_task *t)
{
	(void)self;
	return t->kit->fail(t, 5, "no code of ours");
}

static int32_t fail_alone(const void *self, const struct kvmod_task *t)
{
	(void)self;
	return t->i ? KVMOD_ENUMERIC : KVMOD_ENOMEM;
}

START_TEST(failures)
{
	struct madeup m = kit_cache(&kit_shape, 30);
	struct kvmod_plan *plan = kit_run(&m, "", fail_some);

	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EIO);
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->kind, KVMOD_KEEP_ALL);
	/* Which of two comes first depends on the threads. */
	ck_assert_msg(strstr(fixture_log, "layer 1: KV head 1: tape 1") ||
		      strstr(fixture_log, "layer 1: KV head 2: tape 2"), "%s", fixture_log);
	kvmod_plan_free(plan);
	plan = kit_run(&m, "", fail_without_code);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "no code of ours"), "%s", fixture_log);
	kvmod_plan_free(plan);
	plan = kit_run(&m, "", fail_alone);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_ENUMERIC);
	ck_assert_msg(strstr(fixture_log, "it failed, and did not say why"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

/* workspace() did not ask for what each_head() wants: nothing runs. */
START_TEST(no_room_for_a_thread)
{
	struct madeup m = kit_cache(&kit_shape, 30);
	struct kvmod_plan *plan;

	memset(visits, 0, sizeof(visits));
	plan = kit_run(&m, "floats = -1", visit);
	for (uint32_t i = 0; i < 2; i++) {
		ck_assert_int_eq(kvmod_keep_at(plan, i)->status, KVMOD_EINVAL);
		ck_assert_uint_eq(kvmod_keep_at(plan, i)->kind, KVMOD_KEEP_ALL);
		ck_assert_uint_eq(visits[i][0], 0);
	}
	ck_assert_msg(strstr(fixture_log, "bytes of scratch are too few for a thread: workspace() asks "
			     "for what scratch_bytes() says"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

/* --- budgets --------------------------------------------------------------------------------------- */

static void check_budgets(struct tested *self, const struct kvmod_request *request)
{
	const struct kvmod_amount quarter = { .value = 0.25 }, few = { .value = 3, .is_count = 1 };
	const struct kvmod_segment *s = kvmod_segment_at(request, 0);
	struct kvmod_extent extent = kvmod_extent_of(request);

	ck_assert_uint_eq(extent.n, 100);
	ck_assert_uint_eq(extent.n_kv_heads, 3);
	ck_assert_uint_eq(extent.head_dim, 20);
	ck_assert_uint_eq(extent.group, 2);
	ck_assert_uint_eq(kvmod_budget_at_least(request, s, &quarter, 10), 25);
	ck_assert_uint_eq(kvmod_budget_at_least(request, s, &quarter, 30), 30);
	kvmod_say_raised(&self->instance, request, s, &quarter, 25, &self->said);
	ck_assert_uint_eq(self->said, 0);
	kvmod_say_raised(&self->instance, request, s, &few, 4, &self->said);
	kvmod_say_raised(&self->instance, request, s, &few, 5, &self->said);
	ck_assert_uint_eq(self->said, 1);
}

START_TEST(budgets)
{
	struct madeup m = kit_cache(&kit_shape, 100);

	kit_before = check_budgets;
	kit_run_and_free(&m, "", visit);
	kit_before = NULL;
	ck_assert_msg(strstr(fixture_log, "a budget of 3 of 100 positions is below what is always kept: "
			     "raised to 4"), "%s", fixture_log);
	ck_assert_ptr_null(strstr(fixture_log, "raised to 5"));
}
END_TEST

FIXTURE_MAIN("toolkit", blocks_of_rows, no_rows_and_no_numbers,
	     arrays_of_numbers, marking, sets,
	     lists_that_do_not_fit, ends, each_head_once, failures, no_room_for_a_thread,
	     budgets)
