/* SPDX-License-Identifier: Apache-2.0 */
/* Charts of series with a legend at their right: axes, and styles that survive print in grey. */
#include "core/plot/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Dark enough for lines on white; the lightnesses differ, also for the colour-blind. */
static const char *const colours[] = {
	"#0072b2", "#d55e00", "#009e73", "#aa3377", "#222222", "#b58900", "#56a0d0", "#7a4f2a",
};
/*
 * gnuplot's numbers: circle, square, triangles, diamond and pentagon, filled, then hollow;
 * at last cross, x and star.
 */
static const int markers[] = { 7, 5, 9, 11, 13, 15, 6, 4, 8, 10, 12, 14, 1, 2, 3 };
#define N_FILLED 6
/* Lengths of lines and gaps; the first is a whole line. */
static const char *const dashes[] = {
	"solid", "(9,3)", "(2,3)", "(9,3,2,3)", "(14,4)", "(5,2)", "(9,3,2,3,2,3)",
};

/* Of the legend, in pixels; the characters of a name are narrower in most fonts. */
#define LEGEND_SAMPLE	62
#define LEGEND_COLUMN	7.6
#define LEGEND_ROW	21
#define LEGEND_GAP	14
#define LEFT_MARGIN	98.0		/* of a chart: its tics and the label beside them */
#define LEGEND_MOST	40		/* columns of a name */

#define TITLE_COLUMN	8.8

double plot_width(const struct plot_options *o)
{
	return o->width ? (double)o->width : PLOT_WIDTH_USUAL;
}

void plot_begin(struct cli_text *script, const struct plot_options *o, uint64_t height,
		const char *title)
{
	plot_add(script, "set encoding utf8\n"
		 "set terminal svg size %llu,%llu font 'sans-serif,13' noenhanced linewidth 1 "
		 "background '#ffffff'\n",
		 (unsigned long long)plot_width(o), (unsigned long long)height);
	plot_add(script, "set border 3 linecolor '#444444'\nset tics nomirror textcolor '#222222'\n"
		 "set grid linetype 1 linecolor '#dddddd' linewidth 0.7\n");
	title = o->title ? o->title : title;
	plot_add(script, "set tmargin at screen %.4f\n", 1 - (*title ? 46.0 : 20.0) / (double)height);
	if (*title) {
		plot_add(script, "set label ");
		plot_add_name(script, title, (size_t)((plot_width(o) - 30) / TITLE_COLUMN));
		plot_add(script, " at screen %.4f, screen %.4f left font 'sans-serif,15'\n",
			 14 / plot_width(o), 1 - 22.0 / (double)height);
	}
}

/* --- logarithmic axes -------------------------------------------------------------------- */

/* 1, 2, 5, 10, 20, ... and their inverses, numbered from 1 = number 0. */
static double round_value(int i)
{
	static const double mantissas[] = { 1, 2, 5 };
	int decade = (int)floor(i / 3.0);

	return mantissas[i - 3 * decade] * pow(10, decade);
}

static int round_below(double value)
{
	int i = 3 * (int)floor(log10(value)) + 3;

	while (round_value(i) > value * (1 + 1e-9))
		i--;
	return i;
}

static void add_tic_label(struct cli_text *script, double value)
{
	if (value >= 1e-4 && value < 1e6)
		plot_add(script, "'%g'", value);
	else
		plot_add(script, "'%.0fe%d'", value / pow(10, floor(log10(value) + 1e-9)),
			 (int)floor(log10(value) + 1e-9));
}

/* Every tic of few decades; the powers of ten of more; and some of these of very many. */
static void add_tics(struct cli_text *script, int from, int to)
{
	int decades = (to - from) / 3, step = decades <= 2 ? 1 : decades <= 10 ? 3 : 3 * (decades / 8 + 1);
	const char *comma = "";

	for (int i = from; i <= to; i++) {
		if (i % step)
			continue;
		plot_add(script, "%s", comma);
		add_tic_label(script, round_value(i));
		plot_add(script, " %.9g", round_value(i));
		comma = ", ";
	}
}

double plot_log_axis(struct cli_text *script, char axis, double low, double high, bool zero)
{
	int from = round_below(low), to = round_below(high);
	double floor_value = 0;

	if (round_value(to) < high)
		to++;
	if (to - from < 2) {		/* at least three tics */
		from--;
		to++;
	}
	if (to - from > 6) {		/* whole decades */
		from = 3 * (int)floor(from / 3.0);
		to = 3 * (int)ceil(to / 3.0);
	}
	plot_add(script, "set logscale %c 10\nset %ctics (", axis, axis);
	add_tics(script, from, to);
	if (zero) {
		floor_value = to - from > 6 ? round_value(from) / sqrt(10) : round_value(from - 1);
		plot_add(script, ", '0' %.9g", floor_value);
	}
	/* Rounding must not leave out the tics at the ends. */
	plot_add(script, ")\nset %crange [%.9g:%.9g]\n", axis,
		 (zero ? floor_value : round_value(from)) * 0.99999, round_value(to) * 1.00001);
	return floor_value;
}

/* --- series ---------------------------------------------------------------------------------- */

struct plot_series *plot_series_named(struct plot_chart *chart, const char *name)
{
	struct plot_series *series;

	for (size_t i = 0; i < chart->n; i++)
		if (!strcmp(chart->series[i].name, name))
			return &chart->series[i];
	chart->series = plot_grow(chart->series, chart->n, sizeof(*chart->series));
	series = &chart->series[chart->n];
	*series = (struct plot_series){ .name = cli_strdup(name), .style = (unsigned)chart->n };
	chart->n++;
	return series;
}

void plot_add_point(struct plot_series *series, struct plot_point point)
{
	series->points = plot_grow(series->points, series->n, sizeof(*series->points));
	series->points[series->n++] = point;
}

void plot_chart_free(struct plot_chart *chart)
{
	for (size_t i = 0; i < chart->n; i++) {
		free(chart->series[i].name);
		free(chart->series[i].points);
	}
	free(chart->series);
}

static int by_x(const void *a, const void *b)
{
	const struct plot_point *p = a, *q = b;

	return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : (p->y > q->y) - (p->y < q->y);
}

static void add_data(struct cli_text *script, const struct plot_series *series, size_t i)
{
	qsort(series->points, series->n, sizeof(*series->points), by_x);
	plot_add(script, "$series%zu << EOD\n", i);
	for (size_t p = 0; p < series->n; p++)
		plot_add(script, "%.9g %.9g %.9g %.9g\n", series->points[p].x, series->points[p].y,
			 series->points[p].low, series->points[p].high);
	plot_add(script, "EOD\n");
}

static void add_style(struct cli_text *script, const struct plot_chart *chart,
		      const struct plot_series *series)
{
	unsigned style = series->style;
	int marker = markers[style % CLI_COUNT(markers)];
	const char *dash = dashes[style % CLI_COUNT(dashes)];

	if (chart->rivals) {
		marker = markers[style % N_FILLED] - series->rival;
		dash = series->rival ? "(7,4)" : "solid";
	}
	/* After the last marker they begin again, larger. */
	plot_add(script, "linewidth 1.7 pointsize %g linecolor '%s' pointtype %d dashtype %s",
		 style < CLI_COUNT(markers) ? 0.75 : 1.15, colours[style % CLI_COUNT(colours)], marker, dash);
}

void plot_begin_chart(struct cli_text *script, const struct plot_chart *chart)
{
	uint64_t height = chart->options->height ? chart->options->height : PLOT_HEIGHT_USUAL;
	uint64_t legend = LEGEND_ROW * chart->n + 130;

	plot_begin(script, chart->options, height > legend ? height : legend, chart->title);
}

/* The legend may have almost half of the picture. */
static size_t most_columns(const struct plot_chart *chart)
{
	double columns = (0.45 * plot_width(chart->options) - LEGEND_SAMPLE) / LEGEND_COLUMN;

	return columns < LEGEND_MOST ? (size_t)columns : LEGEND_MOST;
}

/* Where the legend begins. */
static double legend_left(const struct plot_chart *chart)
{
	size_t longest = 0;

	for (size_t i = 0; i < chart->n; i++) {
		size_t bytes, n = plot_columns(cli_show(chart->series[i].name), most_columns(chart), &bytes);

		longest = n > longest ? n : longest;
	}
	return plot_width(chart->options) - LEGEND_SAMPLE - LEGEND_COLUMN * (double)longest;
}

double plot_chart_width(const struct plot_chart *chart)
{
	return legend_left(chart) - LEGEND_GAP - LEFT_MARGIN;
}

/*
 * gnuplot guesses widths too low for many fonts, and puts the legend in columns or over the
 * chart if it has no room; so the room is ours.
 */
static void add_legend(struct cli_text *script, const struct plot_chart *chart)
{
	double width = plot_width(chart->options), left = legend_left(chart);

	plot_add(script, "set lmargin at screen %.4f\nset rmargin at screen %.4f\n", LEFT_MARGIN / width,
		 (left - LEGEND_GAP) / width);
	plot_add(script, "set bars 0.6\nset key at screen %.4f, graph 1 left top vertical Left reverse "
		 "samplen 3 spacing 1 maxrows %zu textcolor '#222222'\n", left / width, chart->n);
}

void plot_add_series(struct cli_text *script, const struct plot_chart *chart)
{
	add_legend(script, chart);
	plot_add(script, "set xlabel '%s'\nset ylabel '%s'\n", chart->x_label, chart->y_label);
	for (size_t i = 0; i < chart->n; i++)
		add_data(script, &chart->series[i], i);
	plot_add(script, "plot ");
	for (size_t i = 0; i < chart->n; i++) {
		plot_add(script, "%s", i ? ", \\\n     " : "");
		if (chart->bars)
			plot_add(script, "$series%zu using 1:2:3:4 with yerrorbars pointtype 0 linewidth 1 "
				 "linecolor '%s' notitle, \\\n     ", i,
				 colours[chart->series[i].style % CLI_COUNT(colours)]);
		plot_add(script, "$series%zu using 1:2 with linespoints ", i);
		add_style(script, chart, &chart->series[i]);
		plot_add(script, " title ");
		plot_add_name(script, chart->series[i].name, most_columns(chart));
	}
	plot_add(script, "\n");
}
