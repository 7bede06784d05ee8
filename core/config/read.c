/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the configuration: file, drop-ins and overrides, and checks the result as a whole. */
#include "core/config/paths.h"
#include "core/config/values.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kvmod_param *find_setting(const char *name, struct kv_nearest *nearest);

/* --- overrides and drop-ins ------------------------------------------------------------------ */

/* "threads=4" lacks its section; a key of [kvmod] gets a hint. */
static int no_override(const char *text)
{
	struct kv_nearest nearest;
	char key[KV_HINT_ROOM];

	snprintf(key, sizeof(key), "%.*s", (int)strcspn(text, "="), text);
	if (text[strlen(key)] == '=' && find_setting(key, &nearest))
		return kv_fail(KVMOD_EINVAL, "-o %s: expected SECTION.KEY=VALUE; did you mean `kvmod.%s`?",
			       text, text);
	return kv_fail(KVMOD_EINVAL, "-o %s: expected SECTION.KEY=VALUE", text);
}

/* "SECTION.KEY=VALUE", split at the last dot before the first "=". */
static int split_override(struct kv_arena *arena, const char *text, const char **section,
			  const char **key, const char **value)
{
	const char *equal = strchr(text, '='), *dot = equal;

	while (dot && dot > text && *dot != '.')
		dot--;
	if (!equal || *dot != '.' || dot == text || dot + 1 == equal)
		return no_override(text);
	*section = kv_arena_strndup(arena, text, (size_t)(dot - text));
	*key = kv_arena_strndup(arena, dot + 1, (size_t)(equal - dot - 1));
	*value = equal + 1;
	return *section && *key ? KVMOD_OK : KVMOD_ENOMEM;
}

static int add_override(struct kv_config *config, const struct kv_source *source, const char *text)
{
	const char *section = NULL, *key = NULL, *value = NULL;
	int err = split_override(&config->arena, text, &section, &key, &value);

	if (err)
		return err;
	err = kv_config_add(config, source, 0, section, key, value);
	return err ? kv_fail_in(err, "-o %s", text) : err;
}

static int add_overrides(struct kv_config *config, const char *const *overrides, size_t n)
{
	struct kv_source *source = kv_arena_alloc(&config->arena, sizeof(*source));
	int err = source ? KVMOD_OK : KVMOD_ENOMEM;

	config->overrides = kv_arena_alloc(&config->arena, (n + 1) * sizeof(*config->overrides));
	if (err || !config->overrides)
		return KVMOD_ENOMEM;
	source->dir = "./";
	for (size_t i = 0; i < n && err == KVMOD_OK; i++) {
		config->overrides[i] = kv_arena_strdup(&config->arena, overrides[i]);
		if (!config->overrides[i])
			return KVMOD_ENOMEM;
		config->n_overrides++;
		err = add_override(config, source, overrides[i]);
	}
	return err;
}

static int is_drop_in(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name);

	return entry->d_name[0] != '.' && n > 5 && strcmp(entry->d_name + n - 5, ".conf") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* FILE.d/ *.conf, in name order; the folder need not exist. */
static int read_drop_ins(struct kv_config *config)
{
	char *dir = kv_arena_printf(&config->arena, "%s.d", config->path);
	struct dirent **entries;
	int n, err = KVMOD_OK;

	if (!dir)
		return KVMOD_ENOMEM;
	n = scandir(dir, &entries, is_drop_in, by_name);
	if (n < 0)
		err = kv_path_unread(dir);
	for (int i = 0; i < n; i++) {
		char *path = NULL;

		if (err == KVMOD_OK)
			path = kv_arena_printf(&config->arena, "%s/%s", dir, entries[i]->d_name);
		if (err == KVMOD_OK)
			err = path ? kv_strings_add(&config->arena, &config->drop_ins, path) :
				     KVMOD_ENOMEM;
		if (err == KVMOD_OK)
			err = kv_ini_read(config, path);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return err;
}

/* --- [kvmod] ------------------------------------------------------------------------------------ */

/* Tokens: shorter sequences gain nothing from a cut, and lose answers. */
#define LEAVE_BELOW 256

#define SETTING(field, kind, def_, range_) \
	{ #field, KVMOD_PARAM_##kind, offsetof(struct kv_settings, field), def_, range_, "" }

static const struct kvmod_param settings[] = {
	SETTING(module_path, STRING, "", ""),
	SETTING(policy, STRING, "fullkv", ""),
	SETTING(engine, STRING, "ggml", ""),
	SETTING(device, STRING, "auto", ""),
	SETTING(threads, INT, "0", "0..1024"),
	SETTING(leave_below, INT, KVMOD_STR(LEAVE_BELOW), "0.."),
	SETTING(store, CHOICE, "same", KVMOD_STORES),
	SETTING(log_level, CHOICE, "note", "error|warning|note|info|debug"),
	SETTING(allow_owner, STRING, "", ""),
};
#define N_SETTINGS ((uint32_t)(sizeof(settings) / sizeof(*settings)))

const struct kvmod_param *kv_settings(uint32_t *n)
{
	*n = N_SETTINGS;
	return settings;
}

static const struct kvmod_param *find_setting(const char *name, struct kv_nearest *nearest)
{
	kv_nearest_start(nearest, name);
	for (uint32_t i = 0; i < N_SETTINGS; i++) {
		if (kv_name_eq(settings[i].name, name))
			return &settings[i];
		kv_nearest_offer(nearest, settings[i].name);
	}
	return NULL;
}

static int check_setting(const struct kv_entry *entry)
{
	struct kv_nearest nearest;
	const struct kvmod_param *setting = find_setting(entry->key, &nearest);
	char hint[KV_HINT_ROOM];

	if (setting)
		return kv_entry_check(entry, setting);
	return kv_place_fail(KVMOD_EINVAL, entry, "[kvmod] has no setting `%s`%s", entry->key,
			     kv_nearest_hint(&nearest, hint, sizeof(hint)));
}

static int check_entry(const struct kv_entry *entry)
{
	if (strcmp(entry->kind, "alias") == 0 &&
	    !(kv_name_valid(entry->key) && kv_name_valid(entry->value)))
		return kv_entry_fail(KVMOD_EINVAL, entry, "expected NAME = NAME");
	if (strcmp(entry->kind, "blacklist") == 0 && !(kv_name_valid(entry->key) && *entry->value))
		return kv_entry_fail(KVMOD_EINVAL, entry, "expected MODULE = the reason");
	if (strcmp(entry->kind, "kvmod") == 0 && kv_name_eq(entry->key, "allow_owner"))
		return kv_owners_check(entry);
	return strcmp(entry->kind, "kvmod") == 0 ? check_setting(entry) : KVMOD_OK;
}

/*
 * The section of an alias is the section of its target. An entry that a later one
 * overrides is not checked: it may be the very mistake that a drop-in corrects.
 */
static int settle_entries(struct kv_config *config)
{
	int err = KVMOD_OK;

	for (size_t i = 0; i < config->n_entries; i++)
		if (*config->entries[i].name)
			config->entries[i].name = kv_config_alias(config, config->entries[i].name);
	for (size_t i = 0; i < config->n_entries && err == KVMOD_OK; i++) {
		const struct kv_entry *e = &config->entries[i];

		if (!*e->name && e->key && kv_entry_counts(config, e))
			err = check_entry(e);
	}
	return err ? err : kv_config_renamed(config);
}

/* --- all of it ------------------------------------------------------------------------------------ */

static int read_all(struct kv_config *config, const char *path, const char *const *overrides,
		    size_t n_overrides)
{
	int err = kv_path_config(&config->arena, path, &config->path);

	if (err == KVMOD_OK && path) {
		config->asked_path = kv_path_resolve(&config->arena, path, "./");
		err = config->asked_path ? KVMOD_OK : KVMOD_ENOMEM;
	}
	if (err == KVMOD_OK && config->path)
		err = kv_ini_read(config, config->path);
	if (err == KVMOD_OK && config->path)
		err = read_drop_ins(config);
	if (err == KVMOD_OK)
		err = add_overrides(config, overrides, n_overrides);
	if (err == KVMOD_OK)
		err = settle_entries(config);
	if (err == KVMOD_OK)
		err = kv_params_fill(config, "kvmod", "", settings, N_SETTINGS, &config->arena,
				     &config->settings);
	return err;
}

int kv_config_read(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		   size_t n_overrides, kv_find_near *find_near, struct kv_config **out)
{
	struct kv_config *config = calloc(1, sizeof(*config));
	int err;

	if (!config)
		return kv_no_memory();
	config->ctx = ctx;
	config->find_near = find_near;
	err = read_all(config, path, overrides, n_overrides);
	if (err)
		kv_config_free(config);
	else
		*out = config;
	return err;
}

void kv_config_free(struct kv_config *config)
{
	while (config) {
		struct kv_config *older = config->older;

		kv_config_forget_newest(config);
		kv_arena_free(&config->arena);
		free(config->entries);
		free(config);
		config = older;
	}
}

/* More threads than processors only wait for each other. One message, not one a reload. */
static void set_threads(struct kvmod_ctx *ctx, const struct kv_config *config)
{
	uint32_t asked = (uint32_t)config->settings.threads, most = kv_n_processors();

	if (asked > most && !(config->older && config->older->settings.threads == asked))
		kv_log(ctx, KVMOD_NOTE, "[kvmod] threads = %u, but this process may use %u processors: "
		       "using %u threads", asked, most, most);
	kv_threads_set(ctx->threads, asked < most ? asked : most);
}

void kv_config_install(struct kvmod_ctx *ctx, struct kv_config *config)
{
	config->older = ctx->config;
	ctx->config = config;
	ctx->log_level = kv_config_find(config, "kvmod", "", "log_level") ?
			 KVMOD_ERROR + (uint32_t)config->settings.log_level : ctx->usual_level;
	set_threads(ctx, config);
}

uint64_t kv_leave_below(struct kvmod_ctx *ctx)
{
	uint64_t n;

	pthread_mutex_lock(&ctx->lock);
	n = ctx->config ? (uint64_t)ctx->config->settings.leave_below : LEAVE_BELOW;
	pthread_mutex_unlock(&ctx->lock);
	return n;
}

int32_t kv_store(struct kvmod_ctx *ctx)
{
	int32_t store;

	pthread_mutex_lock(&ctx->lock);
	store = ctx->config ? ctx->config->settings.store : KVMOD_STORES_SAME;
	pthread_mutex_unlock(&ctx->lock);
	return store;
}

const char *kvmod_config_path(struct kvmod_ctx *ctx)
{
	const char *path;

	pthread_mutex_lock(&ctx->lock);
	path = ctx->config ? ctx->config->path : NULL;
	pthread_mutex_unlock(&ctx->lock);
	return path;
}

const char *kvmod_config_get(struct kvmod_ctx *ctx, const char *section, const char *key)
{
	const char *value;

	pthread_mutex_lock(&ctx->lock);
	value = kv_config_value(ctx->config, section, key);
	pthread_mutex_unlock(&ctx->lock);
	return value;
}

/* --- what is in use ------------------------------------------------------------------ */

const char *kv_in_use(const struct kv_config *config, enum kv_kind kind)
{
	const char *name = config->settings.engine;

	if (kind == KV_POLICY)
		name = config->settings.policy;
	else if (kind == KV_DEVICE)
		name = config->settings.device;
	/* The host's own device is always there. */
	if (kind == KV_DEVICE && (kv_name_eq(name, "auto") || kv_name_eq(name, KV_CPU)))
		return NULL;
	return kv_config_alias(config, name);
}

bool kv_is_in_use(const struct kv_config *config, enum kv_kind kind, const char *name)
{
	const char *used = kv_in_use(config, kind);

	return used && kv_name_eq(name, used);
}
