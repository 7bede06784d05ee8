/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads the very file that was checked, whatever its path leads to by now: dlopen()
 * gets the name of the open descriptor in /proc.
 *
 * Afterwards the loaded file gets its path back, for dladdr() and debuggers. $ORIGIN
 * cannot be corrected afterwards: the dynamic loader derives it from the name that it
 * is given, while it searches for libraries. So a module that needs $ORIGIN is loaded
 * by its path, and so is any module where /proc is not mounted; a check then follows
 * that the loaded file is the checked one. Only users whom kv_trust() trusts could
 * have replaced it.
 *
 * A private copy would also be safe from a file that is overwritten in place, but
 * would share no memory with other processes, and debuggers and profilers would not
 * find its symbols. kvmod-module(7) says how to install over a module in use.
 */
#include "core/modules/modinfo.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "/proc/PID", up to 32 times "/.", "/fd/N" */
#define NAME_ROOM 128

/*
 * The dynamic loader remembers each name that a file was loaded by, so no name is used
 * twice: the number of the call is part of it, as a "/" or "/." for each bit. With the
 * process's number the name is valid for a debugger, too.
 */
static void name_descriptor(char *name, int fd)
{
	static atomic_uint n_calls;
	char *end = name + sprintf(name, "/proc/%ld", (long)getpid());

	for (unsigned n = atomic_fetch_add(&n_calls, 1); n > 0; n /= 2)
		end = stpcpy(end, n % 2 ? "/." : "/");
	sprintf(end, "/fd/%d", fd);
}

static bool leads_to(const char *name, const struct stat *st)
{
	struct stat there;

	return stat(name, &there) == 0 && there.st_dev == st->st_dev && there.st_ino == st->st_ino;
}

/* The dynamic loader will free the new name, as it would have freed its own. */
static int rename_map(void *handle, const char *name, const char *path)
{
	struct link_map *map;
	char *copy, *old;

	if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || strcmp(map->l_name, name) != 0)
		return KVMOD_OK;	/* it was loaded before, by another context */
	copy = strdup(path);
	if (!copy)
		return kv_no_memory();
	old = map->l_name;
	map->l_name = copy;
	free(old);
	return KVMOD_OK;
}

/* Fails with dlerror()'s words, without the name in /proc that they begin with. */
static int say_why(const char *name)
{
	const char *text = dlerror();
	size_t n = strlen(name);

	if (!text)
		return kv_no_memory();	/* not even for a message */
	if (strncmp(text, name, n) == 0 && strncmp(text + n, ": ", 2) == 0)
		text += n + 2;
	return kv_fail(KVMOD_EFORMAT, "%s", text);
}

static int open_by_path(const struct kvmod_modinfo *info, const char *name, bool named, void **handle)
{
	struct link_map *map;
	void *same = NULL;
	bool good;

	*handle = dlopen(info->path, RTLD_NOW | RTLD_LOCAL);
	if (!*handle)
		return say_why(info->path);
	/* Given another name, the dynamic loader finds the loaded file by device and inode. */
	if (named)
		same = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
	good = named ? same == *handle :
	       dlinfo(*handle, RTLD_DI_LINKMAP, &map) == 0 && leads_to(map->l_name, &info->st);
	if (same)
		dlclose(same);
	return good ? KVMOD_OK : kv_fail(KVMOD_EPERM, "another file replaced it while it was "
					 "being loaded");
}

int kv_dl_open(const struct kvmod_modinfo *info, void **handle)
{
	char name[NAME_ROOM];
	bool named;

	name_descriptor(name, info->fd);
	named = leads_to(name, &info->st);
	if (!named || info->needs_origin)
		return open_by_path(info, name, named, handle);
	*handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	return *handle ? rename_map(*handle, name, info->path) : say_why(name);
}
