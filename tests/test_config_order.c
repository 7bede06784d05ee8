/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Of a key that is set several times the last value counts, and it alone is looked
 * at; and a section of what is not there stops nothing.
 */
#include "core/modules/catalog.h"
#include "tests/fixture.h"

#include <string.h>
#include <unistd.h>

/* Reads `text`, and a drop-in after it. */
static int configure(struct kvmod_ctx *ctx, const char *text, const char *drop_in)
{
	mkdir(fixture_path("kvmod.conf.d"), 0755);
	fixture_write("kvmod.conf.d/10-right.conf", drop_in);
	fixture_log[0] = '\0';
	return fixture_configure(ctx, text);
}

/* --- the last value counts ------------------------------------------------------- */

static const struct {
	const char *wrong, *error, *right, *section, *key, *value;
} corrected[] = {
	{ "[kvmod]\npolicy = gone\n", "no policy `gone`; did you mean `good`?", "[kvmod]\npolicy = good\n",
	  "kvmod", "policy", "good" },
	{ "[kvmod]\ndevice = cuda\n", "no device `cuda`", "[kvmod]\ndevice = cpu\n",
	  "kvmod", "device", "cpu" },
	{ "[kvmod]\ndevice = gpu\n", "[kvmod] device = gpu: expected one of auto, cpu, cuda",
	  "[kvmod]\ndevice = cpu\n", "kvmod", "device", "cpu" },
	{ "[kvmod]\nthreads = many\n", "[kvmod] threads = many: expected an integer in 0..1024",
	  "[kvmod]\nthreads = 2\n", "kvmod", "threads", "2" },
	{ "[kvmod]\nlog_level = loud\n", "[kvmod] log_level = loud: expected one of error, warning, "
	  "note, info, debug", "[kvmod]\nlog-level = info\n", "kvmod", "log_level", "info" },
	{ "[kvmod]\nallow_owner = no-such-user\n", "[kvmod] allow_owner = no-such-user: "
	  "no user `no-such-user`", "[kvmod]\nallow_owner = root\n", "kvmod", "allow_owner", "root" },
	{ "[policy good]\nsinks = x\n", "[policy good] sinks = x: expected an integer in 0..1024",
	  "[policy good]\nsinks = 3\n", "policy good", "sinks", "3" },
	{ "[policy good]\nthreshold = 7\n", "[policy good] threshold = 7: expected a real number in 0..1",
	  "[policy good]\nthreshold = 0.7\n", "policy good", "threshold", "0.7" },
	{ "[alias]\nmine = two words\n", "[alias] mine = two words: expected NAME = NAME",
	  "[alias]\nmine = good\n", "alias", "mine", "good" },
	{ "[blacklist]\nother =\n", "[blacklist] other = : expected MODULE = the reason",
	  "[blacklist]\nother = slow\n", "blacklist", "other", "slow" },
};

START_TEST(a_drop_in_corrects)
{
	struct kvmod_ctx *ctx = fixture_context();
	char error[512];

	fixture_module("good", NULL);
	snprintf(error, sizeof(error), "kvmod.conf:2: %s%s", corrected[_i].error,
		 strstr(corrected[_i].error, "no device") ? fixture_no_cuda() : "");
	assert_fails(configure(ctx, corrected[_i].wrong, ""), strncmp(corrected[_i].error, "no ", 3) ?
		     KVMOD_EINVAL : KVMOD_ENOENT, error);
	assert_ok(configure(ctx, corrected[_i].wrong, corrected[_i].right));
	ck_assert_str_eq(kvmod_config_get(ctx, corrected[_i].section, corrected[_i].key),
			 corrected[_i].value);
	ck_assert_str_eq(fixture_log, "");
	kvmod_unref(ctx);
}
END_TEST

/* The other way round the mistake is the one that counts. */
START_TEST(a_drop_in_spoils)
{
	struct kvmod_ctx *ctx = fixture_context();
	char error[512];

	fixture_module("good", NULL);
	snprintf(error, sizeof(error), "kvmod.conf.d/10-right.conf:2: %s%s", corrected[_i].error,
		 strstr(corrected[_i].error, "no device") ? fixture_no_cuda() : "");
	ck_assert_int_ne(configure(ctx, corrected[_i].right, corrected[_i].wrong), KVMOD_OK);
	ck_assert_str_eq(fixture_error(), error);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(the_command_line_corrects)
{
	static const char *const overrides[] = {
		"kvmod.policy=gone", "kvmod.threads=x", "kvmod.module_path=/nowhere",
		"policy fullkv.no=1",
		"kvmod.policy=fullkv", "kvmod.threads=1", "kvmod.module_path=/",
	};
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_write("own.conf", "[kvmod]\npolicy = gone\nthreads = many\n"
					 "module_path = /nowhere/else\n");

	ck_assert_int_eq(kvmod_configure(ctx, path, overrides, 0), KVMOD_EINVAL);
	assert_fails(kvmod_configure(ctx, path, overrides, 7), KVMOD_EINVAL,
		     "-o policy fullkv.no=1: [policy fullkv] has no parameter `no`");
	assert_ok(kvmod_configure(ctx, path, overrides + 4, 3));
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "policy"), "fullkv");
	ck_assert_uint_eq(kv_n_threads(ctx), 1);
	kvmod_unref(ctx);
}
END_TEST

/* A section by its alias and by its own name are one; so are alias and target of `policy`. */
START_TEST(aliases)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	assert_ok(configure(ctx, "[alias]\nmine = gone\n[kvmod]\npolicy = mine\n"
			    "[policy mine]\nsinks = x\n",
			    "[alias]\nmine = good\n[policy good]\nsinks = 5\n"));
	ck_assert_str_eq(kvmod_config_get(ctx, "policy mine", "sinks"), "5");
	ck_assert_str_eq(kvmod_config_get(ctx, "policy good", "sinks"), "5");
	ck_assert_str_eq(fixture_log, "");
	kvmod_unref(ctx);
}
END_TEST

/* --- sections of what is not there ---------------------------------------------------- */

static void assert_noted(const char *text, const char *line)
{
	struct kvmod_ctx *ctx = fixture_context();
	char said[512] = "";

	fixture_module("good", NULL);
	if (*line)
		snprintf(said, sizeof(said), "%s/kvmod.conf:%s\n", fixture_dir, line);
	assert_ok(configure(ctx, text, ""));
	ck_assert_str_eq(fixture_log, said);
	kvmod_unref(ctx);
}

START_TEST(sections_of_what_is_not_installed)
{
	char unused[512];

	assert_noted("[kvmod]\npolicy = good\n[policy nowhere-near]\nbudget = 3\nx = y\n",
		     "3: no policy `nowhere-near` is installed: its section has no effect");
	assert_noted("[policy god]\nsinks = 1\n", "1: no policy `god` is installed: its section has "
		     "no effect; did you mean `good`?");
	assert_noted("[engine other]\nmodel = x\n",
		     "1: no engine `other` is installed: its section has no effect");
	snprintf(unused, sizeof(unused), *fixture_no_cuda() ? "1: [device cuda] has no effect: no device `cuda`%s" :
		 "1: no device `cuda` is installed: its section has no effect%s", fixture_no_cuda());
	assert_noted("[device cuda]\nx = 1\n", unused);
	/* It sets nothing. */
	assert_noted("[policy nowhere-near]\n[engine other]\n", "");
}
END_TEST

START_TEST(section_of_a_refused_module)
{
	char said[512];

	fixture_write("mine.so", "junk");
	snprintf(said, sizeof(said), "1: [policy mine] has no effect: %s/mine.so: not an ELF file",
		 fixture_dir);
	assert_noted("[policy mine]\nx = 1\n", said);
}
END_TEST

START_TEST(section_of_a_blacklisted_module)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	assert_ok(configure(ctx, "[policy good]\nsinks = 1\n[blacklist]\ngood = slow\n", ""));
	kvmod_unref(ctx);
}
END_TEST

/*
 * The first file that has it is the one that is loaded: what another, further down
 * the module path, says of its parameters does not count.
 */
START_TEST(an_older_version_behind)
{
	static const char *const sinks = "policy good.sinks=500";
	struct kvmod_ctx *ctx = fixture_context();
	char path[160];
	const char *overrides[] = { path, sinks };

	ck_assert_int_eq(mkdir(fixture_path("new"), 0755), 0);
	fixture_module("good", "new/good");
	fixture_patch(fixture_module("good", NULL), "INT\t4\t0..1024", "INT\t4\t0..0009", 13);
	snprintf(path, sizeof(path), "kvmod.module_path=%s/new:%s", fixture_dir, fixture_dir);
	assert_ok(kvmod_configure(ctx, "/dev/null", overrides, 2));
	snprintf(path, sizeof(path), "kvmod.module_path=%s:%s/new", fixture_dir, fixture_dir);
	assert_fails(kvmod_configure(ctx, "/dev/null", overrides, 2), KVMOD_EINVAL,
		     "-o policy good.sinks=500: expected an integer in 0..0009");
	kvmod_unref(ctx);
}
END_TEST

/* What is asked for must be there. */
START_TEST(policies_asked_for)
{
	static const char *const typed = "policy god.sinks=1";
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	fixture_write("mine.so", "junk");
	assert_fails(configure(ctx, "[kvmod]\npolicy = mine\n", ""), KVMOD_EFORMAT,
		     "kvmod.conf:2: mine.so: not an ELF file");
	assert_fails(kvmod_configure(ctx, "/dev/null", &typed, 1), KVMOD_ENOENT,
		     "-o policy god.sinks=1: no policy `god`");
	kvmod_unref(ctx);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config_order");
	TCase *tcase = tcase_create("config_order");
	int n = (int)(sizeof(corrected) / sizeof(*corrected)), failed;
	SRunner *runner;

	tcase_add_checked_fixture(tcase, fixture_setup, fixture_teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, a_drop_in_corrects, 0, n);
	tcase_add_loop_test(tcase, a_drop_in_spoils, 0, n);
	tcase_add_test(tcase, the_command_line_corrects);
	tcase_add_test(tcase, aliases);
	tcase_add_test(tcase, sections_of_what_is_not_installed);
	tcase_add_test(tcase, section_of_a_refused_module);
	tcase_add_test(tcase, section_of_a_blacklisted_module);
	tcase_add_test(tcase, an_older_version_behind);
	tcase_add_test(tcase, policies_asked_for);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
