/* SPDX-License-Identifier: Apache-2.0 */
/* Sums up the results of `kvmod eval`, by task and over all, and prints them. */
#include "core/eval/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/eval/summary.h"

/* --- what a line of the table says --------------------------------------------------------- */

/* A case on the prompts of a task, or on all. */
struct line {
	const char *task;		/* NULL: all */
	const struct eval_case *c;
	size_t n, n_failed, n_skipped;	/* prompts measured, and not */
	struct eval_summary budget, bytes, kl, agree;	/* shares; nats */
	struct eval_summary score, score_full, difference;	/* n is 0 without answers */
	struct eval_summary decision;	/* seconds */
	double decode, decode_full;	/* tokens a second */
	double prefill;			/* with what the policy needs, in times of that without; NaN */
};

/* The values of a member over the rows of a line, in prompt order. */
struct values {
	double *item;
	size_t n;
};

typedef double value_fn(json_t *row, const char *key);

static double number(json_t *row, const char *key)
{
	json_t *value = json_object_get(row, key);

	return json_is_number(value) ? json_number_value(value) : NAN;
}

static double share_of_bytes(json_t *row, const char *key)
{
	return number(row, key) / number(row, "cache_bytes_full");
}

static bool has_status(json_t *row, const char *status)
{
	const char *is = json_string_value(json_object_get(row, "status"));

	return is && !strcmp(is, status);
}

struct selection {
	const struct eval_table *table;
	const char *task;
	size_t which;			/* the case */
};

static json_t *row_at(const struct selection *s, size_t prompt)
{
	if (s->task && strcmp(s->task, s->table->tasks[prompt]) != 0)
		return NULL;
	return s->table->rows[prompt * s->table->cases->n + s->which];
}

/* Of measured rows that have it. */
static struct values collect(const struct selection *s, value_fn *value, const char *key)
{
	struct values v = { .item = cli_alloc((s->table->n_prompts + 1) * sizeof(*v.item)) };

	for (size_t i = 0; i < s->table->n_prompts; i++) {
		json_t *row = row_at(s, i);
		double x = row && has_status(row, "ok") ? value(row, key) : NAN;

		if (isfinite(x))
			v.item[v.n++] = x;
	}
	return v;
}

static struct eval_summary summary(const struct selection *s, value_fn *value, const char *key,
				   enum eval_bad bad)
{
	struct values v = collect(s, value, key);
	struct eval_summary sum = eval_summarize(v.item, v.n, bad);

	free(v.item);
	return sum;
}

static struct eval_summary difference(const struct selection *s)
{
	struct values with = collect(s, number, "score"), full = collect(s, number, "score_full");
	struct eval_summary sum = eval_summarize_pairs(with.item, full.item, with.n < full.n ? with.n : full.n,
						       EVAL_LOW_IS_BAD);

	free(with.item);
	free(full.item);
	return sum;
}

static double total(const struct selection *s, const char *key)
{
	struct values v = collect(s, number, key);
	double sum = 0;

	for (size_t i = 0; i < v.n; i++)
		sum += v.item[i];
	free(v.item);
	return sum;
}

static struct line line_of(const struct selection *s)
{
	struct line line = {
		.task = s->task, .c = &s->table->cases->item[s->which],
		.budget = summary(s, number, "budget", EVAL_HIGH_IS_BAD),
		.bytes = summary(s, share_of_bytes, "cache_bytes", EVAL_HIGH_IS_BAD),
		.kl = summary(s, number, "kl_mean", EVAL_HIGH_IS_BAD),
		.agree = summary(s, number, "agree", EVAL_LOW_IS_BAD),
		.score = summary(s, number, "score", EVAL_LOW_IS_BAD),
		.score_full = summary(s, number, "score_full", EVAL_LOW_IS_BAD),
		.difference = difference(s),
		.decision = summary(s, number, "decision_seconds", EVAL_HIGH_IS_BAD),
		.decode = total(s, "decoded") / total(s, "decode_seconds"),
		.decode_full = total(s, "full_decoded") / total(s, "full_decode_seconds"),
		.prefill = summary(s, number, "collect_ratio", EVAL_HIGH_IS_BAD).mean,
	};

	for (size_t i = 0; i < s->table->n_prompts; i++) {
		json_t *row = row_at(s, i);

		line.n += row && has_status(row, "ok");
		line.n_failed += row && has_status(row, "failed");
		line.n_skipped += row && has_status(row, "skipped");
	}
	return line;
}

/* Calls fn for each task in the order of the prompts, and for all of them if there are several. */
typedef void line_fn(void *arg, const struct line *line);

static bool is_first(const struct eval_table *table, size_t prompt)
{
	for (size_t i = 0; i < prompt; i++)
		if (!strcmp(table->tasks[i], table->tasks[prompt]))
			return false;
	return true;
}

static void each_case(const struct eval_table *table, const char *task, line_fn *fn, void *arg)
{
	for (size_t i = 0; i < table->cases->n; i++) {
		const struct selection s = { .table = table, .task = task, .which = i };
		const struct line line = line_of(&s);

		fn(arg, &line);
	}
}

static void each_line(const struct eval_table *table, line_fn *fn, void *arg)
{
	size_t n_tasks = 0;

	for (size_t i = 0; i < table->n_prompts; i++) {
		if (!is_first(table, i))
			continue;
		each_case(table, table->tasks[i], fn, arg);
		n_tasks++;
	}
	if (n_tasks != 1)
		each_case(table, NULL, fn, arg);
}

/* --- for people ---------------------------------------------------------------------------- */

static const char *const heads[] = {
	"policy", "positions", "bytes", "KL mean", "p90", "worst", "same token", "score", "full cache",
	"tok/s", "decision", "prefill", "prompts",
};
#define N_COLUMNS CLI_COUNT(heads)
#define CELL 80

struct cells {
	char (*text)[N_COLUMNS][CELL];
	const char **tasks;		/* NULL: all */
	size_t n;
};

static void put(char *cell, double value, int decimals, const char *unit)
{
	if (isfinite(value))
		snprintf(cell, CELL, "%.*f%s", decimals, value, unit);
	else
		snprintf(cell, CELL, "-");
}

/* With half of its 95% interval, if that is known. */
static void put_score(char *cell, const struct eval_summary *s)
{
	if (!s->n)
		snprintf(cell, CELL, "-");
	else if (isnan(s->low))
		snprintf(cell, CELL, "%.3f", s->mean);
	else
		snprintf(cell, CELL, "%.3f +- %.3f", s->mean, (s->high - s->low) / 2);
}

static void put_prompts(char *cell, const struct line *line)
{
	int n = snprintf(cell, CELL, "%zu", line->n);

	if (line->n_failed)
		n += snprintf(cell + n, CELL - (size_t)n, ", %zu failed", line->n_failed);
	if (line->n_skipped)
		snprintf(cell + n, CELL - (size_t)n, ", %zu too long", line->n_skipped);
}

static void add_cells(void *arg, const struct line *line)
{
	struct cells *cells = arg;
	char (*cell)[CELL];

	cells->text = realloc(cells->text, (cells->n + 1) * sizeof(*cells->text));
	cells->tasks = realloc(cells->tasks, (cells->n + 1) * sizeof(*cells->tasks));
	if (!cells->text || !cells->tasks)
		cli_no_memory();
	cells->tasks[cells->n] = line->task;
	cell = cells->text[cells->n++];
	snprintf(cell[0], CELL, "%s", cli_show(line->c->name));
	put(cell[1], 100 * line->budget.mean, 1, "%");
	put(cell[2], 100 * line->bytes.mean, 1, "%");
	put(cell[3], line->kl.mean, 4, "");
	put(cell[4], line->kl.p90, 4, "");
	put(cell[5], line->kl.worst, 4, "");
	put(cell[6], 100 * line->agree.mean, 1, "%");
	put_score(cell[7], &line->score);
	put_score(cell[8], &line->score_full);
	put(cell[9], line->decode, 1, "");
	put(cell[10], 1e3 * line->decision.mean, 1, " ms");
	put(cell[11], line->prefill, 3, "x");
	put_prompts(cell[12], line);
}

static void print_cells(char (*cell)[CELL], const int *widths)
{
	for (size_t i = 0; i < N_COLUMNS; i++)
		printf(i ? " %*s |" : "| %-*s |", widths[i], cell[i]);
	putchar('\n');
}

static void print_head(const int *widths)
{
	char head[N_COLUMNS][CELL];

	for (size_t i = 0; i < N_COLUMNS; i++)
		snprintf(head[i], CELL, "%s", heads[i]);
	print_cells(head, widths);
	for (size_t i = 0; i < N_COLUMNS; i++) {
		fputs(i ? " " : "| ", stdout);
		for (int k = 0; k < widths[i] - (i > 0); k++)
			putchar('-');
		fputs(i ? ": |" : " |", stdout);
	}
	putchar('\n');
}

void eval_table_print(const struct eval_table *table)
{
	struct cells cells = { .n = 0 };
	int widths[N_COLUMNS];

	each_line(table, add_cells, &cells);
	for (size_t i = 0; i < N_COLUMNS; i++) {
		widths[i] = (int)strlen(heads[i]);
		for (size_t k = 0; k < cells.n; k++)
			if ((int)strlen(cells.text[k][i]) > widths[i])
				widths[i] = (int)strlen(cells.text[k][i]);
	}
	for (size_t k = 0; k < cells.n; k++) {
		if (k % table->cases->n == 0) {
			printf("%s%s\n\n", k ? "\n" : "", cells.tasks[k] ? cli_show(cells.tasks[k]) : "all tasks");
			print_head(widths);
		}
		print_cells(cells.text[k], widths);
	}
	free(cells.text);
	free(cells.tasks);
}

/* --- for programs ----------------------------------------------------------------------------- */

static void csv_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"')
			putchar('"');
		putchar(*text);
	}
	putchar('"');
}

static void csv_number(double value)
{
	if (isfinite(value))
		printf(",%.17g", value);
	else
		putchar(',');
}

static void csv_summary(const struct eval_summary *s)
{
	csv_number(s->mean);
	csv_number(s->low);
	csv_number(s->high);
	csv_number(s->p90);
	csv_number(s->worst);
}

static void print_csv(void *arg, const struct line *line)
{
	(void)arg;
	csv_text(line->task ? line->task : "");
	putchar(',');
	csv_text(line->c->name);
	printf(",%zu,%zu,%zu", line->n, line->n_failed, line->n_skipped);
	csv_number(line->budget.mean);
	csv_number(line->bytes.mean);
	csv_summary(&line->kl);
	csv_number(line->agree.mean);
	csv_summary(&line->score);
	csv_number(line->score_full.mean);
	csv_number(line->difference.mean);
	csv_number(line->difference.low);
	csv_number(line->difference.high);
	csv_number(line->decode);
	csv_number(line->decode_full);
	csv_number(line->decision.mean);
	csv_number(line->prefill);
	putchar('\n');
}

void eval_table_csv(const struct eval_table *table)
{
	puts("task,case,prompts,failed,skipped,positions,bytes,kl_mean,kl_low,kl_high,kl_p90,kl_worst,agree,"
	     "score_mean,score_low,score_high,score_p90,score_worst,score_full,difference,difference_low,"
	     "difference_high,decode_tokens_per_second,full_tokens_per_second,decision_seconds,collect_ratio");
	each_line(table, print_csv, NULL);
}

static json_t *real(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static json_t *summary_json(const struct eval_summary *s)
{
	if (!s->n)
		return json_null();
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "mean", real(s->mean), "low", real(s->low),
			 "high", real(s->high), "p90", real(s->p90), "worst", real(s->worst));
}

static void add_json(void *arg, const struct line *line)
{
	json_array_append_new(arg, json_pack(
		"{s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
		"task", line->task ? cli_json_text(line->task) : json_null(),
		"case", cli_json_text(line->c->name), "policy", cli_json_text(line->c->policy),
		"prompts", (json_int_t)line->n, "failed", (json_int_t)line->n_failed,
		"skipped", (json_int_t)line->n_skipped, "positions", summary_json(&line->budget),
		"bytes", summary_json(&line->bytes), "kl", summary_json(&line->kl),
		"agree", summary_json(&line->agree), "score", summary_json(&line->score),
		"score_full", summary_json(&line->score_full),
		"difference", summary_json(&line->difference),
		"decision_seconds", summary_json(&line->decision),
		"decode_tokens_per_second", real(line->decode),
		"full_tokens_per_second", real(line->decode_full),
		"collect_ratio", real(line->prefill)));
}

json_t *eval_table_json(const struct eval_table *table)
{
	json_t *lines = json_array();

	if (lines)
		each_line(table, add_json, lines);
	return lines;
}
