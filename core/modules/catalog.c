/* SPDX-License-Identifier: Apache-2.0 */
/* The names that a configuration may use: of what is registered, and of what module files list. */
#include "core/config/paths.h"
#include "core/modules/catalog.h"

#include <string.h>

static int open_file(struct kv_catalog *c, const char *path)
{
	struct kv_catalog_file *f = &c->files[c->n++];

	f->path = path;
	f->err = kv_modinfo_open(c->config, path, &f->info);
	if (f->err == KVMOD_ENOMEM)
		return f->err;		/* not the fault of the file */
	if (f->err)
		f->refused = kv_arena_strdup(&c->arena, kvmod_error());
	return f->err && !f->refused ? KVMOD_ENOMEM : KVMOD_OK;
}

int kv_catalog_open(struct kv_catalog *c, struct kvmod_ctx *ctx, const struct kv_config *config)
{
	struct kv_strings paths = { 0 };
	int err;

	*c = (struct kv_catalog){ .ctx = ctx, .config = config };
	err = kv_module_files(config, &c->arena, &paths);
	if (err == KVMOD_OK) {
		c->files = kv_arena_alloc(&c->arena, (paths.n + 1) * sizeof(*c->files));
		err = c->files ? KVMOD_OK : KVMOD_ENOMEM;
	}
	for (size_t i = 0; i < paths.n && err == KVMOD_OK; i++)
		err = open_file(c, paths.item[i]);
	if (err)
		kv_catalog_close(c);
	return err;
}

void kv_catalog_close(struct kv_catalog *c)
{
	for (size_t i = 0; i < c->n; i++)
		kvmod_modinfo_free(c->files[i].info);
	kv_arena_free(&c->arena);
	*c = (struct kv_catalog){ 0 };
}

bool kv_catalog_has(const struct kv_catalog *c, enum kv_kind kind, const char *name)
{
	if (kv_provider_find(c->ctx, kind, name, NULL))
		return true;
	for (size_t i = 0; i < c->n; i++)
		if (c->files[i].info && kv_modinfo_says(c->files[i].info, kv_kind_name(kind), name))
			return true;
	return false;
}

const char *kv_catalog_file(const struct kv_catalog *c, enum kv_kind kind, const char *name)
{
	const struct kv_provider *provider = kv_provider_find(c->ctx, kind, name, NULL);
	const struct kv_catalog_file *refused;

	if (provider)
		return provider->module ? provider->module->path : NULL;
	for (int other = 0; other < 2; other++)
		for (size_t i = 0; i < c->n; i++) {
			const struct kv_catalog_file *f = &c->files[i];

			if (f->info && kv_path_stem_is(f->path, name) == !other &&
			    kv_modinfo_says(f->info, kv_kind_name(kind), name))
				return f->path;
		}
	refused = kv_catalog_refused(c, name);
	return refused ? refused->path : NULL;
}

/* Appends a name to "a, b", unless the text has it or is full. */
static void add_name(char *text, size_t room, const char *name)
{
	size_t length = strlen(text);

	for (const char *at = text; *at; at += strcspn(at, " "), at += *at == ' ')
		if (kv_name_is(at, strcspn(at, ", "), name))
			return;
	if (length + strlen(name) + 3 <= room)
		snprintf(text + length, room - length, "%s%s", length ? ", " : "", name);
}

void kv_catalog_offer(const struct kv_catalog *c, enum kv_kind kind, struct kv_nearest *nearest)
{
	const char *name;

	for (const struct kv_provider *p = c->ctx->providers; p; p = p->next)
		if (p->kind == kind)
			kv_nearest_offer(nearest, p->name);
	for (size_t i = 0; i < c->n; i++)
		for (unsigned k = 0; c->files[i].info &&
		     (name = kvmod_modinfo_get(c->files[i].info, kv_kind_name(kind), k)); k++)
			kv_nearest_offer(nearest, name);
}

const struct kv_catalog_file *kv_catalog_refused(const struct kv_catalog *c, const char *name)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->files[i].refused && kv_path_stem_is(c->files[i].path, name))
			return &c->files[i];
	return NULL;
}

const struct kv_entry *kv_catalog_blacklisted(const struct kv_catalog *c, enum kv_kind kind,
					      const char *name)
{
	const struct kv_entry *entry = NULL;

	if (kv_provider_find(c->ctx, kind, name, NULL))
		return NULL;
	for (size_t i = 0; i < c->n; i++) {
		const struct kvmod_modinfo *info = c->files[i].info;

		if (!info || !kv_modinfo_says(info, kv_kind_name(kind), name))
			continue;
		entry = kv_config_find(c->config, "blacklist", "",
				       kvmod_modinfo_get(info, "name", 0));
		if (!entry)
			return NULL;
	}
	return entry;
}

static int each_param(const struct kvmod_modinfo *info, const char *name, const char *key,
		      int (*fn)(void *arg, const struct kvmod_param *param), void *arg)
{
	const struct kvmod_param *named = key ? kv_modinfo_find_param(info, name, key) : NULL;
	struct kvmod_param param;
	int err = KVMOD_OK;

	if (key)
		return named ? fn(arg, named) : KVMOD_OK;
	for (unsigned k = 0; !err && kv_modinfo_param(info, name, k, &param); k++)
		err = fn(arg, &param);
	return err;
}

/*
 * Is there a device in `devices` that no list in `before` has? If not, that version is
 * never loaded for the name. Adds the list to `before`.
 */
static bool runs_anew(struct kv_arena *arena, struct kv_strings *before, const char *devices,
		      int *err)
{
	const char *rest = devices, *name, *one;
	bool is_new = false;
	size_t n;

	while (!*err && (name = kv_devices_next(&rest, &n))) {
		size_t i = 0;

		one = kv_arena_strndup(arena, name, n);
		if (!one)
			*err = KVMOD_ENOMEM;
		while (one && i < before->n && !kv_devices_have(before->item[i], one))
			i++;
		is_new |= i == before->n;
	}
	if (!*err)
		*err = kv_strings_add(arena, before, devices);
	return is_new && !*err;
}

/* Calls fn for each file that has a version of the name, in the order of the loader's search. */
static int each_version(const struct kv_catalog *c, enum kv_kind kind, const char *name,
			int (*fn)(void *arg, const struct kvmod_modinfo *info), void *arg)
{
	int err = KVMOD_OK;

	for (int other = 0; other < 2; other++)
		for (size_t i = 0; i < c->n && !err; i++) {
			const struct kv_catalog_file *f = &c->files[i];

			if (f->info && kv_path_stem_is(f->path, name) == !other &&
			    kv_modinfo_says(f->info, kv_kind_name(kind), name))
				err = fn(arg, f->info);
		}
	return err;
}

struct params_walk {
	enum kv_kind kind;
	const char *name, *key;
	int (*fn)(void *arg, const struct kvmod_param *param);
	void *arg;
	struct kv_arena arena;
	struct kv_strings devices;	/* of the versions before */
};

static const char *devices_in(const struct kvmod_modinfo *info, enum kv_kind kind, const char *name)
{
	return kind == KV_POLICY ? kv_modinfo_devices(info, name) : KV_ANY_DEVICE;
}

static int params_of_file(void *arg, const struct kvmod_modinfo *info)
{
	struct params_walk *w = arg;
	int err = KVMOD_OK;

	if (!runs_anew(&w->arena, &w->devices, devices_in(info, w->kind, w->name), &err))
		return err;
	return each_param(info, w->name, w->key, w->fn, w->arg);
}

int kv_catalog_params(const struct kv_catalog *c, enum kv_kind kind, const char *name,
		      const char *key, int (*fn)(void *arg, const struct kvmod_param *param), void *arg)
{
	struct params_walk w = { .kind = kind, .name = name, .key = key, .fn = fn, .arg = arg };
	const struct kv_provider *p = kv_provider_find(c->ctx, kind, name, NULL);
	struct kvmod_param param;
	int err = KVMOD_OK;

	for (; p && !err; p = p->namesake) {
		err = kv_strings_add(&w.arena, &w.devices, p->devices);
		for (uint32_t k = 0; !err && kv_provider_param(p, k, &param); k++)
			err = !key || kv_name_eq(param.name, key) ? fn(arg, &param) : KVMOD_OK;
	}
	if (!err)
		err = each_version(c, kind, name, params_of_file, &w);
	kv_arena_free(&w.arena);
	return err;
}

/* --- devices -------------------------------------------------------------------------- */

void kv_catalog_devices(const struct kv_catalog *c, char *text, size_t room)
{
	const char *name;

	*text = '\0';
	for (const struct kv_provider *p = c->ctx->providers; p; p = p->next)
		if (p->kind == KV_DEVICE)
			add_name(text, room, p->name);
	for (size_t i = 0; i < c->n; i++)
		for (unsigned k = 0; c->files[i].info &&
		     (name = kvmod_modinfo_get(c->files[i].info, kv_kind_name(KV_DEVICE), k)); k++)
			add_name(text, room, name);
}

struct devices_walk {
	const char *policy;
	struct kv_arena *arena;
	struct kv_strings *out;
};

static int add_devices(struct devices_walk *w, const char *devices)
{
	const char *name;
	int err = KVMOD_OK;
	size_t n, i;

	while (!err && (name = kv_devices_next(&devices, &n))) {
		for (i = 0; i < w->out->n && !kv_name_is(name, n, w->out->item[i]); i++)
			;
		if (i < w->out->n || kv_name_is(name, n, KV_ANY_DEVICE))
			continue;
		name = kv_arena_strndup(w->arena, name, n);
		err = name ? kv_strings_add(w->arena, w->out, name) : KVMOD_ENOMEM;
	}
	return err;
}

static int devices_of_file(void *arg, const struct kvmod_modinfo *info)
{
	struct devices_walk *w = arg;

	return add_devices(w, kv_modinfo_devices(info, w->policy));
}

static int policy_devices(struct kvmod_ctx *ctx, const char *policy, struct kv_arena *arena,
			  struct kv_strings *out)
{
	struct devices_walk w = { kv_config_alias(ctx->config, policy), arena, out };
	const struct kv_provider *p = kv_provider_find(ctx, KV_POLICY, w.policy, NULL);
	struct kv_catalog c;
	int err = kv_catalog_open(&c, ctx, ctx->config);

	if (err)
		return err;
	for (; p && !err; p = p->namesake)
		err = add_devices(&w, p->devices);
	if (!err)
		err = each_version(&c, KV_POLICY, w.policy, devices_of_file, &w);
	kv_catalog_close(&c);
	return err;
}

int kv_policy_devices(struct kvmod_ctx *ctx, const char *policy, struct kv_arena *arena,
		      struct kv_strings *out)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = policy_devices(ctx, policy, arena, out);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}
