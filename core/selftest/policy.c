/* SPDX-License-Identifier: Apache-2.0 */
/* selftest: checks a policy's table, its parameters, opening, and needs. */
#include "core/selftest/selftest.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const struct kv_shape shapes[] = {
	{ .n_layers = 1, .n_q_heads = 1, .n_kv_heads = 1, .head_dim = 32 },
	{ .n_layers = 4, .n_q_heads = 4, .n_kv_heads = 4, .head_dim = 64 },
	{ .n_layers = 30, .n_q_heads = 9, .n_kv_heads = 3, .head_dim = 64 },
	{ .n_layers = 32, .n_q_heads = 32, .n_kv_heads = 8, .head_dim = 128 },
	{ .n_layers = 18, .n_q_heads = 8, .n_kv_heads = 1, .head_dim = 256 },
};

/* --- opening ------------------------------------------------------------------------ */

static struct kvmod_policy *open_on(struct selftest *t, const char *name,
				    const struct kv_shape *shape, int *err)
{
	struct kvmod_model model = madeup_model(shape);
	struct kvmod_policy *policy = NULL;

	*err = kvmod_policy_open(t->ctx, name, t->device, &model, &policy);
	return policy;
}

static void check_open(struct selftest *t, const char *name, const struct kv_shape *shape)
{
	struct kvmod_policy *policy, *second;
	int err;

	policy = open_on(t, name, shape, &err);
	if (err) {
		selftest_clean_error(t, "open()", err);
		selftest_fail(t, "%s", kvmod_error());
		return;
	}
	/* Instances are independent: two live side by side. */
	second = open_on(t, name, shape, &err);
	if (err)
		selftest_fail(t, "opening a second instance: %s", kvmod_error());
	kvmod_policy_close(policy);
	kvmod_policy_close(second);
}

static void check_needs(struct selftest *t, const struct kvmod_needs *needs)
{
	const uint32_t known = KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_COLSUM |
			       KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM | KVMOD_NEED_ALL_LAYERS;
	const uint32_t types = KVMOD_TYPE_BIT(KVMOD_F32) | KVMOD_TYPE_BIT(KVMOD_F16) |
			       KVMOD_TYPE_BIT(KVMOD_BF16) | KVMOD_TYPE_BIT(KVMOD_Q8_0) |
			       KVMOD_TYPE_BIT(KVMOD_Q4_0);
	double rows = needs->rows.value;

	if (needs->what & ~known)
		selftest_fail(t, "needs->what has unknown bits: 0x%x", needs->what & ~known);
	if (needs->types & ~types)
		selftest_fail(t, "needs->types has unknown bits: 0x%x", needs->types & ~types);
	if (!(rows >= 0) || rows > (needs->rows.is_count ? 1e9 : 1))
		selftest_fail(t, "needs->rows is %g: expected a %s", rows,
			      needs->rows.is_count ? "count of at most 1e9" : "fraction from 0 to 1");
}

/* --- the table: what the loader does not check ---------------------------------------- */

static size_t field_size(uint32_t type)
{
	switch (type) {
	case KVMOD_PARAM_BOOL:
	case KVMOD_PARAM_CHOICE:
		return sizeof(int32_t);
	case KVMOD_PARAM_AMOUNT:
		return sizeof(struct kvmod_amount);
	case KVMOD_PARAM_LIST:
		return sizeof(struct kvmod_list);
	default:
		return 8;
	}
}

static const struct kvmod_param *param_at(const struct kvmod_policy_ops *ops, uint32_t i)
{
	return &ops->params[i];
}

static unsigned count_in_section(const struct selftest *t, const char *policy)
{
	size_t length = strlen(policy);
	const char *text;
	unsigned n = 0;

	for (unsigned i = 0; (text = kvmod_modinfo_get(t->info, "param", i)); i++)
		n += !strncmp(text, policy, length) && text[length] == '.';
	return n;
}

/* Two parameters that fill one field are an author's mistake. */
static void check_fields(struct selftest *t, const struct kvmod_param *a,
			 const struct kvmod_param *b)
{
	if (a->offset < b->offset + field_size(b->type) &&
	    b->offset < a->offset + field_size(a->type))
		selftest_fail(t, "the parameters %s and %s fill the same field", a->name, b->name);
}

static void check_table(struct selftest *t, const struct kvmod_policy_ops *ops)
{
	if (!ops->description || !*ops->description)
		selftest_fail(t, "the policy has no description");
	for (uint32_t i = 0; i < ops->n_params; i++)
		for (uint32_t j = 0; j < i; j++)
			check_fields(t, param_at(ops, i), param_at(ops, j));
	if (count_in_section(t, ops->name) != ops->n_params)
		selftest_fail(t, "the metadata has %u parameters, the table has %u",
			      count_in_section(t, ops->name), ops->n_params);
}

/* --- values of parameters -------------------------------------------------------------- */

static int set(struct selftest *t, const char *policy, const char *param, const char *value)
{
	char override[1024];

	snprintf(override, sizeof(override), "policy %s.%s=%s", policy, param, value);
	return selftest_configure(t, override);
}

static void must_refuse(struct selftest *t, const char *policy, const char *param,
			const char *value)
{
	int err = set(t, policy, param, value);

	if (!err)
		selftest_fail(t, "%s = %s was accepted: expected an error", param, value);
	else
		selftest_clean_error(t, "configuring", err);
}

/* With a value at the end of its range a policy opens, or fails with a message. */
static void at_bound(struct selftest *t, const char *policy, const char *param, const char *value)
{
	struct kvmod_policy *opened = NULL;
	int err = set(t, policy, param, value);

	if (err) {
		selftest_fail(t, "%s", kvmod_error());
		return;
	}
	opened = open_on(t, policy, &shapes[2], &err);
	if (err)
		selftest_clean_error(t, "open()", err);
	kvmod_policy_close(opened);
}

/* One step beyond a bound: "4" -> "3" or "5", "0.5" -> "-0.5" or "1.5". */
static void check_bound(struct selftest *t, const char *policy, const struct kvmod_param *p,
			const char *bound, int step)
{
	char beyond[64];

	if (!*bound)
		return;
	at_bound(t, policy, p->name, bound);
	if (p->type == KVMOD_PARAM_INT)
		snprintf(beyond, sizeof(beyond), "%lld", strtoll(bound, NULL, 10) + step);
	else if (p->type == KVMOD_PARAM_REAL)
		snprintf(beyond, sizeof(beyond), "%.17g", strtod(bound, NULL) + step);
	else
		return;
	must_refuse(t, policy, p->name, beyond);
}

static void check_range(struct selftest *t, const char *policy, const struct kvmod_param *p)
{
	const char *dots = strstr(p->range, "..");
	char low[64];

	if (!dots || p->type == KVMOD_PARAM_CHOICE)
		return;
	snprintf(low, sizeof(low), "%.*s", (int)(dots - p->range), p->range);
	check_bound(t, policy, p, low, -1);
	check_bound(t, policy, p, dots + 2, 1);
}

static void check_choices(struct selftest *t, const char *policy, const struct kvmod_param *p)
{
	char words[256], *rest = words, *word;

	snprintf(words, sizeof(words), "%s", p->range);
	while ((word = strsep(&rest, "|")))
		at_bound(t, policy, p->name, word);
}

/* Values that no parameter of the type may accept. */
static void check_nonsense(struct selftest *t, const char *policy, const struct kvmod_param *p)
{
	static const char *const nonsense[][4] = {
		[KVMOD_PARAM_BOOL] = { "perhaps", "2", "" },
		[KVMOD_PARAM_INT] = { "many", "1.5", "", "99999999999999999999" },
		[KVMOD_PARAM_REAL] = { "much", "nan", "inf", "1,5" },
		[KVMOD_PARAM_AMOUNT] = { "half", "-1", "150%", "1.5" },
		[KVMOD_PARAM_LIST] = { "all", "3-1", "1,,2", "-1" },
		[KVMOD_PARAM_CHOICE] = { "no-such-word", "" },
		[KVMOD_PARAM_STRING] = { NULL },
		[KVMOD_PARAM_PATH] = { NULL },
	};

	for (int i = 0; i < 4 && p->type < CLI_COUNT(nonsense) && nonsense[p->type][i]; i++)
		must_refuse(t, policy, p->name, nonsense[p->type][i]);
}

static void check_param(struct selftest *t, const char *policy, const struct kvmod_param *p)
{
	for (const char *c = p->name; *c; c++)
		if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '_')
			selftest_fail(t, "the name has characters other than a-z, 0-9 and _");
	if (!p->help || !*p->help)
		selftest_fail(t, "the parameter has no help text");
	if (set(t, policy, p->name, p->def))
		selftest_fail(t, "the default is refused: %s", kvmod_error());
	check_nonsense(t, policy, p);
	check_range(t, policy, p);
	if (p->type == KVMOD_PARAM_CHOICE)
		check_choices(t, policy, p);
}

/* --- all of it ---------------------------------------------------------------------------- */

static void check_params(struct selftest *t, const char *name, const struct kvmod_policy_ops *ops)
{
	for (uint32_t i = 0; i < ops->n_params; i++) {
		if (!selftest_begin(t, "%s: parameter %s", name, param_at(ops, i)->name))
			continue;
		check_param(t, name, param_at(ops, i));
		selftest_end(t);
	}
	if (selftest_begin(t, "%s: an unknown parameter", name)) {
		must_refuse(t, name, "no_such_parameter", "1");
		selftest_end(t);
	}
	selftest_configure(t, NULL);
}

void selftest_policy(struct selftest *t, const char *name)
{
	struct kvmod_policy *policy;
	int err;

	for (size_t i = 0; i < CLI_COUNT(shapes); i++) {
		const struct kv_shape *s = &shapes[i];

		if (!selftest_begin(t, "%s: opens for %u layers, %u query heads on %u KV heads of %u",
				    name, s->n_layers, s->n_q_heads, s->n_kv_heads, s->head_dim))
			continue;
		check_open(t, name, s);
		selftest_end(t);
	}
	policy = open_on(t, name, &shapes[1], &err);
	if (!policy)
		return;
	if (selftest_begin(t, "%s: table agrees with metadata", name)) {
		check_table(t, kvmod_policy_ops(policy));
		selftest_end(t);
	}
	if (selftest_begin(t, "%s: needs", name)) {
		check_needs(t, kvmod_policy_needs(policy));
		selftest_end(t);
	}
	check_params(t, name, kvmod_policy_ops(policy));
	kvmod_policy_close(policy);
}
