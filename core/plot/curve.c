/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod plot curve: what each policy's cache costs in predictions, against its size. */
#include "core/plot/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPECTED "the output of kvmod eval"
/* A divergence that rounding makes negative, or this small, is none. */
#define NO_KL 1e-9

/* A policy with its parameters, over all prompts. */
struct kase {
	char *name, *policy;
	double share, kl;		/* sums over the prompts */
	size_t n;
};

struct curve {
	struct plot_options options;
	const char *task;
	struct kase *cases;
	size_t n_cases, n_results;	/* results of any task and status */
	struct kv_nearest nearest;	/* to `task`, of the tasks there */
};

/* --- reading ------------------------------------------------------------------------------ */

static struct kase *case_named(struct curve *c, const char *name, const char *policy)
{
	struct kase *new;

	for (size_t i = 0; i < c->n_cases; i++)
		if (!strcmp(c->cases[i].name, name) && !strcmp(c->cases[i].policy, policy))
			return &c->cases[i];
	c->cases = plot_grow(c->cases, c->n_cases, sizeof(*c->cases));
	new = &c->cases[c->n_cases++];
	*new = (struct kase){ .name = cli_strdup(name), .policy = cli_strdup(policy) };
	return new;
}

static int add_ok(struct curve *c, const struct plot_file *f, const json_t *result)
{
	const char *name, *policy;
	double bytes, full, kl;
	struct kase *kase;

	if (plot_text(f, result, "case", "the name of a case", &name) ||
	    plot_text(f, result, "policy", "the name of a policy", &policy) ||
	    plot_real(f, result, "cache_bytes", 1, PLOT_MOST, "a number of bytes above 0", &bytes) ||
	    plot_real(f, result, "cache_bytes_full", 1, PLOT_MOST, "a number of bytes above 0", &full) ||
	    plot_real(f, result, "kl_mean", -1e-3, PLOT_MOST, "a number of nats, 0 or more", &kl))
		return CLI_FAILED;
	kase = case_named(c, name, policy);
	kase->share += bytes / full;
	kase->kl += kl > 0 ? kl : 0;
	kase->n++;
	return CLI_OK;
}

static int add_result(struct curve *c, const struct plot_file *f, const json_t *result)
{
	const char *task, *status;

	if (json_object_get(result, "kvmod_eval"))	/* of a file that was appended */
		return CLI_OK;
	if (plot_text(f, result, "task", "the name of a task", &task) ||
	    plot_text(f, result, "status", "ok, skipped or failed", &status))
		return CLI_FAILED;
	c->n_results++;
	if (c->task && strcmp(task, c->task)) {
		kv_nearest_offer(&c->nearest, task);
		return CLI_OK;
	}
	if (!strcmp(status, "ok"))
		return add_ok(c, f, result);
	if (!strcmp(status, "skipped") || !strcmp(status, "failed"))
		return CLI_OK;
	return plot_error(f, "`status` is \"%s\": expected ok, skipped or failed", status);
}

/* A run that was killed may leave a part of a line, without its end. */
static void drop_part(struct plot_file *f)
{
	while (f->text.n && f->text.bytes[f->text.n - 1] != '\n')
		f->text.n--;
}

static int check_header(const struct plot_file *f, const json_t *header)
{
	char text[PLOT_SHOWN_ROOM];

	if (!header)
		return cli_error("%s: the file is empty, expected %s", f->name, EXPECTED);
	if (!json_object_get(header, "kvmod_eval"))
		return plot_error(f, "%s: expected %s, whose first line has `kvmod_eval`",
				  plot_shown(header, text), EXPECTED);
	return CLI_OK;
}

static int read_results(struct curve *c, struct plot_file *f)
{
	char text[PLOT_SHOWN_ROOM];
	json_t *value;
	int err = plot_next(f, EXPECTED, &value);

	if (!err)
		err = check_header(f, value);
	json_decref(value);
	while (!err && !(err = plot_next(f, EXPECTED, &value)) && value) {
		if (json_is_object(value))
			err = add_result(c, f, value);
		else
			err = plot_error(f, "%s: expected a result, an object", plot_shown(value, text));
		json_decref(value);
	}
	return err;
}

static int read_file(struct curve *c, const char *name)
{
	struct plot_file f;
	int err = plot_open(&f, name);

	f.one_a_line = true;
	if (!err) {
		drop_part(&f);
		err = read_results(c, &f);
	}
	plot_close(&f);
	return err;
}

static int nothing_to_draw(const struct curve *c, const char *file)
{
	char hint[KV_HINT_ROOM];

	if (c->task)
		return cli_error("%s: no result of task `%s` has the status ok%s", file, c->task,
				 kv_nearest_hint(&c->nearest, hint, sizeof(hint)));
	return cli_error("%s: none of %zu results has the status ok: nothing to draw", file, c->n_results);
}

/* --- drawing -------------------------------------------------------------------------------- */

/* From 0 to the tic after the largest share. */
static void add_share_axis(struct cli_text *script, const struct plot_chart *chart)
{
	double most = 1;
	size_t step;

	for (size_t i = 0; i < chart->n; i++)
		for (size_t p = 0; p < chart->series[i].n; p++)
			most = fmax(most, chart->series[i].points[p].x);
	step = plot_step((size_t)ceil(most), (size_t)(plot_chart_width(chart) / 60));
	plot_add(script, "set xrange [0:%.0f]\nset xtics 0,%zu\nset format x '%%g%%%%'\n",
		 ceil(most / (double)step) * (double)step, step);
}

/* Zeros have no place on a logarithmic axis: they get the value of a tic of their own. */
static int draw(const struct curve *c)
{
	struct plot_chart chart = {
		.options = &c->options,
		.x_label = "bytes, share of the full cache",
		.y_label = "mean KL divergence, nats",
	};
	struct cli_text script = { 0 }, title = { 0 };
	double low = HUGE_VAL, high = 0, floor_value;
	bool zero = false;
	int err;

	for (size_t i = 0; i < c->n_cases; i++) {
		const struct kase *k = &c->cases[i];
		double kl = k->kl / (double)k->n;

		kl = kl < NO_KL ? 0 : kl;
		zero = zero || kl == 0;
		low = kl > 0 && kl < low ? kl : low;
		high = kl > high ? kl : high;
		plot_add_point(plot_series_named(&chart, k->policy),
			       (struct plot_point){ .x = 100 * k->share / (double)k->n, .y = kl });
	}
	plot_add(&title, "Size of the cache, and what it costs");
	if (c->task)
		plot_add(&title, ": %s", c->task);
	chart.title = title.bytes;
	plot_begin_chart(&script, &chart);
	floor_value = plot_log_axis(&script, 'y', high > 0 ? low : 1e-3, high > 0 ? high : 1e-1, zero);
	for (size_t i = 0; i < chart.n; i++)
		for (size_t p = 0; p < chart.series[i].n; p++)
			if (chart.series[i].points[p].y == 0)
				chart.series[i].points[p].y = floor_value;
	add_share_axis(&script, &chart);
	plot_add_series(&script, &chart);
	err = plot_draw(&c->options, &script);
	plot_chart_free(&chart);
	cli_text_free(&script);
	cli_text_free(&title);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	struct curve c = { .task = NULL };
	const struct cli_option options[] = {
		PLOT_OUTPUT(&c.options),
		{ "task", 0, CLI_STRING, &c.task, "NAME", "draw the results of this task only" },
		PLOT_WIDTH(&c.options),
		PLOT_HEIGHT(&c.options, "480, more for many policies"),
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err = CLI_OK;

	plot_check_options(self, &c.options);
	if (first == argc)
		cli_usage_error(self, "expected the files to draw");
	kv_nearest_start(&c.nearest, c.task ? c.task : "");
	for (int i = first; i < argc && !err; i++)
		err = read_file(&c, argv[i]);
	if (!err)
		err = c.n_cases ? draw(&c) : nothing_to_draw(&c, argv[first]);
	for (size_t i = 0; i < c.n_cases; i++) {
		free(c.cases[i].name);
		free(c.cases[i].policy);
	}
	free(c.cases);
	return err;
}

const struct cli_command cli_plot_curve = {
	.name = "plot curve",
	.run = run,
	.summary = "draw the KL divergence of policies against the bytes of their caches",
	.operands = "RESULTS...",
	.details =
"The files are those of `kvmod eval`. A point is the mean of a case over its prompts, and\n"
"the points of a policy are joined in the order of their bytes.\n",
};
