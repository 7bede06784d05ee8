/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a name on the command line stands for. */
#include "core/cli/cli.h"
#include "core/base/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = { "policy", "engine", "device" };

struct search {
	const char *name;
	const char *device;		/* its policy must run there; NULL: anything goes */
	struct cli_found *found;
	struct kv_nearest nearest;
};

const char *cli_blacklisted(struct kvmod_ctx *ctx, const struct kvmod_modinfo *info)
{
	return kvmod_config_get(ctx, "blacklist", kvmod_modinfo_get(info, "name", 0));
}

const char *cli_runs_on(const struct kvmod_modinfo *info, const char *policy)
{
	const char *said;

	for (unsigned i = 0; (said = kvmod_modinfo_get(info, "on", i)); i++) {
		size_t n = strcspn(said, "\t");

		if (kv_name_is(said, n, policy))
			return said + n + 1;
	}
	return "cpu";
}

bool cli_runs_there(const struct kvmod_modinfo *info, const char *policy, const char *device)
{
	const char *on = cli_runs_on(info, policy);
	size_t length = strlen(device);

	for (; *on; on += strcspn(on, " "), on += strspn(on, " "))
		if (strcspn(on, " ") == length && !memcmp(on, device, length))
			return true;
	return false;
}

static bool provides(struct search *s, const struct kvmod_modinfo *info, const char *key)
{
	const char *name;

	for (unsigned i = 0; (name = kvmod_modinfo_get(info, key, i)); i++) {
		if (kv_name_eq(name, s->name))
			return !s->device || strcmp(key, "policy") ||
			       cli_runs_there(info, name, s->device);
		kv_nearest_offer(&s->nearest, name);
	}
	return false;
}

/* A refused file has no facts; its own name may be what was asked for. */
static bool is_named(const struct search *s, const char *path)
{
	const char *base = strrchr(path, '/');
	char stem[256];

	snprintf(stem, sizeof(stem), "%s", base ? base + 1 : path);
	*strchrnul(stem, '.') = '\0';
	return kv_name_eq(stem, s->name);
}

/* A module of that name comes first. */
static int add(struct cli_found *found, const char *path, bool first)
{
	char *copy;

	if (found->n == CLI_MAX_FOUND)
		return 0;
	copy = cli_strdup(path);
	if (first)
		memmove(found->path + 1, found->path, found->n * sizeof(*found->path));
	found->path[first ? 0 : found->n] = copy;
	found->n++;
	return 0;
}

static bool has_policy(const struct kvmod_modinfo *info, const char *name)
{
	const char *policy;

	for (unsigned i = 0; (policy = kvmod_modinfo_get(info, "policy", i)); i++)
		if (kv_name_eq(policy, name))
			return true;
	return false;
}

/* refreekv.so is not meant where its policy is asked for on a device that it does not run on. */
static int look_at(void *arg, const char *path, int error, const struct kvmod_modinfo *info)
{
	struct search *s = arg;
	bool is_it = error ? is_named(s, path) : provides(s, info, "name"), has_it = false;

	for (size_t k = 0; k < CLI_COUNT(kinds) && !error; k++)
		has_it = provides(s, info, kinds[k]) || has_it;
	if (is_it && !has_it && !error && has_policy(info, s->name))
		is_it = false;
	return is_it || has_it ? add(s->found, path, is_it) : 0;
}

void cli_found_free(struct cli_found *found)
{
	while (found->n)
		free(found->path[--found->n]);
}

/* Of what the core brings itself. */
static bool is_built_in(const char *name)
{
	return kv_name_eq(name, CLI_BUILT_IN_POLICY) || kv_name_eq(name, CLI_BUILT_IN_DEVICE);
}

int cli_find_modules(struct kvmod_ctx *ctx, const char *name, const char *device,
		     struct cli_found *found)
{
	struct search s = { .device = device, .found = found };
	char hint[KV_HINT_ROOM];
	const char *target;

	found->n = 0;
	if (strpbrk(name, "/.")) {		/* no name has these */
		found->path[0] = realpath(name, NULL);
		found->n = found->path[0] != NULL;
		return found->n ? CLI_OK : cli_error("%s: %s", name, strerror(errno));
	}
	target = kvmod_config_get(ctx, "alias", name);
	s.name = target ? target : name;
	kv_nearest_start(&s.nearest, s.name);
	if (kvmod_modules_each(ctx, look_at, &s)) {
		cli_found_free(found);
		return cli_error_kvmod();
	}
	if (!found->n && is_built_in(s.name))
		return cli_error("`%s` is built in: no module has it", s.name);
	if (!found->n)
		return cli_error("no module, policy or engine `%s`%s%s%s%s%s%s", s.name,
				 device ? " for " : "", device ? device : "",
				 target ? ", which the alias `" : "", target ? name : "",
				 target ? "` stands for" : "",
				 kv_nearest_hint(&s.nearest, hint, sizeof(hint)));
	return CLI_OK;
}

int cli_find_module(struct kvmod_ctx *ctx, const char *name, const char *device, char **path)
{
	struct cli_found found;

	if (cli_find_modules(ctx, name, device, &found))
		return CLI_FAILED;
	*path = found.path[0];
	found.path[0] = NULL;
	cli_found_free(&found);
	return CLI_OK;
}

int cli_check_name_free(struct kvmod_ctx *ctx, const char *name)
{
	const char *target = kvmod_config_get(ctx, "alias", name);
	struct cli_found found = { 0 };
	struct search s = { .name = name, .found = &found };
	int err;

	if (is_built_in(name))
		return cli_error("`%s` is taken: it is built in", name);
	if (target)
		return cli_error("`%s` is taken: the configuration has it as an alias of `%s`", name,
				 target);
	kv_nearest_start(&s.nearest, name);
	err = kvmod_modules_each(ctx, look_at, &s) ? cli_error_kvmod() : CLI_OK;
	if (!err && found.n)
		err = cli_error("`%s` is taken: %s has that name, or provides something of that name",
				name, found.path[0]);
	cli_found_free(&found);
	return err;
}
