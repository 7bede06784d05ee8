/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions, on the engine without a model: the order of things, what is counted,
 * and that a policy's failure costs compression alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/watch.h"

START_TEST(without_a_policy_all_stays)
{
	struct kvmod_prompted out = { .size = sizeof(out) };
	uint64_t n = 0;

	start(NULL, NULL, 0);
	out = prompt(40);
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq(out.budget, 1.0);
	ck_assert(isnan(out.replay_loss));
	ck_assert_uint_eq(out.before.used, out.after.used);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 1, 1, &n), 40);
	ck_assert_uint_eq(n, 40);
	decode(3);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 43);
	ck_assert_uint_eq(cached(0, 0), 43);
}
END_TEST

START_TEST(prompt_is_cut)
{
	struct kvmod_prompted out = { .size = sizeof(out) };
	uint64_t n = 0;

	start("watch", NULL, 0);
	out = prompt(40);
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq_tol(out.budget, 41.0 / 80.0, 1e-12);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 2, 0, &n), 20);
	ck_assert_uint_eq(n, 40);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 2, 1, NULL), 21);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 99, 0, NULL), 0);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 99, NULL), 0);
	ck_assert_uint_eq(cached(0, 0), 20);
	ck_assert_uint_eq(cached(0, 1), 21);
	ck_assert_uint_lt(out.after.used, out.before.used);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 40);
	ck_assert_str_eq(calls, "bP");
}
END_TEST

/*
 * A second prompt continues at the next position, over what the first one left; the
 * counts of kept positions refer to all tokens seen.
 */
START_TEST(second_turn)
{
	struct kvmod_prompted out;
	struct kvmod_counters counters = { .size = sizeof(counters) };
	uint64_t n = 0;

	start("watch", NULL, 0);
	prompt(40);
	decode(2);
	out = prompt(10);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 52);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 0, &n), 16);
	ck_assert_uint_eq(n, 52);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 1, &n), 17);
	ck_assert_double_eq_tol(out.budget, 33.0 / 104.0, 1e-12);
	kvmod_policy_counters(policy, &counters);
	ck_assert_uint_eq(counters.positions_seen, 4 * 2 * (40 + 52));
	ck_assert_uint_eq(counters.positions_kept, 4 * (20 + 21 + 16 + 17));
	ck_assert_str_eq(calls, "bPP");
	ck_assert_int_eq(states[0], 2);
}
END_TEST

START_TEST(failing_policy_costs_compression_only)
{
	static const char *const fails[] = { "policy watch.fails=yes" };
	struct kvmod_prompted out = { .size = sizeof(out) };

	start("watch", fails, 1);
	out = prompt(40);
	ck_assert_int_eq(out.status, KVMOD_ENUMERIC);
	ck_assert_double_eq(out.budget, 1.0);
	ck_assert_uint_eq(cached(0, 0), 40);
	decode(1);
	ck_assert_uint_eq(cached(3, 1), 41);
}
END_TEST

START_TEST(failing_begin_costs_compression_only)
{
	static const char *const fails[] = { "policy watch.no_begin=yes", "policy watch.every=1" };
	struct kvmod_prompted out;

	start("watch", fails, 2);
	out = prompt(40);
	ck_assert_int_eq(out.status, KVMOD_ENOMEM);
	ck_assert_double_eq(out.budget, 1.0);
	decode(2);
	ck_assert_uint_eq(cached(3, 1), 42);
	ck_assert_str_eq(calls, "");
}
END_TEST

/* Nor does an engine that cannot show its cache, or cannot cut it, cost the answer. */
START_TEST(failing_cut_costs_compression_only)
{
	static const char *const broken[][1] = {
		{ "engine fake.broken=request" }, { "engine fake.broken=apply" },
	};
	static const int statuses[] = { KVMOD_ENOTSUP, KVMOD_ENOMEM };
	uint64_t n = 0;
	struct kvmod_prompted out;

	start("watch", broken[_i], 1);
	out = prompt(40);
	ck_assert_int_eq(out.status, statuses[_i]);
	ck_assert_double_eq(out.budget, 1.0);
	ck_assert_uint_eq(out.before.used, out.after.used);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 0, &n), 40);
	ck_assert_uint_eq(n, 40);
	decode(2);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 42);
}
END_TEST

/* A short sequence is left whole: the policy is not asked, until there is more of it. */
START_TEST(short_sequence_is_left_whole)
{
	static const char *const leave[] = { "kvmod.leave_below=48", "policy watch.every=1" };
	struct kvmod_prompted out;

	start("watch", leave, 2);
	out = prompt(40);
	ck_assert_int_eq(out.status, 0);
	ck_assert_uint_eq(out.left_whole, 1);
	ck_assert_double_eq(out.budget, 1.0);
	decode(8);
	ck_assert_str_eq(calls, "b");
	ck_assert_uint_eq(cached(0, 0), 48);
	decode(1);
	ck_assert_str_eq(calls, "bD");
	ck_assert_uint_eq(cached(0, 0), 24);
	out = prompt(1);
	ck_assert_uint_eq(out.left_whole, 0);
	ck_assert_str_eq(calls, "bDP");
}
END_TEST

/* What the built-in policies make of it: a count is obeyed, a fraction is of more. */
static const struct {
	const char *budget;
	uint32_t kept;			/* of 60, of 100, of 1000 */
	uint32_t of_100, of_1000;
} floors[] = {
	{ "policy streamingllm.budget=24", 24, 24, 24 },
	{ "policy streamingllm.budget=25%", 60, 80, 250 },
	{ "policy streamingllm.budget=0.01", 60, 80, 80 },
};

START_TEST(fractions_have_a_floor)
{
	const char *const leave[] = {
		"kvmod.leave_below=80", floors[_i].budget, "policy streamingllm.decode_every=0",
	};

	start("streamingllm", leave, 3);
	ck_assert_uint_eq(prompt(60).left_whole, _i != 0);
	ck_assert_uint_eq(cached(0, 0), floors[_i].kept);
	ck_assert_uint_eq(prompt(40).left_whole, 0);
	ck_assert_uint_eq(cached(0, 0), floors[_i].of_100);
	prompt(900);
	ck_assert_uint_eq(cached(0, 0), floors[_i].of_1000);
}
END_TEST

/* `heavy` and `recent` are a budget in two parts: one fraction makes it a fraction. */
START_TEST(both_parts_are_counts)
{
	static const char *const parts[][5] = {
		{ "kvmod.leave_below=80", "policy h2o.rows=1", "policy h2o.decode_every=0",
		  "policy h2o.heavy=20", "policy h2o.recent=4" },
		{ "kvmod.leave_below=80", "policy h2o.rows=1", "policy h2o.decode_every=0",
		  "policy h2o.heavy=20", "policy h2o.recent=0.01" },
		{ "kvmod.leave_below=80", "policy h2o.rows=1", "policy h2o.decode_every=0",
		  "policy h2o.heavy=10%", "policy h2o.recent=0.1" },
	};
	static const uint32_t kept[][3] = { { 24, 24, 24 }, { 60, 80, 80 }, { 60, 80, 200 } };

	start("h2o", parts[_i], 5);
	ck_assert_uint_eq(prompt(60).left_whole, _i != 0);
	ck_assert_uint_eq(cached(0, 0), kept[_i][0]);
	ck_assert_uint_eq(prompt(40).left_whole, 0);
	ck_assert_uint_eq(cached(0, 0), kept[_i][1]);
	prompt(900);
	ck_assert_uint_eq(cached(0, 0), kept[_i][2]);
}
END_TEST

START_TEST(default_leaves_256)
{
	static const char *const usual[] = { "kvmod.leave_below=256" };
	struct kvmod_prompted out;

	start("watch", usual, 1);
	ck_assert_str_eq(kvmod_config_get(ctx, "kvmod", "leave_below"), "256");
	ck_assert_uint_eq(prompt(256).left_whole, 1);
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	/* And without a setting. */
	ck_assert_int_eq(kvmod_configure(ctx, "/dev/null", NULL, 0), 0);
	ck_assert_int_eq(kvmod_session_open(engine, policy, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
	ck_assert_uint_eq(prompt(256).left_whole, 1);
	out = prompt(1);
	ck_assert_uint_eq(out.left_whole, 0);
	ck_assert_uint_eq(cached(0, 0), 128);
}
END_TEST

/* A caller that was built when the answer had fewer fields. */
START_TEST(short_answer)
{
	int32_t tokens[40] = { 0 };
	struct kvmod_prompt p = { .size = sizeof(p), .tokens = tokens, .n_tokens = 40 };
	struct kvmod_prompted out = { .size = offsetof(struct kvmod_prompted, replay_loss) };
	struct kvmod_bytes bytes = { .size = offsetof(struct kvmod_bytes, full), .full = 77 };

	start("watch", NULL, 0);
	out.replay_loss = 77;
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), 0);
	ck_assert_double_eq_tol(out.budget, 41.0 / 80.0, 1e-12);
	ck_assert_double_eq(out.replay_loss, 77);
	ck_assert_uint_eq(out.size, offsetof(struct kvmod_prompted, replay_loss));
	kvmod_sequence_bytes(sequence, &bytes);
	ck_assert_uint_gt(bytes.used, 0);
	ck_assert_uint_eq(bytes.full, 77);
}
END_TEST

START_TEST(decode_calls_come_every_so_often)
{
	static const char *const every[] = { "policy watch.every=4" };
	const uint64_t row_bytes = 2 * 32 * sizeof(float);	/* K and V of the engine */
	struct kvmod_left left = { .size = sizeof(left) };
	uint64_t n = 0;

	start("watch", every, 1);
	prompt(40);
	decode(3);
	ck_assert_str_eq(calls, "bP");
	decode(1);
	ck_assert_str_eq(calls, "bPD");
	ck_assert_uint_eq(cached(0, 0), 12);
	decode(8);
	ck_assert_str_eq(calls, "bPDDD");
	/* The counts are those of the last cut: (20 + 4) / 2, (12 + 4) / 2 and (8 + 4) / 2. */
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 0, &n), 6);
	ck_assert_uint_eq(n, 52);
	kvmod_sequence_left(sequence, &left);
	ck_assert_uint_eq(left.decode_cuts, 3);
	ck_assert_uint_eq(left.seen, 52);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 1, NULL), 7);
	ck_assert_double_eq_tol(left.budget, (6 + 7) / (2 * 52.0), 1e-12);
	ck_assert_uint_eq(left.bytes.used, 4 * (6 + 7) * row_bytes);
	ck_assert_uint_eq(left.bytes.full, 4 * 2 * 52 * row_bytes);
	decode(1);
	kvmod_sequence_left(sequence, &left);
	ck_assert_uint_eq(left.seen, 52);
	decode(3);
	ck_assert_str_eq(calls, "bPDDDD");
	/* A new prompt starts the count anew. */
	decode(3);
	prompt(4);
	decode(3);
	ck_assert_str_eq(calls, "bPDDDDP");
	kvmod_sequence_left(sequence, &left);
	ck_assert_uint_eq(left.decode_cuts, 0);
	ck_assert_uint_eq(left.seen, 63);
}
END_TEST

START_TEST(streaming_cache_stays_bounded)
{
	static const char *const bounded[] = {
		"policy streamingllm.budget=24", "policy streamingllm.decode_every=8",
	};

	start("streamingllm", bounded, 2);
	prompt(100);
	for (int i = 0; i < 100; i++) {
		decode(1);
		ck_assert_uint_le(cached(0, 0), 24 + 8);
	}
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 200);
}
END_TEST

START_TEST(fork_goes_its_own_way)
{
	struct kvmod_sequence *copy;
	struct kvmod_sequence *both[2];
	int32_t tokens[] = { 'x', 'y' };
	float *to[2];

	start("watch", NULL, 0);
	prompt(40);
	ck_assert_int_eq(kvmod_sequence_fork(sequence, &copy), 0);
	ck_assert_uint_eq(kvmod_sequence_length(copy), 40);
	ck_assert_uint_eq(kvmod_sequence_kept(copy, 0, 1, NULL), 21);
	decode(5);
	ck_assert_uint_eq(kvmod_sequence_length(copy), 40);
	ck_assert_int_eq(kvmod_sequence_truncate(sequence, 41), 0);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 41);
	ck_assert_int_eq(kvmod_sequence_truncate(sequence, 42), KVMOD_ERANGE);

	both[0] = sequence;
	both[1] = copy;
	to[0] = logits;
	to[1] = logits + model->n_vocab;
	ck_assert_int_eq(kvmod_session_decode(session, both, tokens, to, 2), 0);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 42);
	ck_assert_uint_eq(kvmod_sequence_length(copy), 41);
	kvmod_sequence_close(copy);
	ck_assert_str_eq(calls, "bPbe");
}
END_TEST

/* More sequences than fit the batch on the stack. */
START_TEST(large_batch)
{
	struct kvmod_sequence *many[12];
	int32_t tokens[12];
	float *to[12];

	start("watch", NULL, 0);
	prompt(20);
	many[0] = sequence;
	for (int i = 0; i < 12; i++) {
		if (i > 0) {
			n_begun = 0;	/* the states do not matter here */
			ck_assert_int_eq(kvmod_sequence_fork(sequence, &many[i]), 0);
		}
		tokens[i] = 'a' + i;
		to[i] = logits + (size_t)i * model->n_vocab;
	}
	ck_assert_int_eq(kvmod_session_decode(session, many, tokens, to, 12), 0);
	for (int i = 0; i < 12; i++)
		ck_assert_uint_eq(kvmod_sequence_length(many[i]), 21);
	for (int i = 1; i < 12; i++)
		kvmod_sequence_close(many[i]);
}
END_TEST

START_TEST(what_is_refused)
{
	static const char *const small[] = { "engine fake.context=64" };
	int32_t tokens[65] = { 0 };
	struct kvmod_prompt p = { .size = sizeof(p), .tokens = tokens };
	struct kvmod_prompted out = { .size = sizeof(out) };

	start("watch", small, 1);
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "the prompt is empty");
	p.n_tokens = 65;
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), KVMOD_ERANGE);
	ck_assert_str_eq(kvmod_error(), "65 new and 0 cached tokens exceed the context of 64");
	p.n_tokens = 8;
	p.flags = 12 | KVMOD_PROMPT_KEEP | KVMOD_PROMPT_CONTEXT;
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "the prompt's flags are 0xf, expected KVMOD_PROMPT_KEEP, "
			 "KVMOD_PROMPT_CONTEXT or 0");
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 0);
	prompt(64);
	ck_assert_str_eq(calls, "bP");
}
END_TEST

static void count_progress(void *arg, uint64_t done)
{
	*(uint64_t *)arg = done;
}

START_TEST(progress_is_told)
{
	int32_t tokens[50] = { 0 };
	uint64_t done = 0;
	struct kvmod_prompt p = {
		.size = sizeof(p), .tokens = tokens, .n_tokens = 50,
		.progress = count_progress, .progress_arg = &done,
	};
	struct kvmod_prompted out = { .size = sizeof(out) };

	start(NULL, NULL, 0);
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), 0);
	ck_assert_uint_eq(done, 50);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("session");
	TCase *tc = tcase_create("session");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, NULL, tear_down);
	tcase_add_test(tc, without_a_policy_all_stays);
	tcase_add_test(tc, prompt_is_cut);
	tcase_add_test(tc, second_turn);
	tcase_add_test(tc, failing_policy_costs_compression_only);
	tcase_add_test(tc, failing_begin_costs_compression_only);
	tcase_add_loop_test(tc, failing_cut_costs_compression_only, 0, 2);
	tcase_add_test(tc, short_sequence_is_left_whole);
	tcase_add_loop_test(tc, fractions_have_a_floor, 0, 3);
	tcase_add_loop_test(tc, both_parts_are_counts, 0, 3);
	tcase_add_test(tc, default_leaves_256);
	tcase_add_test(tc, short_answer);
	tcase_add_test(tc, decode_calls_come_every_so_often);
	tcase_add_test(tc, streaming_cache_stays_bounded);
	tcase_add_test(tc, fork_goes_its_own_way);
	tcase_add_test(tc, large_batch);
	tcase_add_test(tc, what_is_refused);
	tcase_add_test(tc, progress_is_told);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
