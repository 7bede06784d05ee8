/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod plot latency: times that `kvmod bench` measured, against lengths. */
#include "core/plot/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPECTED "the output of kvmod bench decision --json or kvmod bench engine --json"

struct latency {
	struct plot_options options;
	uint64_t line;
	struct plot_chart chart;	/* of these options */
	struct cli_text title;
};

/* --- reading ------------------------------------------------------------------------------ */

/* Statistics of times in units of `scale` ms; the same style for ours and for the rival's. */
static int add_times(struct plot_chart *chart, const struct plot_file *f, const json_t *times,
		     double length, double scale, const char *name, unsigned style, bool rival)
{
	static const char what[] = "a time above 0";
	struct plot_point p = { .x = length };
	struct plot_series *series;

	if (plot_real(f, times, "median", 1e-12, PLOT_MOST, what, &p.y) ||
	    plot_real(f, times, "low", 1e-12, PLOT_MOST, what, &p.low) ||
	    plot_real(f, times, "high", 1e-12, PLOT_MOST, what, &p.high))
		return CLI_FAILED;
	p.y *= scale;
	p.low *= scale;
	p.high *= scale;
	series = plot_series_named(chart, name);
	series->style = style;
	series->rival = rival;
	plot_add_point(series, p);
	return CLI_OK;
}

/* A sweep also varies layers and sequences: a picture has one number of each, the first. */
static bool same_shape(const json_t *a, const json_t *b)
{
	return json_equal(json_object_get(a, "layers"), json_object_get(b, "layers")) &&
	       json_equal(json_object_get(a, "sequences"), json_object_get(b, "sequences"));
}

static int read_decision(struct latency *l, const struct plot_file *f, const json_t *object,
			 const json_t *rows)
{
	static const char what[] = "a number above 0";
	const json_t *first = json_array_get(rows, 0), *row;
	const char *policy, *rival, *device;
	struct cli_text ours = { 0 };
	double length, n_layers, n_sequences;
	size_t i;
	int err = CLI_OK;

	if (plot_real(f, first, "layers", 1, PLOT_MOST, what, &n_layers) ||
	    plot_real(f, first, "sequences", 1, PLOT_MOST, what, &n_sequences) ||
	    plot_text(f, object, "policy", EXPECTED, &policy) ||
	    plot_text(f, object, "rival", EXPECTED, &rival) ||
	    plot_text(f, object, "device", EXPECTED, &device))
		return CLI_FAILED;
	plot_add(&ours, "decision of %s", policy);
	json_array_foreach(rows, i, row) {
		if (err || !same_shape(row, first))
			continue;
		err = plot_real(f, row, "length", 1, PLOT_MOST, "a number of positions", &length) ||
		      add_times(&l->chart, f, json_object_get(row, "decision_ms"), length, 1,
				ours.bytes, 0, false) ||
		      add_times(&l->chart, f, json_object_get(row, "rival_ms"), length, 1,
				!strcmp(rival, "product") ? "product of the queries with K" :
							    "one read of K", 0, true);
	}
	cli_text_free(&ours);
	l->chart.x_label = "cached positions";
	l->chart.y_label = "time, ms";
	plot_add(&l->title, "Time of a decision on %s, %.0f layers", device, n_layers);
	if (n_sequences > 1)
		plot_add(&l->title, " of %.0f sequences", n_sequences);
	return err ? CLI_FAILED : CLI_OK;
}

struct measure {
	const char *member, *ours, *rivals;	/* rivals NULL: drawn with another measure */
};

static const struct measure measures[] = {
	{ "prefill", "prefill", "prefill" },
	{ "first_token", "first token, decided", NULL },
	{ "decode_full", "decoding, full cache", "decoding" },
	{ "decode_cut", "decoding, cut cache", NULL },
};

/* A rival's name follows what it did. */
static int add_measure(struct latency *l, const struct plot_file *f, const json_t *row,
		       const struct measure *m, const char *rival, double length)
{
	const json_t *comparison = json_object_get(row, m->member);
	unsigned style = (unsigned)(m - measures);
	struct cli_text name = { 0 };
	int err;

	if (add_times(&l->chart, f, json_object_get(comparison, "ours_s"), length, 1e3, m->ours,
		      style, false))
		return CLI_FAILED;
	if (!m->rivals)
		return CLI_OK;
	plot_add(&name, "%s, %s", m->rivals, rival);
	err = add_times(&l->chart, f, json_object_get(comparison, "rival_s"), length, 1e3, name.bytes,
			style, true);
	cli_text_free(&name);
	return err;
}

static int read_engine(struct latency *l, const struct plot_file *f, const json_t *object,
		       const json_t *rows)
{
	const char *policy, *rival, *engine;
	const json_t *row;
	double length;
	size_t i;

	if (plot_text(f, object, "policy", EXPECTED, &policy) ||
	    plot_text(f, object, "rival", EXPECTED, &rival) ||
	    plot_text(f, object, "engine", EXPECTED, &engine))
		return CLI_FAILED;
	json_array_foreach(rows, i, row) {
		if (plot_real(f, row, "tokens", 1, PLOT_MOST, "a number of tokens", &length))
			return CLI_FAILED;
		for (size_t k = 0; k < CLI_COUNT(measures); k++)
			if (add_measure(l, f, row, &measures[k], rival, length))
				return CLI_FAILED;
	}
	l->chart.x_label = "tokens of the prompt";
	l->chart.y_label = "time, ms (decoding: of a token)";
	plot_add(&l->title, "Engine %s with policy %s, against %s", engine, policy, rival);
	return CLI_OK;
}

static int read_bench(struct latency *l, const struct plot_file *f, const json_t *object)
{
	const json_t *decisions = json_object_get(object, "comparisons");
	const json_t *lengths = json_object_get(object, "lengths");

	if (json_object_get(json_array_get(decisions, 0), "decision_ms"))
		return read_decision(l, f, object, decisions);
	if (json_object_get(json_array_get(lengths, 0), "prefill"))
		return read_engine(l, f, object, lengths);
	return plot_error(f, "neither `comparisons` of decisions nor `lengths`: expected %s", EXPECTED);
}

/* --- drawing -------------------------------------------------------------------------------- */

struct range {
	double low, high;
};

static void widen(struct range *r, double value)
{
	r->low = value < r->low ? value : r->low;
	r->high = value > r->high ? value : r->high;
}

static void add_length(struct cli_text *script, double length)
{
	if (length >= 1024 && fmod(length, 1024) == 0)
		plot_add(script, "'%gk' %.9g", length / 1024, length);
	else
		plot_add(script, "'%g' %.9g", length, length);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* A tic for each length that was measured, unless it would touch the one before it. */
static void add_length_axis(struct cli_text *script, const struct plot_chart *chart, struct range x)
{
	const struct plot_series *series = &chart->series[0];
	double *lengths = cli_alloc(series->n * sizeof(*lengths)), last = 0, beside;
	double apart = log(x.high / x.low) * 45 / plot_chart_width(chart);
	const char *comma = "";

	if (x.low == x.high)
		x = (struct range){ x.low / 2, 2 * x.high };
	for (size_t i = 0; i < series->n; i++)
		lengths[i] = series->points[i].x;
	qsort(lengths, series->n, sizeof(*lengths), by_value);
	beside = pow(x.high / x.low, 0.03);
	plot_add(script, "set logscale x 2\nset xrange [%.9g:%.9g]\nset xtics (", x.low / beside,
		 x.high * beside);
	for (size_t i = 0; i < series->n; i++) {
		if (last > 0 && log(lengths[i] / last) < apart)
			continue;
		plot_add(script, "%s", comma);
		add_length(script, lengths[i]);
		comma = ", ";
		last = lengths[i];
	}
	plot_add(script, ")\n");
	free(lengths);
}

static int draw(struct latency *l)
{
	struct range x = { HUGE_VAL, 0 }, y = x;
	struct cli_text script = { 0 };
	int err;

	for (size_t i = 0; i < l->chart.n; i++)
		for (size_t p = 0; p < l->chart.series[i].n; p++) {
			const struct plot_point *point = &l->chart.series[i].points[p];

			widen(&x, point->x);
			widen(&y, point->y);
			widen(&y, point->low);
			widen(&y, point->high);
		}
	l->chart.rivals = l->chart.bars = true;
	l->chart.title = l->title.bytes;
	plot_begin_chart(&script, &l->chart);
	add_length_axis(&script, &l->chart, x);
	plot_log_axis(&script, 'y', y.low, y.high, false);
	plot_add_series(&script, &l->chart);
	err = plot_draw(&l->options, &script);
	cli_text_free(&script);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	struct latency l = { .chart.options = &l.options };
	const struct cli_option options[] = {
		PLOT_OUTPUT(&l.options),
		PLOT_LINE(&l.line),
		PLOT_WIDTH(&l.options),
		PLOT_HEIGHT(&l.options, "480"),
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err;
	struct plot_file f;
	json_t *object = NULL;

	plot_check_options(self, &l.options);
	err = plot_open(&f, plot_operand(self, argc, argv, first));
	if (!err)
		err = plot_only(&f, l.line, EXPECTED, &object);
	if (!err)
		err = read_bench(&l, &f, object);
	if (!err)
		err = draw(&l);
	json_decref(object);
	plot_chart_free(&l.chart);
	cli_text_free(&l.title);
	plot_close(&f);
	return err;
}

const struct cli_command cli_plot_latency = {
	.name = "plot latency",
	.run = run,
	.summary = "draw times against lengths, ours and the rival's",
	.operands = "FILE",
	.details =
"The file is the output of `kvmod bench decision --json` or `kvmod bench engine --json`.\n"
"Whole lines and filled points are ours, dashed lines and hollow points the rival's. Bars\n"
"reach from quartile to quartile. Of a sweep the first series is drawn, the lengths.\n",
};
