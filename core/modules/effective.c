/* SPDX-License-Identifier: Apache-2.0 */
/* Lists the configuration in force: each value, and where it comes from. */
#include "core/config/paths.h"
#include "core/modules/catalog.h"

#include <string.h>

struct walk {
	struct kv_catalog catalog;
	struct kv_arena *arena;		/* the catalog's */
	kvmod_setting_fn *fn;
	void *arg;
	const char *kind, *name;	/* of the section */
	struct kv_strings keys;		/* shown so far of the section */
};

static uint32_t origin_of(const struct kv_config *config, const struct kv_entry *e)
{
	if (!e)
		return KVMOD_FROM_DEFAULT;
	if (!e->source->path)
		return KVMOD_FROM_OVERRIDE;
	return strcmp(e->source->path, config->path) == 0 ? KVMOD_FROM_FILE : KVMOD_FROM_DROP_IN;
}

static int show(struct walk *w, const char *key, const char *value, const struct kv_entry *e)
{
	const char *section = *w->name ? kv_arena_printf(w->arena, "%s %s", w->kind, w->name) :
			      w->kind;
	const struct kvmod_setting setting = {
		.size = sizeof(setting), .from = origin_of(w->catalog.config, e),
		.section = section, .key = key, .value = value,
		.file = e ? e->source->path : NULL, .line = e ? e->line : 0,
	};

	return section ? w->fn(w->arg, &setting) : KVMOD_ENOMEM;
}

/* "DIR:DIR", with the usual folder in place of an empty part. */
static int show_module_path(struct walk *w, const struct kv_entry *e)
{
	struct kv_strings dirs = { 0 };
	const char *text = "";
	int err = kv_module_path(w->catalog.config, w->arena, &dirs);

	for (size_t i = 0; i < dirs.n && text; i++)
		text = kv_arena_printf(w->arena, "%s%s%s", text, i ? ":" : "", dirs.item[i]);
	if (err == KVMOD_OK && !text)
		err = KVMOD_ENOMEM;
	return err ? err : show(w, "module_path", text, e);
}

/* A path is shown as it is resolved. */
static int show_param(void *arg, const struct kvmod_param *param)
{
	struct walk *w = arg;
	const struct kv_entry *e = kv_config_find(w->catalog.config, w->kind, w->name, param->name);
	const char *value = e ? e->value : param->def;

	/* Several versions of a policy share parameters: each is shown once. */
	for (size_t i = 0; i < w->keys.n; i++)
		if (kv_name_eq(w->keys.item[i], param->name))
			return KVMOD_OK;
	if (kv_strings_add(w->arena, &w->keys, param->name))
		return KVMOD_ENOMEM;
	if (param->type == KVMOD_PARAM_PATH && *value)
		value = kv_path_resolve(w->arena, value, e ? e->source->dir : NULL);
	if (!value)
		return KVMOD_ENOMEM;
	return param->offset == offsetof(struct kv_settings, module_path) && !*w->name ?
	       show_module_path(w, e) : show(w, param->name, value, e);
}

static int show_general(struct walk *w)
{
	uint32_t n;
	const struct kvmod_param *settings = kv_settings(&n);
	int err = KVMOD_OK;

	w->kind = "kvmod";
	w->name = "";
	for (uint32_t i = 0; i < n && !err; i++)
		err = show_param(w, &settings[i]);
	return err;
}

static int show_section(struct walk *w, enum kv_kind kind, const char *name)
{
	w->kind = kv_kind_name(kind);
	w->name = name;
	w->keys.n = 0;
	return kv_catalog_params(&w->catalog, kind, name, NULL, show_param, w);
}

/* Shows what has a section or is in use, if it exists. */
static int show_sections(struct walk *w, enum kv_kind kind)
{
	const struct kv_config *config = w->catalog.config;
	const char *used = kv_in_use(config, kind);
	struct kv_strings names = { 0 };
	int err = KVMOD_OK;

	for (size_t i = 0; i <= config->n_entries && !err; i++) {
		const struct kv_entry *e = i < config->n_entries ? &config->entries[i] : NULL;
		const char *name = e && !strcmp(e->kind, kv_kind_name(kind)) ? e->name : NULL;
		size_t k = 0;

		if (!e)
			name = used;
		if (!name || !kv_catalog_has(&w->catalog, kind, name))
			continue;
		while (k < names.n && !kv_name_eq(names.item[k], name))
			k++;
		if (k < names.n)
			continue;
		err = kv_strings_add(w->arena, &names, name);
		if (!err)
			err = show_section(w, kind, name);
	}
	return err;
}

/* [alias] and [blacklist], whose keys are names. */
static int show_names(struct walk *w, const char *kind)
{
	const struct kv_config *config = w->catalog.config;
	int err = KVMOD_OK;

	w->kind = kind;
	w->name = "";
	for (size_t i = 0; i < config->n_entries && !err; i++) {
		const struct kv_entry *e = &config->entries[i];

		if (e->key && !strcmp(e->kind, kind) && kv_entry_counts(config, e))
			err = show(w, e->key, e->value, e);
	}
	return err;
}

static int show_all(struct walk *w)
{
	int err = show_general(w);

	for (enum kv_kind kind = KV_POLICY; kind <= KV_DEVICE && !err; kind++)
		err = show_sections(w, kind);
	if (!err)
		err = show_names(w, "alias");
	return err ? err : show_names(w, "blacklist");
}

int kvmod_settings_each(struct kvmod_ctx *ctx, kvmod_setting_fn *fn, void *arg)
{
	struct walk w = { .fn = fn, .arg = arg };
	int err = KVMOD_OK;

	pthread_mutex_lock(&ctx->lock);
	if (ctx->config)
		err = kv_catalog_open(&w.catalog, ctx, ctx->config);
	w.arena = &w.catalog.arena;
	if (ctx->config && err == KVMOD_OK)
		err = show_all(&w);
	kv_catalog_close(&w.catalog);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}
