/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's threads, for parallel(). One job runs at a time; whoever comes
 * while the threads are busy (another session, or a job that starts a job) runs
 * its own work alone, which is as right and no slower than waiting.
 *
 * `next` holds the job's number and the index to run next. A thread claims an
 * index by raising it, and only if nothing changed since it read what the job
 * is: while a job is being described the index is NOTHING_LEFT.
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

struct kv_pool {
	atomic_uint wanted;		/* threads, the caller's among them */
	atomic_bool busy;
	uint32_t n_started;
	pthread_t *threads;

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

/* Runs what is left of the job `number`. */
static void work_on(struct kv_pool *pool, uint32_t number)
{
	uint32_t n_done = 0;

	for (;;) {
		uint64_t next = atomic_load(&pool->next);
		job_fn *fn = atomic_load(&pool->fn);
		void *arg = atomic_load(&pool->arg);

		if (next >> 32 != number || (uint32_t)next >= atomic_load(&pool->n))
			break;
		if (!atomic_compare_exchange_weak(&pool->next, &next, next + 1))
			continue;
		fn(arg, (uint32_t)next);
		n_done++;
	}
	if (n_done == 0 || atomic_fetch_sub(&pool->left, n_done) != n_done)
		return;
	if (atomic_load(&pool->waiting)) {
		pthread_mutex_lock(&pool->lock);
		pthread_cond_signal(&pool->done);
		pthread_mutex_unlock(&pool->lock);
	}
}

static uint32_t job_number(struct kv_pool *pool)
{
	return (uint32_t)(atomic_load(&pool->next) >> 32);
}

/* Waits for a job other than `seen`; false: the pool ends. */
static bool wait_for_job(struct kv_pool *pool, uint32_t seen)
{
	for (int i = 0; i < SPINS && job_number(pool) == seen; i++)
		relax();
	if (job_number(pool) != seen)
		return true;
	pthread_mutex_lock(&pool->lock);
	atomic_fetch_add(&pool->sleepers, 1);
	while (job_number(pool) == seen && !atomic_load(&pool->quit))
		pthread_cond_wait(&pool->work, &pool->lock);
	atomic_fetch_sub(&pool->sleepers, 1);
	pthread_mutex_unlock(&pool->lock);
	return !atomic_load(&pool->quit);
}

static void *worker(void *arg)
{
	struct kv_pool *pool = arg;
	uint32_t seen = 0;

	in_job = true;
	while (wait_for_job(pool, seen)) {
		seen = job_number(pool);
		work_on(pool, seen);
	}
	return NULL;
}

static void stop(struct kv_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	atomic_store(&pool->quit, true);
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (uint32_t i = 0; i < pool->n_started; i++)
		pthread_join(pool->threads[i], NULL);
	free(pool->threads);
	pool->threads = NULL;
	pool->n_started = 0;
	atomic_store(&pool->quit, false);
}

/* Signals are for the program's own threads. */
static void start(struct kv_pool *pool, uint32_t n)
{
	sigset_t all, before;

	pool->threads = calloc(n, sizeof(*pool->threads));
	if (!pool->threads)
		n = 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (pool->n_started < n &&
	       pthread_create(&pool->threads[pool->n_started], NULL, worker, pool) == 0)
		pool->n_started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pool->n_started < n)	/* the system gives no more: so be it */
		atomic_store(&pool->wanted, pool->n_started + 1);
}

static void alone(uint32_t n, job_fn *fn, void *arg)
{
	for (uint32_t i = 0; i < n; i++)
		fn(arg, i);
}

static void publish(struct kv_pool *pool, uint32_t n, job_fn *fn, void *arg)
{
	uint64_t number = job_number(pool);
	uint32_t asleep;

	atomic_store(&pool->next, number << 32 | NOTHING_LEFT);
	atomic_store(&pool->fn, fn);
	atomic_store(&pool->arg, arg);
	atomic_store(&pool->n, n);
	atomic_store(&pool->left, n);
	atomic_store(&pool->next, (number + 1) << 32);
	asleep = atomic_load(&pool->sleepers);
	if (asleep == 0)
		return;
	pthread_mutex_lock(&pool->lock);
	for (uint32_t i = 0; i < asleep && i < n - 1; i++)
		pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

static void wait_done(struct kv_pool *pool)
{
	for (int i = 0; i < SPINS && atomic_load(&pool->left) > 0; i++)
		relax();
	if (atomic_load(&pool->left) == 0)
		return;
	pthread_mutex_lock(&pool->lock);
	atomic_store(&pool->waiting, true);
	while (atomic_load(&pool->left) > 0)
		pthread_cond_wait(&pool->done, &pool->lock);
	atomic_store(&pool->waiting, false);
	pthread_mutex_unlock(&pool->lock);
}

void kv_parallel(struct kvmod_ctx *ctx, uint32_t n, job_fn *fn, void *arg)
{
	struct kv_pool *pool = ctx->pool;
	uint32_t helpers = atomic_load(&pool->wanted) - 1;

	if (n < 2 || helpers == 0 || in_job || atomic_exchange(&pool->busy, true)) {
		alone(n, fn, arg);
		return;
	}
	if (pool->n_started != helpers) {
		stop(pool);
		start(pool, helpers);
	}
	in_job = true;
	publish(pool, n, fn, arg);
	work_on(pool, job_number(pool));
	wait_done(pool);
	in_job = false;
	atomic_store(&pool->busy, false);
}

uint32_t kv_n_threads(struct kvmod_ctx *ctx)
{
	return atomic_load(&ctx->pool->wanted);
}

void kv_pool_set_threads(struct kv_pool *pool, uint32_t n)
{
	if (n == 0)
		n = kv_n_processors();
	atomic_store(&pool->wanted, n < MAX_THREADS ? n : MAX_THREADS);
}

struct kv_pool *kv_pool_new(void)
{
	struct kv_pool *pool = calloc(1, sizeof(*pool));

	if (!pool) {
		kv_no_memory();
		return NULL;
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->done, NULL);
	kv_pool_set_threads(pool, 0);
	return pool;
}

void kv_pool_free(struct kv_pool *pool)
{
	if (!pool)
		return;
	stop(pool);
	pthread_cond_destroy(&pool->done);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}
