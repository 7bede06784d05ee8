/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entries of a configuration: sections, keys, values, and the file and line of
 * each. A tree holds the newest entry of each key, so that a search is fast however
 * many entries there are.
 */
#include "core/config/entries.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

/* --- what a section may be called ----------------------------------------------- */

static const struct {
	const char *kind;
	bool named;			/* "[policy NAME]" */
} kinds[] = {
	{ "kvmod", false },
	{ "policy", true },
	{ "engine", true },
	{ "device", true },
	{ "alias", false },
	{ "blacklist", false },
};

#define N_KINDS (sizeof(kinds) / sizeof(*kinds))

static bool is_named_kind(const char *text, size_t n)
{
	for (size_t i = 0; i < N_KINDS; i++)
		if (kinds[i].named && strlen(kinds[i].kind) == n && memcmp(kinds[i].kind, text, n) == 0)
			return true;
	return false;
}

static int unknown_section(const char *section, const char *kind, const char *name)
{
	size_t n = strcspn(section, ".:/");
	struct kv_nearest nearest;

	if (section[n] && is_named_kind(section, n))
		return kv_fail(KVMOD_EINVAL, "unknown section [%s]; did you mean `%.*s %s`?", section,
			       (int)n, section, section + n + 1);
	kv_nearest_start(&nearest, kind);
	for (size_t i = 0; i < N_KINDS; i++)
		kv_nearest_offer(&nearest, kinds[i].kind);
	if (!nearest.best[0])
		return kv_fail(KVMOD_ENOENT, "unknown section [%s]", section);
	return kv_fail(KVMOD_EINVAL, "unknown section [%s]; did you mean `%s%s%s`?", section,
		       nearest.best, *name ? " " : "", name);
}

/* "snapkv": the name of a policy, engine or device, without the word before it? */
static int suggest_section(const struct kv_config *config, const char *section)
{
	struct kv_nearest nearest;
	const char *kind = NULL;

	kv_nearest_start(&nearest, section);
	if (kv_name_valid(section) && config->find_near)
		kind = config->find_near(config, &nearest);
	if (!kind)
		return kv_fail(KVMOD_EINVAL, "unknown section [%s]", section);
	return kv_fail(KVMOD_EINVAL, "unknown section [%s]; did you mean `%s %s`?", section, kind,
		       nearest.best);
}

static int check_section_name(const char *section, const char *kind, const char *name, bool named)
{
	if (!named && *name)
		return kv_fail(KVMOD_EINVAL, "section [%s]: expected [%s]", section, kind);
	if (named && !*name)
		return kv_fail(KVMOD_EINVAL, "section [%s] names no %s: expected [%s NAME]",
			       section, kind, kind);
	if (named && !kv_name_valid(name))
		return kv_fail(KVMOD_EINVAL, "section [%s]: expected a name of letters, digits, - and _",
			       section);
	return KVMOD_OK;
}

/* "policy refreekv" -> kind "policy", name "refreekv" */
int kv_section_split(struct kv_arena *arena, const char *section, const char **kind,
		     const char **name)
{
	size_t n = strcspn(section, " \t");

	*kind = kv_arena_strndup(arena, section, n);
	*name = kv_arena_strdup(arena, section + n + strspn(section + n, " \t"));
	if (!*kind || !*name)
		return KVMOD_ENOMEM;
	for (size_t i = 0; i < N_KINDS; i++)
		if (strcmp(*kind, kinds[i].kind) == 0)
			return check_section_name(section, *kind, *name, kinds[i].named);
	return unknown_section(section, *kind, *name);
}

/* --- entries --------------------------------------------------------------------------- */

/* A key that is set, and the last of its entries. */
struct newest {
	const char *kind, *name, *key;
	size_t entry;
};

static int compare(const void *a_, const void *b_)
{
	const struct newest *a = a_, *b = b_;
	int order = kv_name_cmp(a->key, b->key);

	if (order == 0)
		order = kv_name_cmp(a->name, b->name);
	return order ? order : strcmp(a->kind, b->kind);
}

const struct kv_entry *kv_config_find(const struct kv_config *config, const char *kind,
				      const char *name, const char *key)
{
	const struct newest wanted = { .kind = kind, .name = name, .key = key };
	struct newest **found = config ? tfind(&wanted, &config->newest, compare) : NULL;

	return found ? &config->entries[(*found)->entry] : NULL;
}

static int note_newest(struct kv_config *config, size_t i)
{
	const struct kv_entry *e = &config->entries[i];
	struct newest *new = kv_arena_alloc(&config->arena, sizeof(*new)), **found;

	if (!new)
		return KVMOD_ENOMEM;
	*new = (struct newest){ .kind = e->kind, .name = e->name, .key = e->key };
	found = tsearch(new, &config->newest, compare);
	if (!found)
		return kv_no_memory();
	(*found)->entry = i;
	return KVMOD_OK;
}

static void keep_it(void *newest)
{
	(void)newest;			/* the arena's */
}

void kv_config_forget_newest(struct kv_config *config)
{
	tdestroy(config->newest, keep_it);
	config->newest = NULL;
}

int kv_config_renamed(struct kv_config *config)
{
	int err = KVMOD_OK;

	kv_config_forget_newest(config);
	for (size_t i = 0; i < config->n_entries && err == KVMOD_OK; i++)
		if (config->entries[i].key)
			err = note_newest(config, i);
	return err;
}

static int check_new(const struct kv_config *config, const struct kv_entry *new)
{
	const struct kv_entry *old;

	if (new->key[0] == '\0')
		return kv_fail(KVMOD_EINVAL, "expected a key before the `=`");
	if (!new->source->path)		/* -o: the last one counts */
		return KVMOD_OK;
	old = kv_config_find(config, new->kind, new->name, new->key);
	if (!old || old->source != new->source)
		return KVMOD_OK;
	return kv_fail(KVMOD_EINVAL, "[%s%s%s] %s is set a second time; first on line %u",
		       new->kind, *new->name ? " " : "", new->name, new->key, old->line);
}

static int append(struct kv_config *config, const struct kv_entry *entry)
{
	if (config->n_entries == config->room) {
		size_t room = config->room ? 2 * config->room : 64;
		struct kv_entry *entries = reallocarray(config->entries, room, sizeof(*entries));

		if (!entries)
			return kv_no_memory();
		config->entries = entries;
		config->room = room;
	}
	config->entries[config->n_entries++] = *entry;
	return entry->key ? note_newest(config, config->n_entries - 1) : KVMOD_OK;
}

int kv_config_add(struct kv_config *config, const struct kv_source *source, unsigned line,
		  const char *section, const char *key, const char *value)
{
	struct kv_entry entry = { .source = source, .line = line };
	int err;

	if (key && !*section)
		return kv_fail(KVMOD_EINVAL, "`%s` stands before any [section]", key);
	err = kv_section_split(&config->arena, section, &entry.kind, &entry.name);
	if (err == KVMOD_ENOENT)
		err = suggest_section(config, section);
	if (err || !key)
		return err ? err : append(config, &entry);
	entry.key = kv_arena_strdup(&config->arena, key);
	entry.value = kv_arena_strdup(&config->arena, value);
	if (!entry.key || !entry.value)
		return KVMOD_ENOMEM;
	err = check_new(config, &entry);
	return err ? err : append(config, &entry);
}

bool kv_entry_counts(const struct kv_config *config, const struct kv_entry *entry)
{
	return !entry->key ||
	       kv_config_find(config, entry->kind, entry->name, entry->key) == entry;
}

const char *kv_config_alias(const struct kv_config *config, const char *name)
{
	const struct kv_entry *entry = kv_config_find(config, "alias", "", name);

	return entry ? entry->value : name;
}

/* Allocates nothing, so NULL means "not set" and nothing else. */
const char *kv_config_value(const struct kv_config *config, const char *section, const char *key)
{
	size_t n = strcspn(section, " \t");
	const char *name = section + n + strspn(section + n, " \t");
	const struct kv_entry *entry = NULL;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds) && !entry; i++)
		if (strlen(kinds[i].kind) == n && memcmp(kinds[i].kind, section, n) == 0)
			entry = kv_config_find(config, kinds[i].kind, kv_config_alias(config, name), key);
	return entry ? entry->value : NULL;
}

/* --- where it stands ---------------------------------------------------------------------- */

static int place_fail(int code, const struct kv_entry *e, bool with_value, const char *reason)
{
	const char *blank = *e->name ? " " : "";

	if (!e->source->path)
		return kv_fail(code, "-o %s%s%s.%s=%s: %s", e->kind, blank, e->name, e->key,
			       e->value, reason);
	if (!with_value)
		return kv_fail(code, "%s:%u: %s", e->source->path, e->line, reason);
	return kv_fail(code, "%s:%u: [%s%s%s] %s = %s: %s", e->source->path, e->line, e->kind,
		       blank, e->name, e->key, e->value, reason);
}

int kv_entry_fail(int code, const struct kv_entry *entry, const char *format, ...)
{
	char reason[512];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	return place_fail(code, entry, true, reason);
}

int kv_place_fail(int code, const struct kv_entry *entry, const char *format, ...)
{
	char reason[512];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	return place_fail(code, entry, false, reason);
}
