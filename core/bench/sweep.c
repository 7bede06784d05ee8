/* SPDX-License-Identifier: Apache-2.0 */
/* How a decision's time grows: kvmod bench decision --sweep. */
#include "core/bench/decision.h"

#include <math.h>

#define SMALLEST	16		/* positions of a decision that is all launch */
#define SHORTEST	1024		/* positions that lengths start from */
#define ABOVE		4		/* times the smallest decision, from where the work counts */
#define MAX_POINTS	32
#define LEAST_POINTS	3

struct point {
	double size, ours, theirs;
};

/* One series: what grows, and what was measured. */
struct series {
	const char *what;		/* "positions" */
	uint64_t first, last;
	struct point points[MAX_POINTS];
	size_t n;
	uint64_t stopped;		/* the size that did not fit, or 0 */
	char why[DECISION_WHY_ROOM];
};

/* --- exponents --------------------------------------------------------------------------- */

/* The points, sizes ascending, from the first where the work dominates. */
static size_t first_point(const struct series *s, double least)
{
	size_t i = s->n;

	while (i > 0 && s->points[i - 1].ours >= least)
		i--;
	return i;
}

/* The slope of log(time) over log(size), by least squares. */
static double exponent(const struct point *p, size_t n, bool ours)
{
	double x = 0, y = 0, xx = 0, xy = 0;

	for (size_t i = 0; i < n; i++) {
		double lx = log(p[i].size), ly = log(ours ? p[i].ours : p[i].theirs);

		x += lx;
		y += ly;
		xx += lx * lx;
		xy += lx * ly;
	}
	return ((double)n * xy - x * y) / ((double)n * xx - x * x);
}

/* --- reporting ------------------------------------------------------------------------------ */

static void print_growth(const struct series *s, const struct decision_row *smallest, double least)
{
	size_t first = first_point(s, least), n = s->n - first;
	const struct point *p = s->points + first;

	if (s->stopped)
		printf("%s stop there: %llu take %s\n", s->what, (unsigned long long)s->stopped, s->why);
	if (n < LEAST_POINTS)
		printf("%s: no exponent, for only %zu of %zu sizes take more than %d times the %.4f ms of %u positions\n",
		       s->what, n, s->n, ABOVE, least / ABOVE, smallest->n);
	else
		printf("%s: the decision grows as size^%.3f, reading as size^%.3f, over the %zu sizes "
		       "from %.0f to %.0f, which take more than %d times the %.4f ms of %u positions\n",
		       s->what, exponent(p, n, true), exponent(p, n, false), n, p->size, p[n - 1].size,
		       ABOVE, least / ABOVE, smallest->n);
}

static json_t *growth_json(const struct series *s, double least)
{
	size_t first = first_point(s, least), n = s->n - first;
	const struct point *p = s->points + first;
	json_t *o = json_pack("{s:s, s:i, s:f}", "over", s->what, "points", (int)n, "least_ms", least);
	int err = !o;

	if (!err && n >= LEAST_POINTS)
		err = json_object_update_new(o,
			json_pack("{s:I, s:I, s:f, s:f}", "from", (json_int_t)p->size,
				  "to", (json_int_t)p[n - 1].size,
				  "decision_exponent", exponent(p, n, true),
				  "read_exponent", exponent(p, n, false)));
	if (!err && s->stopped)
		err = json_object_update_new(o,
			json_pack("{s:I, s:s}", "stopped_at", (json_int_t)s->stopped, "why", s->why));
	if (!err)
		return o;
	json_decref(o);
	return NULL;
}

static int report(struct decision_bench *b, const struct series *s,
		  const struct decision_row *smallest)
{
	double ours = smallest->ours.median, theirs = smallest->theirs.median;
	double least = ABOVE * (ours > theirs ? ours : theirs);

	if (b->common.json)
		return json_array_append_new(b->growth, growth_json(s, least)) ?
		       cli_error("out of memory") : CLI_OK;
	print_growth(s, smallest, least);
	return cli_flush();
}

/* --- the series -------------------------------------------------------------------------------- */

/* size: what grows, a field of shape or n. */
static int run_series(struct decision_bench *b, struct series *s, struct bench_shape *shape,
		      uint32_t *n, uint32_t *size)
{
	for (uint64_t at = s->first; at <= s->last && s->n < MAX_POINTS; at *= 2) {
		struct decision_row row;

		*size = (uint32_t)at;
		if (!decision_fits(b, shape, *n, s->why)) {
			s->stopped = at;
			break;
		}
		if (decision_measure(b, shape, *n, &row) || decision_report(b, &row))
			return CLI_FAILED;
		s->points[s->n++] = (struct point){ (double)at, row.ours.median, row.theirs.median };
	}
	return CLI_OK;
}

static uint64_t at_most(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

int decision_sweep(struct decision_bench *b)
{
	const struct cli_numbers *lengths = &b->options.lengths;
	uint32_t base = (uint32_t)lengths->item[0], n;
	struct series series[] = {
		{ .what = "positions", .first = at_most(SHORTEST, base),
		  .last = lengths->item[lengths->n - 1] },
		{ .what = "layers", .first = 1, .last = b->shape.n_layers },
		{ .what = "sequences", .first = 1, .last = b->shape.n_sequences },
	};
	struct bench_shape shape = b->shape, one = b->shape;
	uint32_t *const sizes[] = { &n, &shape.n_layers, &shape.n_sequences };
	struct decision_row smallest;
	int err;

	one.n_sequences = 1;
	err = decision_measure(b, &one, SMALLEST, &smallest);
	if (!err && !b->common.json)
		decision_header(b);
	for (size_t i = 0; i < CLI_COUNT(series) && !err; i++) {
		shape = one;
		n = base;
		err = run_series(b, &series[i], &shape, &n, sizes[i]);
		if (!err)
			err = report(b, &series[i], &smallest);
	}
	return err;
}
