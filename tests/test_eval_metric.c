/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of answers, compared with those of other programs, and the numbers in answers. */
#include <config.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli/cli.h"
#include "core/eval/metric.h"
#include "core/eval/words.h"

static double score(enum eval_metric metric, const char *text, const char *reference)
{
	return eval_score(metric, text, &reference, 1);
}

/* --- words in common ----------------------------------------------------------------- */

/*
 * exact and f1: by a Python program after evaluate-v2.0.py of SQuAD (str.lower(), without
 * string.punctuation, re.sub(r"\b(a|an|the)\b", " "), split(), Counter). rouge_l: rougeL's
 * fmeasure of the package rouge_score 0.1.2 without a stemmer.
 */
static const struct {
	const char *text, *reference;
	int exact;
	double f1, rouge_l;
} answers[] = {
	{ "The cat sat on the mat.", "A cat is on the mat", 0, 0.750000000000, 0.666666666667 },
	{ "the quick brown fox jumps over the lazy dog",
	  "The lazy dog jumps over the quick brown fox!", 0, 1.000000000000, 0.444444444444 },
	{ "“The” Beatles — a band", "Beatles, an English band", 0, 0.500000000000, 0.500000000000 },
	{ "John's dog; it's a U.S. citizen", "Johns dog its US citizen", 1, 1.000000000000,
	  0.285714285714 },
	{ "to be or not to be", "be be be not", 0, 0.600000000000, 0.400000000000 },
	{ "École  Polytechnique\u00a0Fédérale", "école polytechnique fédérale", 1, 1.000000000000,
	  1.000000000000 },
	{ "ΑΘΗΝΑ και Пётр ИЛЬИЧ", "αθηνα Και пётр Ильич", 1, 1.000000000000, 0.000000000000 },
	{ "İstanbul has 3.5 million", "istanbul 3 5 million K", 0, 0.222222222222, 0.545454545455 },
	{ "", "cat", 0, 0.000000000000, 0.000000000000 },
	{ "xyz", "cat", 0, 0.000000000000, 0.000000000000 },
	{ "The final answer: 42,000 units/hour (approx.)", "42000 units per hour", 0,
	  0.222222222222, 0.333333333333 },
	{ "I-95 a.m. the_end", "I95 am theend", 1, 1.000000000000, 0.000000000000 },
	{ "user interface believed that voice recognition was hard to learn while the designer "
	  "argued the remote had two parts",
	  "User Interface believed that voice recognition was hard to learn while Industrial "
	  "Designer argued that the remote control had two parts and everyone could use the "
	  "basic part.", 0, 0.790697674419, 0.765957446809 },
};

START_TEST(scores_are_those_of_other_programs)
{
	for (size_t i = 0; i < CLI_COUNT(answers); i++) {
		const char *text = answers[i].text, *reference = answers[i].reference;

		ck_assert_msg(score(EVAL_EXACT, text, reference) == answers[i].exact,
			      "exact: %s", text);
		ck_assert_double_eq_tol(score(EVAL_F1, text, reference), answers[i].f1, 1e-11);
		ck_assert_double_eq_tol(score(EVAL_ROUGE_L, text, reference), answers[i].rouge_l,
					1e-11);
	}
}
END_TEST

/* n words of a few, by a generator that the Python program repeated. */
static char *many_words(uint32_t seed, int n, uint32_t few)
{
	struct cli_text text = { 0 };
	char word[16];

	for (int i = 0; i < n; i++) {
		seed = (seed * 1103515245u + 12345u) & 0x7fffffff;
		snprintf(word, sizeof(word), "w%u ", (seed >> 16) % few);
		ck_assert_int_eq(cli_text_add(&text, word, strlen(word)), 0);
	}
	return text.bytes;
}

START_TEST(scores_of_long_texts_too)
{
	static const struct {
		uint32_t seed_a;
		int n_a;
		uint32_t seed_b;
		int n_b;
		uint32_t few;
		double f1, rouge_l;
	} cases[] = {
		{ 1, 300, 2, 250, 20, 0.821818181818, 0.345454545455 },
		{ 3, 500, 4, 40, 5, 0.148148148148, 0.148148148148 },
		{ 5, 7, 6, 400, 3, 0.034398034398, 0.034398034398 },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		char *a = many_words(cases[i].seed_a, cases[i].n_a, cases[i].few);
		char *b = many_words(cases[i].seed_b, cases[i].n_b, cases[i].few);

		ck_assert_double_eq_tol(score(EVAL_F1, a, b), cases[i].f1, 1e-11);
		ck_assert_double_eq_tol(score(EVAL_ROUGE_L, a, b), cases[i].rouge_l, 1e-11);
		ck_assert_double_eq_tol(score(EVAL_ROUGE_L, b, a), cases[i].rouge_l, 1e-11);
		free(a);
		free(b);
	}
}
END_TEST

/* The choice "A" is an article too. */
START_TEST(a_reference_of_articles_keeps_them)
{
	ck_assert_double_eq(score(EVAL_EXACT, "A.", "A"), 1);
	ck_assert_double_eq(score(EVAL_EXACT, "a", "A"), 1);
	ck_assert_double_eq(score(EVAL_EXACT, "", "A"), 0);
	ck_assert_double_eq(score(EVAL_EXACT, "the", "A"), 0);
	ck_assert_double_eq(score(EVAL_EXACT, "B", "A"), 0);
	ck_assert_double_eq(score(EVAL_F1, "", "A"), 0);
	ck_assert_double_eq_tol(score(EVAL_F1, "A it is", "A"), 0.5, 1e-12);
	/* SQuAD's "no answer" */
	ck_assert_double_eq(score(EVAL_EXACT, "...", ""), 1);
	ck_assert_double_eq(score(EVAL_F1, "", ""), 1);
	ck_assert_double_eq(score(EVAL_F1, "cat", ""), 0);
	ck_assert_double_eq(score(EVAL_ROUGE_L, "", ""), 0);
}
END_TEST

START_TEST(bytes_that_are_not_utf8_equal_themselves)
{
	ck_assert_double_eq(score(EVAL_EXACT, "caf\xe9 X", "CAF\xe9 x"), 1);
	ck_assert_double_eq(score(EVAL_EXACT, "caf\xe9", "caf\xe8"), 0);
	ck_assert_double_eq(score(EVAL_CONTAINS, "\xf0\x9f\x98", "\xf0\x9f\x98"), 1);
	ck_assert_double_eq(score(EVAL_ROUGE_L, "a\xff" "b", "A B"), 1);
	ck_assert_double_eq(score(EVAL_NUMBER, "\xe2\x88" "42", "42"), 1);
}
END_TEST

START_TEST(contains_ignores_case_and_white_space)
{
	static const struct {
		const char *text, *reference;
		int score;
	} cases[] = {
		{ "It was a Glass\n  Marble, they say", "glass marble", 1 },
		{ "It was a glass-marble", "glass marble", 0 },
		{ "glassmarble", "glass marble", 0 },
		{ "ÜBER\u2003ALLES", "  über alles\n", 1 },
		{ "the register holds 98085.", "98085", 1 },
		{ "the register holds 9808", "98085", 0 },
		{ "", "x", 0 },
		{ "anything", "", 0 },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++)
		ck_assert_msg(score(EVAL_CONTAINS, cases[i].text, cases[i].reference) ==
			      cases[i].score, "%s", cases[i].text);
}
END_TEST

START_TEST(the_best_reference_counts)
{
	const char *const references[] = { "dog", "a black cat", "cat" };

	ck_assert_double_eq(eval_score(EVAL_F1, "the cat", references, 3), 1);
	ck_assert_double_eq_tol(eval_score(EVAL_F1, "the cat", references, 2), 2 / 3.0, 1e-12);
	ck_assert_double_eq(eval_score(EVAL_F1, "the cat", references, 1), 0);
	ck_assert_double_eq(eval_score(EVAL_F1, "the cat", references, 0), 0);
}
END_TEST

/* --- numbers ------------------------------------------------------------------------- */

START_TEST(the_last_number_is_found)
{
	static const struct {
		const char *text;
		double value;
		int is_decimal;
	} cases[] = {
		{ "The answer is 72.", 72, 0 },
		{ "12 * 6 = 72", 72, 0 },
		{ "#### 1,234,567", 1234567, 0 },
		{ "**$1,000.50**", 1000.5, 1 },
		{ "1,2", 2, 0 },
		{ "1,23", 23, 0 },
		{ "1234,567", 567, 0 },
		{ "0,123", 123, 0 },
		{ "1,234,5678", 5678, 0 },
		{ "12{,}000", 12000, 0 },
		{ "60\u202f000", 60000, 0 },
		{ "-5", -5, 0 },
		{ "x=-5", -5, 0 },
		{ "≈\u2212" "5.5 m", -5.5, 1 },
		{ "+5", 5, 0 },
		{ "3-5", 5, 0 },
		{ "f(2)-5", 5, 0 },
		{ "COVID-19", 19, 0 },
		{ "10 - 3", 3, 0 },
		{ "-$5", -5, 0 },
		{ "$-5", -5, 0 },
		{ "-€5", -5, 0 },
		{ "\\$42", 42, 0 },
		{ "$\\boxed{72}$", 72, 0 },
		{ "20km", 20, 0 },
		{ ".5", 0.5, 1 },
		{ "5.", 5, 0 },
		{ "1.2.3", 3, 0 },
		{ "0.034", 0.034, 1 },
		{ "4e-05", 4e-5, 1 },
		{ "9E3 J", 9000, 1 },
		{ "5 euros", 5, 0 },
		{ "6.02 x 10^23", 6.02e23, 1 },
		{ "6.02×10^{23}", 6.02e23, 1 },
		{ "-1.6 \\times 10^{-19} C", -1.6e-19, 1 },
		{ "1.6*10^\u2212" "19", 1.6e-19, 1 },
		{ "5 x 10 = 50", 50, 0 },
		{ "2^10", 10, 0 },
		{ "3/4", 0.75, 0 },
		{ "-1/2", -0.5, 0 },
		{ "12/2=6", 6, 0 },
		{ "1/2/2024", 2024, 0 },
		{ "\\frac{3}{4}", 0.75, 0 },
		{ "-\\dfrac{1}{8}", -0.125, 0 },
		{ "\\frac{x}{4}", 4, 0 },
		{ "7, then 1/0", 7, 0 },
		{ "7, then 1e999", 7, 0 },
		{ "1 1/2", 0.5, 0 },
		{ "e5", 5, 0 },
	};
	static const char *const none[] = { "", "none", "-", ".", "$", "½", "٣", "1/0" };
	struct eval_number number;

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		ck_assert_msg(eval_last_number(cases[i].text, &number), "%s", cases[i].text);
		ck_assert_msg(number.value == cases[i].value, "%s: %.17g", cases[i].text,
			      number.value);
		ck_assert_msg(number.is_decimal == (cases[i].is_decimal != 0), "%s", cases[i].text);
	}
	for (size_t i = 0; i < CLI_COUNT(none); i++)
		ck_assert_msg(!eval_last_number(none[i], &number), "%s", none[i]);
}
END_TEST

START_TEST(numbers_are_equal_within_a_tolerance)
{
	static const struct {
		const char *text, *reference;
		int score;
	} cases[] = {
		{ "72", "72", 1 },
		{ "72.0", "72", 1 },
		{ "71.99999999", "72", 1 },
		{ "71.99", "72", 0 },
		{ "73", "72", 0 },
		{ "-72", "72", 0 },
		{ "72,000", "72000", 1 },
		{ "72 or 73", "72", 0 },
		{ "7.09", "7.03", 1 },		/* 0.9% more */
		{ "7.11", "7.03", 0 },		/* 1.1% more */
		{ "5600", "5630.0", 1 },
		{ "-64", "-64.62", 1 },
		{ "64.62", "-64.62", 0 },
		{ "0.00004", "4e-05", 1 },
		{ "0.000041", "4e-05", 0 },
		{ "0", "0.0", 1 },
		{ "0.001", "0.0", 0 },
		{ "8%", "8", 1 },
		{ "8\\%", "0.08", 1 },
		{ "8", "0.08", 0 },
		{ "0.08", "8%", 1 },
		{ "8", "8%", 1 },
		{ "8 %", "8%", 1 },
		{ "0.08%", "8%", 0 },
		{ "800%", "8%", 0 },
		{ "3/4", "0.75", 1 },
		{ "0.75", "3/4", 1 },
		{ "no idea", "0", 0 },
		{ "72", "seventy-two", 0 },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++)
		ck_assert_msg(score(EVAL_NUMBER, cases[i].text, cases[i].reference) ==
			      cases[i].score, "%s beside %s", cases[i].text, cases[i].reference);
}
END_TEST

/* Longer than any buffer for digits. */
START_TEST(numbers_may_be_long)
{
	char text[2000];
	struct eval_number number;

	memset(text, '9', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	ck_assert(!eval_last_number(text, &number));
	text[1] = '.';
	ck_assert(eval_last_number(text, &number));
	ck_assert_double_eq_tol(number.value, 10, 1e-9);
}
END_TEST

START_TEST(references_are_checked)
{
	static const struct {
		enum eval_metric metric;
		const char *reference, *expected;
	} cases[] = {
		{ EVAL_NUMBER, "72", NULL },
		{ EVAL_NUMBER, " -1,000.5\n", NULL },
		{ EVAL_NUMBER, "$5.", NULL },
		{ EVAL_NUMBER, "72 km", "a number" },
		{ EVAL_NUMBER, "1 2", "a number" },
		{ EVAL_NUMBER, "", "a number" },
		{ EVAL_CONTAINS, "++", NULL },
		{ EVAL_CONTAINS, " \n", "a text" },
		{ EVAL_EXACT, "A", NULL },
		{ EVAL_EXACT, "?!", "a word" },
		{ EVAL_F1, "", "a word" },
		{ EVAL_ROUGE_L, "Ω", "a letter a-z or a digit" },
		{ EVAL_ROUGE_L, "Ω 1", NULL },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++)
		ck_assert_pstr_eq(eval_metric_refuses(cases[i].metric, cases[i].reference),
				  cases[i].expected);
}
END_TEST

START_TEST(metrics_have_names)
{
	enum eval_metric metric;

	for (unsigned i = 0; i < EVAL_N_METRICS; i++) {
		ck_assert(eval_metric_find(eval_metric_name((enum eval_metric)i), &metric));
		ck_assert_uint_eq(metric, i);
		ck_assert_ptr_nonnull(strstr(EVAL_METRIC_NAMES, eval_metric_name(metric)));
	}
	ck_assert(eval_metric_find("rouge_l", &metric));
	ck_assert_uint_eq(metric, EVAL_ROUGE_L);
	ck_assert(!eval_metric_find("rouge", &metric));
	ck_assert(!eval_metric_find("", &metric));
}
END_TEST

/* --- characters ------------------------------------------------------------------------ */

static uint64_t hash(uint64_t digest, uint32_t value)
{
	for (int i = 0; i < 4; i++, value >>= 8)
		digest = (digest ^ (value & 0xff)) * UINT64_C(0x100000001b3);
	return digest;
}

#define FIRST_DIGEST UINT64_C(0xcbf29ce484222325)

/* FNV-1a of what Python's lower(), isalnum() (or '_') and isspace() say, each in four bytes. */
START_TEST(characters_are_as_in_python)
{
	static const struct {
		uint32_t begin, end;
	} cased[] = {
		{ 1, 0x130 }, { 0x131, 0x180 }, { 0x370, 0x530 }, { 0x531, 0x557 },
		{ 0x1e00, 0x1f00 },
	}, words[] = { { 1, 0x250 }, { 0x2000, 0x2070 } };
	uint64_t lower = FIRST_DIGEST, word = FIRST_DIGEST, space = FIRST_DIGEST;

	for (size_t i = 0; i < CLI_COUNT(cased); i++)
		for (uint32_t c = cased[i].begin; c < cased[i].end; c++)
			lower = hash(lower, eval_lower(c));
	for (size_t i = 0; i < CLI_COUNT(words); i++)
		for (uint32_t c = words[i].begin; c < words[i].end; c++)
			word = hash(word, eval_is_word(c));
	for (uint32_t c = 1; c < 0xd800; c++)
		space = hash(space, eval_is_space(c));
	ck_assert_uint_eq(lower, UINT64_C(0x3b3ca6b5594d7f91));
	ck_assert_uint_eq(word, UINT64_C(0x6173e1939004c755));
	ck_assert_uint_eq(space, UINT64_C(0x2cf00d958695a614));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("eval metric");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(t, scores_are_those_of_other_programs);
	tcase_add_test(t, scores_of_long_texts_too);
	tcase_add_test(t, a_reference_of_articles_keeps_them);
	tcase_add_test(t, bytes_that_are_not_utf8_equal_themselves);
	tcase_add_test(t, contains_ignores_case_and_white_space);
	tcase_add_test(t, the_best_reference_counts);
	tcase_add_test(t, the_last_number_is_found);
	tcase_add_test(t, numbers_are_equal_within_a_tolerance);
	tcase_add_test(t, numbers_may_be_long);
	tcase_add_test(t, references_are_checked);
	tcase_add_test(t, metrics_have_names);
	tcase_add_test(t, characters_are_as_in_python);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
