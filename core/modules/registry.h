/* SPDX-License-Identifier: Apache-2.0 */
/* What modules registered, found by name, and instances of it (registry.c, find.c, instance.c). */
#ifndef KVMOD_MODULES_REGISTRY_H
#define KVMOD_MODULES_REGISTRY_H

#include "core/modules/loader.h"

/* One registered ops table. */
struct kv_provider {
	struct kv_provider *next;
	struct kv_provider *namesake;	/* the next one of the same kind and name */
	enum kv_kind kind;
	const char *name;
	const void *ops;		/* a full-size, zero-extended copy of the module's table */
	uint32_t on;			/* policies: KVMOD_ON_... */
	struct kv_module *module;	/* NULL: built into the core */
	unsigned refs;			/* open instances */
	void *table;			/* ops, and the parameters that it points to */
	struct kvmod_param *params;
};

/*
 * The provider of that name, its module loaded first if need be, with a
 * reference taken. on: a policy must run there (0: anywhere). An unknown name
 * is KVMOD_ENOENT and the message names the nearest known one.
 */
int kv_provider_get(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
		    uint32_t on, struct kv_provider **out);
void kv_provider_put(struct kvmod_ctx *ctx, struct kv_provider *provider);

/*
 * Allocates an instance of `size` bytes, zeroed, and fills its kvmod_instance
 * and its parameters from the section "policy NAME" (or engine, device).
 */
int kv_instance_new(struct kvmod_ctx *ctx, struct kv_provider *provider, void **instance);
void kv_instance_free(void *instance);

/* Checks an ops table and adds it; module NULL: the core's own. The lock is held. */
int kv_register(struct kvmod_ctx *ctx, struct kv_module *module, enum kv_kind kind,
		const void *ops);
/* Takes back what the module registered. The lock is held. */
void kv_unregister(struct kvmod_ctx *ctx, const struct kv_module *module);
bool kv_registered_busy(const struct kvmod_ctx *ctx, const struct kv_module *module);
struct kv_provider *kv_provider_find(const struct kvmod_ctx *ctx, enum kv_kind kind,
				     const char *name, uint32_t on);
const struct kvmod_param *kv_provider_params(const struct kv_provider *provider, uint32_t *n);
/* The i-th; false past the last. */
bool kv_provider_param(const struct kv_provider *provider, uint32_t i, struct kvmod_param *param);

/*
 * Does a module of the usual folder have it (key: "policy", ..., "name"), where
 * module_path leaves that folder out? What to say then comes behind the folders.
 */
bool kv_usual_folder_has(const struct kv_config *config, const char *key, const char *name);
#define KV_USUAL_HINT "): the usual folder has it; end module_path with a `:` to look there too"

/* As kv_provider_get(), but the context is not held. The lock is. */
int kv_provider_take(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name, uint32_t on,
		     struct kv_provider **out);

#endif
