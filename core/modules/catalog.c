/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to choose from: what is registered, and what module files say they have. */
#include "core/config/paths.h"
#include "core/modules/catalog.h"

#include <string.h>

static int open_file(struct kv_catalog *c, const char *path)
{
	struct kv_catalog_file *f = &c->files[c->n++];

	f->path = path;
	f->err = kv_modinfo_open(c->config, path, &f->info);
	if (f->err == KVMOD_ENOMEM)
		return f->err;		/* that is no fault of the file's */
	if (f->err)
		f->refused = kv_pile_strdup(&c->pile, kvmod_error());
	return f->err && !f->refused ? KVMOD_ENOMEM : KVMOD_OK;
}

int kv_catalog_open(struct kv_catalog *c, struct kvmod_ctx *ctx, const struct kv_config *config)
{
	struct kv_strings paths = { 0 };
	int err;

	*c = (struct kv_catalog){ .ctx = ctx, .config = config };
	err = kv_module_files(config, &c->pile, &paths);
	if (err == KVMOD_OK) {
		c->files = kv_pile_alloc(&c->pile, (paths.n + 1) * sizeof(*c->files));
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
	kv_pile_free(&c->pile);
	*c = (struct kv_catalog){ 0 };
}

bool kv_catalog_has(const struct kv_catalog *c, enum kv_kind kind, const char *name)
{
	if (kv_provider_find(c->ctx, kind, name, 0))
		return true;
	for (size_t i = 0; i < c->n; i++)
		if (c->files[i].info && kv_modinfo_says(c->files[i].info, kv_kind_name(kind), name))
			return true;
	return false;
}

const char *kv_catalog_file(const struct kv_catalog *c, enum kv_kind kind, const char *name)
{
	const struct kv_provider *provider = kv_provider_find(c->ctx, kind, name, 0);
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

	if (kv_provider_find(c->ctx, kind, name, 0))
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

/* Does it run anywhere that none before it does? Else it is never loaded for that name. */
static bool runs_anew(const struct kvmod_modinfo *info, enum kv_kind kind, const char *name,
		     uint32_t *on)
{
	uint32_t here = kind == KV_POLICY ? kv_modinfo_on(info, name) : ~0u;
	bool new = !here || here & ~*on;

	*on |= here;
	return new;
}

int kv_catalog_params(const struct kv_catalog *c, enum kv_kind kind, const char *name,
		      const char *key, int (*fn)(void *arg, const struct kvmod_param *param), void *arg)
{
	const struct kv_provider *p = kv_provider_find(c->ctx, kind, name, 0);
	struct kvmod_param param;
	int err = KVMOD_OK;
	uint32_t on = 0;

	for (; p && !err; p = p->namesake) {
		on |= kind == KV_POLICY ? p->on : ~0u;
		for (uint32_t k = 0; !err && kv_provider_param(p, k, &param); k++)
			err = !key || kv_name_eq(param.name, key) ? fn(arg, &param) : KVMOD_OK;
	}
	/* As they are looked through when one is loaded: files of that name first. */
	for (int other = 0; other < 2; other++)
		for (size_t i = 0; i < c->n && !err; i++) {
			const struct kv_catalog_file *f = &c->files[i];

			if (f->info && kv_path_stem_is(f->path, name) == !other &&
			    kv_modinfo_says(f->info, kv_kind_name(kind), name) &&
			    runs_anew(f->info, kind, name, &on))
				err = each_param(f->info, name, key, fn, arg);
		}
	return err;
}
