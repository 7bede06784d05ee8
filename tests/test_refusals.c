/* SPDX-License-Identifier: Apache-2.0 */
/* The loader: every reason for which it refuses a file, in words. */
#include "core/modules/device.h"
#include "tests/fixture.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Both the loader and the reader that never runs the file must refuse it. */
static void assert_refused(const char *path, int code, const char *reason)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	char text[1024];

	snprintf(text, sizeof(text), "%s: %s", strrchr(path, '/') + 1, reason);
	assert_fails(kvmod_modinfo_read(ctx, path, &info), code, text);
	assert_fails(kvmod_load(ctx, path), code, text);
	ck_assert_ptr_null(ctx->modules);
	kvmod_unref(ctx);
}

/* What shows only when it is loaded; nothing of it may stay behind. */
static void assert_load_fails(const char *module, int code, const char *reason)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module(module, NULL);
	struct kvmod_modinfo *info;
	char text[1024];

	assert_ok(kvmod_modinfo_read(ctx, path, &info));
	kvmod_modinfo_free(info);
	snprintf(text, sizeof(text), "%s.so: %s", module, reason);
	assert_fails(kvmod_load(ctx, path), code, text);
	ck_assert_ptr_null(ctx->modules);
	ck_assert_str_eq(ctx->providers->name, "fullkv");
	for (const struct kv_provider *p = ctx->providers; p; p = p->next)
		ck_assert_ptr_null(p->module);
	kvmod_unref(ctx);
}

/* --- no file that can be loaded ---------------------------------------------------- */

START_TEST(no_file)
{
	assert_refused(fixture_path("gone.so"), KVMOD_ENOENT, "No such file or directory");
}
END_TEST

START_TEST(not_a_regular_file)
{
	const char *path = fixture_path("folder.so"), *fifo = fixture_path("fifo.so");

	ck_assert_int_eq(mkdir(path, 0755), 0);
	assert_refused(path, KVMOD_EFORMAT, "not a regular file");
	ck_assert_int_eq(mkfifo(fifo, 0644), 0);
	assert_refused(fifo, KVMOD_EFORMAT, "not a regular file");
}
END_TEST

START_TEST(not_elf)
{
	assert_refused(fixture_write("text.so", "#!/bin/sh\n"), KVMOD_EFORMAT, "not an ELF file");
	assert_refused(fixture_write("empty.so", ""), KVMOD_EFORMAT, "not an ELF file");
	assert_refused(fixture_write("header.so", "\177ELF\2\1\1"), KVMOD_EFORMAT, "not an ELF file");
}
END_TEST

START_TEST(truncated)
{
	size_t n;
	char text[128], *bytes = fixture_read(fixture_module("good", NULL), &n);

	for (size_t size = 64; size < n; size += n / 7 + 1) {
		snprintf(text, sizeof(text),
			 "truncated: its headers refer to more than its %zu bytes", size);
		assert_refused(fixture_write_bytes("cut.so", bytes, size), KVMOD_EFORMAT, text);
	}
	snprintf(text, sizeof(text), "truncated: its headers refer to more than its %zu bytes", n - 1);
	assert_refused(fixture_write_bytes("cut.so", bytes, n - 1), KVMOD_EFORMAT, text);
	free(bytes);
}
END_TEST

/* The good module with another ELF header. */
static const char *with_header(void (*change)(ElfW(Ehdr) *h))
{
	const char *path;
	size_t n;
	char *bytes = fixture_read(fixture_module("good", NULL), &n);

	change((ElfW(Ehdr) *)bytes);
	path = fixture_write_bytes("changed.so", bytes, n);
	free(bytes);
	return path;
}

static void other_machine(ElfW(Ehdr) *h)
{
	h->e_machine = h->e_machine == EM_S390 ? EM_PPC64 : EM_S390;
}

static void other_class(ElfW(Ehdr) *h)
{
	h->e_ident[EI_CLASS] = ELFCLASS32;
}

static void other_type(ElfW(Ehdr) *h)
{
	h->e_type = ET_REL;
}

static void no_sections(ElfW(Ehdr) *h)
{
	h->e_shnum = 0;
	h->e_shoff = 0;
	h->e_shstrndx = 0;
}

START_TEST(wrong_machine)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	const char *path = with_header(other_machine);

	ck_assert_int_eq(kvmod_modinfo_read(ctx, path, &info), KVMOD_EFORMAT);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "changed.so: built for S/390, this machine is "));
	ck_assert_int_eq(kvmod_modinfo_read(ctx, with_header(other_class), &info), KVMOD_EFORMAT);
	ck_assert_str_eq(fixture_error(),
			 "changed.so: built for 32-bit programs, this program has 64 bits: rebuild it");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(not_a_shared_object)
{
	assert_refused(with_header(other_type), KVMOD_EFORMAT,
		       "not a shared object: link it with -shared");
}
END_TEST

/* --- an ELF file, but no module --------------------------------------------------------- */

START_TEST(no_section)
{
	static const char reason[] = "not a kvmod module: it has no .kvmod.info section; "
		"define one with KVMOD_MODULE()";

	assert_refused(with_header(no_sections), KVMOD_EFORMAT, reason);
}
END_TEST

/* Parameters are in the section, but nothing of a module. */
START_TEST(section_without_a_module)
{
	assert_refused(fixture_module("nosection", NULL), KVMOD_EFORMAT,
		       "its .kvmod.info section has no abi=: give KVMOD_MODULE() one");
}
END_TEST

START_TEST(no_descriptor)
{
	assert_refused(fixture_module("nodescriptor", NULL), KVMOD_EFORMAT,
		       "exports no `kvmod_module`: define it with KVMOD_MODULE()");
}
END_TEST

/* dlsym() finds the one of a library that the file depends on. */
START_TEST(descriptor_of_a_dependency)
{
	const char *path = fixture_module("depends", NULL);
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	ck_assert_msg(handle != NULL, "%s", dlerror());
	ck_assert_ptr_nonnull(dlsym(handle, "kvmod_module"));
	dlclose(handle);
	assert_refused(path, KVMOD_EFORMAT,
		       "exports no `kvmod_module`: define it with KVMOD_MODULE()");
}
END_TEST

/* Spoils the symbol's entry in the hash table, so that its own file does not find it. */
static void hide_symbol(char *bytes, const char *name)
{
	const ElfW(Ehdr) *h = (ElfW(Ehdr) *)bytes;
	const ElfW(Shdr) *sections = (ElfW(Shdr) *)(bytes + h->e_shoff);
	uint32_t hash = 5381;

	for (; *name; name++)
		hash = hash * 33 + (unsigned char)*name;
	for (int i = 0; i < h->e_shnum; i++) {
		uint32_t *words = (uint32_t *)(bytes + sections[i].sh_offset);
		size_t n = sections[i].sh_size / sizeof(*words);

		/* The lowest bit ends a chain. */
		for (size_t k = 4; sections[i].sh_type == SHT_GNU_HASH && k < n; k++)
			if ((words[k] | 1) == (hash | 1))
				words[k] ^= 2;
	}
}

/* What the file says of itself is right, but dlsym() finds another's descriptor. */
START_TEST(descriptor_of_another_file)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	const char *path;
	size_t n;
	char *bytes = fixture_read(fixture_module("shadow", NULL), &n);

	hide_symbol(bytes, "kvmod_module");
	path = fixture_write_bytes("shadow.so", bytes, n);
	free(bytes);
	assert_ok(kvmod_modinfo_read(ctx, path, &info));
	kvmod_modinfo_free(info);
	ck_assert_int_eq(kvmod_load(ctx, path), KVMOD_EFORMAT);
	ck_assert_msg(strstr(fixture_error(), "shadow.so: its `kvmod_module` comes from ") &&
		      strstr(kvmod_error(), "libdep.so, a dependency: define its own"),
		      "%s", kvmod_error());
	kvmod_unref(ctx);
}
END_TEST

START_TEST(wrong_magic)
{
	assert_refused(fixture_module("magic", NULL), KVMOD_EFORMAT,
		       "its `kvmod_module` has the magic number 0x00001234, expected 0x646f6d76: "
		       "define it with KVMOD_MODULE()");
}
END_TEST

START_TEST(other_abi)
{
	assert_refused(fixture_module("abimajor", NULL), KVMOD_EABI,
		       "built for kvmod's ABI 1, this is ABI 2: rebuild it against these headers");
	assert_refused(fixture_module("abiminor", NULL), KVMOD_EABI,
		       "needs kvmod's ABI 2.99, this is 2.0: update kvmod");
}
END_TEST

START_TEST(no_license)
{
	assert_refused(fixture_module("nolicense", NULL), KVMOD_EFORMAT,
		       "its .kvmod.info section has no license=: give KVMOD_MODULE() one");
}
END_TEST

START_TEST(bad_name)
{
	assert_refused(fixture_module("badname", NULL), KVMOD_EFORMAT,
		       "name=bad name in its .kvmod.info section: expected letters, digits, - and _");
}
END_TEST

START_TEST(section_is_forged)
{
	const char *path = fixture_module("good", NULL);

	fixture_patch(path, "abi=2.0", "abi=2,0", 7);
	assert_refused(path, KVMOD_EFORMAT,
		       "abi=2,0 in its .kvmod.info section: expected MAJOR.MINOR");
	fixture_patch(path, "abi=2,0", "name=xx", 7);
	assert_refused(path, KVMOD_EFORMAT,
		       "its .kvmod.info section has no abi=: give KVMOD_MODULE() one");
	fixture_patch(path, "name=xx", "abi 2.0", 7);
	assert_refused(path, KVMOD_EFORMAT, "`abi 2.0` in its .kvmod.info section is not key=value");
	fixture_patch(path, "abi 2.0", "abi\b2.0", 7);
	assert_refused(path, KVMOD_EFORMAT,
		       "its .kvmod.info section holds something other than text");
	fixture_patch(path, "abi\b2.0", "abi=\xe4.0", 7);
	assert_refused(path, KVMOD_EFORMAT,
		       "its .kvmod.info section holds byte 0xe4 where UTF-8 was expected");
	fixture_patch(path, "abi=\xe4.0", "abi=2.0", 7);
	fixture_patch(path, "version=1.0", "license=1.0", 11);
	assert_refused(path, KVMOD_EFORMAT,
		       "its .kvmod.info section has no version=: give KVMOD_MODULE() one");
	fixture_patch(path, "license=1.0", "version=1.0", 11);
	fixture_patch(path, "param=good.sinks\tINT", "param=good.sinks\tFLT", 20);
	assert_refused(path, KVMOD_EFORMAT, "param=good.sinks FLT 4 0..1024 oldest position in its "
		       ".kvmod.info section: use KVMOD_PARAMS()");
}
END_TEST

/* --- whose file it is --------------------------------------------------------------------- */

START_TEST(written_by_others)
{
	const char *path = fixture_module("good", NULL);
	char text[256];

	ck_assert_int_eq(chmod(path, 0666), 0);
	snprintf(text, sizeof(text), "everybody may write it (mode 0666): chmod o-w good.so");
	assert_refused(path, KVMOD_EPERM, text);
	ck_assert_int_eq(chmod(path, 0644), 0);
	ck_assert_int_eq(chmod(fixture_dir, 0777), 0);
	snprintf(text, sizeof(text), "everybody may write its folder %s (mode 0777): chmod o-w %s",
		 fixture_dir, fixture_dir);
	assert_refused(path, KVMOD_EPERM, text);
	ck_assert_int_eq(chmod(fixture_dir, 0700), 0);
}
END_TEST

/* Only root can give a file away; as the loader sees it, owners() tries for all. */
START_TEST(given_away)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);
	struct kvmod_modinfo *info;
	char text[512];

	if (geteuid() == 0) {
		ck_assert_int_eq(chown(fixture_dir, 54321, 54321), 0);
		snprintf(text, sizeof(text), "good.so: its folder %s belongs to uid 54321, not to root, "
			 "you or the owner of this program: chown %s, or name that user in [kvmod] "
			 "allow_owner", fixture_dir, fixture_dir);
		assert_fails(kvmod_modinfo_read(ctx, path, &info), KVMOD_EPERM, text);
		ck_assert_int_eq(chown(fixture_dir, 0, 0), 0);
		ck_assert_int_eq(chown(path, 54321, 54321), 0);
		assert_fails(kvmod_load(ctx, path), KVMOD_EPERM, "good.so: belongs to uid 54321, not to "
			     "root, you or the owner of this program: chown good.so, or name that user "
			     "in [kvmod] allow_owner");
	}
	kvmod_unref(ctx);
}
END_TEST

/* As the loader would see files of other users, which only root could make. */
static int trust(const struct kv_config *config, uid_t uid, gid_t gid, mode_t mode)
{
	const struct stat st = { .st_mode = S_IFREG | mode, .st_uid = uid, .st_gid = gid };

	return kv_trust(config, "/etc/module.so", &st);
}

START_TEST(owners)
{
	const uid_t other = geteuid() + 12345;

	assert_ok(trust(NULL, 0, 0, 0755));
	assert_ok(trust(NULL, geteuid(), 77, 0755));
	assert_ok(trust(NULL, geteuid(), geteuid(), 0775));
	ck_assert_int_eq(trust(NULL, geteuid(), geteuid() + 1, 0775), KVMOD_EPERM);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), " may write it (mode 0775): chmod g-w /etc/module.so"));
	ck_assert_int_eq(trust(NULL, other, other, 0755), KVMOD_EPERM);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "not to root, you or the owner of this program: "
				     "chown /etc/module.so, or name that user in [kvmod] allow_owner"));
}
END_TEST

START_TEST(allowed_owners)
{
	struct kvmod_ctx *ctx = fixture_context();
	const uid_t other = geteuid() + 12345;
	char text[128];

	snprintf(text, sizeof(text), "[kvmod]\nallow_owner = root , %u\n", other);
	assert_ok(fixture_configure(ctx, text));
	assert_ok(trust(ctx->config, other, other, 0755));
	ck_assert_int_eq(trust(ctx->config, other + 1, other, 0755), KVMOD_EPERM);
	assert_fails(fixture_configure(ctx, "[kvmod]\nallow_owner = root, no-such-user\n"), KVMOD_EINVAL,
		     "kvmod.conf:2: [kvmod] allow_owner = root, no-such-user: no user `no-such-user`");
	kvmod_unref(ctx);
}
END_TEST

/* --- what shows only when it is loaded ------------------------------------------------------- */

START_TEST(init_fails)
{
	assert_load_fails("initfails", KVMOD_EDEVICE, "init() failed: the moon is full");
	assert_load_fails("initsilent", KVMOD_EDEVICE, "init() failed: KVMOD_EDEVICE");
}
END_TEST

START_TEST(policy_is_not_in_the_section)
{
	assert_load_fails("unsaid", KVMOD_EFORMAT, "init() failed: policy `good`: the file's "
			  ".kvmod.info section does not list it: use KVMOD_PARAMS or KVMOD_NO_PARAMS");
}
END_TEST

START_TEST(policy_runs_elsewhere_than_its_section_says)
{
	assert_load_fails("elsewhere", KVMOD_EFORMAT, "init() failed: policy `good`: its table says "
			  "that it runs on `cpu`, the file's .kvmod.info section says `cpu cuda`: use "
			  "KVMOD_RUNS_ON with the words of the table");
}
END_TEST

/* Of the devices that its section names, this kvmod may know only some. */
START_TEST(a_device_of_a_later_kvmod)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("later", "later");
	assert_ok(fixture_open(ctx, "later", &policy));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* dlerror()'s own words. */
START_TEST(undefined_symbol)
{
	struct kvmod_ctx *ctx = fixture_context();

	ck_assert_int_eq(kvmod_load(ctx, fixture_module("undefined", NULL)), KVMOD_EFORMAT);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "undefined symbol: symbol_that_nobody_defines"));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(descriptor_and_section_disagree)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);

	fixture_patch(path, "version=1.0", "version=1.1", 11);
	assert_fails(kvmod_load(ctx, path), KVMOD_EFORMAT,
		     "good.so: its descriptor and its .kvmod.info section disagree on name, "
		     "version or license: define both with KVMOD_MODULE()");
	fixture_patch(path, "version=1.1", "version=1.0", 11);
	fixture_patch(path, "\t0..1024\t", "\t0..2048\t", 9);
	assert_fails(kvmod_load(ctx, path), KVMOD_EFORMAT,
		     "good.so: init() failed: policy `good`: its parameter `sinks` is not what the "
		     "file's .kvmod.info section says: use KVMOD_PARAMS");
	kvmod_unref(ctx);
}
END_TEST
FIXTURE_MAIN("refusals", no_file, not_a_regular_file, not_elf, truncated, wrong_machine,
	     not_a_shared_object, no_section, section_without_a_module, no_descriptor,
	     descriptor_of_a_dependency, descriptor_of_another_file, wrong_magic, other_abi,
	     no_license, bad_name, section_is_forged, written_by_others, given_away, owners,
	     allowed_owners, init_fails, policy_is_not_in_the_section,
	     policy_runs_elsewhere_than_its_section_says, a_device_of_a_later_kvmod,
	     undefined_symbol, descriptor_and_section_disagree)
