/* SPDX-License-Identifier: Apache-2.0 */
/* What the toolkit computes of attention over K, against plain sums in double precision. */
#include "tests/kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ops.h"
#include "tests/simd_levels.h"

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
		struct kv_shape shape = kit_shape;
		struct madeup m;

		shape.n_q_heads = q_heads[i];
		m = kit_cache(&shape, 61);
		kit_run_and_free(&m, "floats = 9000", check_logits);
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
	struct madeup m = kit_cache(&kit_shape, 100);

	kit_run_and_free(&m, "", check_attention);
}
END_TEST

/* The rows one by one, each of them handed out to be overwritten. */
struct walk {
	const struct kvmod_task *task;
	uint32_t n_calls, n_rows;
	float *expected, *sum;
};

static void check_row(void *walk_, uint32_t row, uint32_t h, float *attention)
{
	struct walk *walk = walk_;
	const struct kvmod_task *t = walk->task;
	uint32_t sees = kvmod_row_sees(t->segment, t->head, row);
	float *of_head = walk->expected + h * t->n;

	ck_assert_uint_eq(row, t->segment->n_rows - walk->n_rows + walk->n_calls / t->group);
	ck_assert_uint_eq(h, walk->n_calls % t->group);
	walk->n_calls++;
	t->kit->logits(t, row, 1, walk->expected, t->n);
	ck_assert_int_eq(t->kit->softmax(of_head, sees), 0);
	for (uint32_t i = 0; i < t->n; i++) {
		ck_assert_double_eq_tol(attention[i], i < sees ? of_head[i] : 0, 1e-6);
		walk->sum[i] += attention[i] / (float)(walk->n_rows * t->group);
		attention[i] = NAN;
	}
}

static int32_t check_each_row(const void *self, const struct kvmod_task *t)
{
	for (uint32_t n_rows = 1; n_rows < 7; n_rows++) {
		struct walk walk = {
			.task = t, .n_rows = n_rows < t->segment->n_rows ? n_rows : t->segment->n_rows,
			.expected = t->scratch, .sum = t->scratch + t->group * t->n,
		};
		float *mean = walk.sum + t->n;

		memset(walk.sum, 0, t->n * sizeof(*walk.sum));
		ck_assert_int_eq(t->kit->each_row(t, n_rows, check_row, &walk), 0);
		ck_assert_uint_eq(walk.n_calls, walk.n_rows * t->group);
		ck_assert_int_eq(t->kit->mean_attention(t, n_rows, t->n, mean), 0);
		for (uint32_t i = 0; i < t->n; i++)
			ck_assert_double_eq_tol(walk.sum[i], mean[i], 1e-6);
	}
	(void)self;
	t->kit->keep_whole(t);
	return KVMOD_OK;
}

/* With and without weights, of what the same calls say row by row. */
static int32_t check_most(const void *self, const struct kvmod_task *t)
{
	const uint32_t n_rows = 3, first = t->segment->n_rows - n_rows, m = t->n - 3;
	float *row = t->scratch, *weights = row + t->group * t->n, *got = weights + t->n;
	float *weighted = got + t->n;
	double most[2][100] = { { 0 } };

	(void)self;
	t->kit->norms(&t->head->k, t->segment->head_dim, 0, t->n, weights);
	weights[5] = 0;
	for (uint32_t i = 0; i < n_rows; i++) {
		uint32_t sees = kvmod_row_sees(t->segment, t->head, first + i);

		t->kit->logits(t, first + i, 1, row, t->n);
		for (uint32_t h = 0; h < t->group; h++) {
			const float *x = row + h * t->n, *sinks = t->segment->sink_logits;
			double sum[2] = { sinks ? exp((double)sinks[t->g * t->group + h]) : 0, 0 };

			for (uint32_t p = 0; p < sees; p++) {
				sum[0] += exp((double)x[p]);
				sum[1] += exp((double)x[p]) * (double)weights[p];
			}
			for (uint32_t p = 0; p < sees; p++) {
				most[0][p] = fmax(most[0][p], exp((double)x[p]) / sum[0]);
				most[1][p] = fmax(most[1][p], exp((double)x[p]) * (double)weights[p] / sum[1]);
			}
		}
	}
	got[m] = weighted[m] = -7;
	ck_assert_int_eq(t->kit->max_attention(t, n_rows, NULL, m, got), 0);
	ck_assert_int_eq(t->kit->max_attention(t, n_rows, weights, m, weighted), 0);
	for (uint32_t p = 0; p < m; p++) {
		ck_assert_double_eq_tol(got[p], most[0][p], 1e-5 * most[0][p]);
		ck_assert_double_eq_tol(weighted[p], most[1][p], 1e-5 * most[1][p] + 1e-30);
	}
	ck_assert(got[m] == -7 && weighted[m] == -7);
	/* More rows than there are: all of them. */
	ck_assert_int_eq(t->kit->max_attention(t, 1000, NULL, m, got), 0);
	ck_assert_int_eq(t->kit->max_attention(t, t->segment->n_rows, NULL, m, weighted), 0);
	ck_assert_mem_eq(got, weighted, m * sizeof(*got));
	weights[9] = INFINITY;
	ck_assert_int_eq(t->kit->max_attention(t, n_rows, weights, m, got), KVMOD_ENUMERIC);
	t->kit->keep_whole(t);
	return KVMOD_OK;
}

/* Groups of one, of several, and larger than a block. */
START_TEST(attention_row_by_row)
{
	static const uint32_t q_heads[] = { 3, 6, 51 };

	for (size_t i = 0; i < 3; i++) {
		struct kv_shape shape = kit_shape;
		struct madeup m;

		shape.n_q_heads = q_heads[i];
		m = kit_cache(&shape, 61);
		kit_run_and_free(&m, "floats = 9000", check_each_row);
	}
}
END_TEST

static void count_call(void *n_calls, uint32_t row, uint32_t h, float *attention)
{
	(void)row;
	(void)h;
	(void)attention;
	++*(uint32_t *)n_calls;
}

/* No row of a head whose attention is not finite is handed out. */
static int32_t walk_nowhere(const void *self, const struct kvmod_task *t)
{
	uint32_t n_calls = 0;
	int32_t err = t->kit->each_row(t, 3, count_call, &n_calls);

	(void)self;
	ck_assert_int_eq(err, t->segment->n_rows ? KVMOD_ENUMERIC : KVMOD_EINVAL);
	ck_assert_uint_eq(n_calls, 0);
	return err;
}

START_TEST(attention_row_by_row_fails)
{
	struct madeup m;

	for (uint32_t rows = 0; rows <= 5; rows += 5) {
		char params[32];

		ck_assert_int_eq(madeup_first(&m, &kit_shape, 50, rows, 0), 0);
		memset(m.bytes, 0xff, m.n_bytes);
		snprintf(params, sizeof(params), "rows = %u", rows);
		kvmod_plan_free(kit_run(&m, params, walk_nowhere));
		ck_assert_msg(strstr(fixture_log, rows ? "attention is not finite" :
				     "its segment has no queries"), "%s", fixture_log);
		madeup_free(&m);
	}
}
END_TEST

START_TEST(most_attention)
{
	/* More queries than a block has, and fewer; with a model's sinks, which no weighting counts. */
	static const uint32_t q_heads[] = { 3, 57 };
	static const float sinks[57] = { -50, 0, 1, 3, 30 };
	struct madeup m;

	for (int round = 0; round < 4; round++) {
		struct kv_shape shape = kit_shape;

		shape.n_q_heads = q_heads[round / 2];
		m = kit_cache(&shape, 100);
		for (uint32_t i = 0; i < 2 && round % 2; i++)
			m.d.segments[i].sink_logits = sinks;
		kit_run_and_free(&m, "floats = 9000", check_most);
	}
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
	struct madeup m = kit_cache(&kit_shape, 60);

	for (uint32_t i = 0; i < 2; i++)
		m.d.segments[i].sink_logits = sinks;
	kit_run_and_free(&m, "", check_sinks);
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

	ck_assert_int_eq(madeup_first(&m, &kit_shape, 50, 0, 0), 0);
	plan = kit_run(&m, "rows = 0", ask_without_queries);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, KVMOD_EINVAL);
	ck_assert_msg(strstr(fixture_log, "its segment has no queries: a policy's needs ask "
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
	struct madeup m = kit_cache(&kit_shape, 50);
	struct kvmod_plan *plan;
	float bad = NAN;

	memcpy(m.bytes + ((const unsigned char *)m.d.heads[3 + 2].k.data - m.bytes), &bad, sizeof(bad));
	plan = kit_run(&m, "", attend);
	ck_assert_int_eq(kvmod_keep_at(plan, 0)->status, 0);
	ck_assert_int_eq(kvmod_keep_at(plan, 1)->status, KVMOD_ENUMERIC);
	ck_assert_msg(strstr(fixture_log, "layer 1: KV head 2: attention is not finite: NaN or infinity "
			     "in its keys or queries"), "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(&m);
}
END_TEST

FIXTURE_MAIN("toolkit attention", logits_of_the_newest, attention_of_the_newest, most_attention,
	     attention_row_by_row, attention_row_by_row_fails, attention_with_sinks,
	     attention_without_queries, attention_not_finite)
