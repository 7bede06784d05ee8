/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention in parts (kernels/cpu/attention.h) against plain double arithmetic, at
 * every SIMD level: any types, lengths, groups, gaps, parts and ranges.
 */
#include <config.h>

#include "core/toolkit/toolkit.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/logits.h"

/* check has a macro `fail`, which is also a call of the host's. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/refreekv_layer.h"
#include "tests/simd_levels.h"

#define LEVELS (KV_SIMD_AVX512 + 1)
#define TOLERANCE 3e-6

/* --- the reference --------------------------------------------------------------- */

/* attention[query][i] of rows row .. row + n_rows - 1 of KV head g, in double. */
static double *reference(const struct kv_attention *a)
{
	const struct kvmod_segment *s = a->segment;
	uint32_t n_queries = a->n_rows * a->group, dim = a->head_dim;
	double *out = calloc((size_t)n_queries * a->n + 1, sizeof(*out)), *x = out;
	float *q = malloc(dim * sizeof(*q)), *k = malloc(dim * sizeof(*k));

	ck_assert(out && q && k);
	for (uint32_t query = 0; query < n_queries; query++, x += a->n) {
		uint32_t row = a->row + query / a->group, h = a->g * a->group + query % a->group;
		int64_t at = s->row_positions ? s->row_positions[row] :
			     (int64_t)(s->logical - s->n_rows + row);
		double max = -INFINITY, sum = 0;

		kv_cpu_to_f32(s->q.type, (const char *)s->q.data + row * s->q.stride +
			      h * s->q.head_stride, dim, q);
		for (uint32_t i = 0; i < a->n; i++) {
			int64_t position = a->head->positions ? a->head->positions[i] : (int64_t)i;

			kv_cpu_to_f32(a->head->k.type, (const char *)a->head->k.data +
				      i * a->head->k.stride, dim, k);
			for (uint32_t d = 0; d < dim; d++)
				x[i] += (double)q[d] * k[d];
			x[i] *= s->scale;
			if (s->softcap > 0)
				x[i] = s->softcap * tanh(x[i] / s->softcap);
			x[i] = position <= at ? x[i] : -INFINITY;
			max = fmax(max, x[i]);
		}
		for (uint32_t i = 0; i < a->n; i++)
			sum += x[i] = max > -INFINITY ? exp(x[i] - max) : 0;
		for (uint32_t i = 0; i < a->n && sum > 0; i++)
			x[i] /= sum;
	}
	free(q);
	free(k);
	return out;
}

/* --- one random head --------------------------------------------------------------- */

struct ranges {
	uint32_t n;			/* parts */
	uint32_t part_of[8], end[8];	/* of ascending ranges; a part may have several */
	uint32_t n_ranges;
};

static struct ranges random_ranges(struct kv_random *r, uint32_t n)
{
	struct ranges p = { .n = kv_random_range(r, 1, 4), .n_ranges = kv_random_range(r, 1, 8) };

	for (uint32_t i = 0; i < p.n_ranges; i++) {
		p.part_of[i] = kv_random_range(r, 0, p.n - 1);
		p.end[i] = kv_random_range(r, i ? p.end[i - 1] : 0, n);
	}
	p.end[p.n_ranges - 1] = n;
	return p;
}

/* Ranges from the last to the first: their order must not matter. */
static void scan(const struct kv_attention *a, const struct ranges *p)
{
	for (uint32_t i = p->n_ranges; i-- > 0;)
		kv_attention_scan(a, p->part_of[i], i ? p->end[i - 1] : 0, p->end[i]);
}

static void check_parts(const struct kv_attention *a, const struct ranges *p,
			const double *expected)
{
	double share[4], squares[4];

	for (uint32_t query = 0; query < a->n_rows * a->group; query++, expected += a->n) {
		double sum[4] = { 0 }, sum2[4] = { 0 };

		for (uint32_t i = 0, range = 0; i < a->n; i++) {
			while (i >= p->end[range])
				range++;
			sum[p->part_of[range]] += expected[i];
			sum2[p->part_of[range]] += expected[i] * expected[i];
		}
		kv_attention_parts(a, query / a->group, query % a->group, share, squares);
		for (uint32_t part = 0; part < p->n; part++) {
			ck_assert_double_eq_tol(share[part], sum[part], TOLERANCE);
			ck_assert_double_eq_tol(squares[part], sum2[part], TOLERANCE);
		}
	}
}

/* What the newest rows pay to a range, by head or all heads together. */
static void check_add(struct kv_random *r, const struct kv_attention *a, const double *expected)
{
	uint32_t n_rows = kv_random_range(r, 1, a->n_rows), begin = kv_random_range(r, 0, a->n - 1);
	uint32_t end = kv_random_range(r, begin, a->n), first = (a->n_rows - n_rows) * a->group;
	bool by_head = kv_random_range(r, 0, 1);
	size_t stride = by_head ? end - begin : 0;
	float *out = malloc(((size_t)a->group * a->n + 1) * sizeof(*out));

	ck_assert_ptr_nonnull(out);
	for (size_t i = 0; i < (size_t)a->group * a->n; i++)
		out[i] = 1;
	kv_attention_add(a, n_rows, begin, end, 0.5f, out, stride);
	for (uint32_t h = 0; h < (by_head ? a->group : 1); h++)
		for (uint32_t i = begin; i < end; i++) {
			double sum = 1;

			for (uint32_t query = first + h; query < a->n_rows * a->group;
			     query += by_head ? a->group : 1)
				sum += 0.5 * expected[(size_t)query * a->n + i];
			ck_assert_double_eq_tol(out[h * stride + i - begin], sum, TOLERANCE * sum);
		}
	free(out);
}

static void check_head(struct kv_random *r, const struct kvmod_segment *s, uint32_t g)
{
	uint32_t n_rows = kv_random_range(r, 1, s->n_rows);
	uint32_t row = kv_random_range(r, 0, s->n_rows - n_rows);
	struct kv_attention a = kv_attention_of(s, g, row, n_rows);
	struct ranges p = random_ranges(r, a.n);
	double *expected = reference(&a);
	size_t n_logits = (size_t)n_rows * a.group * a.n;
	void *memory;

	a.n_parts = p.n;
	a.logits = kv_random_range(r, 0, 1) ? malloc(n_logits * sizeof(float)) : NULL;
	memory = aligned_alloc(64, kv_attention_lay_out(&a, NULL));
	ck_assert_ptr_nonnull(memory);
	kv_attention_lay_out(&a, memory);
	kv_attention_load(&a);
	scan(&a, &p);
	ck_assert_int_eq(kv_attention_total(&a), 0);
	check_parts(&a, &p, expected);
	for (int i = 0; i < 3; i++)
		check_add(r, &a, expected);
	if (a.logits) {
		kv_attention_of_logits(&a);
		for (size_t i = 0; i < n_logits; i++)
			ck_assert_double_eq_tol(a.logits[i], expected[i], TOLERANCE);
	}
	free(a.logits);
	free(memory);
	free(expected);
}

static struct shape random_shape(struct kv_random *r, uint32_t type)
{
	static const uint32_t heads[][2] = {
		{ 9, 3 }, { 4, 1 }, { 5, 5 }, { 14, 2 }, { 8, 2 }, { 16, 1 },
	};
	uint32_t i = kv_random_range(r, 0, 5);
	struct shape s = {
		.type = type,
		.n = kv_random_range(r, 0, 9) ? kv_random_range(r, 1, 100) :
		     kv_random_range(r, 380, 1200),
		.n_q_heads = heads[i][0], .n_kv_heads = heads[i][1],
		.head_dim = kvmod_block_size(type) > 1 ? 32 * kv_random_range(r, 1, 3) :
			    kv_random_range(r, 1, 80),
		.ragged = kv_random_range(r, 0, 1),
	};

	s.n_rows = kv_random_range(r, 1, s.n < 20 ? s.n : 20);
	return s;
}

START_TEST(random_heads)
{
	struct kv_random r = { 5 };

	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	for (int round = 0; round < 200; round++) {
		struct shape shape = random_shape(&r, KVMOD_F32 + (uint32_t)round % 5);
		struct layer l;

		layer_make(&l, &r, &shape);
		check_head(&r, &l.segment, kv_random_range(&r, 0, shape.n_kv_heads - 1));
		layer_free(&l);
	}
}
END_TEST

/* --- the toolkit's calls: the same numbers, in memory of the size that it says ------------ */

static void check_toolkit(struct kv_random *r, const struct kvmod_segment *s, uint32_t g)
{
	uint32_t n_rows = kv_random_range(r, 1, 2 * s->n_rows);
	uint32_t n = n_rows < s->n_rows ? n_rows : s->n_rows;
	struct kv_attention a = kv_attention_of(s, g, s->n_rows - n, n);
	struct ranges p = random_ranges(r, a.n);
	size_t bytes = kv_toolkit.parts_bytes(s, g, n_rows, p.n), n_out = (size_t)a.group * a.n;
	float *expected = calloc(n_out, sizeof(*expected)), *out = calloc(n_out, sizeof(*out));
	void *memory, *ours = aligned_alloc(64, bytes);
	double share[2][4], squares[2][4];
	struct kvmod_attention *kit;

	ck_assert_uint_eq(bytes % 64, 0);
	a.n_parts = p.n;
	memory = aligned_alloc(64, kv_attention_lay_out(&a, NULL));
	ck_assert(expected && out && memory && ours);
	kv_attention_lay_out(&a, memory);
	kv_attention_load(&a);
	scan(&a, &p);
	ck_assert_int_eq(kv_attention_total(&a), 0);
	kit = kv_toolkit.parts_open(s, g, n_rows, p.n, ours);
	for (uint32_t i = p.n_ranges; i-- > 0;)
		kv_toolkit.parts_scan(kit, p.part_of[i], i ? p.end[i - 1] : 0, p.end[i]);
	ck_assert_int_eq(kv_toolkit.parts_total(kit), 0);
	for (uint32_t query = 0; query < n * a.group; query++) {
		kv_attention_parts(&a, query / a.group, query % a.group, share[0], squares[0]);
		kv_toolkit.parts_shares(kit, query / a.group, query % a.group, share[1], NULL);
		kv_toolkit.parts_shares(kit, query / a.group, query % a.group, NULL, squares[1]);
		ck_assert_mem_eq(share[0], share[1], p.n * sizeof(double));
		ck_assert_mem_eq(squares[0], squares[1], p.n * sizeof(double));
	}
	kv_attention_add(&a, n, 0, a.n, 2, expected, a.n);
	kv_toolkit.parts_add(kit, n_rows, 0, a.n, 2, out, a.n);
	ck_assert_mem_eq(out, expected, n_out * sizeof(*out));
	free(memory);
	free(ours);
	free(expected);
	free(out);
}

START_TEST(toolkit)
{
	struct kv_random r = { 6 };

	for (int round = 0; round < 60; round++) {
		struct shape shape = random_shape(&r, KVMOD_F32 + (uint32_t)round % 5);
		struct layer l;

		layer_make(&l, &r, &shape);
		check_toolkit(&r, &l.segment, kv_random_range(&r, 0, shape.n_kv_heads - 1));
		layer_free(&l);
	}
}
END_TEST

/* --- what cannot be seen, and what is not finite ---------------------------------------- */

static float keys[700 * 2];
static const int32_t positions[] = { 0, 350, 699 };

static const struct kvmod_head *heads[1];

/* 700 keys of 2 dimensions; three rows, one head. */
static void small(struct kvmod_segment *s, struct kvmod_head *head, float *q)
{
	*head = (struct kvmod_head){ .size = sizeof(*head), .n = 700,
		.k = { .type = KVMOD_F32, .data = keys, .stride = 2 * sizeof(float) } };
	heads[0] = head;
	*s = (struct kvmod_segment){
		.size = sizeof(*s), .logical = 700, .n_q_heads = 1, .n_kv_heads = 1, .head_dim = 2,
		.scale = 1, .heads = heads,
		.q = { .type = KVMOD_F32, .data = q, .stride = 2 * sizeof(float),
		       .head_stride = 2 * sizeof(float) },
		.n_rows = 3, .row_positions = positions,
	};
}

/* Equal keys share alike; the first row sees one position, the second 351, the last all. */
START_TEST(causal)
{
	static _Alignas(64) char memory[65536];
	float q[6] = { 1, 1, 1, 1, 1, 1 }, out[700] = { 0 };
	const double each = 1.0 / 3;
	struct kvmod_segment s;
	struct kvmod_head head;
	struct kv_attention a;

	memset(keys, 0, sizeof(keys));
	small(&s, &head, q);
	a = kv_attention_of(&s, 0, 0, 3);
	ck_assert_uint_le(kv_attention_lay_out(&a, memory), sizeof(memory));
	kv_attention_load(&a);
	ck_assert_uint_eq(a.sees[0], 1);
	ck_assert_uint_eq(a.sees[1], 351);
	ck_assert_uint_eq(a.sees[2], 700);
	kv_attention_scan(&a, 0, 0, 700);
	ck_assert_int_eq(kv_attention_total(&a), 0);
	kv_attention_add(&a, 3, 0, 700, (float)each, out, 0);
	ck_assert_double_eq_tol(out[0], each * (1 + 1.0 / 351 + 1.0 / 700), 1e-6);
	ck_assert_double_eq_tol(out[350], each * (1.0 / 351 + 1.0 / 700), 1e-6);
	ck_assert_double_eq_tol(out[351], each / 700, 1e-6);
}
END_TEST

/* A bad key counts only if somebody sees it. */
START_TEST(not_finite)
{
	static _Alignas(64) char memory[65536];
	static const float bad[] = { NAN, INFINITY };
	float q[6] = { 1, 1, 1, 1, 1, 1 };
	struct kvmod_segment s;
	struct kvmod_head head;

	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	small(&s, &head, q);
	for (int b = 0; b < 2; b++)
		for (uint32_t rows = 1; rows <= 3; rows++)
			for (uint32_t at = 0; at < 700; at += 233) {
				struct kv_attention a = kv_attention_of(&s, 0, 0, rows);

				memset(keys, 0, sizeof(keys));
				keys[2 * at] = bad[b];
				kv_attention_lay_out(&a, memory);
				kv_attention_load(&a);
				kv_attention_scan(&a, 0, 0, 700);
				ck_assert_int_eq(kv_attention_total(&a),
						 at <= (uint32_t)positions[rows - 1] ?
						 KVMOD_ENUMERIC : 0);
			}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("attention");
	TCase *tc = tcase_create("cpu");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tc, random_heads, 0, LEVELS);
	tcase_add_test(tc, toolkit);
	tcase_add_test(tc, causal);
	tcase_add_loop_test(tc, not_finite, 0, LEVELS);
	suite_add_tcase(suite, tc);
	simd_say_missing();
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
