/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts of a session that the policy is not asked about, and what it learns of openings and of
 * questions that come later.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "tests/watch.h"

/* A question after its context: neither it nor what the context left is cut. */
START_TEST(kept_prompt)
{
	struct kvmod_left left = { .size = sizeof(left) };
	struct kvmod_prompted out;
	uint64_t n = 0;

	start("watch", NULL, 0);
	prompt(40);
	out = prompt_with(sequence, 10, 0, KVMOD_PROMPT_KEEP);
	ck_assert_str_eq(calls, "bP");
	ck_assert_int_eq(out.status, 0);
	ck_assert_uint_eq(out.left_whole, 0);
	ck_assert_double_eq(out.decision_seconds, 0);
	ck_assert(isnan(out.replay_loss));
	ck_assert_double_eq_tol(out.budget, 61.0 / 100.0, 1e-12);
	ck_assert_uint_eq(out.after.used, out.before.used);
	ck_assert_uint_eq(cached(0, 0), 30);
	ck_assert_uint_eq(kvmod_sequence_kept(sequence, 0, 1, &n), 31);
	ck_assert_uint_eq(n, 50);
	kvmod_sequence_left(sequence, &left);
	ck_assert_uint_eq(left.seen, 50);
	ck_assert_uint_eq(left.bytes.used, out.after.used);
	decode(2);
	ck_assert_uint_eq(cached(0, 0), 32);
	/* The next prompt is one like any other: the policy sees all of it. */
	prompt(10);
	ck_assert_str_eq(calls, "bPP");
	ck_assert_uint_eq(cached(0, 0), 21);
}
END_TEST

/* The first prompt too; and a policy that decides while decoding does so afterwards. */
START_TEST(kept_from_the_start)
{
	static const char *const every[] = { "policy watch.every=3" };

	start("watch", every, 1);
	ck_assert_double_eq(prompt_with(sequence, 40, 0, KVMOD_PROMPT_KEEP).budget, 1);
	ck_assert_str_eq(calls, "b");
	decode(2);
	ck_assert_uint_eq(cached(0, 0), 42);
	decode(1);
	ck_assert_str_eq(calls, "bD");
	ck_assert_uint_eq(cached(0, 0), 21);
}
END_TEST

/* How long the chat template's opening is, every request says as the first prompt did. */
START_TEST(opening_is_told)
{
	static const char *const every[] = { "policy watch.every=1" };
	struct kvmod_sequence *copy;

	start("watch", every, 1);
	opening = 99;
	prompt_with(sequence, 40, 7, 0);
	ck_assert_uint_eq(opening, 7);
	opening = 99;
	decode(1);
	ck_assert_uint_eq(opening, 7);
	prompt_with(sequence, 10, 3, 0);
	ck_assert_uint_eq(opening, 7);
	ck_assert_int_eq(kvmod_sequence_fork(sequence, &copy), 0);
	opening = 99;
	prompt_with(copy, 10, 5, 0);
	ck_assert_uint_eq(opening, 7);
	kvmod_sequence_close(copy);
	/* Begun again from nothing, it is another sequence. */
	ck_assert_int_eq(kvmod_sequence_truncate(sequence, 0), 0);
	prompt_with(sequence, 10, 4, 0);
	ck_assert_uint_eq(opening, 4);
}
END_TEST

/* A first prompt is all opening at most, and none in a struct that ends before the field. */
START_TEST(odd_openings)
{
	int32_t tokens[8] = { 'a' };
	struct kvmod_prompt p = {
		.size = offsetof(struct kvmod_prompt, n_opening), .tokens = tokens, .n_tokens = 8,
		.n_opening = 5, .flags = KVMOD_PROMPT_KEEP,
	};
	struct kvmod_prompted out = { .size = sizeof(out) };

	start("watch", NULL, 0);
	prompt_with(sequence, 10, 11, 0);
	ck_assert_uint_eq(opening, 10);
	ck_assert_int_eq(kvmod_sequence_truncate(sequence, 0), 0);
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), 0);
	ck_assert_uint_eq(opening, 0);
	ck_assert_str_eq(calls, "bPP");
}
END_TEST

/* What the request of the newest decision says. */
static uint32_t told(void)
{
	uint32_t is = question_later;

	question_later = 99;
	return is;
}

/* Of a prompt that says so, and no other; while decoding the question is there. */
START_TEST(question_is_told)
{
	static const char *const every[] = { "policy watch.every=1" };
	struct kvmod_sequence *other;

	start("watch", every, 1);
	prompt_with(sequence, 40, 0, KVMOD_PROMPT_CONTEXT);
	ck_assert_uint_eq(told(), 1);
	decode(1);
	ck_assert_uint_eq(told(), 0);
	prompt_with(sequence, 10, 0, 0);
	ck_assert_uint_eq(told(), 0);
	prompt_with(sequence, 10, 0, KVMOD_PROMPT_CONTEXT);
	ck_assert_uint_eq(told(), 1);
	/* Another sequence's prompt is its own affair, in both orders. */
	ck_assert_int_eq(kvmod_sequence_open(session, &other), 0);
	prompt_with(other, 10, 0, 0);
	ck_assert_uint_eq(told(), 0);
	prompt_with(sequence, 10, 0, KVMOD_PROMPT_CONTEXT);
	ck_assert_uint_eq(told(), 1);
	prompt_with(other, 10, 0, 0);
	ck_assert_uint_eq(told(), 0);
	kvmod_sequence_close(other);
	ck_assert_str_eq(calls, "bPDPPbPPPe");
}
END_TEST

/* A fork's prompts say for themselves what they are, as those of the original do. */
START_TEST(question_of_a_fork)
{
	static const char *const every[] = { "policy watch.every=1" };
	struct kvmod_sequence *copy, *original;

	start("watch", every, 1);
	prompt_with(sequence, 40, 0, KVMOD_PROMPT_CONTEXT);
	ck_assert_int_eq(kvmod_sequence_fork(sequence, &copy), 0);
	told();
	original = sequence;
	sequence = copy;
	decode(1);
	ck_assert_uint_eq(told(), 0);
	prompt_with(copy, 10, 0, 0);
	ck_assert_uint_eq(told(), 0);
	prompt_with(original, 10, 0, KVMOD_PROMPT_CONTEXT);
	ck_assert_uint_eq(told(), 1);
	prompt_with(copy, 10, 0, KVMOD_PROMPT_CONTEXT);
	ck_assert_uint_eq(told(), 1);
	sequence = original;
	kvmod_sequence_close(copy);
}
END_TEST

/* Nobody decides about a context that is to be kept; a struct may end before the flags. */
START_TEST(odd_contexts)
{
	int32_t tokens[8] = { 'a' };
	struct kvmod_prompt p = {
		.size = offsetof(struct kvmod_prompt, flags), .tokens = tokens, .n_tokens = 8,
		.flags = KVMOD_PROMPT_CONTEXT,
	};
	struct kvmod_prompted out = { .size = sizeof(out) };

	start("watch", NULL, 0);
	prompt_with(sequence, 40, 0, KVMOD_PROMPT_CONTEXT | KVMOD_PROMPT_KEEP);
	ck_assert_str_eq(calls, "b");
	ck_assert_uint_eq(cached(0, 0), 40);
	told();
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), 0);
	ck_assert_uint_eq(told(), 0);
	p.size = sizeof(p);
	ck_assert_int_eq(kvmod_sequence_prompt(sequence, &p, &out), 0);
	ck_assert_uint_eq(told(), 1);
	ck_assert_str_eq(calls, "bPP");
}
END_TEST

/* --- which positions are cached --------------------------------------------------------- */

static void check_shares(uint64_t n, uint64_t n_dropped, uint64_t half)
{
	double shares[64];

	for (int i = 0; i < 64; i++)
		shares[i] = -1;
	ck_assert_int_eq(kvmod_sequence_positions(sequence, shares, 64), 0);
	for (uint64_t i = 0; i < 64; i++)
		ck_assert_double_eq(shares[i], i < n_dropped || i >= n ? 0 : i == half ? 0.5 : 1);
}

/* Of 40 tokens one head keeps the newest 20, and the other the newest 21. */
START_TEST(shares_of_positions)
{
	double first[20], none = -1;

	start("watch", NULL, 0);
	check_shares(0, 0, 64);
	prompt(40);
	check_shares(40, 19, 19);
	decode(3);
	check_shares(43, 19, 19);
	ck_assert_int_eq(kvmod_sequence_positions(sequence, first, 20), 0);
	ck_assert_double_eq(first[18], 0);
	ck_assert_double_eq(first[19], 0.5);
	ck_assert_int_eq(kvmod_sequence_positions(sequence, &none, 0), 0);
	ck_assert_double_eq(none, -1);
}
END_TEST

START_TEST(all_positions_without_a_policy)
{
	start(NULL, NULL, 0);
	check_shares(0, 0, 64);
	prompt(40);
	check_shares(40, 0, 64);
}
END_TEST

START_TEST(an_engine_that_cannot_tell)
{
	static const char *const broken[] = { "engine fake.broken=request" };
	double share = -1;

	start("watch", broken, 1);
	prompt(40);
	ck_assert_int_ne(kvmod_sequence_positions(sequence, &share, 1), 0);
	ck_assert_str_ne(kvmod_error(), "");
	ck_assert_double_eq(share, -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("session prompts");
	TCase *tc = tcase_create("session prompts");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, NULL, tear_down);
	tcase_add_test(tc, kept_prompt);
	tcase_add_test(tc, kept_from_the_start);
	tcase_add_test(tc, opening_is_told);
	tcase_add_test(tc, odd_openings);
	tcase_add_test(tc, question_is_told);
	tcase_add_test(tc, question_of_a_fork);
	tcase_add_test(tc, odd_contexts);
	tcase_add_test(tc, shares_of_positions);
	tcase_add_test(tc, all_positions_without_a_policy);
	tcase_add_test(tc, an_engine_that_cannot_tell);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
