/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What many measurements say together: their mean and how sure it is, and how bad it gets.
 *
 * Every figure depends only on the values and their order, and is computed in the same way each
 * time: sums are taken in the order given, in double precision. So a run that was stopped and
 * resumed reports the same digits as one that was not.
 */
#ifndef KV_CORE_EVAL_SUMMARY_H
#define KV_CORE_EVAL_SUMMARY_H

#include <stddef.h>

/* Which values are bad: a loss is bad when it is high, a score when it is low. */
enum eval_bad {
	EVAL_HIGH_IS_BAD,
	EVAL_LOW_IS_BAD,
};

struct eval_summary {
	size_t n;
	double mean;			/* NaN if n is 0, like p90 and worst */
	/*
	 * The 95% confidence interval of the mean: Student's t with n - 1 degrees of freedom. NaN
	 * if n is less than 2. It may reach beyond the range of the values, such as 0 to 1.
	 */
	double low, high;
	/*
	 * 90% of the values are this good or better, by nearest rank: it is one of the values, the
	 * ceil(0.9 n)-th from the best.
	 */
	double p90;
	double worst;
};

/* Of finite values. Ends the program if memory runs out. */
struct eval_summary eval_summarize(const double *values, size_t n, enum eval_bad bad);

/*
 * The same of the differences a[i] - b[i] of pairs, for example the score with a policy
 * and with the full cache, prompt by prompt. If zero lies outside of low to high, the two
 * differ at the level of 5%. `bad` is that of the differences.
 */
struct eval_summary eval_summarize_pairs(const double *a, const double *b, size_t n,
					 enum eval_bad bad);

/* The 97.5% quantile of Student's t; infinity if freedom is 0. To 1e-7 of itself. */
double eval_student_t(size_t freedom);

#endif
