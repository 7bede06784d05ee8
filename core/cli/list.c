/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod list: the modules in module_path, read without running them. */
#include "core/cli/cli.h"

#include <string.h>

static const char *const kinds[] = { "policy", "engine", "device" };
static const char *const plurals[] = { "policies", "engines", "devices" };

struct list {
	struct kvmod_ctx *ctx;
	const char *only;		/* a kind, or "name": print just these */
	json_t *modules;		/* or NULL: a table */
	json_t *printed;		/* a set of names: policies may have several versions */
	size_t n;
};

/* --- a table ------------------------------------------------------------------------ */

static const char *text_of(const struct kvmod_modinfo *info, const char *key)
{
	const char *value = kvmod_modinfo_get(info, key, 0);

	return value ? value : "-";
}

static void print_row(const char *name, const char *version, const char *provides,
		      const char *on, const char *description)
{
	printf("%-16s %-9s %-26s %-*s%s%s\n", cli_show(name), cli_show(version), cli_show(provides),
	       *description ? 9 : 0, cli_show(on), *description ? " " : "", cli_show(description));
}

/* A row for each thing that it provides, the module's own words in the first. */
static void print_provides(const struct kvmod_modinfo *info)
{
	const char *name;
	char provides[96];
	bool first = true;

	for (size_t k = 0; k < CLI_COUNT(kinds); k++) {
		for (unsigned i = 0; (name = kvmod_modinfo_get(info, kinds[k], i)); i++) {
			snprintf(provides, sizeof(provides), "%s %s", kinds[k], name);
			print_row(first ? text_of(info, "name") : "",
				  first ? text_of(info, "version") : "", provides,
				  strcmp(kinds[k], "policy") ? "-" : cli_runs_on(info, name),
				  first ? text_of(info, "description") : "");
			first = false;
		}
	}
	if (first)
		print_row(text_of(info, "name"), text_of(info, "version"), "-", "-",
			  text_of(info, "description"));
}

static void print_module(struct list *list, const char *path, int error,
			 const struct kvmod_modinfo *info)
{
	const char *base = strrchr(path, '/');

	if (!list->n)
		print_row("MODULE", "VERSION", "PROVIDES", "ON", "DESCRIPTION");
	if (error)
		printf("%-16s %srefused: %s%s\n", cli_show(base ? base + 1 : path),
		       cli_style(stdout, CLI_RED), kvmod_error(), cli_style(stdout, CLI_PLAIN));
	else if (cli_blacklisted(list->ctx, info))
		printf("%-16s %sblacklisted: %s%s\n", cli_show(text_of(info, "name")),
		       cli_style(stdout, CLI_YELLOW), cli_show(cli_blacklisted(list->ctx, info)),
		       cli_style(stdout, CLI_PLAIN));
	else
		print_provides(info);
}

/* --- JSON --------------------------------------------------------------------------------- */

static json_t *strings(const struct kvmod_modinfo *info, const char *key)
{
	json_t *array = json_array();
	const char *value;

	for (unsigned i = 0; (value = kvmod_modinfo_get(info, key, i)); i++)
		json_array_append_new(array, cli_json_text(value));
	return array;
}

/* Where each of its policies runs. */
static json_t *devices(const struct kvmod_modinfo *info)
{
	json_t *array = json_array();
	const char *name;

	for (unsigned i = 0; (name = kvmod_modinfo_get(info, "policy", i)); i++)
		json_array_append_new(array, cli_json_text(cli_runs_on(info, name)));
	return array;
}

static void add_module(struct list *list, const char *path, int error,
		       const struct kvmod_modinfo *info)
{
	static const char *const keys[] = { "name", "version", "license", "author", "description" };
	const char *reason = error ? NULL : cli_blacklisted(list->ctx, info);
	json_t *module = json_pack("{s:o}", "path", cli_json_text(path));

	if (error)
		json_object_set_new(module, "error", cli_json_text(kvmod_error()));
	if (reason)
		json_object_set_new(module, "blacklisted", cli_json_text(reason));
	for (size_t i = 0; i < CLI_COUNT(keys) && !error; i++)
		json_object_set_new(module, keys[i], cli_json_text(text_of(info, keys[i])));
	for (size_t k = 0; k < CLI_COUNT(kinds) && !error && !reason; k++)
		json_object_set_new(module, plurals[k], strings(info, kinds[k]));
	if (!error && !reason)
		json_object_set_new(module, "on", devices(info));
	json_array_append_new(list->modules, module);
}

/* ---------------------------------------------------------------------------------------------- */

static void print_name(const struct list *list, const char *name)
{
	if (json_object_get(list->printed, name))
		return;
	json_object_set_new(list->printed, name, json_true());
	printf("%s\n", name);
}

static void print_names(const struct list *list, int error, const struct kvmod_modinfo *info)
{
	const char *reason = error ? NULL : cli_blacklisted(list->ctx, info), *name;

	if (reason && kvmod_modinfo_get(info, list->only, 0))
		fprintf(stderr, "kvmod: note: left out: module `%s` is blacklisted: %s\n",
			cli_show(text_of(info, "name")), cli_show(reason));
	for (unsigned i = 0; !error && !reason && (name = kvmod_modinfo_get(info, list->only, i)); i++)
		print_name(list, name);
}

static int one(void *arg, const char *path, int error, const struct kvmod_modinfo *info)
{
	struct list *list = arg;

	if (list->modules)
		add_module(list, path, error, info);
	else if (list->only)
		print_names(list, error, info);
	else
		print_module(list, path, error, info);
	list->n++;
	return 0;
}

/* "policies" -> "policy"; what is none of them is a usage error. */
static const char *kind_of(const struct cli_command *self, const char *word)
{
	if (!strcmp(word, "modules"))
		return "name";
	for (size_t i = 0; i < CLI_COUNT(kinds); i++)
		if (!strcmp(word, plurals[i]))
			return kinds[i];
	cli_usage_error(self, "`%s`: modules, policies, engines or devices was expected",
			word);
}

static int print_list(struct list *list, struct kvmod_ctx *ctx)
{
	if (list->only && !strcmp(list->only, "policy"))
		print_name(list, CLI_BUILT_IN_POLICY);
	if (list->only && !strcmp(list->only, "device"))
		print_name(list, CLI_BUILT_IN_DEVICE);
	if (kvmod_modules_each(ctx, one, list))
		return cli_error_kvmod();
	if (list->modules)
		return cli_print_json(json_pack("{s:O}", "modules", list->modules));
	if (!list->n && !list->only)
		return cli_error("no modules in %s: only the policy " CLI_BUILT_IN_POLICY " is there",
				 kvmod_config_get(ctx, "kvmod", "module_path") ?: "the module path");
	if (!list->only) {
		print_row("-", kvmod_version(), "policy " CLI_BUILT_IN_POLICY, "cpu cuda", "keeps everything; built in");
		print_row("", "", "device " CLI_BUILT_IN_DEVICE, "-", "");
	}
	return CLI_OK;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	int first = cli_parse(self, &common, NULL, argc, argv), err;
	struct list list = { 0 };
	struct kvmod_ctx *ctx;

	if (argc - first > 1)
		cli_usage_error(self, "`%s`: one operand at most", argv[first + 1]);
	if (first < argc)
		list.only = kind_of(self, argv[first]);
	ctx = cli_context_to_look(&common);
	if (!ctx)
		return CLI_FAILED;
	list.ctx = ctx;
	list.modules = common.json ? json_array() : NULL;
	list.printed = json_object();
	err = print_list(&list, ctx);
	json_decref(list.modules);
	json_decref(list.printed);
	kvmod_unref(ctx);
	return err;
}

const struct cli_command cli_list = {
	.name = "list",
	.run = run,
	.summary = "list the modules that are there, and what they provide",
	.operands = "[modules|policies|engines|devices]",
	.details =
"Reads the files in module_path without running them. A file that would not be\n"
"loaded, or is blacklisted, is listed with the reason. With an operand: just those\n"
"names, a line each.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
