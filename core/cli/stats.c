/* SPDX-License-Identifier: Apache-2.0 */
/* Median and spread of repeated timings. */
#include "core/cli/cli.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The q-th quantile of sorted values, interpolated between neighbours. */
static double quantile(const double *sorted, size_t n, double q)
{
	double at = q * (double)(n - 1);
	size_t i = (size_t)at;

	if (i + 1 >= n)
		return sorted[n - 1];
	return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

struct cli_stats cli_stats(double *values, size_t n)
{
	if (!n)
		return (struct cli_stats){ NAN, NAN, NAN, 0 };
	qsort(values, n, sizeof(*values), by_value);
	return (struct cli_stats){
		.median = quantile(values, n, 0.5),
		.low = quantile(values, n, 0.25),
		.high = quantile(values, n, 0.75),
		.n = n,
	};
}

json_t *cli_stats_json(const struct cli_stats *s)
{
	return json_pack("{s:f, s:f, s:f}", "median", s->median, "low", s->low, "high", s->high);
}
