/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod list: the modules in module_path, read without running them. */
#include "core/cli/cli.h"

#include <string.h>

static const char *const kinds[] = { "policy", "engine", "device", "collective" };
static const char *const plurals[] = { "policies", "engines", "devices", "collectives" };

/* The policy that the core brings itself. */
#define BUILT_IN "fullkv"

struct list {
	const char *only;		/* a kind, or "name": print just these */
	json_t *modules;		/* or NULL: a table */
	size_t n;
};

/* --- a table ------------------------------------------------------------------------ */

static void print_provides(const struct kvmod_modinfo *info, char *text, size_t room)
{
	size_t n = 0;

	*text = '\0';
	for (size_t k = 0; k < CLI_COUNT(kinds); k++) {
		const char *name;

		for (unsigned i = 0; (name = kvmod_modinfo_get(info, kinds[k], i)); i++)
			if (n < room)
				n += (size_t)snprintf(text + n, room - n, "%s%s %s",
						      n ? ", " : "", kinds[k], name);
	}
}

static const char *text_of(const struct kvmod_modinfo *info, const char *key)
{
	const char *value = kvmod_modinfo_get(info, key, 0);

	return value ? value : "-";
}

static void print_row(const char *name, const char *version, const char *provides,
		      const char *description)
{
	printf("%-16s %-9s %-26s %s\n", name, version, provides, description);
}

static void print_module(struct list *list, const char *path, int error,
			 const struct kvmod_modinfo *info)
{
	const char *base = strrchr(path, '/');
	char provides[256];

	if (!list->n)
		print_row("MODULE", "VERSION", "PROVIDES", "DESCRIPTION");
	if (error) {
		printf("%-16s %srefused: %s%s\n", base ? base + 1 : path,
		       cli_style(stdout, CLI_RED), kvmod_error(), cli_style(stdout, CLI_PLAIN));
		return;
	}
	print_provides(info, provides, sizeof(provides));
	print_row(text_of(info, "name"), text_of(info, "version"), provides,
		  text_of(info, "description"));
}

/* --- JSON --------------------------------------------------------------------------------- */

static json_t *strings(const struct kvmod_modinfo *info, const char *key)
{
	json_t *array = json_array();
	const char *value;

	for (unsigned i = 0; (value = kvmod_modinfo_get(info, key, i)); i++)
		json_array_append_new(array, json_string(value));
	return array;
}

static void add_module(struct list *list, const char *path, int error,
		       const struct kvmod_modinfo *info)
{
	static const char *const keys[] = { "name", "version", "license", "author", "description" };
	json_t *module = json_pack("{s:s}", "path", path);

	if (error)
		json_object_set_new(module, "error", json_string(kvmod_error()));
	for (size_t i = 0; i < CLI_COUNT(keys) && !error; i++)
		json_object_set_new(module, keys[i], json_string(text_of(info, keys[i])));
	for (size_t k = 0; k < CLI_COUNT(kinds) && !error; k++)
		json_object_set_new(module, plurals[k], strings(info, kinds[k]));
	json_array_append_new(list->modules, module);
}

/* ---------------------------------------------------------------------------------------------- */

static void print_names(const struct list *list, int error, const struct kvmod_modinfo *info)
{
	const char *name;

	for (unsigned i = 0; !error && (name = kvmod_modinfo_get(info, list->only, i)); i++)
		printf("%s\n", name);
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
	cli_usage_error(self, "`%s`: modules, policies, engines, devices or collectives was expected",
			word);
}

static int print_list(struct list *list, struct kvmod_ctx *ctx)
{
	if (list->only && !strcmp(list->only, "policy"))
		puts(BUILT_IN);
	if (kvmod_modules_each(ctx, one, list))
		return cli_error_kvmod();
	if (list->modules)
		return cli_print_json(json_pack("{s:O}", "modules", list->modules));
	if (!list->n && !list->only)
		return cli_error("no modules in %s: only the policy " BUILT_IN " is there",
				 kvmod_config_get(ctx, "kvmod", "module_path") ?: "the module path");
	if (!list->only)
		print_row("-", kvmod_version(), "policy " BUILT_IN, "keeps everything; built in");
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
	list.modules = common.json ? json_array() : NULL;
	err = print_list(&list, ctx);
	json_decref(list.modules);
	kvmod_unref(ctx);
	return err;
}

const struct cli_command cli_list = {
	.name = "list",
	.run = run,
	.summary = "list the modules that are there, and what they provide",
	.operands = "[modules|policies|engines|devices|collectives]",
	.details =
"Reads the files in module_path without running them. A file that would not be\n"
"loaded is listed with the reason. With an operand: just those names, a line each.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
