/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's threads, for parallel(). One job runs at a time. A caller that finds the
 * threads busy (another session, or a job that starts a job) runs all its work itself,
 * which is as correct as waiting, and no slower.
 *
 * `next` holds the job's number and the index to run next. A thread claims an
 * index by incrementing `next`, which succeeds only if the job has not changed since
 * the thread read fn and arg. While these are being set the index is NOTHING_LEFT.
 */
#include "core/base/context.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>

/* About 20 us: longer than the gap between the layers of one decision. */
#define SPINS 1000
#define MAX_THREADS 1024
#define NOTHING_LEFT UINT32_MAX

typedef void job_fn(void *arg, uint32_t i);

struct kv_threads {
	atomic_uint wanted;		/* threads, including the caller's */
	atomic_bool busy;
	uint32_t n_started;
	pthread_t *thread;

	_Atomic(job_fn *) fn;
	_Atomic(void *) arg;
	atomic_uint n;
	_Atomic uint64_t next;		/* job number << 32 | next index */
	atomic_uint left;		/* indices not done yet */

	pthread_mutex_t lock;
	pthread_cond_t work, done;
	atomic_uint sleepers;
	atomic_bool waiting, quit;
};

static _Thread_local bool in_job;

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

uint32_t kv_n_processors(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return n > 0 ? (uint32_t)n : 1;
}

/* Runs indices of the job `number` until none is left. */
static void work_on(struct kv_threads *threads, uint32_t number)
{
	uint32_t n_done = 0;

	for (;;) {
		uint64_t next = atomic_load(&threads->next);
		job_fn *fn = atomic_load(&threads->fn);
		void *arg = atomic_load(&threads->arg);

		if (next >> 32 != number || (uint32_t)next >= atomic_load(&threads->n))
			break;
		if (!atomic_compare_exchange_weak(&threads->next, &next, next + 1))
			continue;
		fn(arg, (uint32_t)next);
		n_done++;
	}
	if (n_done == 0 || atomic_fetch_sub(&threads->left, n_done) != n_done)
		return;
	if (atomic_load(&threads->waiting)) {
		pthread_mutex_lock(&threads->lock);
		pthread_cond_signal(&threads->done);
		pthread_mutex_unlock(&threads->lock);
	}
}

static uint32_t job_number(struct kv_threads *threads)
{
	return (uint32_t)(atomic_load(&threads->next) >> 32);
}

/* Waits for a job other than `seen`. False: the threads are to stop. */
static bool wait_for_job(struct kv_threads *threads, uint32_t seen)
{
	for (int i = 0; i < SPINS && job_number(threads) == seen; i++)
		relax();
	if (job_number(threads) != seen)
		return true;
	pthread_mutex_lock(&threads->lock);
	atomic_fetch_add(&threads->sleepers, 1);
	while (job_number(threads) == seen && !atomic_load(&threads->quit))
		pthread_cond_wait(&threads->work, &threads->lock);
	atomic_fetch_sub(&threads->sleepers, 1);
	pthread_mutex_unlock(&threads->lock);
	return !atomic_load(&threads->quit);
}

static void *worker(void *arg)
{
	struct kv_threads *threads = arg;
	uint32_t seen = 0;

	in_job = true;
	while (wait_for_job(threads, seen)) {
		seen = job_number(threads);
		work_on(threads, seen);
	}
	return NULL;
}

static void stop(struct kv_threads *threads)
{
	pthread_mutex_lock(&threads->lock);
	atomic_store(&threads->quit, true);
	pthread_cond_broadcast(&threads->work);
	pthread_mutex_unlock(&threads->lock);
	for (uint32_t i = 0; i < threads->n_started; i++)
		pthread_join(threads->thread[i], NULL);
	free(threads->thread);
	threads->thread = NULL;
	threads->n_started = 0;
	atomic_store(&threads->quit, false);
}

/* The new threads block all signals: those are for the program's own threads. */
static void start(struct kv_threads *threads, uint32_t n)
{
	sigset_t all, before;

	threads->thread = calloc(n, sizeof(*threads->thread));
	if (!threads->thread)
		n = 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (threads->n_started < n &&
	       pthread_create(&threads->thread[threads->n_started], NULL, worker, threads) == 0)
		threads->n_started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (threads->n_started < n)	/* the system allows no more: use these */
		atomic_store(&threads->wanted, threads->n_started + 1);
}

static void alone(uint32_t n, job_fn *fn, void *arg)
{
	for (uint32_t i = 0; i < n; i++)
		fn(arg, i);
}

static void publish(struct kv_threads *threads, uint32_t n, job_fn *fn, void *arg)
{
	uint64_t number = job_number(threads);
	uint32_t asleep;

	atomic_store(&threads->next, number << 32 | NOTHING_LEFT);
	atomic_store(&threads->fn, fn);
	atomic_store(&threads->arg, arg);
	atomic_store(&threads->n, n);
	atomic_store(&threads->left, n);
	atomic_store(&threads->next, (number + 1) << 32);
	asleep = atomic_load(&threads->sleepers);
	if (asleep == 0)
		return;
	pthread_mutex_lock(&threads->lock);
	for (uint32_t i = 0; i < asleep && i < n - 1; i++)
		pthread_cond_signal(&threads->work);
	pthread_mutex_unlock(&threads->lock);
}

static void wait_done(struct kv_threads *threads)
{
	for (int i = 0; i < SPINS && atomic_load(&threads->left) > 0; i++)
		relax();
	if (atomic_load(&threads->left) == 0)
		return;
	pthread_mutex_lock(&threads->lock);
	atomic_store(&threads->waiting, true);
	while (atomic_load(&threads->left) > 0)
		pthread_cond_wait(&threads->done, &threads->lock);
	atomic_store(&threads->waiting, false);
	pthread_mutex_unlock(&threads->lock);
}

void kv_parallel(struct kvmod_ctx *ctx, uint32_t n, job_fn *fn, void *arg)
{
	struct kv_threads *threads = ctx->threads;
	uint32_t helpers = atomic_load(&threads->wanted) - 1;

	if (n < 2 || helpers == 0 || in_job || atomic_exchange(&threads->busy, true)) {
		alone(n, fn, arg);
		return;
	}
	if (threads->n_started != helpers) {
		stop(threads);
		start(threads, helpers);
	}
	in_job = true;
	publish(threads, n, fn, arg);
	work_on(threads, job_number(threads));
	wait_done(threads);
	in_job = false;
	atomic_store(&threads->busy, false);
}

uint32_t kv_n_threads(struct kvmod_ctx *ctx)
{
	return atomic_load(&ctx->threads->wanted);
}

void kv_threads_set(struct kv_threads *threads, uint32_t n)
{
	if (n == 0)
		n = kv_n_processors();
	atomic_store(&threads->wanted, n < MAX_THREADS ? n : MAX_THREADS);
}

struct kv_threads *kv_threads_new(void)
{
	struct kv_threads *threads = calloc(1, sizeof(*threads));

	if (!threads) {
		kv_no_memory();
		return NULL;
	}
	pthread_mutex_init(&threads->lock, NULL);
	pthread_cond_init(&threads->work, NULL);
	pthread_cond_init(&threads->done, NULL);
	kv_threads_set(threads, 0);
	return threads;
}

void kv_threads_free(struct kv_threads *threads)
{
	if (!threads)
		return;
	stop(threads);
	pthread_cond_destroy(&threads->done);
	pthread_cond_destroy(&threads->work);
	pthread_mutex_destroy(&threads->lock);
	free(threads);
}
