/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: keys, values, and the file and line of each (entries.c, ini.c, read.c). */
#ifndef KV_CORE_CONFIG_ENTRIES_H
#define KV_CORE_CONFIG_ENTRIES_H

#include "core/base/context.h"
#include "core/base/names.h"

#include <sys/types.h>

/* A file that was read; path NULL: the command line. */
struct kv_source {
	const char *path;
	const char *dir;		/* what relative paths are relative to */
};

/* A key of a section; key NULL: the section's own line. */
struct kv_entry {
	const char *kind;		/* "kvmod", "policy", "engine", "device", ... */
	const char *name;		/* of the policy, engine or device; else "" */
	const char *key, *value;
	const struct kv_source *source;
	unsigned line;
};

struct kv_settings {
	int64_t threads;
	int64_t leave_below;		/* tokens */
	int32_t store;			/* KVMOD_STORES_...: of plans that do not choose */
	int32_t log_level;		/* above KVMOD_ERROR */
	const char *module_path;
	const char *policy, *engine;
	const char *device;		/* "auto", or a device's name */
	const char *allow_owner;
};

struct kv_config;

/*
 * Finds the name of a policy, engine or device near to nearest->wanted, and returns
 * which of these it is; NULL: none is near.
 */
typedef const char *kv_find_near(const struct kv_config *config, struct kv_nearest *nearest);

struct kv_config {
	struct kvmod_ctx *ctx;
	kv_find_near *find_near;
	struct kv_config *older;	/* kept: strings of it were handed out */
	struct kv_arena arena;
	const char *path;		/* NULL: no file */
	struct kv_strings drop_ins;	/* that were read, in that order */
	const char *asked_path;		/* as kvmod_configure() was told; absolute */
	const char **overrides;
	size_t n_overrides;
	struct kv_entry *entries;
	size_t n_entries, room;
	void *newest;			/* the entries that count (entries.c) */
	struct kv_settings settings;
};

/* Appends what the file says. */
int kv_ini_read(struct kv_config *config, const char *path);
/*
 * Splits the name of a section, "policy refreekv". KVMOD_ENOENT: it resembles no known
 * section; other errors: it is wrong.
 */
int kv_section_split(struct kv_arena *arena, const char *section, const char **kind,
		     const char **name);
/* Appends an entry, an error if its file already has it; key NULL: the section's own line. */
int kv_config_add(struct kv_config *config, const struct kv_source *source, unsigned line,
		  const char *section, const char *key, const char *value);

/* The parameters of [kvmod], fields of struct kv_settings. */
const struct kvmod_param *kv_settings(uint32_t *n);

/*
 * Reads files and overrides, and checks all that can be checked without knowing what
 * modules there are; the context stays as it is. find_near serves hints; it may be NULL.
 */
int kv_config_read(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		   size_t n_overrides, kv_find_near *find_near, struct kv_config **out);
/* Makes it the context's; the one before is kept behind it. */
void kv_config_install(struct kvmod_ctx *ctx, struct kv_config *config);
void kv_config_free(struct kv_config *config);

/* To be called after entries were renamed. */
int kv_config_renamed(struct kv_config *config);
void kv_config_forget_newest(struct kv_config *config);
/* The entry that counts: the last one. NULL: not set. config may be NULL. */
const struct kv_entry *kv_config_find(const struct kv_config *config, const char *kind,
				      const char *name, const char *key);
/* Does the entry count? Not if the same key is set again later. */
bool kv_entry_counts(const struct kv_config *config, const struct kv_entry *entry);
/* What the alias of that name stands for, or the name itself. */
const char *kv_config_alias(const struct kv_config *config, const char *name);
/* The value that counts; section "policy refreekv". NULL: not set. */
const char *kv_config_value(const struct kv_config *config, const char *section, const char *key);

/* "FILE:12: [policy refreekv] threshold = 1.5: " and so on; returns code. */
int kv_entry_fail(int code, const struct kv_entry *entry, const char *format, ...)
	KV_PRINTF(3, 4);
/* The same without key and value: "FILE:12: ". */
int kv_place_fail(int code, const struct kv_entry *entry, const char *format, ...)
	KV_PRINTF(3, 4);

/* Is each name in allow_owner a user? */
int kv_owners_check(const struct kv_entry *entry);
/* Does allow_owner name that user? config may be NULL. */
bool kv_owner_allowed(const struct kv_config *config, uid_t uid);

/* The value of [kvmod] leave_below. */
uint64_t kv_leave_below(struct kvmod_ctx *ctx);
/* That of [kvmod] store, KVMOD_STORES_... */
int32_t kv_store(struct kvmod_ctx *ctx);

/* The policy, engine or device that [kvmod] names, or the default; NULL: the device is auto or cpu. */
const char *kv_in_use(const struct kv_config *config, enum kv_kind kind);
bool kv_is_in_use(const struct kv_config *config, enum kv_kind kind, const char *name);

#endif
