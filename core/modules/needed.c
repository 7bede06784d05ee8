/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the libraries that a module needs. The dynamic loader searches the run paths
 * of the module and of its libraries, and runs what it finds, so those folders must be
 * as trustworthy as the module's own. LD_LIBRARY_PATH is the user's own choice, and the
 * system's folders belong to root: neither is checked.
 */
#include "core/config/paths.h"
#include "core/modules/elffile.h"
#include "core/modules/modinfo.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define MAX_OBJECTS	256
#define MAX_DYNAMIC	(1u << 20)	/* bytes of a dynamic section */
#define MAX_STRINGS	(64u << 20)

/* A file whose libraries are checked. */
struct object {
	const struct object *loader;	/* what needs it; NULL: the module itself */
	const char *origin;		/* its folder */
	const char *rpath, *runpath;	/* as in the file; NULL: none */
	struct kv_strings needed;
	struct kv_strings folders;	/* of runpath, else of rpath, expanded */
};

struct needs {
	const struct kv_config *config;
	struct kvmod_modinfo *info;
	struct kv_strings seen;		/* paths of objects */
};

/* --- the needs of a file ----------------------------------------------------- */

static Elf_Data *dynamic_section(Elf *elf)
{
	GElf_Phdr p;
	size_t n = 0;

	elf_getphdrnum(elf, &n);
	for (size_t i = 0; i < n; i++)
		if (gelf_getphdr(elf, (int)i, &p) && p.p_type == PT_DYNAMIC)
			return p.p_filesz > MAX_DYNAMIC ? NULL :
			       elf_getdata_rawchunk(elf, (off_t)p.p_offset, p.p_filesz, ELF_T_DYN);
	return NULL;
}

/* The i-th entry; false at the end. */
static bool dynamic_entry(Elf_Data *dynamic, int i, GElf_Dyn *entry)
{
	return gelf_getdyn(dynamic, i, entry) && entry->d_tag != DT_NULL;
}

/* The strings that the section's entries refer to, with a zero at the end. */
static Elf_Data *dynamic_strings(Elf *elf, Elf_Data *dynamic)
{
	uint64_t address = 0, size = 0, offset;
	Elf_Data *data;
	GElf_Dyn entry;

	for (int i = 0; dynamic_entry(dynamic, i, &entry); i++) {
		if (entry.d_tag == DT_STRTAB)
			address = entry.d_un.d_ptr;
		else if (entry.d_tag == DT_STRSZ)
			size = entry.d_un.d_val;
	}
	if (size == 0 || size > MAX_STRINGS || !kv_elf_offset(elf, address, size, &offset))
		return NULL;
	data = elf_getdata_rawchunk(elf, (off_t)offset, size, ELF_T_BYTE);
	return data && ((const char *)data->d_buf)[size - 1] == '\0' ? data : NULL;
}

static int take_entry(struct needs *s, struct object *o, const GElf_Dyn *entry,
		      const Elf_Data *strings)
{
	char *text;

	switch (entry->d_tag) {
	case DT_NEEDED:
	case DT_RPATH:
	case DT_RUNPATH:
	case DT_AUXILIARY:
	case DT_FILTER:
		break;
	default:
		return KVMOD_OK;
	}
	if (entry->d_un.d_val >= strings->d_size)
		return kv_fail(KVMOD_EFORMAT, "its dynamic section is invalid");
	text = kv_arena_strdup(&s->info->arena, (const char *)strings->d_buf + entry->d_un.d_val);
	if (!text)
		return KVMOD_ENOMEM;
	if (strstr(text, "$ORIGIN") || strstr(text, "${ORIGIN}"))
		s->info->needs_origin = s->info->needs_origin || !o->loader;
	if (entry->d_tag == DT_RPATH)
		o->rpath = text;
	else if (entry->d_tag == DT_RUNPATH)
		o->runpath = text;
	else
		return kv_strings_add(&s->info->arena, &o->needed, text);
	return KVMOD_OK;
}

static int read_needs(struct needs *s, struct object *o, Elf *elf)
{
	Elf_Data *dynamic = dynamic_section(elf), *strings;
	int err = KVMOD_OK;
	GElf_Dyn entry;

	if (!dynamic)
		return kv_fail(KVMOD_EFORMAT, "its dynamic section is missing or unreadable");
	strings = dynamic_strings(elf, dynamic);
	if (!strings)
		return kv_fail(KVMOD_EFORMAT, "the strings of its dynamic section are unreadable");
	for (int i = 0; err == KVMOD_OK && dynamic_entry(dynamic, i, &entry); i++)
		err = take_entry(s, o, &entry, strings);
	return err;
}

/* --- run paths ---------------------------------------------------------------------------- */

/* Replaces $ORIGIN in "$ORIGIN/../lib" by the folder of the file that has it. */
static int expand(struct needs *s, const struct object *o, const char *text, char **out)
{
	static const char *const names[] = { "$ORIGIN", "${ORIGIN}" };
	const char *dollar = strchr(text, '$');

	for (size_t i = 0; dollar && i < 2; i++) {
		size_t n = strlen(names[i]);

		if (strncmp(dollar, names[i], n) != 0 || strchr(dollar + n, '$'))
			continue;
		*out = kv_arena_printf(&s->info->arena, "%.*s%s%s", (int)(dollar - text), text,
				       o->origin, dollar + n);
		return *out ? KVMOD_OK : KVMOD_ENOMEM;
	}
	if (dollar)
		return kv_fail(KVMOD_EPERM, "`%s` cannot be checked: only $ORIGIN is supported", text);
	*out = kv_arena_strdup(&s->info->arena, text);
	return *out ? KVMOD_OK : KVMOD_ENOMEM;
}

static int add_folder(struct needs *s, struct object *o, const char *part)
{
	bool there;
	char *dir;
	int err = expand(s, o, part, &dir);

	if (err == KVMOD_OK && *dir != '/')
		err = kv_fail(KVMOD_EPERM, "`%s` is relative to the working folder: expected an absolute "
			      "folder or $ORIGIN", part);
	if (err == KVMOD_OK)
		err = kv_trust_walk(s->config, dir, &there);
	if (err)
		return kv_fail_in(err, "a folder of its run path");
	return kv_strings_add(&s->info->arena, &o->folders, dir);
}

static int split_run_path(struct needs *s, struct object *o)
{
	const char *rest = o->runpath ? o->runpath : o->rpath;
	bool more = rest && *rest;
	int err = KVMOD_OK;

	while (more && err == KVMOD_OK) {
		size_t n = strcspn(rest, ":");
		char *part = kv_arena_strndup(&s->info->arena, rest, n);

		err = part ? add_folder(s, o, part) : KVMOD_ENOMEM;
		more = rest[n] == ':';
		rest += n + 1;
	}
	return err;
}

/* --- from one file to the next ----------------------------------------------------------- */

static int check_object(struct needs *s, const struct object *loader, const char *path, Elf *elf);

static bool seen(const struct needs *s, const char *path)
{
	for (size_t i = 0; i < s->seen.n; i++)
		if (strcmp(s->seen.item[i], path) == 0)
			return true;
	return false;
}

/* The dynamic loader skips a file of another machine and searches on: not *there. */
static int check_open(struct needs *s, const struct object *loader, const char *path, int fd,
		      bool *there)
{
	Elf *elf = elf_begin(fd, ELF_C_READ, NULL);
	int err = KVMOD_OK;

	if (!elf)
		return kv_fail(KVMOD_EFORMAT, "not an ELF file: %s", elf_errmsg(-1));
	*there = !kv_elf_foreign(elf);
	if (*there)
		err = check_object(s, loader, path, elf);
	elf_end(elf);
	return err;
}

/* Checks the library at a path where the dynamic loader will take it, if it exists. */
static int check_library(struct needs *s, const struct object *loader, const char *path, bool *there)
{
	int fd, err = kv_trust_walk(s->config, path, there);

	if (err || !*there || seen(s, path))
		return err;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return kv_fail(KVMOD_EIO, "%s", strerror(errno));
	err = check_open(s, loader, path, fd, there);
	close(fd);
	return err;
}

/*
 * The dynamic loader searches some folders of DIR/glibc-hwcaps before DIR. Which ones
 * depends on the processor, so all of them are checked, and DIR as well.
 */
static int check_hwcaps(struct needs *s, const struct object *o, const char *dir, const char *name)
{
	char *hwcaps = kv_arena_printf(&s->info->arena, "%s/glibc-hwcaps", dir), *path;
	bool there;
	int err = hwcaps ? kv_trust_walk(s->config, hwcaps, &there) : KVMOD_ENOMEM;
	struct dirent *entry;
	DIR *folder;

	if (err || !there)
		return err;
	folder = opendir(hwcaps);
	if (!folder)
		return errno == EACCES ? kv_fail(KVMOD_EPERM, "the folder %s cannot be read", hwcaps) :
					 kv_path_unread(hwcaps);
	while (err == KVMOD_OK && (entry = readdir(folder))) {
		if (entry->d_name[0] == '.')
			continue;
		path = kv_arena_printf(&s->info->arena, "%s/%s/%s", hwcaps, entry->d_name, name);
		err = path ? check_library(s, o, path, &there) : KVMOD_ENOMEM;
	}
	closedir(folder);
	return err;
}

/*
 * Before glibc 2.37 it also searches DIR/tls/haswell and the like: any of these names,
 * in this order, from the i-th on.
 */
static int check_old_hwcaps(struct needs *s, const struct object *o, const char *dir,
			    const char *name, size_t i)
{
	static const char *const hwcaps[] = { "tls", "haswell", "xeon_phi", "aarch64",
					      "atomics", "avx512_1", "x86_64" };
	int err = KVMOD_OK;

	for (; i < sizeof(hwcaps) / sizeof(*hwcaps) && err == KVMOD_OK; i++) {
		char *sub = kv_arena_printf(&s->info->arena, "%s/%s", dir, hwcaps[i]);
		char *path = kv_arena_printf(&s->info->arena, "%s/%s/%s", dir, hwcaps[i], name);
		bool there;

		err = sub && path ? kv_trust_walk(s->config, sub, &there) : KVMOD_ENOMEM;
		if (err || !there)
			continue;
		err = check_library(s, o, path, &there);
		if (err == KVMOD_OK)
			err = check_old_hwcaps(s, o, sub, name, i + 1);
	}
	return err;
}

static int check_folder(struct needs *s, const struct object *o, const char *dir, const char *name,
			bool *there)
{
	int err = check_hwcaps(s, o, dir, name);
	char *path;

	if (err == KVMOD_OK)
		err = check_old_hwcaps(s, o, dir, name, 0);
	if (err)
		return err;
	path = kv_arena_printf(&s->info->arena, "%s/%s", dir, name);
	return path ? check_library(s, o, path, there) : KVMOD_ENOMEM;
}

/* In the run path of the file that needs it; else in the rpath of each file on the way to it. */
static int find_library(struct needs *s, const struct object *o, const char *name)
{
	bool there = false;
	int err = KVMOD_OK;

	for (const struct object *by = o; by && err == KVMOD_OK && !there; by = by->loader) {
		if (by != o && (o->runpath || by->runpath))
			continue;
		for (size_t i = 0; i < by->folders.n && err == KVMOD_OK && !there; i++)
			err = check_folder(s, o, by->folders.item[i], name, &there);
	}
	return err;
}

static int check_need(struct needs *s, const struct object *o, const char *name)
{
	bool there;
	char *path;
	int err;

	if (!strchr(name, '/')) {
		err = find_library(s, o, name);
	} else {
		err = expand(s, o, name, &path);
		if (err == KVMOD_OK && *path != '/')
			err = kv_fail(KVMOD_EPERM, "the path is relative to the working folder");
		if (err == KVMOD_OK)
			err = check_library(s, o, path, &there);
	}
	return err ? kv_fail_in(err, "it needs %s", name) : err;
}

static int check_needs(struct needs *s, struct object *o, Elf *elf)
{
	int err = read_needs(s, o, elf);

	if (err == KVMOD_OK)
		err = split_run_path(s, o);
	for (size_t i = 0; i < o->needed.n && err == KVMOD_OK; i++)
		err = check_need(s, o, o->needed.item[i]);
	return err;
}

static int check_object(struct needs *s, const struct object *loader, const char *path, Elf *elf)
{
	struct object o = { .loader = loader };
	const char *slash = strrchr(path, '/');
	int err = kv_strings_add(&s->info->arena, &s->seen, path);

	o.origin = kv_arena_strndup(&s->info->arena, path, (size_t)(slash - path) + (slash == path));
	if (err || !o.origin)
		return KVMOD_ENOMEM;
	if (s->seen.n > MAX_OBJECTS)
		return kv_fail(KVMOD_EFORMAT, "it needs more than %d libraries", MAX_OBJECTS);
	return check_needs(s, &o, elf);
}

int kv_needed_check(const struct kv_config *config, struct kvmod_modinfo *info)
{
	struct needs s = { .config = config, .info = info };
	Elf *elf = elf_begin(info->fd, ELF_C_READ, NULL);
	int err;

	if (!elf)
		return kv_fail(KVMOD_EFORMAT, "not an ELF file: %s", elf_errmsg(-1));
	err = check_object(&s, NULL, info->path, elf);
	elf_end(elf);
	return err;
}
