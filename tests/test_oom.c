/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of the core fails once, and then each from there on: the call
 * says so, nothing is lost, and the context goes on working. The linker puts the
 * functions below in the place of the allocator's (see core.mk).
 */
#include "core/parts.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_reallocarray(void *old, size_t n, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_reallocarray(void *old, size_t n, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);

static long countdown = -1;		/* allocations that still succeed; negative: all do */
static bool for_ever;			/* all later ones fail too */
static unsigned n_refused;

static bool refused(void)
{
	if (countdown < 0 || countdown-- > 0)
		return false;
	if (for_ever)
		countdown = 0;
	n_refused++;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return refused() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return refused() ? NULL : __real_calloc(n, size);
}

void *__wrap_reallocarray(void *old, size_t n, size_t size)
{
	return refused() ? NULL : __real_reallocarray(old, n, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return refused() ? NULL : __real_aligned_alloc(align, size);
}

char *__wrap_strdup(const char *text)
{
	return refused() ? NULL : __real_strdup(text);
}

static void nothing(void *arg, uint32_t i)
{
	(void)arg;
	(void)i;
}

/* All that a program does with the core but deciding. Stops at the first failure. */
static int use(struct kvmod_ctx *ctx, const char *config, const char *file)
{
	char override[128];
	const char *overrides[] = { override };
	struct kvmod_policy *policy;
	struct kvmod_modinfo *info;
	int err;

	snprintf(override, sizeof(override), "kvmod.module_path=%s", fixture_dir);
	err = kvmod_configure(ctx, config, overrides, 1);
	if (err)
		return err;
	err = kvmod_modinfo_read(ctx, file, &info);
	if (err)
		return err;
	kvmod_modinfo_free(info);
	err = kvmod_policy_open(ctx, "good", "cpu", &fixture_model, &policy);
	if (err)
		return err;
	kv_parallel(ctx, 4, nothing, NULL);
	kvmod_policy_close(policy);
	return kvmod_unload(ctx, "good");
}

static int use_new(const char *config, const char *file)
{
	struct kvmod_ctx *ctx;
	int err = kvmod_new(&ctx);

	if (err)
		return err;
	kvmod_set_log_level(ctx, KVMOD_ERROR);
	kv_pool_set_threads(ctx->pool, 2);
	err = use(ctx, config, file);
	countdown = -1;
	/* Whatever happened, it works now. */
	if (err)
		assert_ok(use(ctx, config, file));
	kvmod_unref(ctx);
	return err;
}

static void fail_each(bool from_there_on)
{
	const char *config = fixture_write("kvmod.conf", "[alias]\nx = good\n[policy good]\nsinks = 3\n");
	const char *file = fixture_module("good", NULL);
	unsigned n_failed = 0;
	long n = 0;

	for (;; n++) {
		int err;

		countdown = n;
		for_ever = from_there_on;
		n_refused = 0;
		err = use_new(config, file);
		countdown = -1;
		if (n_refused == 0)
			break;
		/* A helper thread that could not be had is no failure. */
		ck_assert_msg(err == KVMOD_ENOMEM || err == KVMOD_OK, "allocation %ld: %s: %s", n,
			      kvmod_strerror(err), kvmod_error());
		n_failed += err == KVMOD_ENOMEM;
	}
	ck_assert_int_gt(n, 40);
	ck_assert_uint_gt(n_failed, 40);
}

START_TEST(one_fails)
{
	fail_each(false);
}
END_TEST

START_TEST(all_fail_from_there_on)
{
	fail_each(true);
}
END_TEST

FIXTURE_MAIN("oom", one_fails, all_fail_from_there_on)
