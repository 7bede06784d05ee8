/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod plot heads: a heat map of what each KV head of each layer keeps. */
#include "core/plot/plot.h"

#include <math.h>
#include <string.h>

#define EXPECTED "the output of kvmod run --json"

struct map {
	struct plot_options options;
	uint64_t line;
	const char *policy;
	const json_t *kept;
	double seen, budget;
	size_t n_layers, n_heads;
	double most;			/* the largest share */
};

/* --- reading ---------------------------------------------------------------------------- */

/* null: the layer caches a window only. */
static int check_count(struct map *m, const struct plot_file *f, const json_t *count, size_t layer,
		       size_t *n_counts)
{
	char text[PLOT_SHOWN_ROOM];
	double n = json_number_value(count);

	if (json_is_null(count))
		return CLI_OK;
	if (!json_is_integer(count) || n < 0 || n > m->seen)
		return plot_error(f, "`kept` of layer %zu has %s: expected counts from 0 to %.0f, the "
				  "tokens seen", layer, plot_shown(count, text), m->seen);
	m->most = fmax(m->most, n / m->seen);
	++*n_counts;
	return CLI_OK;
}

static int check_kept(struct map *m, const struct plot_file *f)
{
	const json_t *heads, *count;
	char text[PLOT_SHOWN_ROOM];
	size_t l, g, n_counts = 0;

	m->n_layers = json_array_size(m->kept);
	m->n_heads = json_array_size(json_array_get(m->kept, 0));
	if (!m->n_layers || !m->n_heads)
		return plot_error(f, "`kept` is %s: expected an array of layers, " EXPECTED,
				  plot_shown(m->kept, text));
	json_array_foreach(m->kept, l, heads) {
		if (json_array_size(heads) != m->n_heads)
			return plot_error(f, "`kept` of layer %zu is %s: expected the counts of %zu KV heads",
					  l, plot_shown(heads, text), m->n_heads);
		json_array_foreach(heads, g, count)
			if (check_count(m, f, count, l, &n_counts))
				return CLI_FAILED;
	}
	return n_counts ? CLI_OK : plot_error(f, "`kept` has no counts: every layer caches only a window");
}

static int read_run(struct map *m, const struct plot_file *f, const json_t *object)
{
	m->kept = json_object_get(object, "kept");
	if (!m->kept)
		return plot_error(f, "no `kept`: expected " EXPECTED);
	if (plot_text(f, object, "policy", EXPECTED, &m->policy) ||
	    plot_real(f, object, "seen", 1, PLOT_MOST, "a number of tokens, in " EXPECTED, &m->seen) ||
	    plot_real(f, object, "budget", 0, 1, "a number from 0 to 1, in " EXPECTED, &m->budget))
		return CLI_FAILED;
	return check_kept(m, f);
}

/* --- drawing ------------------------------------------------------------------------------ */

/*
 * viridis (by S. van der Walt and N. Smith, CC0), the light end first: much is dark, as ink
 * is, and all lightnesses differ in grey.
 */
static const char palette[] =
	"set palette defined (0 '#fde725', 1 '#b5de2b', 2 '#6ece58', 3 '#35b779', 4 '#1f9e89', "
	"5 '#26828e', 6 '#31688e', 7 '#3e4989', 8 '#482878', 9 '#440154')\n";

/* The end of the colour bar, in percent. */
static double round_share(double share)
{
	static const double ends[] = { 1, 2, 5, 10, 20, 30, 40, 50, 60, 80 };

	for (size_t i = 0; i < CLI_COUNT(ends); i++)
		if (100 * share <= ends[i])
			return ends[i];
	return 100;
}

/* A box for each KV head, its middle at the numbers of its layer and head. */
static void add_counts(struct cli_text *script, const struct map *m)
{
	const json_t *heads, *count;
	size_t l, g;

	plot_add(script, "$kept << EOD\n");
	json_array_foreach(m->kept, l, heads)
		json_array_foreach(heads, g, count)
			if (!json_is_null(count))
				plot_add(script, "%zu %zu %.6g\n", l, g,
					 100 * json_number_value(count) / m->seen);
	plot_add(script, "EOD\n");
}

static void add_boxes(struct cli_text *script, const struct map *m)
{
	/* White lines between the boxes, if there is room for them. */
	double x = m->n_layers > 128 ? 0.5 : 0.5 - 0.0007 * (double)m->n_layers;
	double y = m->n_heads > 64 ? 0.5 : 0.5 - (m->n_heads < 16 ? 0.015 : 0.03);

	plot_add(script, "set style fill solid noborder\n"
		 "plot $kept using 1:2:($1-%.4f):($1+%.4f):($2-%.4f):($2+%.4f):3 with boxxyerror "
		 "linecolor palette\n", x, x, y, y);
}

static int draw(const struct map *m)
{
	struct cli_text script = { 0 }, title = { 0 };
	uint64_t height = 150 + (m->n_heads < 4 ? 40 : m->n_heads < 16 ? 28 : 20) * m->n_heads;
	int err;

	plot_add(&title, "%s: the share of %.0f tokens that each KV head keeps (mean %.3g%%)", m->policy,
		 m->seen, 100 * m->budget);
	height = m->options.height ? m->options.height : height < 2000 ? height : 2000;
	plot_begin(&script, &m->options, height, title.bytes);
	plot_add(&script, "unset grid\nset border 0\nset format xy '%%g'\nset tics scale 0\nunset key\n%s",
		 palette);
	plot_add(&script, "set xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\n",
		 m->n_layers - 1, m->n_heads - 1);
	plot_add(&script, "set xtics 0,%zu\nset ytics 0,%zu\n",
		 plot_step(m->n_layers, m->n_layers > 100 ? 16 : 32), plot_step(m->n_heads, 32));
	plot_add(&script, "set xlabel 'layer'\nset ylabel 'KV head'\nset cbrange [0:%g]\n"
		 "set format cb '%%g%%%%'\nset cbtics %g\n", round_share(m->most), round_share(m->most) / 4);
	add_counts(&script, m);
	add_boxes(&script, m);
	err = plot_draw(&m->options, &script);
	cli_text_free(&script);
	cli_text_free(&title);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	struct map m = { .line = 0 };
	const struct cli_option options[] = {
		PLOT_OUTPUT(&m.options),
		PLOT_LINE(&m.line),
		PLOT_WIDTH(&m.options),
		PLOT_HEIGHT(&m.options, "by the number of KV heads"),
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err;
	struct plot_file f;
	json_t *object = NULL;

	plot_check_options(self, &m.options);
	err = plot_open(&f, plot_operand(self, argc, argv, first));
	if (!err)
		err = plot_only(&f, m.line, EXPECTED, &object);
	if (!err)
		err = read_run(&m, &f, object);
	if (!err)
		err = draw(&m);
	json_decref(object);
	plot_close(&f);
	return err;
}

const struct cli_command cli_plot_heads = {
	.name = "plot heads",
	.run = run,
	.summary = "draw what each KV head of each layer keeps, as a heat map",
	.operands = "FILE",
	.details =
"The file is the output of `kvmod run --json`. Layers that cache only a window are white.\n",
};
