/* SPDX-License-Identifier: Apache-2.0 */
/* One turn of a run: a prompt or a question, its answer, the comparison and the report. */
#include "core/cli/run.h"
#include "core/base/names.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_LIMIT	512
#define REPLAY_ROWS	32	/* as the policies measure it */

static int make_tokens(struct cli_run *r, const struct cli_text *text, struct cli_tokens *tokens)
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
	return cli_add_chat(&r->model, first ? r->system : NULL, text->bytes, first,
			    r->is_open ? KVMOD_CHAT_QUESTION : KVMOD_CHAT_WHOLE, tokens);
}

static bool may_overflow(struct cli_run *r)
{
	char section[128];
	const char *value;
	int32_t yes;

	snprintf(section, sizeof(section), "engine %s", r->model.ops->name);
	value = kvmod_config_get(r->model.ctx, section, "context_override");
	return value && kv_parse_bool(value, &yes) && yes;
}

/*
 * Does the engine close the gaps that the policy cuts, after the prompt or while decoding?
 * Then how much room there is for the answer shows only after the cuts.
 */
static bool makes_room(const struct cli_run *r, uint64_t limit)
{
	bool cuts_prompt = !r->context && limit < r->model.about->context;

	return kvmod_policy_ops(r->model.policy)->flags & KVMOD_POLICY_CLOSES_GAPS &&
	       r->model.ops->flags & KVMOD_ENGINE_CLOSES_GAPS &&
	       (kvmod_policy_needs(r->model.policy)->decode_every || cuts_prompt);
}

static bool can_overflow(const struct kvmod_engine_ops *ops)
{
	for (uint32_t i = 0; i < ops->n_params; i++)
		if (kv_name_eq(ops->params[i].name, "context_override"))
			return true;
	return false;
}

/* Advice at the end of the context, once in a conversation: errors say what does not fit. */
static void say_full(struct cli_run *r)
{
	if (!r->interactive || r->said_full || kvmod_sequence_length(r->sequence) == 0)
		return;
	r->said_full = true;
	fprintf(stderr, "kvmod: the conversation fills the context of %llu tokens: start a new one",
		(unsigned long long)r->model.about->context);
	if (r->model.ops->flags & KVMOD_ENGINE_CLOSES_GAPS)
		fputs(", or drop the oldest tokens: kvmod run -i --policy streamingllm", stderr);
	else if (can_overflow(r->model.ops))
		fprintf(stderr, ", or drop the oldest tokens: kvmod run -i --policy streamingllm "
			"-o 'engine %s.context_override=yes'", r->model.ops->name);
	fputc('\n', stderr);
}

/* How long an answer may be. */
struct limits {
	uint64_t tokens;
	uint64_t room;			/* tokens that the context has room for after the prompt */
	bool by_context;		/* the context sets the limit */
};

/*
 * An answer as long as -n says must fit; the default length shrinks to the room that
 * there is. The last token is not run and needs no room.
 */
static int limit_answer(struct cli_run *r, uint64_t n_prompt, struct limits *limits)
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
		cli_error("%llu tokens of prompt and %llu of answer exceed the context of %llu",
			  (unsigned long long)used, (unsigned long long)r->limit,
			  (unsigned long long)context);
		say_full(r);
		return CLI_FAILED;
	}
	limits->tokens = limits->room + 1;
	limits->by_context = true;
	return CLI_OK;
}

/* The last progress call comes after the prompt was run and before anything is cut. */
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

static int stopped(const char *what)
{
	return cli_error("stopped before the %s was done", what);
}

int cli_run_prompt(struct cli_run *r, const struct cli_tokens *tokens, const char *what,
		   uint32_t flags, struct cli_turn *turn)
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
		.n_opening = tokens->n_opening,
		.flags = flags,
	};
	int err;

	if (cli_interrupted())
		return stopped(what);
	cli_progress_begin(&w.progress, "prefill", tokens->n);
	turn->prompted.size = sizeof(turn->prompted);
	err = kvmod_sequence_prompt(r->sequence, &prompt, &turn->prompted);
	cli_progress_end(&w.progress);
	if (err == KVMOD_ECANCELED)
		return stopped(what);
	if (err) {
		cli_error_kvmod();
		if (err == KVMOD_ERANGE)
			say_full(r);
		return CLI_FAILED;
	}
	turn->resident_after = cli_resident();
	turn->prompt_tokens = tokens->n;
	r->pending = -1;
	r->is_open = false;
	return r->positions ? cli_note_positions(r, tokens, turn) : CLI_OK;
}

static int answer(struct cli_run *r, const struct limits *limits, struct cli_turn *turn)
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

static int compare(struct cli_run *r, struct kvmod_sequence *copy, const struct cli_tokens *tokens,
		   const struct limits *limits, struct cli_turn *turn)
{
	int err = r->rival.session ? CLI_OK : cli_rival_open(&r->model, &r->rival);

	if (err)
		return err;
	err = cli_compare(&r->model, &r->rival, copy, tokens, limits->tokens, limits->room,
			  &turn->comparison);
	turn->compared = !err;
	return cli_interrupted() ? CLI_OK : err;
}

static int answer_and_compare(struct cli_run *r, const struct cli_tokens *tokens,
			      const struct limits *limits, struct cli_turn *turn)
{
	struct kvmod_sequence *copy = NULL;
	int err;

	if (r->compare && kvmod_sequence_fork(r->sequence, &copy))
		return cli_error_kvmod();
	err = answer(r, limits, turn);
	if (!err && copy && !cli_interrupted())
		err = compare(r, copy, tokens, limits, turn);
	if (copy)
		kvmod_sequence_close(copy);
	return err;
}

/* In one line, as head(1) and tail(1) name their files. */
static void name_question(struct cli_run *r, const struct cli_text *text)
{
	const char *line = cli_show(text->bytes);
	size_t n = strlen(line);

	if (!r->named || r->common.json)
		return;
	while (n && line[n - 1] == ' ')
		n--;
	printf("%s==> %.*s <==\n", r->n_named++ ? "\n" : "", (int)n, line);
}

/* An answer that Ctrl-C ended is reported like any other. */
static int report(struct cli_run *r, const struct cli_text *text, const struct cli_turn *turn)
{
	if (r->common.json)
		return cli_report_json(&r->model, r->sequence, turn, r->context, text);
	cli_report(&r->model, r->sequence, turn, r->context);
	return CLI_OK;
}

int cli_take_turn(struct cli_run *r, const struct cli_text *text)
{
	struct cli_turn turn = { .answer.pending = -1 };
	struct cli_tokens tokens = { 0 };
	struct limits limits;
	int err;

	err = make_tokens(r, text, &tokens);
	if (!err)
		err = limit_answer(r, tokens.n, &limits);
	if (!err)
		err = cli_run_prompt(r, &tokens, r->context ? "question" : "prompt",
				     r->context ? KVMOD_PROMPT_KEEP : 0, &turn);
	if (!err) {
		name_question(r, text);
		err = answer_and_compare(r, &tokens, &limits, &turn);
	}
	if (!err)
		err = report(r, text, &turn);
	if (!err && limits.by_context && turn.answer.n_tokens == limits.tokens)
		say_full(r);
	if (!err && cli_interrupted() && !r->interactive)
		err = cli_error("stopped on request");
	cli_text_free(&turn.answer.text);
	cli_text_free(&turn.comparison.text);
	free(turn.shares);
	cli_tokens_free(&tokens);
	return err;
}
