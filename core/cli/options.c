/* SPDX-License-Identifier: Apache-2.0 */
/* Options from tables: getopt_long reads them, --help prints them. */
#include "core/cli/cli.h"
#include "core/base/names.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 48

/* Common and own options together. */
struct option_set {
	const struct cli_option *options[MAX_OPTIONS];
	size_t n;
};

void cli_usage_error(const struct cli_command *self, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	cli_error("%s (see `kvmod %s --help`)", text, self->name);
	exit(CLI_USAGE);
}

static void add_options(struct option_set *set, const struct cli_option *options)
{
	for (; options && options->name; options++) {
		if (set->n == MAX_OPTIONS)
			abort();
		set->options[set->n++] = options;
	}
}

/* --- --help -------------------------------------------------------------------- */

static void print_option(const struct cli_option *o)
{
	char left[64];
	int n = snprintf(left, sizeof(left), "%c%c%s--%s", o->letter ? '-' : ' ',
			 o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name);

	if (o->arg)
		snprintf(left + n, sizeof(left) - (size_t)n, "=%s", o->arg);
	if (strlen(left) > 26)
		printf("  %s\n  %-26s %s\n", left, "", o->help);
	else
		printf("  %-26s %s\n", left, o->help);
}

static void print_help(const struct cli_command *self, const struct option_set *set)
{
	printf("Usage: kvmod %s [OPTION]...%s%s\n", self->name,
	       *self->operands ? " " : "", self->operands);
	printf("%c%s.\n\nOptions:\n", self->summary[0] - 'a' + 'A', self->summary + 1);
	for (size_t i = 0; i < set->n; i++)
		print_option(set->options[i]);
	if (*self->details)
		printf("\n%s", self->details);
}

/* --- values --------------------------------------------------------------------- */

static bool read_number(const char *text, char **end, uint64_t *out)
{
	unsigned long long n;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	n = strtoull(text, end, 10);
	if (errno)
		return false;
	if (**end == 'k' || **end == 'K') {
		if (n > UINT64_MAX / 1024)
			return false;
		n *= 1024;
		(*end)++;
	}
	*out = n;
	return true;
}

static bool read_numbers(const char *text, struct cli_numbers *out)
{
	char *end;

	for (out->n = 0; out->n < CLI_MAX_NUMBERS; text = end + 1) {
		if (!read_number(text, &end, &out->item[out->n++]))
			return false;
		if (*end != ',')
			return !*end;
	}
	return false;
}

static bool read_real(const char *text, double *out)
{
	char *end;

	errno = 0;
	*out = strtod(text, &end);
	return end != text && !*end && !errno && isfinite(*out);
}

static void add_string(const struct cli_command *self, const struct cli_option *o,
		       const char *text)
{
	struct cli_strings *strings = o->value;

	if (strings->n == CLI_MAX_STRINGS)
		cli_usage_error(self, "--%s: more than %d of them", o->name, CLI_MAX_STRINGS);
	strings->item[strings->n++] = text;
}

static void set_value(const struct cli_command *self, const struct cli_option *o,
		      const char *text)
{
	char *end = NULL;

	switch (o->type) {
	case CLI_FLAG:
		*(bool *)o->value = true;
		break;
	case CLI_STRING:
		*(const char **)o->value = text;
		break;
	case CLI_STRINGS:
		add_string(self, o, text);
		break;
	case CLI_NUMBER:
		if (!read_number(text, &end, o->value) || *end)
			cli_usage_error(self, "--%s=%s: expected a whole number from 0 on, such as 512 or 4k",
					o->name, text);
		break;
	case CLI_NUMBERS:
		if (!read_numbers(text, o->value))
			cli_usage_error(self, "--%s=%s: not a list of at most %d numbers (512,2048)",
					o->name, text, CLI_MAX_NUMBERS);
		break;
	case CLI_REAL:
		if (!read_real(text, o->value))
			cli_usage_error(self, "--%s=%s: not a number", o->name, text);
		break;
	}
}

/* --- reading ---------------------------------------------------------------------- */

static void __attribute__((noreturn)) refuse_unknown(const struct cli_command *self,
						     const struct option_set *set,
						     const char *word)
{
	struct kv_nearest nearest;
	char name[64], hint[KV_HINT_ROOM];

	if (word[0] != '-' || word[1] != '-')
		cli_usage_error(self, "no option `-%c`", optopt);
	snprintf(name, sizeof(name), "--%.*s", (int)strcspn(word + 2, "="), word + 2);
	if (optopt)
		cli_usage_error(self, "`%s` takes no value", name);
	kv_nearest_start(&nearest, name);
	for (size_t i = 0; i < set->n; i++) {
		char known[64];

		snprintf(known, sizeof(known), "--%s", set->options[i]->name);
		kv_nearest_offer(&nearest, known);
	}
	cli_usage_error(self, "no option `%s`%s", name,
			kv_nearest_hint(&nearest, hint, sizeof(hint)));
}

/* The values of getopt_long's `val` that stand for options without a letter. */
#define FIRST_LONG 256

static void prepare(const struct option_set *set, struct option *longs, char *shorts)
{
	*shorts++ = ':';
	for (size_t i = 0; i < set->n; i++) {
		const struct cli_option *o = set->options[i];

		longs[i] = (struct option){
			.name = o->name,
			.has_arg = o->arg ? required_argument : no_argument,
			.val = FIRST_LONG + (int)i,
		};
		if (!o->letter)
			continue;
		*shorts++ = o->letter;
		if (o->arg)
			*shorts++ = ':';
	}
	*shorts = '\0';
	longs[set->n] = (struct option){ 0 };
}

static const struct cli_option *find(const struct option_set *set, int c)
{
	if (c >= FIRST_LONG)
		return set->options[c - FIRST_LONG];
	for (size_t i = 0; i < set->n; i++)
		if (set->options[i]->letter == c)
			return set->options[i];
	abort();
}

static int read_options(const struct cli_command *self, const struct option_set *set,
			int argc, char **argv)
{
	struct option longs[MAX_OPTIONS + 1];
	char shorts[2 * MAX_OPTIONS + 2];
	int c;

	prepare(set, longs, shorts);
	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		const struct cli_option *o;

		if (c == '?')
			refuse_unknown(self, set, argv[optind - 1]);
		o = find(set, c == ':' ? optopt : c);
		if (c == ':')
			cli_usage_error(self, "--%s needs a value: %s", o->name, o->arg);
		set_value(self, o, optarg);
	}
	return optind;
}

int cli_parse(const struct cli_command *self, struct cli_common *common,
	      const struct cli_option *own, int argc, char **argv)
{
	bool help = false;
	const struct cli_option config[] = {
		{ "config", 'c', CLI_STRING, &common->config, "FILE", "read FILE, not the usual kvmod.conf" },
		{ "option", 'o', CLI_STRINGS, &common->overrides, "SECTION.KEY=VALUE", "set one value over the configuration's" },
		{ 0 }
	};
	const struct cli_option model[] = {
		{ "model", 'm', CLI_STRING, &common->model, "FILE", "the engine's model, a GGUF file" },
		{ 0 }
	};
	const struct cli_option policy[] = {
		{ "policy", 0, CLI_STRING, &common->policy, "NAME", "this policy, not the configured one" },
		{ 0 }
	};
	const struct cli_option json[] = {
		{ "json", 0, CLI_FLAG, &common->json, NULL, "the answer as one JSON object" },
		{ 0 }
	};
	const struct cli_option last[] = {
		{ "help", 'h', CLI_FLAG, &help, NULL, "this help" },
		{ 0 }
	};
	struct option_set set = { .n = 0 };
	int first;

	add_options(&set, own);
	add_options(&set, self->takes & CLI_TAKES_MODEL ? model : NULL);
	add_options(&set, self->takes & CLI_TAKES_POLICY ? policy : NULL);
	add_options(&set, self->takes & CLI_TAKES_CONFIG ? config : NULL);
	add_options(&set, self->takes & CLI_TAKES_JSON ? json : NULL);
	add_options(&set, last);
	first = read_options(self, &set, argc, argv);
	if (!help) {
		if (common->json && cli_json_alone())
			exit(CLI_FAILED);
		return first;
	}
	print_help(self, &set);
	exit(cli_flush());
}
