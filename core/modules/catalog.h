/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names that a configuration may use: of what is registered, and of what the files
 * of the module path list (catalog.c, sections.c, configure.c). The lock is held.
 */
#ifndef KV_CORE_MODULES_CATALOG_H
#define KV_CORE_MODULES_CATALOG_H

#include "core/modules/registry.h"

/* A module file, or the reason why it is refused. */
struct kv_catalog_file {
	const char *path;
	struct kvmod_modinfo *info;	/* NULL: it is refused */
	const char *refused;
	int err;
};

/* What is registered, and the files of a configuration's module path, read once. */
struct kv_catalog {
	struct kvmod_ctx *ctx;
	const struct kv_config *config;
	struct kv_arena arena;
	struct kv_catalog_file *files;
	size_t n;
};

int kv_catalog_open(struct kv_catalog *c, struct kvmod_ctx *ctx, const struct kv_config *config);
void kv_catalog_close(struct kv_catalog *c);	/* does nothing if *c is all zeros */
bool kv_catalog_has(const struct kv_catalog *c, enum kv_kind kind, const char *name);
/* The module file that provides the name, or is called so; NULL: none, or it is built in. */
const char *kv_catalog_file(const struct kv_catalog *c, enum kv_kind kind, const char *name);
/* Offers all names of that kind as near ones. */
void kv_catalog_offer(const struct kv_catalog *c, enum kv_kind kind, struct kv_nearest *nearest);
/* Names of the devices that are installed, "cpu, npu". */
void kv_catalog_devices(const struct kv_catalog *c, char *text, size_t room);
/* The refused file that is called so; NULL: none. */
const struct kv_catalog_file *kv_catalog_refused(const struct kv_catalog *c, const char *name);
/* The [blacklist] entry of the modules that provide the name; NULL: one of them may be loaded. */
const struct kv_entry *kv_catalog_blacklisted(const struct kv_catalog *c, enum kv_kind kind,
					      const char *name);
/*
 * Calls fn for each parameter called `key` (NULL: for all), once for each version of
 * the policy, engine or device, until fn returns something other than 0, and returns that.
 */
int kv_catalog_params(const struct kv_catalog *c, enum kv_kind kind, const char *name,
		      const char *key, int (*fn)(void *arg, const struct kvmod_param *param), void *arg);
/*
 * Does the alias stand for a known name? *module: the file that provides it, or NULL.
 * Warns if the alias hides another name.
 */
int kv_alias_check(const struct kv_catalog *c, const struct kv_entry *alias, const char **module);
/*
 * The devices that the versions of a policy name, each once: of those registered, then
 * of module files in the order of the loader's search. Takes the lock.
 */
int kv_policy_devices(struct kvmod_ctx *ctx, const char *policy, struct kv_arena *arena,
		      struct kv_strings *out);
/* Checks the sections of policies, engines and devices without running anything. */
int kv_sections_check(struct kvmod_ctx *ctx, const struct kv_config *config);

/*
 * Reads the configuration and checks all of it, names and sections included; the
 * context stays as it is.
 */
int kv_config_load(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		   size_t n_overrides, struct kv_config **out);

#endif
