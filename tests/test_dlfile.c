/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which file is loaded: the one that was checked, under its own name, and its
 * libraries from folders that nobody else may write. The linker puts functions of
 * these tests in the place of dlopen() and pread() (see core.mk).
 */
#include "core/modules/registry.h"
#include "tests/fixture.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What happens to files just before the next dlopen(), and just after it. */
static void (*before)(void), (*after)(void);

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);

void *__wrap_dlopen(const char *name, int flags)
{
	void (*now)(void) = before, (*then)(void) = after;
	void *handle;

	before = after = NULL;
	if (now)
		now();
	handle = __real_dlopen(name, flags);
	if (then)
		then();
	return handle;
}

static void rename_file(const char *from, const char *to)
{
	ck_assert_int_eq(rename(fixture_path(from), fixture_path(to)), 0);
}

static void swap(void)
{
	rename_file("good.so", "kept");
	rename_file("constructs.so", "good.so");
}

static void swap_back(void)
{
	rename_file("good.so", "constructs.so");
	rename_file("kept", "good.so");
}

/* --- the file that was checked --------------------------------------------------------- */

START_TEST(constructors_show)
{
	struct kvmod_ctx *ctx = fixture_context();

	ck_assert_ptr_null(getenv("KVMOD_TEST_CONSTRUCTED"));
	assert_ok(kvmod_load(ctx, fixture_module("constructs", NULL)));
	ck_assert_ptr_nonnull(getenv("KVMOD_TEST_CONSTRUCTED"));
	kvmod_unref(ctx);
}
END_TEST

/* The one that was checked is loaded, and no line of the other runs. */
START_TEST(swapped_before_it_is_loaded)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);
	struct kvmod_policy *policy;

	fixture_module("constructs", NULL);
	before = swap;
	assert_ok(kvmod_load(ctx, path));
	ck_assert_ptr_null(before);
	ck_assert_ptr_null(getenv("KVMOD_TEST_CONSTRUCTED"));
	assert_ok(fixture_open(ctx, "good", &policy));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* Replaces the run path of shadow.so, which needs libdep.so. */
static const char *with_run_path(const char *name, const char *run_path)
{
	static const char built[] = TEST_MODULES ":/nowhere";
	size_t n;
	char *bytes = fixture_read(fixture_module("shadow", NULL), &n), file[64];
	char *at = memmem(bytes, n, built, sizeof(built));
	const char *path;

	ck_assert_ptr_nonnull(at);
	ck_assert_uint_lt(strlen(run_path), sizeof(built));
	strncpy(at, run_path, sizeof(built));
	snprintf(file, sizeof(file), "%s.so", name);
	path = fixture_write_bytes(file, bytes, n);
	free(bytes);
	return path;
}

static void make_folder(const char *name)
{
	ck_assert_int_eq(mkdir(fixture_path(name), 0755), 0);
}

static void assert_swap_is_seen(void)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_fails(kvmod_load(ctx, fixture_path("good.so")), KVMOD_EPERM,
		     "good.so: another file replaced it while it was being loaded");
	ck_assert_ptr_null(before);
	ck_assert_ptr_null(ctx->modules);
	kvmod_unref(ctx);
}

/* It can be loaded by its path only; then the other file shows. */
START_TEST(swapped_where_the_origin_counts)
{
	make_folder("lib");
	fixture_module("libdep", "lib/libdep");
	with_run_path("good", "$ORIGIN/lib");
	fixture_module("constructs", NULL);
	before = swap;
	assert_swap_is_seen();
	swap_back();
	before = swap;
	after = swap_back;
	assert_swap_is_seen();
}
END_TEST

/* --- reading it --------------------------------------------------------------------------- */

enum { PLAIN, IN_PIECES, AT_ITS_END } reading;
static unsigned n_reads;

ssize_t __real_pread(int fd, void *to, size_t size, off_t offset);
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t offset);

/* A signal comes before each read, which then gives little. */
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t offset)
{
	n_reads++;
	if (reading == AT_ITS_END)
		return 0;
	if (reading == IN_PIECES && n_reads % 2) {
		errno = EINTR;
		return -1;
	}
	return __real_pread(fd, to, reading == IN_PIECES && size > 3 ? 3 : size, offset);
}

START_TEST(read_in_pieces)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);
	struct kvmod_modinfo *info;

	reading = IN_PIECES;
	assert_ok(kvmod_load(ctx, path));
	ck_assert_uint_gt(n_reads, 8);
	reading = AT_ITS_END;
	assert_fails(kvmod_modinfo_read(ctx, path, &info), KVMOD_EFORMAT,
		     "good.so: its `kvmod_module` is not in the file");
	kvmod_unref(ctx);
}
END_TEST

/* --- its name ----------------------------------------------------------------------------- */

static const char *name_of_code(struct kvmod_ctx *ctx, const char *policy)
{
	struct kv_provider *p = kv_provider_find(ctx, KV_POLICY, policy, 0);
	const struct kvmod_policy_ops *ops = p->ops;
	void *code;
	Dl_info info;

	memcpy(&code, &ops->compress, sizeof(code));
	ck_assert_int_ne(dladdr(code, &info), 0);
	return info.dli_fname;
}

START_TEST(goes_by_its_path)
{
	struct kvmod_ctx *a = fixture_context(), *b = fixture_context();
	const char *path = fixture_module("good", NULL);

	assert_ok(kvmod_load(a, path));
	ck_assert_str_eq(name_of_code(a, "good"), path);
	assert_ok(kvmod_load(b, path));
	ck_assert_str_eq(name_of_code(b, "good"), path);
	kvmod_unref(a);
	ck_assert_str_eq(name_of_code(b, "good"), path);
	kvmod_unref(b);
}
END_TEST

/* Descriptors have the same numbers again and again; files are told apart all the same. */
START_TEST(another_file_at_the_same_path)
{
	struct kvmod_ctx *ctx[20];
	const char *path = fixture_module("good", NULL);

	for (int i = 0; i < 20; i++) {
		ctx[i] = fixture_context();
		assert_ok(kvmod_load(ctx[i], path));
		ck_assert_str_eq(ctx[i]->modules->desc.name, i % 2 ? "other" : "good");
		ck_assert_str_eq(name_of_code(ctx[i], "good"), path);
		for (int k = 0; k < i; k++)
			ck_assert_ptr_ne(ctx[k]->modules->handle, ctx[i]->modules->handle);
		fixture_module(i % 2 ? "good" : "other", "new");
		rename_file("new.so", "good.so");
	}
	for (int i = 0; i < 20; i++)
		kvmod_unref(ctx[i]);
}
END_TEST

/* --- its libraries -------------------------------------------------------------------------- */

static void assert_refused(const char *path, const char *format, ...) KV_PRINTF(2, 3);

static void assert_refused(const char *path, const char *format, ...)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	char reason[512], text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	snprintf(text, sizeof(text), "good.so: %s", reason);
	assert_fails(kvmod_modinfo_read(ctx, path, &info), KVMOD_EPERM, text);
	assert_fails(kvmod_load(ctx, path), KVMOD_EPERM, text);
	kvmod_unref(ctx);
}

static void assert_loads(const char *path)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_ok(kvmod_load(ctx, path));
	kvmod_unref(ctx);
}

START_TEST(library_in_a_folder_of_others)
{
	const char *path, *lib = fixture_path("lib"), *file;

	make_folder("lib");
	file = fixture_module("libdep", "lib/libdep");
	path = with_run_path("good", lib);
	assert_loads(path);
	ck_assert_int_eq(chmod(lib, 0777), 0);
	assert_refused(path, "a folder of its run path: everybody may write the folder lib "
		       "(mode 0777): chmod o-w lib");
	ck_assert_int_eq(chmod(lib, 0755), 0);
	ck_assert_int_eq(chmod(file, 0666), 0);
	assert_refused(path, "it needs libdep.so: everybody may write it (mode 0666): chmod o-w "
		       "lib/libdep.so");
	ck_assert_int_eq(chmod(file, 0644), 0);
	assert_loads(path);
}
END_TEST

/* Whoever may write the folder of a link may lead it elsewhere. */
START_TEST(library_behind_links)
{
	const char *path, *open = fixture_path("open");

	make_folder("lib");
	make_folder("open");
	fixture_module("libdep", "lib/libdep");
	ck_assert_int_eq(symlink("../lib", fixture_path("open/inner")), 0);
	ck_assert_int_eq(symlink("open/./inner", fixture_path("outer")), 0);
	path = with_run_path("good", fixture_path("outer"));
	assert_loads(path);
	ck_assert_int_eq(chmod(open, 0777), 0);
	assert_refused(path, "a folder of its run path: everybody may write the folder open "
		       "(mode 0777): chmod o-w open");
	ck_assert_int_eq(chmod(open, 0755), 0);
}
END_TEST

START_TEST(run_path_that_is_not_there)
{
	/* Root's own folder: nobody else can create it. */
	assert_loads(with_run_path("good", TEST_MODULES ":/nowhere"));
	assert_refused(with_run_path("good", "/tmp/kvmod-none/lib"),
		       "a folder of its run path: /tmp/kvmod-none/lib does not exist, and everybody may "
		       "create it");
}
END_TEST

START_TEST(run_path_relative)
{
	static const char relative[] = "relative to the working folder: expected an absolute folder or "
				       "$ORIGIN";

	assert_refused(with_run_path("good", "lib"), "a folder of its run path: `lib` is %s", relative);
	assert_refused(with_run_path("good", "/usr/lib:"), "a folder of its run path: `` is %s", relative);
	assert_refused(with_run_path("good", "/usr/$LIB"), "a folder of its run path: `/usr/$LIB` cannot "
		       "be checked: only $ORIGIN is supported");
}
END_TEST

START_TEST(library_relative)
{
	const char *path = with_run_path("good", "/usr/lib");

	fixture_patch(path, "libdep.so", "./dep.so", 9);
	assert_refused(path, "it needs ./dep.so: the path is relative to the working folder");
}
END_TEST

START_TEST(origin)
{
	const char *path;

	make_folder("lib");
	fixture_module("libdep", "lib/libdep");
	path = with_run_path("good", "$ORIGIN/lib");
	assert_loads(path);
	with_run_path("good", "${ORIGIN}/./lib");
	assert_loads(path);
	ck_assert_int_eq(chmod(fixture_path("lib"), 0777), 0);
	assert_refused(path, "a folder of its run path: everybody may write the folder lib "
		       "(mode 0777): chmod o-w lib");
}
END_TEST

/* What a library needs counts as well. */
START_TEST(library_of_a_library)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	const char *path;

	make_folder("lib");
	make_folder("open");
	path = with_run_path("good", fixture_path("lib"));
	with_run_path("lib/libdep", fixture_path("open"));
	assert_ok(kvmod_modinfo_read(ctx, path, &info));
	kvmod_modinfo_free(info);
	kvmod_unref(ctx);
	ck_assert_int_eq(chmod(fixture_path("open"), 0777), 0);
	assert_refused(path, "it needs libdep.so: a folder of its run path: everybody may write the "
		       "folder open (mode 0777): chmod o-w open");
}
END_TEST

/* Whatever library is looked for there first: a sanitizer's, if it was built with one. */
static void assert_folder_refused(const char *path, const char *dir)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[256];

	snprintf(text, sizeof(text), ": everybody may write the folder %s (mode 0777): chmod o-w %s",
		 dir, dir);
	ck_assert_int_eq(kvmod_load(ctx, path), KVMOD_EPERM);
	ck_assert_msg(strstr(fixture_error(), text) != NULL, "%s", fixture_error());
	kvmod_unref(ctx);
}

/* The dynamic loader takes a library of the processor's own folder before the general one. */
START_TEST(library_for_a_processor)
{
	const char *path, *file, *hwcaps = "lib/glibc-hwcaps/x86-64-v2";

	make_folder("lib");
	make_folder("lib/glibc-hwcaps");
	make_folder(hwcaps);
	make_folder("lib/open");
	path = with_run_path("good", "$ORIGIN/lib");
	fixture_module("libdep", "lib/libdep");
	assert_loads(path);
	ck_assert_int_eq(chmod(fixture_path(hwcaps), 0777), 0);
	assert_folder_refused(path, hwcaps);
	ck_assert_int_eq(chmod(fixture_path(hwcaps), 0755), 0);
	file = fixture_module("libdep", "lib/glibc-hwcaps/x86-64-v2/libdep");
	assert_loads(path);
	ck_assert_int_eq(chmod(file, 0666), 0);
	assert_refused(path, "it needs libdep.so: everybody may write it (mode 0666): chmod o-w "
		       "%s/libdep.so", hwcaps);
	ck_assert_int_eq(chmod(file, 0644), 0);
	/* Another processor takes the general one. */
	ck_assert_int_eq(chmod(fixture_path("lib/libdep.so"), 0666), 0);
	assert_refused(path, "it needs libdep.so: everybody may write it (mode 0666): chmod o-w "
		       "lib/libdep.so");
	ck_assert_int_eq(chmod(fixture_path("lib/libdep.so"), 0644), 0);
	with_run_path("lib/glibc-hwcaps/x86-64-v2/libdep", "$ORIGIN/../../open");
	ck_assert_int_eq(chmod(fixture_path("lib/open"), 0777), 0);
	assert_refused(path, "it needs libdep.so: a folder of its run path: everybody may write the "
		       "folder lib/open (mode 0777): chmod o-w lib/open");
}
END_TEST

/* As glibc had them before 2.37. */
START_TEST(library_for_a_processor_of_old)
{
	const char *path, *file;

	make_folder("lib");
	make_folder("lib/tls");
	make_folder("lib/tls/x86_64");
	path = with_run_path("good", "$ORIGIN/lib");
	fixture_module("libdep", "lib/libdep");
	file = fixture_module("libdep", "lib/tls/x86_64/libdep");
	assert_loads(path);
	ck_assert_int_eq(chmod(file, 0666), 0);
	assert_refused(path, "it needs libdep.so: everybody may write it (mode 0666): chmod o-w "
		       "lib/tls/x86_64/libdep.so");
	ck_assert_int_eq(chmod(file, 0644), 0);
	/* Such folders that lead to themselves end all the same. */
	ck_assert_int_eq(symlink(".", fixture_path("lib/haswell")), 0);
	ck_assert_int_eq(symlink(".", fixture_path("lib/x86_64")), 0);
	assert_loads(path);
	ck_assert_int_eq(chmod(fixture_path("lib/tls"), 0777), 0);
	assert_folder_refused(path, "lib/tls");
}
END_TEST

/* Writes a byte of the ELF header. */
static void set_header(const char *path, size_t at, unsigned char value)
{
	FILE *file = fopen(path, "r+b");

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fseek(file, (long)at, SEEK_SET), 0);
	ck_assert_int_ne(fputc(value, file), EOF);
	ck_assert_int_eq(fclose(file), 0);
}

/* The dynamic loader passes it by, and takes the library of the next folder. */
START_TEST(library_of_another_machine)
{
	static const struct {
		size_t at;
		unsigned char foreign;
	} headers[] = {
		{ offsetof(ElfW(Ehdr), e_machine), 0xfe },
		{ EI_CLASS, sizeof(void *) == 8 ? ELFCLASS32 : ELFCLASS64 },
	};
	const char *path, *file, *next;

	make_folder("a");
	make_folder("b");
	path = with_run_path("good", "$ORIGIN/a:$ORIGIN/b");
	for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
		file = fixture_module("libdep", "a/libdep");
		next = fixture_module("libdep", "b/libdep");
		ck_assert_int_eq(chmod(next, 0666), 0);
		assert_loads(path);
		set_header(file, headers[i].at, headers[i].foreign);
		assert_refused(path, "it needs libdep.so: everybody may write it (mode 0666): chmod o-w "
			       "b/libdep.so");
		ck_assert_int_eq(chmod(next, 0644), 0);
		assert_loads(path);
	}
}
END_TEST

FIXTURE_MAIN("dlfile", constructors_show, swapped_before_it_is_loaded,
	     swapped_where_the_origin_counts, read_in_pieces, goes_by_its_path, another_file_at_the_same_path,
	     library_in_a_folder_of_others, library_behind_links, run_path_that_is_not_there,
	     run_path_relative, library_relative, origin, library_of_a_library, library_for_a_processor,
	     library_for_a_processor_of_old, library_of_another_machine)
