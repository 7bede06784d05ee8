/* SPDX-License-Identifier: Apache-2.0 */
/* The file that a name on the command line stands for. */
#include "core/cli/cli.h"
#include "core/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = { "policy", "engine", "device", "collective" };

struct search {
	const char *name;
	char *path;			/* of the module that has it */
	struct kv_nearest nearest;
};

static bool provides(struct search *s, const struct kvmod_modinfo *info, const char *key)
{
	const char *name;

	for (unsigned i = 0; (name = kvmod_modinfo_get(info, key, i)); i++) {
		if (kv_name_eq(name, s->name))
			return true;
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

static int look_at(void *arg, const char *path, int error, const struct kvmod_modinfo *info)
{
	struct search *s = arg;
	bool found = error ? is_named(s, path) : provides(s, info, "name");

	for (size_t k = 0; k < CLI_COUNT(kinds) && !found && !error; k++)
		found = provides(s, info, kinds[k]);
	if (!found)
		return 0;
	s->path = strdup(path);
	return s->path ? 1 : KVMOD_ENOMEM;
}

int cli_find_module(struct kvmod_ctx *ctx, const char *name, char **path)
{
	struct search s = { .name = name };
	char hint[KV_HINT_ROOM];
	int found;

	if (strpbrk(name, "/.")) {		/* no name has these */
		*path = realpath(name, NULL);
		return *path ? CLI_OK : cli_error("%s: %s", name, strerror(errno));
	}
	kv_nearest_start(&s.nearest, name);
	found = kvmod_modules_each(ctx, look_at, &s);
	*path = s.path;
	if (found < 0)
		return cli_error_kvmod();
	if (!found)
		return cli_error("no module, policy or engine `%s`%s", name,
				 kv_nearest_hint(&s.nearest, hint, sizeof(hint)));
	return CLI_OK;
}
