/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the loader, the configuration and the registry share. The files that
 * only open and use what was loaded need internal.h alone.
 */
#ifndef KVMOD_PARTS_H
#define KVMOD_PARTS_H

#include "core/internal.h"
#include "core/names.h"

#include <stdio.h>
#include <sys/stat.h>

/* --- memory that goes together (pile.c) -------------------------------------- */

/* Allocations that are freed all at once. Zeroed, a pile is empty. */
struct kv_pile {
	struct kv_chunk *chunks;
};

/* Zeroed bytes, or NULL after kv_fail(). */
void *kv_pile_alloc(struct kv_pile *pile, size_t size);
char *kv_pile_strdup(struct kv_pile *pile, const char *text);
char *kv_pile_strndup(struct kv_pile *pile, const char *text, size_t n);
char *kv_pile_printf(struct kv_pile *pile, const char *format, ...) KV_PRINTF(2, 3);
void kv_pile_free(struct kv_pile *pile);

int kv_no_memory(void);			/* KVMOD_ENOMEM, said in words */

struct kv_strings {
	const char **item;
	size_t n, room;
};

/* --- configuration (ini.c, entries.c, config.c) ------------------------------------------- */

/* A file that was read, or the command line: path is NULL then. */
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
	int32_t log_level;		/* above KVMOD_ERROR */
	const char *module_path;
	const char *policy, *engine;
	int32_t device;			/* auto, cpu, cuda: from 0 */
	const char *allow_owner;
};

struct kv_config {
	struct kvmod_ctx *ctx;
	struct kv_config *older;	/* kept: strings of it were handed out */
	struct kv_pile pile;
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
 * Splits a section's name, "policy refreekv", or says what is wrong with it;
 * KVMOD_ENOENT: it is like none that there is.
 */
int kv_section_split(struct kv_pile *pile, const char *section, const char **kind,
		     const char **name);
/* Appends an entry, which must not be there; key NULL: the section's own line. */
int kv_config_add(struct kv_config *config, const struct kv_source *source, unsigned line,
		  const char *section, const char *key, const char *value);

/* The parameters of [kvmod], fields of struct kv_settings. */
const struct kvmod_param *kv_settings(uint32_t *n);

/* Reads files and overrides and checks all of it; the context stays as it is. */
int kv_config_read(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		   size_t n_overrides, struct kv_config **out);
/* Makes it the context's; the one before is kept behind it. */
void kv_config_install(struct kvmod_ctx *ctx, struct kv_config *config);
void kv_config_free(struct kv_config *config);

/* Call it after entries got other names. */
int kv_config_renamed(struct kv_config *config);
void kv_config_forget_newest(struct kv_config *config);
/* The entry that counts: the last one. NULL: not set. config may be NULL. */
const struct kv_entry *kv_config_find(const struct kv_config *config, const char *kind,
				      const char *name, const char *key);
/* Does it count, or is the same key set again later? */
bool kv_entry_counts(const struct kv_config *config, const struct kv_entry *entry);
/* What [alias] says of the name, or the name. */
const char *kv_config_alias(const struct kv_config *config, const char *name);
/* The value that counts; section "policy refreekv". NULL: not set. */
const char *kv_config_value(const struct kv_config *config, const char *section, const char *key);

/* "FILE:12: [policy refreekv] threshold = 1.5: " and so on; returns code. */
int kv_entry_fail(int code, const struct kv_entry *entry, const char *format, ...)
	KV_PRINTF(3, 4);
/* The same without key and value: "FILE:12: ". */
int kv_place_fail(int code, const struct kv_entry *entry, const char *format, ...)
	KV_PRINTF(3, 4);

/* --- parameters (param.c, params.c) --------------------------------------------- */

/* A parameter's value from text into its field; pile owns what it points to. */
int kv_param_parse(const struct kvmod_param *param, const char *text, const char *dir,
		   struct kv_pile *pile, void *field);
/* Are its name, type and range sound? */
int kv_param_check(const struct kvmod_param *param);
size_t kv_param_size(uint32_t type);	/* of the field; 0: no such type */
size_t kv_param_align(uint32_t type);
uint32_t kv_param_type(const char *name, size_t length);	/* 0: no such type */

/* Fills the fields of base from a section; what it does not say gets the default. */
int kv_params_fill(const struct kv_config *config, const char *kind, const char *name,
		   const struct kvmod_param *params, uint32_t n, struct kv_pile *pile, void *base);
/* Is the entry's value one for this parameter? */
int kv_entry_check(const struct kv_entry *entry, const struct kvmod_param *param);

/* --- paths (paths.c) --------------------------------------------------------------- */

/* The build tree that this runs from, or NULL. */
const char *kv_build_tree(void);
/* The installed folder `dir`, below the DESTDIR that this was staged in, if it was. */
char *kv_installed(struct kv_pile *pile, const char *dir);
/* Absolute: "~" expanded, else relative to dir (NULL: the data folders). */
char *kv_path_resolve(struct kv_pile *pile, const char *path, const char *dir);
/* The configuration to read. KVMOD_OK with *path NULL: there is none. */
int kv_path_config(struct kv_pile *pile, const char *asked, const char **path);

/* After scandir() failed: KVMOD_OK where that is as good as an empty folder. */
int kv_path_unread(const char *dir);
int kv_strings_add(struct kv_pile *pile, struct kv_strings *list, const char *text);
/* The folders that modules are looked for in, absolute. */
int kv_module_path(const struct kv_config *config, struct kv_pile *pile, struct kv_strings *out);
/* The files there that may be modules, in name order. */
int kv_module_files(const struct kv_config *config, struct kv_pile *pile,
		    struct kv_strings *out);
/*
 * Does a module of the usual folder have it (key: "policy", ..., "name"), where
 * module_path leaves that folder out? What to say then comes behind the folders.
 */
bool kv_usual_folder_has(const struct kv_config *config, const char *key, const char *name);
#define KV_USUAL_HINT "): the usual folder has it; end module_path with a `:` to look there too"
/* "/x/refreekv.so" is the file of "refreekv". */
bool kv_path_stem_is(const char *path, const char *name);

/* --- module files (modinfo.c, elffile.c, needed.c, trust.c, dlfile.c) ------------------------------------------------ */

struct kv_fact {
	const char *key, *value;
};

struct kv_param_fact {
	const char *owner;
	struct kvmod_param param;	/* offset 0 */
};

struct kvmod_modinfo {
	struct kv_pile pile;
	const char *path;		/* without symbolic links */
	int fd;				/* the file that was checked; -1 once it is closed */
	struct stat st;
	struct kv_fact *facts;		/* by key */
	size_t n_facts;
	struct kv_param_fact *params;	/* by owner and name */
	unsigned n_params;
	uint32_t flags;			/* of the descriptor */
	bool needs_origin;		/* its libraries are found relative to its own folder */
};

/* As kvmod_modinfo_read(), with `config` saying whose files pass; keeps fd open. */
int kv_modinfo_open(const struct kv_config *config, const char *path,
		    struct kvmod_modinfo **info);
/* Does it say kind=name? kind: "policy", "engine", "device", "name". */
bool kv_modinfo_says(const struct kvmod_modinfo *info, const char *kind, const char *name);
/*
 * Its i-th parameter of an owner, as a table has it (offset 0; strings are
 * info's own). False past the last one.
 */
bool kv_modinfo_param(const struct kvmod_modinfo *info, const char *owner, unsigned i,
		      struct kvmod_param *param);
/* The owner's parameter of that name; NULL: it has none. */
const struct kvmod_param *kv_modinfo_find_param(const struct kvmod_modinfo *info,
						const char *owner, const char *name);

/* Where it says that the policy runs: KVMOD_ON_... */
uint32_t kv_modinfo_on(const struct kvmod_modinfo *info, const char *policy);

/*
 * Loads the very file that info->fd is, under its own name. *handle is set, to be
 * closed, even where what was loaded is not that file.
 */
int kv_dl_open(const struct kvmod_modinfo *info, void **handle);

/* Checks the ELF file info->fd, its section by kv_facts_read(), its descriptor. */
int kv_elf_read(struct kvmod_modinfo *info);
/*
 * After reading ELF failed with err: it is the file's fault unless libelf had no
 * memory. Returns the code.
 */
int kv_elf_failed(int err);
/* Takes what the section says, of `size` bytes; text is cut up. */
int kv_facts_read(struct kvmod_modinfo *info, char *text, size_t size);
int kv_abi_check(uint32_t major, uint32_t minor);

/* Are those whom allow_owner names users? */
int kv_owners_check(const struct kv_entry *entry);
/* May this file and its folders be trusted? path must be without links. */
int kv_trust(const struct kv_config *config, const char *path, const struct stat *st);
/*
 * The same of a path that others will follow, links and all, and of what it leads
 * to, a file or a folder. *there: is it there? Where it is not, nobody else may
 * be able to put it there.
 */
int kv_trust_walk(const struct kv_config *config, const char *path, bool *there);
/*
 * May the libraries be trusted that the dynamic loader will take for info->fd?
 * Sets info->needs_origin.
 */
int kv_needed_check(const struct kv_config *config, struct kvmod_modinfo *info);

/* --- modules (loader.c, host.c) ---------------------------------------------------------- */

/* A descriptor as the first ABI had it. */
#define KV_LEAST_DESCRIPTOR (offsetof(struct kvmod_module, exit) + sizeof(void *))

struct kv_module {
	struct kv_module *next;
	struct kvmod_ctx *ctx;
	struct kvmod_module desc;	/* zero-extended */
	struct kvmod_host host;
	const char *path;		/* NULL: linked in */
	void *handle;
	dev_t dev;
	ino_t ino;
	const struct kvmod_modinfo *info;	/* while init() runs; NULL: linked in */
	bool in_init, in_exit;
	struct kv_held *held;		/* devices that host->device() opened for it */
	struct kv_pile pile;
};

void kv_host_fill(struct kv_module *module);
/* Loads a file that was checked, if it is not; frees info. The lock is held. */
int kv_load_info(struct kvmod_ctx *ctx, struct kvmod_modinfo *info);
struct kv_module *kv_module_find(struct kvmod_ctx *ctx, const char *name);
/* Loads by name or absolute path; the lock is held. */
int kv_load(struct kvmod_ctx *ctx, const char *name_or_path);
void kv_unload_all(struct kvmod_ctx *ctx);
/* Makes lock and threads anew in a forked child. */
int kv_context_after_fork(struct kvmod_ctx *ctx);

/* --- registry (registry.c, provider.c, sections.c) ------------------------------------------------------ */

const char *kv_kind_name(enum kv_kind kind);	/* "policy", ... */
/* Checks an ops table and adds it; module NULL: the core's own. The lock is held. */
int kv_register(struct kvmod_ctx *ctx, struct kv_module *module, enum kv_kind kind,
		const void *ops);
/* Takes back what the module registered. The lock is held. */
void kv_unregister(struct kvmod_ctx *ctx, const struct kv_module *module);
bool kv_registered_busy(const struct kvmod_ctx *ctx, const struct kv_module *module);
struct kv_provider *kv_provider_find(const struct kvmod_ctx *ctx, enum kv_kind kind,
				     const char *name, uint32_t on);
const struct kvmod_param *kv_provider_params(const struct kv_provider *provider, uint32_t *n);
/* The i-th; false past the last. */
bool kv_provider_param(const struct kv_provider *provider, uint32_t i, struct kvmod_param *param);

/* --- what there is to choose from (catalog.c, sections.c); the lock is held ------------------ */

/* A module file, or why it is refused. */
struct kv_catalog_file {
	const char *path;
	struct kvmod_modinfo *info;	/* NULL: it is refused */
	const char *refused;
	int err;
};

/* What is registered, and the files of a configuration's module path, read once. */
struct kv_catalog {
	struct kvmod_ctx *ctx;
	const struct kv_config *config;
	struct kv_pile pile;
	struct kv_catalog_file *files;
	size_t n;
};

int kv_catalog_open(struct kv_catalog *c, struct kvmod_ctx *ctx, const struct kv_config *config);
void kv_catalog_close(struct kv_catalog *c);	/* nothing to do where that is all zeros */
bool kv_catalog_has(const struct kv_catalog *c, enum kv_kind kind, const char *name);
/* The file of the module that has it, or is called so; NULL: none, or it is built in. */
const char *kv_catalog_file(const struct kv_catalog *c, enum kv_kind kind, const char *name);
/* Offers all names of that kind. */
void kv_catalog_offer(const struct kv_catalog *c, enum kv_kind kind, struct kv_nearest *nearest);
/* The refused file that is called so; NULL: none. */
const struct kv_catalog_file *kv_catalog_refused(const struct kv_catalog *c, const char *name);
/* What keeps every module that has it from being loaded; NULL: nothing does. */
const struct kv_entry *kv_catalog_blacklisted(const struct kv_catalog *c, enum kv_kind kind,
					      const char *name);
/*
 * Calls fn for each parameter of that name, once for every implementation, until
 * it returns something other than 0, which is the answer.
 */
int kv_catalog_params(const struct kv_catalog *c, enum kv_kind kind, const char *name,
		      const char *key, int (*fn)(void *arg, const struct kvmod_param *param), void *arg);
/* Does it stand for anything? *module: the file of that, or NULL. Warns where it hides another. */
int kv_alias_check(const struct kv_catalog *c, const struct kv_entry *alias, const char **module);
/* Checks the sections of policies, engines and devices without running anything. */
int kv_sections_check(struct kvmod_ctx *ctx, const struct kv_config *config);

/* As kv_provider_get(), but the context is not held. The lock is. */
int kv_provider_take(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name, uint32_t on,
		     struct kv_provider **out);

extern const struct kvmod_policy_ops kv_fullkv_ops;

/* --- devices (device.c); the lock is held for all of these ----------------------------------- */

/* As kvmod_device_open() and kvmod_device_close(), but the context is not held. */
int kv_device_take(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out);
void kv_device_drop(struct kvmod_device *device);
/* The module's own, opened the first time that it asks. */
int kv_module_device(struct kv_module *module, const char *name, struct kvmod_device **out);
void kv_module_drop_devices(struct kv_module *module);
/* Is one open other than the host's own? */
bool kv_accelerator_is_open(const struct kvmod_ctx *ctx);
/* Is the device open, and for nobody but this module? */
bool kv_device_is_own(const struct kv_module *module, const struct kv_provider *provider);

extern const struct kvmod_device_ops kv_cpu_device_ops;

/* --- trying things out (check.c, trial.c, probe.c) ----------------------------------------------- */

/* Says what comes next. */
typedef void kv_step_fn(void *arg, const char *what);

/* Tries what the configuration names, which was read already. */
int kv_check_config(struct kvmod_ctx *ctx, struct kv_config *config, uint32_t limit_ms,
		    kvmod_finding_fn *fn, void *arg);
/* What [kvmod] names, or its default; NULL: no device other than the host's. */
const char *kv_in_use(const struct kv_config *config, enum kv_kind kind);
bool kv_is_in_use(const struct kv_config *config, enum kv_kind kind, const char *name);
/*
 * Loads what the context's configuration names, and uses it once. An engine that is
 * in use is tried with the policy in use, unless that is known to fail.
 */
int kv_try(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name, bool policy_failed,
	   kv_step_fn *step, void *arg);
/*
 * Opens the policy on a made-up model, where kvmod_policy_open() would with this
 * device, and runs one request.
 */
int kv_probe_policy(struct kvmod_ctx *ctx, const char *name, const char *device,
		    kv_step_fn *step, void *arg);
/*
 * Goes the way of a session up to the first prompt, but for the weights: the
 * engine, the policy (NULL: none) for its model, and what the policy needs of it.
 */
int kv_probe_engine(struct kvmod_ctx *ctx, const char *name, const char *policy,
		    kv_step_fn *step, void *arg);

/* --- threads (pool.c) -------------------------------------------------------------------------- */

struct kv_pool *kv_pool_new(void);
void kv_pool_free(struct kv_pool *pool);
void kv_pool_set_threads(struct kv_pool *pool, uint32_t n);	/* 0: one per processor */
uint32_t kv_n_processors(void);		/* that this process may use */

#endif
