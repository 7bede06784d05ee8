/* SPDX-License-Identifier: Apache-2.0 */
/* What many measurements say together: mean, its confidence interval, and the bad end. */
#include "core/eval/summary.h"

#include <math.h>
#include <stdlib.h>

#include "core/cli/cli.h"

/* The 97.5% quantile of the normal distribution. */
#define NORMAL 1.959963984540054

/* The series in 1 / freedom is exact enough only beyond this table. */
static const double quantiles[] = {
	INFINITY,
	12.706204736, 4.302652730, 3.182446305, 2.776445105, 2.570581836,
	2.446911851, 2.364624252, 2.306004135, 2.262157163, 2.228138852,
	2.200985160, 2.178812830, 2.160368656, 2.144786688, 2.131449546,
	2.119905299, 2.109815578, 2.100922040, 2.093024054, 2.085963447,
	2.079613845, 2.073873068, 2.068657610, 2.063898562, 2.059538553,
	2.055529439, 2.051830516, 2.048407142, 2.045229642, 2.042272456,
};

/* Abramowitz and Stegun, 26.7.5. */
static double series(double freedom)
{
	const double z = NORMAL, z2 = z * z;
	double g1 = (z2 + 1) * z / 4;
	double g2 = ((5 * z2 + 16) * z2 + 3) * z / 96;
	double g3 = (((3 * z2 + 19) * z2 + 17) * z2 - 15) * z / 384;
	double g4 = ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) * z / 92160;

	return z + (g1 + (g2 + (g3 + g4 / freedom) / freedom) / freedom) / freedom;
}

double eval_student_t(size_t freedom)
{
	return freedom < CLI_COUNT(quantiles) ? quantiles[freedom] : series((double)freedom);
}

static double mean(const double *values, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += values[i];
	return sum / (double)n;
}

/* Half of the interval's width. */
static double uncertainty(const double *values, size_t n, double mean)
{
	double sum = 0;

	if (n < 2)
		return NAN;
	for (size_t i = 0; i < n; i++)
		sum += (values[i] - mean) * (values[i] - mean);
	return eval_student_t(n - 1) * sqrt(sum / (double)(n - 1) / (double)n);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* rank: 0 is the best. */
static double ranked(const double *sorted, size_t n, size_t rank, enum eval_bad bad)
{
	return sorted[bad == EVAL_HIGH_IS_BAD ? rank : n - 1 - rank];
}

/* Sorts the values, after everything that depends on their order. */
static struct eval_summary summarize(double *values, size_t n, enum eval_bad bad)
{
	struct eval_summary s = { .n = n };
	double half;

	if (!n)
		return (struct eval_summary){ 0, NAN, NAN, NAN, NAN, NAN };
	s.mean = mean(values, n);
	half = uncertainty(values, n, s.mean);
	s.low = s.mean - half;
	s.high = s.mean + half;
	qsort(values, n, sizeof(*values), by_value);
	s.p90 = ranked(values, n, n - n / 10 - 1, bad);
	s.worst = ranked(values, n, n - 1, bad);
	return s;
}

struct eval_summary eval_summarize_pairs(const double *a, const double *b, size_t n,
					 enum eval_bad bad)
{
	double *values = cli_alloc((n + 1) * sizeof(*values));
	struct eval_summary s;

	for (size_t i = 0; i < n; i++)
		values[i] = a[i] - (b ? b[i] : 0);
	s = summarize(values, n, bad);
	free(values);
	return s;
}

struct eval_summary eval_summarize(const double *values, size_t n, enum eval_bad bad)
{
	return eval_summarize_pairs(values, NULL, n, bad);
}
