/* SPDX-License-Identifier: Apache-2.0 */
/* |Wo v|_1 against plain double arithmetic, at every SIMD level here. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/wo_norms.h"
#include "core/testkit/random.h"
#include "kernels/cpu/logits.h"
#include "tests/simd_levels.h"

/* A loop test runs once for each level; those that are not here have nothing to show. */
#define LEVELS (KV_SIMD_AVX512 + 1)
#define JOBS 3
#define UNTOUCHED 77.0f

struct one {
	char *rows, *weights;
	float *values;		/* what the rows read back as, [n][head_dim] */
	float *wo;		/* the same, [n_out][group][head_dim] */
	float *out;
	uint32_t room;		/* floats from one row of out to the next */
};

static struct kvmod_norms jobs[JOBS];
static struct one ones[JOBS];
static struct kv_random r;

static void *take(size_t bytes)
{
	void *memory = malloc(bytes + 1);

	ck_assert_ptr_nonnull(memory);
	return memory;
}

/* n rows of pieces of dim random numbers; values: what is stored, read back. */
static char *make(struct kvmod_view *view, uint32_t type, uint32_t n, uint32_t pieces, uint32_t dim,
		  float **values)
{
	size_t piece = kvmod_row_bytes(type, dim) + 2 * kv_random_range(&r, 0, 9);
	size_t stride = piece * pieces + kv_random_range(&r, 0, 70);
	char *memory = take(n * stride + 64);
	float *to;

	to = *values = take((size_t)n * pieces * dim * sizeof(*to));
	*view = (struct kvmod_view){ .type = type,
				      .stride = (int64_t)stride,
				      .head_stride = (int64_t)piece,
				      .data = memory + kv_random_range(&r, 0, 63) };
	for (uint32_t i = 0; i < n * pieces; i++, to += dim) {
		char *row =
			(char *)(uintptr_t)view->data + i / pieces * stride + i % pieces * piece;

		for (uint32_t d = 0; d < dim; d++)
			to[d] = kv_random_normal(&r);
		kv_encode(type, to, dim, row);
		kv_cpu_to_f32(type, row, dim, to);
	}
	return memory;
}

static void make_job(struct kvmod_norms *job, struct one *one, uint32_t type, uint32_t most)
{
	*job = (struct kvmod_norms){
		.size = sizeof(*job), .n = kv_random_range(&r, 0, most),
		.group = kv_random_range(&r, 1, 5), .n_out = kv_random_range(&r, 1, 150),
		.head_dim = kvmod_block_size(type) > 1 ? 32 * kv_random_range(&r, 1, 4) :
							 kv_random_range(&r, 1, 130),
	};
	one->rows = make(&job->v, type, job->n, 1, job->head_dim, &one->values);
	one->weights = make(&job->wo, KVMOD_F16, job->n_out, job->group, job->head_dim, &one->wo);
	one->room = job->n + kv_random_range(&r, 0, 5);
	one->out = take((size_t)one->room * job->group * sizeof(float));
	for (uint32_t i = 0; i < one->room * job->group; i++)
		one->out[i] = UNTOUCHED;
	job->out = one->out;
	job->out_stride = one->room;
}

static void make_all(uint32_t type, uint32_t most)
{
	for (int i = 0; i < JOBS; i++)
		make_job(&jobs[i], &ones[i], type, most);
}

static void clean(void)
{
	for (int i = 0; i < JOBS; i++) {
		free(ones[i].rows);
		free(ones[i].weights);
		free(ones[i].values);
		free(ones[i].wo);
		free(ones[i].out);
	}
}

static double norm(const struct kvmod_norms *job, const struct one *one, uint32_t h, uint32_t i)
{
	uint32_t dim = job->head_dim;
	double norm = 0;

	for (uint32_t e = 0; e < job->n_out; e++) {
		double sum = 0;

		for (uint32_t d = 0; d < dim; d++)
			sum += (double)one->wo[((size_t)e * job->group + h) * dim + d] *
			       (double)one->values[(size_t)i * dim + d];
		norm += fabs(sum);
	}
	return norm;
}

static void check_job(const struct kvmod_norms *job, const struct one *one)
{
	for (uint32_t h = 0; h < job->group; h++) {
		for (uint32_t i = 0; i < one->room; i++) {
			double got = (double)one->out[(size_t)h * one->room + i];
			double expected = i < job->n ? norm(job, one, h, i) : (double)UNTOUCHED;

			ck_assert_msg(fabs(got - expected) <= 1e-5 * expected,
				      "head %u, position %u of %u: %g, expected %g", h, i, job->n,
				      got, expected);
		}
	}
}

static void run(const struct kvmod_host *host, uint32_t n_threads)
{
	size_t bytes = kv_wo_norms_scratch(jobs, JOBS, sizeof(*jobs), n_threads);
	void *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);

	ck_assert_ptr_nonnull(scratch);
	ck_assert_int_eq(kv_wo_norms(host, jobs, JOBS, sizeof(*jobs), n_threads, scratch),
			 KVMOD_OK);
	free(scratch);
}

START_TEST(as_reference)
{
	static const uint32_t types[] = { KVMOD_F32, KVMOD_F16, KVMOD_BF16, KVMOD_Q8_0,
					  KVMOD_Q4_0 };

	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	for (uint64_t seed = 0; seed < 20; seed++) {
		r = (struct kv_random){ seed };
		make_all(types[seed % 5], seed < 10 ? 200 : 20);
		run(NULL, 1);
		for (int i = 0; i < JOBS; i++)
			check_job(&jobs[i], &ones[i]);
		clean();
	}
}
END_TEST

/* NaN and infinity reach the norms of their position, and no other. */
START_TEST(not_finite)
{
	float *row;

	if (!kv_simd_set_level((enum kv_simd)_i))
		return;
	r = (struct kv_random){ 5 };
	make_all(KVMOD_F32, 60);
	for (int i = 0; i < JOBS; i++) {
		ck_assert_uint_gt(jobs[i].n, 1);
		row = (float *)((char *)(uintptr_t)jobs[i].v.data + jobs[i].v.stride);
		memcpy(row, &(float){ i ? NAN : INFINITY }, sizeof(*row));
	}
	run(NULL, 1);
	for (int i = 0; i < JOBS; i++) {
		for (uint32_t h = 0; h < jobs[i].group; h++) {
			const float *out = ones[i].out + (size_t)h * ones[i].room;

			ck_assert(isfinite(out[0]));
			ck_assert(!isfinite(out[1]));
		}
	}
	clean();
}
END_TEST

/* --- threads -------------------------------------------------------------------------- */

struct share {
	void (*fn)(void *arg, uint32_t i);
	void *arg;
	uint32_t i;
};

static void *run_share(void *arg)
{
	struct share *share = arg;

	share->fn(share->arg, share->i);
	return NULL;
}

static void parallel(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
	pthread_t threads[8];
	struct share shares[8];

	(void)ctx;
	for (uint32_t i = 0; i < n; i++) {
		shares[i] = (struct share){ fn, arg, i };
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_share, &shares[i]), 0);
	}
	for (uint32_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

/* The same bits on any number of threads, and for a position alone. */
START_TEST(threads)
{
	static const struct kvmod_host host = { .size = sizeof(host), .parallel = parallel };
	float alone[8], *before;
	size_t bytes;

	r = (struct kv_random){ 3 };
	make_all(KVMOD_F16, 500);
	run(NULL, 1);
	bytes = (size_t)ones[0].room * jobs[0].group * sizeof(float);
	before = take(bytes);
	memcpy(before, ones[0].out, bytes);
	for (uint32_t n = 2; n <= 8; n += 3) {
		memset(ones[0].out, 0, (size_t)jobs[0].n * sizeof(float));
		run(&host, n);
		ck_assert_mem_eq(ones[0].out, before, bytes);
	}
	ck_assert_uint_gt(jobs[0].n, 100);
	for (int i = 0; i < JOBS; i++)
		jobs[i].n = 0;
	jobs[0].n = 1;
	jobs[0].v.data = (const char *)jobs[0].v.data + 100 * jobs[0].v.stride;
	jobs[0].out = alone;
	jobs[0].out_stride = 1;
	run(NULL, 1);
	for (uint32_t h = 0; h < jobs[0].group; h++)
		ck_assert_float_eq(alone[h], before[(size_t)h * ones[0].room + 100]);
	free(before);
	clean();
}
END_TEST

START_TEST(refusals)
{
	struct kvmod_norms wrong;

	r = (struct kv_random){ 4 };
	make_all(KVMOD_Q8_0, 30);
#define REFUSED(change, code) do { \
	wrong = jobs[0]; \
	wrong.change; \
	ck_assert_int_eq(kv_wo_norms(NULL, &wrong, 1, sizeof(wrong), 1, NULL), code); \
} while (0)
	REFUSED(v.type = 99, KVMOD_EINVAL);
	REFUSED(wo.type = KVMOD_F32, KVMOD_EINVAL);
	REFUSED(head_dim = 33, KVMOD_EINVAL);
	REFUSED(head_dim = 0, KVMOD_EINVAL);
	REFUSED(v.rotation = 32, KVMOD_ENOTSUP);
	REFUSED(wo.rotation = 32, KVMOD_ENOTSUP);
	clean();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("norms of Wo v");
	TCase *tc = tcase_create("norms");
	SRunner *sr;
	int failed;

	simd_say_missing();
	tcase_add_loop_test(tc, as_reference, 0, LEVELS);
	tcase_add_loop_test(tc, not_finite, 0, LEVELS);
	tcase_add_test(tc, threads);
	tcase_add_test(tc, refusals);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
