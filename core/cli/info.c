/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod info: what a module file says of itself, without running it. */
#include "core/cli/cli.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARAMS 64

static const char *const facts[] = { "name", "version", "license", "author", "description", "abi" };
static const char *const kinds[] = { "policy", "engine", "device", "collective" };

/* --- parameters -------------------------------------------------------------------------- */

/* "refreekv.sinks\tINT\t4\t0..1024\thelp", in its parts. */
struct param {
	char *owner, *name, *type, *def, *range, *help;
};

static bool split_param(const char *text, struct param *p)
{
	char *rest = p->owner = strdup(text);

	if (!rest)
		return false;
	strsep(&rest, ".");
	p->name = strsep(&rest, "\t");
	p->type = strsep(&rest, "\t");
	p->def = strsep(&rest, "\t");
	p->range = strsep(&rest, "\t");
	p->help = rest;
	for (char *c = p->type; c && *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return p->help;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct param *)a)->name, ((const struct param *)b)->name);
}

/* The parameters of an owner by name: a section's own order is the compiler's. */
static size_t read_params(const struct kvmod_modinfo *info, const char *owner, struct param *params)
{
	const char *text;
	size_t n = 0;

	for (unsigned i = 0; n < MAX_PARAMS && (text = kvmod_modinfo_get(info, "param", i)); i++) {
		if (split_param(text, &params[n]) && !strcmp(params[n].owner, owner))
			n++;
		else
			free(params[n].owner);
	}
	qsort(params, n, sizeof(*params), by_name);
	return n;
}

/* --- printing -------------------------------------------------------------------------------- */

static void print_params(const struct kvmod_modinfo *info, const char *owner)
{
	struct param params[MAX_PARAMS];
	size_t n = read_params(info, owner, params);

	if (n)
		printf("  %-16s %-7s %-12s %-16s %s\n", "PARAMETER", "TYPE", "DEFAULT", "RANGE", "HELP");
	for (struct param *p = params; p < params + n; p++) {
		printf("  %-16s %-7s %-12s %-16s %s\n", p->name, p->type, *p->def ? p->def : "-",
		       *p->range ? p->range : "-", p->help);
		free(p->owner);
	}
}

static int print_info(const struct kvmod_modinfo *info)
{
	const char *name;

	printf("%-12s %s\n", "file", kvmod_modinfo_path(info));
	for (size_t i = 0; i < CLI_COUNT(facts); i++)
		if ((name = kvmod_modinfo_get(info, facts[i], 0)))
			printf("%-12s %s\n", facts[i], name);
	for (size_t k = 0; k < CLI_COUNT(kinds); k++) {
		for (unsigned i = 0; (name = kvmod_modinfo_get(info, kinds[k], i)); i++) {
			printf("\n[%s%s %s%s]\n", cli_style(stdout, CLI_BOLD), kinds[k], name,
			       cli_style(stdout, CLI_PLAIN));
			print_params(info, name);
		}
	}
	return CLI_OK;
}

static json_t *params_json(const struct kvmod_modinfo *info, const char *owner)
{
	struct param params[MAX_PARAMS];
	size_t n = read_params(info, owner, params);
	json_t *array = json_array();

	for (struct param *p = params; p < params + n; p++) {
		json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:s, s:s}",
						       "name", p->name, "type", p->type,
						       "default", p->def, "range", p->range,
						       "help", p->help));
		free(p->owner);
	}
	return array;
}

static int print_json(const struct kvmod_modinfo *info)
{
	json_t *object = json_pack("{s:s}", "file", kvmod_modinfo_path(info));
	json_t *provided = json_array();
	const char *name;

	for (size_t i = 0; i < CLI_COUNT(facts); i++)
		if ((name = kvmod_modinfo_get(info, facts[i], 0)))
			json_object_set_new(object, facts[i], json_string(name));
	for (size_t k = 0; k < CLI_COUNT(kinds); k++) {
		for (unsigned i = 0; (name = kvmod_modinfo_get(info, kinds[k], i)); i++) {
			json_array_append_new(provided, json_pack(
				"{s:s, s:s, s:o}", "kind", kinds[k], "name", name,
				"parameters", params_json(info, name)));
		}
	}
	json_object_set_new(object, "provides", provided);
	return cli_print_json(object);
}

static int show(struct kvmod_ctx *ctx, const char *name, bool json)
{
	struct kvmod_modinfo *info;
	char *path;
	int err;

	if (cli_find_module(ctx, name, &path))
		return CLI_FAILED;
	err = kvmod_modinfo_read(ctx, path, &info);
	free(path);
	if (err)
		return cli_error_kvmod();
	err = json ? print_json(info) : print_info(info);
	kvmod_modinfo_free(info);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	int first = cli_parse(self, &common, NULL, argc, argv), err;
	struct kvmod_ctx *ctx;

	if (argc - first != 1)
		cli_usage_error(self, "one MODULE or FILE was expected");
	ctx = cli_context_to_look(&common);
	if (!ctx)
		return CLI_FAILED;
	err = show(ctx, argv[first], common.json);
	kvmod_unref(ctx);
	return err;
}

const struct cli_command cli_info = {
	.name = "info",
	.run = run,
	.summary = "show a module's metadata and parameters without running it",
	.operands = "MODULE|FILE",
	.details =
"MODULE is the name of a module in module_path, or of a policy or engine that one\n"
"provides. FILE has a '/' or a '.' in it.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
