/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU kernels against plain double arithmetic, at every SIMD level here. */
#include <config.h>
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/arrays.h"
#include "kernels/cpu/hadamard.h"
#include "core/testkit/random.h"
#include "kernels/cpu/ops.h"
#include "tests/simd_levels.h"

/* A loop test runs once for each level; those that are not here have nothing to show. */
#define LEVELS (KV_SIMD_AVX512 + 1)

static bool level_missing(int level)
{
	return !kv_simd_set_level((enum kv_simd)level);
}

static float *normals(struct kv_random *r, size_t n, float deviation)
{
	float *x = malloc(n * sizeof(*x) + 1);
	size_t i;

	ck_assert_ptr_nonnull(x);
	for (i = 0; i < n; i++)
		x[i] = deviation * kv_random_normal(r);
	return x;
}

/* A cache of one KV head with odd alignment and stride. */
struct keys {
	char *memory;
	struct kvmod_view view;
	float *values;		/* what the elements read back as */
};

static void keys_make(struct keys *k, struct kv_random *r, uint32_t type, uint32_t n, uint32_t dim)
{
	size_t row = kvmod_row_bytes(type, dim), stride = row + kv_random_range(r, 0, 70), i;
	float *source = normals(r, (size_t)n * dim, 1);
	char *base;

	k->memory = malloc(n * stride + 64);
	ck_assert_ptr_nonnull(k->memory);
	base = k->memory + kv_random_range(r, 0, 63);
	k->view = (struct kvmod_view){ .type = type, .data = base, .stride = (int64_t)stride };
	k->values = source;
	for (i = 0; i < n; i++) {
		kv_encode(type, source + i * dim, dim, base + i * stride);
		kv_cpu_to_f32(type, base + i * stride, dim, k->values + i * dim);
	}
}

static void keys_free(struct keys *k)
{
	free(k->memory);
	free(k->values);
}

static double logit(const float *k, const float *q, uint32_t dim, double scale, double cap)
{
	double sum = 0;
	uint32_t d;

	for (d = 0; d < dim; d++)
		sum += (double)k[d] * q[d];
	sum *= scale;
	return cap > 0 ? cap * tanh(sum / cap) : sum;
}

static void check_logits(struct kv_random *r, uint32_t type)
{
	uint32_t dim = kvmod_block_size(type) > 1 ? 32 * kv_random_range(r, 1, 8) : kv_random_range(r, 1, 256);
	uint32_t n = kv_random_range(r, 1, 300), n_q = kv_random_range(r, 1, 9);
	uint32_t begin = kv_random_range(r, 0, n - 1), end = kv_random_range(r, begin, n), i, j;
	size_t stride = end - begin + kv_random_range(r, 0, 5);
	float scale = 1 / sqrtf((float)dim), cap = kv_random_range(r, 0, 1) ? 3 : 0;
	float *q = normals(r, (size_t)n_q * dim, 3), *out = normals(r, n_q * stride + 1, 1);
	float guard = out[n_q * stride];
	struct keys k;

	keys_make(&k, r, type, n, dim);
	kv_cpu_logits(&k.view, dim, begin, end, q, n_q, scale, cap, out, stride);
	for (j = 0; j < n_q; j++)
		for (i = begin; i < end; i++)
			ck_assert_double_eq_tol(out[j * stride + i - begin],
				logit(k.values + (size_t)i * dim, q + (size_t)j * dim, dim, scale, cap),
				2e-5);
	ck_assert_float_eq(out[n_q * stride], guard);
	keys_free(&k);
	free(q);
	free(out);
}

START_TEST(logits)
{
	struct kv_random r = { 1 };
	uint32_t type;
	int round;

	if (level_missing(_i))
		return;
	for (round = 0; round < 60; round++)
		for (type = KVMOD_F32; type <= KVMOD_Q4_0; type++)
			check_logits(&r, type);
}
END_TEST

/* Every f16 and bf16 there is: subnormals, infinities and NaN too. */
START_TEST(conversions)
{
	static uint16_t all[65536];
	static float f16[65536], bf16[65536];
	uint32_t i;

	if (level_missing(_i))
		return;
	for (i = 0; i < 65536; i++)
		all[i] = (uint16_t)i;
	kv_cpu_to_f32(KVMOD_F16, all, 65535, f16);
	kv_cpu_to_f32(KVMOD_BF16, all, 65535, bf16);
	for (i = 0; i < 65535; i++) {
		uint32_t bits = i << 16, exponent = i >> 10 & 31, mantissa = i & 1023;
		float value, wide;

		memcpy(&wide, &bits, sizeof(wide));
		value = exponent == 31 ? (mantissa ? NAN : INFINITY) :
			exponent ? ldexpf(1 + (float)mantissa / 1024, (int)exponent - 15) :
			ldexpf((float)mantissa / 1024, -14);
		if (i & 0x8000)
			value = -value;
		ck_assert(isnan(value) ? isnan(f16[i]) : f16[i] == value);
		ck_assert(isnan(wide) ? isnan(bf16[i]) : bf16[i] == wide);
	}
}
END_TEST

/* Byte i of a block has its elements i and i + 16. */
START_TEST(nibbles)
{
	unsigned char row[36];
	float out[64];
	uint32_t i;

	if (level_missing(_i))
		return;
	memcpy(row, (const unsigned char[]){ 0x00, 0x38 }, 2);		/* 0.5 */
	memcpy(row + 18, (const unsigned char[]){ 0x00, 0xc0 }, 2);	/* -2 */
	for (i = 0; i < 16; i++) {
		row[2 + i] = (unsigned char)(i | (15 - i) << 4);
		row[20 + i] = (unsigned char)(3 | i << 4);
	}
	kv_cpu_to_f32(KVMOD_Q4_0, row, 64, out);
	for (i = 0; i < 16; i++) {
		ck_assert_float_eq(out[i], 0.5f * ((float)i - 8));
		ck_assert_float_eq(out[16 + i], 0.5f * (7 - (float)i));
		ck_assert_float_eq(out[32 + i], 10);
		ck_assert_float_eq(out[48 + i], -2 * ((float)i - 8));
	}
}
END_TEST

/* In place of additions, the matrix itself: (-1)^popcount(i & j) / sqrt(d). */
static double hadamard_times(const float *x, uint32_t d, uint32_t i)
{
	double sum = 0;

	for (uint32_t j = 0; j < d; j++)
		sum += __builtin_popcount(i & j) % 2 ? -(double)x[j] : (double)x[j];
	return sum / sqrt(d);
}

START_TEST(hadamard)
{
	struct kv_random r = { 4 };

	for (uint32_t d = 1; d <= 256; d *= 2) {
		size_t n = 3 * (size_t)d;
		float *x = normals(&r, n, 1), *y = malloc(n * sizeof(*y));

		ck_assert_ptr_nonnull(y);
		memcpy(y, x, n * sizeof(*y));
		kv_cpu_hadamard(y, n, d);
		for (size_t i = 0; i < n; i++)
			ck_assert_double_eq_tol(y[i], hadamard_times(x + i / d * d, d, (uint32_t)(i % d)), 1e-5);
		/* Its own inverse. */
		kv_cpu_hadamard(y, n, d);
		for (size_t i = 0; i < n; i++)
			ck_assert_double_eq_tol(y[i], x[i], 1e-5);
		free(x);
		free(y);
	}
}
END_TEST

/* Piece by piece, merged. */
static void softmax_of(const float *x, size_t n, struct kv_softmax *s)
{
	float piece[384];
	size_t i;

	for (i = 0; i < n; i += 384) {
		size_t size = n - i < 384 ? n - i : 384;
		struct kv_softmax part;

		memcpy(piece, x + i, size * sizeof(*x));
		kv_cpu_softmax_piece(piece, 384, 1, size, &part);
		if (i == 0)
			*s = part;
		else
			kv_softmax_merge(s, &part);
	}
}

static void check_softmax(struct kv_random *r, size_t n, float deviation)
{
	float *x = normals(r, n, deviation), *p = malloc(n * sizeof(*p)), *twice = malloc(n * sizeof(*p));
	float *raised = malloc(n * sizeof(*p));
	double max = -INFINITY, sum = 0, squares = 0;
	struct kv_softmax s;
	size_t i;

	ck_assert(p && twice && raised);
	for (i = 0; i < n; i++)
		max = fmax(max, x[i]);
	for (i = 0; i < n; i++) {
		sum += exp(x[i] - max);
		squares += exp(2 * (x[i] - max));
	}
	softmax_of(x, n, &s);
	ck_assert_double_eq(s.max, max);
	ck_assert_double_eq_tol(s.sum, sum, 1e-6 * sum);
	ck_assert_double_eq_tol(s.squares, squares, 1e-6 * squares);
	memcpy(p, x, n * sizeof(*p));
	ck_assert_int_eq(kv_cpu_softmax(p, n), 0);
	memcpy(twice, p, n * sizeof(*p));
	kv_cpu_ops()->exp_add(x, n, s.max, 1 / s.sum, twice);
	/* What is larger stays. */
	memset(raised, 0, n * sizeof(*raised));
	raised[n / 2] = 2;
	kv_cpu_ops()->exp_raise(x, n, s.max, 1 / s.sum, raised);
	ck_assert_float_eq(raised[n / 2], 2);
	for (i = 0; i < n; i++) {
		double attention = exp(x[i] - max) / sum;

		ck_assert(i == n / 2 || fabs(raised[i] - attention) <= 2e-6 * attention + 1e-37);
		ck_assert_double_eq_tol(p[i], attention, 2e-6 * attention + 1e-37);
		ck_assert_double_eq_tol(twice[i], 2 * attention, 4e-6 * attention + 1e-37);
	}
	free(x);
	free(p);
	free(twice);
	free(raised);
}

START_TEST(softmax)
{
	struct kv_random r = { 2 };
	size_t n;

	if (level_missing(_i))
		return;
	for (n = 1; n < 70; n++)
		check_softmax(&r, n, 4);
	check_softmax(&r, 5000, 1);
	check_softmax(&r, 5000, 60);
}
END_TEST

/* Wherever a bad number stands, vector or tail, the sum tells. */
START_TEST(softmax_not_finite)
{
	static const float bad[] = { NAN, INFINITY };
	float x[37];
	struct kv_softmax s;
	size_t i, b;

	if (level_missing(_i))
		return;
	for (b = 0; b < 2; b++)
		for (i = 0; i < 37; i++) {
			memset(x, 0, sizeof(x));
			x[i] = bad[b];
			softmax_of(x, 37, &s);
			ck_assert_msg(isnan(s.sum), "%g at %zu of 37 went unseen", (double)bad[b], i);
			ck_assert_int_eq(kv_cpu_softmax(x, 37), KVMOD_ENUMERIC);
		}
	for (i = 0; i < 37; i++)
		x[i] = -INFINITY;
	softmax_of(x, 37, &s);
	ck_assert_float_eq(s.sum, 0);
	ck_assert_float_eq(s.squares, 0);
	ck_assert_float_eq(s.max, -FLT_MAX);
	ck_assert_int_eq(kv_cpu_softmax(x, 37), KVMOD_ENUMERIC);
	x[20] = 1;
	softmax_of(x, 37, &s);
	ck_assert_float_eq_tol(s.sum, 1, 1e-6);
	ck_assert_float_eq(s.max, 1);
}
END_TEST

/* --- arrays ------------------------------------------------------------------------ */

/* Totals and entropies of n numbers from 0 to 1: most are small, as attention is. */
static void check_sums(struct kv_random *r, size_t n)
{
	float *x = normals(r, n, 1);
	double total = 0, entropy = 0;

	for (size_t i = 0; i < n; i++) {
		x[i] = i % 7 == 3 ? 0 : i % 7 == 5 ? 1 : expf(-10 * fabsf(x[i]));
		total += (double)x[i];
		entropy -= x[i] * log(x[i] + 1e-10);
	}
	ck_assert_double_eq_tol(kv_cpu_total(x, n), total, 2e-6 * total + 1e-30);
	ck_assert_double_eq_tol(kv_cpu_entropy(x, n, 1e-10f), entropy, 2e-6 * entropy + 1e-9);
	free(x);
}

/* Each by itself: the logarithm is as good for small numbers and near 1. */
static void check_entropies(void)
{
	for (double x = 1e-30; x < 1e30; x *= 1.0078) {
		float of[1] = { (float)x };
		double entropy = -(double)of[0] * log((double)(of[0] + 1e-10f));

		ck_assert_double_eq_tol(kv_cpu_entropy(of, 1, 1e-10f), entropy,
					3e-7 * fabs(entropy));
	}
	for (int i = -1000; i <= 1000; i++) {
		float of[1] = { 1 + (float)i * 1e-6f };
		double entropy = -(double)of[0] * log((double)of[0]);

		ck_assert_double_eq_tol(kv_cpu_entropy(of, 1, 1e-30f), entropy,
					3e-7 * fabs(entropy) + 1e-30);
	}
}

static void check_moments(struct kv_random *r, size_t n)
{
	enum { ROWS = 9 };
	float *x = normals(r, n * ROWS, 0.001f), *mean = calloc(n + 1, sizeof(*mean));
	float *squares = calloc(n + 1, sizeof(*squares));

	ck_assert(mean && squares);
	mean[n] = squares[n] = -7;
	/* Variance is small beside the mean. */
	for (size_t i = 0; i < n * ROWS; i++)
		x[i] += 1;
	for (uint32_t row = 0; row < ROWS; row++)
		kv_cpu_moments(x + row * n, n, row + 1, mean, squares);
	for (size_t i = 0; i < n; i++) {
		double m = 0, s = 0;

		for (size_t row = 0; row < ROWS; row++)
			m += (double)x[row * n + i] / ROWS;
		for (size_t row = 0; row < ROWS; row++)
			s += (x[row * n + i] - m) * (x[row * n + i] - m);
		ck_assert_double_eq_tol(mean[i], m, 3e-7);
		ck_assert_double_eq_tol(squares[i], s, 2e-3 * s);
	}
	ck_assert_float_eq(mean[n], -7);
	ck_assert_float_eq(squares[n], -7);
	free(x);
	free(mean);
	free(squares);
}

static void check_pool(struct kv_random *r, int64_t n, int64_t half)
{
	float *x = normals(r, (size_t)n, 1), *average = calloc((size_t)n + 1, sizeof(*average));
	float *most = calloc((size_t)n + 1, sizeof(*most));

	ck_assert(average && most);
	average[n] = most[n] = -7;
	kv_cpu_pool_average(x, (size_t)n, (uint32_t)half, average);
	kv_cpu_pool_max(x, (size_t)n, (uint32_t)half, most);
	for (int64_t i = 0; i < n; i++) {
		double sum = 0;
		float largest = -INFINITY;

		for (int64_t j = i - half; j <= i + half; j++) {
			sum += j >= 0 && j < n ? x[j] : 0;
			largest = j >= 0 && j < n ? fmaxf(largest, x[j]) : largest;
		}
		ck_assert_double_eq_tol(average[i], sum / (double)(2 * half + 1), 1e-6);
		ck_assert_float_eq(most[i], largest);
	}
	ck_assert_float_eq(average[n], -7);
	ck_assert_float_eq(most[n], -7);
	free(x);
	free(average);
	free(most);
}

START_TEST(arrays)
{
	struct kv_random r = { 6 };

	if (level_missing(_i))
		return;
	check_entropies();
	for (size_t n = 0; n < 70; n++) {
		check_sums(&r, n);
		check_moments(&r, n);
		for (int64_t half = 0; half < 5; half++)
			check_pool(&r, (int64_t)n, half);
	}
	check_sums(&r, 50001);
	check_pool(&r, 1000, 127);
	ck_assert_double_nan(kv_cpu_total((const float[]){ 1, NAN, 1 }, 3));
	ck_assert_double_nan(kv_cpu_entropy((const float[]){ 1, NAN, 1 }, 3, 1e-10f));
}
END_TEST

START_TEST(additions)
{
	struct kv_random r = { 6 };
	size_t n, i;

	if (level_missing(_i))
		return;
	for (n = 1; n < 70; n++) {
		float *x = normals(&r, n + 1, 1), *y = normals(&r, n + 1, 1), *z = malloc((n + 1) * sizeof(*z));

		ck_assert_ptr_nonnull(z);
		memcpy(z, x, (n + 1) * sizeof(*z));
		kv_cpu_ops()->add(y, n, z);
		for (i = 0; i < n; i++)
			ck_assert_float_eq(z[i], x[i] + y[i]);
		ck_assert_float_eq(z[n], x[n]);
		free(x);
		free(y);
		free(z);
	}
}
END_TEST

/* Rows too long for the vectors' stack. */
START_TEST(long_forms)
{
	const uint32_t dim = KV_FORM_DIM + 1;
	float *matrix = calloc((size_t)dim * dim, sizeof(*matrix)), *row = calloc(2 * dim, sizeof(*row)), out[2];
	struct kvmod_view view = { .type = KVMOD_F32, .data = row, .stride = dim * sizeof(*row) };

	ck_assert(!level_missing(KV_SIMD_SCALAR) && matrix && row);
	for (uint32_t d = 0; d < dim; d++) {
		matrix[d * dim + d] = 1;
		row[d] = 2;
		row[dim + d] = (float)(d == dim - 1);
	}
	for (int level = 0; level < LEVELS; level++) {
		if (level_missing(level))
			continue;
		kv_cpu_quadratic(&view, dim, 0, 2, matrix, row, out);
		ck_assert_float_eq(out[0], 8 * (float)dim);
		ck_assert_float_eq(out[1], 3);
		/* And the longest that they do take. */
		kv_cpu_quadratic(&view, dim - 1, 0, 1, matrix, row, out);
		ck_assert_float_gt(out[0], 4 * (float)dim);
	}
	free(matrix);
	free(row);
}
END_TEST

START_TEST(sums)
{
	struct kv_random r = { 3 };
	unsigned char bytes[1000];
	uint64_t sum = 0;
	size_t n;

	if (level_missing(_i))
		return;
	for (n = 0; n < 1000; n++) {
		ck_assert_uint_eq(kv_cpu_sum_bytes(bytes, n), sum);
		bytes[n] = (unsigned char)kv_random_u32(&r);
		sum += bytes[n];
	}
}
END_TEST

/* At least as many as asked for, and all of them done: x -> 0.75 x + 0.25 goes to 1. */
START_TEST(multiply_adds)
{
	float sum, one;

	if (level_missing(_i))
		return;
	ck_assert_uint_ge(kv_cpu_multiply_add(1, &sum), 1);
	ck_assert_uint_ge(kv_cpu_multiply_add(100000, &one), 100000);
	ck_assert_float_gt(sum, 1.5f * one);
	ck_assert_float_eq_tol(one, roundf(one), 1e-5f);
}
END_TEST

START_TEST(levels)
{
	ck_assert(kv_simd_set_level(KV_SIMD_SCALAR));
	ck_assert_int_eq(kv_simd_level(), KV_SIMD_SCALAR);
	ck_assert(!kv_simd_set_level((enum kv_simd)LEVELS));
	ck_assert_int_eq(kv_simd_level(), KV_SIMD_SCALAR);
	ck_assert_str_eq(kv_simd_name(KV_SIMD_AVX512), "avx512");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kernels");
	TCase *tc = tcase_create("cpu");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tc, logits, 0, LEVELS);
	tcase_add_loop_test(tc, conversions, 0, LEVELS);
	tcase_add_loop_test(tc, nibbles, 0, LEVELS);
	tcase_add_loop_test(tc, softmax, 0, LEVELS);
	tcase_add_loop_test(tc, softmax_not_finite, 0, LEVELS);
	tcase_add_loop_test(tc, arrays, 0, LEVELS);
	tcase_add_loop_test(tc, sums, 0, LEVELS);
	tcase_add_loop_test(tc, additions, 0, LEVELS);
	tcase_add_test(tc, long_forms);
	tcase_add_loop_test(tc, multiply_adds, 0, LEVELS);
	tcase_add_test(tc, hadamard);
	tcase_add_test(tc, levels);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	simd_say_missing();
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
