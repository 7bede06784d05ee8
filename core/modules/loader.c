/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading and unloading modules. A load either ends with a module that has registered
 * what it provides, or changes nothing.
 */
#include "core/modules/call.h"
#include "core/modules/device.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

static struct kv_module *find_file(struct kvmod_ctx *ctx, const struct stat *st)
{
	struct kv_module *m = ctx->modules;

	while (m && !(m->path && m->dev == st->st_dev && m->ino == st->st_ino))
		m = m->next;
	return m;
}

struct kv_module *kv_module_find(struct kvmod_ctx *ctx, const char *name)
{
	struct kv_module *m = ctx->modules;

	while (m && !kv_name_eq(m->desc.name, name))
		m = m->next;
	return m;
}

static int check_blacklist(const struct kv_config *config, const char *name)
{
	const struct kv_entry *entry = kv_config_find(config, "blacklist", "", name);

	if (!entry)
		return KVMOD_OK;
	return kv_place_fail(KVMOD_EPERM, entry, "module `%s` is blacklisted: %s", name, entry->value);
}

static int check_name(struct kvmod_ctx *ctx, const char *name)
{
	const struct kv_module *other = kv_module_find(ctx, name);

	if (!other)
		return KVMOD_OK;
	return kv_fail(KVMOD_EEXIST, "a module `%s` is already loaded, from %s", name,
		       other->path ? other->path : "the program itself");
}

/* --- starting ------------------------------------------------------------------------ */

static void append(struct kvmod_ctx *ctx, struct kv_module *module)
{
	struct kv_module **link = &ctx->modules;

	while (*link)
		link = &(*link)->next;
	*link = module;
}

/* Calls init(); if it fails, takes back what it registered. */
static int start(struct kvmod_ctx *ctx, struct kv_module *module)
{
	int32_t code;
	bool spoke;
	int err;

	kv_host_fill(module);
	module->in_init = true;
	kv_error_forget();
	code = module->desc.init(&module->host);
	module->in_init = false;
	spoke = *kvmod_error() != '\0';
	err = kv_called(code, "init", NULL);
	if (err == KVMOD_OK) {
		append(ctx, module);
		return err;
	}
	kv_unregister(ctx, module);
	return spoke ? kv_fail_in(err, "init() failed") : err;	/* the core's words name the call */
}

/* A descriptor of another minor may be shorter or longer. */
static int take_descriptor(struct kv_module *module, const struct kvmod_module *desc)
{
	size_t n = desc->size < sizeof(module->desc) ? desc->size : sizeof(module->desc);

	if (desc->magic != KVMOD_MAGIC || desc->size < KV_LEAST_DESCRIPTOR)
		return kv_fail(KVMOD_EFORMAT, "invalid module descriptor (magic or size): "
			       "define it with KVMOD_MODULE()");
	memcpy(&module->desc, desc, n);
	if (!desc->name || !kv_name_valid(desc->name) || !desc->license || !*desc->license ||
	    !desc->init)
		return kv_fail(KVMOD_EINVAL, "its descriptor lacks a valid name, a license or init()");
	return kv_abi_check(desc->abi_major, desc->abi_minor);
}

static bool agrees(const char *described, const char *said)
{
	return described && said && strcmp(described, said) == 0;
}

static int check_agreement(const struct kvmod_module *desc, const struct kvmod_modinfo *info)
{
	if (agrees(desc->name, kvmod_modinfo_get(info, "name", 0)) &&
	    agrees(desc->version, kvmod_modinfo_get(info, "version", 0)) &&
	    agrees(desc->license, kvmod_modinfo_get(info, "license", 0)))
		return KVMOD_OK;
	return kv_fail(KVMOD_EFORMAT, "its descriptor and its " KVMOD_INFO_SECTION " section "
		       "disagree on name, version or license: define both with KVMOD_MODULE()");
}

/* --- files ------------------------------------------------------------------------------- */

/* dlsym() also searches the dependencies of the file; the descriptor must be its own. */
static int find_descriptor(void *handle, const struct kvmod_module **desc)
{
	struct link_map *map = NULL, *owner = NULL;
	Dl_info where;

	*desc = dlsym(handle, "kvmod_module");
	if (!*desc || dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0)
		return kv_fail(KVMOD_EFORMAT, "exports no `kvmod_module`: define it with KVMOD_MODULE()");
	if (!dladdr1(*desc, &where, (void **)&owner, RTLD_DL_LINKMAP) || owner != map)
		return kv_fail(KVMOD_EFORMAT, "its `kvmod_module` comes from %s, a dependency: "
			       "define its own with KVMOD_MODULE()",
			       owner ? owner->l_name : "another file");
	return KVMOD_OK;
}

static int take_file(struct kv_module *module, const struct kvmod_modinfo *info)
{
	const struct kvmod_module *desc;
	int err = kv_dl_open(info, &module->handle);

	if (err == KVMOD_OK)
		err = find_descriptor(module->handle, &desc);
	if (err == KVMOD_OK)
		err = take_descriptor(module, desc);
	return err == KVMOD_OK ? check_agreement(&module->desc, info) : err;
}

static void free_module(struct kv_module *module)
{
	if (module->handle && !(module->desc.flags & KVMOD_MODULE_RESIDENT))
		dlclose(module->handle);
	kv_arena_free(&module->arena);
	free(module);
}

static int load_new(struct kvmod_ctx *ctx, const struct kvmod_modinfo *info)
{
	struct kv_module *module = calloc(1, sizeof(*module));
	int err;

	if (!module)
		return kv_no_memory();
	module->ctx = ctx;
	module->dev = info->st.st_dev;
	module->ino = info->st.st_ino;
	module->info = info;
	module->desc.flags = info->flags;	/* does it stay mapped even if this fails? */
	module->path = kv_arena_strdup(&module->arena, info->path);
	err = module->path ? take_file(module, info) : KVMOD_ENOMEM;
	if (err == KVMOD_OK)
		err = start(ctx, module);
	module->info = NULL;
	if (err)
		free_module(module);
	return err;
}

int kv_load_info(struct kvmod_ctx *ctx, struct kvmod_modinfo *info)
{
	const char *name = kvmod_modinfo_get(info, "name", 0);
	int err = KVMOD_OK;

	if (!find_file(ctx, &info->st)) {
		err = check_blacklist(ctx->config, name);
		if (err == KVMOD_OK)
			err = check_name(ctx, name);
		if (err == KVMOD_OK)
			err = load_new(ctx, info);
		if (err)
			kv_fail_in(err, "%s", info->path);
		else
			kv_log(ctx, KVMOD_DEBUG, "%s: loaded module %s %s", info->path, name,
			       kvmod_modinfo_get(info, "version", 0));
	}
	kvmod_modinfo_free(info);
	return err;
}

int kvmod_load(struct kvmod_ctx *ctx, const char *name_or_path)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_load_locked(ctx, name_or_path);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}

int kvmod_add_builtin(struct kvmod_ctx *ctx, const struct kvmod_module *desc)
{
	struct kv_module *module = calloc(1, sizeof(*module));
	int err;

	if (!module)
		return kv_no_memory();
	module->ctx = ctx;
	pthread_mutex_lock(&ctx->lock);
	err = take_descriptor(module, desc);
	if (err == KVMOD_OK)
		err = check_name(ctx, module->desc.name);
	if (err == KVMOD_OK)
		err = start(ctx, module);
	pthread_mutex_unlock(&ctx->lock);
	if (err) {
		free_module(module);
		return kv_fail_in(err, "built-in module");
	}
	return err;
}

/* --- unloading -------------------------------------------------------------------------------- */

static void remove_module(struct kvmod_ctx *ctx, struct kv_module *module)
{
	struct kv_module **link = &ctx->modules;

	while (*link != module)
		link = &(*link)->next;
	*link = module->next;
	kv_module_close_devices(module);
	kv_unregister(ctx, module);
	module->in_exit = true;
	if (module->desc.exit)
		KV_CALL_VOID(module->desc.exit());
	free_module(module);
}

static int unload(struct kvmod_ctx *ctx, const char *name)
{
	struct kv_module *module = kv_module_find(ctx, name);

	if (!module)
		return kv_fail(KVMOD_ENOENT, "no module `%s` is loaded", name);
	if (kv_registered_busy(ctx, module))
		return kv_fail(KVMOD_EBUSY, "module `%s` is in use: close what was opened from it", name);
	remove_module(ctx, module);
	return KVMOD_OK;
}

int kvmod_unload(struct kvmod_ctx *ctx, const char *name)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = unload(ctx, kv_config_alias(ctx->config, name));
	pthread_mutex_unlock(&ctx->lock);
	return err;
}

void kv_unload_all(struct kvmod_ctx *ctx)
{
	/* One module may hold the device of another. */
	for (struct kv_module *m = ctx->modules; m; m = m->next)
		kv_module_close_devices(m);
	while (ctx->modules)
		remove_module(ctx, ctx->modules);
}
