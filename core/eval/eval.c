/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod eval: what policies keep of the cache and what that costs, on anybody's prompts. */
#include "core/eval/measure.h"
#include "core/eval/data.h"
#include "core/eval/results.h"
#include "core/eval/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct eval {
	const struct cli_command *self;
	struct cli_common common;
	struct cli_strings data;
	uint64_t n_prompts;		/* of each file; 0: all */
	uint64_t n_forced, n_answer;
	const char *results_path, *system;
	struct cli_text system_text;	/* what `system` points to from then on */
	bool context_first, raw, csv;

	struct kvmod_ctx *ctx;
	struct eval_cases cases;
	struct eval_data prompts;
	struct eval_bench bench;
	struct eval_results results;

	size_t n_failed, n_left;	/* policies that failed; results that could not be had */
	bool is_over;			/* the results file cannot be used any more */
	double begin;
};

/* --- settings that make results comparable ---------------------------------------------- */

/* What has no influence on results, or is part of a case's name. */
static bool is_free(const struct kvmod_setting *setting)
{
	static const char *const keys[] = { "policy", "module_path", "log", "threads", "model" };

	for (size_t i = 0; i < CLI_COUNT(keys); i++)
		if (!strcmp(setting->key, keys[i]))
			return true;
	return setting->from == KVMOD_FROM_DEFAULT;
}

static int note_setting(void *arg, const struct kvmod_setting *setting)
{
	char *name;

	if (is_free(setting))
		return 0;
	if (asprintf(&name, "%s.%s", setting->section, setting->key) < 0)
		cli_no_memory();
	json_object_set_new(arg, name, cli_json_text(setting->value));
	free(name);
	return 0;
}

struct model_file {
	char section[80];
	uint64_t bytes;			/* 0: not known */
};

static int note_model(void *arg, const struct kvmod_setting *setting)
{
	struct model_file *model = arg;
	struct stat file;

	if (strcmp(setting->section, model->section) != 0 || strcmp(setting->key, "model") != 0)
		return 0;
	if (!stat(setting->value, &file))
		model->bytes = (uint64_t)file.st_size;
	return 1;
}

/* Files of the same model differ in their types. */
static uint64_t model_bytes(const struct eval *e)
{
	struct model_file model = { .bytes = 0 };

	snprintf(model.section, sizeof(model.section), "engine %s", e->bench.model.ops->name);
	kvmod_settings_each(e->ctx, note_model, &model);
	return model.bytes;
}

static json_t *settings_of(const struct eval *e)
{
	const struct kvmod_model *m = e->bench.model.about;
	json_t *settings = json_pack("{s:s, s:o, s:I, s:s, s:b, s:b, s:o, s:I, s:I}",
				     "kvmod", kvmod_version(), "model", cli_json_text(m->name),
				     "model_bytes", (json_int_t)model_bytes(e),
				     "engine", e->bench.model.ops->name,
				     "context_first", e->context_first, "raw", e->raw,
				     "system", e->system ? cli_json_text(e->system) : json_null(),
				     "tokens", (json_int_t)e->n_forced, "answer", (json_int_t)e->n_answer);

	if (!settings)
		cli_no_memory();
	kvmod_settings_each(e->ctx, note_setting, settings);
	return settings;
}

/* --- one prompt ---------------------------------------------------------------------------- */

static int tokens_of(const struct eval *e, const struct eval_prompt *p, struct eval_tokens *tokens)
{
	const struct cli_model *m = &e->bench.model;
	size_t at = e->context_first ? p->question : p->n;
	struct cli_text context = { 0 }, question = { 0 };
	int err;

	if (cli_text_add(&context, p->text, at) ||
	    cli_text_add(&question, p->text + at, p->n - at))
		cli_no_memory();
	if (e->raw)
		err = cli_add_raw(m, &context, true, &tokens->prompt);
	else
		err = cli_add_chat(m, e->system, context.bytes, true,
				   e->context_first ? KVMOD_CHAT_CONTEXT : KVMOD_CHAT_WHOLE, &tokens->prompt);
	if (!err && e->context_first && e->raw)
		err = cli_add_raw(m, &question, false, &tokens->question);
	else if (!err && e->context_first)
		err = cli_add_chat(m, NULL, question.bytes, false, KVMOD_CHAT_QUESTION, &tokens->question);
	cli_text_free(&context);
	cli_text_free(&question);
	return err;
}

static void free_tokens(struct eval_tokens *tokens)
{
	cli_tokens_free(&tokens->prompt);
	cli_tokens_free(&tokens->question);
}

struct digest {
	char text[17];
};

static struct digest digest_of(const struct eval_prompt *p)
{
	struct digest digest;

	snprintf(digest.text, sizeof(digest.text), "%016llx", (unsigned long long)p->digest);
	return digest;
}

/* What every row of a prompt has. */
static json_t *new_row(const struct eval_prompt *p, const struct eval_case *c, const char *status,
		       const struct eval_tokens *tokens)
{
	return json_pack("{s:o, s:s, s:o, s:o, s:o, s:s, s:I}", "id", cli_json_text(p->id),
			 "digest", digest_of(p).text, "task", cli_json_text(p->task),
			 "case", cli_json_text(c->name), "policy", cli_json_text(c->policy),
			 "status", status, "prompt_tokens",
			 (json_int_t)(tokens->prompt.n + tokens->question.n));
}

static void add_scores(const struct eval *e, json_t *row, const struct eval_prompt *p,
		       const struct eval_full *full, const struct eval_measured *m)
{
	if (!p->n_answers || !e->n_answer)
		return;
	json_object_set_new(row, "score", json_real(eval_score(p->metric, m->text.bytes ? m->text.bytes : "",
							       p->answers, p->n_answers)));
	json_object_set_new(row, "score_full",
			    json_real(eval_score(p->metric, full->text.bytes ? full->text.bytes : "",
						 p->answers, p->n_answers)));
}

static json_t *row_of(const struct eval *e, const struct eval_prompt *p, const struct eval_case *c,
		      const struct eval_tokens *tokens, const struct eval_full *full,
		      const struct eval_measured *m)
{
	json_t *row = new_row(p, c, m->status ? "failed" : "ok", tokens);
	json_t *numbers = json_pack(
		"{s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f, s:f, s:I}",
		"budget", m->budget, "cache_bytes", (json_int_t)m->bytes,
		"cache_bytes_full", (json_int_t)m->bytes_full, "tokens", (json_int_t)m->n_forced,
		"kl_mean", m->kl_mean, "kl_max", m->kl_max, "agree", m->agree,
		"decision_seconds", m->decision_seconds, "apply_seconds", m->apply_seconds,
		"decode_seconds", m->decode_seconds, "decoded", (json_int_t)m->n_decoded,
		"prefill_seconds", full->prefill_seconds, "full_decode_seconds", full->seconds,
		"full_decoded", (json_int_t)full->n_decoded);

	if (!row || !numbers || json_object_update(row, numbers))
		cli_no_memory();
	json_decref(numbers);
	if (m->status)
		json_object_set_new(row, "error", json_string(kvmod_strerror(m->status)));
	add_scores(e, row, p, full, m);
	if (e->n_answer)
		json_object_set_new(row, "answer", cli_json_text(m->text.bytes ? m->text.bytes : ""));
	return row;
}

static int add_row(struct eval *e, json_t *row)
{
	int err = eval_results_add(&e->results, row);

	e->is_over = err;
	return err;
}

/* collect_ratio: NaN if it was not measured with this prompt. */
static int measure_case(struct eval *e, const struct eval_prompt *p, size_t which,
			const struct eval_tokens *tokens, struct eval_full *full, double collect_ratio)
{
	struct eval_measured m;
	int err = eval_case_run(&e->bench, &e->cases, which, tokens, full, &m);
	json_t *row;

	if (!err) {
		row = row_of(e, p, &e->cases.item[which], tokens, full, &m);
		if (!isnan(collect_ratio))
			json_object_set_new(row, "collect_ratio", json_real(collect_ratio));
		err = add_row(e, row);
	}
	cli_text_free(&m.text);
	return err;
}

static bool fits(const struct eval *e, const struct eval_tokens *tokens)
{
	uint64_t more = e->n_forced > e->n_answer ? e->n_forced : e->n_answer;

	return tokens->prompt.n + tokens->question.n + more <= e->bench.model.about->context;
}

static int skip(struct eval *e, const struct eval_prompt *p, size_t which, const struct eval_tokens *tokens)
{
	return add_row(e, new_row(p, &e->cases.item[which], "skipped", tokens));
}

struct progress {
	struct cli_progress bar;
	char label[64];
	size_t done, skipped, total;	/* skipped: there before this run */
};

static void show_progress(struct eval *e, struct progress *p)
{
	double spent = cli_now() - e->begin, n = (double)(p->done - p->skipped);
	double left = n > 0 ? spent / n * (double)(p->total - p->done) : 0;

	if (n > 0)
		snprintf(p->label, sizeof(p->label), "eval, %.0f min left", ceil(left / 60));
	else
		snprintf(p->label, sizeof(p->label), "eval");
	cli_progress_to(&p->bar, p->done);
}

/* What collecting costs is measured with the first prompt of each task. */
static bool is_first_of_task(const struct eval *e, const struct eval_prompt *p)
{
	const struct eval_prompt *other = e->prompts.prompts;

	while (strcmp(other->task, p->task) != 0)
		other++;
	return other == p;
}

static int run_cases(struct eval *e, const struct eval_prompt *p, struct progress *progress,
		     const bool *done, const struct eval_tokens *tokens)
{
	bool fitting = fits(e, tokens);
	double *ratios = cli_alloc(e->cases.n * sizeof(*ratios));
	struct eval_full full = { 0 };
	int err = CLI_OK;

	for (size_t i = 0; i < e->cases.n; i++)
		ratios[i] = NAN;
	if (fitting && is_first_of_task(e, p))
		err = eval_collect_ratios(&e->bench, &e->cases, tokens, ratios);
	if (fitting && !err)
		err = eval_full_run(&e->bench, tokens, &full);
	for (size_t i = 0; i < e->cases.n && !err; i++) {
		if (done[i])
			continue;
		err = fitting ? measure_case(e, p, i, tokens, &full, ratios[i]) : skip(e, p, i, tokens);
		progress->done += !err;
		show_progress(e, progress);
	}
	eval_full_free(&e->bench, &full);
	free(ratios);
	return err;
}

static int run_prompt(struct eval *e, const struct eval_prompt *p, struct progress *progress)
{
	struct eval_tokens tokens = { 0 };
	bool *done = cli_alloc(e->cases.n * sizeof(*done));
	size_t n_done = 0;
	int err = CLI_OK;

	for (size_t i = 0; i < e->cases.n; i++) {
		done[i] = eval_results_find(&e->results, p->id, e->cases.item[i].name);
		n_done += done[i];
	}
	progress->done += n_done;
	progress->skipped += n_done;
	if (n_done < e->cases.n)
		err = tokens_of(e, p, &tokens);
	if (!err && n_done < e->cases.n)
		err = run_cases(e, p, progress, done, &tokens);
	free_tokens(&tokens);
	free(done);
	return err;
}

/* Before anything is run: are results that are there those of these prompts? */
static int check_results(const struct eval *e)
{
	int err = CLI_OK;

	for (size_t i = 0; i < e->prompts.n && !err; i++)
		for (size_t c = 0; c < e->cases.n && !err; c++)
			err = eval_results_check(&e->results, e->prompts.prompts[i].id, e->cases.item[c].name,
						 digest_of(&e->prompts.prompts[i]).text);
	return err;
}

/* What one prompt cannot do does not stop the others; a full disk and Ctrl-C do. */
static int run_all(struct eval *e)
{
	struct progress progress = { .total = e->prompts.n * e->cases.n };
	int err = CLI_OK;

	e->begin = cli_now();
	cli_progress_begin(&progress.bar, progress.label, progress.total);
	for (size_t i = 0; i < e->prompts.n && !e->is_over && !cli_interrupted(); i++)
		if (run_prompt(e, &e->prompts.prompts[i], &progress))
			err = CLI_FAILED;
	cli_progress_end(&progress.bar);
	e->n_left = progress.total - progress.done;
	return err;
}

/* --- the answer ----------------------------------------------------------------------------- */

static bool is_failed(json_t *row)
{
	const char *status = json_string_value(json_object_get(row, "status"));

	return status && !strcmp(status, "failed");
}

static int print(struct eval *e)
{
	size_t n = e->prompts.n;
	const char **tasks = cli_alloc((n + 1) * sizeof(*tasks));
	json_t **rows = cli_alloc((n * e->cases.n + 1) * sizeof(*rows));
	const struct eval_table table = {
		.cases = &e->cases, .tasks = tasks, .rows = rows, .n_prompts = n,
	};
	int err = CLI_OK;

	for (size_t i = 0; i < n; i++) {
		tasks[i] = e->prompts.prompts[i].task;
		for (size_t c = 0; c < e->cases.n; c++) {
			json_t *row = eval_results_find(&e->results, e->prompts.prompts[i].id, e->cases.item[c].name);

			rows[i * e->cases.n + c] = row;
			e->n_failed += row && is_failed(row);
		}
	}
	if (e->common.json)
		err = cli_print_json(json_pack("{s:o, s:o}", "settings", settings_of(e), "results",
					       eval_table_json(&table)));
	else if (e->csv)
		eval_table_csv(&table);
	else
		eval_table_print(&table);
	free(tasks);
	free(rows);
	return err;
}

static void say_broken(void *arg, const char *message)
{
	(void)arg;
	cli_error("%s", message);
}

/* --- the command ------------------------------------------------------------------------------- */

static int open_all(struct eval *e, char **operands, int n_operands)
{
	int err = CLI_OK;

	e->bench.n_forced = e->n_forced;
	e->bench.n_answer = e->n_answer;
	for (int i = 0; i < n_operands && !err; i++)
		err = eval_cases_add(&e->cases, operands[i]);
	if (!err && !n_operands)	/* the configured policy */
		err = eval_cases_add(&e->cases, kvmod_config_get(e->ctx, "kvmod", "policy"));
	if (!err)
		err = cli_model_open_whole(&e->bench.model, e->ctx);
	if (!err)
		err = eval_cases_open(&e->cases, e->ctx, e->bench.model.engine, &e->common);
	if (!err)
		err = eval_bench_open(&e->bench, &e->cases);
	return err ? err : eval_results_open(&e->results, e->results_path, settings_of(e));
}

static void close_all(struct eval *e)
{
	cli_release_interrupt();
	if (e->results.rows)
		eval_results_close(&e->results);
	eval_bench_close(&e->bench);
	eval_cases_free(&e->cases);
	cli_model_close(&e->bench.model);
	eval_data_free(&e->prompts);
	cli_text_free(&e->system_text);
	kvmod_unref(e->ctx);
}

static int read_data(struct eval *e)
{
	const struct eval_reading how = {
		.per_file = e->n_prompts, .with_question = e->context_first, .broken = say_broken,
	};

	if (eval_data_read(&e->prompts, e->data.item, e->data.n, &how))
		return cli_error("%s", e->prompts.error);
	if (e->prompts.n_without_question)
		cli_error("%zu prompts without a question_at were left out", e->prompts.n_without_question);
	return e->prompts.n ? CLI_OK : cli_error("no prompts");
}

static int evaluate(struct eval *e, char **operands, int n_operands)
{
	int err = read_data(e);

	if (!err && e->system) {
		err = cli_read_system(&e->system_text, e->system);
		e->system = e->system_text.bytes;
	}
	if (!err)
		err = open_all(e, operands, n_operands);
	if (err)
		return err;
	err = check_results(e);
	if (err)
		return err;
	cli_catch_interrupt(&e->bench.model);
	err = run_all(e);
	if (print(e))
		err = CLI_FAILED;
	if (cli_interrupted())
		return cli_error("stopped on request: %zu results are missing%s", e->n_left,
				 e->results_path ? "; the same command goes on with them" : "");
	if (e->n_left && !e->is_over)
		err = cli_error("%zu results are missing", e->n_left);
	if (e->n_failed)
		err = cli_error("policies failed on %zu prompts: they are not in the table's numbers", e->n_failed);
	if (e->prompts.n_broken)
		err = cli_error("%zu broken lines were left out", e->prompts.n_broken);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct eval e = { .self = self, .n_forced = 48, .n_answer = 128 };
	const struct cli_option options[] = {
		{ "data", 'd', CLI_STRINGS, &e.data, "FILE", "prompts, as JSON Lines; may be repeated" },
		{ "prompts", 0, CLI_NUMBER, &e.n_prompts, "N", "take N of each file, evenly spaced; 0: all [0]" },
		{ "tokens", 0, CLI_NUMBER, &e.n_forced, "N",
		  "tokens of the full cache's answer to compare after [48]" },
		{ "answer", 0, CLI_NUMBER, &e.n_answer, "N",
		  "tokens of answers, for the score; 0: no answers [128]" },
		{ "context-first", 0, CLI_FLAG, &e.context_first, NULL,
		  "cut before the question is known" },
		{ "system", 0, CLI_STRING, &e.system, "TEXT", "a system message" },
		{ "raw", 0, CLI_FLAG, &e.raw, NULL, "prompts as they are, without a chat template" },
		{ "results", 0, CLI_STRING, &e.results_path, "FILE",
		  "append results here, and go on from those that are there" },
		{ "csv", 0, CLI_FLAG, &e.csv, NULL, "print the table as CSV" },
		{ NULL },
	};
	int first = cli_parse(self, &e.common, options, argc, argv), err;

	if (!e.data.n)
		cli_usage_error(self, "no prompts: expected --data FILE");
	if (e.csv && e.common.json)
		cli_usage_error(self, "--csv and --json: expected one of them");
	if (e.raw && e.system)
		cli_usage_error(self, "--raw and --system: a system message needs a chat template");
	e.ctx = cli_context(&e.common);
	if (!e.ctx)
		return CLI_FAILED;
	err = evaluate(&e, argv + first, argc - first);
	close_all(&e);
	return err;
}

const struct cli_command cli_eval = {
	.name = "eval",
	.run = run,
	.summary = "measure what policies keep and what that costs, on your prompts",
	.operands = "[POLICY[:KEY=VALUE,...]]...",
	.details = "Each prompt is run once with the full cache; each policy gets a copy, cuts it, and has\n"
		   "the full cache's own answer fed to it, token by token. KL is the divergence from the full\n"
		   "cache's predictions, in nats a token. A VALUE of several separated by | makes a policy\n"
		   "of each: snapkv:budget=10%|20%. A KEY with a dot is that of another section:\n"
		   "kvmod.store=q8_0. Without operands: the configured policy.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_JSON,
};
