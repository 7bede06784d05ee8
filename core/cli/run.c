/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod run: runs a model on prompts, with its cache compressed by the policy. */
#include "core/cli/run.h"

#include <stdlib.h>
#include <string.h>

/* --- all of it -------------------------------------------------------------------------- */

static int open_all(struct cli_run *r)
{
	struct kvmod_ctx *ctx = cli_context(&r->common);
	int err;

	if (!ctx)
		return CLI_FAILED;
	err = cli_model_open(&r->model, ctx);
	r->model.ctx = ctx;
	if (err)
		return err;
	r->sampler = cli_sampler_new(&r->sampling, r->model.about->n_vocab);
	r->logits = malloc(r->model.about->n_vocab * sizeof(*r->logits));
	if (!r->sampler || !r->logits)
		return cli_error("out of memory");
	if (kvmod_sequence_open(r->model.session, &r->sequence))
		return cli_error_kvmod();
	return CLI_OK;
}

static void close_all(struct cli_run *r)
{
	struct kvmod_ctx *ctx = r->model.ctx;

	cli_release_interrupt();
	cli_rival_close(&r->rival);
	if (r->sequence)
		kvmod_sequence_close(r->sequence);
	free(r->logits);
	cli_tokens_free(&r->seen);
	cli_sampler_free(r->sampler);
	cli_model_close(&r->model);
	if (ctx)
		kvmod_unref(ctx);
}

static int read_system(struct cli_run *r)
{
	int err = r->system ? cli_read_system(&r->system_text, r->system) : CLI_OK;

	if (r->system)
		r->system = r->system_text.bytes;
	return err;
}

static int answer_prompt(struct cli_run *r, int argc, char **argv)
{
	bool ask = argc || r->file || !r->interactive;
	struct cli_text text = { 0 };
	int err = ask ? cli_read_prompt(&text, r->file, r->raw, argc, argv) : CLI_OK;

	if (!err)
		err = read_system(r);
	if (!err)
		err = open_all(r);
	if (!err && ask) {
		cli_catch_interrupt(&r->model);
		err = cli_take_turn(r, &text);
	}
	if (!err && r->interactive)
		err = cli_converse(r);
	cli_text_free(&text);
	return err;
}

static int answer_questions(struct cli_run *r, int argc, char **argv)
{
	struct cli_about about = { .n_questions = 0 };
	int err = cli_read_about(r, argc, argv, &about);

	if (!err)
		err = read_system(r);
	if (!err)
		err = open_all(r);
	if (!err)
		err = cli_ask_about(r, &about);
	cli_about_free(&about);
	return err;
}

static void check_options(const struct cli_run *r, int n_operands)
{
	const struct cli_sampling *s = &r->sampling;

	if (s->temperature < 0)
		cli_usage_error(r->self, "--temperature=%g: expected 0 or more", s->temperature);
	if (s->top_p <= 0 || s->top_p > 1)
		cli_usage_error(r->self, "--top-p=%g: expected a number above 0 and at most 1", s->top_p);
	if (s->min_p < 0 || s->min_p > 1)
		cli_usage_error(r->self, "--min-p=%g: expected 0 to 1", s->min_p);
	if (r->raw && r->system)
		cli_usage_error(r->self, "--system cannot be combined with --raw, which runs the text as it is");
	if (r->interactive && (r->common.json || r->compare))
		cli_usage_error(r->self, "-i cannot be combined with --json or --compare");
	if (r->positions && !r->common.json)
		cli_usage_error(r->self, "--positions needs --json, to whose object it adds");
	if (r->interactive && r->file && cli_is_stdin(r->file))
		cli_usage_error(r->self, "-i cannot be combined with -f -: both read stdin");
	if (r->context_file && r->file)
		cli_usage_error(r->self, "--context cannot be combined with -f: questions are operands or lines of stdin");
	if (r->context_file && cli_is_stdin(r->context_file) && (r->interactive || !n_operands))
		cli_usage_error(r->self, "--context=- reads stdin: expected questions as operands, and no -i");
	if (!r->limit)
		cli_usage_error(r->self, "--tokens=0: expected 1 or more");
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_run r = {
		.self = self,
		.limit = UINT64_MAX,
		.sampling = { .top_p = 1 },
		.pending = -1,
	};
	const struct cli_option options[] = {
		{ "context", 0, CLI_STRING, &r.context_file, "FILE", "compress FILE first; each operand is then a question about it" },
		{ "file", 'f', CLI_STRING, &r.file, "FILE", "read the prompt from FILE; - is stdin" },
		{ "interactive", 'i', CLI_FLAG, &r.interactive, NULL, "hold a conversation: each line of stdin is a prompt" },
		{ "tokens", 'n', CLI_NUMBER, &r.limit, "N", "generate at most N tokens [512]" },
		{ "system", 0, CLI_STRING, &r.system, "TEXT", "use this system message instead of the model's own" },
		{ "raw", 0, CLI_FLAG, &r.raw, NULL, "run the text as it is, without the chat template" },
		{ "compare", 0, CLI_FLAG, &r.compare, NULL, "compare with the full cache after each token" },
		{ "positions", 0, CLI_FLAG, &r.positions, NULL, "with --json: each token's text, and the share of KV heads that keep it" },
		{ "temperature", 0, CLI_REAL, &r.sampling.temperature, "T", "sample at temperature T [0: take the likeliest token]" },
		{ "top-k", 0, CLI_NUMBER, &r.sampling.top_k, "K", "sample from the K likeliest tokens [0: all]" },
		{ "top-p", 0, CLI_REAL, &r.sampling.top_p, "P", "sample from the fewest tokens that sum to P [1: all]" },
		{ "min-p", 0, CLI_REAL, &r.sampling.min_p, "P", "drop tokens below P times the best probability [0]" },
		{ "seed", 0, CLI_NUMBER, &r.sampling.seed, "N", "seed of the sampler: same seed, same answer [0]" },
		{ 0 }
	};
	int first = cli_parse(self, &r.common, options, argc, argv), err;

	argc -= first;
	argv += first;
	check_options(&r, argc);
	err = r.context_file ? answer_questions(&r, argc, argv) : answer_prompt(&r, argc, argv);
	close_all(&r);
	cli_text_free(&r.system_text);
	return err;
}

const struct cli_command cli_run = {
	.name = "run",
	.run = run,
	.summary = "run a model, with its cache compressed by a policy",
	.operands = "[PROMPT|QUESTION]...",
	.details =
"The prompt is the operands, joined with spaces, or the text of -f FILE, or both: the\n"
"file first, then a blank line. Without either it is stdin. The last newline of a file\n"
"or of stdin is dropped, and CR LF is read as LF. With --raw the text stays as it is,\n"
"and special tokens in it (\"<|im_end|>\") count as such. A byte order mark at the start\n"
"of a text is always dropped.\n"
"\n"
"With --context the text of FILE is run and compressed before any question is known. Each\n"
"operand is then a question of its own about it; without operands, each line of stdin is\n"
"one. -i asks them in one conversation.\n"
"\n"
"The answer goes to stdout, all figures to stderr. Ctrl-C ends the answer; a second\n"
"Ctrl-C ends the program.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
