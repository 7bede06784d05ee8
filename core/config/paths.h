/* SPDX-License-Identifier: Apache-2.0 */
/* Where the configuration, module files and data are searched (paths.c). */
#ifndef KV_CORE_CONFIG_PATHS_H
#define KV_CORE_CONFIG_PATHS_H

#include "core/config/entries.h"

/* The build tree that this runs from, or NULL. */
const char *kv_build_tree(void);
/* The installed folder `dir`, below DESTDIR if this is a staged installation. */
char *kv_installed(struct kv_arena *arena, const char *dir);
/* Absolute: "~" expanded, else relative to dir (NULL: the data folders). */
char *kv_path_resolve(struct kv_arena *arena, const char *path, const char *dir);
/* The configuration file to read. KVMOD_OK with *path NULL: none exists. */
int kv_path_config(struct kv_arena *arena, const char *asked, const char **path);

/* After scandir() failed: KVMOD_OK if the folder counts as empty. */
int kv_path_unread(const char *dir);
/* The folders that are searched for modules, absolute. */
int kv_module_path(const struct kv_config *config, struct kv_arena *arena, struct kv_strings *out);
/* The files there that may be modules, in name order. */
int kv_module_files(const struct kv_config *config, struct kv_arena *arena,
		    struct kv_strings *out);
/* "/x/refreekv.so" is the file of "refreekv". */
bool kv_path_stem_is(const char *path, const char *name);

#endif
