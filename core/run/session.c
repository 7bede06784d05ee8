/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: an engine and a policy at work together. Only this file knows the order
 * of the steps: collect, run, ask, check, cut.
 */
#include "core/modules/call.h"
#include "core/run/decide.h"
#include "core/run/request.h"
#include "core/run/session.h"
#include "core/toolkit/toolkit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int kvmod_session_open(struct kvmod_engine *engine, struct kvmod_policy *policy,
		       struct kvmod_session **out)
{
	struct kvmod_session *s;
	int err = kv_engine_can_cut(engine, policy);

	if (err != KVMOD_OK)
		return err;
	s = calloc(1, sizeof(*s));
	if (!s)
		return kv_fail(KVMOD_ENOMEM, "no memory for a session");
	s->engine = engine;
	s->ops = kvmod_engine_ops(engine);
	s->instance = kvmod_engine_instance(engine);
	s->model = kvmod_engine_model(engine);
	s->policy = policy;
	s->leave_below = kv_leave_below(kv_engine_ctx(engine));
	s->stores = kv_stores_of(engine);
	*out = s;
	return KVMOD_OK;
}

void kvmod_session_close(struct kvmod_session *s)
{
	if (s)
		kvmod_plan_free(s->plan);
	free(s);
}

static bool can_narrow(const struct kvmod_session *s)
{
	return KVMOD_HAS(s->ops, seq_narrow) && s->ops->seq_narrow;
}

int kvmod_session_collect(struct kvmod_session *s, const struct kvmod_policy *policy)
{
	const struct kvmod_needs *needs = kvmod_policy_needs(policy);
	struct kvmod_needs all = s->collects;
	int err = KVMOD_OK;

	if (s->policy)
		return kv_fail(KVMOD_EINVAL, "a session with a policy collects for that one only");
	if (!can_narrow(s))
		return kv_fail(KVMOD_ENOTSUP, "engine %s cannot collect for several policies at once",
			       s->ops->name);
	if (KVMOD_HAS(s->ops, serves) && s->ops->serves)
		err = KV_CALL_ENGINE(s->ops, serves, s->instance, needs);
	all.size = sizeof(all);
	if (err == KVMOD_OK)
		err = kv_needs_add(&all, needs);
	if (err == KVMOD_OK)
		s->collects = all;
	return err;
}

/* --- sequences ------------------------------------------------------------------ */

static void free_sequence(struct kvmod_sequence *q)
{
	free(q->kept);
	free(q);
}

/* Frees everything except the engine's seq. */
static int new_sequence(struct kvmod_session *s, struct kvmod_sequence **out)
{
	size_t n = (size_t)s->model->n_layers * s->model->n_kv_heads;
	struct kvmod_sequence *q = calloc(1, sizeof(*q));

	if (!q)
		return kv_fail(KVMOD_ENOMEM, "no memory for a sequence");
	q->session = s;
	q->id = s->next_sequence;
	q->kept = calloc(n, sizeof(*q->kept));
	if (!q->kept) {
		free_sequence(q);
		return kv_fail(KVMOD_ENOMEM, "no memory for a sequence");
	}
	if (s->policy)
		q->status = kvmod_policy_begin(s->policy, q->id, &q->state);
	if (q->status != KVMOD_OK)
		kv_log(kv_engine_ctx(s->engine), KVMOD_ERROR,
		       "%s; the sequence continues without it", kvmod_error());
	s->next_sequence++;
	*out = q;
	return KVMOD_OK;
}

static void end_sequence(struct kvmod_sequence *q)
{
	struct kvmod_session *s = q->session;

	if (s->policy && q->status == KVMOD_OK)
		kvmod_policy_end(s->policy, q->id, q->state);
	free_sequence(q);
}

static int check_seq(const struct kvmod_session *s, const struct kvmod_seq *seq, const char *call)
{
	return seq ? KVMOD_OK : kv_fail(KVMOD_EINVAL, "engine %s: %s() returned no sequence", s->ops->name, call);
}

int kvmod_sequence_open(struct kvmod_session *s, struct kvmod_sequence **out)
{
	struct kvmod_sequence *q;
	int err = new_sequence(s, &q);

	if (err != KVMOD_OK)
		return err;
	err = KV_CALL_ENGINE(s->ops, seq_open, s->instance, &q->seq);
	if (err == KVMOD_OK)
		err = check_seq(s, q->seq, "seq_open");
	if (err != KVMOD_OK) {
		end_sequence(q);
		return err;
	}
	*out = q;
	return KVMOD_OK;
}

static int fork_to(const struct kvmod_sequence *from, struct kvmod_session *s, struct kvmod_sequence **out)
{
	size_t n = (size_t)s->model->n_layers * s->model->n_kv_heads;
	struct kvmod_sequence *q;
	int err = new_sequence(s, &q);

	if (err != KVMOD_OK)
		return err;
	err = KV_CALL_ENGINE(s->ops, seq_fork, s->instance, from->seq, &q->seq);
	if (err == KVMOD_OK)
		err = check_seq(s, q->seq, "seq_fork");
	if (err != KVMOD_OK) {
		end_sequence(q);
		return err;
	}
	q->n_prompt = from->n_prompt;
	q->decoded = from->decoded;
	q->opening = from->opening;
	q->is_context = from->is_context;
	q->left = from->left;
	memcpy(q->kept, from->kept, n * sizeof(*q->kept));
	*out = q;
	return KVMOD_OK;
}

int kvmod_sequence_fork(struct kvmod_sequence *from, struct kvmod_sequence **out)
{
	return fork_to(from, from->session, out);
}

void kvmod_sequence_close(struct kvmod_sequence *q)
{
	if (!q)
		return;
	KV_CALL_VOID(q->session->ops->seq_close(q->session->instance, q->seq));
	end_sequence(q);
}

int kvmod_sequence_truncate(struct kvmod_sequence *q, uint64_t logical)
{
	return KV_CALL_ENGINE(q->session->ops, seq_truncate, q->session->instance, q->seq, logical);
}

uint64_t kvmod_sequence_length(struct kvmod_sequence *q)
{
	uint64_t length;

	KV_CALL_VOID(length = q->session->ops->seq_length(q->session->instance, q->seq));
	return length;
}

uint64_t kvmod_sequence_room(struct kvmod_sequence *q)
{
	const struct kvmod_engine_ops *ops = q->session->ops;
	uint64_t context = q->session->model->context, length = kvmod_sequence_length(q), room;

	if (!KVMOD_HAS(ops, seq_room) || !ops->seq_room)
		return length < context ? context - length : 0;
	KV_CALL_VOID(room = ops->seq_room(q->session->instance, q->seq));
	return room;
}

void kvmod_sequence_bytes(struct kvmod_sequence *q, struct kvmod_bytes *out)
{
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };

	KV_CALL_VOID(q->session->ops->bytes(q->session->instance, q->seq, &bytes));
	bytes.size = sizeof(bytes);
	kv_copy_out(out, out->size, &bytes, sizeof(bytes));
}

struct kvmod_seq *kvmod_sequence_engine_seq(struct kvmod_sequence *q)
{
	return q->seq;
}

/* --- asking and cutting ------------------------------------------------------------ */

static int first_status(const struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		if (kvmod_keep_at(plan, i)->status != KVMOD_OK)
			return kvmod_keep_at(plan, i)->status;
	return KVMOD_OK;
}

/* Does it cut anything, or store it as another type? */
static bool plan_changes(const struct kvmod_request *r, const struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (kv_keep_converts(keep))
			return true;
		for (uint32_t g = 0; g < s->n_kv_heads; g++)
			if (kvmod_plan_count(r, plan, i, g) < kvmod_head_at(s, g)->n)
				return true;
	}
	return false;
}

static int replay(const struct kvmod_sequence *q, const struct kvmod_request *r,
		  const struct kvmod_plan *plan, uint32_t rows, double *loss)
{
	const char *engine = q->session->ops->name;
	double answer = NAN;
	int err = KV_CALL_OF(engine, r, replay, r, plan, rows, &answer);

	if (err == KVMOD_OK && !isfinite(answer))
		err = kv_fail(KVMOD_ENUMERIC, "engine %s: replay() answered %g, expected a finite number",
			      engine, answer);
	*loss = err == KVMOD_OK ? answer : NAN;
	return err;
}

/* The loss only informs the user: a failure to measure it stops nothing. */
static void measure_loss(struct kvmod_sequence *q, const struct kvmod_request *r,
			 const struct kvmod_plan *plan, uint32_t rows, double *loss)
{
	rows = kv_rows_to_replay(kvmod_sequence_length(q), rows);
	if (rows == 0 || !r->replay)
		return;
	*loss = 0;		/* if nothing changes, there is nothing to measure */
	if (plan_changes(r, plan) && replay(q, r, plan, rows, loss) != KVMOD_OK)
		kv_log(kv_engine_ctx(q->session->engine), KVMOD_WARN,
		       "cannot measure the plan's loss: %s", kvmod_error());
}

static int decide_and_apply(struct kvmod_sequence *q, struct kvmod_request *r,
			    struct kvmod_plan *plan, uint32_t replay_rows,
			    struct kvmod_prompted *out)
{
	struct kvmod_session *s = q->session;
	double begin = seconds();
	int err = kv_decide(s->policy, r, plan, s->ops->flags), status;

	out->decision_seconds = seconds() - begin;
	if (err != KVMOD_OK)
		return err;
	status = first_status(plan);
	kv_stores_drop(&s->stores, s->engine, s->policy, plan);
	measure_loss(q, r, plan, replay_rows, &out->replay_loss);
	begin = seconds();
	err = KV_CALL_ENGINE(s->ops, apply, s->instance, q->seq, plan);
	out->apply_seconds = seconds() - begin;
	if (err != KVMOD_OK)
		kv_log(kv_engine_ctx(s->engine), KVMOD_ERROR, "the plan was not applied: %s",
		       kvmod_error());
	return err != KVMOD_OK ? err : status;
}

/* Is the sequence too short for a cut to pay? A budget that is a count is obeyed all the same. */
static bool is_left_whole(struct kvmod_sequence *q)
{
	return kvmod_sequence_length(q) <= q->session->leave_below &&
	       !kv_policy_counts_budget(q->session->policy);
}

/*
 * Asks the policy and cuts the cache. A failure costs only compression: the return value
 * is its code, and the tokens that were run remain in the sequence.
 */
static int compress(struct kvmod_sequence *q, uint32_t phase, uint32_t replay_rows,
		    struct kvmod_prompted *out)
{
	struct kvmod_session *s = q->session;
	struct kvmod_request r;
	int err = q->status;

	if (err != KVMOD_OK)
		return err;
	if (is_left_whole(q)) {
		out->left_whole = 1;
		return KVMOD_OK;
	}
	err = kv_ask_engine(q, &r);
	if (err == KVMOD_OK)
		err = kvmod_plan_renew(&r, &s->plan);
	if (err != KVMOD_OK) {
		kv_log(kv_engine_ctx(s->engine), KVMOD_ERROR, "the cache stays whole: %s", kvmod_error());
		return err;
	}
	r.phase = phase;
	r.state = q->state;
	r.leave_below = s->leave_below;
	r.opening = q->opening;
	r.question_later = q->is_context && phase == KVMOD_PREFILL;
	kv_stores_offer(&s->stores, s->plan);
	return decide_and_apply(q, &r, s->plan, replay_rows, out);
}

/* What the engine collects while prompts run. */
static const struct kvmod_needs *needs_of(const struct kvmod_session *s)
{
	if (s->policy)
		return kvmod_policy_needs(s->policy);
	return s->collects.size ? &s->collects : NULL;
}

static int run_prompt(struct kvmod_sequence *q, const struct kvmod_prompt *prompt)
{
	struct kvmod_session *s = q->session;
	struct kvmod_batch_item item = {
		.size = sizeof(item),
		.n_tokens = (uint32_t)prompt->n_tokens,
		.seq = q->seq,
		.tokens = prompt->tokens,
		.logits = prompt->logits,
		.n_logits = prompt->logits ? 1 : 0,
	};
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = 1,
		.item_stride = sizeof(item),
		.items = &item,
		.progress = prompt->progress,
		.progress_arg = prompt->progress_arg,
	};
	const struct kvmod_needs *needs = needs_of(s);
	int err = KV_CALL_ENGINE(s->ops, prompt_begin, s->instance, q->seq, prompt->n_tokens, needs);

	return err == KVMOD_OK ? KV_CALL_ENGINE(s->ops, step, s->instance, &batch) : err;
}

static uint32_t flags_of(const struct kvmod_prompt *prompt)
{
	return KVMOD_HAS(prompt, flags) ? prompt->flags : 0;
}

static int check_prompt(const struct kvmod_prompt *prompt)
{
	if (prompt->n_tokens == 0)
		return kv_fail(KVMOD_EINVAL, "the prompt is empty");
	if (prompt->n_tokens > UINT32_MAX)
		return kv_fail(KVMOD_ERANGE, "a prompt of %llu tokens",
			       (unsigned long long)prompt->n_tokens);
	if (flags_of(prompt) & ~(KVMOD_PROMPT_KEEP | KVMOD_PROMPT_CONTEXT))
		return kv_fail(KVMOD_EINVAL, "the prompt's flags are 0x%x, expected KVMOD_PROMPT_KEEP, "
			       "KVMOD_PROMPT_CONTEXT or 0", flags_of(prompt));
	return KVMOD_OK;
}

static uint64_t opening_of(const struct kvmod_prompt *prompt)
{
	uint64_t opening = KVMOD_HAS(prompt, n_opening) ? prompt->n_opening : 0;

	return opening < prompt->n_tokens ? opening : prompt->n_tokens;
}

/* Asks the policy, if there is one, and records what the cut left. */
static void after_prompt(struct kvmod_sequence *q, bool asks, uint32_t replay_rows,
			 struct kvmod_prompted *out)
{
	out->before.size = out->after.size = sizeof(out->before);
	kvmod_sequence_bytes(q, &out->before);
	if (q->session->policy && asks)
		out->status = compress(q, KVMOD_PREFILL, replay_rows, out);
	q->left.decode_cuts = 0;
	kv_note_left(q);
	out->budget = q->left.budget;
	out->after = q->left.bytes;
}

int kvmod_sequence_prompt(struct kvmod_sequence *q, const struct kvmod_prompt *prompt,
			  struct kvmod_prompted *result)
{
	struct kvmod_prompted out = { .size = sizeof(out), .replay_loss = NAN };
	double begin = seconds();
	bool first = kvmod_sequence_length(q) == 0;
	int err = check_prompt(prompt);

	if (err == KVMOD_OK)
		err = run_prompt(q, prompt);
	if (err != KVMOD_OK)
		return err;
	out.prefill_seconds = seconds() - begin;
	if (first)
		q->opening = opening_of(prompt);
	q->is_context = flags_of(prompt) & KVMOD_PROMPT_CONTEXT;
	q->n_prompt = prompt->n_tokens;
	q->decoded = 0;
	after_prompt(q, !(flags_of(prompt) & KVMOD_PROMPT_KEEP), prompt->replay_rows, &out);
	kv_copy_out(result, result->size, &out, sizeof(out));
	return KVMOD_OK;
}

int kvmod_sequence_fork_to(struct kvmod_sequence *from, struct kvmod_session *s, uint32_t replay_rows,
			   struct kvmod_sequence **copy, struct kvmod_prompted *result)
{
	struct kvmod_prompted out = { .size = sizeof(out), .replay_loss = NAN };
	struct kvmod_sequence *q;
	int err;

	if (s->engine != from->session->engine)
		return kv_fail(KVMOD_EINVAL, "the two sessions have different engines");
	if (from->session->policy || !from->n_prompt || from->decoded)
		return kv_fail(KVMOD_EINVAL, "expected a sequence of a session without a policy, right after "
			       "a prompt");
	if (!can_narrow(s))
		return kv_fail(KVMOD_ENOTSUP, "engine %s cannot collect for several policies at once",
			       s->ops->name);
	err = fork_to(from, s, &q);
	if (err != KVMOD_OK)
		return err;
	err = KV_CALL_ENGINE(s->ops, seq_narrow, s->instance, q->seq, q->n_prompt, needs_of(s));
	if (err != KVMOD_OK) {
		kvmod_sequence_close(q);
		return err;
	}
	after_prompt(q, true, replay_rows, &out);
	kv_copy_out(result, result->size, &out, sizeof(out));
	*copy = q;
	return KVMOD_OK;
}

/* --- decoding ------------------------------------------------------------------- */

static void after_decode(struct kvmod_sequence *q)
{
	struct kvmod_policy *policy = q->session->policy;
	uint32_t every = policy ? kvmod_policy_needs(policy)->decode_every : 0;
	struct kvmod_bytes before = { .size = sizeof(before) }, after = before;
	struct kvmod_prompted unused;

	q->decoded++;
	if (every == 0 || q->decoded % every != 0)
		return;
	kvmod_sequence_bytes(q, &before);
	compress(q, KVMOD_DECODE, 0, &unused);
	kvmod_sequence_bytes(q, &after);
	if (after.used >= before.used)
		return;
	q->left.decode_cuts++;
	kv_note_left(q);
}

int kvmod_session_decode(struct kvmod_session *s, struct kvmod_sequence *const *sequences,
			 const int32_t *tokens, float *const *logits, size_t n)
{
	struct kvmod_batch_item few[8], *items = few;
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = (uint32_t)n,
		.item_stride = sizeof(*items),
	};
	int err;

	if (n > sizeof(few) / sizeof(*few))
		items = calloc(n, sizeof(*items));
	if (!items)
		return kv_fail(KVMOD_ENOMEM, "no memory for a batch of %zu", n);
	for (size_t i = 0; i < n; i++)
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(*items),
			.n_tokens = 1,
			.seq = sequences[i]->seq,
			.tokens = &tokens[i],
			.logits = logits[i],
			.n_logits = 1,
		};
	batch.items = items;
	err = KV_CALL_ENGINE(s->ops, step, s->instance, &batch);
	for (size_t i = 0; i < n && err == KVMOD_OK; i++)
		after_decode(sequences[i]);
	if (items != few)
		free(items);
	return err;
}
