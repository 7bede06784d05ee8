/* SPDX-License-Identifier: Apache-2.0 */
/* The command's sampler, its text in pieces, and its statistics. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <string.h>

#include "core/cli/cli.h"
#include "core/cli/sampler.h"
#include "core/cli/text.h"

/* --- sampling ------------------------------------------------------------------- */

#define N 8
/* exp: 8 and 1 weigh 0.5 and 0.25 of all, the six others the rest. */
static const float logits[N] = {
	-2.0f, 1.0f, -2.0f, -2.0f, -2.0f, -2.0f, 1.6931472f, -2.0f,
};

static void count(const struct cli_sampling *how, int draws, int *counts)
{
	struct cli_sampler *s = cli_sampler_new(how, N);

	ck_assert_ptr_nonnull(s);
	memset(counts, 0, N * sizeof(*counts));
	for (int i = 0; i < draws; i++) {
		int32_t token = cli_sample(s, logits);

		ck_assert_int_ge(token, 0);
		ck_assert_int_lt(token, N);
		counts[token]++;
	}
	cli_sampler_free(s);
}

START_TEST(greedy_takes_the_first_of_the_likeliest)
{
	const float equal[4] = { 1.0f, 3.0f, 3.0f, 2.0f };
	const float broken[2] = { 1.0f, NAN };
	const float never[2] = { -INFINITY, -INFINITY };
	struct cli_sampling how = { .top_p = 1 };
	int counts[N];

	ck_assert_int_eq(cli_likeliest(equal, 4), 1);
	ck_assert_int_eq(cli_likeliest(broken, 2), -1);
	ck_assert_int_eq(cli_likeliest(never, 2), -1);
	count(&how, 10, counts);
	ck_assert_int_eq(counts[6], 10);
}
END_TEST

/* Within five standard deviations of what the probabilities say. */
static void check_share(int count, int draws, double p)
{
	ck_assert_double_le(fabs(count - draws * p), 5 * sqrt(draws * p * (1 - p)) + 1e-9);
}

START_TEST(draws_follow_the_probabilities)
{
	static const double temperatures[] = { 0.5, 1, 2 };
	const int draws = 20000;
	int counts[N];

	for (size_t t = 0; t < CLI_COUNT(temperatures); t++) {
		struct cli_sampling how = { .temperature = temperatures[t], .top_p = 1, .seed = 7 };
		double sum = 0;

		for (int i = 0; i < N; i++)
			sum += exp(logits[i] / temperatures[t]);
		count(&how, draws, counts);
		for (int i = 0; i < N; i++)
			check_share(counts[i], draws, exp(logits[i] / temperatures[t]) / sum);
	}
}
END_TEST

START_TEST(the_seed_decides)
{
	struct cli_sampling how = { .temperature = 1, .top_p = 1, .seed = 3 };
	struct cli_sampler *a = cli_sampler_new(&how, N), *b = cli_sampler_new(&how, N), *c;
	int differ = 0;

	how.seed = 4;
	c = cli_sampler_new(&how, N);
	ck_assert(a && b && c);
	for (int i = 0; i < 200; i++) {
		int32_t token = cli_sample(a, logits);

		ck_assert_int_eq(token, cli_sample(b, logits));
		differ += token != cli_sample(c, logits);
	}
	ck_assert_int_gt(differ, 20);
	cli_sampler_free(a);
	cli_sampler_free(b);
	cli_sampler_free(c);
}
END_TEST

START_TEST(filters_leave_what_they_say)
{
	static const struct {
		struct cli_sampling how;
		int kept;		/* of 6, 1, 0, 2, 3, ... in this order */
	} cases[] = {
		{ { .temperature = 9, .top_k = 1, .top_p = 1 }, 1 },
		{ { .temperature = 9, .top_k = 2, .top_p = 1 }, 2 },
		{ { .temperature = 9, .top_k = 3, .top_p = 1 }, 3 },
		{ { .temperature = 9, .top_k = 99, .top_p = 1 }, N },
		{ { .temperature = 9, .top_p = 0.5 }, 1 },
		{ { .temperature = 9, .top_p = 0.88 }, 2 },
		{ { .temperature = 9, .top_p = 0.999999 }, N },
		{ { .temperature = 9, .top_p = 1, .min_p = 0.51 }, 1 },
		{ { .temperature = 9, .top_p = 1, .min_p = 0.49 }, 2 },
		{ { .temperature = 9, .top_p = 1, .min_p = 0.02 }, N },
		{ { .temperature = 9, .top_k = 3, .top_p = 0.97, .min_p = 0.49 }, 2 },
	};
	static const int order[N] = { 6, 1, 0, 2, 3, 4, 5, 7 };
	int counts[N];

	for (size_t c = 0; c < CLI_COUNT(cases); c++) {
		count(&cases[c].how, 2000, counts);
		for (int i = 0; i < N; i++)
			ck_assert_msg((counts[order[i]] > 0) == (i < cases[c].kept),
				      "case %zu, token %d: drawn %d times", c, order[i],
				      counts[order[i]]);
	}
}
END_TEST

/* --- text ----------------------------------------------------------------------------- */

START_TEST(characters_come_whole)
{
	static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
	struct cli_utf8_stream stream = { .n_held = 0 };
	struct cli_text out = { 0 };

	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		ck_assert_int_eq(cli_utf8_add(&stream, &text[i], 1, &out), 0);
		ck_assert_uint_eq(cli_utf8_bad(out.bytes ? out.bytes : "", out.n), out.n);
	}
	ck_assert_int_eq(cli_utf8_end(&stream, &out), 0);
	ck_assert_str_eq(out.bytes, text);
	cli_text_free(&out);
}
END_TEST

START_TEST(what_is_no_character_is_replaced)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "a\xff" "b", "a\xef\xbf\xbd" "b" },
		{ "\xc3", "\xef\xbf\xbd" },
		{ "\xe2\x82", "\xef\xbf\xbd" },
		{ "\xe2\x82" "b", "\xef\xbf\xbd" "b" },
		{ "\xc3\xc3\xa9", "\xef\xbf\xbd\xc3\xa9" },
		{ "\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd" },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		struct cli_utf8_stream stream = { .n_held = 0 };
		struct cli_text out = { 0 };

		ck_assert_int_eq(cli_utf8_add(&stream, cases[i].in, strlen(cases[i].in), &out), 0);
		ck_assert_int_eq(cli_utf8_end(&stream, &out), 0);
		ck_assert_str_eq(out.bytes, cases[i].out);
		cli_text_free(&out);
	}
}
END_TEST

START_TEST(bad_text_is_found)
{
	static const struct {
		const char *text;
		size_t n, bad;
	} cases[] = {
		{ "plain", 5, 5 },
		{ "a\0b", 3, 1 },
		{ "ab\xe9" "c", 4, 2 },
		{ "\xed\xa0\x80", 3, 0 },		/* a surrogate */
		{ "\xf4\x8f\xbf\xbf", 4, 4 },		/* U+10FFFF */
		{ "\xf4\x90\x80\x80", 4, 0 },
		{ "\xe0\x9f\xbf", 3, 0 },		/* too long for what it says */
		{ "ab\xe2\x82", 4, 2 },			/* cut off */
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++)
		ck_assert_uint_eq(cli_utf8_bad(cases[i].text, cases[i].n), cases[i].bad);
}
END_TEST

/* --- figures ----------------------------------------------------------------------------- */

START_TEST(quartiles_are_between_neighbours)
{
	double odd[] = { 5, 1, 4, 2, 3 }, even[] = { 4, 1, 3, 2 };
	struct cli_stats s = cli_stats(odd, 5);

	ck_assert_double_eq(s.median, 3);
	ck_assert_double_eq(s.low, 2);
	ck_assert_double_eq(s.high, 4);
	s = cli_stats(even, 4);
	ck_assert_double_eq(s.median, 2.5);
	ck_assert_double_eq(s.low, 1.75);
	ck_assert(isnan(cli_stats(NULL, 0).median));
}
END_TEST

START_TEST(bytes_have_a_unit)
{
	char text[CLI_BYTES_ROOM];

	ck_assert_str_eq(cli_bytes(17, text), "17 B");
	ck_assert_str_eq(cli_bytes(1536, text), "1.50 KiB");
	ck_assert_str_eq(cli_bytes(UINT64_C(300) << 20, text), "300.0 MiB");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cli");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(t, greedy_takes_the_first_of_the_likeliest);
	tcase_add_test(t, draws_follow_the_probabilities);
	tcase_add_test(t, the_seed_decides);
	tcase_add_test(t, filters_leave_what_they_say);
	tcase_add_test(t, characters_come_whole);
	tcase_add_test(t, what_is_no_character_is_replaced);
	tcase_add_test(t, bad_text_is_found);
	tcase_add_test(t, quartiles_are_between_neighbours);
	tcase_add_test(t, bytes_have_a_unit);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
