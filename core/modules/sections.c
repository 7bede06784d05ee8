/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the sections of policies, engines and devices against their parameters, as
 * module files list them: a mistake shows when the configuration is read, even in the
 * section of a policy that is not in use. No module runs for this.
 */
#include "core/modules/catalog.h"

#include <string.h>

/* --- names ------------------------------------------------------------------------- */

/* For a name that must exist: of "policy = NAME", or of a section that -o sets. */
static int missing(const struct kv_catalog *c, const struct kv_entry *e, enum kv_kind kind,
		   const char *name)
{
	const struct kv_catalog_file *file = kv_catalog_refused(c, name);
	struct kv_nearest nearest;
	char hint[KV_HINT_ROOM], alias[KV_HINT_ROOM] = "", devices[256], installed[288] = "";

	if (file)
		return kv_place_fail(file->err, e, "%s", file->refused);
	if (!*e->name && !kv_name_eq(e->value, name))
		snprintf(alias, sizeof(alias), ", which the alias `%s` stands for", e->value);
	if (kv_usual_folder_has(c->config, kv_kind_name(kind), name))
		return kv_place_fail(KVMOD_ENOENT, e, "no %s `%s`%s (looked in %s" KV_USUAL_HINT,
				     kv_kind_name(kind), name, alias,
				     c->config->settings.module_path);
	kv_nearest_start(&nearest, name);
	kv_catalog_offer(c, kind, &nearest);
	if (kind == KV_DEVICE) {
		kv_catalog_devices(c, devices, sizeof(devices));
		snprintf(installed, sizeof(installed), " (installed: %s)", devices);
	}
	return kv_place_fail(KVMOD_ENOENT, e, "no %s `%s`%s%s%s", kv_kind_name(kind), name, alias,
			     kv_nearest_hint(&nearest, hint, sizeof(hint)), installed);
}

/*
 * A section in a file may be left over from a module that is gone, or be meant for a
 * module of another machine. The message is a warning if the section is a policy's or
 * looks like a typing mistake, else information.
 */
static void note_unused(const struct kv_catalog *c, const struct kv_entry *e, enum kv_kind kind)
{
	const struct kv_catalog_file *file = kv_catalog_refused(c, e->name);
	struct kv_nearest nearest;
	char hint[KV_HINT_ROOM];
	uint32_t level;

	kv_nearest_start(&nearest, e->name);
	kv_catalog_offer(c, kind, &nearest);
	level = kind == KV_POLICY || file || nearest.best[0] ? KVMOD_WARN : KVMOD_INFO;
	if (file)
		kv_log(c->ctx, level, "%s:%u: [%s %s] has no effect: %s", e->source->path, e->line,
		       e->kind, e->name, file->refused);
	else if (kv_usual_folder_has(c->config, e->kind, e->name))
		kv_log(c->ctx, level, "%s:%u: [%s %s] has no effect: no %s `%s` (looked in %s"
		       KV_USUAL_HINT, e->source->path, e->line, e->kind, e->name, e->kind, e->name,
		       c->config->settings.module_path);
	else
		kv_log(c->ctx, level, "%s:%u: no %s `%s` is installed: its section has no effect%s",
		       e->source->path, e->line, e->kind, e->name,
		       kv_nearest_hint(&nearest, hint, sizeof(hint)));
}

/* A section without keys sets nothing, and needs no message. */
static bool begins_section(const struct kv_config *config, const struct kv_entry *e)
{
	const struct kv_entry *next = e + 1;

	return !e->key && next < config->entries + config->n_entries && next->key &&
	       next->source == e->source;
}

static int check_missing(const struct kv_catalog *c, const struct kv_entry *e, enum kv_kind kind)
{
	struct kv_nearest nearest;

	if (begins_section(c->config, e))
		note_unused(c, e, kind);
	if (e->source->path)
		return KVMOD_OK;
	/* Parameters of an engine or device that is not installed may be set. */
	kv_nearest_start(&nearest, e->name);
	kv_catalog_offer(c, kind, &nearest);
	return kind == KV_POLICY || nearest.best[0] ? missing(c, e, kind, e->name) : KVMOD_OK;
}

/* --- keys --------------------------------------------------------------------------- */

struct key_check {
	const struct kv_entry *entry;
	struct kv_nearest nearest;
	bool known;
};

static int check_param(void *arg, const struct kvmod_param *param)
{
	struct key_check *check = arg;

	check->known = true;
	return kv_entry_check(check->entry, param);
}

static int offer_param(void *arg, const struct kvmod_param *param)
{
	kv_nearest_offer(&((struct key_check *)arg)->nearest, param->name);
	return KVMOD_OK;
}

/* A name may have several versions, each with its own parameters. */
static int check_key(const struct kv_catalog *c, const struct kv_entry *e, enum kv_kind kind)
{
	struct key_check check = { .entry = e };
	char hint[KV_HINT_ROOM];
	int err;

	err = kv_catalog_params(c, kind, e->name, e->key, check_param, &check);
	if (err || check.known)
		return err;
	kv_nearest_start(&check.nearest, e->key);
	err = kv_catalog_params(c, kind, e->name, NULL, offer_param, &check);
	if (err)
		return err;
	return kv_place_fail(KVMOD_EINVAL, e, "[%s %s] has no parameter `%s`%s", e->kind, e->name,
			     e->key, kv_nearest_hint(&check.nearest, hint, sizeof(hint)));
}

static bool kind_of(const char *text, enum kv_kind *kind)
{
	for (*kind = KV_POLICY; *kind <= KV_DEVICE; (*kind)++)
		if (strcmp(text, kv_kind_name(*kind)) == 0)
			return true;
	return false;
}

/* "[kvmod] policy = NAME" and the like need a name that exists. */
static int check_choice(const struct kv_catalog *c, const struct kv_entry *e)
{
	enum kv_kind kind;
	const char *name;

	if (strcmp(e->kind, "kvmod") != 0 || !e->key || !kind_of(e->key, &kind))
		return KVMOD_OK;
	/* An engine is looked up when it is opened: not every program opens one. */
	if (kind == KV_ENGINE || (kind == KV_DEVICE && (strcmp(e->value, "auto") == 0 ||
							strcmp(e->value, KV_CPU) == 0)))
		return KVMOD_OK;
	name = kv_config_alias(c->config, e->value);
	return kv_catalog_has(c, kind, name) ? KVMOD_OK : missing(c, e, kind, name);
}

static int check_entry(const struct kv_catalog *c, const struct kv_entry *e)
{
	enum kv_kind kind;

	if (!kv_entry_counts(c->config, e))
		return KVMOD_OK;
	if (!kind_of(e->kind, &kind))
		return check_choice(c, e);
	if (!kv_catalog_has(c, kind, e->name))
		return check_missing(c, e, kind);
	return e->key ? check_key(c, e, kind) : KVMOD_OK;
}

/* --- aliases -------------------------------------------------------------------------- */

static void note_hidden(const struct kv_catalog *c, const struct kv_entry *e, enum kv_kind kind)
{
	if (kv_name_eq(e->key, e->value) || !kv_catalog_has(c, kind, e->key))
		return;
	if (e->source->path)
		kv_log(c->ctx, KVMOD_WARN, "%s:%u: the alias `%s` hides the %s of that name",
		       e->source->path, e->line, e->key, kv_kind_name(kind));
	else
		kv_log(c->ctx, KVMOD_WARN, "-o alias.%s=%s: hides the %s of that name", e->key,
		       e->value, kv_kind_name(kind));
}

int kv_alias_check(const struct kv_catalog *c, const struct kv_entry *e, const char **module)
{
	struct kv_nearest nearest;
	char hint[KV_HINT_ROOM];

	kv_nearest_start(&nearest, e->value);
	for (enum kv_kind kind = KV_POLICY; kind <= KV_DEVICE; kind++)
		note_hidden(c, e, kind);
	for (enum kv_kind kind = KV_POLICY; kind <= KV_DEVICE; kind++) {
		*module = kv_catalog_file(c, kind, e->value);
		if (kv_catalog_has(c, kind, e->value))
			return KVMOD_OK;
		kv_catalog_offer(c, kind, &nearest);
	}
	return kv_place_fail(KVMOD_ENOENT, e, "no policy, engine or device `%s`%s", e->value,
			     kv_nearest_hint(&nearest, hint, sizeof(hint)));
}

int kv_sections_check(struct kvmod_ctx *ctx, const struct kv_config *config)
{
	struct kv_catalog c = { 0 };
	int err = config->n_entries ? kv_catalog_open(&c, ctx, config) : KVMOD_OK;

	for (size_t i = 0; i < config->n_entries && err == KVMOD_OK; i++)
		err = check_entry(&c, &config->entries[i]);
	kv_catalog_close(&c);
	return err;
}
