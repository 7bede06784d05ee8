/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions that collect for several policies: what all of them need together, copies into the
 * sessions of those policies, and what is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL collect_module
#include "tests/watch.h"
#include "core/run/request.h"

/* --- engines: the fake one, but for the calls that a test replaces --------------------------- */

static struct kvmod_engine_ops narrow, old, empty;	/* with seq_narrow(); built before it; with NULL */
static struct kvmod_engine_ops whole;
static int n_open;		/* sequences of the engine `narrow` */
static int32_t narrow_code;
static struct kvmod_needs begun, narrowed;	/* what prompt_begin() and seq_narrow() were told */
static uint64_t narrowed_tokens;

static int32_t count_open(void *self, struct kvmod_seq **out)
{
	n_open++;
	return whole.seq_open(self, out);
}

static int32_t count_fork(void *self, struct kvmod_seq *seq, struct kvmod_seq **out)
{
	n_open++;
	return whole.seq_fork(self, seq, out);
}

static void count_close(void *self, struct kvmod_seq *seq)
{
	n_open--;
	whole.seq_close(self, seq);
}

static int32_t note_begin(void *self, struct kvmod_seq *seq, uint64_t n, const struct kvmod_needs *needs)
{
	begun = needs ? *needs : (struct kvmod_needs){ 0 };
	return whole.prompt_begin(self, seq, n, needs);
}

static int32_t note_narrow(void *self, struct kvmod_seq *seq, uint64_t n, const struct kvmod_needs *needs)
{
	(void)self;
	(void)seq;
	narrowed = needs ? *needs : (struct kvmod_needs){ 0 };
	narrowed_tokens = n;
	return narrow_code;
}

static int32_t serves_no_colsum(void *self, const struct kvmod_needs *needs)
{
	(void)self;
	return needs->what & KVMOD_NEED_COLSUM ? KVMOD_ENOTSUP : KVMOD_OK;
}

/* --- policies that need something, and keep all ------------------------------------------------ */

static int32_t keep_all(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	(void)self;
	(void)r;
	(void)plan;
	return KVMOD_OK;
}

static int32_t need_stats(struct kvmod_needs *needs, uint32_t skip)
{
	needs->what = KVMOD_NEED_Q_STATS;
	needs->q_stats_skip = skip;
	return KVMOD_OK;
}

static int32_t need_4(void *self, struct kvmod_needs *needs)
{
	(void)self;
	return need_stats(needs, 4);
}

static int32_t need_0(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->decode_every = 16;
	needs->rows = (struct kvmod_amount){ .value = 24, .is_count = 1 };
	return need_stats(needs, 0);
}

static const struct kvmod_policy_ops stats_4 = {
	.size = sizeof(stats_4), .name = "stats-4", .description = "statistics after 4 tokens",
	.instance_size = sizeof(struct kvmod_instance), .needs = need_4, .compress = keep_all,
};

static const struct kvmod_policy_ops stats_0 = {
	.size = sizeof(stats_0), .name = "stats-0", .description = "statistics of all tokens",
	.instance_size = sizeof(struct kvmod_instance), .needs = need_0, .compress = keep_all,
};

static int32_t collect_init(const struct kvmod_host *host)
{
	const struct kvmod_engine_ops *const engines[] = { &narrow, &old, &empty };
	int32_t err = KVMOD_OK;

	for (int i = 0; i < 3 && !err; i++)
		err = host->register_engine(host->ctx, engines[i]);
	if (!err)
		err = host->register_policy(host->ctx, &stats_4);
	return err ? err : host->register_policy(host->ctx, &stats_0);
}

KVMOD_MODULE("collect-test", "1", "Apache-2.0", "kvmod", "for this test", 0, collect_init, NULL);

/* --- fixture --------------------------------------------------------------------------------- */

static struct kvmod_engine *other_engine;
static struct kvmod_policy *policies[4];
static int n_policies;

/* `session` has no policy and the engine of this name; `sequence` is closed. */
static void begin(const char *name)
{
	start(NULL, NULL, 0);
	n_open = 0;
	narrow_code = KVMOD_OK;
	begun = narrowed = (struct kvmod_needs){ 0 };
	n_policies = 0;
	whole = narrow = *kvmod_engine_ops(engine);
	narrow.name = "narrow";
	narrow.seq_open = count_open;
	narrow.seq_fork = count_fork;
	narrow.seq_close = count_close;
	narrow.prompt_begin = note_begin;
	narrow.serves = serves_no_colsum;
	narrow.seq_narrow = note_narrow;
	old = empty = narrow;
	old.name = "old";
	old.size = offsetof(struct kvmod_engine_ops, seq_narrow);
	empty.name = "empty";
	empty.seq_narrow = NULL;
	ck_assert_msg(!kvmod_add_builtin(ctx, &collect_module), "%s", kvmod_error());
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	other_engine = engine;
	ck_assert_msg(!kvmod_engine_open(ctx, name, &engine), "%s", kvmod_error());
	ck_assert_int_eq(kvmod_session_open(engine, NULL, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
	ck_assert_int_eq(n_open, 1);
}

static void end(void)
{
	kvmod_sequence_close(sequence);
	ck_assert_int_eq(n_open, 0);
	kvmod_session_close(session);
	while (n_policies)
		kvmod_policy_close(policies[--n_policies]);
	kvmod_engine_close(engine);
	kvmod_engine_close(other_engine);
	kvmod_unref(ctx);
	free(logits);
}

static struct kvmod_policy *policy_of(const char *name)
{
	ck_assert_msg(!kvmod_policy_open(ctx, name, "cpu", model, &policies[n_policies]), "%s", kvmod_error());
	return policies[n_policies++];
}

static struct kvmod_session *session_of(struct kvmod_policy *of)
{
	struct kvmod_session *s;

	ck_assert_msg(!kvmod_session_open(engine, of, &s), "%s", kvmod_error());
	return s;
}

/* --- collecting ------------------------------------------------------------------------------ */

START_TEST(union_is_collected)
{
	begin("narrow");
	prompt(8);
	ck_assert_uint_eq(begun.size, 0);	/* nothing */
	ck_assert_int_eq(kvmod_session_collect(session, policy_of("watch")), 0);
	ck_assert_int_eq(kvmod_session_collect(session, policy_of("stats-0")), 0);
	prompt(8);
	ck_assert_uint_eq(begun.size, sizeof(begun));
	ck_assert_uint_eq(begun.what, KVMOD_NEED_Q_STATS);
	ck_assert_uint_eq(begun.q_stats_skip, 0);
	ck_assert_uint_eq(begun.decode_every, 1);
	ck_assert_uint_eq(kvmod_needs_rows(&begun, 100), 24);
	end();
}
END_TEST

START_TEST(collect_is_refused)
{
	struct kvmod_session *own;
	struct kvmod_policy *watch;
	struct kvmod_needs before;

	begin("narrow");
	watch = policy_of("watch");
	own = session_of(watch);
	ck_assert_int_eq(kvmod_session_collect(own, watch), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "a session with a policy collects for that one only");
	kvmod_session_close(own);

	ck_assert_int_eq(kvmod_session_collect(session, policy_of("stats-4")), 0);
	prompt(8);
	before = begun;
	ck_assert_int_eq(kvmod_session_collect(session, policy_of("stats-0")), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), "statistics of queries without the oldest 4 tokens and without the "
			 "oldest 0 cannot be collected together");
	prompt(8);
	ck_assert_mem_eq(&begun, &before, sizeof(before));
	/* h2o asks for column sums, which the engine does not serve. */
	ck_assert_int_eq(kvmod_session_collect(session, policy_of("h2o")), KVMOD_ENOTSUP);
	prompt(8);
	ck_assert_mem_eq(&begun, &before, sizeof(before));
	end();
}
END_TEST

START_TEST(engine_cannot_narrow)
{
	const char *const name = _i ? "empty" : "old";
	struct kvmod_prompted out = { .size = sizeof(out) };
	struct kvmod_sequence *copy = NULL;
	struct kvmod_session *own;
	struct kvmod_policy *watch;
	char expected[80];

	begin(name);
	watch = policy_of("watch");
	snprintf(expected, sizeof(expected), "engine %s cannot collect for several policies at once", name);
	ck_assert_int_eq(kvmod_session_collect(session, watch), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), expected);
	prompt(8);
	own = session_of(watch);
	ck_assert_int_eq(kvmod_sequence_fork_to(sequence, own, 0, &copy, &out), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), expected);
	ck_assert_ptr_null(copy);
	ck_assert_int_eq(n_open, 1);
	kvmod_session_close(own);
	end();
}
END_TEST

/* --- copies ---------------------------------------------------------------------------------- */

START_TEST(copy_is_cut)
{
	struct kvmod_prompted out = { .size = sizeof(out) };
	struct kvmod_sequence *copy;
	struct kvmod_session *own;
	struct kvmod_policy *watch;
	int32_t token = 'x';

	begin("narrow");
	watch = policy_of("watch");
	ck_assert_int_eq(kvmod_session_collect(session, policy_of("stats-4")), 0);
	ck_assert_int_eq(kvmod_session_collect(session, watch), 0);
	prompt(10);
	prompt_with(sequence, 40, 3, KVMOD_PROMPT_CONTEXT);
	own = session_of(watch);
	ck_assert_int_eq(kvmod_sequence_fork_to(sequence, own, 0, &copy, &out), 0);
	ck_assert_str_eq(calls, "bP");
	ck_assert_uint_eq(question_later, 1);
	ck_assert_uint_eq(opening, 0);		/* that of the first prompt */
	ck_assert_uint_eq(narrowed_tokens, 40);
	ck_assert_uint_eq(narrowed.what, 0);
	ck_assert_uint_eq(narrowed.size, sizeof(narrowed));
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq_tol(out.budget, 51.0 / 100.0, 1e-12);
	ck_assert_uint_lt(out.after.used, out.before.used);
	ck_assert_uint_eq(kvmod_sequence_kept(copy, 3, 1, NULL), 26);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 3, 1, NULL), 50);
	ck_assert_uint_eq(cached(0, 0), 50);
	ck_assert_int_eq(kvmod_session_decode(own, &copy, &token, &logits, 1), 0);
	ck_assert_uint_eq(kvmod_sequence_length(copy), 51);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 50);
	kvmod_sequence_close(copy);
	ck_assert_str_eq(calls, "bPe");
	kvmod_session_close(own);
	end();
}
END_TEST

/* A session without a policy cuts nothing, and a copy for it collects nothing more. */
START_TEST(copy_without_a_policy)
{
	struct kvmod_prompted out = { .size = sizeof(out) };
	struct kvmod_sequence *copy;
	struct kvmod_session *own;

	begin("narrow");
	ck_assert_int_eq(kvmod_session_collect(session, policy_of("stats-4")), 0);
	prompt(40);
	narrowed.size = 77;
	own = session_of(NULL);
	ck_assert_int_eq(kvmod_sequence_fork_to(sequence, own, 0, &copy, &out), 0);
	ck_assert_uint_eq(narrowed.size, 0);
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq(out.budget, 1);
	ck_assert_uint_eq(out.after.used, out.before.used);
	kvmod_sequence_close(copy);
	kvmod_session_close(own);
	end();
}
END_TEST

static void refused(struct kvmod_sequence *from, struct kvmod_session *to, int err, const char *message)
{
	struct kvmod_prompted out = { .size = sizeof(out), .budget = 77 };
	struct kvmod_sequence *copy = NULL;
	int were_open = n_open;

	ck_assert_int_eq(kvmod_sequence_fork_to(from, to, 0, &copy, &out), err);
	if (message)
		ck_assert_str_eq(kvmod_error(), message);
	ck_assert_ptr_null(copy);
	ck_assert_double_eq(out.budget, 77);
	ck_assert_int_eq(n_open, were_open);
}

START_TEST(copy_is_refused)
{
	static const char right_after[] = "expected a sequence of a session without a policy, right after a prompt";
	struct kvmod_session *own, *foreign;
	struct kvmod_sequence *cut;
	struct kvmod_policy *watch;

	begin("narrow");
	watch = policy_of("watch");
	own = session_of(watch);
	ck_assert_int_eq(kvmod_session_open(other_engine, NULL, &foreign), 0);
	refused(sequence, own, KVMOD_EINVAL, right_after);	/* before any prompt */
	prompt(40);
	refused(sequence, foreign, KVMOD_EINVAL, "the two sessions have different engines");
	ck_assert_int_eq(kvmod_sequence_open(own, &cut), 0);
	prompt_with(cut, 40, 0, 0);
	refused(cut, own, KVMOD_EINVAL, right_after);
	refused(cut, session, KVMOD_EINVAL, right_after);
	kvmod_sequence_close(cut);
	ck_assert_str_eq(calls, "bPe");

	narrow_code = KVMOD_ENOMEM;
	refused(sequence, own, KVMOD_ENOMEM, NULL);
	ck_assert_str_eq(calls, "bPebe");
	narrow_code = KVMOD_OK;
	decode(1);
	refused(sequence, own, KVMOD_EINVAL, right_after);
	kvmod_session_close(foreign);
	kvmod_session_close(own);
	end();
}
END_TEST

/* --- needs ----------------------------------------------------------------------------------- */

static const struct kvmod_needs rows[] = {
	{ .size = sizeof(*rows) },
	{ .size = sizeof(*rows), .rows = { .value = 1, .is_count = 1 } },
	{ .size = sizeof(*rows), .rows = { .value = 0.01 } },
	{ .size = sizeof(*rows), .rows = { .value = 0.5 } },
	{ .size = sizeof(*rows), .rows = { .value = 1.0 } },
	{ .size = sizeof(*rows), .rows = { .value = 48, .is_count = 1 } },
	{ .size = sizeof(*rows), .rows = { .value = 0.25 }, .min_rows = 8 },
	{ .size = sizeof(*rows), .rows = { .value = 4, .is_count = 1 }, .min_rows = 96 },
	{ .size = sizeof(*rows), .min_rows = 5 },
};
#define N_ROWS	((int)(sizeof(rows) / sizeof(*rows)))

START_TEST(union_serves_each)
{
	static const uint64_t lengths[] = { 1, 2, 7, 16, 95, 96, 97, 1000, 131072, UINT32_MAX };

	for (int a = 0; a < N_ROWS; a++) {
		for (int b = 0; b < N_ROWS; b++) {
			struct kvmod_needs all = { .size = sizeof(all) };

			ck_assert_int_eq(kv_needs_add(&all, &rows[a]), 0);
			ck_assert_int_eq(kv_needs_add(&all, &rows[b]), 0);
			for (int i = 0; i < 10; i++) {
				uint32_t x = kvmod_needs_rows(&rows[a], lengths[i]);
				uint32_t y = kvmod_needs_rows(&rows[b], lengths[i]);

				ck_assert_uint_eq(kvmod_needs_rows(&all, lengths[i]), x > y ? x : y);
			}
			ck_assert_int_eq(kv_needs_check(&all), 0);
		}
	}
}
END_TEST

START_TEST(union_of_the_rest)
{
	struct kvmod_needs all = { .size = sizeof(all) }, before;
	const struct kvmod_needs stats = {
		.size = sizeof(stats), .what = KVMOD_NEED_Q_STATS | KVMOD_NEED_K, .q_stats_skip = 4,
	}, no_stats = {
		.size = sizeof(no_stats), .what = KVMOD_NEED_COLSUM, .q_stats_skip = 9, .decode_every = 64,
		.takes = KVMOD_NEED_WO_NORM, .types = KVMOD_TYPE_BIT(KVMOD_F16),
	}, others = {
		.size = sizeof(others), .what = KVMOD_NEED_Q_STATS | KVMOD_NEED_V, .q_stats_skip = 0,
		.rows = { .value = 1 },
	};

	ck_assert_int_eq(kv_needs_add(&all, &no_stats), 0);
	ck_assert_uint_eq(all.decode_every, 1);
	ck_assert_uint_eq(all.types, 0);
	ck_assert_int_eq(kv_needs_add(&all, &stats), 0);
	ck_assert_uint_eq(all.q_stats_skip, 4);
	ck_assert_uint_eq(all.what, KVMOD_NEED_Q_STATS | KVMOD_NEED_K | KVMOD_NEED_COLSUM);
	before = all;
	ck_assert_int_eq(kv_needs_add(&all, &others), KVMOD_ENOTSUP);
	ck_assert_mem_eq(&all, &before, sizeof(all));
	ck_assert_int_eq(kv_needs_add(&all, &no_stats), 0);
	ck_assert_mem_eq(&all, &before, sizeof(all));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("session collect");
	TCase *tc = tcase_create("session collect");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, union_is_collected);
	tcase_add_test(tc, collect_is_refused);
	tcase_add_loop_test(tc, engine_cannot_narrow, 0, 2);
	tcase_add_test(tc, copy_is_cut);
	tcase_add_test(tc, copy_without_a_policy);
	tcase_add_test(tc, copy_is_refused);
	tcase_add_test(tc, union_serves_each);
	tcase_add_test(tc, union_of_the_rest);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
