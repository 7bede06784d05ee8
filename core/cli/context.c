/* SPDX-License-Identifier: Apache-2.0 */
/* From the common options to a configured context. */
#include "core/cli/cli.h"

#include <stdlib.h>

#define DEFAULT_ENGINE "ggml"

const char *cli_engine_name(struct kvmod_ctx *ctx)
{
	const char *name = kvmod_config_get(ctx, "kvmod", "engine");

	return name ? name : DEFAULT_ENGINE;
}

static int configure(struct kvmod_ctx *ctx, const struct cli_common *common,
		     const struct cli_strings *overrides)
{
	return kvmod_configure(ctx, common->config, overrides->item, overrides->n);
}

/*
 * Which engine -m speaks to is known only when the rest was read: so the
 * configuration is read twice then.
 */
static int configure_all(struct kvmod_ctx *ctx, const struct cli_common *common)
{
	struct cli_strings all = common->overrides;
	char *policy = NULL, *model = NULL;
	int err = CLI_OK;

	if (all.n + 2 > CLI_MAX_STRINGS)
		return cli_error("more than %d of -o", CLI_MAX_STRINGS - 2);
	if (common->policy) {
		if (asprintf(&policy, "kvmod.policy=%s", common->policy) < 0)
			return cli_error("out of memory");
		all.item[all.n++] = policy;
	}
	if (configure(ctx, common, &all))
		err = cli_error_kvmod();
	if (!err && common->model) {
		if (asprintf(&model, "engine %s.model=%s", cli_engine_name(ctx), common->model) < 0) {
			free(policy);
			return cli_error("out of memory");
		}
		all.item[all.n++] = model;
		if (configure(ctx, common, &all))
			err = cli_error_kvmod();
	}
	free(model);
	free(policy);
	return err;
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
		fprintf(stderr, "kvmod: warning: looking in the usual module path only: %s\n",
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
