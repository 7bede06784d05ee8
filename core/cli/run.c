/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod run: ask a model, its cache compressed by the configured policy. */
#include "core/cli/run.h"
#include "core/base/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_LIMIT	512
#define REPLAY_ROWS	32	/* as the policies measure it */

struct run {
	const struct cli_command *self;
	struct cli_common common;
	const char *file, *system;
	struct cli_text system_text;	/* what `system` points to from then on */
	bool interactive, raw, compare;
	bool said_full;			/* what can be done at the end of the context */
	uint64_t limit;			/* -n; UINT64_MAX: not given */
	struct cli_sampling sampling;

	struct cli_model model;
	struct kvmod_sequence *sequence;
	struct cli_sampler *sampler;
	float *logits;
	int32_t pending;		/* of the last answer, not in the cache yet; or -1 */
};

/* --- one turn ---------------------------------------------------------------------- */

static int make_tokens(struct run *r, const struct cli_text *text, struct cli_tokens *tokens)
{
	bool first = !kvmod_sequence_length(r->sequence);

	if (r->pending >= 0) {
		tokens->ids = malloc(sizeof(*tokens->ids));
		if (!tokens->ids)
			return cli_error("out of memory");
		tokens->ids[tokens->n++] = r->pending;
	}
	if (r->raw)
		return cli_add_raw(&r->model, text, first, tokens);
	return cli_add_chat(&r->model, first ? r->system : NULL, text->bytes, first, tokens);
}

static bool may_overflow(struct run *r)
{
	char section[128];
	const char *value;
	int32_t yes;

	snprintf(section, sizeof(section), "engine %s", r->model.ops->name);
	value = kvmod_config_get(r->model.ctx, section, "context_override");
	return value && kv_parse_bool(value, &yes) && yes;
}

/*
 * The engine closes the gaps that the policy cuts: after the prompt, and perhaps while the
 * answer grows. What room that makes shows when it is done.
 */
static bool makes_room(const struct run *r, uint64_t limit)
{
	return kvmod_policy_ops(r->model.policy)->flags & KVMOD_POLICY_CLOSES_GAPS &&
	       r->model.ops->flags & KVMOD_ENGINE_CLOSES_GAPS &&
	       (kvmod_policy_needs(r->model.policy)->decode_every || limit < r->model.about->context);
}

static bool can_overflow(const struct kvmod_engine_ops *ops)
{
	for (uint32_t i = 0; i < ops->n_params; i++)
		if (kv_name_eq(KVMOD_AT(const struct kvmod_param, ops->params, ops->param_stride, i)->name,
			       "context_override"))
			return true;
	return false;
}

/* Of a conversation, once: the errors say what does not fit, this what can be done. */
static void say_full(struct run *r)
{
	if (!r->interactive || r->said_full || kvmod_sequence_length(r->sequence) == 0)
		return;
	r->said_full = true;
	fprintf(stderr, "kvmod: the conversation is at the end of the context of %llu tokens: begin a new one",
		(unsigned long long)r->model.about->context);
	if (r->model.ops->flags & KVMOD_ENGINE_CLOSES_GAPS)
		fputs(", or let the oldest go: kvmod run -i --policy streamingllm", stderr);
	else if (can_overflow(r->model.ops))
		fprintf(stderr, ", or let the oldest go: kvmod run -i --policy streamingllm "
			"-o 'engine %s.context_override=yes'", r->model.ops->name);
	fputc('\n', stderr);
}

/* Of an answer. */
struct limits {
	uint64_t tokens;
	uint64_t room;			/* tokens that the context has room for after the prompt */
	bool by_context;		/* it is the context that sets the limit */
};

/*
 * What -n asks for must fit; what is only our default takes what room there is. The
 * last token is not run, and needs none.
 */
static int limit_answer(struct run *r, uint64_t n_prompt, struct limits *limits)
{
	uint64_t context = r->model.about->context, left = kvmod_sequence_room(r->sequence);
	uint64_t used = (left < context ? context - left : 0) + n_prompt;

	*limits = (struct limits){ .room = UINT64_MAX };
	limits->tokens = r->limit == UINT64_MAX ? DEFAULT_LIMIT : r->limit;
	if (used > context || may_overflow(r) || (!r->compare && makes_room(r, limits->tokens)))
		return CLI_OK;
	limits->room = context - used;
	if (limits->tokens <= limits->room + 1)
		return CLI_OK;
	if (r->limit != UINT64_MAX) {
		cli_error("%llu tokens of prompt and %llu of answer do not fit the context of %llu",
			  (unsigned long long)used, (unsigned long long)r->limit,
			  (unsigned long long)context);
		say_full(r);
		return CLI_FAILED;
	}
	limits->tokens = limits->room + 1;
	limits->by_context = true;
	return CLI_OK;
}

/* The last call comes when the prompt has been run and nothing is cut yet. */
struct watch {
	struct cli_progress progress;
	struct cli_turn *turn;
};

static void watch(void *arg, uint64_t done)
{
	struct watch *w = arg;

	cli_progress_or_stop(&w->progress, done);
	if (done >= w->progress.total)
		w->turn->resident_before = cli_resident();
}

static int run_prompt(struct run *r, const struct cli_tokens *tokens, struct cli_turn *turn)
{
	struct watch w = { .turn = turn };
	struct kvmod_prompt prompt = {
		.size = sizeof(prompt),
		.replay_rows = r->common.json ? 0 : REPLAY_ROWS,
		.tokens = tokens->ids,
		.n_tokens = tokens->n,
		.logits = r->logits,
		.progress = watch,
		.progress_arg = &w,
	};
	int err;

	if (cli_interrupted())
		return cli_error("stopped before the prompt was done");
	cli_progress_begin(&w.progress, "prefill", tokens->n);
	turn->prompted.size = sizeof(turn->prompted);
	err = kvmod_sequence_prompt(r->sequence, &prompt, &turn->prompted);
	cli_progress_end(&w.progress);
	if (err == KVMOD_ECANCELED)
		return cli_error("stopped before the prompt was done");
	if (err) {
		cli_error_kvmod();
		if (err == KVMOD_ERANGE)
			say_full(r);
		return CLI_FAILED;
	}
	turn->resident_after = cli_resident();
	turn->prompt_tokens = tokens->n;
	r->pending = -1;
	return CLI_OK;
}

static int answer(struct run *r, const struct limits *limits, struct cli_turn *turn)
{
	const struct cli_generate g = {
		.model = &r->model,
		.sequence = r->sequence,
		.sampler = r->sampler,
		.limit = limits->tokens,
		.may_end = r->limit == UINT64_MAX && !may_overflow(r),
		.show = !r->common.json,
	};
	int err = cli_generate(&g, r->logits, &turn->answer);

	r->pending = turn->answer.pending;
	return err;
}

static int answer_and_compare(struct run *r, const struct cli_tokens *tokens,
			      const struct limits *limits, struct cli_turn *turn)
{
	struct kvmod_sequence *copy = NULL;
	int err;

	if (r->compare && kvmod_sequence_fork(r->sequence, &copy))
		return cli_error_kvmod();
	err = answer(r, limits, turn);
	if (!err && copy && !cli_interrupted()) {
		err = cli_compare(&r->model, copy, tokens, limits->tokens, limits->room,
				  &turn->comparison);
		turn->compared = !err;
		if (cli_interrupted())
			err = CLI_OK;
	}
	if (copy)
		kvmod_sequence_close(copy);
	return err;
}

/* An answer that Ctrl-C cut short is shown like any other. */
static int report(struct run *r, const struct cli_turn *turn)
{
	if (r->common.json)
		return cli_report_json(&r->model, r->sequence, turn);
	cli_report(&r->model, r->sequence, turn);
	return CLI_OK;
}

static int take_turn(struct run *r, const struct cli_text *text)
{
	struct cli_turn turn = { .answer.pending = -1 };
	struct cli_tokens tokens = { 0 };
	struct limits limits;
	int err;

	cli_catch_interrupt(&r->model);
	err = make_tokens(r, text, &tokens);
	if (!err)
		err = limit_answer(r, tokens.n, &limits);
	if (!err)
		err = run_prompt(r, &tokens, &turn);
	if (!err)
		err = answer_and_compare(r, &tokens, &limits, &turn);
	if (!err)
		err = report(r, &turn);
	if (!err && limits.by_context && turn.answer.n_tokens == limits.tokens)
		say_full(r);
	if (!err && cli_interrupted() && !r->interactive)
		err = cli_error("stopped on request");
	cli_text_free(&turn.answer.text);
	cli_text_free(&turn.comparison.text);
	cli_tokens_free(&tokens);
	return err;
}

/* --- a conversation ------------------------------------------------------------------- */

/* Lines that begin with '/' are for us. */
static bool is_command(const char *line, bool *quit)
{
	size_t n = strlen(line);

	if (*line != '/')
		return false;
	/* With --raw, and on a line of another system, its end is still there. */
	while (strchr(" \t\r\n", line[n - 1]))
		n--;
	*quit = n == 5 && !memcmp(line, "/quit", n);
	if (n == 5 && !memcmp(line, "/help", n))
		fputs("/quit or Ctrl-D ends the conversation, Ctrl-C an answer\n", stderr);
	else if (!*quit)
		cli_error("no command `%.*s`; there are /help and /quit", (int)n, line);
	return true;
}

/* False at the end of stdin. */
static bool read_line(struct run *r, struct cli_text *text)
{
	ssize_t n;

	if (isatty(STDIN_FILENO) && isatty(STDERR_FILENO))
		fputs("> ", stderr);
	errno = 0;
	n = getline(&text->bytes, &text->room, stdin);
	if (n < 0 && errno == ENOMEM)
		cli_no_memory();
	if (n < 0)
		return false;
	text->n = (size_t)n;
	cli_clean_line(text, r->raw);
	return true;
}

static int converse(struct run *r)
{
	struct cli_text line = { 0 };
	bool quit = false;
	int err = CLI_OK;

	while (!quit && read_line(r, &line)) {
		if (strspn(line.bytes, " \t\r\n") == line.n || is_command(line.bytes, &quit))
			continue;
		if (cli_check_prompt(&line, "stdin") || take_turn(r, &line))
			err = CLI_FAILED;
		if (cli_stdout_broken())
			break;
	}
	cli_text_free(&line);
	return err;
}

/* --- all of it -------------------------------------------------------------------------- */

static int open_all(struct run *r)
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

static void close_all(struct run *r)
{
	struct kvmod_ctx *ctx = r->model.ctx;

	cli_release_interrupt();
	if (r->sequence)
		kvmod_sequence_close(r->sequence);
	free(r->logits);
	cli_sampler_free(r->sampler);
	cli_model_close(&r->model);
	if (ctx)
		kvmod_unref(ctx);
}

static int run_all(struct run *r, int argc, char **argv)
{
	bool ask = argc || r->file || !r->interactive;
	struct cli_text text = { 0 };
	int err = ask ? cli_read_prompt(&text, r->file, r->raw, argc, argv) : CLI_OK;

	if (!err && r->system) {
		err = cli_read_system(&r->system_text, r->system);
		r->system = r->system_text.bytes;
	}
	if (!err)
		err = open_all(r);
	if (!err && ask)
		err = take_turn(r, &text);
	if (!err && r->interactive)
		err = converse(r);
	close_all(r);
	cli_text_free(&r->system_text);
	cli_text_free(&text);
	return err;
}

static void check_options(const struct run *r)
{
	const struct cli_sampling *s = &r->sampling;

	if (s->temperature < 0)
		cli_usage_error(r->self, "--temperature=%g: 0 or more was expected", s->temperature);
	if (s->top_p <= 0 || s->top_p > 1)
		cli_usage_error(r->self, "--top-p=%g: above 0 and at most 1 was expected", s->top_p);
	if (s->min_p < 0 || s->min_p > 1)
		cli_usage_error(r->self, "--min-p=%g: 0 to 1 was expected", s->min_p);
	if (r->raw && r->system)
		cli_usage_error(r->self, "--raw runs the text as it is: it has no --system");
	if (r->interactive && (r->common.json || r->compare))
		cli_usage_error(r->self, "-i goes with neither --json nor --compare");
	if (r->interactive && r->file && !strcmp(r->file, "-"))
		cli_usage_error(r->self, "-i reads stdin itself: not with -f -");
	if (!r->limit)
		cli_usage_error(r->self, "-n 0: an answer has at least one token");
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct run r = {
		.self = self,
		.limit = UINT64_MAX,
		.sampling = { .top_p = 1 },
		.pending = -1,
	};
	const struct cli_option options[] = {
		{ "file", 'f', CLI_STRING, &r.file, "FILE", "the prompt's text from FILE; - is stdin" },
		{ "interactive", 'i', CLI_FLAG, &r.interactive, NULL, "a conversation: a line of stdin is a prompt" },
		{ "tokens", 'n', CLI_NUMBER, &r.limit, "N", "at most N tokens of answer [512]" },
		{ "system", 0, CLI_STRING, &r.system, "TEXT", "the system message, not the model's own" },
		{ "raw", 0, CLI_FLAG, &r.raw, NULL, "run the text as it is, without the chat template" },
		{ "compare", 0, CLI_FLAG, &r.compare, NULL, "compare with the full cache, token by token" },
		{ "temperature", 0, CLI_REAL, &r.sampling.temperature, "T", "sample at temperature T [0: the likeliest token]" },
		{ "top-k", 0, CLI_NUMBER, &r.sampling.top_k, "K", "from the K likeliest only [0: all]" },
		{ "top-p", 0, CLI_REAL, &r.sampling.top_p, "P", "from the fewest that sum to P [1: all]" },
		{ "min-p", 0, CLI_REAL, &r.sampling.min_p, "P", "from those with P times the best's probability [0: all]" },
		{ "seed", 0, CLI_NUMBER, &r.sampling.seed, "N", "of the sampler: same seed, same answer [0]" },
		{ 0 }
	};
	int first = cli_parse(self, &r.common, options, argc, argv);

	check_options(&r);
	return run_all(&r, argc - first, argv + first);
}

const struct cli_command cli_run = {
	.name = "run",
	.run = run,
	.summary = "ask a model, its cache compressed by the policy",
	.operands = "[PROMPT]...",
	.details =
"The prompt is the operands, with spaces between; or the text of -f FILE; or both,\n"
"the file first, a blank line between; or else stdin. The last newline of a file or\n"
"of stdin is dropped, and CR LF is read as LF. With --raw nothing of that is done,\n"
"and special tokens (\"<|im_end|>\") in the text count as such. A byte order mark at\n"
"the front of a text is never part of it.\n"
"\n"
"The answer goes to stdout, all figures to stderr. Ctrl-C ends the answer, a second\n"
"one the program.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
