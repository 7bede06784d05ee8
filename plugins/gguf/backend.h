/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's CPU backend for one engine: its threads, cancellation, and log; tensors without data. */
#ifndef KV_PLUGINS_GGUF_BACKEND_H
#define KV_PLUGINS_GGUF_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ggml.h>
#include <ggml-backend.h>

struct gg_engine;

struct gg_backend {
	ggml_backend_dev_t device;
	ggml_backend_t handle;
	ggml_threadpool_t threads;
	int n_threads;			/* in the pool */
	int n_threads_used;
	ggml_backend_set_n_threads_t set_n_threads;	/* NULL: not in this ggml */
	atomic_bool cancelled;
	bool uninterruptible;		/* cancelling must not end what runs now */
};

int32_t gg_backend_open(struct gg_engine *engine);
void gg_backend_close(struct gg_engine *engine);
/* Passes from the next one on run on n threads. */
void gg_backend_use_threads(struct gg_backend *backend, int n);
/* Turns the status of a graph's run into a code and a message; KVMOD_ECANCELED after cancel(). */
int32_t gg_backend_status(struct gg_engine *engine, enum ggml_status status);

/*
 * A context with room for n tensors without data, which ggml can be asked about, or which a
 * caller places in memory of its own. NULL: not enough memory.
 */
struct ggml_context *gg_tensors_only(size_t n);

/* Between begin and end, this thread's log lines of ggml and libllama go to the engine's host. */
void gg_log_begin(struct gg_engine *engine);
/* Returns the first error line since gg_log_begin(), or "". */
const char *gg_log_end(void);

#endif
