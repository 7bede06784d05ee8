/* SPDX-License-Identifier: Apache-2.0 */
/* Reads operands such as snapkv:budget=10%|20%, and opens what they name. */
#include "core/eval/cases.h"
#include "core/cli/text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* --- operands --------------------------------------------------------------------------- */

/* A KEY=VALUE of an operand; its values are those between bars. */
struct setting {
	const char *key, *values;
	size_t key_length, length;	/* of all values together */
};

#define MAX_SETTINGS 16
struct operand {
	const char *text, *policy;
	size_t policy_length, n;
	struct setting settings[MAX_SETTINGS];
};

static bool is_key_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '.' || c == ' ';
}

/* Where the KEY= after this comma begins; NULL: the comma belongs to a value. */
static const char *key_after(const char *comma)
{
	const char *at = comma + 1;

	while (is_key_char(*at))
		at++;
	return *at == '=' && at > comma + 1 ? comma + 1 : NULL;
}

static const char *end_of_values(const char *at)
{
	while (*at && !(*at == ',' && key_after(at)))
		at++;
	return at;
}

/* Is the newest setting one that came before? */
static bool is_again(const struct operand *o)
{
	const struct setting *s = &o->settings[o->n];

	for (size_t i = 0; i < o->n; i++)
		if (o->settings[i].key_length == s->key_length &&
		    !memcmp(o->settings[i].key, s->key, s->key_length))
			return true;
	return false;
}

/* What all cases share was opened before them: a value of their own would do nothing. */
static bool is_shared(const struct setting *s)
{
	static const char *const whole[] = { "kvmod.engine", "kvmod.policy" };

	for (size_t i = 0; i < CLI_COUNT(whole); i++)
		if (s->key_length == strlen(whole[i]) && !memcmp(s->key, whole[i], s->key_length))
			return true;
	return s->key_length > 7 && !memcmp(s->key, "engine ", 7);
}

static int split(const char *text, struct operand *o)
{
	const char *at = text + strcspn(text, ":");
	size_t n = strlen(text), bad = cli_utf8_bad(text, n);

	*o = (struct operand){ .text = text, .policy = text, .policy_length = (size_t)(at - text) };
	if (bad < n)	/* results are JSON, and found again by a case's name */
		return cli_error("%s: byte 0x%02x at offset %zu: expected UTF-8 text", cli_show(text),
				 (unsigned char)text[bad], bad);
	if (o->policy_length == 0)
		return cli_error("%s: no policy, expected POLICY[:KEY=VALUE,...]", cli_show(text));
	while (*at++) {
		struct setting *s = &o->settings[o->n];

		if (o->n == MAX_SETTINGS)
			return cli_error("%s: more than %d parameters", cli_show(text), MAX_SETTINGS);
		s->key = at;
		while (is_key_char(*at))
			at++;
		s->key_length = (size_t)(at - s->key);
		if (s->key_length == 0 || *at != '=')
			return cli_error("%s: expected KEY=VALUE at `%s`", cli_show(text), cli_show(s->key));
		if (is_again(o))
			return cli_error("%s: %.*s is given twice", cli_show(text), (int)s->key_length, s->key);
		if (is_shared(s))
			return cli_error("%s: %.*s is the same for all: expected it in -o", cli_show(text),
					 (int)s->key_length, s->key);
		s->values = at + 1;
		at = end_of_values(s->values);
		s->length = (size_t)(at - s->values);
		o->n++;
	}
	return CLI_OK;
}

/* Value number i of a setting, without what is around it; false: there are not so many. */
static bool value_at(const struct setting *s, size_t i, const char **value, size_t *length)
{
	const char *at = s->values, *end = s->values + s->length;

	for (;;) {
		const char *bar = memchr(at, '|', (size_t)(end - at));

		if (i-- == 0) {
			*value = at;
			*length = (size_t)((bar ? bar : end) - at);
			return true;
		}
		if (!bar)
			return false;
		at = bar + 1;
	}
}

static size_t count_values(const struct setting *s)
{
	size_t n = 1;

	for (size_t i = 0; i < s->length; i++)
		n += s->values[i] == '|';
	return n;
}

/* --- cases ------------------------------------------------------------------------------ */

/* The answer of asprintf(). */
static void check_printed(int n)
{
	if (n < 0)
		cli_no_memory();
}

/* Adds ",key=value" to the name, and the override. */
static void add_setting(struct eval_case *c, const struct setting *s, const char *value, size_t length)
{
	char *name, *override;
	bool other = memchr(s->key, '.', s->key_length);

	check_printed(asprintf(&name, "%s%c%.*s=%.*s", c->name, c->overrides.n ? ',' : ':', (int)s->key_length,
			 s->key, (int)length, value));
	free(c->name);
	c->name = name;
	check_printed(asprintf(&override, "%s%s%s%.*s=%.*s", other ? "" : "policy ", other ? "" : c->policy,
			 other ? "" : ".", (int)s->key_length, s->key, (int)length, value));
	c->overrides.item[c->overrides.n++] = override;
}

static void free_case(struct eval_case *c)
{
	if (c->session)
		kvmod_session_close(c->session);
	if (c->handle)
		kvmod_policy_close(c->handle);
	for (size_t i = 0; i < c->overrides.n; i++)
		free((void *)(uintptr_t)c->overrides.item[i]);
	free(c->name);
	free(c->policy);
}

/* Combination number `which`: the last setting changes fastest. */
static int add_combination(struct eval_cases *cases, const struct operand *o, size_t which)
{
	struct eval_case c = { .name = NULL }, *grown;
	size_t below = 1;

	check_printed(asprintf(&c.policy, "%.*s", (int)o->policy_length, o->policy));
	c.name = cli_strdup(c.policy);
	for (size_t i = 0; i < o->n; i++)
		below *= count_values(&o->settings[i]);
	for (size_t i = 0; i < o->n; i++) {
		const char *value;
		size_t length, n = count_values(&o->settings[i]);

		below /= n;
		if (value_at(&o->settings[i], which / below % n, &value, &length))
			add_setting(&c, &o->settings[i], value, length);
	}
	for (size_t i = 0; i < cases->n; i++) {
		if (strcmp(cases->item[i].name, c.name) != 0)
			continue;
		cli_error("%s: given twice", cli_show(c.name));
		free_case(&c);
		return CLI_FAILED;
	}
	grown = realloc(cases->item, (cases->n + 1) * sizeof(*grown));
	if (!grown)
		cli_no_memory();
	cases->item = grown;
	cases->item[cases->n++] = c;
	return CLI_OK;
}

#define MAX_CASES 1000

int eval_cases_add(struct eval_cases *cases, const char *operand)
{
	struct operand o;
	size_t n = 1;
	int err = split(operand, &o);

	for (size_t i = 0; i < o.n && !err; i++) {
		n *= count_values(&o.settings[i]);
		if (n > MAX_CASES)
			err = cli_error("%s: more than %d combinations", cli_show(operand), MAX_CASES);
	}
	for (size_t i = 0; i < n && !err; i++)
		err = add_combination(cases, &o, i);
	return err;
}

static int open_case(struct eval_case *c, struct kvmod_ctx *ctx, struct kvmod_engine *engine,
		     const struct cli_common *common)
{
	struct cli_common own = *common;
	struct cli_overrides all;
	int err;

	if (own.overrides.n + c->overrides.n > CLI_MAX_STRINGS)
		return cli_error("%s: more than %d settings together with -o", cli_show(c->name), CLI_MAX_STRINGS);
	for (size_t i = 0; i < c->overrides.n; i++)
		own.overrides.item[own.overrides.n++] = c->overrides.item[i];
	own.policy = c->policy;
	err = cli_configure(ctx, &own, false, &all);
	cli_overrides_free(&all);
	if (err < 0 || (!err && (kvmod_policy_open(ctx, NULL, NULL, kvmod_engine_model(engine), &c->handle) ||
				 kvmod_session_open(engine, c->handle, &c->session))))
		return cli_error("%s: %s", cli_show(c->name), kvmod_error());
	return err;
}

int eval_cases_open(struct eval_cases *cases, struct kvmod_ctx *ctx, struct kvmod_engine *engine,
		    const struct cli_common *common)
{
	struct cli_overrides all;
	int err = CLI_OK, again;

	for (size_t i = 0; i < cases->n && !err; i++)
		err = open_case(&cases->item[i], ctx, engine, common);
	again = cli_configure(ctx, common, true, &all);
	cli_overrides_free(&all);
	kvmod_set_log(ctx, NULL, NULL);		/* what is wrong was said already; policies may fail later */
	if (err || again >= 0)
		return err ? err : again;
	return cli_error_kvmod();
}

void eval_cases_free(struct eval_cases *cases)
{
	for (size_t i = 0; i < cases->n; i++)
		free_case(&cases->item[i]);
	free(cases->item);
	*cases = (struct eval_cases){ 0 };
}
