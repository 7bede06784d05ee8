/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a prompt once, and measures what each case makes of it. */
#include "core/eval/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- sessions that collect --------------------------------------------------------------- */

static int add_base(struct eval_bench *bench)
{
	struct kvmod_session **grown =
		realloc(bench->bases, (bench->n_bases + 1) * sizeof(*grown));

	if (!grown)
		cli_no_memory();
	bench->bases = grown;
	if (kvmod_session_open(bench->model.engine, NULL, &bench->bases[bench->n_bases]))
		return cli_error_kvmod();
	bench->n_bases++;
	return CLI_OK;
}

/* In the first session that can collect it beside the rest; the last one is a new one. */
static int find_base(struct eval_bench *bench, const struct eval_case *c, size_t *base)
{
	int err = KVMOD_ENOTSUP;

	for (*base = 0; *base < bench->n_bases; ++*base) {
		err = kvmod_session_collect(bench->bases[*base], c->handle);
		if (err != KVMOD_ENOTSUP)
			break;
	}
	if (*base == bench->n_bases) {
		if (add_base(bench))
			return CLI_FAILED;
		err = kvmod_session_collect(bench->bases[*base], c->handle);
	}
	return err ? cli_error("%s: %s", cli_show(c->name), kvmod_error()) : CLI_OK;
}

int eval_bench_open(struct eval_bench *bench, const struct eval_cases *cases)
{
	int err = add_base(bench);

	bench->base_of = cli_alloc((cases->n + 1) * sizeof(*bench->base_of));
	for (size_t i = 0; i < cases->n && !err; i++)
		err = find_base(bench, &cases->item[i], &bench->base_of[i]);
	return err;
}

void eval_bench_close(struct eval_bench *bench)
{
	for (size_t i = 0; i < bench->n_bases; i++)
		kvmod_session_close(bench->bases[i]);
	free(bench->bases);
	free(bench->base_of);
	bench->bases = NULL;
	bench->base_of = NULL;
	bench->n_bases = 0;
}

/* --- steps ------------------------------------------------------------------------------- */

static int decode(struct kvmod_session *session, struct kvmod_sequence *sequence, int32_t token,
		  float *logits, double *spent, uint64_t *n)
{
	double begin = cli_now();

	if (cli_interrupted() || kvmod_session_decode(session, &sequence, &token, &logits, 1))
		return cli_error_unless_stopped();
	*spent += cli_now() - begin;
	++*n;
	return CLI_OK;
}

static int run(struct kvmod_sequence *sequence, const struct cli_tokens *tokens, uint32_t flags,
	       float *logits, struct kvmod_prompted *out)
{
	struct kvmod_prompt prompt = {
		.size = sizeof(prompt), .tokens = tokens->ids, .n_tokens = tokens->n,
		.logits = logits, .n_opening = tokens->n_opening, .flags = flags,
	};

	*out = (struct kvmod_prompted){ .size = sizeof(*out) };
	if (cli_interrupted() || kvmod_sequence_prompt(sequence, &prompt, out))
		return cli_error_unless_stopped();
	return CLI_OK;
}

static int likeliest(const struct eval_bench *bench, const float *logits, int32_t *token)
{
	*token = cli_likeliest(logits, bench->model.about->n_vocab);
	return *token < 0 ? cli_error("the engine's logits are not finite numbers") : CLI_OK;
}

static bool is_end(const struct eval_bench *bench, int32_t token)
{
	return cli_is_end(bench->model.about, token);
}

static int add_text(const struct eval_bench *bench, struct cli_utf8_stream *stream, int32_t token,
		    struct cli_text *text)
{
	const struct cli_generate g = { .model = &bench->model };

	return cli_say(&g, stream, token, text);
}

static int end_text(struct cli_utf8_stream *stream, struct cli_text *text)
{
	return cli_utf8_end(stream, text) ? cli_error("out of memory") : CLI_OK;
}

/* --- the full cache ----------------------------------------------------------------------- */

static size_t logits_bytes(const struct eval_bench *bench)
{
	return bench->model.about->n_vocab * sizeof(float);
}

/* Runs the prompt in the session that collects, unless that was done. */
static int run_base(struct eval_bench *bench, const struct eval_tokens *tokens, size_t base,
		    struct eval_full *full)
{
	uint32_t flags = tokens->question.n ? KVMOD_PROMPT_CONTEXT : 0;
	struct kvmod_prompted out;
	int err;

	if (full->bases[base])
		return CLI_OK;
	if (kvmod_sequence_open(bench->bases[base], &full->bases[base]))
		return cli_error_kvmod();
	full->base_logits[base] = cli_alloc(logits_bytes(bench));
	err = run(full->bases[base], &tokens->prompt, flags, full->base_logits[base], &out);
	if (!err && base == 0) {
		full->prefill_seconds = out.prefill_seconds;
		full->bytes = out.after.used;
	}
	return err;
}

/* A copy for a session, after its policy's decision, with the question run: logits are its last. */
static int copy_for(struct eval_bench *bench, struct kvmod_session *session,
		    const struct eval_tokens *tokens, size_t base, struct eval_full *full,
		    struct kvmod_sequence **copy, float *logits, struct kvmod_prompted *out)
{
	struct kvmod_prompted question;
	int err = run_base(bench, tokens, base, full);

	if (err)
		return err;
	*out = (struct kvmod_prompted){ .size = sizeof(*out) };
	if (kvmod_sequence_fork_to(full->bases[base], session, 0, copy, out))
		return cli_error_unless_stopped();
	if (tokens->question.n)
		return run(*copy, &tokens->question, KVMOD_PROMPT_KEEP, logits, &question);
	memcpy(logits, full->base_logits[base], logits_bytes(bench));
	return CLI_OK;
}

static int answer_in_full(struct eval_bench *bench, struct kvmod_sequence *sequence, float *logits,
			  struct eval_full *full)
{
	uint64_t most = bench->n_forced > bench->n_answer ? bench->n_forced : bench->n_answer;
	struct cli_utf8_stream stream = { .n_held = 0 };
	uint32_t n_vocab = bench->model.about->n_vocab;
	int32_t token;

	while (full->n < most) {
		if (likeliest(bench, logits, &token))
			return CLI_FAILED;
		if (is_end(bench, token))
			break;
		full->tokens[full->n] = token;
		if (full->n++ < bench->n_answer && add_text(bench, &stream, token, &full->text))
			return CLI_FAILED;
		if (!kvmod_sequence_room(sequence))
			break;
		if (decode(bench->model.session, sequence, token, logits, &full->seconds, &full->n_decoded))
			return CLI_FAILED;
		if (full->n <= bench->n_forced) {
			memcpy(full->logits + (full->n - 1) * n_vocab, logits, logits_bytes(bench));
			full->n_forced = full->n;
		}
	}
	return end_text(&stream, &full->text);
}

int eval_full_run(struct eval_bench *bench, const struct eval_tokens *tokens, struct eval_full *full)
{
	uint64_t most = bench->n_forced > bench->n_answer ? bench->n_forced : bench->n_answer;
	float *logits = cli_alloc(logits_bytes(bench));
	struct kvmod_sequence *sequence = NULL;
	struct kvmod_prompted out;
	int err;

	*full = (struct eval_full){
		.bases = cli_alloc(bench->n_bases * sizeof(*full->bases)),
		.base_logits = cli_alloc(bench->n_bases * sizeof(*full->base_logits)),
		.tokens = cli_alloc((most + 1) * sizeof(*full->tokens)),
		.logits = cli_alloc((bench->n_forced + 1) * logits_bytes(bench)),
	};
	memset(full->bases, 0, bench->n_bases * sizeof(*full->bases));
	memset(full->base_logits, 0, bench->n_bases * sizeof(*full->base_logits));
	err = copy_for(bench, bench->model.session, tokens, 0, full, &sequence, logits, &out);
	if (!err)
		err = answer_in_full(bench, sequence, logits, full);
	kvmod_sequence_close(sequence);
	free(logits);
	return err;
}

void eval_full_free(struct eval_bench *bench, struct eval_full *full)
{
	for (size_t i = 0; i < bench->n_bases && full->bases; i++) {
		kvmod_sequence_close(full->bases[i]);
		free(full->base_logits[i]);
	}
	free(full->bases);
	free(full->base_logits);
	free(full->tokens);
	free(full->logits);
	cli_text_free(&full->text);
	*full = (struct eval_full){ 0 };
}

/* --- what collecting costs ------------------------------------------------------------------ */

/* Short prompts are noisy: the shortest time of a few runs. Long ones would take long. */
#define ENOUGH_SECONDS 1.0
#define MOST_RUNS 5
#define ENOUGH_TOKENS 2048

/* policy NULL: nothing is collected. */
static int time_prefill(struct eval_bench *bench, const struct kvmod_policy *policy,
			const struct eval_tokens *tokens, double *seconds)
{
	struct cli_tokens first = tokens->prompt;
	struct kvmod_session *session;
	double spent = 0;
	int err = CLI_OK;

	if (first.n > ENOUGH_TOKENS)
		first.n = ENOUGH_TOKENS;
	if (first.n_opening > first.n)
		first.n_opening = first.n;

	*seconds = INFINITY;
	if (kvmod_session_open(bench->model.engine, NULL, &session))
		return cli_error_kvmod();
	if (policy && kvmod_session_collect(session, policy))
		err = cli_error_kvmod();
	for (int i = 0; i < MOST_RUNS && spent < ENOUGH_SECONDS && !err; i++) {
		struct kvmod_sequence *sequence = NULL;
		struct kvmod_prompted out;

		err = kvmod_sequence_open(session, &sequence) ? cli_error_unless_stopped() :
								run(sequence, &first, 0, NULL, &out);
		kvmod_sequence_close(sequence);
		if (err)
			break;
		spent += out.prefill_seconds;
		*seconds = out.prefill_seconds < *seconds ? out.prefill_seconds : *seconds;
	}
	kvmod_session_close(session);
	return err;
}

static bool collects(const struct kvmod_needs *needs)
{
	const uint32_t rows = KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_ALL_LAYERS;

	return needs->what & ~rows || kvmod_needs_rows(needs, UINT32_MAX);
}

static bool same_needs(const struct kvmod_needs *a, const struct kvmod_needs *b)
{
	return a->what == b->what && a->rows.value == b->rows.value && a->rows.is_count == b->rows.is_count &&
	       a->min_rows == b->min_rows && a->q_stats_skip == b->q_stats_skip;
}

/* The first case with the same needs: they share a measurement. */
static size_t first_alike(const struct eval_cases *cases, size_t which)
{
	size_t i = 0;

	while (!same_needs(kvmod_policy_needs(cases->item[i].handle),
			   kvmod_policy_needs(cases->item[which].handle)))
		i++;
	return i;
}

/* Runs without and with take turns, for whatever else the machine does meanwhile. */
int eval_collect_ratios(struct eval_bench *bench, const struct eval_cases *cases,
			const struct eval_tokens *tokens, double *ratios)
{
	double least = INFINITY, plain;
	int err = CLI_OK;

	for (size_t i = 0; i < cases->n && !err; i++) {
		if (!collects(kvmod_policy_needs(cases->item[i].handle)) || first_alike(cases, i) < i)
			continue;
		err = time_prefill(bench, NULL, tokens, &plain);
		if (!err)
			err = time_prefill(bench, cases->item[i].handle, tokens, &ratios[i]);
		least = plain < least ? plain : least;
	}
	for (size_t i = cases->n; i-- > 0 && !err;)
		ratios[i] = collects(kvmod_policy_needs(cases->item[i].handle)) ?
				    ratios[first_alike(cases, i)] / least : 1;
	return err;
}

/* --- a case ------------------------------------------------------------------------------- */

struct trial {
	struct eval_bench *bench;
	const struct eval_full *full;
	struct kvmod_session *session;
	struct kvmod_sequence *sequence, *fresh;	/* fresh: as it was before any token of an answer */
	uint64_t before;		/* tokens before the answer */
	float *logits;
	int32_t first;			/* its own first token */
	uint64_t same;			/* how many of the tokens fed to it are its own first ones */
	int32_t other;			/* its own next one */
	struct eval_measured *out;
};

/* Feeds the full cache's answer, and compares the distributions after each token. */
static int force(struct trial *t)
{
	uint32_t n_vocab = t->bench->model.about->n_vocab;
	const struct eval_full *full = t->full;
	struct eval_measured *out = t->out;
	bool follows = full->n_forced && t->first == full->tokens[0];
	uint64_t agreed = 0;
	double sum = 0;

	t->other = t->first;
	for (uint64_t i = 0; i < full->n_forced; i++) {
		const float *whole = full->logits + i * n_vocab;
		int32_t own;
		double d;

		if (decode(t->session, t->sequence, full->tokens[i], t->logits, &out->decode_seconds,
			   &out->n_decoded) || likeliest(t->bench, t->logits, &own))
			return CLI_FAILED;
		d = cli_kl(whole, t->logits, n_vocab);
		sum += d;
		out->kl_max = d > out->kl_max ? d : out->kl_max;
		agreed += own == cli_likeliest(whole, n_vocab);
		if (!follows)
			continue;
		t->same = i + 1;
		t->other = own;
		follows = i + 1 < full->n_forced && own == full->tokens[i + 1];
	}
	out->n_forced = full->n_forced;
	out->kl_mean = full->n_forced ? sum / (double)full->n_forced : 0;
	out->agree = full->n_forced ? (double)agreed / (double)full->n_forced : 1;
	return CLI_OK;
}

/*
 * The case's own answer. As far as it is the full cache's, it was fed already, and the sequence
 * is taken back to where the two part. That is not so if the policy has cut since.
 */
static int answer(struct trial *t)
{
	struct cli_utf8_stream stream = { .n_held = 0 };
	uint64_t n = t->fresh ? 0 : t->same, limit = t->bench->n_answer;
	struct kvmod_sequence *sequence = t->fresh ? t->fresh : t->sequence;
	int32_t token = t->fresh ? t->first : t->other;

	for (uint64_t i = 0; i < n && i < limit; i++)
		if (add_text(t->bench, &stream, t->full->tokens[i], &t->out->text))
			return CLI_FAILED;
	if (!t->fresh && kvmod_sequence_truncate(sequence, t->before + n))
		return cli_error_unless_stopped();
	while (n < limit && !is_end(t->bench, token)) {
		if (add_text(t->bench, &stream, token, &t->out->text))
			return CLI_FAILED;
		if (++n == limit || !kvmod_sequence_room(sequence))
			break;
		if (decode(t->session, sequence, token, t->logits, &t->out->decode_seconds, &t->out->n_decoded) ||
		    likeliest(t->bench, t->logits, &token))
			return CLI_FAILED;
	}
	return end_text(&stream, &t->out->text);
}

static int measure(struct trial *t, bool cuts_again)
{
	int err = likeliest(t->bench, t->logits, &t->first);

	t->before = kvmod_sequence_length(t->sequence);
	if (!err && cuts_again && kvmod_sequence_fork(t->sequence, &t->fresh))
		err = cli_error_unless_stopped();
	if (!err)
		err = force(t);
	if (!err && t->bench->n_answer)
		err = answer(t);
	return err;
}

int eval_case_run(struct eval_bench *bench, const struct eval_cases *cases, size_t which,
		  const struct eval_tokens *tokens, struct eval_full *full, struct eval_measured *out)
{
	const struct eval_case *c = &cases->item[which];
	struct trial t = {
		.bench = bench, .full = full, .session = c->session, .out = out,
		.logits = cli_alloc(logits_bytes(bench)),
	};
	struct kvmod_prompted prompted;
	int err;

	*out = (struct eval_measured){ .status = KVMOD_OK };
	err = copy_for(bench, c->session, tokens, bench->base_of[which], full, &t.sequence, t.logits,
		       &prompted);
	if (!err) {
		out->status = prompted.status;
		out->budget = prompted.budget;
		out->bytes = prompted.after.used;
		out->bytes_full = prompted.after.full;
		out->decision_seconds = prompted.decision_seconds;
		out->apply_seconds = prompted.apply_seconds;
		err = measure(&t, kvmod_policy_needs(c->handle)->decode_every);
	}
	kvmod_sequence_close(t.fresh);
	kvmod_sequence_close(t.sequence);
	free(t.logits);
	return err;
}
