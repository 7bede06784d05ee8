/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session strings an engine and a policy together. It alone knows the order of
 * things: collect, run, ask, check, cut.
 */
#include "core/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct kvmod_session {
	struct kvmod_engine *engine;
	const struct kvmod_engine_ops *ops;
	void *instance;			/* the engine's */
	const struct kvmod_model *model;
	struct kvmod_policy *policy;
	uint64_t next_sequence;
};

struct kvmod_sequence {
	struct kvmod_session *session;
	struct kvmod_seq *seq;		/* the engine's */
	uint64_t id;
	void *state;			/* the policy's */
	uint64_t decoded;		/* tokens since the last prompt */
	uint32_t *kept, *cached;	/* [n_layers][n_kv_heads], of the last prompt */
};

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int kvmod_session_open(struct kvmod_engine *engine, struct kvmod_policy *policy,
		       struct kvmod_session **out)
{
	struct kvmod_session *s = calloc(1, sizeof(*s));

	if (!s)
		return kv_fail(KVMOD_ENOMEM, "no memory for a session");
	s->engine = engine;
	s->ops = kvmod_engine_ops(engine);
	s->instance = kvmod_engine_instance(engine);
	s->model = kvmod_engine_model(engine);
	s->policy = policy;
	*out = s;
	return KVMOD_OK;
}

void kvmod_session_close(struct kvmod_session *s)
{
	free(s);
}

/* --- sequences ------------------------------------------------------------------ */

static void free_sequence(struct kvmod_sequence *q)
{
	free(q->kept);
	free(q->cached);
	free(q);
}

/* All but the engine's seq. */
static int new_sequence(struct kvmod_session *s, struct kvmod_sequence **out)
{
	size_t n = (size_t)s->model->n_layers * s->model->n_kv_heads;
	struct kvmod_sequence *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return kv_fail(KVMOD_ENOMEM, "no memory for a sequence");
	q->session = s;
	q->id = s->next_sequence;
	q->kept = calloc(n, sizeof(*q->kept));
	q->cached = calloc(n, sizeof(*q->cached));
	if (!q->kept || !q->cached) {
		free_sequence(q);
		return kv_fail(KVMOD_ENOMEM, "no memory for a sequence");
	}
	err = s->policy ? kvmod_policy_begin(s->policy, q->id, &q->state) : KVMOD_OK;
	if (err != KVMOD_OK) {
		free_sequence(q);
		return err;
	}
	s->next_sequence++;
	*out = q;
	return KVMOD_OK;
}

static void end_sequence(struct kvmod_sequence *q)
{
	struct kvmod_session *s = q->session;

	if (s->policy)
		kvmod_policy_end(s->policy, q->id, q->state);
	free_sequence(q);
}

int kvmod_sequence_open(struct kvmod_session *s, struct kvmod_sequence **out)
{
	struct kvmod_sequence *q;
	int err = new_sequence(s, &q);

	if (err != KVMOD_OK)
		return err;
	err = s->ops->seq_open(s->instance, &q->seq);
	if (err != KVMOD_OK) {
		end_sequence(q);
		return err;
	}
	*out = q;
	return KVMOD_OK;
}

int kvmod_sequence_fork(struct kvmod_sequence *from, struct kvmod_sequence **out)
{
	struct kvmod_session *s = from->session;
	size_t n = (size_t)s->model->n_layers * s->model->n_kv_heads;
	struct kvmod_sequence *q;
	int err = new_sequence(s, &q);

	if (err != KVMOD_OK)
		return err;
	err = s->ops->seq_fork(s->instance, from->seq, &q->seq);
	if (err != KVMOD_OK) {
		end_sequence(q);
		return err;
	}
	q->decoded = from->decoded;
	memcpy(q->kept, from->kept, n * sizeof(*q->kept));
	memcpy(q->cached, from->cached, n * sizeof(*q->cached));
	*out = q;
	return KVMOD_OK;
}

void kvmod_sequence_close(struct kvmod_sequence *q)
{
	if (!q)
		return;
	q->session->ops->seq_close(q->session->instance, q->seq);
	end_sequence(q);
}

int kvmod_sequence_truncate(struct kvmod_sequence *q, uint64_t logical)
{
	return q->session->ops->seq_truncate(q->session->instance, q->seq, logical);
}

uint64_t kvmod_sequence_length(struct kvmod_sequence *q)
{
	return q->session->ops->seq_length(q->session->instance, q->seq);
}

void kvmod_sequence_bytes(struct kvmod_sequence *q, struct kvmod_bytes *out)
{
	out->size = sizeof(*out);
	q->session->ops->bytes(q->session->instance, q->seq, out);
}

struct kvmod_seq *kvmod_sequence_engine_seq(struct kvmod_sequence *q)
{
	return q->seq;
}

uint64_t kvmod_sequence_kept(const struct kvmod_sequence *q, uint32_t layer,
			     uint32_t head, uint64_t *cached)
{
	const struct kvmod_model *m = q->session->model;
	size_t i = (size_t)layer * m->n_kv_heads + head;

	if (layer >= m->n_layers || head >= m->n_kv_heads)
		return 0;
	if (cached)
		*cached = q->cached[i];
	return q->kept[i];
}

/* --- asking and cutting ------------------------------------------------------------ */

static void note_kept(struct kvmod_sequence *q, const struct kvmod_request *r,
		      const struct kvmod_plan *plan)
{
	uint32_t n_heads = q->session->model->n_kv_heads;

	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		for (uint32_t g = 0; g < s->n_kv_heads && g < n_heads; g++) {
			size_t at = (size_t)s->layer * n_heads + g;

			q->cached[at] = kvmod_head_at(s, g)->n;
			q->kept[at] = (uint32_t)kvmod_plan_count(r, plan, i, g);
		}
	}
}

static int first_status(const struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		if (kvmod_keep_at(plan, i)->status != KVMOD_OK)
			return kvmod_keep_at(plan, i)->status;
	return KVMOD_OK;
}

/* Of n tokens seen, at least half stay before those that are run again. */
static uint32_t rows_to_replay(uint64_t n, uint32_t wanted)
{
	return wanted < n / 2 ? wanted : (uint32_t)(n / 2);
}

/* A figure for whoever reads it: that it cannot be had is no reason to stop. */
static int measure_loss(struct kvmod_sequence *q, const struct kvmod_request *r,
			const struct kvmod_plan *plan, uint32_t rows, double *loss)
{
	int err;

	rows = rows_to_replay(kvmod_sequence_length(q), rows);
	if (rows == 0 || !r->replay)
		return KVMOD_OK;
	*loss = 0;		/* where nothing was cut: no need to run it twice */
	if (kvmod_plan_budget(r, plan) == 1)
		return KVMOD_OK;
	err = r->replay(r, plan, rows, loss);
	if (err == KVMOD_OK || err == KVMOD_ECANCELED)
		return err;
	*loss = NAN;
	kv_log(kv_engine_ctx(q->session->engine), KVMOD_WARN,
	       "the plan's loss cannot be measured: %s", kvmod_error());
	return KVMOD_OK;
}

/* The policy's failure is the plan's business (out->status), the engine's is an error. */
static int ask_and_cut(struct kvmod_sequence *q, uint32_t phase, uint32_t replay_rows,
		       struct kvmod_prompted *out)
{
	struct kvmod_session *s = q->session;
	struct kvmod_request r = { .size = sizeof(r) };
	struct kvmod_plan *plan;
	double begin;
	int err = s->ops->request(s->instance, q->seq, &r);

	if (err != KVMOD_OK)
		return err;
	r.phase = phase;
	r.state = q->state;
	err = kvmod_plan_new(&r, &plan);
	if (err != KVMOD_OK)
		return err;
	begin = seconds();
	out->status = kvmod_decide(s->policy, &r, plan);
	out->decision_seconds = seconds() - begin;
	if (out->status == KVMOD_OK)
		out->status = first_status(plan);
	out->budget = kvmod_plan_budget(&r, plan);
	if (phase == KVMOD_PREFILL)
		note_kept(q, &r, plan);
	err = measure_loss(q, &r, plan, replay_rows, &out->replay_loss);
	begin = seconds();
	if (err == KVMOD_OK)
		err = s->ops->apply(s->instance, q->seq, plan);
	out->apply_seconds = seconds() - begin;
	kvmod_plan_free(plan);
	return err;
}

/* Without a policy all is kept, and said to be. */
static void note_all(struct kvmod_sequence *q)
{
	const struct kvmod_model *m = q->session->model;
	uint32_t length = (uint32_t)kvmod_sequence_length(q);

	for (size_t i = 0; i < (size_t)m->n_layers * m->n_kv_heads; i++)
		q->kept[i] = q->cached[i] = length;
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
	const struct kvmod_needs *needs = s->policy ? kvmod_policy_needs(s->policy) : NULL;
	int err = s->ops->prompt_begin(s->instance, q->seq, prompt->n_tokens, needs);

	return err == KVMOD_OK ? s->ops->step(s->instance, &batch) : err;
}

int kvmod_sequence_prompt(struct kvmod_sequence *q, const struct kvmod_prompt *prompt,
			  struct kvmod_prompted *out)
{
	double begin = seconds();
	int err;

	if (prompt->n_tokens == 0)
		return kv_fail(KVMOD_EINVAL, "the prompt is empty");
	if (prompt->n_tokens > UINT32_MAX)
		return kv_fail(KVMOD_ERANGE, "a prompt of %llu tokens",
			       (unsigned long long)prompt->n_tokens);
	*out = (struct kvmod_prompted){ .size = sizeof(*out), .budget = 1.0, .replay_loss = NAN };
	err = run_prompt(q, prompt);
	if (err != KVMOD_OK)
		return err;
	out->prefill_seconds = seconds() - begin;
	q->decoded = 0;
	kvmod_sequence_bytes(q, &out->before);
	if (q->session->policy)
		err = ask_and_cut(q, KVMOD_PREFILL, prompt->replay_rows, out);
	else
		note_all(q);
	kvmod_sequence_bytes(q, &out->after);
	return err;
}

/* --- decoding ------------------------------------------------------------------- */

static int after_decode(struct kvmod_sequence *q)
{
	struct kvmod_policy *policy = q->session->policy;
	uint32_t every = policy ? kvmod_policy_needs(policy)->decode_every : 0;
	struct kvmod_prompted out = { .size = sizeof(out) };

	q->decoded++;
	if (every == 0 || q->decoded % every != 0)
		return KVMOD_OK;
	return ask_and_cut(q, KVMOD_DECODE, 0, &out);
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
	err = s->ops->step(s->instance, &batch);
	for (size_t i = 0; i < n && err == KVMOD_OK; i++)
		err = after_decode(sequences[i]);
	if (items != few)
		free(items);
	return err;
}
