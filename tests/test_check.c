/* SPDX-License-Identifier: Apache-2.0 */
/* Trying a configuration in child processes, and reloading one. */
#include "core/check/check.h"
#include "core/config/paths.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT_MS 1000

static char found[4096];

static void note(void *arg, const struct kvmod_finding *f)
{
	size_t n = strlen(found);

	(void)arg;
	ck_assert_uint_eq(f->size, sizeof(*f));
	snprintf(found + n, sizeof(found) - n, "%s %s: %s%s%s\n", f->kind,
		 strcmp(f->kind, "configuration") == 0 ? "-" : f->name, kvmod_strerror(f->code),
		 *f->message ? " " : "", f->message);
}

static int check(struct kvmod_ctx *ctx, const char *text)
{
	char override[128];
	const char *overrides[] = { override };
	int err;

	found[0] = '\0';
	snprintf(override, sizeof(override), "kvmod.module_path=%s", fixture_dir);
	err = kvmod_check(ctx, fixture_write("tried.conf", text), overrides, 1, LIMIT_MS, note, NULL);
	/* Nothing of it may stay: no child, no module, no setting. */
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_ptr_null(ctx->modules);
	ck_assert_str_eq(ctx->config->path, "/dev/null");
	return err;
}

START_TEST(fine)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("good", NULL);
	assert_ok(check(ctx, "[policy good]\nsinks = 3\n"));
	ck_assert_str_eq(found, "configuration -: KVMOD_OK\npolicy good: KVMOD_OK\n"
			 "policy fullkv: KVMOD_OK\n");
	/* What the child logged. */
	ck_assert_str_eq(fixture_log, "good: sinks 3, threshold 0.5\n");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(names_the_file)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kv_catalog c;

	fixture_module("good", "file");
	fixture_write("junk.so", "junk");
	assert_ok(kv_catalog_open(&c, ctx, ctx->config));
	ck_assert_str_eq(kv_catalog_file(&c, KV_POLICY, "good"), fixture_path("file.so"));
	ck_assert_str_eq(kv_catalog_file(&c, KV_POLICY, "junk"), fixture_path("junk.so"));
	ck_assert_ptr_null(kv_catalog_file(&c, KV_POLICY, "fullkv"));
	kv_catalog_close(&c);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(wrong_configuration)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_fails(check(ctx, "[kvmod]\nthreads = x\n"), KVMOD_EINVAL, "tried.conf:2: [kvmod] "
		     "threads = x: expected an integer in 0..1024");
	ck_assert_ptr_nonnull(strstr(found, "configuration -: KVMOD_EINVAL"));
	kvmod_unref(ctx);
}
END_TEST

static void assert_found(const char *module, int code, const char *message)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[64], error[512];

	fixture_module(module, NULL);
	snprintf(text, sizeof(text), "[kvmod]\npolicy = %s\n", module);
	snprintf(error, sizeof(error), "policy %s: %s", module, message);
	assert_fails(check(ctx, text), code, error);
	kvmod_unref(ctx);
}

START_TEST(crashes)
{
	assert_found("crash", KVMOD_ECRASH, "died of SIGSEGV (Segmentation fault) while deciding");
	assert_found("initcrash", KVMOD_ECRASH, "died of SIGABRT (Aborted) while loading it");
}
END_TEST

START_TEST(hangs)
{
	assert_found("hang", KVMOD_ETIMEOUT, "opening it did not end within 1 s");
	/* This one closes the pipe first. */
	assert_found("mute", KVMOD_ETIMEOUT, "opening it did not end within 1 s");
}
END_TEST

/* There is always more to hear from it, and it does not end all the same. */
START_TEST(chatters)
{
	assert_found("chatter", KVMOD_ETIMEOUT, "opening it did not end within 1 s");
}
END_TEST

START_TEST(ends_the_process)
{
	assert_found("exits", KVMOD_ECRASH, "ended the process with status 7 while deciding");
}
END_TEST

START_TEST(fails)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("failing", NULL);
	assert_fails(check(ctx, "[policy failing]\n"), KVMOD_ENUMERIC,
		     "policy failing: row 3 is not finite");
	ck_assert_str_eq(found, "configuration -: KVMOD_OK\n"
			 "policy failing: KVMOD_ENUMERIC row 3 is not finite\n"
			 "policy fullkv: KVMOD_OK\n");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(bad_plan)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("badplan", NULL);
	ck_assert_int_eq(check(ctx, "[policy badplan]\n"), KVMOD_EPLAN);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "policy badplan: the plan for layer 0 was refused"));
	/* Why, is in the child's log. */
	ck_assert_ptr_nonnull(strstr(fixture_log, "policy badplan: layer 0: "));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(on_another_device)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("accel", NULL);
	assert_ok(check(ctx, "[policy good]\n"));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(engine_is_missing)
{
	struct kvmod_ctx *ctx = fixture_context();

	ck_assert_int_eq(check(ctx, "[kvmod]\nengine = nowhere\n"), KVMOD_ENOENT);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "engine nowhere: no engine `nowhere`"));
	kvmod_unref(ctx);
}
END_TEST

static void at_exit(void)
{
	fixture_write("exit-handler-ran", "");
}

START_TEST(the_child_runs_no_exit_handlers)
{
	struct kvmod_ctx *ctx = fixture_context();
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		atexit(at_exit);
		_exit(check(ctx, "") != KVMOD_OK || access(fixture_path("exit-handler-ran"), F_OK) == 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	kvmod_unref(ctx);
}
END_TEST

/* The child must not wait forever for locks of the parent's other threads. */
static void *open_often(void *arg)
{
	struct kvmod_ctx *ctx = arg;
	struct kvmod_policy *policy;

	for (int i = 0; i < 2000; i++)
		if (fixture_open(ctx, "fullkv", &policy) == KVMOD_OK)
			kvmod_policy_close(policy);
	return NULL;
}

START_TEST(with_other_threads)
{
	struct kvmod_ctx *ctx = fixture_context();
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, open_often, ctx), 0);
	for (int i = 0; i < 20; i++)
		assert_ok(check(ctx, ""));
	pthread_join(thread, NULL);
	kvmod_unref(ctx);
}
END_TEST

/* --- what a module leaves behind ------------------------------------------------------------- */

/* What check finds of a module whose trial forks; how the process that it left has ended. */
static int check_leaving(const char *module, int *ending)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *file = fixture_path("pid");
	char text[256];
	long pid = 0;
	FILE *f;
	int err;

	/* It is this process's child when its own parent has ended. */
	ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	fixture_module(module, NULL);
	snprintf(text, sizeof(text), "[policy %s]\nfile = %s\n[kvmod]\npolicy = %s\n", module, file,
		 module);
	found[0] = '\0';
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "module_path = %s\n", fixture_dir);
	err = kvmod_check(ctx, fixture_write("tried.conf", text), NULL, 0, 20000, note, NULL);
	f = fopen(file, "re");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fscanf(f, "%ld", &pid), 1);
	fclose(f);
	ck_assert_int_eq(waitpid((pid_t)pid, ending, 0), pid);
	kvmod_unref(ctx);
	return err;
}

START_TEST(crashes_and_leaves_a_process)
{
	int ending = 0;

	ck_assert_int_eq(check_leaving("leaves", &ending), KVMOD_ECRASH);
	ck_assert_str_eq(found, "configuration -: KVMOD_OK\npolicy leaves: KVMOD_ECRASH died of "
			 "SIGSEGV (Segmentation fault) while opening it\n");
	ck_assert(WIFSIGNALED(ending) && WTERMSIG(ending) == SIGKILL);
}
END_TEST

/* A process that continues after the tried one has ended does not count, whatever it writes. */
START_TEST(goes_on_in_another_process)
{
	int ending = 0;

	ck_assert_int_eq(check_leaving("daemon", &ending), KVMOD_ECRASH);
	ck_assert_str_eq(found, "configuration -: KVMOD_OK\npolicy daemon: KVMOD_ECRASH ended the "
			 "process with status 0 while opening it\n");
}
END_TEST

/* --- reloading ---------------------------------------------------------------------------- */

START_TEST(reload)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	fixture_module("good", NULL);
	assert_ok(fixture_configure(ctx, "[policy good]\nsinks = 1\n"));
	fixture_write("kvmod.conf", "[policy good]\nsinks = 2\n");
	assert_ok(kvmod_reload(ctx));
	fixture_log[0] = '\0';
	assert_ok(fixture_open(ctx, "good", &policy));
	ck_assert_str_eq(fixture_log, "good: sinks 2, threshold 0.5\n");
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(a_bad_reload_changes_nothing)
{
	struct kvmod_ctx *ctx = fixture_context();

	fixture_module("crash", NULL);
	assert_ok(fixture_configure(ctx, "[kvmod]\nthreads = 1\n"));
	fixture_write("kvmod.conf", "[kvmod]\nthreads = 4\nthreeds = 5\n");
	assert_fails(kvmod_reload(ctx), KVMOD_EINVAL, "the configuration stays as it was: "
		     "kvmod.conf:3: [kvmod] has no setting `threeds`; did you mean `threads`?");
	fixture_write("kvmod.conf", "[kvmod]\nthreads = 4\npolicy = crash\n");
	assert_fails(kvmod_reload(ctx), KVMOD_ECRASH, "the configuration stays as it was: policy "
		     "crash: died of SIGSEGV (Segmentation fault) while deciding");
	ck_assert_int_eq(unlink(fixture_path("kvmod.conf")), 0);
	ck_assert_int_eq(kvmod_reload(ctx), KVMOD_ENOENT);
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "threads"), "1");
	ck_assert_uint_eq(kv_n_threads(ctx), 1);
	kvmod_unref(ctx);
}
END_TEST

/* The server does so while sequences run. */
START_TEST(reload_while_a_policy_is_open)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *before, *after;

	fixture_module("good", NULL);
	assert_ok(fixture_configure(ctx, "[policy good]\nsinks = 1\n"));
	assert_ok(fixture_open(ctx, "good", &before));
	fixture_write("kvmod.conf", "[policy good]\nsinks = 2\n");
	assert_ok(kvmod_reload(ctx));
	assert_ok(fixture_open(ctx, "good", &after));
	ck_assert_ptr_eq(kvmod_policy_ops(before), kvmod_policy_ops(after));
	kvmod_policy_close(before);
	kvmod_policy_close(after);
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("check", fine, names_the_file, wrong_configuration, crashes, hangs, chatters,
	     ends_the_process, fails, bad_plan, on_another_device, engine_is_missing,
	     the_child_runs_no_exit_handlers, with_other_threads,
	     crashes_and_leaves_a_process, goes_on_in_another_process, reload,
	     a_bad_reload_changes_nothing, reload_while_a_policy_is_open)
