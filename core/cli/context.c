/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a configured context from the common options. */
#include "core/cli/cli.h"

#include <stdlib.h>

const char *cli_engine_name(struct kvmod_ctx *ctx)
{
	const char *name = kvmod_config_get(ctx, "kvmod", "engine");

	return name ? name : CLI_DEFAULT_ENGINE;
}

static int configure(struct kvmod_ctx *ctx, const struct cli_common *common,
		     const struct cli_strings *overrides)
{
	return kvmod_configure(ctx, common->config, overrides->item, overrides->n);
}

static bool add(struct cli_overrides *o, char **own, const char *section, const char *key,
		const char *value)
{
	if (asprintf(own, "%s.%s=%s", section, key, value) < 0) {
		*own = NULL;
		return false;
	}
	o->all.item[o->all.n++] = *own;
	return true;
}

static void say_nothing(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
}

/*
 * -m sets the model of the engine in use, which is known only after the rest has been
 * read. A second context reads it silently; the first one reports what is wrong.
 */
static int engine_section(const struct cli_common *common, const struct cli_strings *overrides,
			  char *section, size_t room)
{
	struct kvmod_ctx *ctx;
	int err = kvmod_new(&ctx);

	if (err)
		return err;
	kvmod_set_log(ctx, say_nothing, NULL);
	err = configure(ctx, common, overrides);
	if (!err)
		snprintf(section, room, "engine %s", cli_engine_name(ctx));
	kvmod_unref(ctx);
	return err;
}

int cli_configure(struct kvmod_ctx *ctx, const struct cli_common *common, bool quiet,
		  struct cli_overrides *o)
{
	char section[80];

	*o = (struct cli_overrides){ .all = common->overrides };
	if (o->all.n + CLI_OWN_OVERRIDES > CLI_MAX_STRINGS)
		return cli_error("-o: given more than %d times", CLI_MAX_STRINGS - CLI_OWN_OVERRIDES);
	if (common->policy && !add(o, &o->policy, "kvmod", "policy", common->policy))
		return cli_error("out of memory");
	if (quiet)
		kvmod_set_log(ctx, say_nothing, NULL);
	if (common->model && !engine_section(common, &o->all, section, sizeof(section)) &&
	    !add(o, &o->model, section, "model", common->model))
		return cli_error("out of memory");
	return configure(ctx, common, &o->all);
}

void cli_overrides_free(struct cli_overrides *o)
{
	free(o->policy);
	free(o->model);
	*o = (struct cli_overrides){ 0 };
}

static int configure_all(struct kvmod_ctx *ctx, const struct cli_common *common)
{
	struct cli_overrides o;
	int err = cli_configure(ctx, common, false, &o);

	cli_overrides_free(&o);
	return err < 0 ? cli_error_kvmod() : err;
}

struct kvmod_ctx *cli_context_to_look(const struct cli_common *common)
{
	struct kvmod_ctx *ctx;
	int err;

	if (common->config || common->overrides.n)
		return cli_context(common);
	if (kvmod_new(&ctx)) {
		cli_error_kvmod();
		return NULL;
	}
	err = kvmod_configure(ctx, NULL, NULL, 0);
	if (err == KVMOD_ENOMEM)
		cli_no_memory();
	if (err)
		fprintf(stderr, "kvmod: warning: searching only the default module path: %s\n",
			kvmod_error());
	return ctx;
}

struct kvmod_ctx *cli_context(const struct cli_common *common)
{
	struct kvmod_ctx *ctx;

	if (kvmod_new(&ctx)) {
		cli_error_kvmod();
		return NULL;
	}
	if (configure_all(ctx, common)) {
		kvmod_unref(ctx);
		return NULL;
	}
	return ctx;
}
