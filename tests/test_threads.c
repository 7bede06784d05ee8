/* SPDX-License-Identifier: Apache-2.0 */
/* parallel(): every index once, whatever the number of threads and callers. */
#include "core/base/context.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct job {
	struct kvmod_ctx *ctx;
	uint32_t n;
	atomic_uint *runs;		/* of each index */
	atomic_uint n_nested;
};

static void count(void *arg, uint32_t i)
{
	struct job *job = arg;

	atomic_fetch_add(&job->runs[i], 1);
}

static struct job new_job(struct kvmod_ctx *ctx, uint32_t n)
{
	struct job job = { .ctx = ctx, .n = n, .runs = calloc(n + 1, sizeof(*job.runs)) };

	ck_assert_ptr_nonnull(job.runs);
	return job;
}

static void assert_once(struct job *job, unsigned times)
{
	for (uint32_t i = 0; i < job->n; i++)
		ck_assert_uint_eq(job->runs[i], times);
	ck_assert_uint_eq(job->runs[job->n], 0);
}

static struct kvmod_ctx *context(unsigned threads)
{
	struct kvmod_ctx *ctx;

	assert_ok(kvmod_new(&ctx));
	kv_threads_set(ctx->threads, threads);
	return ctx;
}

START_TEST(each_index_once)
{
	static const uint32_t sizes[] = { 0, 1, 2, 3, 1000 };

	for (unsigned threads = 1; threads <= 8; threads++) {
		struct kvmod_ctx *ctx = context(threads);

		ck_assert_uint_eq(kv_n_threads(ctx), threads);
		for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
			struct job job = new_job(ctx, sizes[k]);

			kv_parallel(ctx, job.n, count, &job);
			assert_once(&job, 1);
			free(job.runs);
		}
		kvmod_unref(ctx);
	}
}
END_TEST

/* Jobs follow each other so closely that threads are late for some. */
START_TEST(many_short_jobs)
{
	struct kvmod_ctx *ctx = context(4);
	struct job job = new_job(ctx, 5);

	for (unsigned i = 0; i < 20000; i++)
		kv_parallel(ctx, i % 6, count, &job);
	/* Index i ran in the jobs with more than i indices. */
	for (uint32_t i = 0; i < 5; i++) {
		unsigned expected = 0;

		for (unsigned k = 0; k < 20000; k++)
			expected += k % 6 > i;
		ck_assert_uint_eq(job.runs[i], expected);
	}
	free(job.runs);
	kvmod_unref(ctx);
}
END_TEST

static void pause_between(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 300000 }, NULL);
}

/* Long enough apart for the threads to have gone to sleep. */
START_TEST(sleepers_wake)
{
	struct kvmod_ctx *ctx = context(3);
	struct job job = new_job(ctx, 9);

	for (int i = 0; i < 200; i++) {
		kv_parallel(ctx, 9, count, &job);
		pause_between();
	}
	assert_once(&job, 200);
	free(job.runs);
	kvmod_unref(ctx);
}
END_TEST

static void nested(void *arg, uint32_t i)
{
	struct job *job = arg;
	struct job inner = new_job(job->ctx, 10);

	(void)i;
	kv_parallel(job->ctx, inner.n, count, &inner);
	for (uint32_t k = 0; k < inner.n; k++)
		atomic_fetch_add(&job->n_nested, inner.runs[k]);
	free(inner.runs);
}

/* A job that starts a job runs it alone. */
START_TEST(nested_jobs)
{
	struct kvmod_ctx *ctx = context(4);
	struct job job = { .ctx = ctx };

	kv_parallel(ctx, 20, nested, &job);
	ck_assert_uint_eq(job.n_nested, 200);
	kvmod_unref(ctx);
}
END_TEST

static void *call_often(void *arg)
{
	struct job *job = arg;

	for (int i = 0; i < 500; i++)
		kv_parallel(job->ctx, job->n, count, job);
	return NULL;
}

START_TEST(several_callers)
{
	struct kvmod_ctx *ctx = context(3);
	struct job job = new_job(ctx, 17);
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, call_often, &job), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_once(&job, 1500);
	free(job.runs);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(another_number_of_threads)
{
	struct kvmod_ctx *ctx = context(2);
	struct job job = new_job(ctx, 64);

	for (unsigned i = 0; i < 20; i++) {
		kv_threads_set(ctx->threads, 1 + i % 5);
		kv_parallel(ctx, job.n, count, &job);
	}
	assert_once(&job, 20);
	kv_threads_set(ctx->threads, 0);
	ck_assert_uint_ge(kv_n_threads(ctx), 1);
	free(job.runs);
	kvmod_unref(ctx);
}
END_TEST

static void note_thread(void *arg, uint32_t i)
{
	pthread_t *threads = arg;

	threads[i] = pthread_self();
	pause_between();
}

/* The work is really shared out. */
START_TEST(on_several_threads)
{
	struct kvmod_ctx *ctx = context(4);
	pthread_t threads[64];
	int n_others = 0;

	kv_parallel(ctx, 64, note_thread, threads);
	for (int i = 0; i < 64; i++)
		n_others += !pthread_equal(threads[i], pthread_self());
	ck_assert_int_gt(n_others, 0);
	ck_assert_int_lt(n_others, 64);
	kvmod_unref(ctx);
}
END_TEST

static bool says(const char *text)
{
	bool found = strstr(fixture_log, text);

	fixture_log[0] = '\0';
	return found;
}

/* More threads than processors only get in each other's way. */
START_TEST(no_more_threads_than_processors)
{
	struct kvmod_ctx *ctx = fixture_context();
	uint32_t most = kv_n_processors();
	char text[128];

	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 1024\n"));
	ck_assert_uint_eq(kv_n_threads(ctx), most);
	snprintf(text, sizeof(text), "[kvmod] threads = 1024, but this process may use %u processors: "
		 "using %u threads\n", most, most);
	ck_assert_str_eq(fixture_log, text);
	fixture_log[0] = '\0';
	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 1024\n"));
	ck_assert(!says("threads"));
	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 1\n"));
	ck_assert_uint_eq(kv_n_threads(ctx), 1);
	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 0\n"));
	ck_assert_uint_eq(kv_n_threads(ctx), most);
	ck_assert(!says("threads"));
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("threads", no_more_threads_than_processors, each_index_once, many_short_jobs,
	     sleepers_wake, nested_jobs, several_callers, another_number_of_threads,
	     on_several_threads)
