/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run --context: the context is run and cut before any question is known. Then each
 * question is asked of a copy of what was kept, or all of them in one conversation.
 */
#include "core/cli/run.h"

#include <stdlib.h>
#include <unistd.h>

/* --- what to read ----------------------------------------------------------------- */

int cli_read_about(const struct cli_run *r, int argc, char **argv, struct cli_about *about)
{
	int err = cli_read_context(&about->context, r->context_file, r->raw);

	about->questions = calloc((size_t)argc + 1, sizeof(*about->questions));
	if (!err && !about->questions)
		err = cli_error("out of memory");
	for (int i = 0; i < argc && !err; i++) {
		err = cli_read_question(&about->questions[i], argv[i], r->raw, i + 1);
		about->n_questions++;
	}
	return err;
}

void cli_about_free(struct cli_about *about)
{
	for (size_t i = 0; i < about->n_questions; i++)
		cli_text_free(&about->questions[i]);
	free(about->questions);
	cli_text_free(&about->context);
}

/* --- the context ------------------------------------------------------------------ */

/* With --compare the full cache of the context is made once, for all questions. */
static int run_rival(struct cli_run *r, const struct cli_tokens *tokens)
{
	int err = cli_rival_open(&r->model, &r->rival);

	if (err)
		return err;
	err = cli_rival_context(&r->rival, tokens);
	return err && cli_interrupted() ? cli_error("stopped before the context was done") : err;
}

static int run_context(struct cli_run *r, const struct cli_text *text,
		       struct cli_context_first *context)
{
	struct cli_tokens tokens = { 0 };
	int err;

	if (r->raw)
		err = cli_add_raw(&r->model, text, true, &tokens);
	else
		err = cli_add_chat(&r->model, r->system, text->bytes, true, KVMOD_CHAT_CONTEXT, &tokens);
	if (!err)
		err = cli_run_prompt(r, &tokens, "context", KVMOD_PROMPT_CONTEXT, &context->turn);
	if (!err && r->compare)
		err = run_rival(r, &tokens);
	cli_tokens_free(&tokens);
	if (err)
		return err;
	context->sequence = r->sequence;
	r->context = context;
	r->is_open = true;
	if (!r->common.json)
		cli_report_context(&r->model, context);
	return CLI_OK;
}

/* --- questions -------------------------------------------------------------------- */

/* Each is the first one, and its answer stays unknown to the others. */
static int ask(struct cli_run *r, const struct cli_text *question)
{
	struct kvmod_sequence *copy;
	size_t n_seen = r->seen.n;
	int err;

	if (kvmod_sequence_fork(r->context->sequence, &copy))
		return cli_error_kvmod();
	r->sequence = copy;
	r->is_open = true;
	r->pending = -1;
	cli_sampler_restart(r->sampler);
	err = cli_take_turn(r, question);
	kvmod_sequence_close(copy);
	r->sequence = r->context->sequence;
	r->seen.n = n_seen;
	return err;
}

static int ask_all(struct cli_run *r, const struct cli_about *about)
{
	int err = CLI_OK;

	r->named = about->n_questions > 1;
	for (size_t i = 0; i < about->n_questions && !cli_interrupted() && !cli_stdout_broken(); i++)
		if (ask(r, &about->questions[i]))
			err = CLI_FAILED;
	return err;
}

/* On a terminal the question stands above its answer already. */
static int ask_lines(struct cli_run *r)
{
	struct cli_text line = { 0 };
	uint64_t n = 0;
	int err = CLI_OK;

	r->named = !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO);
	while (!cli_interrupted() && !cli_stdout_broken() && cli_read_line(r, &line)) {
		if (cli_is_blank(&line))
			continue;
		n++;
		if (cli_check_prompt(&line, "stdin") || ask(r, &line))
			err = CLI_FAILED;
	}
	cli_text_free(&line);
	if (!err && cli_interrupted())	/* between two questions */
		return cli_error("stopped on request");
	return n ? err : cli_error("no question: expected operands or lines of stdin");
}

static int converse(struct cli_run *r, const struct cli_about *about)
{
	int err = CLI_OK;

	for (size_t i = 0; i < about->n_questions && !cli_stdout_broken(); i++) {
		cli_catch_interrupt(&r->model);
		if (cli_take_turn(r, &about->questions[i]))
			err = CLI_FAILED;
	}
	return cli_converse(r) || err ? CLI_FAILED : CLI_OK;
}

int cli_ask_about(struct cli_run *r, const struct cli_about *about)
{
	struct cli_context_first context = { 0 };
	int err;

	cli_catch_interrupt(&r->model);
	err = run_context(r, &about->context, &context);
	if (!err && r->interactive)
		err = converse(r, about);
	else if (!err)
		err = about->n_questions ? ask_all(r, about) : ask_lines(r);
	free(context.turn.shares);
	return err;
}
