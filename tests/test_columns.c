/* SPDX-License-Identifier: Apache-2.0 */
/* Attention reduced over rows, against plain double arithmetic, at every SIMD level here. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/columns.h"
#include "core/testkit/random.h"
#include "kernels/cpu/logits.h"
#include "tests/simd_levels.h"

/* A loop test runs once for each level; those that are not here have nothing to show. */
#define LEVELS (KV_SIMD_AVX512 + 1)
#define JOBS 3

struct one {
	char *keys;
	float *values;		/* what the keys read back as */
	float *q, *out, *before;
	uint32_t room;		/* floats from one row of out to the next */
};

static struct kvmod_columns jobs[JOBS];
static struct one ones[JOBS];
static struct kv_random r;

static float *normals(size_t n, float deviation)
{
	float *x = malloc(n * sizeof(*x) + 1);

	ck_assert_ptr_nonnull(x);
	for (size_t i = 0; i < n; i++)
		x[i] = deviation * kv_random_normal(&r);
	return x;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static void make_keys(struct kvmod_columns *job, struct one *one, uint32_t type)
{
	size_t stride = kvmod_row_bytes(type, job->head_dim) + kv_random_range(&r, 0, 70);

	one->values = normals((size_t)job->n * job->head_dim, 1);
	one->keys = malloc(job->n * stride + 64);
	ck_assert_ptr_nonnull(one->keys);
	job->k = (struct kvmod_view){ .type = type, .stride = (int64_t)stride,
				      .data = one->keys + kv_random_range(&r, 0, 63) };
	for (uint32_t i = 0; i < job->n; i++) {
		char *row = (char *)(uintptr_t)job->k.data + i * stride;

		kv_encode(type, one->values + (size_t)i * job->head_dim, job->head_dim, row);
		kv_cpu_to_f32(type, row, job->head_dim, one->values + (size_t)i * job->head_dim);
	}
}

static void make_queries(struct kvmod_columns *job, struct one *one)
{
	size_t head = job->head_dim + kv_random_range(&r, 0, 9);
	size_t row = head * job->group + kv_random_range(&r, 0, 9);

	one->q = normals(row * job->n_rows, 2);
	job->q = (struct kvmod_view){ .type = KVMOD_F32, .data = one->q, .stride = (int64_t)(4 * row),
				      .head_stride = (int64_t)(4 * head) };
}

/* Up to three spans: of one position, of all. */
static void make_spans(struct kvmod_columns *job)
{
	uint32_t at = 0;

	job->n_spans = 0;
	for (uint32_t most = kv_random_range(&r, 0, 3); job->n_spans < most && at < job->n;) {
		struct kvmod_span *span = &job->spans[job->n_spans++];

		span->begin = kv_random_range(&r, at, job->n - 1);
		span->end = kv_random_range(&r, span->begin + 1, job->n);
		at = span->end;
	}
}

static void make_job(struct kvmod_columns *job, struct one *one, uint32_t type, uint32_t most)
{
	job->size = sizeof(*job);
	job->n = kv_random_range(&r, 1, most);
	/* Where there are few positions, so many that a slice has several blocks of rows. */
	job->n_rows = kv_random_range(&r, 1, job->n < 40 ? 500 : 120);
	/* Also rows that see all, and so many that the newest would see more than there is. */
	job->n_seen = kv_random_range(&r, 1, job->n + 3);
	make_spans(job);
	make_keys(job, one, type);
	make_queries(job, one);
	one->room = job->n + kv_random_range(&r, 0, 5);
	one->out = normals((size_t)one->room * job->group, 1);
	for (uint32_t i = 0; i < one->room * job->group; i++)
		one->out[i] = fabsf(one->out[i]) / 4;
	one->before = malloc((size_t)one->room * job->group * sizeof(float));
	ck_assert_ptr_nonnull(one->before);
	memcpy(one->before, one->out, (size_t)one->room * job->group * sizeof(float));
	job->out = one->out;
	job->out_stride = one->room;
}

/* All have the same head_dim, group, type of K, scale and softcap. */
static void make(uint32_t type, uint32_t reduce, uint32_t most)
{
	uint32_t dim = kvmod_block_size(type) > 1 ? 32 * kv_random_range(&r, 1, 4) :
						    kv_random_range(&r, 1, 130);
	uint32_t group = kv_random_range(&r, 1, 7);
	float softcap = kv_random_range(&r, 0, 1) ? 5 : 0;

	for (int i = 0; i < JOBS; i++) {
		jobs[i] = (struct kvmod_columns){ .reduce = reduce, .group = group, .head_dim = dim,
						  .scale = 1 / sqrtf((float)dim), .softcap = softcap };
		make_job(&jobs[i], &ones[i], type, most);
	}
}

static void clean(void)
{
	for (int i = 0; i < JOBS; i++) {
		free(ones[i].keys);
		free(ones[i].values);
		free(ones[i].q);
		free(ones[i].out);
		free(ones[i].before);
	}
}

static bool in_spans(const struct kvmod_columns *job, uint32_t i)
{
	for (uint32_t s = 0; s < job->n_spans; s++)
		if (i >= job->spans[s].begin && i < job->spans[s].end)
			return true;
	return !job->n_spans;
}

/* Adds one row's attention to expected[], or takes the largest. */
static void reference_row(const struct kvmod_columns *job, const struct one *one, uint32_t row,
			  uint32_t h, double *expected)
{
	const float *q = one->q + row * job->q.stride / 4 + h * job->q.head_stride / 4;
	uint32_t sees = smaller(job->n_seen + row, job->n);
	double *a = calloc(job->n, sizeof(*a)), most = -INFINITY, sum = 0;

	ck_assert_ptr_nonnull(a);
	for (uint32_t i = 0; i < sees; i++) {
		if (!in_spans(job, i))
			continue;
		for (uint32_t d = 0; d < job->head_dim; d++)
			a[i] += (double)q[d] * one->values[(size_t)i * job->head_dim + d];
		a[i] *= job->scale;
		if (job->softcap > 0)
			a[i] = job->softcap * tanh(a[i] / job->softcap);
		most = fmax(most, a[i]);
	}
	for (uint32_t i = 0; i < sees; i++)
		sum += in_spans(job, i) ? exp(a[i] - most) : 0;
	for (uint32_t i = 0; i < sees; i++) {
		double x = in_spans(job, i) ? exp(a[i] - most) / sum : 0;

		expected[i] = job->reduce == KVMOD_COLUMNS_SUM ? expected[i] + x : fmax(expected[i], x);
	}
	free(a);
}

static void check_job(const struct kvmod_columns *job, const struct one *one)
{
	uint32_t n_outs = job->reduce == KVMOD_COLUMNS_SUM ? job->group : 1;
	double *expected = calloc(job->n, sizeof(*expected));

	ck_assert_ptr_nonnull(expected);
	for (uint32_t o = 0; o < job->group; o++) {
		const float *before = one->before + (size_t)o * one->room;
		const float *out = one->out + (size_t)o * one->room;
		uint32_t n = o < n_outs ? job->n : 0;

		for (uint32_t i = 0; i < n; i++)
			expected[i] = before[i];
		for (uint32_t h = 0; n && h < job->group; h++)
			for (uint32_t row = 0; (n_outs == 1 || h == o) && row < job->n_rows; row++)
				reference_row(job, one, row, h, expected);
		for (uint32_t i = 0; i < n; i++) {
			ck_assert_double_eq_tol(out[i], expected[i], 2e-5 * fmax(1, expected[i]));
			ck_assert(in_spans(job, i) || out[i] == before[i]);
		}
		ck_assert_mem_eq(out + n, before + n, (one->room - n) * sizeof(*out));
	}
	free(expected);
}

/* --- threads: real ones ------------------------------------------------------------------- */

struct call {
	void (*fn)(void *arg, uint32_t i);
	void *arg;
	uint32_t i;
};

static void *call(void *arg)
{
	struct call *c = arg;

	c->fn(c->arg, c->i);
	return NULL;
}

static void parallel(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
	pthread_t threads[32];
	struct call calls[32];

	(void)ctx;
	ck_assert_uint_le(n, 32);
	for (uint32_t i = 0; i < n; i++) {
		calls[i] = (struct call){ fn, arg, i };
		ck_assert_int_eq(pthread_create(&threads[i], NULL, call, &calls[i]), 0);
	}
	for (uint32_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static void run(uint32_t n_threads, const struct kvmod_host *host)
{
	size_t bytes = kv_columns_scratch(jobs, JOBS, sizeof(*jobs), n_threads);
	char *memory = malloc(bytes + 64);
	char *scratch = memory + (64 - (uintptr_t)memory % 64) % 64;

	ck_assert_ptr_nonnull(memory);
	memset(memory, 0xff, bytes);	/* NaN */
	ck_assert_int_eq(kv_columns(host, jobs, JOBS, sizeof(*jobs), n_threads, scratch), KVMOD_OK);
	free(memory);
}

/* --- tests ---------------------------------------------------------------------------------- */

START_TEST(as_reference)
{
	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	r = (struct kv_random){ 17 };
	for (int round = 0; round < 24; round++) {
		uint32_t type = KVMOD_F32 + (uint32_t)round % 5;

		make(type, (uint32_t)round / 5 % 2, round < 20 ? 200 : 2);
		run(1, NULL);
		for (int i = 0; i < JOBS; i++)
			check_job(&jobs[i], &ones[i]);
		clean();
	}
}
END_TEST

/* Logits far apart: no infinity, no NaN, and what is paid is 1 a row. */
START_TEST(large_logits)
{
	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	r = (struct kv_random){ 5 };
	make(KVMOD_F32, KVMOD_COLUMNS_SUM, 200);
	for (int i = 0; i < JOBS; i++) {
		jobs[i].scale = 100;
		jobs[i].softcap = 0;
	}
	run(1, NULL);
	for (int i = 0; i < JOBS; i++) {
		double sum = 0, rows = 0;

		for (uint32_t k = 0; k < jobs[i].n; k++)
			sum += (double)ones[i].out[k] - (double)ones[i].before[k];
		for (uint32_t row = 0; row < jobs[i].n_rows; row++)
			rows += !jobs[i].n_spans || jobs[i].n_seen + row > jobs[i].spans[0].begin;
		ck_assert_double_eq_tol(sum, rows, 1e-3);
	}
	clean();
}
END_TEST

/* Any number of threads, in whatever order: the same bits. */
START_TEST(threads)
{
	const struct kvmod_host host = { .size = sizeof(host), .parallel = parallel };

	for (uint32_t reduce = KVMOD_COLUMNS_SUM; reduce <= KVMOD_COLUMNS_MAX; reduce++) {
		float *once[JOBS];

		r = (struct kv_random){ 9 };
		make(KVMOD_F16, reduce, 700);
		for (uint32_t n = 1; n <= 5; n += 2) {
			run(n, &host);
			for (int i = 0; i < JOBS; i++) {
				size_t bytes = (size_t)ones[i].room * jobs[i].group * sizeof(float);

				if (n > 1) {
					ck_assert_mem_eq(ones[i].out, once[i], bytes);
				} else {
					once[i] = malloc(bytes);
					ck_assert_ptr_nonnull(once[i]);
					memcpy(once[i], ones[i].out, bytes);
				}
				memcpy(ones[i].out, ones[i].before, bytes);
			}
		}
		for (int i = 0; i < JOBS; i++)
			free(once[i]);
		clean();
	}
}
END_TEST

/* Without a change to `out`. */
START_TEST(refusals)
{
	static char scratch[64];
	struct kvmod_columns wrong;

	r = (struct kv_random){ 3 };
	make(KVMOD_Q8_0, KVMOD_COLUMNS_SUM, 50);
	wrong = jobs[0];
	wrong.k.rotation = 32;
	ck_assert_int_eq(kv_columns(NULL, &wrong, 1, sizeof(wrong), 1, scratch), KVMOD_ENOTSUP);
#define REFUSED(change) do { \
	wrong = jobs[0]; \
	wrong.change; \
	ck_assert_int_eq(kv_columns(NULL, &wrong, 1, sizeof(wrong), 1, scratch), KVMOD_EINVAL); \
	ck_assert_uint_eq(kv_columns_scratch(&wrong, 1, sizeof(wrong), 1), 0); \
} while (0)
	REFUSED(k.type = 99);
	REFUSED(q.type = KVMOD_F16);
	REFUSED(head_dim = 33);
	REFUSED(n = 0);
	REFUSED(n_rows = 0);
	REFUSED(group = 0);
	REFUSED(n_seen = 0);
	REFUSED(reduce = 2);
	REFUSED(n_spans = 5);
	REFUSED(spans[wrong.n_spans++] = (struct kvmod_span){});
	REFUSED(spans[wrong.n_spans++].end = wrong.n + 1);
	ck_assert_mem_eq(ones[0].out, ones[0].before,
			 (size_t)ones[0].room * jobs[0].group * sizeof(float));
	clean();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("columns of attention");
	TCase *tc = tcase_create("columns");
	SRunner *sr;
	int failed;

	simd_say_missing();
	tcase_add_loop_test(tc, as_reference, 0, LEVELS);
	tcase_add_loop_test(tc, large_logits, 0, LEVELS);
	tcase_add_test(tc, threads);
	tcase_add_test(tc, refusals);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
