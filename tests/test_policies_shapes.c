/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policies on caches of any shape: random heads and lengths, soft caps, sink logits, heads
 * that an earlier turn cut each its own way; compared with references in double precision.
 */
#include <stdlib.h>

#include "tests/policies.h"
#include "tests/policies_reference.h"

#define MAX_HEADS 64

static const struct rule {
	const char *policy, *params;
	struct policy_params p;
} rules[] = {
	{ "snapkv", "budget=0.3 window=12", { RULE_SNAPKV, .permille = 300, .window = 12, .pool = 5 } },
	{ "adakv", "budget=0.3 window=12",
	  { RULE_ADAKV, .permille = 300, .window = 12, .pool = 7, .pool_max = true, .alpha = 0.2 } },
	{ "topp", "p=0.7 whole_layers=0", { RULE_TOPP, .p = 0.7 } },
	{ "h2o", "heavy=0.2 recent=0.1", { RULE_H2O, .permille = 200, .recent_permille = 100 } },
	{ "h2o", "heavy=30 recent=7 rows=20", { RULE_H2O, .count = 30, .recent = 7, .rows = 20 } },
	{ "knorm", "budget=0.4 whole_layers=0", { RULE_KNORM, .permille = 400 } },
	{ "rkv", "budget=0.3",
	  { RULE_RKV, .permille = 300, .window = 8, .pool = 7, .lambda = 0.07, .similarity = 0.5 } },
	{ "rkv", "budget=30 window=3 lambda=0.6 pool=3 similarity=0.15",
	  { RULE_RKV, .count = 30, .window = 3, .pool = 3, .lambda = 0.6, .similarity = 0.15 } },
	{ "tova", "budget=0.3", { RULE_TOVA, .permille = 300, .window = 1 } },
};
#define N_RULES ((int)(sizeof(rules) / sizeof(*rules)))

/* Does the plan keep what the reference keeps? Counts segments where rounding decides nothing. */
static unsigned compare(const struct rule *rule, const struct madeup *m, const struct kvmod_plan *plan)
{
	unsigned n_sure = 0;

	for (uint32_t i = 0; i < m->shape.n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(&m->d.request, i);
		struct policy_answer answer;

		ck_assert_int_eq(policy_decide(s, &rule->p, &answer), 0);
		ck_assert(answer.finite);
		for (uint32_t g = 0; g < s->n_kv_heads && answer.tie > 1e-4; g++) {
			uint32_t kept[MAX_N], n = vectors_kept(&m->d.request, plan, i, g, kept), at = 0;

			for (uint32_t k = 0; k < kvmod_head_at(s, g)->n; k++)
				if (answer.kept[(size_t)g * answer.stride + k])
					ck_assert_msg(at < n && kept[at++] == k,
						      "%s %s: layer %u, KV head %u, index %u", rule->policy,
						      rule->params, i, g, k);
			ck_assert_uint_eq(at, n);
		}
		n_sure += answer.tie > 1e-4;
		free(answer.kept);
	}
	return n_sure;
}

/* Cuts each head its own way, or all alike; the newest stays. */
static void cut(struct kv_random *r, const struct madeup *m, struct kvmod_plan *plan, bool alike)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);
		uint32_t n = m->d.heads[0].n, step = 2;

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < m->shape.n_kv_heads; g++) {
			step = alike ? 2 : kv_random_range(r, 1, 4);
			for (uint32_t k = (n - 1) % step; k < n; k += step)
				keep->indices[g * keep->index_stride + keep->counts[g]++] = k;
		}
	}
}

/* One set for a layer needs heads of the same length. */
static struct madeup second_turn(struct kv_random *r, struct madeup *first, bool alike)
{
	struct kvmod_plan *plan;
	struct madeup m;

	ck_assert_int_eq(kvmod_plan_new(&first->d.request, &plan), 0);
	cut(r, first, plan, alike);
	ck_assert_int_eq(madeup_next(&m, first, plan, kv_random_range(r, 1, 50), ROWS, EXTRAS), 0);
	kvmod_plan_free(plan);
	madeup_free(first);
	return m;
}

START_TEST(any_shape)
{
	static float sinks[MAX_HEADS];
	const struct rule *rule = &rules[_i];
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_random r = { 100 + (uint64_t)_i };
	unsigned n_sure = 0, n = 0;

	for (int h = 0; h < MAX_HEADS; h++)
		sinks[h] = 2 * kv_random_normal(&r) + 1;
	for (int round = 0; round < 16; round++) {
		struct kv_shape shape = draw_shape(&r, KVMOD_F32 + (uint32_t)round % 5);
		struct madeup m = make(&shape, kv_random_range(&r, 20, 140));
		struct kvmod_policy *policy = open_policy(ctx, rule->policy, rule->params, &shape);
		struct kvmod_plan *plan;

		if (round % 2)
			m = second_turn(&r, &m, rule->p.rule == RULE_TOVA);
		for (uint32_t i = 0; i < shape.n_segments; i++) {
			m.d.segments[i].softcap = round % 3 == 1 ? 1.5f : 0;
			m.d.segments[i].sink_logits = round % 3 == 2 ? sinks : NULL;
			if (rule->p.rows && round % 4 > 1)	/* its own are enough */
				m.d.segments[i].colsum.data = NULL;
		}
		plan = decide(policy, &m.d.request);
		for (uint32_t i = 0; i < plan->n_keeps; i++)
			ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s", policies_said);
		n_sure += compare(rule, &m, plan);
		n += plan->n_keeps;
		kvmod_plan_free(plan);
		kvmod_policy_close(policy);
		madeup_free(&m);
	}
	ck_assert_msg(2 * n_sure > n, "%u of %u", n_sure, n);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	tcase_add_loop_test(tcase, any_shape, 0, N_RULES);
}

int main(void)
{
	return policies_run("policies, shapes", add);
}
