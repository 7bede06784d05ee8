/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables that modules registered, found by name, and their instances (registry.c,
 * find.c, instance.c).
 */
#ifndef KV_CORE_MODULES_REGISTRY_H
#define KV_CORE_MODULES_REGISTRY_H

#include "core/modules/loader.h"

/* One registered ops table. */
struct kv_provider {
	struct kv_provider *next;
	struct kv_provider *namesake;	/* the next one of the same kind and name */
	enum kv_kind kind;
	const char *name;
	const void *ops;		/* a full-size, zero-extended copy of the module's table */
	const char *devices;		/* where it runs; KV_ANY_DEVICE for engines and devices */
	struct kv_module *module;	/* NULL: built into the core */
	unsigned refs;			/* open instances */
	void *table;			/* ops, and the parameters that it points to */
	struct kvmod_param *params;
};

/*
 * The provider of that name, its module loaded first if need be, with a
 * reference taken. device: a policy must run there (NULL: anywhere). An unknown
 * name is KVMOD_ENOENT, and the message names the nearest known one; a policy that
 * runs on other devices only is KVMOD_ENOTSUP.
 */
int kv_provider_get(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
		    const char *device, struct kv_provider **out);
void kv_provider_put(struct kvmod_ctx *ctx, struct kv_provider *provider);
/* The same for a caller that has the lock. The context is not referenced. */
int kv_provider_get_locked(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
			   const char *device, struct kv_provider **out);

/*
 * Allocates an instance of `size` bytes, zeroed, and fills its kvmod_instance
 * and its parameters from the section "policy NAME" (or engine, device).
 */
int kv_instance_new(struct kvmod_ctx *ctx, struct kv_provider *provider, void **instance);
void kv_instance_free(void *instance);

/* Checks an ops table and adds it; module NULL: the core's own. The lock is held. */
int kv_register(struct kvmod_ctx *ctx, struct kv_module *module, enum kv_kind kind,
		const void *ops);
/* Removes what the module registered. The lock is held. */
void kv_unregister(struct kvmod_ctx *ctx, const struct kv_module *module);
bool kv_registered_busy(const struct kvmod_ctx *ctx, const struct kv_module *module);
/* What is registered, for that device (NULL: any). NULL: nothing. The lock is held. */
struct kv_provider *kv_provider_find(const struct kvmod_ctx *ctx, enum kv_kind kind,
				     const char *name, const char *device);
const struct kvmod_param *kv_provider_params(const struct kv_provider *provider, uint32_t *n);
/* The i-th; false past the last. */
bool kv_provider_param(const struct kv_provider *provider, uint32_t i, struct kvmod_param *param);

/*
 * Does a module of the usual folder provide the name (key: "policy", ..., "name"), and
 * module_path leaves that folder out? KV_USUAL_HINT then ends the list of folders.
 */
bool kv_usual_folder_has(const struct kv_config *config, const char *key, const char *name);
#define KV_USUAL_HINT "): the usual folder has it; end module_path with a `:` to look there too"

#endif
