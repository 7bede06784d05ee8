/* SPDX-License-Identifier: Apache-2.0 */
/* A folder, a log and a context for each test of the core. */
#include <config.h>

#include "core/config/paths.h"
#include "core/modules/registry.h"
#include "tests/fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_PATHS 64

char fixture_dir[64];
char fixture_log[65536];

static char paths[N_PATHS][256];
static unsigned n_paths;

const struct kvmod_model fixture_model = {
	.size = sizeof(fixture_model), .n_layers = 2, .n_q_heads = 4, .n_kv_heads = 2,
	.head_dim = 32, .n_vocab = 100, .context = 1024, .name = "test", .architecture = "llama",
	.scale = 0.25f,
};

void fixture_setup(void)
{
	umask(022);
	strcpy(fixture_dir, "/tmp/kvmod-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(fixture_dir));
	fixture_log[0] = '\0';
	setenv("HOME", fixture_dir, 1);
	unsetenv("XDG_CONFIG_HOME");
	unsetenv("KVMOD_CONF");
}

static void remove_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	char name[512];

	while (dir && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR)
			remove_tree(name);
		unlink(name);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

void fixture_teardown(void)
{
	remove_tree(fixture_dir);
}

const char *fixture_path(const char *name)
{
	char *path = paths[n_paths++ % N_PATHS];

	snprintf(path, sizeof(paths[0]), "%s/%s", fixture_dir, name);
	return path;
}

const char *fixture_write_bytes(const char *name, const void *bytes, size_t n)
{
	const char *path = fixture_path(name);
	FILE *f;

	unlink(path);		/* the old file may be mapped */
	f = fopen(path, "we");
	ck_assert_msg(f != NULL, "%s", path);
	ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
	return path;
}

const char *fixture_write(const char *name, const char *text)
{
	return fixture_write_bytes(name, text, strlen(text));
}

void *fixture_read(const char *path, size_t *n)
{
	FILE *f = fopen(path, "re");
	char *bytes = malloc(1 << 24);

	ck_assert_msg(f && bytes, "%s", path);
	*n = fread(bytes, 1, 1 << 24, f);
	fclose(f);
	return bytes;
}

const char *fixture_module(const char *module, const char *name)
{
	char from[512], to[64];
	const char *path;
	size_t n;
	void *bytes;

	snprintf(from, sizeof(from), "%s/%s.so", TEST_MODULES, module);
	snprintf(to, sizeof(to), "%s.so", name ? name : module);
	bytes = fixture_read(from, &n);
	path = fixture_write_bytes(to, bytes, n);
	free(bytes);
	return path;
}

void fixture_patch(const char *path, const void *old, const void *new, size_t n)
{
	size_t size;
	char *bytes = fixture_read(path, &size);
	char *at = memmem(bytes, size, old, n);

	ck_assert_ptr_nonnull(at);
	memcpy(at, new, n);
	fixture_write_bytes(strrchr(path, '/') + 1, bytes, size);
	free(bytes);
}

static void log_line(void *arg, uint32_t level, const char *line)
{
	size_t n = strlen(fixture_log);

	(void)arg;
	(void)level;
	snprintf(fixture_log + n, sizeof(fixture_log) - n, "%s\n", line);
}

struct kvmod_ctx *fixture_context(void)
{
	struct kvmod_ctx *ctx;
	char override[128];
	const char *overrides[] = { override };

	assert_ok(kvmod_new(&ctx));
	kvmod_set_log(ctx, log_line, NULL);
	kvmod_set_log_level(ctx, KVMOD_INFO);
	snprintf(override, sizeof(override), "kvmod.module_path=%s", fixture_dir);
	assert_ok(kvmod_configure(ctx, "/dev/null", overrides, 1));
	return ctx;
}

int fixture_configure(struct kvmod_ctx *ctx, const char *text)
{
	char override[128];
	const char *overrides[] = { override };

	snprintf(override, sizeof(override), "kvmod.module_path=%s", fixture_dir);
	return kvmod_configure(ctx, fixture_write("kvmod.conf", text), overrides, 1);
}

int fixture_open(struct kvmod_ctx *ctx, const char *policy, struct kvmod_policy **out)
{
	return kvmod_policy_open(ctx, policy, "cpu", &fixture_model, out);
}

int fixture_open_with(struct kvmod_ctx *ctx, const struct kvmod_module *module, const char *policy,
		      const char *params, const struct kvmod_model *model,
		      struct kvmod_policy **out)
{
	char text[256];

	snprintf(text, sizeof(text), "[policy %s]\n%s\n", policy, params);
	assert_ok(kvmod_add_builtin(ctx, module));
	assert_ok(fixture_configure(ctx, text));
	fixture_log[0] = '\0';
	return kvmod_policy_open(ctx, policy, "cpu", model, out);
}

struct kvmod_plan *fixture_decide(const struct kvmod_module *module, const char *policy,
				  const char *params, const struct kvmod_model *model,
				  const struct kvmod_request *request, int32_t code)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *opened;
	struct kvmod_plan *plan;

	assert_ok(fixture_open_with(ctx, module, policy, params, model, &opened));
	assert_ok(kvmod_plan_new(request, &plan));
	ck_assert_int_eq(kvmod_decide(opened, request, plan), code);
	kvmod_policy_close(opened);
	kvmod_unref(ctx);
	return plan;
}

bool fixture_still_caches(uint32_t head, uint32_t position)
{
	return position < 4 || position % (head + 1) == 0 || position >= 40;
}

void fixture_first_cut(struct kvmod_head *heads, uint32_t n_heads, uint32_t n, int32_t *positions)
{
	for (uint32_t h = 0; h < n_heads; h++, positions += n) {
		heads[h].n = 0;
		for (uint32_t i = 0; i < n; i++)
			if (fixture_still_caches(h, i))
				positions[heads[h].n++] = (int32_t)i;
		heads[h].positions = positions;
	}
}

const char *fixture_error(void)
{
	static char text[1024];
	char dir[80], *at;
	size_t n;

	snprintf(text, sizeof(text), "%s", kvmod_error());
	n = (size_t)snprintf(dir, sizeof(dir), "%s/", fixture_dir);
	while ((at = strstr(text, dir)))
		memmove(at, at + n, strlen(at + n) + 1);
	return text;
}

int fixture_run(const char *name, const TTest *const *tests, size_t n)
{
	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create(name);
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tcase, fixture_setup, fixture_teardown);
	tcase_set_timeout(tcase, 60);
	for (size_t i = 0; i < n; i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

const char *fixture_no_cuda(void)
{
	static char text[256];
	char file[512];

	snprintf(file, sizeof(file), "%s/.libs/cuda.so", kv_build_tree() ? kv_build_tree() : "");
	text[0] = '\0';
	if (access(file, F_OK) == 0)
		snprintf(text, sizeof(text), " (looked in %s" KV_USUAL_HINT, fixture_dir);
	return text;
}

const char *fixture_no_device(void)
{
	const char *text = fixture_no_cuda();

	return *text ? text : " (installed: cpu)";
}
