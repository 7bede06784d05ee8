/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sections of policies, engines and devices against what these say of their
 * parameters: a mistake shows when the configuration is read, even in the section
 * of a policy that is not in use. No module runs for it.
 */
#include "core/parts.h"

#include <string.h>

/* A module file, or why it is refused. */
struct file {
	const char *path;
	struct kvmod_modinfo *info;
	const char *refused;
	int err;
};

struct catalog {
	struct kvmod_ctx *ctx;
	const struct kv_config *config;
	struct kv_pile pile;
	struct file *files;
	size_t n;
};

static int open_catalog(struct catalog *c)
{
	struct kv_strings paths = { 0 };
	int err = kv_module_files(c->config, &c->pile, &paths);

	if (err)
		return err;
	c->files = kv_pile_alloc(&c->pile, (paths.n + 1) * sizeof(*c->files));
	if (!c->files)
		return KVMOD_ENOMEM;
	for (c->n = 0; c->n < paths.n; c->n++) {
		struct file *f = &c->files[c->n];

		f->path = paths.item[c->n];
		f->err = kv_modinfo_open(c->config, f->path, &f->info);
		if (f->err == KVMOD_ENOMEM)
			return f->err;
		if (f->err)
			f->refused = kv_pile_strdup(&c->pile, kvmod_error());
		if (f->err && !f->refused)
			return KVMOD_ENOMEM;
	}
	return KVMOD_OK;
}

static void close_catalog(struct catalog *c)
{
	for (size_t i = 0; i < c->n; i++)
		kvmod_modinfo_free(c->files[i].info);
	kv_pile_free(&c->pile);
}

static bool exists(const struct catalog *c, enum kv_kind kind, const char *name)
{
	if (kv_provider_find(c->ctx, kind, name, 0))
		return true;
	for (size_t i = 0; i < c->n; i++)
		if (c->files[i].info && kv_modinfo_says(c->files[i].info, kv_kind_name(kind), name))
			return true;
	return false;
}

/* --- names ------------------------------------------------------------------------- */

static void offer_all(const struct catalog *c, enum kv_kind kind, struct kv_nearest *nearest)
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

/*
 * Nobody provides it. An engine or a device may just not be installed, so that
 * is an error only if the name looks like a slip of the pen.
 */
static int missing(const struct catalog *c, const struct kv_entry *e, enum kv_kind kind,
		   const char *name, bool needed)
{
	struct kv_nearest nearest;
	char hint[KV_HINT_ROOM];

	for (size_t i = 0; i < c->n; i++)
		if (c->files[i].refused && kv_path_stem_is(c->files[i].path, name))
			return kv_place_fail(c->files[i].err, e, "%s", c->files[i].refused);
	kv_nearest_start(&nearest, name);
	offer_all(c, kind, &nearest);
	if (needed || nearest.best[0])
		return kv_place_fail(KVMOD_ENOENT, e, "no %s `%s`%s", kv_kind_name(kind), name,
				     kv_nearest_hint(&nearest, hint, sizeof(hint)));
	if (!e->key)
		kv_log(c->ctx, KVMOD_INFO, "%s:%u: no %s `%s` is installed: its section is not checked",
		       e->source->path, e->line, kv_kind_name(kind), name);
	return KVMOD_OK;
}

/* --- keys --------------------------------------------------------------------------- */

static int no_parameter(const struct catalog *c, const struct kv_entry *e, enum kv_kind kind)
{
	const struct kv_provider *p = kv_provider_find(c->ctx, kind, e->name, 0);
	struct kv_nearest nearest;
	struct kvmod_param param;
	char hint[KV_HINT_ROOM];

	kv_nearest_start(&nearest, e->key);
	for (; p; p = p->namesake)
		for (uint32_t k = 0; kv_provider_param(p, k, &param); k++)
			kv_nearest_offer(&nearest, param.name);
	for (size_t i = 0; i < c->n; i++)
		for (unsigned k = 0; c->files[i].info &&
		     kv_modinfo_param(c->files[i].info, e->name, k, &param); k++)
			kv_nearest_offer(&nearest, param.name);
	return kv_place_fail(KVMOD_EINVAL, e, "[%s %s] has no parameter `%s`%s", e->kind, e->name,
			     e->key, kv_nearest_hint(&nearest, hint, sizeof(hint)));
}

/* A name may have several implementations, and each its own parameters. */
static int check_key(const struct catalog *c, const struct kv_entry *e, enum kv_kind kind)
{
	const struct kv_provider *p = kv_provider_find(c->ctx, kind, e->name, 0);
	const struct kvmod_param *said;
	struct kvmod_param param;
	int err = KVMOD_OK;
	bool known = false;

	for (; p && !err; p = p->namesake) {
		for (uint32_t k = 0; kv_provider_param(p, k, &param) && !err; k++) {
			if (!kv_name_eq(param.name, e->key))
				continue;
			known = true;
			err = kv_entry_check(e, &param);
		}
	}
	for (size_t i = 0; i < c->n && !err; i++) {
		said = c->files[i].info ? kv_modinfo_find_param(c->files[i].info, e->name, e->key) : NULL;
		known = known || said;
		err = said ? kv_entry_check(e, said) : KVMOD_OK;
	}
	return err || known ? err : no_parameter(c, e, kind);
}

static bool kind_of(const char *text, enum kv_kind *kind)
{
	for (*kind = KV_POLICY; *kind <= KV_DEVICE; (*kind)++)
		if (strcmp(text, kv_kind_name(*kind)) == 0)
			return true;
	return false;
}

/* "[kvmod] policy = NAME" and the like name something that must be there. */
static int check_choice(const struct catalog *c, const struct kv_entry *e)
{
	enum kv_kind kind;
	const char *name;

	if (strcmp(e->kind, "kvmod") != 0 || !e->key || !kind_of(e->key, &kind))
		return KVMOD_OK;
	/* An engine is looked for when it is opened: not every program does. */
	if (kind == KV_ENGINE || (kind == KV_DEVICE && (strcmp(e->value, "auto") == 0 ||
							strcmp(e->value, "cpu") == 0)))
		return KVMOD_OK;
	name = kv_config_alias(c->config, e->value);
	return exists(c, kind, name) ? KVMOD_OK : missing(c, e, kind, name, true);
}

static int check_entry(const struct catalog *c, const struct kv_entry *e)
{
	enum kv_kind kind;

	if (!kind_of(e->kind, &kind))
		return check_choice(c, e);
	if (!exists(c, kind, e->name))
		return missing(c, e, kind, e->name, kind == KV_POLICY);
	return e->key ? check_key(c, e, kind) : KVMOD_OK;
}

int kv_sections_check(struct kvmod_ctx *ctx, const struct kv_config *config)
{
	struct catalog c = { .ctx = ctx, .config = config };
	int err = config->n_entries ? open_catalog(&c) : KVMOD_OK;

	for (size_t i = 0; i < config->n_entries && err == KVMOD_OK; i++)
		err = check_entry(&c, &config->entries[i]);
	close_catalog(&c);
	return err;
}
