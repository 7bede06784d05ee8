/* SPDX-License-Identifier: Apache-2.0 */
/* What ggml runs on: device, threads, cancelling, log. */
#include <config.h>

#include "engine.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

/* --- log: ggml's is one for the process, ours is one per host ------------------ */

static _Thread_local struct gg_engine *log_engine;
static _Thread_local char log_error[256];

static void log_line(enum ggml_log_level level, const char *text, void *arg)
{
	size_t length = strcspn(text, "\n");

	(void)arg;
	if (!log_engine || !length)
		return;
	/* What goes wrong first is why; the lines after it say where that led. */
	if (level == GGML_LOG_LEVEL_ERROR && !log_error[0])
		snprintf(log_error, sizeof(log_error), "%.*s", (int)length, text);
	gg_log(log_engine, KVMOD_DEBUG, "%.*s", (int)length, text);
}

void gg_log_begin(struct gg_engine *engine)
{
	log_engine = engine;
	log_error[0] = '\0';
}

const char *gg_log_end(void)
{
	log_engine = NULL;
	return log_error;
}

/* --- device and threads --------------------------------------------------------- */

static void init_once(void)
{
	llama_log_set(log_line, NULL);
	llama_backend_init();
}

/* CPU calls of ggml that are no part of ggml-base: a backend may be a file of its own. */
static void *backend_call(const struct gg_engine *engine, const char *name)
{
	return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(engine->backend.device),
						 name);
}

static bool was_cancelled(void *arg)
{
	struct gg_backend *backend = arg;

	return !backend->held && atomic_load_explicit(&backend->cancelled, memory_order_relaxed);
}

void gg_backend_use_threads(struct gg_backend *backend, int n)
{
	if (backend->set_n_threads && backend->n_now != n)
		backend->set_n_threads(backend->handle, n);
	backend->n_now = n;
}

static void start_threads(struct gg_engine *engine)
{
	struct gg_backend *backend = &engine->backend;
	struct ggml_threadpool_params params = ggml_threadpool_params_default(backend->n_threads);
	ggml_threadpool_t (*new_pool)(struct ggml_threadpool_params *);
	void (*set_pool)(ggml_backend_t, ggml_threadpool_t);
	ggml_backend_set_abort_callback_t set_abort;

	new_pool = backend_call(engine, "ggml_threadpool_new");
	set_pool = backend_call(engine, "ggml_backend_cpu_set_threadpool");
	backend->set_n_threads = backend_call(engine, "ggml_backend_set_n_threads");
	set_abort = backend_call(engine, "ggml_backend_set_abort_callback");
	gg_backend_use_threads(backend, backend->n_threads);
	/* A number that was asked for is kept to. */
	gg_pace_start(&backend->pace, engine->threads ? 0 : backend->n_threads);
	if (set_abort)
		set_abort(backend->handle, was_cancelled, backend);
	if (new_pool && set_pool) {
		backend->threads = new_pool(&params);
		if (backend->threads)
			set_pool(backend->handle, backend->threads);
	}
}

/*
 * ggml's threads wait for each other at full speed after every operation: more of
 * them than there are processors take a hundred times as long.
 */
static int count_threads(const struct gg_engine *engine)
{
	const struct kvmod_host *host = engine->base.host;
	int n = (int)(engine->threads ? engine->threads : host->n_threads(host->ctx));
	cpu_set_t set;
	int most = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : GGML_MAX_N_THREADS;

	if (most > GGML_MAX_N_THREADS)
		most = GGML_MAX_N_THREADS;
	if (n <= most)
		return n;
	gg_log(engine, KVMOD_NOTE, "threads = %d, but this process may use %d processors: %d threads",
	       n, most, most);
	return most;
}

int32_t gg_backend_open(struct gg_engine *engine)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct gg_backend *backend = &engine->backend;

	pthread_once(&once, init_once);
	backend->n_threads = count_threads(engine);
	backend->device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	if (!backend->device)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "ggml has no CPU backend: is its libggml-cpu file beside libggml?");
	backend->handle = ggml_backend_dev_init(backend->device, NULL);
	if (!backend->handle)
		return gg_fail(engine, KVMOD_ENOMEM, "ggml cannot start its CPU backend");
	if (!engine->check_only)
		start_threads(engine);
	return KVMOD_OK;
}

void gg_backend_close(struct gg_engine *engine)
{
	struct gg_backend *backend = &engine->backend;
	void (*free_pool)(ggml_threadpool_t);

	if (!backend->handle)
		return;
	free_pool = backend_call(engine, "ggml_threadpool_free");
	ggml_backend_free(backend->handle);
	if (backend->threads && free_pool)
		free_pool(backend->threads);
	backend->handle = NULL;
}

int32_t gg_backend_status(struct gg_engine *engine, enum ggml_status status)
{
	switch (status) {
	case GGML_STATUS_SUCCESS:
		return KVMOD_OK;
	case GGML_STATUS_ABORTED:
		return gg_fail(engine, KVMOD_ECANCELED, "cancelled");
	case GGML_STATUS_ALLOC_FAILED:
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to run the model in");
	default:
		return gg_fail(engine, KVMOD_EDEVICE, "ggml could not run the model: %s",
			       ggml_status_to_string(status));
	}
}
