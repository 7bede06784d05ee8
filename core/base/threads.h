/* SPDX-License-Identifier: Apache-2.0 */
/* The host's threads, over which policies distribute their work. */
#ifndef KV_CORE_BASE_THREADS_H
#define KV_CORE_BASE_THREADS_H

#include <config.h>
#include <kvmod/kvmod.h>

struct kv_threads *kv_threads_new(void);
void kv_threads_free(struct kv_threads *threads);
void kv_threads_set(struct kv_threads *threads, uint32_t n);	/* 0: one per processor */
uint32_t kv_n_processors(void);		/* that this process may use */

/* Runs fn(arg, 0) ... fn(arg, n - 1) on the context's threads and the caller's. */
void kv_parallel(struct kvmod_ctx *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
uint32_t kv_n_threads(struct kvmod_ctx *ctx);

#endif
