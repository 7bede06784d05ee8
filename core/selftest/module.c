/* SPDX-License-Identifier: Apache-2.0 */
/* selftest: the module file and what is loaded from it, and golden vectors. */
#include "core/selftest/selftest.h"
#include "core/testkit/vectors.h"
#include "core/base/names.h"

#include <dlfcn.h>
#include <string.h>

/* --- the module --------------------------------------------------------------------- */

static void check_facts(struct selftest *t)
{
	static const char *const facts[] = {
		"name", "version", "license", "author", "description", "abi",
	};
	static const char *const kinds[] = { "policy", "engine", "device" };
	unsigned n_provided = 0;

	for (size_t i = 0; i < CLI_COUNT(facts); i++) {
		const char *value = kvmod_modinfo_get(t->info, facts[i], 0);

		if (!value || !*value)
			selftest_fail(t, "the section " KVMOD_INFO_SECTION " gives no %s", facts[i]);
		else if (kvmod_modinfo_get(t->info, facts[i], 1))
			selftest_fail(t, "the section " KVMOD_INFO_SECTION " gives two of %s",
				      facts[i]);
	}
	for (size_t i = 0; i < CLI_COUNT(kinds); i++)
		n_provided += kvmod_modinfo_get(t->info, kinds[i], 0) != NULL;
	if (!n_provided)
		selftest_fail(t, "the section names no policy, engine or device: "
			      "see KVMOD_PARAMS() and KVMOD_NO_PARAMS()");
}

static void compare(struct selftest *t, const char *fact, const char *said)
{
	const char *written = kvmod_modinfo_get(t->info, fact, 0);

	if (!said || !written || strcmp(said, written) != 0)
		selftest_fail(t, "the descriptor's %s is `%s`, the section's `%s`", fact,
			      said ? said : "(none)", written ? written : "(none)");
}

/* The core has loaded it: this only finds it again. */
static void check_descriptor(struct selftest *t)
{
	void *handle = dlopen(kvmod_modinfo_path(t->info), RTLD_NOW | RTLD_LOCAL);
	const struct kvmod_module *module = handle ? dlsym(handle, "kvmod_module") : NULL;

	if (!module) {
		selftest_fail(t, "%s", dlerror());
	} else {
		compare(t, "name", module->name);
		compare(t, "version", module->version);
		compare(t, "license", module->license);
		compare(t, "author", module->author);
		compare(t, "description", module->description);
		if (!kv_name_valid(module->name))
			selftest_fail(t, "the name `%s` is not made of letters, digits, - and _",
				      module->name);
	}
	if (handle)
		dlclose(handle);
}

static int load(struct selftest *t)
{
	int err = kvmod_load(t->ctx, kvmod_modinfo_path(t->info));

	return err ? err : selftest_configure(t, NULL);
}

static void check_reload(struct selftest *t)
{
	if (kvmod_unload(t->ctx, kvmod_modinfo_get(t->info, "name", 0)))
		selftest_fail(t, "unloading: %s", kvmod_error());
	else if (load(t))
		selftest_fail(t, "loading it again: %s", kvmod_error());
}

bool selftest_module(struct selftest *t)
{
	int err;

	if (selftest_begin(t, "metadata is complete")) {
		check_facts(t);
		selftest_end(t);
	}
	if (selftest_begin(t, "loads")) {
		err = load(t);
		if (err)
			selftest_fail(t, "%s", kvmod_error());
		selftest_end(t);
	} else {
		err = load(t);
	}
	if (err)
		return false;
	if (selftest_begin(t, "descriptor agrees with metadata")) {
		check_descriptor(t);
		selftest_end(t);
	}
	if (selftest_begin(t, "unloads, and loads again")) {
		check_reload(t);
		selftest_end(t);
	}
	return true;
}

/* --- golden vectors ------------------------------------------------------------------ */

static bool is_ours(const struct selftest *t, const char *policy)
{
	const char *name;

	for (unsigned i = 0; (name = kvmod_modinfo_get(t->info, "policy", i)); i++)
		if (kv_name_eq(name, policy))
			return cli_runs_there(t->info, name, t->device);
	return false;
}

static void check_case(struct selftest *t, const struct vectors_case *c)
{
	const struct cli_strings *given = &t->common->overrides;
	char why[1024] = "";

	if (vectors_run(t->ctx, t->common->config, given->item, given->n, c, KVMOD_F32,
			t->device, why, sizeof(why)))
		selftest_fail(t, "%s", why);
}

void selftest_vectors(struct selftest *t, const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	struct vectors v;
	struct vectors_case *c;
	unsigned n = 0;
	int got = vectors_open(&v, path);

	while (got >= 0 && (got = vectors_next(&v, &c)) == 1) {
		if (is_ours(t, c->policy)) {
			n++;
			if (selftest_begin(t, "vector %s:%u %s", base, c->line, c->name)) {
				check_case(t, c);
				selftest_end(t);
			}
		}
		vectors_case_free(c);
	}
	if ((got < 0 || n == 0) && selftest_begin(t, "vectors of %s", base)) {
		if (got < 0)
			selftest_fail(t, "%s", v.error);
		else
			selftest_fail(t, "%s has no case of a policy of this module for %s",
				      path, t->device);
		selftest_end(t);
	}
	vectors_close(&v);
}
