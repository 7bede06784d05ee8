/* SPDX-License-Identifier: Apache-2.0 */
/* Means, their intervals and the bad end, compared with those of SciPy. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/cli/cli.h"
#include "core/eval/summary.h"

#define MANY 37

/* The Python program repeated this generator. */
static void make(uint32_t *seed, double values[MANY])
{
	for (int i = 0; i < MANY; i++) {
		*seed = (*seed * 1103515245u + 12345u) & 0x7fffffff;
		values[i] = (*seed >> 16) / 1024.0;
	}
}

static void check(struct eval_summary s, size_t n, double mean, double low, double high,
		  double p90, double worst)
{
	ck_assert_uint_eq(s.n, n);
	ck_assert_double_eq_tol(s.mean, mean, 1e-10);
	ck_assert_double_eq_tol(s.low, low, 1e-7);
	ck_assert_double_eq_tol(s.high, high, 1e-7);
	ck_assert_double_eq(s.p90, p90);
	ck_assert_double_eq(s.worst, worst);
}

/*
 * By NumPy and SciPy: mean(), std(ddof=1), stats.t.ppf(0.975, n - 1), sorted()[ceil(0.9 n) - 1].
 * Those of the pairs are also the interval of stats.ttest_rel().
 */
START_TEST(summaries_are_those_of_scipy)
{
	static const double losses[] = { 0.24, 0.31, 0.05, 0.98, 0.12 };
	static const double scores[] = { 1, 0, 1, 1, 0, 1, 1, 1, 0, 1 };
	double a[MANY], b[MANY];
	uint32_t seed = 7;

	make(&seed, a);
	make(&seed, b);
	check(eval_summarize(losses, 5, EVAL_HIGH_IS_BAD), 5, 0.34, -0.121675320137,
	      0.801675320137, 0.98, 0.98);
	check(eval_summarize(scores, 10, EVAL_LOW_IS_BAD), 10, 0.7, 0.354449785586,
	      1.045550214414, 0, 0);
	check(eval_summarize(a, MANY, EVAL_HIGH_IS_BAD), MANY, 17.080025337838, 13.873150069825,
	      20.286900605851, 30.8974609375, 31.7685546875);
	check(eval_summarize(a, MANY, EVAL_LOW_IS_BAD), MANY, 17.080025337838, 13.873150069825,
	      20.286900605851, 3.2861328125, 0.24609375);
	check(eval_summarize_pairs(a, b, MANY, EVAL_LOW_IS_BAD), MANY, 2.64453125,
	      -1.733404425817, 7.022466925817, -13.404296875, -25.361328125);
}
END_TEST

/* Nine of ten are this good: with 9 values or fewer that is the worst of them. */
START_TEST(p90_is_a_nearest_rank)
{
	double values[40];

	for (size_t n = 1; n <= 40; n++) {
		size_t rank = 0;

		while (10 * rank < 9 * n)
			rank++;
		for (size_t i = 0; i < n; i++)
			values[i] = (double)((i * 7 + 3) % 41);		/* all different */
		for (int bad = EVAL_HIGH_IS_BAD; bad <= EVAL_LOW_IS_BAD; bad++) {
			double p90 = eval_summarize(values, n, (enum eval_bad)bad).p90;
			size_t as_good = 0;

			for (size_t i = 0; i < n; i++)
				as_good += bad == EVAL_HIGH_IS_BAD ? values[i] <= p90 :
					values[i] >= p90;
			ck_assert_uint_eq(as_good, rank);
		}
	}
}
END_TEST

START_TEST(few_values_have_no_interval)
{
	const double one = 0.5, same[] = { 0.1, 0.1, 0.1 };
	struct eval_summary s = eval_summarize(&one, 1, EVAL_LOW_IS_BAD);

	ck_assert_double_eq(s.mean, 0.5);
	ck_assert_double_eq(s.p90, 0.5);
	ck_assert_double_eq(s.worst, 0.5);
	ck_assert(isnan(s.low) && isnan(s.high));
	s = eval_summarize(NULL, 0, EVAL_LOW_IS_BAD);
	ck_assert_uint_eq(s.n, 0);
	ck_assert(isnan(s.mean) && isnan(s.low) && isnan(s.high) && isnan(s.p90) && isnan(s.worst));
	s = eval_summarize(same, 3, EVAL_LOW_IS_BAD);
	ck_assert_double_eq_tol(s.high - s.low, 0, 1e-15);
	s = eval_summarize_pairs(same, same, 3, EVAL_LOW_IS_BAD);
	ck_assert_double_eq(s.mean, 0);
	ck_assert_double_eq(s.low, 0);
	ck_assert_double_eq(s.high, 0);
}
END_TEST

/* Values are neither changed nor added in another order than the caller's. */
START_TEST(sums_follow_the_order)
{
	const double values[] = { 1, 1e16, -1e16 }, other[] = { 1e16, -1e16, 1 };
	double copy[3];

	memcpy(copy, values, sizeof(copy));
	ck_assert_double_eq(eval_summarize(values, 3, EVAL_HIGH_IS_BAD).mean, 0);
	ck_assert_double_eq(eval_summarize(other, 3, EVAL_HIGH_IS_BAD).mean, 1 / 3.0);
	ck_assert_mem_eq(copy, values, sizeof(copy));
}
END_TEST

/* By scipy.stats.t.ppf(0.975, freedom). */
START_TEST(quantiles_of_student_t)
{
	static const struct {
		size_t freedom;
		double t;
	} cases[] = {
		{ 1, 12.706204736432 }, { 2, 4.302652729749 }, { 9, 2.262157162799 },
		{ 30, 2.042272456301 }, { 31, 2.039513446396 }, { 32, 2.036933343460 },
		{ 40, 2.021075390306 }, { 63, 1.998340542521 }, { 100, 1.983971518524 },
		{ 1000, 1.962339080826 }, { 1000000, 1.959966356814 },
	};

	ck_assert(isinf(eval_student_t(0)));
	for (size_t i = 0; i < CLI_COUNT(cases); i++)
		ck_assert_double_eq_tol(eval_student_t(cases[i].freedom) / cases[i].t, 1, 1e-7);
	for (size_t freedom = 1; freedom < 200; freedom++)
		ck_assert_double_gt(eval_student_t(freedom), eval_student_t(freedom + 1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("eval summary");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(t, summaries_are_those_of_scipy);
	tcase_add_test(t, p90_is_a_nearest_rank);
	tcase_add_test(t, few_values_have_no_interval);
	tcase_add_test(t, sums_follow_the_order);
	tcase_add_test(t, quantiles_of_student_t);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
