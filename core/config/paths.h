/* SPDX-License-Identifier: Apache-2.0 */
/* Where things are looked for: the configuration, module files, data (paths.c). */
#ifndef KVMOD_CONFIG_PATHS_H
#define KVMOD_CONFIG_PATHS_H

#include "core/config/entries.h"

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
/* The folders that modules are looked for in, absolute. */
int kv_module_path(const struct kv_config *config, struct kv_pile *pile, struct kv_strings *out);
/* The files there that may be modules, in name order. */
int kv_module_files(const struct kv_config *config, struct kv_pile *pile,
		    struct kv_strings *out);
/* "/x/refreekv.so" is the file of "refreekv". */
bool kv_path_stem_is(const char *path, const char *name);

#endif
