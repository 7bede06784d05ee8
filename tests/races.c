/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What several threads may do with a context at once, for ThreadSanitizer to watch
 * (threads.test.sh): log, change where the lines go and which are wanted, and run
 * jobs on its threads.
 */
#include "core/base/context.h"

#include <string.h>

#define ROUNDS 2000

/* Where lines go: a function and the arg that belongs to it. */
struct sink {
	char letter;
	atomic_uint n_lines, n_wrong;
};

static void take_a(void *arg, uint32_t level, const char *line)
{
	struct sink *sink = arg;

	(void)level;
	atomic_fetch_add(&sink->n_lines, 1);
	atomic_fetch_add(&sink->n_wrong, sink->letter != 'a' || strcmp(line, "line") != 0);
}

static void take_b(void *arg, uint32_t level, const char *line)
{
	struct sink *sink = arg;

	(void)level;
	atomic_fetch_add(&sink->n_lines, 1);
	atomic_fetch_add(&sink->n_wrong, sink->letter != 'b' || strcmp(line, "line") != 0);
}

static struct sink a = { .letter = 'a' }, b = { .letter = 'b' };

static void *say_lines(void *arg)
{
	for (int i = 0; i < ROUNDS; i++)
		kv_log(arg, KVMOD_WARN, "line");
	return NULL;
}

static void *change_sinks(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		if (i % 2)
			kvmod_set_log(arg, take_a, &a);
		else
			kvmod_set_log(arg, take_b, &b);
		kvmod_set_log_level(arg, i % 3 ? KVMOD_WARN : KVMOD_DEBUG);
	}
	return NULL;
}

static void count(void *arg, uint32_t i)
{
	((unsigned *)arg)[i]++;
}

static void *run_jobs(void *arg)
{
	unsigned runs[8] = { 0 };

	for (int i = 0; i < ROUNDS; i++)
		kv_parallel(arg, 8, count, runs);
	for (int i = 0; i < 8; i++)
		atomic_fetch_add(&a.n_wrong, runs[i] != ROUNDS);
	return NULL;
}

int main(void)
{
	static void *(*const work[])(void *) = {
		say_lines, say_lines, change_sinks, change_sinks, run_jobs, run_jobs,
	};
	enum { N = sizeof(work) / sizeof(*work) };
	struct kvmod_ctx ctx = { .log = take_a, .log_arg = &a, .log_level = KVMOD_WARN };
	pthread_t threads[N];

	pthread_mutex_init(&ctx.log_lock, NULL);
	ctx.threads = kv_threads_new();
	if (!ctx.threads)
		return 99;
	kv_threads_set(ctx.threads, 3);
	for (int i = 0; i < N; i++)
		if (pthread_create(&threads[i], NULL, work[i], &ctx) != 0)
			return 99;
	for (int i = 0; i < N; i++)
		pthread_join(threads[i], NULL);
	kv_threads_free(ctx.threads);
	printf("%u lines, %u wrong\n", a.n_lines + b.n_lines, a.n_wrong + b.n_wrong);
	return a.n_lines + b.n_lines != 2 * ROUNDS || a.n_wrong + b.n_wrong != 0;
}
