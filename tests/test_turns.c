/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversations: what the policies keep of caches that earlier turns cut, held against
 * references in double precision, and what a session says of it.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/madeup.h"
#include "core/testkit/vectors.h"
#include "tests/policies_reference.h"
#include "tests/refreekv_reference.h"

extern const struct kvmod_module kvmod_module_adakv, kvmod_module_contribution,
	kvmod_module_fake, kvmod_module_h2o, kvmod_module_keydiff, kvmod_module_knorm,
	kvmod_module_lagkv, kvmod_module_random, kvmod_module_refreekv, kvmod_module_rkv,
	kvmod_module_snapkv, kvmod_module_streamingllm, kvmod_module_topp, kvmod_module_tova;

static const struct kvmod_module *const modules[] = {
	&kvmod_module_adakv, &kvmod_module_contribution, &kvmod_module_fake, &kvmod_module_h2o,
	&kvmod_module_keydiff, &kvmod_module_knorm, &kvmod_module_lagkv, &kvmod_module_random,
	&kvmod_module_refreekv, &kvmod_module_rkv, &kvmod_module_snapkv,
	&kvmod_module_streamingllm, &kvmod_module_topp, &kvmod_module_tova,
};

static char said[512];

static void listen(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	(void)level;
	snprintf(said, sizeof(said), "%s", line);
}

/* overrides: "policy x.budget=20% policy x.window=8", split at " policy" */
static struct kvmod_ctx *context(const char *overrides)
{
	const char *item[16] = { "kvmod.threads=2", "kvmod.leave_below=0" };
	char copy[512], *next = copy;
	struct kvmod_ctx *ctx;
	size_t n = 2;

	snprintf(copy, sizeof(copy), "%s", overrides);
	while (*next) {
		char *end = strstr(next, " policy ");

		item[n++] = next;
		if (!end)
			break;
		*end = '\0';
		next = end + 1;
	}
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, listen, NULL);
	for (size_t i = 0; i < sizeof(modules) / sizeof(*modules); i++)
		ck_assert_msg(kvmod_add_builtin(ctx, modules[i]) == 0, "%s", kvmod_error());
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", item, n) == 0, "%s", kvmod_error());
	return ctx;
}

/* --- golden vectors of later turns --------------------------------------------------- */

static double number(const struct vectors_case *c, const char *key, double otherwise)
{
	const char *text = vectors_param(c, key);

	return text ? strtod(text, NULL) : otherwise;
}

static enum policy_rule rule_of(const struct vectors_case *c)
{
	static const char *const names[] = {
		[RULE_STREAMINGLLM] = "streamingllm", [RULE_SNAPKV] = "snapkv", [RULE_ADAKV] = "adakv",
		[RULE_TOPP] = "topp", [RULE_H2O] = "h2o", [RULE_TOVA] = "tova", [RULE_KNORM] = "knorm",
		[RULE_RKV] = "rkv",
	};
	enum policy_rule rule = RULE_STREAMINGLLM;

	while (strcmp(c->policy, names[rule]) != 0)
		ck_assert_uint_lt(++rule, sizeof(names) / sizeof(*names));
	return rule;
}

/* "0.2" and "20%" are shares of the tokens seen, "24" is a count. */
static void read_amount(const char *text, uint32_t *permille, uint32_t *count)
{
	if (text && strchr(text, '%'))
		*permille = (uint32_t)lrint(10 * strtod(text, NULL));
	else if (text && strchr(text, '.'))
		*permille = (uint32_t)lrint(1000 * strtod(text, NULL));
	else if (text)
		*count = (uint32_t)strtoul(text, NULL, 10);
}

static struct policy_params params_of(const struct vectors_case *c)
{
	const char *budget = vectors_param(c, "budget"), *pooling = vectors_param(c, "pooling");
	struct policy_params p = {
		.rule = rule_of(c),
		.sinks = (uint32_t)number(c, "sinks", 4),
		.window = (uint32_t)number(c, "window", 0),
		.pool = (uint32_t)number(c, "pool", 1),
		.pool_max = pooling && strcmp(pooling, "max") == 0,
		.alpha = number(c, "alpha", 0), .p = number(c, "p", 0),
		.rows = (uint32_t)number(c, "rows", 0),
		.lambda = number(c, "lambda", 0), .similarity = number(c, "similarity", 0),
	};

	read_amount(budget ? budget : vectors_param(c, "heavy"), &p.permille, &p.count);
	read_amount(vectors_param(c, "recent"), &p.recent_permille, &p.recent);
	return p;
}

/* Of one layer, by the reference: marks, [n_kv_heads][*stride]. */
static unsigned char *reference_of(const struct vectors_case *c, const struct kvmod_segment *s,
				   uint32_t *stride)
{
	const struct reference_params refreekv = {
		.threshold = number(c, "threshold", 0.01), .sinks = (uint32_t)number(c, "sinks", 4),
		.recent = (uint32_t)number(c, "recent", 1), .rows = c->rows,
	};
	struct policy_params params;
	struct policy_answer answer;
	struct reference reference;

	if (strcmp(c->policy, "refreekv") == 0) {
		ck_assert_int_eq(reference_decide(s, &refreekv, &reference), 0);
		ck_assert_double_eq_tol(reference.loss, c->loss, 1e-8);
		*stride = kvmod_head_at(s, 0)->n;
		return reference.kept;
	}
	params = params_of(c);
	ck_assert_int_eq(policy_decide(s, &params, &answer), 0);
	*stride = answer.stride;
	return answer.kept;
}

/* Does the file say what the references say? */
static void check_expectation(const struct vectors_case *c)
{
	struct vectors_request r;
	uint32_t stride;

	ck_assert_int_eq(vectors_request(c, KVMOD_F32, &r), 0);
	for (uint32_t l = 0; l < c->n_layers; l++) {
		const struct kvmod_segment *s = kvmod_segment_at(&r.d.request, l);
		unsigned char *kept = reference_of(c, s, &stride);

		for (uint32_t g = 0; g < c->n_kv_heads; g++) {
			size_t head = (size_t)l * c->n_kv_heads + g;
			uint32_t n = 0;

			for (uint32_t i = 0; i < kvmod_head_at(s, g)->n; i++) {
				if (!kept[(size_t)g * stride + i])
					continue;
				ck_assert_msg(n < c->counts[head] && c->kept[head * c->n + n] == i,
					      "%s: layer %u, KV head %u", c->name, l, g);
				n++;
			}
			ck_assert_uint_eq(n, c->counts[head]);
		}
		free(kept);
	}
	vectors_request_free(&r);
}

START_TEST(golden_second_turns)
{
	const char *threads = "kvmod.threads=2";
	struct kvmod_ctx *ctx = context("");
	struct vectors v;
	struct vectors_case *c;
	unsigned n;
	char why[512];
	int got;

	ck_assert_msg(vectors_open(&v, GOLDEN "second-turns.txt") == 0, "%s", v.error);
	for (n = 0; (got = vectors_next(&v, &c)) == 1; n++) {
		ck_assert_uint_lt(c->n, c->logical);
		check_expectation(c);
		ck_assert_msg(vectors_run(ctx, "/dev/null", &threads, 1, c, KVMOD_F32, "cpu", why,
					  sizeof(why)) == 0, "%s: %s", c->name, why);
		vectors_case_free(c);
	}
	ck_assert_msg(got == 0, "%s", v.error);
	ck_assert_uint_eq(n, 22);
	vectors_close(&v);
	kvmod_unref(ctx);
}
END_TEST

/* --- ten turns of every policy --------------------------------------------------------- */

#define TURNS	10
#define FIRST	200		/* tokens */
#define LATER	45
#define MAX_N	(FIRST + TURNS * LATER)

static const struct kv_shape shape = {
	.n_layers = 3, .n_segments = 3, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 32,
	.type = KVMOD_F32,
};

static const struct conversation {
	const char *policy, *overrides;
	bool is_refreekv, has_reference;
	bool needs_engine;		/* needs what the engine "fake" does not have */
	struct policy_params p;
	struct reference_params refreekv;
} conversations[] = {
	{ .policy = "snapkv", .has_reference = true,
	  .overrides = "policy snapkv.budget=20% policy snapkv.window=16",
	  .p = { RULE_SNAPKV, .permille = 200, .window = 16, .pool = 5 } },
	{ .policy = "snapkv", .has_reference = true, .overrides = "policy snapkv.budget=60",
	  .p = { RULE_SNAPKV, .count = 60, .window = 32, .pool = 5 } },
	{ .policy = "adakv", .has_reference = true,
	  .overrides = "policy adakv.budget=0.25 policy adakv.window=16",
	  .p = { RULE_ADAKV, .permille = 250, .window = 16, .pool = 7, .pool_max = true, .alpha = 0.2 } },
	{ .policy = "adakv", .has_reference = true,
	  .overrides = "policy adakv.budget=20% policy adakv.window=8 policy adakv.alpha=0.8",
	  .p = { RULE_ADAKV, .permille = 200, .window = 8, .pool = 7, .pool_max = true, .alpha = 0.8 } },
	{ .policy = "streamingllm", .has_reference = true,
	  .overrides = "policy streamingllm.budget=30%",
	  .p = { RULE_STREAMINGLLM, .permille = 300, .sinks = 4 } },
	{ .policy = "streamingllm", .has_reference = true, .overrides = "policy streamingllm.budget=64",
	  .p = { RULE_STREAMINGLLM, .count = 64, .sinks = 4 } },
	{ .policy = "topp", .has_reference = true,
	  .overrides = "policy topp.p=0.6 policy topp.whole_layers=0",
	  .p = { RULE_TOPP, .p = 0.6 } },
	{ .policy = "refreekv", .has_reference = true, .is_refreekv = true,
	  .overrides = "policy refreekv.threshold=0.2 policy refreekv.whole_layers=0",
	  .refreekv = { .threshold = 0.2, .sinks = 4, .recent = 1, .rows = 1 } },
	{ .policy = "h2o", .has_reference = true, .needs_engine = true,
	  .overrides = "policy h2o.heavy=15% policy h2o.recent=0.05",
	  .p = { RULE_H2O, .permille = 150, .recent_permille = 50 } },
	{ .policy = "h2o", .has_reference = true,
	  .overrides = "policy h2o.heavy=20 policy h2o.recent=20 policy h2o.rows=12",
	  .p = { RULE_H2O, .count = 20, .recent = 20, .rows = 12 } },
	{ .policy = "knorm", .has_reference = true,
	  .overrides = "policy knorm.budget=0.25 policy knorm.whole_layers=0",
	  .p = { RULE_KNORM, .permille = 250 } },
	{ .policy = "rkv", .has_reference = true,
	  .overrides = "policy rkv.budget=0.25 policy rkv.after_prompts=yes",
	  .p = { RULE_RKV, .permille = 250, .window = 8, .pool = 7, .lambda = 0.07, .similarity = 0.5 } },
	{ .policy = "rkv", .has_reference = true,
	  .overrides = "policy rkv.lambda=0.5 policy rkv.window=20 policy rkv.pool=1 "
		       "policy rkv.similarity=0.2 policy rkv.after_prompts=yes",
	  .p = { RULE_RKV, .count = 128, .window = 20, .pool = 1, .lambda = 0.5, .similarity = 0.2 } },
	{ .policy = "tova", .has_reference = true, .overrides = "policy tova.budget=30%",
	  .p = { RULE_TOVA, .permille = 300, .window = 1 } },
	{ .policy = "tova", .has_reference = true,
	  .overrides = "policy tova.budget=50 policy tova.window=10",
	  .p = { RULE_TOVA, .count = 50, .window = 10 } },
	{ .policy = "random", .overrides = "policy random.budget=20%",
	  .p = { RULE_SNAPKV, .permille = 200, .window = 1 } },
	{ .policy = "keydiff", .overrides = "policy keydiff.budget=20%",
	  .p = { RULE_SNAPKV, .permille = 200, .window = 1 } },
	{ .policy = "lagkv", .overrides = "policy lagkv.budget=0.25 policy lagkv.lag=16",
	  .p = { RULE_SNAPKV, .permille = 250, .window = 1 } },
	{ .policy = "contribution", .overrides = "", .p = { RULE_TOPP } },
	{ .policy = "fullkv", .overrides = "", .p = { RULE_SNAPKV, .permille = 1000 } },
};
#define N_CONVERSATIONS ((int)(sizeof(conversations) / sizeof(*conversations)))

/* A segment's plan is the reference's, where no choice of that hangs on rounding. */
static bool check_segment(const struct conversation *talk, const struct madeup *m,
			  const struct kvmod_plan *plan, uint32_t i)
{
	const struct kvmod_segment *s = kvmod_segment_at(&m->d.request, i);
	struct policy_answer answer = { .stride = kvmod_longest_head(s) };
	struct reference reference = { .margin = 1 };
	uint32_t kept[MAX_N];
	bool sure;

	if (talk->is_refreekv) {
		ck_assert_int_eq(reference_decide(s, &talk->refreekv, &reference), 0);
		answer.kept = reference.kept;
		sure = reference.margin > 1e-5;
	} else {
		ck_assert_int_eq(policy_decide(s, &talk->p, &answer), 0);
		sure = answer.tie > 1e-4;
	}
	for (uint32_t g = 0; g < s->n_kv_heads && sure; g++) {
		uint32_t n = vectors_kept(&m->d.request, plan, i, g, kept), at = 0;

		for (uint32_t k = 0; k < kvmod_head_at(s, g)->n; k++)
			if (answer.kept[(size_t)g * answer.stride + k])
				ck_assert_msg(at < n && kept[at++] == k, "%s: layer %u, KV head %u",
					      talk->policy, i, g);
		ck_assert_uint_eq(at, n);
	}
	free(answer.kept);
	return sure;
}

/* C of so many tokens. */
static uint64_t budget_of(const struct policy_params *p, uint64_t seen)
{
	uint64_t c = p->count ? p->count : seen * p->permille / 1000;

	return c + (p->recent ? p->recent : seen * p->recent_permille / 1000);
}

/* C of the tokens seen, or what a head has; adakv's heads share, and each rounds. */
static void check_budget(const struct conversation *talk, const struct madeup *m,
			 const struct kvmod_plan *plan, uint32_t i)
{
	const struct kvmod_segment *s = kvmod_segment_at(&m->d.request, i);
	uint64_t c = budget_of(&talk->p, s->logical);
	uint64_t kept = 0, wanted = 0, cached = 0;
	bool shared = talk->p.rule == RULE_ADAKV;

	if (talk->is_refreekv || talk->p.rule == RULE_TOPP)
		return;
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		uint32_t n = kvmod_head_at(s, g)->n;
		uint64_t here = kvmod_plan_count(&m->d.request, plan, i, g);

		if (!shared)
			ck_assert_uint_eq(here, n < c ? n : c);
		kept += here;
		wanted += c;
		cached += n;
	}
	wanted = wanted < cached ? wanted : cached;
	ck_assert_uint_le(kept, wanted + (shared ? s->n_kv_heads : 0));
	ck_assert_uint_ge(kept + (shared ? s->n_kv_heads : 0), wanted);
}

START_TEST(ten_turns)
{
	const struct conversation *talk = &conversations[_i];
	struct kvmod_model model = madeup_model(&shape);
	struct kvmod_ctx *ctx = context(talk->overrides);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan = NULL;
	struct madeup m, next;
	unsigned n_sure = 0;
	uint32_t rows, what;

	ck_assert_msg(kvmod_policy_open(ctx, talk->policy, "cpu", &model, &policy) == 0, "%s",
		      kvmod_error());
	rows = kvmod_needs_rows(kvmod_policy_needs(policy), FIRST);
	what = kvmod_policy_needs(policy)->what;
	ck_assert_int_eq(madeup_first(&m, &shape, FIRST, rows, what), 0);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		ck_assert_int_eq(kvmod_plan_renew(&m.d.request, &plan), 0);
		ck_assert_msg(kvmod_decide(policy, &m.d.request, plan) == 0, "%s", kvmod_error());
		for (uint32_t i = 0; i < shape.n_segments; i++) {
			ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s", said);
			check_budget(talk, &m, plan, i);
			if (talk->has_reference)
				n_sure += check_segment(talk, &m, plan, i);
		}
		ck_assert_int_eq(madeup_next(&next, &m, plan, LATER, rows, what), 0);
		madeup_free(&m);
		m = next;
	}
	ck_assert(!talk->has_reference || n_sure > TURNS * shape.n_segments / 2);
	madeup_free(&m);
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* --- the same through a session ---------------------------------------------------------- */

static void say(struct kvmod_sequence *sequence, unsigned n, struct kvmod_prompted *out)
{
	int32_t tokens[FIRST];
	struct kvmod_prompt prompt = { .size = sizeof(prompt), .tokens = tokens, .n_tokens = n };

	for (unsigned i = 0; i < n; i++)
		tokens[i] = 'a' + (int32_t)(i * i + n) % 26;
	*out = (struct kvmod_prompted){ .size = sizeof(*out) };
	ck_assert_msg(kvmod_sequence_prompt(sequence, &prompt, out) == 0, "%s", kvmod_error());
	ck_assert_int_eq(out->status, 0);
}

/*
 * After every turn the report is of all tokens seen: the share that was asked for,
 * not that share of what the turn before left.
 */
START_TEST(ten_turns_of_a_session)
{
	const struct conversation *talk = &conversations[_i];
	struct kvmod_ctx *ctx = context(talk->overrides);
	struct kvmod_engine *engine;
	struct kvmod_policy *policy;
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;
	struct kvmod_prompted out;
	bool budgeted = !talk->is_refreekv && talk->p.rule != RULE_TOPP;
	uint64_t seen, slack = talk->p.rule == RULE_ADAKV ? 2 : 0;

	if (talk->needs_engine) {
		kvmod_unref(ctx);
		return;
	}
	ck_assert_msg(kvmod_engine_open(ctx, "fake", &engine) == 0, "%s", kvmod_error());
	ck_assert_msg(kvmod_policy_open(ctx, talk->policy, "cpu", kvmod_engine_model(engine),
					&policy) == 0, "%s", kvmod_error());
	ck_assert_int_eq(kvmod_session_open(engine, policy, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		uint64_t n = FIRST + turn * LATER, kept = 0;
		uint64_t c = budget_of(&talk->p, n);

		say(sequence, turn ? LATER : FIRST, &out);
		for (uint32_t g = 0; g < 2; g++)
			kept += kvmod_sequence_kept(sequence, 3, g, &seen);
		ck_assert_uint_eq(seen, n);
		ck_assert_uint_eq(out.left_whole, 0);
		ck_assert_double_le(out.budget, 1);
		ck_assert_double_eq_tol(out.budget,
					(double)out.after.used / (double)out.after.full, 1e-12);
		/* adakv rounds each head's share, of which there are two. */
		if (budgeted)
			ck_assert_msg(kept <= 2 * c + slack && kept + slack >= 2 * c,
				      "%s: turn %u keeps %llu of %llu", talk->policy, turn,
				      (unsigned long long)kept, (unsigned long long)(2 * n));
	}
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	kvmod_policy_close(policy);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("turns");
	TCase *tcase = tcase_create("turns");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, golden_second_turns);
	tcase_add_loop_test(tcase, ten_turns, 0, N_CONVERSATIONS);
	tcase_add_loop_test(tcase, ten_turns_of_a_session, 0, N_CONVERSATIONS);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
