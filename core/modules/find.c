/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds what provides a name: what is registered, else a module file, whose section
 * lists what it has.
 */
#include "core/config/paths.h"
#include "core/modules/catalog.h"
#include "core/modules/device.h"

#include <string.h>

/* --- module files, by their sections ------------------------------------- */

/* Is one of the folders an empty part, which stands for the usual folder? */
static bool has_empty_part(const char *path)
{
	size_t n = strlen(path);

	return n == 0 || path[0] == ':' || path[n - 1] == ':' || strstr(path, "::");
}

bool kv_usual_folder_has(const struct kv_config *config, const char *key, const char *name)
{
	const struct kv_entry *path = kv_config_find(config, "kvmod", "", "module_path");
	struct kv_strings files = { 0 };
	struct kvmod_modinfo *info;
	struct kv_arena arena = { 0 };
	bool has = false;

	if (path && !has_empty_part(path->value))
		kv_module_files(NULL, &arena, &files);
	for (size_t i = 0; i < files.n && !has; i++) {
		if (kv_modinfo_open(config, files.item[i], &info))
			continue;
		has = kv_modinfo_says(info, key, name);
		kvmod_modinfo_free(info);
	}
	kv_arena_free(&arena);
	return has;
}

/* The files of the module path: those called NAME.so first. */
static int files_for(const struct kv_config *config, const char *name, struct kv_arena *arena,
		     struct kv_strings *out)
{
	struct kv_strings all = { 0 };
	int err = kv_module_files(config, arena, &all);

	for (int other = 0; other < 2; other++)
		for (size_t i = 0; i < all.n && err == KVMOD_OK; i++)
			if (kv_path_stem_is(all.item[i], name) == !other)
				err = kv_strings_add(arena, out, all.item[i]);
	return err;
}

/* The name to find: of a policy, engine or device, or of a module. */
struct search {
	const char *what;		/* "policy", ..., "module" */
	const char *key;		/* in the section */
	const char *name;
	enum kv_kind kind;
	const char *device;		/* that a policy must run on; NULL: any */
	struct kv_nearest nearest;
	unsigned n_refused;
	bool elsewhere;			/* a version was found that runs on other devices */
};

static bool is_module(const struct search *s)
{
	return strcmp(s->what, "module") == 0;
}

static bool is_there(struct kvmod_ctx *ctx, const struct search *s)
{
	return is_module(s) ? kv_module_find(ctx, s->name) != NULL :
			      kv_provider_find(ctx, s->kind, s->name, s->device) != NULL;
}

/* Does the file list the name? Offers all its names as near ones. */
static bool offers(struct search *s, const struct kvmod_modinfo *info)
{
	const char *name;

	for (unsigned i = 0; (name = kvmod_modinfo_get(info, s->key, i)); i++)
		kv_nearest_offer(&s->nearest, name);
	if (!kv_modinfo_says(info, s->key, s->name))
		return false;
	if (!s->device || kv_devices_have(kv_modinfo_devices(info, s->name), s->device))
		return true;
	s->elsewhere = true;
	return false;
}

/* "installed: cpu, npu; " */
static void list_devices(struct kvmod_ctx *ctx, char *text, size_t room)
{
	struct kv_catalog catalog;
	char names[256];

	*text = '\0';
	if (kv_catalog_open(&catalog, ctx, ctx->config) != KVMOD_OK)
		return;
	kv_catalog_devices(&catalog, names, sizeof(names));
	kv_catalog_close(&catalog);
	snprintf(text, room, "installed: %s; ", names);
}

static int not_found(struct kvmod_ctx *ctx, struct search *s)
{
	char hint[KV_HINT_ROOM], where[512] = "", refused[64] = "", installed[288] = "";
	struct kv_strings dirs = { 0 };
	struct kv_arena arena = { 0 };

	for (const struct kv_provider *p = ctx->providers; p; p = p->next)
		if (!is_module(s) && p->kind == s->kind)
			kv_nearest_offer(&s->nearest, p->name);
	if (kv_module_path(ctx->config, &arena, &dirs) == KVMOD_OK)
		for (size_t i = 0, n = 0; i < dirs.n && n < sizeof(where); i++)
			n += (size_t)snprintf(where + n, sizeof(where) - n, "%s%s",
					      i ? ":" : "", dirs.item[i]);
	kv_arena_free(&arena);
	if (s->n_refused)
		snprintf(refused, sizeof(refused), ", %u refused there: see `kvmod list`",
			 s->n_refused);
	kv_nearest_hint(&s->nearest, hint, sizeof(hint));
	if (kv_usual_folder_has(ctx->config, s->key, s->name))
		return kv_fail(KVMOD_ENOENT, "no %s `%s` (looked in %s" KV_USUAL_HINT, s->what, s->name,
			       where);
	if (!is_module(s) && s->kind == KV_DEVICE)
		list_devices(ctx, installed, sizeof(installed));
	return kv_fail(KVMOD_ENOENT, "no %s `%s`%s (%slooked in %s%s)", s->what, s->name, hint,
		       installed, where, refused);
}

/* --- getting ---------------------------------------------------------------------------- */

/* Loads the file if it has the name. A refused file counts only if it is called so. */
static int try_file(struct kvmod_ctx *ctx, const char *path, struct search *s)
{
	struct kvmod_modinfo *info;
	int err = kv_modinfo_open(ctx->config, path, &info);

	if (err && err != KVMOD_ENOMEM && !kv_path_stem_is(path, s->name)) {
		s->n_refused++;
		return KVMOD_OK;
	}
	if (err)
		return err;
	if (offers(s, info))
		return kv_load_info(ctx, info);
	kvmod_modinfo_free(info);
	return KVMOD_OK;
}

/* Loads files until one provides the name. */
static int load_files(struct kvmod_ctx *ctx, struct search *s)
{
	struct kv_strings files = { 0 };
	struct kv_arena arena = { 0 };
	int err = files_for(ctx->config, s->name, &arena, &files);

	kv_nearest_start(&s->nearest, s->name);
	for (size_t i = 0; i < files.n && err == KVMOD_OK && !is_there(ctx, s); i++)
		err = try_file(ctx, files.item[i], s);
	kv_arena_free(&arena);
	if (err || is_there(ctx, s))
		return err;
	if (s->elsewhere || (s->device && kv_provider_find(ctx, s->kind, s->name, NULL)))
		return kv_fail(KVMOD_ENOTSUP, "%s `%s` has no version for %s", s->what, s->name,
			       s->device);
	return not_found(ctx, s);
}

static int find_or_load(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
			const char *device, struct kv_provider **out)
{
	struct search s = {
		.what = kv_kind_name(kind), .key = kv_kind_name(kind), .name = name,
		.kind = kind, .device = device,
	};
	int err = is_there(ctx, &s) ? KVMOD_OK : load_files(ctx, &s);

	if (err == KVMOD_OK)
		*out = kv_provider_find(ctx, kind, name, device);
	return err;
}

int kv_provider_get_locked(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
			   const char *device, struct kv_provider **out)
{
	int err = find_or_load(ctx, kind, kv_config_alias(ctx->config, name), device, out);

	if (err == KVMOD_OK)
		(*out)->refs++;
	return err;
}

int kv_provider_get(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
		    const char *device, struct kv_provider **out)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_provider_get_locked(ctx, kind, name, device, out);
	if (err == KVMOD_OK)
		kvmod_ref(ctx);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}

/* --- modules by name ----------------------------------------------------------------------- */

int kv_load_locked(struct kvmod_ctx *ctx, const char *name)
{
	struct search s = { .what = "module", .key = "name" };
	struct kvmod_modinfo *info;
	int err;

	if (*name == '/') {
		err = kv_modinfo_open(ctx->config, name, &info);
		return err ? err : kv_load_info(ctx, info);
	}
	if (strchr(name, '/'))
		return kv_fail(KVMOD_EINVAL, "%s: expected the name of a module or an absolute path", name);
	s.name = kv_config_alias(ctx->config, name);
	return is_there(ctx, &s) ? KVMOD_OK : load_files(ctx, &s);
}

int kvmod_modules_each(struct kvmod_ctx *ctx,
		       int (*fn)(void *arg, const char *path, int error,
				 const struct kvmod_modinfo *info), void *arg)
{
	struct kv_strings files = { 0 };
	struct kv_arena arena = { 0 };
	struct kvmod_modinfo *info;
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_module_files(ctx->config, &arena, &files);
	pthread_mutex_unlock(&ctx->lock);
	for (size_t i = 0; i < files.n && err == KVMOD_OK; i++) {
		int refused = kvmod_modinfo_read(ctx, files.item[i], &info);

		if (refused == KVMOD_ENOMEM) {
			err = refused;	/* not the fault of the file */
			break;
		}
		err = fn(arg, files.item[i], refused, refused ? NULL : info);
		if (!refused)
			kvmod_modinfo_free(info);
	}
	kv_arena_free(&arena);
	return err;
}
