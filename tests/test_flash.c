/* SPDX-License-Identifier: Apache-2.0 */
/* Flash attention on the host, against plain double arithmetic, at every SIMD level here. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"
#include "kernels/cpu/flash.h"
#include "kernels/cpu/logits.h"
#include "tests/simd_levels.h"

/* A loop test runs once for each level; those that are not here have nothing to show. */
#define LEVELS (KV_SIMD_AVX512 + 1)
#define MOST_HEADS 5

static struct kv_random r;
static struct kv_flash flash;
static uint32_t first[MOST_HEADS + 1], n[MOST_HEADS];
static char *cache[2];			/* K and V, with strides of their own */
static float *decoded[2];		/* what they read back as */
static float *q, *out;

static void *memory(size_t bytes)
{
	void *address = malloc(bytes);

	ck_assert_ptr_nonnull(address);
	memset(address, 0xff, bytes);	/* NaN */
	return address;
}

/* --- made-up attention ------------------------------------------------------------------ */

/* Rows that queries see get numbers; the others, and what lies between rows, stay NaN. */
static struct kvmod_view make_rows(int which, uint32_t type)
{
	size_t stride = kvmod_row_bytes(type, flash.head_dim) + 2 * kv_random_range(&r, 0, 9);
	uint32_t n_rows = first[flash.n_heads], dim = flash.head_dim;

	cache[which] = memory(n_rows * stride);
	decoded[which] = memory(n_rows * dim * sizeof(float));
	for (uint32_t g = 0; g < flash.n_heads; g++) {
		for (uint32_t i = first[g]; i < first[g] + n[g] + flash.n_rows; i++) {
			float *row = decoded[which] + (size_t)i * dim;

			for (uint32_t d = 0; d < dim; d++)
				row[d] = kv_random_normal(&r);
			kv_encode(type, row, dim, cache[which] + i * stride);
			kv_cpu_to_f32(type, cache[which] + i * stride, dim, row);
		}
	}
	return (struct kvmod_view){ .type = type, .data = cache[which], .stride = (int64_t)stride };
}

/* Strides of queries and outputs; the heads of a row may lie before those of the next or after. */
static size_t strides(size_t *row, size_t *head)
{
	size_t n_q = flash.n_heads * flash.group, room = flash.head_dim + kv_random_range(&r, 0, 5);
	bool rows_first = kv_random_range(&r, 0, 1);

	*head = rows_first ? room : room * flash.n_rows;
	*row = rows_first ? room * n_q : room;
	return n_q * flash.n_rows * room;
}

/* A call whose shape is set, with heads of up to `longest` older rows. */
static void make(uint32_t k_type, uint32_t v_type, uint32_t longest)
{
	size_t floats;

	for (uint32_t g = 0; g < flash.n_heads; g++) {
		n[g] = g ? kv_random_range(&r, 0, longest) : longest;
		first[g + 1] = first[g] + n[g] + flash.n_rows + kv_random_range(&r, 0, 40);
	}
	flash.first = first;
	flash.n = n;
	flash.scale = 2 / sqrtf((float)flash.head_dim);
	flash.k = make_rows(0, k_type);
	flash.v = make_rows(1, v_type);
	floats = strides(&flash.q_row, &flash.q_head);
	flash.q = q = memory(floats * sizeof(*q));
	for (size_t i = 0; i < floats; i++)
		q[i] = kv_random_normal(&r);
	flash.out = out = memory(strides(&flash.out_row, &flash.out_head) * sizeof(*out));
}

static void clean(void)
{
	for (int i = 0; i < 2; i++) {
		free(cache[i]);
		free(decoded[i]);
	}
	free(q);
	free(out);
}

/* --- the reference ----------------------------------------------------------------------- */

static double logit(uint32_t t, uint32_t h, uint32_t i)
{
	const float *row = q + t * flash.q_row + h * flash.q_head;
	const float *key = decoded[0] + (size_t)i * flash.head_dim;
	double sum = 0;

	for (uint32_t d = 0; d < flash.head_dim; d++)
		sum += (double)row[d] * key[d];
	return sum * flash.scale;
}

/* Row t of query head h: expected[head_dim]. */
static void reference(uint32_t t, uint32_t h, double *expected)
{
	uint32_t g = h / flash.group, sees = n[g] + t + 1;
	double *x = malloc(sees * sizeof(*x)), max = -INFINITY, sum = 0;

	ck_assert_ptr_nonnull(x);
	for (uint32_t i = 0; i < sees; i++) {
		x[i] = logit(t, h, first[g] + i);
		max = fmax(max, x[i]);
	}
	memset(expected, 0, flash.head_dim * sizeof(*expected));
	for (uint32_t i = 0; i < sees; i++) {
		const float *value = decoded[1] + (size_t)(first[g] + i) * flash.head_dim;

		sum += x[i] = exp(x[i] - max);
		for (uint32_t d = 0; d < flash.head_dim; d++)
			expected[d] += x[i] * value[d];
	}
	for (uint32_t d = 0; d < flash.head_dim; d++)
		expected[d] /= sum;
	free(x);
}

/* Every `step`th output. */
static void compare(uint32_t step, double tolerance)
{
	uint32_t n_q = flash.n_heads * flash.group;

	for (uint32_t i = 0; i < flash.n_rows * n_q; i += step) {
		const float *row = out + i / n_q * flash.out_row + i % n_q * flash.out_head;
		double expected[256];

		reference(i / n_q, i % n_q, expected);
		for (uint32_t d = 0; d < flash.head_dim; d++)
			ck_assert_double_eq_tol(row[d], expected[d], tolerance);
	}
}

/* --- threads: real ones ------------------------------------------------------------------ */

struct call {
	pthread_t thread;
	uint32_t i;
};

static void *run_one(void *call)
{
	kv_flash_run(&flash, ((struct call *)call)->i);
	return NULL;
}

/* Memory that has been used before, by more threads. */
static void run(uint32_t n_threads)
{
	static const char zeros[KV_FLASH_COUNTERS];
	struct call calls[4];
	char *scratch;

	flash.n_threads = 4;
	scratch = memory(kv_flash_scratch(&flash) + 64);
	flash.scratch = scratch + (64 - (uintptr_t)scratch % 64) % 64;
	memset(flash.scratch, 0, KV_FLASH_COUNTERS);
	flash.n_threads = n_threads;
	for (uint32_t i = 0; i < n_threads; i++) {
		calls[i].i = i;
		ck_assert_int_eq(pthread_create(&calls[i].thread, NULL, run_one, &calls[i]), 0);
	}
	for (uint32_t i = 0; i < n_threads; i++)
		pthread_join(calls[i].thread, NULL);
	ck_assert_mem_eq(flash.scratch, zeros, sizeof(zeros));
	free(scratch);
}

/* --- tests ---------------------------------------------------------------------------------- */

static const uint32_t types[] = { KVMOD_F32, KVMOD_F16, KVMOD_BF16, KVMOD_Q8_0, KVMOD_Q4_0 };
#define N_TYPES (sizeof(types) / sizeof(types[0]))

START_TEST(all_types)
{
	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	r = (struct kv_random){ 3 };
	for (uint32_t pair = 0; pair < N_TYPES * N_TYPES; pair++) {
		for (uint32_t rows = 1; rows <= 8; rows += 7) {
			flash = (struct kv_flash){ .head_dim = 32 * kv_random_range(&r, 1, 8),
						   .n_heads = 3, .group = 3, .n_rows = rows };
			make(types[pair / N_TYPES], types[pair % N_TYPES], 400);
			run(1);
			compare(5, 1e-5);
			clean();
		}
	}
}
END_TEST

/* Dimensions, groups and numbers of rows, from no older row to several stretches of them. */
START_TEST(all_shapes)
{
	static const uint32_t dims[] = { 32, 64, 80, 96, 128, 256, 1, 7, 33 };
	static const uint32_t lengths[] = { 0, 1, 63, 64, 255, 257, 3000 };
	const uint32_t n_dims = sizeof(dims) / sizeof(*dims), n_lengths = sizeof(lengths) / sizeof(*lengths);

	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	r = (struct kv_random){ 4 };
	for (uint32_t i = 0; i < n_dims * n_lengths; i++) {
		bool blocks = dims[i % n_dims] % 32 == 0;

		flash = (struct kv_flash){ .head_dim = dims[i % n_dims], .group = 1 + i % 8 };
		flash.n_heads = kv_random_range(&r, 1, MOST_HEADS);
		flash.n_rows = i % 3 ? kv_random_range(&r, 1, i % 3 * 20) : 1;
		make(blocks ? KVMOD_Q8_0 : KVMOD_F16, blocks ? KVMOD_Q4_0 : KVMOD_F32, lengths[i / n_dims]);
		run(1 + i % 4);
		compare(1 + flash.n_rows / 4, 1e-5);
		clean();
	}
}
END_TEST

/* More queries than a block of them, in the first pass of a prompt and later. */
START_TEST(many_rows)
{
	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	r = (struct kv_random){ 5 };
	for (uint32_t longest = 0; longest < 2000; longest += 700) {
		flash = (struct kv_flash){ .head_dim = 64, .n_heads = 2, .group = 3, .n_rows = 150 };
		make(KVMOD_F16, KVMOD_F16, longest);
		run(2);
		compare(7, 1e-5);
		clean();
	}
}
END_TEST

/* Any number of threads, in whatever order: the same bits. */
START_TEST(threads)
{
	for (uint32_t rows = 1; rows <= 100; rows += 99) {
		size_t bytes;
		float *once;

		r = (struct kv_random){ 6 };
		flash = (struct kv_flash){ .head_dim = 64, .n_heads = 3, .group = 3, .n_rows = rows };
		make(KVMOD_Q8_0, KVMOD_Q4_0, 2500);
		bytes = (flash.out_row * (rows - 1) + flash.out_head * 8 + 64) * sizeof(*out);
		once = malloc(bytes);
		ck_assert_ptr_nonnull(once);
		for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
			run(n_threads);
			if (n_threads == 1)
				memcpy(once, out, bytes);
			ck_assert_mem_eq(out, once, bytes);
			memset(out, 0xff, bytes);
		}
		free(once);
		clean();
	}
}
END_TEST

/* Logits far apart: no infinity, no NaN. */
START_TEST(large_logits)
{
	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	for (uint32_t rows = 1; rows <= 30; rows += 29) {
		r = (struct kv_random){ 7 };
		flash = (struct kv_flash){ .head_dim = 64, .n_heads = 2, .group = 2, .n_rows = rows };
		make(KVMOD_F32, KVMOD_F32, 700);
		flash.scale = 300;
		run(2);
		compare(1, 5e-3);
		clean();
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("flash attention");
	TCase *tc = tcase_create("flash");
	SRunner *sr;
	int failed;

	simd_say_missing();
	tcase_add_loop_test(tc, all_types, 0, LEVELS);
	tcase_add_loop_test(tc, all_shapes, 0, LEVELS);
	tcase_add_loop_test(tc, many_rows, 0, LEVELS);
	tcase_add_loop_test(tc, large_logits, 0, LEVELS);
	tcase_add_test(tc, threads);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
