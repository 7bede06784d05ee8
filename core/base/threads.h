/* SPDX-License-Identifier: Apache-2.0 */
/* The host's threads, on which policies share out their work. */
#ifndef KVMOD_BASE_THREADS_H
#define KVMOD_BASE_THREADS_H

#include <config.h>
#include <kvmod/kvmod.h>

struct kv_pool *kv_pool_new(void);
void kv_pool_free(struct kv_pool *pool);
void kv_pool_set_threads(struct kv_pool *pool, uint32_t n);	/* 0: one per processor */
uint32_t kv_n_processors(void);		/* that this process may use */

/* fn(arg, 0) ... fn(arg, n - 1), on the context's threads and the caller's. */
void kv_parallel(struct kvmod_ctx *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
uint32_t kv_n_threads(struct kvmod_ctx *ctx);

#endif
