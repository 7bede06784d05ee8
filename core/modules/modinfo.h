/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Module files, read and checked without running them (modinfo.c, elffile.c, needed.c,
 * trust.c, dlfile.c).
 */
#ifndef KV_CORE_MODULES_MODINFO_H
#define KV_CORE_MODULES_MODINFO_H

#include "core/config/values.h"

#include <sys/stat.h>

struct kv_fact {
	const char *key, *value;
};

struct kv_param_fact {
	const char *owner;
	struct kvmod_param param;	/* offset 0 */
};

struct kvmod_modinfo {
	struct kv_arena arena;
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

/* As kvmod_modinfo_read(); `config` says whose files are trusted. Keeps fd open. */
int kv_modinfo_open(const struct kv_config *config, const char *path,
		    struct kvmod_modinfo **info);
/* Is kind=name among its facts? kind: "policy", "engine", "device", "name". */
bool kv_modinfo_says(const struct kvmod_modinfo *info, const char *kind, const char *name);
/*
 * The i-th parameter of an owner, as a table has it (offset 0; the strings are
 * info's own). False past the last one.
 */
bool kv_modinfo_param(const struct kvmod_modinfo *info, const char *owner, unsigned i,
		      struct kvmod_param *param);
/* The owner's parameter of that name; NULL: it has none. */
const struct kvmod_param *kv_modinfo_find_param(const struct kvmod_modinfo *info,
						const char *owner, const char *name);

/* How many parameters it lists for an owner. */
unsigned kv_modinfo_n_params(const struct kvmod_modinfo *info, const char *owner);

/* Where it says that the policy runs: names of devices, or KV_ANY_DEVICE. */
const char *kv_modinfo_devices(const struct kvmod_modinfo *info, const char *policy);

/*
 * Loads the file that info->fd refers to, whatever its path leads to by now. *handle is
 * set, and must be closed, even after an error that says that another file was loaded.
 */
int kv_dl_open(const struct kvmod_modinfo *info, void **handle);

/* Checks the ELF file info->fd, its section by kv_facts_read(), its descriptor. */
int kv_elf_read(struct kvmod_modinfo *info);
/*
 * After reading ELF failed with err: it is the file's fault unless libelf had no
 * memory. Returns the code.
 */
int kv_elf_failed(int err);
/* Takes the facts of a section of `size` bytes; cuts up the text. */
int kv_facts_read(struct kvmod_modinfo *info, char *text, size_t size);
int kv_abi_check(uint32_t major, uint32_t minor);

/* May this file and its folders be trusted? path must contain no links. */
int kv_trust(const struct kv_config *config, const char *path, const struct stat *st);
/*
 * The same for a path that the dynamic loader will follow, links and all, and for the
 * file or folder at its end. *there: does that exist? If not, nobody else may be able
 * to create it.
 */
int kv_trust_walk(const struct kv_config *config, const char *path, bool *there);
/*
 * May the libraries be trusted that the dynamic loader will take for info->fd?
 * Sets info->needs_origin.
 */
int kv_needed_check(const struct kv_config *config, struct kvmod_modinfo *info);

#endif
