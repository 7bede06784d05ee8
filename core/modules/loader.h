/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded modules, their host tables, and the context (loader.c, host.c, context.c). */
#ifndef KV_CORE_MODULES_LOADER_H
#define KV_CORE_MODULES_LOADER_H

#include "core/modules/modinfo.h"

/* A descriptor as the first ABI had it. */
#define KV_LEAST_DESCRIPTOR (offsetof(struct kvmod_module, exit) + sizeof(void *))

struct kv_module {
	struct kv_module *next;
	struct kvmod_ctx *ctx;
	struct kvmod_module desc;	/* zero-extended */
	struct kvmod_host host;
	const char *path;		/* NULL: linked in */
	void *handle;
	dev_t dev;
	ino_t ino;
	const struct kvmod_modinfo *info;	/* while init() runs; NULL: linked in */
	bool in_init, in_exit;
	struct kv_held *held;		/* devices that host->device() opened for it */
	struct kv_arena arena;
};

void kv_host_fill(struct kv_module *module);
/* Loads a checked file, unless it is already loaded; frees info. The lock is held. */
int kv_load_info(struct kvmod_ctx *ctx, struct kvmod_modinfo *info);
struct kv_module *kv_module_find(struct kvmod_ctx *ctx, const char *name);
/* Loads by name or absolute path; the lock is held. */
int kv_load_locked(struct kvmod_ctx *ctx, const char *name_or_path);
void kv_unload_all(struct kvmod_ctx *ctx);
/* Makes a context with nothing registered; kvmod_unref() frees it. */
int kv_context_new(struct kvmod_ctx **ctx);
/* Makes a new lock and new threads in a forked child. */
int kv_context_after_fork(struct kvmod_ctx *ctx);

#endif
