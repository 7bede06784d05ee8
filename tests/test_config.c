/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: what it says, in which order it counts, and every mistake by its text. */
#include "core/config/paths.h"
#include "core/modules/catalog.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The configuration that was there must still be there. */
static void assert_rejected(const char *text, int code, const char *error)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 3\n"));
	assert_fails(fixture_configure(ctx, text), code, error);
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "threads"), "3");
	kvmod_unref(ctx);
}

static int override(struct kvmod_ctx *ctx, const char *text)
{
	return kvmod_configure(ctx, "/dev/null", &text, 1);
}

START_TEST(values)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	assert_ok(fixture_configure(ctx,
				    "\xef\xbb\xbf# a comment\r\n"
				    "  ; another\n"
				    "[kvmod]\n"
				    "policy = good ; behind a value\n"
				    "threads=2\n"
				    "\n"
				    "[policy good] ; behind a section\n"
				    "sinks = 7\n"
				    "[kvmod]\n"
				    "log_level = debug"));
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "policy"), "good");
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "log-level"), "debug");
	ck_assert_str_eq(kvmod_config_get(ctx, "policy good", "sinks"), "7");
	ck_assert_ptr_null(kvmod_config_get(ctx, "policy good", "threshold"));
	ck_assert_ptr_null(kvmod_config_get(ctx, "nonsense", "threshold"));
	ck_assert_str_eq(kvmod_config_path(ctx), fixture_path("kvmod.conf"));
	/* No more than there are processors. */
	ck_assert_uint_eq(kv_n_threads(ctx), sysconf(_SC_NPROCESSORS_ONLN) < 2 ? 1 : 2);
	ck_assert_uint_eq(ctx->log_level, KVMOD_DEBUG);
	assert_ok(fixture_configure(ctx, ""));
	ck_assert_uint_eq(ctx->log_level, KVMOD_INFO);
	kvmod_unref(ctx);
}
END_TEST

/* --- files, drop-ins, overrides ------------------------------------------------------ */

START_TEST(later_ones_count)
{
	struct kvmod_ctx *ctx = fixture_context();

	ck_assert_int_eq(mkdir(fixture_path("kvmod.conf.d"), 0755), 0);
	fixture_write("kvmod.conf.d/20.conf", "[kvmod]\nthreads = 20\n");
	fixture_write("kvmod.conf.d/10.conf", "[kvmod]\nthreads = 10\nlog_level = info\n");
	fixture_write("kvmod.conf.d/30.conf~", "[kvmod]\nthreads = 30\n");
	fixture_write("kvmod.conf.d/.40.conf", "[kvmod]\nthreads = 40\n");
	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 1\nlog_level = error\n"));
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "threads"), "20");
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "log_level"), "info");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(mistake_in_a_drop_in)
{
	struct kvmod_ctx *ctx = fixture_context();

	ck_assert_int_eq(mkdir(fixture_path("kvmod.conf.d"), 0755), 0);
	fixture_write("kvmod.conf.d/a.conf", "[kvmod]\n\nthreads = many\n");
	assert_fails(fixture_configure(ctx, ""), KVMOD_EINVAL, "kvmod.conf.d/a.conf:3: [kvmod] "
		     "threads = many: expected an integer in 0..1024");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(overrides)
{
	static const char *const list[] = {
		"kvmod.threads=4", "kvmod.threads=5", "policy fullkv.a.b=c",
	};
	struct kvmod_ctx *ctx = fixture_context();

	assert_ok(kvmod_configure(ctx, "/dev/null", list, 2));
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "threads"), "5");
	assert_fails(kvmod_configure(ctx, "/dev/null", list, 3), KVMOD_EINVAL,
		     "-o policy fullkv.a.b=c: section [policy fullkv.a]: expected a name of "
		     "letters, digits, - and _");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(mistakes_in_overrides)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_fails(override(ctx, "threads"), KVMOD_EINVAL,
		     "-o threads: expected SECTION.KEY=VALUE");
	assert_fails(override(ctx, "threads=4"), KVMOD_EINVAL,
		     "-o threads=4: expected SECTION.KEY=VALUE; did you mean `kvmod.threads=4`?");
	assert_fails(override(ctx, ".threads=4"), KVMOD_EINVAL,
		     "-o .threads=4: expected SECTION.KEY=VALUE");
	assert_fails(override(ctx, "kvmod.=4"), KVMOD_EINVAL,
		     "-o kvmod.=4: expected SECTION.KEY=VALUE");
	assert_fails(override(ctx, "kvmod.threads=4x"), KVMOD_EINVAL,
		     "-o kvmod.threads=4x: expected an integer in 0..1024");
	assert_fails(override(ctx, "kvmod.tread=4"), KVMOD_EINVAL,
		     "-o kvmod.tread=4: [kvmod] has no setting `tread`; did you mean `threads`?");
	assert_fails(override(ctx, "policy fulkv.x=1"), KVMOD_ENOENT,
		     "-o policy fulkv.x=1: no policy `fulkv`; did you mean `fullkv`?");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(which_file)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *env = fixture_write("env.conf", "");
	const char *user;

	assert_fails(kvmod_configure(ctx, fixture_path("gone.conf"), NULL, 0), KVMOD_ENOENT,
		     "gone.conf: No such file or directory");
	ck_assert_int_eq(kvmod_configure(ctx, fixture_dir, NULL, 0), KVMOD_EIO);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), ": a directory, expected a regular file"));
	ck_assert_int_eq(mkdir(fixture_path(".config"), 0755), 0);
	ck_assert_int_eq(mkdir(fixture_path(".config/kvmod"), 0755), 0);
	user = fixture_write(".config/kvmod/kvmod.conf", "");
	assert_ok(kvmod_configure(ctx, NULL, NULL, 0));
	ck_assert_str_eq(kvmod_config_path(ctx), user);
	setenv("KVMOD_CONF", env, 1);
	assert_ok(kvmod_configure(ctx, NULL, NULL, 0));
	ck_assert_str_eq(kvmod_config_path(ctx), env);
	setenv("KVMOD_CONF", fixture_path("gone.conf"), 1);
	assert_fails(kvmod_configure(ctx, NULL, NULL, 0), KVMOD_ENOENT,
		     "KVMOD_CONF=gone.conf: No such file or directory");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(module_path)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kv_strings dirs = { 0 };
	struct kv_arena arena = { 0 };
	char text[128];
	const char *path;

	ck_assert_int_eq(mkdir(fixture_path("mods"), 0755), 0);
	path = fixture_write("own.conf", "[kvmod]\nmodule_path = mods:~:\n");
	assert_ok(kvmod_configure(ctx, path, NULL, 0));
	assert_ok(kv_module_path(ctx->config, &arena, &dirs));
	ck_assert_uint_eq(dirs.n, 3);
	ck_assert_str_eq(dirs.item[0], fixture_path("mods"));
	ck_assert_str_eq(dirs.item[1], fixture_dir);
	snprintf(text, sizeof(text), "%s/.libs", kv_build_tree());
	ck_assert_str_eq(dirs.item[2], text);
	kv_arena_free(&arena);
	path = fixture_write("own.conf", "[kvmod]\nmodule_path = nowhere\n");
	assert_fails(kvmod_configure(ctx, path, NULL, 0), KVMOD_ENOENT, "own.conf:2: [kvmod] "
		     "module_path = nowhere: nowhere: No such file or directory");
	kvmod_unref(ctx);
}
END_TEST

/* --- files that are not INI files -------------------------------------------------------- */

START_TEST(syntax)
{
	assert_rejected("threads = 1\n", KVMOD_EINVAL,
			"kvmod.conf:1: `threads` stands before any [section]");
	assert_rejected("[kvmod]\nthreads\n", KVMOD_EFORMAT,
			"kvmod.conf:2: expected `key = value` or `[section]`");
	assert_rejected("[kvmod]\n= 3\n", KVMOD_EINVAL,
			"kvmod.conf:2: expected a key before the `=`");
	assert_rejected("[kvmod\nthreads = 1\n", KVMOD_EFORMAT,
			"kvmod.conf:1: expected `[section]` and nothing after it");
	assert_rejected("[kvmod] threads = 1\n", KVMOD_EFORMAT,
			"kvmod.conf:1: expected `[section]` and nothing after it");
	assert_rejected("[kvmod]\nthreads = 1\n  2\n", KVMOD_EFORMAT,
			"kvmod.conf:3: the line begins with a blank: a value cannot continue on "
			"another line");
	assert_rejected("[kvmod]\n\nthreads = 1\n[kvmod]\nthreads = 2\n", KVMOD_EINVAL,
			"kvmod.conf:5: [kvmod] threads is set a second time; first on line 3");
	assert_rejected("[policy good]\nsinks = 1\n[policy  good]\nsinks = 2\n", KVMOD_EINVAL,
			"kvmod.conf:4: [policy good] sinks is set a second time; first on line 2");
	assert_rejected("[kvmod]\nlog_level = info\nlog-level = info\n", KVMOD_EINVAL,
			"kvmod.conf:3: [kvmod] log-level is set a second time; first on line 2");
	assert_rejected("\177ELF", KVMOD_EFORMAT, "kvmod.conf:1: the line holds control characters: expected text");
}
END_TEST

START_TEST(zero_bytes)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_write_bytes("zero.conf", "[kvmod]\nthreads = 1\0 2\n", 23);

	assert_fails(kvmod_configure(ctx, path, NULL, 0), KVMOD_EFORMAT,
		     "zero.conf:2: the line holds control characters: expected text");
	kvmod_unref(ctx);
}
END_TEST

/* inih would split such lines and continue. */
START_TEST(long_lines)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[512] = "[kvmod]\nallow_owner = ";
	size_t key = strlen("allow_owner = ");

	memset(text + 8 + key, ' ', 198 - key);
	strcpy(text + 8 + 198 - 4, "root\n");
	assert_ok(fixture_configure(ctx, text));
	strcpy(text + 8 + 198 - 4, " root\n");
	assert_fails(fixture_configure(ctx, text), KVMOD_EFORMAT,
		     "kvmod.conf:2: the line is too long: at most 198 bytes");
	assert_rejected("[policy a2345678901234567890123456789012345678901234567890]\n",
			KVMOD_EFORMAT, "kvmod.conf:1: the name of the section is too long: at most "
			"49 bytes");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(huge_file)
{
	struct kvmod_ctx *ctx = fixture_context();
	size_t n = (1 << 20) + 1;
	char *text = malloc(n);
	char error[128];

	memset(text, '\n', n);
	assert_ok(kvmod_configure(ctx, fixture_write_bytes("big.conf", text, n - 1), NULL, 0));
	snprintf(error, sizeof(error), "big.conf: the file is too long: at most %zu bytes", n - 1);
	assert_fails(kvmod_configure(ctx, fixture_write_bytes("big.conf", text, n), NULL, 0),
		     KVMOD_EFORMAT, error);
	free(text);
	kvmod_unref(ctx);
}
END_TEST

/* --- what it must not say ------------------------------------------------------------------ */

START_TEST(unknown_sections)
{
	assert_rejected("[kvmud]\n", KVMOD_EINVAL,
			"kvmod.conf:1: unknown section [kvmud]; did you mean `kvmod`?");
	assert_rejected("[polisy good]\nsinks = 1\n", KVMOD_EINVAL, "kvmod.conf:1: unknown section "
			"[polisy good]; did you mean `policy good`?");
	assert_rejected("[weather]\n", KVMOD_EINVAL, "kvmod.conf:1: unknown section [weather]");
	assert_rejected("[]\n", KVMOD_EINVAL, "kvmod.conf:1: unknown section []");
	assert_rejected("[policy]\n", KVMOD_EINVAL,
			"kvmod.conf:1: section [policy] names no policy: expected [policy NAME]");
	assert_rejected("[kvmod extra]\n", KVMOD_EINVAL,
			"kvmod.conf:1: section [kvmod extra]: expected [kvmod]");
}
END_TEST

START_TEST(unknown_names)
{
	char no_cuda[512];

	snprintf(no_cuda, sizeof(no_cuda), "kvmod.conf:2: no device `cuda`%s", fixture_no_device());
	assert_rejected("[kvmod]\npolicy = goodd\n", KVMOD_ENOENT,
			"kvmod.conf:2: no policy `goodd`; did you mean `good`?");
	assert_rejected("[kvmod]\ndevice = cpuu\n", KVMOD_ENOENT,
			"kvmod.conf:2: no device `cpuu`; did you mean `cpu`? (installed: cpu)");
	assert_rejected("[kvmod]\ndevice = cuda\n", KVMOD_ENOENT,
			no_cuda);
	assert_rejected("[policy good]\nsinks = 3\n\ntreshold = 1\n", KVMOD_EINVAL, "kvmod.conf:4: "
			"[policy good] has no parameter `treshold`; did you mean `threshold`?");
	assert_rejected("[policy fullkv]\nx = 1\n", KVMOD_EINVAL,
			"kvmod.conf:2: [policy fullkv] has no parameter `x`");
	assert_rejected("[alias]\nsnap = two words\n", KVMOD_EINVAL,
			"kvmod.conf:2: [alias] snap = two words: expected NAME = NAME");
	assert_rejected("[blacklist]\nbad =\n", KVMOD_EINVAL,
			"kvmod.conf:2: [blacklist] bad = : expected MODULE = the reason");
}
END_TEST

/* The section of a policy that is not in use, in a file that is not run. */
START_TEST(wrong_values)
{
	assert_rejected("[policy good]\nthreshold = 1.5\n", KVMOD_EINVAL, "kvmod.conf:2: "
			"[policy good] threshold = 1.5: expected a real number in 0..1");
	assert_rejected("[policy good]\nsinks = -1\n", KVMOD_EINVAL,
			"kvmod.conf:2: [policy good] sinks = -1: expected an integer in 0..1024");
	assert_rejected("[kvmod]\nlog_level = loud\n", KVMOD_EINVAL, "kvmod.conf:2: [kvmod] log_level "
			"= loud: expected one of error, warning, note, info, debug");
}
END_TEST

START_TEST(strings_outlive_a_new_configuration)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *value;

	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 3\n"));
	value = kvmod_config_get(ctx, "kvmod", "threads");
	for (int i = 0; i < 10; i++)
		assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 4\n"));
	ck_assert_str_eq(value, "3");
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("config", values, later_ones_count, mistake_in_a_drop_in, overrides,
	     mistakes_in_overrides, which_file, module_path, syntax, zero_bytes, long_lines,
	     huge_file, unknown_sections, unknown_names, wrong_values,
	     strings_outlive_a_new_configuration)
