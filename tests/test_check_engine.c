/* SPDX-License-Identifier: Apache-2.0 */
/* Check sees what a session would meet: the engine's model, its policy, both together. */
#include "core/check/check.h"
#include "tests/fixture.h"

#include <string.h>

static char found[4096];
static uint32_t limit_ms = 10000;

static void note(void *arg, const struct kvmod_finding *f)
{
	size_t n = strlen(found);

	(void)arg;
	snprintf(found + n, sizeof(found) - n, "%s %s: %s%s%s\n", f->kind,
		 *f->name == '/' ? strrchr(f->name, '/') + 1 : f->name, kvmod_strerror(f->code),
		 *f->message ? " " : "", f->message);
}

static int check(struct kvmod_ctx *ctx, const char *text)
{
	char override[128];
	const char *overrides[] = { override };

	found[0] = fixture_log[0] = '\0';
	snprintf(override, sizeof(override), "kvmod.module_path=%s", fixture_dir);
	return kvmod_check(ctx, fixture_write("tried.conf", text), overrides, 1, limit_ms, note, NULL);
}

static struct kvmod_ctx *context(void)
{
	fixture_module("probed", NULL);
	fixture_module("older", NULL);
	fixture_module("policies", NULL);
	return fixture_context();
}

/* The engine in use fails, and all else is fine. */
static void assert_engine_fails(const char *text, int code, const char *message)
{
	struct kvmod_ctx *ctx = context();
	char line[512];

	snprintf(line, sizeof(line), "engine probed: %s", message);
	assert_fails(check(ctx, text), code, line);
	snprintf(line, sizeof(line), "engine probed: %s %s\n", kvmod_strerror(code), message);
	ck_assert_str_eq(strstr(found, "engine probed"), line);
	kvmod_unref(ctx);
}

START_TEST(fine)
{
	struct kvmod_ctx *ctx = context();

	assert_ok(check(ctx, "[kvmod]\nengine = probed\npolicy = alone\n"));
	ck_assert_str_eq(found, "configuration tried.conf: KVMOD_OK\npolicy alone: KVMOD_OK\n"
			 "engine probed: KVMOD_OK\n");
	ck_assert_str_eq(fixture_log, "probed: check()\nprobed: close()\n");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(an_engine_that_cannot_check_is_opened)
{
	struct kvmod_ctx *ctx = context();

	assert_ok(check(ctx, "[kvmod]\nengine = older\npolicy = needy\n"));
	ck_assert_str_eq(fixture_log, "older: open()\nolder: close()\n");
	assert_fails(check(ctx, "[kvmod]\nengine = older\n[engine older]\nanswer = refuse\n"),
		     KVMOD_EFORMAT, "engine older: no model for open()");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(what_opening_would_meet)
{
	static const char *const start = "[kvmod]\nengine = probed\n[engine probed]\nanswer = %s\n";
	char text[128];

	snprintf(text, sizeof(text), start, "refuse");
	assert_engine_fails(text, KVMOD_EFORMAT, "no model for check()");
	snprintf(text, sizeof(text), start, "crash");
	assert_engine_fails(text, KVMOD_ECRASH, "died of SIGSEGV (Segmentation fault) while opening it");
	limit_ms = 1000;
	snprintf(text, sizeof(text), start, "hang");
	assert_engine_fails(text, KVMOD_ETIMEOUT, "opening it did not end within 1 s");
	limit_ms = 10000;
}
END_TEST

START_TEST(needs_that_are_not_served)
{
	assert_engine_fails("[kvmod]\nengine = probed\npolicy = needy\n", KVMOD_ENOTSUP,
			    "with policy needy: column sums are not collected");
}
END_TEST

/* Each module loads alone, but not both. */
START_TEST(a_name_that_is_taken)
{
	struct kvmod_ctx *ctx = context();

	remove(fixture_path("policies.so"));
	fixture_module("taken", NULL);
	assert_fails(check(ctx, "[kvmod]\nengine = probed\npolicy = alone\n"), KVMOD_EEXIST,
		     "engine probed: with policy alone: taken.so: init() failed: "
		     "policy `shared`: the name is taken by probed");
	ck_assert_ptr_nonnull(strstr(found, "policy alone: KVMOD_OK\n"));
	kvmod_unref(ctx);
}
END_TEST

/* Its model may be on another machine. */
START_TEST(an_engine_that_is_not_in_use_is_only_loaded)
{
	struct kvmod_ctx *ctx = context();

	assert_ok(check(ctx, "[kvmod]\nengine = older\n[engine probed]\nanswer = crash\n"));
	ck_assert_ptr_nonnull(strstr(found, "engine probed: KVMOD_OK\n"));
	ck_assert_str_eq(fixture_log, "older: open()\nolder: close()\n");
	kvmod_unref(ctx);
}
END_TEST

/* A fork of a process that runs the engine could wait forever for one of its locks. */
START_TEST(an_engine_that_is_open_is_not_opened_again)
{
	struct kvmod_ctx *ctx = context();
	struct kvmod_engine *engine;

	assert_ok(kvmod_engine_open(ctx, "probed", &engine));
	assert_ok(check(ctx, "[kvmod]\nengine = probed\n[engine probed]\nanswer = crash\n"));
	kvmod_engine_close(engine);
	ck_assert_int_eq(check(ctx, "[kvmod]\nengine = probed\n[engine probed]\nanswer = crash\n"),
			 KVMOD_ECRASH);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(a_mistake_is_reported_once)
{
	struct kvmod_ctx *ctx = context();

	fixture_module("crash", NULL);
	ck_assert_int_eq(check(ctx, "[kvmod]\nengine = probed\npolicy = crash\n"), KVMOD_ECRASH);
	ck_assert_ptr_nonnull(strstr(found, "engine probed: KVMOD_OK\n"));
	/* What a policy says, each of two children would say. */
	fixture_module("good", NULL);
	assert_ok(check(ctx, "[kvmod]\nengine = probed\npolicy = good\n"));
	ck_assert_str_eq(fixture_log, "good: sinks 4, threshold 0.5\nprobed: check()\nprobed: close()\n");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(names_the_drop_ins)
{
	struct kvmod_ctx *ctx = context();

	ck_assert_int_eq(mkdir(fixture_path("tried.conf.d"), 0755), 0);
	fixture_write("tried.conf.d/b.conf", "");
	fixture_write("tried.conf.d/a.conf", "[kvmod]\npolicy = alone\n");
	fixture_write("tried.conf.d/a.conf.old", "[kvmod]\npolicy = needy\n");
	assert_ok(check(ctx, "[kvmod]\npolicy = gone\n"));
	ck_assert_str_eq(found, "configuration tried.conf: KVMOD_OK\ndrop-in a.conf: KVMOD_OK\n"
			 "drop-in b.conf: KVMOD_OK\npolicy alone: KVMOD_OK\n");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(aliases)
{
	struct kvmod_ctx *ctx = context();
	char said[256];

	ck_assert_int_eq(check(ctx, "[alias]\na = alone\nb = probed\nc = cpu\nd = alome\n"
			       "needy = alone\n"), KVMOD_ENOENT);
	ck_assert_str_eq(fixture_error(), "alias d: tried.conf:5: no policy, engine or device `alome`; "
			 "did you mean `alone`?");
	ck_assert_ptr_nonnull(strstr(found, "alias a: KVMOD_OK\nalias b: KVMOD_OK\n"
				     "alias c: KVMOD_OK\nalias d: KVMOD_ENOENT "));
	snprintf(said, sizeof(said), "%s/tried.conf:6: the alias `needy` hides the policy of that name\n",
		 fixture_dir);
	ck_assert_str_eq(fixture_log, said);
	/* Nothing asks for it. */
	assert_ok(fixture_configure(ctx, "[alias]\nd = alome\n"));
	kvmod_unref(ctx);
}
END_TEST

/* Sections of what cannot be had, and is not in use. */
START_TEST(what_is_passed_over)
{
	struct kvmod_ctx *ctx = context();

	assert_ok(check(ctx, "[policy gone]\nx = 1\n[engine gone]\nx = 1\n[policy alone]\n"
			"[blacklist]\npolicies = slow\n"));
	ck_assert_str_eq(found, "configuration tried.conf: KVMOD_OK\npolicy fullkv: KVMOD_OK\n");
	ck_assert_ptr_nonnull(strstr(fixture_log, "policy alone is not tried: module `policies` is "
				     "blacklisted: slow\n"));
	assert_fails(check(ctx, "[kvmod]\npolicy = alone\n[blacklist]\npolicies = slow\n"), KVMOD_EPERM,
		     "policy alone: policies.so: tried.conf:4: module `policies` is blacklisted: slow");
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("check_engine", fine, an_engine_that_cannot_check_is_opened, what_opening_would_meet,
	     needs_that_are_not_served, a_name_that_is_taken,
	     an_engine_that_is_not_in_use_is_only_loaded, an_engine_that_is_open_is_not_opened_again,
	     a_mistake_is_reported_once, names_the_drop_ins, aliases, what_is_passed_over)
