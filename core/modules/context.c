/* SPDX-License-Identifier: Apache-2.0 */
/* The context: how it is made, referenced and freed. */
#include "core/modules/registry.h"

#include <stdlib.h>

/* Recursive: init() of a module registers tables while the load holds the lock. */
static void make_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

int kv_context_new(struct kvmod_ctx **out)
{
	struct kvmod_ctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx)
		return kv_no_memory();
	atomic_init(&ctx->refs, 1);
	atomic_init(&ctx->log_level, KVMOD_NOTE);
	atomic_init(&ctx->usual_level, KVMOD_NOTE);
	pthread_mutex_init(&ctx->log_lock, NULL);
	make_lock(&ctx->lock);
	ctx->threads = kv_threads_new();
	if (!ctx->threads) {
		kvmod_unref(ctx);
		return KVMOD_ENOMEM;
	}
	*out = ctx;
	return KVMOD_OK;
}

struct kvmod_ctx *kvmod_ref(struct kvmod_ctx *ctx)
{
	atomic_fetch_add(&ctx->refs, 1);
	return ctx;
}

void kvmod_unref(struct kvmod_ctx *ctx)
{
	if (!ctx || atomic_fetch_sub(&ctx->refs, 1) != 1)
		return;
	kv_unload_all(ctx);
	kv_unregister(ctx, NULL);
	kv_threads_free(ctx->threads);
	kv_config_free(ctx->config);
	pthread_mutex_destroy(&ctx->lock);
	pthread_mutex_destroy(&ctx->log_lock);
	free(ctx);
}

int kv_context_after_fork(struct kvmod_ctx *ctx)
{
	pthread_mutex_init(&ctx->log_lock, NULL);
	make_lock(&ctx->lock);
	ctx->threads = kv_threads_new();
	return ctx->threads ? KVMOD_OK : KVMOD_ENOMEM;
}
