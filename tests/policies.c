/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts, policies and plans of tests/policies.h. */
#include "tests/policies.h"

#include <stdio.h>
#include <string.h>

#define BUDGETS "budget=33", "budget=50", "budget=0.5", "budget=1.0"

/*
 * As struct known_policy has them. Without vectors: duo's sets follow from a table, what kvzip
 * and replay keep from an engine's answers, and random draws what it likes.
 */
#define POLICIES(P) \
	P(adakv, 9, "budget=0.4", 0.45, \
	  "budget=33 alpha=1", "budget=50 alpha=1", "budget=0.5 alpha=1", "budget=1.0") \
	P(cake, 9, "budget=0.4", 0.45, BUDGETS) \
	P(contribution, 11, "level=0.3 pool=1 window=8", 0.95, \
	  "level=0.9", "level=0.05 pool=1", "level=0.05 pool=9", "level=0") \
	P(criticalkv, 8, "budget=0.4", 0.45, BUDGETS) \
	P(defensivekv, 8, "budget=0.4", 0.45, BUDGETS) \
	P(duo, 0, "retrieval=0.25 sinks=4 recent=16", 0.6, \
	  "retrieval=0 sinks=4 recent=20", "retrieval=0 sinks=4 recent=60", \
	  "retrieval=0.5 sinks=4 recent=60", "retrieval=1.0") \
	P(expected, 10, "budget=0.4", 0.45, BUDGETS) \
	P(h2o, 9, "heavy=0.2 recent=0.2", 0.45, \
	  "heavy=0 recent=5", "heavy=40 recent=5", "heavy=40% recent=10%", "heavy=0.5 recent=0.5") \
	P(keydiff, 7, "budget=0.4", 0.45, BUDGETS) \
	P(knorm, 7, "budget=0.4 whole_layers=0", 0.45, \
	  "budget=1 whole_layers=0", "budget=20 whole_layers=0", "budget=0.5 whole_layers=1", \
	  "budget=1.0") \
	P(kvzip, 0, "budget=0.4", 0.45, BUDGETS) \
	P(lagkv, 9, "budget=0.4 lag=16", 0.6, \
	  "budget=10 lag=16", "budget=50 lag=16", "budget=0.5 lag=16", "budget=1.0") \
	P(pyramidkv, 8, "budget=0.4", 0.45, BUDGETS) \
	P(random, 0, "budget=0.4", 0.45, BUDGETS) \
	P(refreekv, 8, "threshold=0.3 whole_layers=0", 0.95, \
	  "threshold=0.9 whole_layers=0", "threshold=0.5 whole_layers=0", \
	  "threshold=0.1 whole_layers=0", "threshold=0") \
	P(replay, 0, "loss=20 level=0.3 pool=1 window=8 shortest=0", 0.5, \
	  "level=0.9 shortest=0", "level=0.05 pool=1 shortest=0", "level=0.05 pool=9 shortest=0", \
	  "loss=0 level=0 shortest=0") \
	P(rkv, 8, "budget=0.4 after_prompts=yes", 0.45, BUDGETS) \
	P(snapkv, 9, "budget=0.4", 0.45, BUDGETS) \
	P(streamingllm, 8, "budget=0.4", 0.45, BUDGETS) \
	P(topp, 8, "p=0.5 whole_layers=0", 0.6, \
	  "p=0.1 whole_layers=0", "p=0.5 whole_layers=0", "p=0.9 whole_layers=0", \
	  "p=1 whole_layers=0") \
	P(tova, 7, "budget=0.4", 0.45, BUDGETS)

#define DECLARE(name, ...) extern const struct kvmod_module kvmod_module_##name;
POLICIES(DECLARE)

#define LIST(name, n, cuts, most, ...) { &kvmod_module_##name, n, cuts, most, { __VA_ARGS__ } },
const struct known_policy policies[] = { POLICIES(LIST) };
const int n_policies = sizeof(policies) / sizeof(*policies);

unsigned policies_n_said;
char policies_said[512];

static void listen(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	(void)level;
	policies_n_said++;
	snprintf(policies_said, sizeof(policies_said), "%s", line);
}

struct kvmod_ctx *policies_context(bool linked_in)
{
	struct kvmod_ctx *ctx;

	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, listen, NULL);
	policies_n_said = 0;
	for (int i = 0; linked_in && i < n_policies; i++)
		ck_assert_msg(kvmod_add_builtin(ctx, policies[i].module) == 0, "%s",
			      kvmod_error());
	return ctx;
}

const char *policies_threads = "kvmod.threads=2";

bool policy_has(const struct kvmod_policy *policy, const char *param)
{
	const struct kvmod_policy_ops *ops = kvmod_policy_ops(policy);

	for (uint32_t i = 0; i < ops->n_params; i++)
		if (strcmp(ops->params[i].name, param) == 0)
			return true;
	return false;
}

struct kvmod_policy *open_policy(struct kvmod_ctx *ctx, const char *name,
					const char *params, const struct kv_shape *shape)
{
	struct kvmod_model model = madeup_model(shape);
	struct kvmod_policy *policy;
	char copy[256], text[8][128];
	const char *overrides[9] = { policies_threads };
	size_t n = 0;

	snprintf(copy, sizeof(copy), "%s", params);
	for (char *param = strtok(copy, " "); param; param = strtok(NULL, " ")) {
		snprintf(text[n], sizeof(text[n]), "policy %s.%s", name, param);
		overrides[n + 1] = text[n];
		n++;
	}
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", overrides, n + 1) == 0, "%s",
		      kvmod_error());
	ck_assert_msg(kvmod_policy_open(ctx, name, "cpu", &model, &policy) == 0, "%s",
		      kvmod_error());
	return policy;
}

/* A policy that is asked while decoding may cut only then. */
struct kvmod_plan *decide(struct kvmod_policy *policy, const struct kvmod_request *request)
{
	struct kvmod_request r = *request;
	struct kvmod_plan *plan;

	if (kvmod_policy_needs(policy)->decode_every)
		r.phase = KVMOD_DECODE;
	ck_assert_int_eq(kvmod_plan_new(&r, &plan), 0);
	ck_assert_msg(kvmod_decide(policy, &r, plan) == 0, "%s", kvmod_error());
	return plan;
}

struct kvmod_plan *decide_once(struct kvmod_ctx *ctx, const char *name, const char *params,
				      const struct madeup *m)
{
	struct kvmod_policy *policy = open_policy(ctx, name, params, &m->shape);
	struct kvmod_plan *plan = decide(policy, &m->d.request);

	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s %s: %s", name, params, policies_said);
	kvmod_policy_close(policy);
	return plan;
}

uint32_t total_heads(const struct madeup *m)
{
	return m->shape.n_segments * m->shape.n_kv_heads;
}

uint32_t kept_of(const struct madeup *m, const struct kvmod_plan *plan, uint32_t head,
			uint32_t *kept)
{
	return vectors_kept(&m->d.request, plan, head / m->shape.n_kv_heads,
			    head % m->shape.n_kv_heads, kept);
}

uint32_t only_in_a(const struct madeup *m, const struct kvmod_plan *a,
			  const struct kvmod_plan *b)
{
	uint32_t in_a[MAX_N], in_b[MAX_N], only = 0;

	for (uint32_t head = 0; head < total_heads(m); head++) {
		uint32_t n_a = kept_of(m, a, head, in_a), n_b = kept_of(m, b, head, in_b);

		for (uint32_t i = 0, j = 0; i < n_a; i++) {
			while (j < n_b && in_b[j] < in_a[i])
				j++;
			only += j == n_b || in_b[j] != in_a[i];
		}
	}
	return only;
}

bool same_plan(const struct madeup *m, const struct kvmod_plan *a,
		      const struct kvmod_plan *b)
{
	return only_in_a(m, a, b) == 0 && only_in_a(m, b, a) == 0;
}

struct kv_shape draw_shape(struct kv_random *r, uint32_t type)
{
	static const uint32_t dims[] = { 32, 64, 96, 128 }, groups[] = { 1, 2, 3, 4, 7 };
	uint32_t n_kv_heads = kv_random_range(r, 1, 4), n_layers = kv_random_range(r, 1, 3);

	return (struct kv_shape){
		.n_layers = n_layers,
		.n_segments = n_layers,
		.n_kv_heads = n_kv_heads,
		.n_q_heads = n_kv_heads * groups[kv_random_range(r, 0, 4)],
		.head_dim = dims[kv_random_range(r, 0, 3)],
		.type = type,
	};
}

const struct kv_shape usual = {
	.n_layers = 3, .n_segments = 3, .n_q_heads = 9, .n_kv_heads = 3, .head_dim = 32,
	.type = KVMOD_F32,
};

struct madeup make(const struct kv_shape *shape, uint32_t n)
{
	struct madeup m;

	ck_assert_uint_le(n, MAX_N);
	ck_assert_int_eq(madeup_first(&m, shape, n, ROWS, EXTRAS), 0);
	return m;
}

int policies_run(const char *name, void (*add)(TCase *tcase))
{
	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create(name);
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 120);
	add(tcase);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
