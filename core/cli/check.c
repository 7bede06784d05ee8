/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod check: checks the configuration, and tries everything that it names. */
#include "core/cli/cli.h"

#include <string.h>

#define DEFAULT_LIMIT 10.0	/* seconds */

struct check {
	json_t *findings;		/* or NULL: lines */
	size_t n_wrong;
};

/* A message about the configuration already names the file. */
static void print_finding(const struct kvmod_finding *f)
{
	bool named = strcmp(f->kind, "configuration");

	if (f->code)
		printf("%sfailed%s %s%s%s%s%s\n", cli_style(stdout, CLI_RED),
		       cli_style(stdout, CLI_PLAIN), named ? f->kind : "", named ? " " : "",
		       named ? cli_show(f->name) : "", named ? ": " : "", cli_show(f->message));
	else
		printf("%sfine%s   %s %s%s%s\n", cli_style(stdout, CLI_GREEN),
		       cli_style(stdout, CLI_PLAIN), f->kind,
		       *f->name ? cli_show(f->name) : "(none read)",
		       *f->module ? " from " : "", cli_show(f->module));
}

static void add_finding(json_t *findings, const struct kvmod_finding *f)
{
	json_array_append_new(findings, json_pack(
		"{s:s, s:o, s:b, s:s, s:o, s:o, s:f}",
		"kind", f->kind, "name", cli_json_text(f->name), "fine", !f->code,
		"code", kvmod_strerror(f->code), "message", cli_json_text(f->message),
		"module", cli_json_text(f->module), "seconds", f->seconds));
}

static void note(void *arg, const struct kvmod_finding *f)
{
	struct check *check = arg;

	check->n_wrong += f->code != 0;
	if (check->findings)
		add_finding(check->findings, f);
	else
		print_finding(f);
	/* A child that calls exit() would write the contents of the buffer once more. */
	fflush(stdout);
}

/*
 * Turns the options into overrides, without messages: kvmod_check() reports what is
 * wrong with them, from a context that has read nothing yet.
 */
static int read_options(const struct cli_common *common, struct cli_overrides *overrides)
{
	struct kvmod_ctx *ctx;
	int err;

	if (kvmod_new(&ctx))
		return cli_error_kvmod();
	err = cli_configure(ctx, common, true, overrides);
	/* `kvmod run` uses this engine, so check it as if the configuration named it. */
	if (!err && !kvmod_config_get(ctx, "kvmod", "engine"))
		overrides->all.item[overrides->all.n++] = "kvmod.engine=" CLI_DEFAULT_ENGINE;
	kvmod_unref(ctx);
	return err > 0 ? err : CLI_OK;
}

static int check_all(struct kvmod_ctx *ctx, const struct cli_common *common, double limit)
{
	struct check check = { .findings = common->json ? json_array() : NULL };
	struct cli_overrides overrides = { 0 };
	int err = read_options(common, &overrides);

	if (err) {
		json_decref(check.findings);
		cli_overrides_free(&overrides);
		return err;
	}
	err = kvmod_check(ctx, common->config, overrides.all.item, overrides.all.n,
			  (uint32_t)(limit * 1e3), note, &check);
	cli_overrides_free(&overrides);
	if (check.findings)
		cli_print_json(json_pack("{s:b, s:o}", "fine", !err, "findings", check.findings));
	if (err && !check.n_wrong)
		return cli_error_kvmod();
	return err ? CLI_FAILED : CLI_OK;
}

/* --- --print ---------------------------------------------------------------------------- */

struct print {
	char section[128];		/* of the last value */
	json_t *settings;		/* or NULL: an INI file */
};

static const char *const origins[] = {
	[KVMOD_FROM_DEFAULT] = "default", [KVMOD_FROM_FILE] = "file",
	[KVMOD_FROM_DROP_IN] = "drop-in", [KVMOD_FROM_OVERRIDE] = "command line",
};

static const char *origin(const struct kvmod_setting *s)
{
	return s->from < CLI_COUNT(origins) ? origins[s->from] : "elsewhere";
}

static void print_origin(const struct kvmod_setting *s)
{
	if (s->file)
		printf("%s:%u\n", cli_show(s->file), s->line);
	else
		printf("%s\n", origin(s));
}

/*
 * A line of an INI file, with the origin of the value as a comment. A value that a file
 * could not hold (with " ;" or unprintable bytes in it) is commented out.
 */
static void print_setting(struct print *print, const struct kvmod_setting *s)
{
	const char *value = cli_show(s->value);
	bool plain = !strstr(value, " ;") && !strcmp(value, s->value);
	int width;

	if (strcmp(print->section, s->section)) {
		printf("%s[%s%s%s]\n", *print->section ? "\n" : "", cli_style(stdout, CLI_BOLD),
		       cli_show(s->section), cli_style(stdout, CLI_PLAIN));
		snprintf(print->section, sizeof(print->section), "%s", s->section);
	}
	width = printf("%s%s = %s", plain ? "" : "# ", s->key, value);
	printf("%*s ; ", width < 40 ? 40 - width : 0, "");
	print_origin(s);
}

static int print_one(void *arg, const struct kvmod_setting *s)
{
	struct print *print = arg;
	json_t *object;

	if (!print->settings) {
		print_setting(print, s);
		return 0;
	}
	object = json_pack("{s:o, s:o, s:o, s:s}", "section", cli_json_text(s->section),
			   "key", cli_json_text(s->key), "value", cli_json_text(s->value),
			   "from", origin(s));
	if (s->file)
		json_object_update_new(object, json_pack("{s:o, s:i}", "file", cli_json_text(s->file),
							 "line", (int)s->line));
	return json_array_append_new(print->settings, object);
}

static int print_all(const struct cli_common *common)
{
	struct print print = { .settings = common->json ? json_array() : NULL };
	struct kvmod_ctx *ctx = cli_context(common);
	int err = ctx ? kvmod_settings_each(ctx, print_one, &print) : CLI_FAILED;

	if (err < 0)
		err = cli_error_kvmod();
	if (!err && common->json)
		err = cli_print_json(json_pack("{s:O}", "settings", print.settings));
	json_decref(print.settings);
	kvmod_unref(ctx);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	double limit = DEFAULT_LIMIT;
	bool print = false;
	const struct cli_option options[] = {
		{ "print", 0, CLI_FLAG, &print, NULL, "try nothing; print each value and its origin" },
		{ "limit", 0, CLI_REAL, &limit, "SECONDS", "the time that a module may take [10]" },
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err;
	struct kvmod_ctx *ctx;

	if (first < argc)
		cli_usage_error(self, "unexpected operand `%s`", argv[first]);
	if (limit < 0.001 || limit > 3600)
		cli_usage_error(self, "--limit=%g: expected 0.001 to 3600 seconds", limit);
	if (print)
		return print_all(&common);
	if (kvmod_new(&ctx))
		return cli_error_kvmod();
	err = check_all(ctx, &common, limit);
	kvmod_unref(ctx);
	return err;
}

const struct cli_command cli_check = {
	.name = "check",
	.run = run,
	.summary = "check the configuration and try each module that it names",
	.operands = "",
	.details =
"Child processes load the modules, run the policies on a tiny made-up model, and let\n"
"the engine check its model, so a module that crashes or hangs is only reported. The\n"
"exit status is 1 if anything is wrong.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
