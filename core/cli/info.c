/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod info: what a module file says of itself, without running it. */
#include "core/cli/cli.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *const facts[] = { "name", "version", "license", "author", "description", "abi" };
static const char *const kinds[] = { "policy", "engine", "device" };

/* --- parameters -------------------------------------------------------------------------- */

/* "refreekv.sinks\tINT\t4\t0..1024\thelp", in its parts. */
struct param {
	char *owner, *name, *type, *def, *range, *help;
};

static bool split_param(const char *text, struct param *p)
{
	char *rest = p->owner = cli_strdup(text);

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
static struct param *read_params(const struct kvmod_modinfo *info, const char *owner, size_t *n)
{
	struct param *params;
	const char *text;
	unsigned room = 0;

	while (kvmod_modinfo_get(info, "param", room))
		room++;
	params = cli_alloc(room * sizeof(*params));
	*n = 0;
	for (unsigned i = 0; (text = kvmod_modinfo_get(info, "param", i)); i++) {
		if (split_param(text, &params[*n]) && !strcmp(params[*n].owner, owner))
			++*n;
		else
			free(params[*n].owner);
	}
	qsort(params, *n, sizeof(*params), by_name);
	return params;
}

/* --- printing -------------------------------------------------------------------------------- */

static void print_params(const struct kvmod_modinfo *info, const char *owner)
{
	size_t n;
	struct param *params = read_params(info, owner, &n);

	if (n)
		printf("  %-16s %-7s %-12s %-16s %s\n", "PARAMETER", "TYPE", "DEFAULT", "RANGE", "HELP");
	for (struct param *p = params; p < params + n; p++) {
		printf("  %-16s %-7s %-12s %-16s %s\n", cli_show(p->name), cli_show(p->type),
		       *p->def ? cli_show(p->def) : "-", *p->range ? cli_show(p->range) : "-",
		       cli_show(p->help));
		free(p->owner);
	}
	free(params);
}

static void print_heading(const struct kvmod_modinfo *info, const char *kind, const char *name)
{
	bool runs = !strcmp(kind, "policy");

	printf("\n[%s%s %s%s]%s%s\n", cli_style(stdout, CLI_BOLD), kind, cli_show(name),
	       cli_style(stdout, CLI_PLAIN), runs ? " on " : "",
	       runs ? cli_show(cli_runs_on(info, name)) : "");
}

static int print_info(struct kvmod_ctx *ctx, const struct kvmod_modinfo *info)
{
	const char *name;

	printf("%-12s %s\n", "file", cli_show(kvmod_modinfo_path(info)));
	for (size_t i = 0; i < CLI_COUNT(facts); i++)
		if ((name = kvmod_modinfo_get(info, facts[i], 0)))
			printf("%-12s %s\n", facts[i], cli_show(name));
	if ((name = cli_blacklisted(ctx, info)))
		printf("%-12s %s\n", "blacklisted", cli_show(name));
	for (unsigned i = 0; (name = kvmod_modinfo_get(info, "built_for", i)); i++)
		printf("%-12s %s\n", "built for", cli_show(name));
	for (size_t k = 0; k < CLI_COUNT(kinds); k++) {
		for (unsigned i = 0; (name = kvmod_modinfo_get(info, kinds[k], i)); i++) {
			print_heading(info, kinds[k], name);
			print_params(info, name);
		}
	}
	return CLI_OK;
}

static json_t *params_json(const struct kvmod_modinfo *info, const char *owner)
{
	size_t n;
	struct param *params = read_params(info, owner, &n);
	json_t *array = json_array();

	for (struct param *p = params; p < params + n; p++) {
		json_array_append_new(array, json_pack("{s:o, s:o, s:o, s:o, s:o}",
						       "name", cli_json_text(p->name),
						       "type", cli_json_text(p->type),
						       "default", cli_json_text(p->def),
						       "range", cli_json_text(p->range),
						       "help", cli_json_text(p->help)));
		free(p->owner);
	}
	free(params);
	return array;
}

static json_t *built_for_json(const struct kvmod_modinfo *info)
{
	json_t *array = json_array();
	const char *text;

	for (unsigned i = 0; (text = kvmod_modinfo_get(info, "built_for", i)); i++)
		json_array_append_new(array, cli_json_text(text));
	return array;
}

/* "cpu cuda" as an array; NULL, which packs as nothing, for what is no policy. */
static json_t *devices_json(const struct kvmod_modinfo *info, const char *kind, const char *name)
{
	const char *on = strcmp(kind, "policy") ? NULL : cli_runs_on(info, name);
	json_t *array = on ? json_array() : NULL;

	for (; on && *on; on += strcspn(on, " "), on += strspn(on, " "))
		json_array_append_new(array, json_stringn(on, strcspn(on, " ")));
	return array;
}

static json_t *info_json(struct kvmod_ctx *ctx, const struct kvmod_modinfo *info)
{
	json_t *object = json_pack("{s:o}", "file", cli_json_text(kvmod_modinfo_path(info)));
	json_t *provided = json_array();
	const char *name;

	for (size_t i = 0; i < CLI_COUNT(facts); i++)
		if ((name = kvmod_modinfo_get(info, facts[i], 0)))
			json_object_set_new(object, facts[i], cli_json_text(name));
	if ((name = cli_blacklisted(ctx, info)))
		json_object_set_new(object, "blacklisted", cli_json_text(name));
	for (size_t k = 0; k < CLI_COUNT(kinds); k++) {
		for (unsigned i = 0; (name = kvmod_modinfo_get(info, kinds[k], i)); i++) {
			json_array_append_new(provided, json_pack(
				"{s:s, s:o, s:o*, s:o}", "kind", kinds[k], "name", cli_json_text(name),
				"devices", devices_json(info, kinds[k], name),
				"parameters", params_json(info, name)));
		}
	}
	json_object_set_new(object, "built_for", built_for_json(info));
	json_object_set_new(object, "provides", provided);
	return object;
}

/* The first is shown as one alone would be; JSON has the others in it. */
static int show_one(const char *path, struct kvmod_ctx *ctx, json_t **object)
{
	struct kvmod_modinfo *info;

	if (kvmod_modinfo_read(ctx, path, &info))
		return cli_error_kvmod();
	if (!object)
		print_info(ctx, info);
	else if (!*object)
		*object = info_json(ctx, info);
	else
		json_array_append_new(json_object_get(*object, "others"), info_json(ctx, info));
	kvmod_modinfo_free(info);
	return CLI_OK;
}

static int show(struct kvmod_ctx *ctx, const char *name, bool json)
{
	json_t *object = NULL;
	struct cli_found found;
	int err = cli_find_modules(ctx, name, NULL, &found);

	for (size_t i = 0; i < found.n && !err; i++) {
		if (i && !json)
			putchar('\n');
		err = show_one(found.path[i], ctx, json ? &object : NULL);
		if (json && !err && !i)
			json_object_set_new(object, "others", json_array());
	}
	cli_found_free(&found);
	if (!err && json)
		return cli_print_json(object);
	json_decref(object);
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
"MODULE is the name of a module in module_path, or of a policy, engine or device that\n"
"one provides, or several: a policy may have versions for several devices. FILE has a\n"
"'/' or a '.' in it.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
