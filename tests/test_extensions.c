/* SPDX-License-Identifier: Apache-2.0 */
/* Modules that need an extension of the host: refused, before they run, where it is not there. */
#include "tests/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/toolkit.h>

#define REFUSED "needs the extension `kvmod.nosuch/9`, which this kvmod does not offer (it offers " \
	"kvmod.toolkit/1): update kvmod"

START_TEST(extension_that_is_not_there)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("wants", "wants");
	struct kvmod_modinfo *info;
	struct kvmod_policy *policy;

	/* It would leave a mark if it ran. */
	unsetenv("KVMOD_TEST_CONSTRUCTED");
	assert_fails(kvmod_load(ctx, path), KVMOD_ENOTSUP, "wants.so: " REFUSED);
	assert_fails(kvmod_modinfo_read(ctx, path, &info), KVMOD_ENOTSUP, "wants.so: " REFUSED);
	ck_assert_int_eq(fixture_open(ctx, "wants", &policy), KVMOD_ENOTSUP);
	ck_assert_msg(strstr(kvmod_error(), REFUSED), "%s", kvmod_error());
	ck_assert_ptr_null(getenv("KVMOD_TEST_CONSTRUCTED"));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(extension_that_check_misses)
{
	struct kvmod_ctx *ctx = fixture_context();
	char folder[128];
	const char *const overrides[] = { "kvmod.policy=wants", folder };

	fixture_module("wants", "wants");
	snprintf(folder, sizeof(folder), "kvmod.module_path=%s", fixture_dir);
	ck_assert_msg(kvmod_check(ctx, "/dev/null", overrides, 2, 0, NULL, NULL) == KVMOD_ENOTSUP, "%s",
		      kvmod_error());
	ck_assert_msg(strstr(kvmod_error(), REFUSED), "%s", kvmod_error());
	kvmod_unref(ctx);
}
END_TEST

START_TEST(extension_that_is_there)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_modinfo *info;
	char path[512];

	snprintf(path, sizeof(path), "%s/snapkv.so", MODULES);
	assert_ok(kvmod_modinfo_read(ctx, path, &info));
	ck_assert_str_eq(kvmod_modinfo_get(info, "uses", 0), KVMOD_TOOLKIT);
	ck_assert_ptr_null(kvmod_modinfo_get(info, "uses", 1));
	kvmod_modinfo_free(info);
	assert_ok(kvmod_load(ctx, path));
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("extensions", extension_that_is_not_there, extension_that_check_misses,
	     extension_that_is_there)
