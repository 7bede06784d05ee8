/* SPDX-License-Identifier: Apache-2.0 */
/* Finds files in the build tree or the installed folders, never in the working folder. */
#include "core/config/paths.h"
#include "core/dirs.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- where this runs from --------------------------------------------------------- */

static struct {
	char build[PATH_MAX];		/* the build tree's top, or "" */
	char stage[PATH_MAX];		/* DESTDIR of a staged installation, or "" */
} home;

/* The folder of a file, without links; "" if there is none. */
static void folder_of(const char *file, char *folder)
{
	char *slash;

	if (!file || !realpath(file, folder))
		folder[0] = '\0';
	slash = strrchr(folder, '/');
	if (slash)
		*slash = '\0';
}

static bool has(const char *folder, const char *name)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", folder, name);

	return n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0;
}

static bool strip_suffix(char *folder, const char *end)
{
	size_t n = strlen(folder), m = strlen(end);

	if (n < m || strcmp(folder + n - m, end) != 0)
		return false;
	folder[n - m] = '\0';
	return true;
}

/* libtool links into .libs; programs of tests lie one folder deeper. */
static bool find_build_tree(const char *folder)
{
	char *top = home.build;

	strcpy(top, folder);
	strip_suffix(top, "/.libs");
	for (int up = 0; up < 2 && *top; up++) {
		if (has(top, "config.status") && has(top, "libkvmod.la"))
			return true;
		*strrchr(top, '/') = '\0';
	}
	top[0] = '\0';
	return false;
}

static void find_home(void)
{
	char library[PATH_MAX], program[PATH_MAX];
	Dl_info info;

	folder_of(dladdr(&home, &info) ? info.dli_fname : NULL, library);
	folder_of("/proc/self/exe", program);
	if (find_build_tree(library) || find_build_tree(program))
		return;
	if (strip_suffix(library, KVMOD_LIB_DIR))
		strcpy(home.stage, library);
}

static void find_home_once(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find_home);
}

const char *kv_build_tree(void)
{
	find_home_once();
	return home.build[0] ? home.build : NULL;
}

char *kv_installed(struct kv_arena *arena, const char *dir)
{
	find_home_once();
	return kv_arena_printf(arena, "%s%s", home.stage, dir);
}

/* --- one path ---------------------------------------------------------------------------- */

/* The home of the user; a set-uid program ignores the environment. *found NULL: none. */
static int home_dir(struct kv_arena *arena, const char **found)
{
	const char *dir = secure_getenv("HOME");
	struct passwd entry, *user = NULL;
	char text[16384];
	int err = 0;

	*found = NULL;
	if (!dir || *dir != '/') {
		err = getpwuid_r(geteuid(), &entry, text, sizeof(text), &user);
		dir = user ? user->pw_dir : NULL;
	}
	if (err == ENOMEM)
		return kv_no_memory();
	if (!dir)
		return KVMOD_OK;
	*found = kv_arena_strdup(arena, dir);
	return *found ? KVMOD_OK : KVMOD_ENOMEM;
}

static char *below_cwd(struct kv_arena *arena, const char *path)
{
	char cwd[PATH_MAX];

	if (!getcwd(cwd, sizeof(cwd))) {
		kv_fail(KVMOD_EIO, "working folder: %s", strerror(errno));
		return NULL;
	}
	return kv_arena_printf(arena, "%s/%s", cwd, path);
}

/* Below the build tree, or below the data folder if only that has it. */
static char *below_data(struct kv_arena *arena, const char *path)
{
	const char *build = kv_build_tree();
	char *data = kv_installed(arena, KVMOD_DATA_DIR);
	char *here = build ? kv_arena_printf(arena, "%s/%s", build, path) : NULL;
	char *there = data ? kv_arena_printf(arena, "%s/%s", data, path) : NULL;

	if (!there || (build && !here))
		return NULL;
	if (here && access(here, F_OK) != 0 && access(there, F_OK) == 0)
		return there;
	return here ? here : there;
}

char *kv_path_resolve(struct kv_arena *arena, const char *path, const char *dir)
{
	const char *user;
	char *joined;

	if (path[0] == '/')
		return kv_arena_strdup(arena, path);
	if (path[0] == '~' && (path[1] == '/' || path[1] == '\0')) {
		if (home_dir(arena, &user))
			return NULL;
		if (!user) {
			kv_fail(KVMOD_ENOENT, "%s: this user has no home folder", path);
			return NULL;
		}
		return kv_arena_printf(arena, "%s%s", user, path + 1);
	}
	if (!dir)
		return below_data(arena, path);
	if (strcmp(dir, "./") == 0)
		return below_cwd(arena, path);
	joined = kv_arena_printf(arena, "%s%s", dir, path);
	return !joined || *joined == '/' ? joined : below_cwd(arena, joined);
}

int kvmod_data_path(struct kvmod_ctx *ctx, const char *name, char **path)
{
	struct kv_arena arena = { NULL };
	char *found = kv_path_resolve(&arena, name, NULL);

	(void)ctx;
	*path = found ? strdup(found) : NULL;
	kv_arena_free(&arena);
	if (found && !*path)
		return kv_no_memory();
	return found ? KVMOD_OK : KVMOD_ENOMEM;
}

/* --- the configuration ----------------------------------------------------------------------- */

static int must_exist(const char *path, const char *who)
{
	if (access(path, F_OK) == 0)
		return KVMOD_OK;
	return kv_fail(errno == ENOENT || errno == ENOTDIR ? KVMOD_ENOENT : KVMOD_EIO,
		       "%s%s: %s", who, path, strerror(errno));
}

/* *path NULL: the user has no folder for it. */
static int user_config(struct kv_arena *arena, const char **path)
{
	const char *base = secure_getenv("XDG_CONFIG_HOME"), *user;
	int err = home_dir(arena, &user);

	*path = NULL;
	if (err)
		return err;
	if (base && *base == '/')
		*path = kv_arena_printf(arena, "%s/kvmod/kvmod.conf", base);
	else if (user)
		*path = kv_arena_printf(arena, "%s/.config/kvmod/kvmod.conf", user);
	else
		return KVMOD_OK;
	return *path ? KVMOD_OK : KVMOD_ENOMEM;
}

int kv_path_config(struct kv_arena *arena, const char *asked, const char **path)
{
	const char *from_env = secure_getenv("KVMOD_CONF");
	const char *build = kv_build_tree();
	const char *candidates[3];
	size_t n;

	*path = NULL;
	if (user_config(arena, &candidates[0]))
		return KVMOD_ENOMEM;
	n = candidates[0] ? 1 : 0;
	if (asked || (from_env && *from_env)) {
		*path = kv_arena_strdup(arena, asked ? asked : from_env);
		return *path ? must_exist(*path, asked ? "" : "KVMOD_CONF=") : KVMOD_ENOMEM;
	}
	candidates[n] = kv_installed(arena, KVMOD_CONF_DIR "/kvmod.conf");
	if (!candidates[n++])
		return KVMOD_ENOMEM;
	if (build) {
		candidates[n] = kv_arena_printf(arena, "%s/conf/kvmod.conf", build);
		if (!candidates[n++])
			return KVMOD_ENOMEM;
	}
	for (size_t i = 0; i < n && !*path; i++)
		if (access(candidates[i], F_OK) == 0)
			*path = candidates[i];
	return KVMOD_OK;
}

/* --- modules -------------------------------------------------------------------------------------- */

static int add_default_folder(struct kv_arena *arena, struct kv_strings *out)
{
	const char *build = kv_build_tree();
	char *dir = build ? kv_arena_printf(arena, "%s/.libs", build) :
			    kv_installed(arena, KVMOD_MODULE_DIR);

	return dir ? kv_strings_add(arena, out, dir) : KVMOD_ENOMEM;
}

static int add_folder(const struct kv_entry *entry, const char *part, struct kv_arena *arena,
		      struct kv_strings *out)
{
	char *dir = kv_path_resolve(arena, part, entry->source->dir);

	if (!dir)
		return KVMOD_ENOMEM;
	if (access(dir, R_OK | X_OK) != 0)
		return kv_entry_fail(KVMOD_ENOENT, entry, "%s: %s", dir, strerror(errno));
	return kv_strings_add(arena, out, dir);
}

/* "DIR:DIR"; an empty part stands for the default. */
int kv_module_path(const struct kv_config *config, struct kv_arena *arena, struct kv_strings *out)
{
	const struct kv_entry *entry = kv_config_find(config, "kvmod", "", "module_path");
	const char *rest = entry ? entry->value : "";
	int err = KVMOD_OK;

	for (;;) {
		size_t n = strcspn(rest, ":");
		char *part = kv_arena_strndup(arena, rest, n);

		if (!part)
			return KVMOD_ENOMEM;
		err = n ? add_folder(entry, part, arena, out) : add_default_folder(arena, out);
		if (err || rest[n] == '\0')
			return err;
		rest += n + 1;
	}
}

/* In the build tree, libkvmod itself lies beside the modules. */
static int is_module(const struct dirent *entry)
{
	const char *name = entry->d_name;
	size_t n = strlen(name);

	return name[0] != '.' && n > 3 && strcmp(name + n - 3, ".so") == 0 &&
	       strncmp(name, "libkvmod", 8) != 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* A folder that does not exist, or may not be read, counts as empty. */
int kv_path_unread(const char *dir)
{
	if (errno == ENOENT || errno == ENOTDIR || errno == EACCES)
		return KVMOD_OK;
	if (errno == ENOMEM)
		return kv_no_memory();
	return kv_fail(KVMOD_EIO, "%s: %s", dir, strerror(errno));
}

static int add_files(struct kv_arena *arena, const char *dir, struct kv_strings *out)
{
	struct dirent **entries;
	int n = scandir(dir, &entries, is_module, by_name);
	int err = n < 0 ? kv_path_unread(dir) : KVMOD_OK;

	for (int i = 0; i < n; i++) {
		char *path = NULL;

		if (err == KVMOD_OK)
			path = kv_arena_printf(arena, "%s/%s", dir, entries[i]->d_name);
		if (path)
			err = kv_strings_add(arena, out, path);
		else if (err == KVMOD_OK)
			err = KVMOD_ENOMEM;
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return err;
}

int kv_module_files(const struct kv_config *config, struct kv_arena *arena,
		    struct kv_strings *out)
{
	struct kv_strings dirs = { 0 };
	int err = kv_module_path(config, arena, &dirs);

	for (size_t i = 0; i < dirs.n && err == KVMOD_OK; i++)
		err = add_files(arena, dirs.item[i], out);
	return err;
}

/* "/x/refreekv.so" -> "refreekv" */
bool kv_path_stem_is(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/');
	char stem[64];
	size_t n;

	path = slash ? slash + 1 : path;
	n = strlen(path) - strlen(".so");
	if (n >= sizeof(stem))
		return false;
	memcpy(stem, path, n);
	stem[n] = '\0';
	return kv_name_eq(stem, name);
}
