/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a configuration may name: what is registered, and what the files of the module
 * path say that they have (catalog.c, sections.c, configure.c). The lock is held.
 */
#ifndef KVMOD_MODULES_CATALOG_H
#define KVMOD_MODULES_CATALOG_H

#include "core/modules/registry.h"

/* A module file, or why it is refused. */
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
	struct kv_pile pile;
	struct kv_catalog_file *files;
	size_t n;
};

int kv_catalog_open(struct kv_catalog *c, struct kvmod_ctx *ctx, const struct kv_config *config);
void kv_catalog_close(struct kv_catalog *c);	/* nothing to do where that is all zeros */
bool kv_catalog_has(const struct kv_catalog *c, enum kv_kind kind, const char *name);
/* The file of the module that has it, or is called so; NULL: none, or it is built in. */
const char *kv_catalog_file(const struct kv_catalog *c, enum kv_kind kind, const char *name);
/* Offers all names of that kind. */
void kv_catalog_offer(const struct kv_catalog *c, enum kv_kind kind, struct kv_nearest *nearest);
/* The refused file that is called so; NULL: none. */
const struct kv_catalog_file *kv_catalog_refused(const struct kv_catalog *c, const char *name);
/* What keeps every module that has it from being loaded; NULL: nothing does. */
const struct kv_entry *kv_catalog_blacklisted(const struct kv_catalog *c, enum kv_kind kind,
					      const char *name);
/*
 * Calls fn for each parameter of that name, once for every implementation, until
 * it returns something other than 0, which is the answer.
 */
int kv_catalog_params(const struct kv_catalog *c, enum kv_kind kind, const char *name,
		      const char *key, int (*fn)(void *arg, const struct kvmod_param *param), void *arg);
/* Does it stand for anything? *module: the file of that, or NULL. Warns where it hides another. */
int kv_alias_check(const struct kv_catalog *c, const struct kv_entry *alias, const char **module);
/* Checks the sections of policies, engines and devices without running anything. */
int kv_sections_check(struct kvmod_ctx *ctx, const struct kv_config *config);

/*
 * Reads the configuration and checks all of it, names and sections included; the
 * context stays as it is.
 */
int kv_config_load(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		   size_t n_overrides, struct kv_config **out);

#endif
