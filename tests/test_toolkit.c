/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The toolkit's calls, through the table that the host hands out, against plain
 * arithmetic; and modules that need an extension.
 */
#define KVMOD_MODULE_SYMBOL kit_module
#include "tests/fixture.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/toolkit.h>

#include "core/testkit/madeup.h"
#include "core/testkit/random.h"
#include "kernels/cpu/ops.h"
#include "tests/simd_levels.h"

/* --- a policy that does what a test wants ------------------------------------------- */

struct tested {
	struct kvmod_instance instance;
	int64_t floats, rows;
	uint32_t said;
};

#define PARAMS(P, owner) \
	P(owner, struct tested, floats, INT, "1000", "", "floats of scratch; -1: none are asked for") \
	P(owner, struct tested, rows, INT, "5", "0..100", "of queries")

static const struct kvmod_toolkit *kit;
static kvmod_task_fn *task_fn;
static void (*before)(struct tested *self, const struct kvmod_request *request);

static int32_t say_needs(void *self, struct kvmod_needs *needs)
{
	needs->what = KVMOD_NEED_K;
	needs->rows.is_count = 1;
	needs->rows.value = (double)((struct tested *)self)->rows;
	return KVMOD_OK;
}

static int32_t workspace(void *self_, const struct kvmod_request *request,
			 struct kvmod_workspace *need)
{
	const struct tested *self = self_;

	if (self->floats >= 0)
		need->host = kit->scratch_bytes(self_, request, (size_t)self->floats);
	return KVMOD_OK;
}

static int32_t compress(void *self_, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct tested *self = self_;

	if (before)
		before(self, request);
	for (uint32_t i = 0; i < request->n_segments; i++)
		kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	kit->each_head(self_, request, plan, request->scratch,
		       self->floats > 0 ? (size_t)self->floats : 0, task_fn, self);
	return KVMOD_OK;
}

KVMOD_POLICY(tested, struct tested, PARAMS, "", 0, "cpu", .needs = say_needs,
	     .workspace = workspace, .compress = compress)

static int32_t kit_init(const struct kvmod_host *host)
{
	kit = host->get_extension(host->ctx, KVMOD_TOOLKIT);
	ck_assert_ptr_null(host->get_extension(host->ctx, "kvmod.toolkit/2"));
	ck_assert_ptr_null(host->get_extension(host->ctx, ""));
	return tested_init(host);
}

KVMOD_MODULE("kit", "1", "Apache-2.0", "", "", 0, kit_init, NULL);

/* The table, as any module gets it. */
static void get_kit(void)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_ok(kvmod_add_builtin(ctx, &kit_module));
	ck_assert_ptr_nonnull(kit);
	ck_assert_uint_eq(kit->size, sizeof(*kit));
	kvmod_unref(ctx);
}

static const struct kv_shape usual = {
	.n_layers = 2, .n_segments = 2, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 20,
	.type = KVMOD_F32,
};

/* Decides about a made-up cache with that function, which gets each head. */
static struct kvmod_plan *run(const struct madeup *m, const char *params, kvmod_task_fn *fn)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_model model = madeup_model(&m->shape);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;
	char text[256];

	task_fn = fn;
	fixture_log[0] = '\0';
	snprintf(text, sizeof(text), "[kvmod]\nthreads = 8\n[policy tested]\n%s\n", params);
	assert_ok(kvmod_add_builtin(ctx, &kit_module));
	assert_ok(fixture_configure(ctx, text));
	assert_ok(kvmod_policy_open(ctx, "tested", "cpu", &model, &policy));
	assert_ok(kvmod_plan_new(&m->d.request, &plan));
	assert_ok(kvmod_decide(policy, &m->d.request, plan));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	return plan;
}

static struct madeup make(const struct kv_shape *shape, uint32_t n)
{
	struct madeup m;

	ck_assert_int_eq(madeup_first(&m, shape, n, 5, 0), 0);
	return m;
}

static void run_and_free(struct madeup *m, const char *params, kvmod_task_fn *fn)
{
	struct kvmod_plan *plan = run(m, params, fn);

	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(m);
}

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
		.dim = type == KVMOD_Q8_0 ? 32 * kv_random_range(r, 1, 5) : kv_random_range(r, 1, 150),
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

	get_kit();
	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++)
		for (int round = 0; kv_simd_set_level(level) && round < 40; round++) {
			struct block b = block_of(&r, KVMOD_F32 + (uint32_t)round % 4);
			uint32_t begin = kv_random_range(&r, 0, b.n - 1);
			uint32_t end = kv_random_range(&r, begin + 1, b.n);

			check_each_row(&b, begin, end);
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

	get_kit();
	for (enum kv_simd level = KV_SIMD_SCALAR; level <= KV_SIMD_AVX512; level++) {
		if (!kv_simd_set_level(level))
			continue;
		kit->norms(&view, 24, 2, 2, out);
		kit->rows(&view, 24, 5, 5, out, 24);
		kit->dots(&view, 24, 0, 0, rows[0], 1, out, 24);
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

/* --- attention ----------------------------------------------------------------------------- */

static double query(const struct kvmod_segment *s, uint32_t row, uint32_t h, uint32_t d)
{
	return ((const float *)((const char *)s->q.data + row * s->q.stride +
				h * s->q.head_stride))[d];
}

static int32_t check_logits(const void *self, const struct kvmod_task *t)
{
	const struct kvmod_segment *s = t->segment;
	uint32_t dim = s->head_dim, row = 1, n_rows = s->n_rows - 1;
	uint32_t sees = kvmod_row_sees(s, t->head, s->n_rows - 1);
	float *queries = t->scratch, *logits = queries + n_rows * t->group * dim;
	size_t stride = t->n + 1;

	(void)self;
	ck_assert_uint_eq(sees, t->n);
	ck_assert_uint_eq(t->m, t->n);
	t->kit->queries(t, row, n_rows, queries);
	t->kit->logits(t, row, n_rows, logits, stride);
	for (uint32_t j = 0; j < n_rows * t->group; j++) {
		uint32_t h = t->g * t->group + j % t->group;

		for (uint32_t d = 0; d < dim; d++)
			ck_assert_double_eq(queries[j * dim + d], query(s, row + j / t->group, h, d));
		for (uint32_t i = 0; i < sees; i++) {
			const float *k = (const float *)((const char *)t->head->k.data +
							 i * t->head->k.stride);
			double dot = 0;

			for (uint32_t d = 0; d < dim; d++)
				dot += query(s, row + j / t->group, h, d) * k[d];
			ck_assert_double_eq_tol(logits[j * stride + i], dot * s->scale, 1e-4);
		}
	}
	t->kit->keep_whole(t);
	return KVMOD_OK;
}

START_TEST(logits_of_the_newest)
{
	/* More queries than a block has, and fewer. */
	static const uint32_t q_heads[] = { 3, 6, 57 };

	for (size_t i = 0; i < 3; i++) {
		struct kv_shape shape = usual;
		struct madeup m;

		shape.n_q_heads = q_heads[i];
		m = make(&shape, 61);
		run_and_free(&m, "floats = 9000", check_logits);
	}
}
END_TEST

/* Of what the same calls say row by row. */
static int32_t check_attention(const void *self, const struct kvmod_task *t)
{
	const uint32_t n_rows = t->segment->n_rows, m = t->n - 7;
	float *row = t->scratch, *mean = row + t->group * t->n, *got = mean + t->n;

	(void)self;
	memset(mean, 0, t->n * sizeof(*mean));
	for (uint32_t i = 0; i < n_rows; i++) {
		uint32_t sees = kvmod_row_sees(t->segment, t->head, i);

		t->kit->logits(t, i, 1, row, t->n);
		for (uint32_t h = 0; h < t->group; h++) {
			ck_assert_int_eq(t->kit->softmax(row + h * t->n, sees), 0);
			for (uint32_t p = 0; p < sees; p++)
				mean[p] += row[h * t->n + p] / (float)(n_rows * t->group);
		}
	}
	ck_assert_int_eq(t->kit->mean_attention(t, 100, t->n, got), 0);
	for (uint32_t p = 0; p < t->n; p++)
		ck_assert_double_eq_tol(got[p], mean[p], 1e-6);
	/* The newest row is the last of them. */
	ck_assert_int_eq(t->kit->last_attention(t, got), 0);
	for (uint32_t p = 0; p < t->group * t->n; p++)
		ck_assert_double_eq_tol(got[p], row[p], 1e-6);
	ck_assert_int_eq(t->kit->window_scores(t, 7, 5, KVMOD_POOL_MAX, got), 0);
	ck_assert_int_eq(t->kit->mean_attention(t, 7, m, row), 0);
	t->kit->pool(row, m, 5, KVMOD_POOL_MAX, mean);
	ck_assert_mem_eq(got, mean, m * sizeof(*got));
	t->kit->pool(row, m, 1, KVMOD_POOL_AVERAGE, got);
	ck_assert_mem_eq(got, row, m * sizeof(*got));
	t->kit->pool(row, m, 0, KVMOD_POOL_AVERAGE, got);
	ck_assert_mem_eq(got, row, m * sizeof(*got));
	t->kit->keep_whole(t);
	return KVMOD_OK;
}

START_TEST(attention_of_the_newest)
{
	struct madeup m = make(&usual, 100);

	run_and_free(&m, "", check_attention);
}
END_TEST

/* A model's sinks: each query head has a logit that takes a share of its attention. */
static int32_t check_sinks(const void *self, const struct kvmod_task *t)
{
	const float *sinks = t->segment->sink_logits;
	float *logits = t->scratch, *got = logits + t->group * t->n;

	(void)self;
	t->kit->logits(t, t->segment->n_rows - 1, 1, logits, t->n);
	ck_assert_int_eq(t->kit->last_attention(t, got), 0);
	for (uint32_t h = 0; h < t->group; h++) {
		double sum = exp(sinks[t->g * t->group + h]);

		for (uint32_t i = 0; i < t->n; i++)
			sum += exp(logits[h * t->n + i]);
		for (uint32_t i = 0; i < t->n; i++)
			ck_assert_double_eq_tol(got[h * t->n + i], exp(logits[h * t->n + i]) / sum, 1e-6);
	}
	t->kit->keep_whole(t);
	return KVMOD_OK;
}

START_TEST(attention_with_sinks)
{
	/* Some below all logits, some far above. */
	static const float sinks[6] = { -50, 0, 1, 3, 30, 300 };
	struct madeup m = make(&usual, 60);

	for (uint32_t i = 0; i < 2; i++)
		m.d.segments[i].sink_logits = sinks;
	run_and_free(&m, "", check_sinks);
}
END_TEST

static int32_t ask_without_queries(const void *self, const struct kvmod_task *t)
{
	(void)self;
	return t->g % 2 ? t->kit->last_attention(t, t->scratch) :
	       t->kit->mean_attention(t, 3, t->n, t->scratch);
}

START_TEST(attention_without_queries)
{
	struct madeup m;
	struct kvmod_plan *plan;

	ck_assert_int_eq(madeup_first(&m, &usual, 50, 0, 0), 0);
	plan = run(&m, "rows = 0", ask_without_queries);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "KV head 0: its segment has no queries: a policy's needs ask "
			     "for rows of them"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

static int32_t attend(const void *self, const struct kvmod_task *t)
{
	int32_t err = t->kit->last_attention(t, t->scratch);

	(void)self;
	t->kit->keep_whole(t);
	return err;
}

/* NaN in one key: the layer is whole, its head is named, and the other layer is not it. */
START_TEST(attention_not_finite)
{
	struct madeup m = make(&usual, 50);
	struct kvmod_plan *plan;
	float bad = NAN;

	memcpy(m.bytes + ((const unsigned char *)m.d.heads[3 + 2].k.data - m.bytes), &bad, sizeof(bad));
	plan = run(&m, "", attend);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_ENUMERIC);
	ck_assert_msg(strstr(fixture_log, "layer 1: KV head 2: attention is not finite: NaN or infinity "
			     "in its keys or queries"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

/* --- selection and sets ----------------------------------------------------------------------- */

START_TEST(marking)
{
	const float scores[] = { .1f, .3f, .2f, .3f, -1, .3f };
	uint8_t marks[6] = { 0, 0, 1, 0, 0, 0 };

	get_kit();
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
	struct madeup m = make(&usual, 8);
	struct kvmod_plan *plan = run(&m, "rows = 0", keep);

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
	struct madeup m = make(&usual, 8);
	struct kvmod_plan *plan = run(&m, "rows = 0", list_too_much);

	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EINVAL);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "KV head 0: position 8 listed of 8"), "%s", fixture_log);
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
		struct kv_shape shape = usual;
		struct madeup m;

		shape.n_kv_heads = heads[k];
		shape.n_segments = k == 1 ? 1 : 2;
		m = make(&shape, 30);
		memset(visits, 0, sizeof(visits));
		run_and_free(&m, "", visit);
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
	struct madeup m = make(&usual, 30);
	struct kvmod_plan *plan = run(&m, "", fail_some);

	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_EIO);
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->kind, KVMOD_KEEP_ALL);
	/* Which of two comes first depends on the threads. */
	ck_assert_msg(strstr(fixture_log, "layer 1: KV head 1: tape 1") ||
		      strstr(fixture_log, "layer 1: KV head 2: tape 2"), "%s", fixture_log);
	kvmod_plan_free(plan);
	plan = run(&m, "", fail_without_code);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "no code of ours"), "%s", fixture_log);
	kvmod_plan_free(plan);
	plan = run(&m, "", fail_alone);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_ENUMERIC);
	ck_assert_msg(strstr(fixture_log, "it failed, and did not say why"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

/* workspace() did not ask for what each_head() wants: nothing runs. */
START_TEST(no_room_for_a_thread)
{
	struct madeup m = make(&usual, 30);
	struct kvmod_plan *plan;

	memset(visits, 0, sizeof(visits));
	plan = run(&m, "floats = -1", visit);
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
	struct madeup m = make(&usual, 100);

	before = check_budgets;
	run_and_free(&m, "", visit);
	before = NULL;
	ck_assert_msg(strstr(fixture_log, "a budget of 3 of 100 positions is below what is always kept: "
			     "raised to 4"), "%s", fixture_log);
	ck_assert_ptr_null(strstr(fixture_log, "raised to 5"));
}
END_TEST

/* --- modules that need an extension --------------------------------------------------------------- */

#define REFUSED "needs the extension `kvmod.nosuch/9`, which this kvmod does not offer (it offers " \
	"kvmod.toolkit/1): update kvmod"

START_TEST(extension_that_is_not_there)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("wants", "wants");
	struct kvmod_modinfo *info;
	struct kvmod_policy *policy;

	/* It would leave a mark if it ran. */
	unsetenv("KVMOD_TEST_CONSTRUCTED");
	assert_fails(kvmod_load(ctx, path), KVMOD_ENOTSUP, "wants.so: " REFUSED);
	assert_fails(kvmod_modinfo_read(ctx, path, &info), KVMOD_ENOTSUP, "wants.so: " REFUSED);
	ck_assert_int_eq(fixture_open(ctx, "wants", &policy), KVMOD_ENOTSUP);
	ck_assert_msg(strstr(kvmod_error(), REFUSED), "%s", kvmod_error());
	ck_assert_ptr_null(getenv("KVMOD_TEST_CONSTRUCTED"));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(extension_that_check_misses)
{
	struct kvmod_ctx *ctx = fixture_context();
	char folder[128];
	const char *const overrides[] = { "kvmod.policy=wants", folder };

	fixture_module("wants", "wants");
	snprintf(folder, sizeof(folder), "kvmod.module_path=%s", fixture_dir);
	ck_assert_msg(kvmod_check(ctx, "/dev/null", overrides, 2, 0, NULL, NULL) == KVMOD_ENOTSUP, "%s",
		      kvmod_error());
	ck_assert_msg(strstr(kvmod_error(), REFUSED), "%s", kvmod_error());
	kvmod_unref(ctx);
}
END_TEST

START_TEST(extension_that_is_there)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	char path[512];

	snprintf(path, sizeof(path), "%s/snapkv.so", MODULES);
	assert_ok(kvmod_modinfo_read(ctx, path, &info));
	ck_assert_str_eq(kvmod_modinfo_get(info, "uses", 0), KVMOD_TOOLKIT);
	ck_assert_ptr_null(kvmod_modinfo_get(info, "uses", 1));
	kvmod_modinfo_free(info);
	assert_ok(kvmod_load(ctx, path));
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("toolkit", blocks_of_rows, no_rows_and_no_numbers, logits_of_the_newest,
	     attention_of_the_newest, attention_with_sinks,
	     attention_without_queries, attention_not_finite, marking, sets,
	     lists_that_do_not_fit, ends, each_head_once, failures, no_room_for_a_thread, budgets,
	     extension_that_is_not_there, extension_that_check_misses, extension_that_is_there)
