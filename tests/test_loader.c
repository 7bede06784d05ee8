/* SPDX-License-Identifier: Apache-2.0 */
/* The loader: what it finds and takes, and when it lets go of it; test_refusals has the rest. */
#include "core/modules/device.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

START_TEST(loads_by_path)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);
	struct kvmod_policy *policy;

	assert_ok(kvmod_load(ctx, path));
	assert_ok(kvmod_load(ctx, path));
	assert_ok(kvmod_load(ctx, "good"));
	assert_ok(fixture_open(ctx, "good", &policy));
	ck_assert_str_eq(fixture_log, "good: sinks 4, threshold 0.5\n");
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(loads_when_a_policy_is_opened)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", NULL);
	assert_ok(fixture_open(ctx, "good", &policy));
	ck_assert_str_eq(kvmod_policy_ops(policy)->name, "good");
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* The section says which policies the file has, whatever its name. */
START_TEST(finds_a_policy_in_a_file_of_another_name)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", "quite-another");
	assert_ok(fixture_open(ctx, "good", &policy));
	kvmod_policy_close(policy);
	assert_ok(kvmod_load(ctx, "good"));
	assert_ok(kvmod_unload(ctx, "good"));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(one_file_through_two_paths_is_one_module)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);
	const char *hard = fixture_path("hard.so"), *soft = fixture_path("soft.so");

	ck_assert_int_eq(link(path, hard), 0);
	ck_assert_int_eq(symlink(path, soft), 0);
	assert_ok(kvmod_load(ctx, path));
	assert_ok(kvmod_load(ctx, hard));
	assert_ok(kvmod_load(ctx, soft));
	ck_assert_ptr_null(ctx->modules->next);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(a_copy_is_a_duplicate)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[256];

	assert_ok(kvmod_load(ctx, fixture_module("good", NULL)));
	snprintf(text, sizeof(text), "copy.so: a module `good` is already loaded, from good.so");
	assert_fails(kvmod_load(ctx, fixture_module("good", "copy")), KVMOD_EEXIST, text);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(a_policy_name_is_taken)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_ok(kvmod_load(ctx, fixture_module("good", NULL)));
	assert_fails(kvmod_load(ctx, fixture_module("other", NULL)), KVMOD_EEXIST,
		     "other.so: init() failed: policy `good`: the name is taken by good");
	ck_assert_ptr_null(ctx->modules->next);
	kvmod_unref(ctx);
}
END_TEST

/* Two implementations of one policy, for different devices. */
START_TEST(one_name_on_two_devices)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kv_provider *cpu, *cuda;

	fixture_module("good", NULL);
	fixture_module("accel", NULL);
	assert_ok(kv_provider_get(ctx, KV_POLICY, "good", "cuda", &cuda));
	ck_assert_str_eq(cuda->module->desc.name, "accel");
	ck_assert_ptr_null(ctx->modules->next);		/* its file was not loaded for this */
	assert_ok(kv_provider_get(ctx, KV_POLICY, "good", "cpu", &cpu));
	ck_assert_str_eq(cpu->module->desc.name, "good");
	kv_provider_put(ctx, cuda);
	kv_provider_put(ctx, cpu);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(not_on_this_device)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("accel", NULL);
	assert_fails(fixture_open(ctx, "good", &policy), KVMOD_ENOTSUP,
		     "policy `good` has no version for cpu");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(unknown_policy)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;
	char text[256];

	fixture_module("good", NULL);
	snprintf(text, sizeof(text), "no policy `godo`; did you mean `good`? (looked in %s)",
		 fixture_dir);
	assert_fails(fixture_open(ctx, "godo", &policy), KVMOD_ENOENT, text);
	snprintf(text, sizeof(text), "no policy `elsewhere` (looked in %s)", fixture_dir);
	assert_fails(fixture_open(ctx, "elsewhere", &policy), KVMOD_ENOENT, text);
	fixture_write("junk.so", "junk");
	snprintf(text, sizeof(text),
		 "no module `elsewhere` (looked in %s, 1 refused there: see `kvmod list`)",
		 fixture_dir);
	assert_fails(kvmod_load(ctx, "elsewhere"), KVMOD_ENOENT, text);
	kvmod_unref(ctx);
}
END_TEST

/* The file has the very name that was asked for, so its fault is reported. */
START_TEST(a_named_file_that_is_refused_is_an_error)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_write("mine.so", "junk");
	assert_fails(fixture_open(ctx, "mine", &policy), KVMOD_EFORMAT, "mine.so: not an ELF file");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(never_looks_in_the_working_folder)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	ck_assert_int_eq(chdir(fixture_dir), 0);
	assert_fails(kvmod_load(ctx, "./good.so"), KVMOD_EINVAL,
		     "./good.so: expected the name of a module or an absolute path");
	ck_assert_int_eq(chdir("/"), 0);
	kvmod_unref(ctx);
}
END_TEST

/* --- unloading ----------------------------------------------------------------------------------- */

START_TEST(busy)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", NULL);
	assert_ok(fixture_open(ctx, "good", &policy));
	assert_fails(kvmod_unload(ctx, "good"), KVMOD_EBUSY,
		     "module `good` is in use: close what was opened from it");
	kvmod_policy_close(policy);
	assert_ok(kvmod_unload(ctx, "good"));
	assert_fails(kvmod_unload(ctx, "good"), KVMOD_ENOENT, "no module `good` is loaded");
	assert_ok(fixture_open(ctx, "good", &policy));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(resident_modules_stay_mapped)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;
	int32_t (*compress)(void *, const struct kvmod_request *, struct kvmod_plan *);
	struct kvmod_plan plan = { 0 };

	fixture_module("resident", NULL);
	assert_ok(fixture_open(ctx, "resident", &policy));
	compress = kvmod_policy_ops(policy)->compress;
	kvmod_policy_close(policy);
	assert_ok(kvmod_unload(ctx, "resident"));
	/* Would crash if the code were gone. */
	ck_assert_int_eq(compress(NULL, NULL, &plan), KVMOD_OK);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(open_things_hold_the_context)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", NULL);
	assert_ok(fixture_open(ctx, "good", &policy));
	kvmod_unref(ctx);
	kvmod_policy_close(policy);
}
END_TEST

START_TEST(blacklisted)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", NULL);
	assert_ok(fixture_configure(ctx, "[blacklist]\ngood = eats memory\n"));
	assert_fails(fixture_open(ctx, "good", &policy), KVMOD_EPERM,
		     "good.so: kvmod.conf:2: module `good` is blacklisted: eats memory");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(aliases)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", NULL);
	assert_ok(fixture_configure(ctx, "[alias]\nshort-name = good\n"
				    "[policy short_name]\nsinks = 8\n"));
	assert_ok(fixture_open(ctx, "short_name", &policy));
	ck_assert_str_eq(fixture_log, "good: sinks 8, threshold 0.5\n");
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* --- what a file says of itself ---------------------------------------------------------------------- */

START_TEST(facts)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("good", NULL);
	struct kvmod_modinfo *info;

	assert_ok(kvmod_modinfo_read(ctx, path, &info));
	ck_assert_str_eq(kvmod_modinfo_path(info), path);
	ck_assert_str_eq(kvmod_modinfo_get(info, "name", 0), "good");
	ck_assert_ptr_null(kvmod_modinfo_get(info, "name", 1));
	ck_assert_str_eq(kvmod_modinfo_get(info, "abi", 0), "2.0");
	ck_assert_str_eq(kvmod_modinfo_get(info, "license", 0), "Apache-2.0");
	ck_assert_str_eq(kvmod_modinfo_get(info, "policy", 0), "good");
	ck_assert_str_eq(kvmod_modinfo_get(info, "param", 0),
			 "good.sinks\tINT\t4\t0..1024\toldest positions, always kept");
	ck_assert_ptr_null(kvmod_modinfo_get(info, "nothing", 0));
	kvmod_modinfo_free(info);
	kvmod_unref(ctx);
}
END_TEST

static int note_file(void *arg, const char *path, int error, const struct kvmod_modinfo *info)
{
	char *text = arg;
	size_t n = strlen(text);

	snprintf(text + n, 512 - n, "%s %s %s\n", strrchr(path, '/') + 1, kvmod_strerror(error),
		 info ? kvmod_modinfo_get(info, "name", 0) : "-");
	return strcmp(path + strlen(path) - 7, "stop.so") == 0 ? 42 : 0;
}

START_TEST(each_file)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[512] = "";

	fixture_module("good", NULL);
	fixture_module("other", "a");
	fixture_write("notes.txt", "no module");
	fixture_write("junk.so", "junk");
	ck_assert_int_eq(kvmod_modules_each(ctx, note_file, text), 0);
	ck_assert_str_eq(text, "a.so KVMOD_OK other\ngood.so KVMOD_OK good\n"
			 "junk.so KVMOD_EFORMAT -\n");
	fixture_write("b-stop.so", "");
	ck_assert_int_eq(kvmod_modules_each(ctx, note_file, text), 42);
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("loader", loads_by_path, loads_when_a_policy_is_opened,
	     finds_a_policy_in_a_file_of_another_name,
	     one_file_through_two_paths_is_one_module, a_copy_is_a_duplicate,
	     a_policy_name_is_taken, one_name_on_two_devices, not_on_this_device,
	     unknown_policy, a_named_file_that_is_refused_is_an_error,
	     never_looks_in_the_working_folder, busy, resident_modules_stay_mapped,
	     open_things_hold_the_context, blacklisted, aliases, facts, each_file)
