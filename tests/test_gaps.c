/* SPDX-License-Identifier: Apache-2.0 */
/* Which plans close the gaps that they cut: the policy's flag, and what was planned. */
#include <check.h>
#undef fail			/* the old name of ck_abort_msg() */
#include <stdio.h>
#include <stdlib.h>

#define KVMOD_MODULE_SYMBOL gaps_module
#include <kvmod/kvmod.h>

#include "core/run/describe.h"

#define LAYERS	2u
#define HEADS	2u
#define N	3000u

struct closer {
	struct kvmod_instance base;
	int32_t keeps;
};

enum keeps { ALL, ENDS, SUFFIX, MOST_SINKS, TOO_MANY_SINKS, THREE, NOT_FIRST, LISTS, BAD, FAILED,
	     REFUSED, REPLAYED };

#define PARAMS(P, owner) \
	P(owner, struct closer, keeps, CHOICE, "all", \
	  "all|ends|suffix|most-sinks|too-many-sinks|three|not-first|lists|bad|failed|refused|replayed", \
	  "what stays of the last layer")
KVMOD_PARAMS(policy, closer, PARAMS);

/* Of two or three spans, the last of them the newest 1000. */
static void keep_spans(struct kvmod_keep *keep, uint32_t n, uint32_t begin, uint32_t end)
{
	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = n;
	keep->spans[0] = (struct kvmod_span){ .begin = begin, .end = end };
	keep->spans[1] = (struct kvmod_span){ .begin = N - 1200, .end = N - 1100 };
	keep->spans[n - 1] = (struct kvmod_span){ .begin = N - 1000, .end = N };
}

/* The same as ENDS does, but in lists. */
static void keep_lists(struct kvmod_keep *keep)
{
	keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < HEADS; g++) {
		keep->counts[g] = 1004;
		for (uint32_t i = 0; i < 1004; i++)
			keep->indices[g * keep->index_stride + i] = i < 4 ? i : N - 1004 + i;
	}
}

static uint32_t replayed_flags;

static int32_t engine_replay(const struct kvmod_request *r, const struct kvmod_plan *trial,
			     uint32_t rows, double *loss)
{
	(void)r, (void)rows;
	replayed_flags = trial->flags;
	*loss = 0;
	return KVMOD_OK;
}

static int32_t closer_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	const struct closer *closer = self;
	struct kvmod_keep *last = kvmod_keep_at(plan, LAYERS - 1);
	double loss;

	/* Not the policy's to say. */
	plan->flags = ~KVMOD_PLAN_CLOSES_GAPS;
	keep_spans(kvmod_keep_at(plan, 0), 2, 0, 4);
	switch (closer->keeps) {
	case ENDS:
		keep_spans(last, 2, 0, 4);
		return KVMOD_OK;
	case SUFFIX:
		keep_spans(last, 1, 0, 0);
		return KVMOD_OK;
	case MOST_SINKS:
		keep_spans(last, 2, 0, KVMOD_MAX_SINKS);
		return KVMOD_OK;
	case TOO_MANY_SINKS:
		keep_spans(last, 2, 0, KVMOD_MAX_SINKS + 1);
		return KVMOD_OK;
	case THREE:
		keep_spans(last, 3, 0, 4);
		return KVMOD_OK;
	case NOT_FIRST:
		keep_spans(last, 2, 1, 4);
		return KVMOD_OK;
	case LISTS:
		keep_lists(last);
		return KVMOD_OK;
	case BAD:
		keep_spans(last, 2, 4, 4);
		return KVMOD_OK;
	case FAILED:
		keep_lists(last);
		last->status = KVMOD_ENUMERIC;
		return KVMOD_OK;
	case REFUSED:
		return KVMOD_ENUMERIC;
	case REPLAYED:
		return r->replay(r, plan, 2, &loss);
	default:
		return KVMOD_OK;
	}
}

#define OPS(name_, flags_) { \
	.size = sizeof(struct kvmod_policy_ops), .name = name_, .flags = flags_, \
	.description = "plans as its parameter says", \
	.instance_size = sizeof(struct closer), .params = closer_params, .n_params = 1, \
	.compress = closer_compress }

static const struct kvmod_policy_ops all_ops[] = {
	OPS("closer", KVMOD_POLICY_CLOSES_GAPS), OPS("opener", KVMOD_POLICY_MAY_DROP_NEWEST),
};

static int32_t gaps_init(const struct kvmod_host *host)
{
	int32_t err = host->register_policy(host->ctx, &all_ops[0]);

	return err ? err : host->register_policy(host->ctx, &all_ops[1]);
}

KVMOD_MODULE("gaps", "1", "Apache-2.0", "kvmod", "for this test", 0, gaps_init, NULL);

/* The flags of a plan of that policy, which keeps that. */
static uint32_t decided(const char *name, const char *keeps)
{
	static const struct kv_shape shape = {
		.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = HEADS, .n_kv_heads = HEADS,
		.head_dim = 8,
	};
	struct kvmod_model model = kv_model_of_shape(&shape, N);
	struct kv_described cache;
	struct kvmod_plan *plan = NULL;
	struct kvmod_policy *policy;
	struct kvmod_ctx *ctx;
	uint32_t flags;
	char override[64];
	const char *overrides[] = { override };

	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	cache.request.phase = KVMOD_DECODE;
	cache.request.replay = engine_replay;
	snprintf(override, sizeof(override), "policy %s.keeps=%s", name, keeps);
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log_level(ctx, 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &gaps_module), 0);
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", overrides, 1), "%s", kvmod_error());
	ck_assert_msg(!kvmod_policy_open(ctx, name, "cpu", &model, &policy), "%s", kvmod_error());
	ck_assert_int_eq(kvmod_plan_new(&cache.request, &plan), 0);
	kvmod_decide(policy, &cache.request, plan);
	flags = plan->flags;
	/* In the same memory, another plan has none. */
	ck_assert_int_eq(kvmod_plan_renew(&cache.request, &plan), 0);
	ck_assert_uint_eq(plan->flags, 0);
	kvmod_plan_free(plan);
	kv_undescribe(&cache);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	return flags;
}

START_TEST(plans)
{
	static const struct {
		const char *keeps;
		uint32_t flags;
	} expected[] = {
		{ "all", KVMOD_PLAN_CLOSES_GAPS }, { "ends", KVMOD_PLAN_CLOSES_GAPS },
		{ "suffix", KVMOD_PLAN_CLOSES_GAPS }, { "most-sinks", KVMOD_PLAN_CLOSES_GAPS },
		{ "too-many-sinks", 0 }, { "three", 0 }, { "not-first", 0 }, { "lists", 0 },
		/* Segments that are whole after all. */
		{ "bad", KVMOD_PLAN_CLOSES_GAPS }, { "failed", KVMOD_PLAN_CLOSES_GAPS },
		/* And a plan of which nothing counts. */
		{ "refused", 0 },
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(*expected); i++) {
		ck_assert_msg(decided("closer", expected[i].keeps) == expected[i].flags, "%s",
			      expected[i].keeps);
		ck_assert_uint_eq(decided("opener", expected[i].keeps), 0);
	}
}
END_TEST

/* What a plan would cost is measured with the flags that it would have. */
START_TEST(replays)
{
	decided("closer", "replayed");
	ck_assert_uint_eq(replayed_flags, KVMOD_PLAN_CLOSES_GAPS);
	decided("opener", "replayed");
	ck_assert_uint_eq(replayed_flags, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("gaps");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(t, plans);
	tcase_add_test(t, replays);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
