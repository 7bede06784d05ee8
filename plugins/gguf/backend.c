/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's CPU backend: the device, its threads, cancellation, and the log; tensors without data. */
#include <config.h>

#include "engine.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

/* --- the log: one for the process in ggml, one for each host here ------------- */

static _Thread_local struct gg_engine *log_engine;
static _Thread_local char log_error[256];

/*
 * Who had the log before: another module with these functions, whose callback comes with
 * data. ggml's own callback, which prints to stderr, has no data, and is not called.
 */
static ggml_log_callback log_before;
static void *log_before_data;

static void log_line(enum ggml_log_level level, const char *text, void *arg)
{
	size_t length = strcspn(text, "\n");

	(void)arg;
	if (!log_engine && log_before && log_before_data)
		log_before(level, text, log_before_data);
	if (!log_engine || !length)
		return;
	/* The first error is the reason; the lines after it say what that led to. */
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
	llama_log_get(&log_before, &log_before_data);
	llama_log_set(log_line, &log_before);
	llama_backend_init();
}

/* Calls of ggml's CPU backend, which may be a file of its own, outside ggml-base. */
static void *backend_call(const struct gg_engine *engine, const char *name)
{
	return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(engine->backend.device),
						 name);
}

static bool was_cancelled(void *arg)
{
	struct gg_backend *backend = arg;

	return !backend->uninterruptible && atomic_load_explicit(&backend->cancelled, memory_order_relaxed);
}

void gg_backend_use_threads(struct gg_backend *backend, int n)
{
	if (backend->set_n_threads && backend->n_threads_used != n)
		backend->set_n_threads(backend->handle, n);
	backend->n_threads_used = n;
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
	if (set_abort)
		set_abort(backend->handle, was_cancelled, backend);
	if (new_pool && set_pool) {
		backend->threads = new_pool(&params);
		if (backend->threads)
			set_pool(backend->handle, backend->threads);
	}
}

/*
 * ggml's threads spin until the last has finished each operation: with more threads than
 * processors, a pass takes a hundred times as long.
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
	gg_log(engine, KVMOD_NOTE, "threads = %d, but this process may use only %d processors: using %d threads",
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
			       "ggml has no CPU backend: is libggml-cpu in the folder of libggml?");
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

struct ggml_context *gg_tensors_only(size_t n)
{
	return ggml_init((struct ggml_init_params){
		.mem_size = n * ggml_tensor_overhead(), .no_alloc = true,
	});
}

int32_t gg_backend_status(struct gg_engine *engine, enum ggml_status status)
{
	switch (status) {
	case GGML_STATUS_SUCCESS:
		return KVMOD_OK;
	case GGML_STATUS_ABORTED:
		return gg_fail(engine, KVMOD_ECANCELED, "cancelled");
	case GGML_STATUS_ALLOC_FAILED:
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to run the model");
	default:
		return gg_fail(engine, KVMOD_EDEVICE, "ggml failed to run the model: %s",
			       ggml_status_to_string(status));
	}
}
