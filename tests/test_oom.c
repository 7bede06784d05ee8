/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of the core fails once, and then each from there on: the call
 * says so or gives the right answer, nothing is lost, and the context goes on
 * working. The linker puts the functions below in the place of the allocator's and
 * of those that allocate within libc (see core.mk).
 */
#include "core/modules/catalog.h"
#include "tests/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef int filter_fn(const struct dirent *entry);
typedef int order_fn(const struct dirent **a, const struct dirent **b);
typedef int compare_fn(const void *a, const void *b);

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_reallocarray(void *old, size_t n, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
char *__real_realpath(const char *path, char *real);
int __real_scandir(const char *dir, struct dirent ***list, filter_fn *filter, order_fn *order);
void *__real_tsearch(const void *key, void **root, compare_fn *compare);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_reallocarray(void *old, size_t n, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_realpath(const char *path, char *real);
int __wrap_scandir(const char *dir, struct dirent ***list, filter_fn *filter, order_fn *order);
void *__wrap_tsearch(const void *key, void **root, compare_fn *compare);

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
	errno = ENOMEM;
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

char *__wrap_realpath(const char *path, char *real)
{
	return refused() ? NULL : __real_realpath(path, real);
}

int __wrap_scandir(const char *dir, struct dirent ***list, filter_fn *filter, order_fn *order)
{
	return refused() ? -1 : __real_scandir(dir, list, filter, order);
}

void *__wrap_tsearch(const void *key, void **root, compare_fn *compare)
{
	return refused() ? NULL : __real_tsearch(key, root, compare);
}

static void nothing(void *arg, uint32_t i)
{
	(void)arg;
	(void)i;
}

/* check allocates too. */
#define right(answer) do { \
		long kept = countdown; \
		countdown = -1; \
		ck_assert(answer); \
		countdown = kept; \
	} while (0)

/* Metadata of a module is complete, or missing with an error. */
static void assert_whole(const struct kvmod_modinfo *info)
{
	unsigned n = 0;

	right(strcmp(kvmod_modinfo_get(info, "name", 0), "good") == 0);
	right(strcmp(kvmod_modinfo_get(info, "policy", 0), "good") == 0);
	while (kvmod_modinfo_get(info, "param", n))
		n++;
	right(n == 3);
}

static int count_module(void *arg, const char *path, int error, const struct kvmod_modinfo *info)
{
	(void)path;
	right(error == KVMOD_OK);
	assert_whole(info);
	++*(unsigned *)arg;
	return 0;
}

/*
 * Everything that a program does with the core except deciding. Stops at the first
 * failure; without a failure the answers are those of a machine with enough memory.
 */
static int use(struct kvmod_ctx *ctx, const char *file)
{
	char override[128];
	const char *overrides[] = { override };
	struct kvmod_policy *policy;
	struct kvmod_modinfo *info;
	unsigned n_modules = 0;
	char *path;
	int err;

	snprintf(override, sizeof(override), "kvmod.module_path=%s", fixture_dir);
	err = kvmod_configure(ctx, NULL, overrides, 1);
	if (err)
		return err;
	right(strcmp(kvmod_config_get(ctx, "kvmod", "policy"), "x") == 0);
	right(strcmp(kvmod_config_get(ctx, "policy x", "sinks"), "4") == 0);
	err = kvmod_data_path(ctx, "nowhere/x", &path);
	if (err)
		return err;
	right(strcmp(path + strlen(path) - 10, "/nowhere/x") == 0);
	free(path);
	err = kvmod_modules_each(ctx, count_module, &n_modules);
	if (err)
		return err;
	right(n_modules == 1);
	err = kvmod_modinfo_read(ctx, file, &info);
	if (err)
		return err;
	assert_whole(info);
	kvmod_modinfo_free(info);
	err = kvmod_policy_open(ctx, NULL, "cpu", &fixture_model, &policy);
	if (err)
		return err;
	right(strcmp(kvmod_policy_ops(policy)->name, "good") == 0);
	kv_parallel(ctx, 4, nothing, NULL);
	kvmod_policy_close(policy);
	return kvmod_unload(ctx, "good");
}

static int use_new(const char *file)
{
	struct kvmod_ctx *ctx;
	int err = kvmod_new(&ctx);

	if (err)
		return err;
	kvmod_set_log_level(ctx, KVMOD_ERROR);
	kv_threads_set(ctx->threads, 2);
	err = use(ctx, file);
	countdown = -1;
	/* Whatever happened, it works now. */
	if (err)
		assert_ok(use(ctx, file));
	kvmod_unref(ctx);
	return err;
}

static void fail_each(bool from_there_on)
{
	const char *file = fixture_module("good", NULL);
	unsigned n_failed = 0;
	long n = 0;

	/* A drop-in has the last word, and the user's folder is where the file is found. */
	ck_assert_int_eq(mkdir(fixture_path(".config"), 0755), 0);
	ck_assert_int_eq(mkdir(fixture_path(".config/kvmod"), 0755), 0);
	ck_assert_int_eq(mkdir(fixture_path(".config/kvmod/kvmod.conf.d"), 0755), 0);
	fixture_write(".config/kvmod/kvmod.conf", "[kvmod]\npolicy = x\n[alias]\nx = good\n"
		      "[policy good]\nsinks = 3\n");
	fixture_write(".config/kvmod/kvmod.conf.d/a.conf", "[policy x]\nsinks = 4\n");
	for (;; n++) {
		int err;

		countdown = n;
		for_ever = from_there_on;
		n_refused = 0;
		err = use_new(file);
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
