/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closing gaps: compares streams of any length with libllama, which moves newer tokens back
 * where the engine rotates the oldest forward. For RoPE the two are the same.
 */
#include "tests/engine_host.h"
#include "tests/shifted.h"
#include "tests/tiny_model.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N	240
#define CONTEXT	64		/* so that all keys are turned back several times */
#define SINKS	3
#define NEWEST	20
#define NEAR	1e-4

struct setup {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	struct shifted *other;
	int32_t tokens[N];
	float logits[N * TINY_VOCAB], expected[N * TINY_VOCAB];
};

static unsigned n_fail;

/*
 * Not libllama's truth: with each shift it multiplies keys by YaRN's magnitude again.
 * one_layer tells for such a model.
 */
static bool is_yarn(unsigned model)
{
	const char *scaling = tiny_models[model].rope_scaling;

	return scaling && !strcmp(scaling, "yarn");
}

static void set_up_alone(struct setup *s, const struct tiny_model *spec)
{
	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(spec, TINY_GOOD);
	s->engine = test_engine_open(&(struct test_engine_params){
		.model = s->model, .type = GGML_TYPE_F32, .context = CONTEXT, .batch = 16 });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	tiny_tokens(s->tokens, N, 3);
}

static void set_up(struct setup *s, unsigned model)
{
	set_up_alone(s, &tiny_models[model]);
	s->other = shifted_open(s->model, GGML_TYPE_F32, 2 * CONTEXT, 0);
	ck_assert_ptr_nonnull(s->other);
}

static void tear_down(struct setup *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	shifted_close(s->other);
	unlink(s->model);
	free(s->model);
}

static void cut_one(struct kvmod_seq *seq)
{
	test_apply(seq, test_plan_ends(seq, SINKS, NEWEST));
}

static void cut(struct setup *s)
{
	cut_one(s->seq);
	shifted_cut(s->other, SINKS, NEWEST);
}

/* Runs tokens[from..to) in one call, or one by one; what libllama says too. */
static void run_one(struct setup *s, struct kvmod_seq *seq, uint32_t from, uint32_t to, bool single)
{
	uint32_t n = single ? 1 : to - from;

	for (uint32_t i = from; i < to; i += n)
		test_run(seq, s->tokens + i, n, s->logits + i * TINY_VOCAB, n);
}

static void run(struct setup *s, uint32_t from, uint32_t to, bool single)
{
	run_one(s, s->seq, from, to, single);
	ck_assert_int_eq(shifted_run(s->other, s->tokens + from, to - from, s->expected + from * TINY_VOCAB), 0);
}

static void check(const struct setup *s, uint32_t from, uint32_t to)
{
	test_near(s->logits + from * TINY_VOCAB, s->expected + from * TINY_VOCAB,
		  (to - from) * TINY_VOCAB, NEAR);
}

/* Of all rows: no two of a head are further apart than their number, nor past the context. */
static void check_phases(const struct setup *s)
{
	ck_assert_int_gt(s->seq->base, 0);
	ck_assert_uint_le(s->seq->logical - (uint64_t)s->seq->base, CONTEXT);
	ck_assert_uint_le(gg_seq_extent(s->seq), SINKS + NEWEST + 10);
}

/* Prompts of several tokens and single ones, a cut after each. */
START_TEST(streams)
{
	static struct setup s;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 40, false);
	cut(&s);
	for (uint32_t i = 40; i < N; i += 10) {
		run(&s, i, i + 10, i % 20);
		cut(&s);
	}
	if (!is_yarn((unsigned)_i))
		check(&s, 0, N);
	check_phases(&s);
	ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), N);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), CONTEXT - SINKS - NEWEST);
	tear_down(&s);
}
END_TEST

/*
 * In one layer no key or value knows what came before it: then a stream is what its
 * cache would be if the tokens there were all that it had ever seen.
 */
START_TEST(one_layer)
{
	static struct setup s;
	struct tiny_model spec = tiny_models[(unsigned)_i % n_tiny_models];
	struct kvmod_seq *fresh;

	spec.n_layers = 1;
	/* Once more, each head turned in half of its dimensions. */
	if ((unsigned)_i >= n_tiny_models)
		spec.rope_dims = spec.head_dim / 2;
	set_up_alone(&s, &spec);
	run_one(&s, s.seq, 0, 40, false);
	for (uint32_t i = 40; i < N; i += 10) {
		cut_one(s.seq);
		run_one(&s, s.seq, i, i + 10, i % 20);
	}
	check_phases(&s);
	memcpy(s.expected, s.logits + (N - 10) * TINY_VOCAB, 10 * TINY_VOCAB * sizeof(float));
	fresh = test_seq(s.engine);
	run_one(&s, fresh, 0, SINKS, false);
	run_one(&s, fresh, N - 10 - NEWEST, N, false);
	test_near(s.logits + (N - 10) * TINY_VOCAB, s.expected, 10 * TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, fresh);
	tear_down(&s);
}
END_TEST

/* Prompts of a conversation: each as long as the context lets it be, and no longer. */
START_TEST(turns)
{
	static struct setup s;
	uint32_t longest = CONTEXT - SINKS - NEWEST;

	set_up(&s, (unsigned)_i);
	ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, CONTEXT + 1, NULL), KVMOD_ERANGE);
	run(&s, 0, CONTEXT, false);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), 0);
	cut(&s);
	for (uint32_t i = CONTEXT; i + longest <= N; i += longest) {
		ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, longest + 1, NULL), KVMOD_ERANGE);
		ck_assert_str_eq(test_engine_error(),
				 "42 new and 23 cached tokens exceed the context of 64");
		ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, longest, NULL), 0);
		run(&s, i, i + longest, false);
		cut(&s);
		if (!is_yarn((unsigned)_i))
			check(&s, i, i + longest);
	}
	check_phases(&s);
	tear_down(&s);
}
END_TEST

/* Behind the last cut, and to a place in the middle of a step that goes another way. */
START_TEST(truncates)
{
	static struct setup s;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 50, false);
	cut(&s);
	run(&s, 50, 70, false);
	cut(&s);
	run(&s, 70, 90, true);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 75), 0);
	shifted_forget(s.other, 15);
	tiny_tokens(s.tokens + 75, N - 75, 9);
	run(&s, 75, 90, false);
	cut(&s);
	/* Before the cut: of the newest, ten are left. */
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 80), 0);
	shifted_forget(s.other, 10);
	run(&s, 80, 100, true);
	check(&s, 0, 100);
	tear_down(&s);
}
END_TEST

/*
 * To before the newest that a cut has left: the sinks alone are there, as if nothing
 * had ever come behind them, wherever they had been turned to.
 */
START_TEST(truncates_to_sinks)
{
	static const uint32_t lengths[] = { SINKS, 30, 2, 0 };
	static struct setup s;

	for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		uint32_t left = lengths[i] < SINKS ? lengths[i] : SINKS;

		set_up(&s, (unsigned)_i);
		run(&s, 0, 50, false);
		cut(&s);
		run(&s, 50, 80, true);
		cut(&s);
		ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, lengths[i]), 0);
		ck_assert_uint_eq(gg_seq_extent(s.seq), left);
		shifted_forget(s.other, SINKS + NEWEST - left);
		run(&s, 80, 110, false);
		ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), lengths[i] + 30);
		check(&s, 80, 110);
		tear_down(&s);
	}
}
END_TEST

/* A fork streams on by itself; the other one knows nothing of it. */
START_TEST(forks)
{
	static float alone[20 * TINY_VOCAB];
	static struct setup s;
	struct kvmod_seq *first;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 50, false);
	cut(&s);
	run(&s, 50, 80, true);
	cut(&s);
	first = s.seq;
	s.seq = test_fork(first);
	run(&s, 80, 100, true);
	cut(&s);
	run(&s, 100, 140, false);
	cut(&s);
	run(&s, 140, 160, true);
	check(&s, 0, 160);
	memcpy(alone, s.logits + 80 * TINY_VOCAB, sizeof(alone));
	run_one(&s, first, 80, 100, true);
	ck_assert_mem_eq(alone, s.logits + 80 * TINY_VOCAB, sizeof(alone));
	gg_seq_close(s.engine, first);
	tear_down(&s);
}
END_TEST

static void log_softmax(const float *logits, double *out)
{
	double sum = 0;

	for (int i = 0; i < TINY_VOCAB; i++)
		sum += exp((double)logits[i]);
	for (int i = 0; i < TINY_VOCAB; i++)
		out[i] = (double)logits[i] - log(sum);
}

static double divergence(const float *whole, const float *cut, uint32_t rows)
{
	double sum = 0, p[TINY_VOCAB], q[TINY_VOCAB];

	for (uint32_t r = 0; r < rows; r++) {
		log_softmax(whole + r * TINY_VOCAB, p);
		log_softmax(cut + r * TINY_VOCAB, q);
		for (int i = 0; i < TINY_VOCAB; i++)
			sum += exp(p[i]) * (p[i] - q[i]);
	}
	return sum / rows;
}

/*
 * What a plan would cost is measured with its gaps closed: the tokens that are run again
 * stand behind what the plan leaves of those before them, here of 50 the last 14.
 */
START_TEST(replays)
{
	enum { ROWS = 6, ALL = 50 + ROWS };
	static struct setup s;
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss, open, expected;

	set_up(&s, (unsigned)_i);
	run(&s, 0, ALL, false);
	plan = test_plan_ends(s.seq, SINKS, NEWEST);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &request), 0);
	ck_assert_msg(!request.replay(&request, plan, ROWS, &loss), "%s", test_engine_error());
	plan->flags = 0;
	ck_assert_int_eq(request.replay(&request, plan, ROWS, &open), 0);
	kvmod_plan_free(plan);
	shifted_forget(s.other, ROWS);
	shifted_cut(s.other, SINKS, NEWEST - ROWS);
	ck_assert_int_eq(shifted_run(s.other, s.tokens + 50, ROWS, s.expected), 0);
	expected = divergence(s.logits + 50 * TINY_VOCAB, s.expected, ROWS);
	ck_assert_double_gt(expected, 0.001);
	if (!is_yarn((unsigned)_i))
		ck_assert_double_eq_tol(loss, expected, 2e-4 * expected);
	ck_assert_double_gt(fabs(open - loss), 2e-3 * expected);
	/* Nothing has changed. */
	ck_assert_uint_eq(s.seq->caches[0].n[0], ALL);
	ck_assert_uint_eq(s.seq->caches[0].sinks.room, 0);
	tear_down(&s);
}
END_TEST

/* After cuts as well, and with more rows than the last cut has left. */
START_TEST(replays_closed)
{
	static struct setup s;
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss, expected;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 50, false);
	cut(&s);
	run(&s, 50, 90, true);
	plan = test_plan_ends(s.seq, SINKS, NEWEST);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &request), 0);
	ck_assert_msg(!request.replay(&request, plan, 25, &loss), "%s", test_engine_error());
	kvmod_plan_free(plan);
	shifted_forget(s.other, 25);
	shifted_cut(s.other, SINKS, 0);
	ck_assert_int_eq(shifted_run(s.other, s.tokens + 65, 25, s.expected + 65 * TINY_VOCAB), 0);
	expected = divergence(s.logits + 65 * TINY_VOCAB, s.expected + 65 * TINY_VOCAB, 25);
	ck_assert_double_gt(expected, 0.001);
	ck_assert_double_eq_tol(loss, expected, 1e-3 * expected);
	tear_down(&s);
}
END_TEST

/* Rows that were evicted count when they are run again: of too many, those that fit are run. */
START_TEST(replays_what_fits)
{
	enum { MOST = CONTEXT - SINKS, ALL = 50 + MOST - NEWEST };
	static const uint32_t rows[] = { MOST, MOST + 1, ALL - 1 };
	static struct setup s;
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss[3];

	set_up_alone(&s, &tiny_models[_i]);
	run_one(&s, s.seq, 0, 50, false);
	cut_one(s.seq);
	run_one(&s, s.seq, 50, ALL, false);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), 0);
	plan = test_plan_ends(s.seq, 1, NEWEST);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &request), 0);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_msg(!request.replay(&request, plan, rows[i], &loss[i]), "%u: %s", rows[i],
			      test_engine_error());
		ck_assert_uint_eq(s.seq->whole.rows, MOST);
		ck_assert_double_eq(loss[i], loss[0]);
	}
	ck_assert_double_gt(loss[0], 0.001);
	kvmod_plan_free(plan);
	tear_down(&s);
}
END_TEST

/* The newest alone: there is no gap, and phases are turned back all the same. */
START_TEST(no_sinks)
{
	static struct setup s;

	set_up(&s, (unsigned)_i);
	for (uint32_t i = 0; i < N; i += 20) {
		run(&s, i, i + 20, false);
		test_apply(s.seq, test_plan_ends(s.seq, 0, NEWEST));
		shifted_cut(s.other, 0, NEWEST);
	}
	check(&s, 0, N);
	check_phases(&s);
	ck_assert_uint_eq(s.seq->caches[0].sinks.room, 0);
	tear_down(&s);
}
END_TEST

/*
 * More sinks than before, and fewer: rows that the last cut has left behind the sinks
 * join them, and sinks that remain behind fewer ones are closed up to.
 */
START_TEST(other_sinks)
{
	static const uint32_t sinks[] = { 3, 8, 2, 2, 10, 5 };
	static struct setup s;
	uint32_t at = 50;

	set_up(&s, (unsigned)_i);
	run(&s, 0, at, false);
	for (unsigned i = 0; i < sizeof(sinks) / sizeof(*sinks); i++, at += 20) {
		uint32_t newest = i == 2 ? s.seq->caches[0].n[0] - 6 : NEWEST;

		test_apply(s.seq, test_plan_ends(s.seq, sinks[i], newest));
		shifted_cut(s.other, sinks[i], newest);
		run(&s, at, at + 20, i % 2);
		ck_assert_uint_eq(s.seq->caches[0].n[0], sinks[i] + newest + 20);
	}
	check(&s, 0, at);
	tear_down(&s);
}
END_TEST

static const float *key_at(const struct kvmod_request *request, uint32_t layer, uint32_t g, uint32_t row)
{
	const struct kvmod_view *k = &request->segments[layer]->heads[g]->k;

	return (const float *)(const void *)((const char *)k->data + row * k->stride);
}

/*
 * Requests say which keys stand elsewhere than their positions, and by how much. A key of
 * the first layer is made of its token and its phase alone: that of a sink is the key of a
 * token that always stood there.
 */
START_TEST(requests_tell_turns)
{
	enum { TURN = 50 - NEWEST - SINKS };
	struct kvmod_request cut = { .size = sizeof(cut) }, plain = cut;
	const struct tiny_model *spec = &tiny_models[_i];
	struct kvmod_seq *other;
	static struct setup s;
	int32_t tokens[50];

	set_up_alone(&s, spec);
	other = test_seq(s.engine);
	memcpy(tokens, s.tokens, sizeof(tokens));
	memcpy(tokens + TURN, s.tokens, SINKS * sizeof(*tokens));
	run_one(&s, s.seq, 0, 50, false);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &cut), 0);
	ck_assert_uint_eq(cut.segments[0]->heads[0]->n_turned, 0);
	cut_one(s.seq);
	test_run(other, tokens, 50, s.logits, 50);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &cut), 0);
	ck_assert_int_eq(gg_request(s.engine, other, &plain), 0);
	for (uint32_t l = 0; l < cut.n_segments; l++)
		for (uint32_t g = 0; g < cut.segments[l]->n_kv_heads; g++) {
			const struct kvmod_head *head = cut.segments[l]->heads[g];

			ck_assert_uint_eq(head->n_turned, SINKS);
			ck_assert_int_eq(head->turn, TURN);
			ck_assert_int_eq(head->positions[0], 0);
			ck_assert_int_eq(head->positions[SINKS], 50 - NEWEST);
			ck_assert_uint_eq(plain.segments[l]->heads[g]->n_turned, 0);
			for (uint32_t i = 0; l == 0 && i < SINKS; i++)
				test_near(key_at(&cut, 0, g, i), key_at(&plain, 0, g, TURN + i),
					  cut.segments[0]->head_dim, NEAR);
		}
	/* Rows that join the sinks later have moved less: no one number is true of all. */
	test_apply(s.seq, test_plan_ends(s.seq, 2 * SINKS, 6));
	ck_assert_int_eq(gg_request(s.engine, s.seq, &cut), 0);
	ck_assert_ptr_null(cut.segments[0]->heads[0]->k.data);
	ck_assert_uint_eq(cut.segments[0]->heads[0]->n_turned, 0);
	ck_assert_ptr_nonnull(cut.segments[0]->heads[0]->v.data);
	gg_seq_close(s.engine, other);
	tear_down(&s);
}
END_TEST

/* Each head loses another sink, and every fifth row: as many in each. */
static void cut_lists(struct kvmod_seq *seq)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(seq, &request);

	for (uint32_t i = 0; i < request.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&request, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
			uint32_t n = 0;

			for (uint32_t j = 0; j < kvmod_head_at(segment, g)->n; j++) {
				if (j != g && (j < 8 || j % 5 != g))
					keep->indices[g * keep->index_stride + n++] = j;
			}
			keep->counts[g] = n;
		}
		ck_assert_msg(!kvmod_plan_check(&request, plan, i, 0), "%s", kvmod_error());
	}
	test_apply(seq, plan);
}

/*
 * Lists cut a stream whose gaps were closed: each head then has sinks of its own, of
 * fewer rows. In one layer that is what it is for tokens that always stood so.
 */
START_TEST(lists_between)
{
	enum { END = N - 10, MORE = 6 };
	static struct setup s;
	struct tiny_model spec = tiny_models[_i];
	struct kvmod_seq *seqs[2];

	spec.n_layers = 1;
	set_up_alone(&s, &spec);
	run_one(&s, s.seq, 0, 40, false);
	for (uint32_t i = 40; i < END; i += 10) {
		cut_one(s.seq);
		run_one(&s, s.seq, i, i + 10, false);
	}
	seqs[0] = s.seq;
	seqs[1] = test_seq(s.engine);
	run_one(&s, seqs[1], 0, SINKS, false);
	run_one(&s, seqs[1], END - NEWEST - 10, END, false);
	for (uint32_t i = 0; i < 5; i++) {
		for (int k = 0; k < 2; k++) {
			if (i % 2)
				test_apply(seqs[k], test_plan_ends(seqs[k], 2 + i % 4, NEWEST - 6));
			else
				cut_lists(seqs[k]);
			test_run(seqs[k], s.tokens + MORE * i, MORE, k ? s.expected : s.logits, MORE);
		}
		test_near(s.logits, s.expected, MORE * TINY_VOCAB, NEAR);
	}
	ck_assert_uint_eq(gg_seq_extent(seqs[0]), gg_seq_extent(seqs[1]));
	gg_seq_close(s.engine, seqs[1]);
	tear_down(&s);
}
END_TEST

/* A batch of sequences, each with phases of its own. */
START_TEST(together)
{
	static float logits[2][TINY_VOCAB];
	static struct setup s;
	struct kvmod_batch_item items[2];
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 2, .item_stride = sizeof(items[0]), .items = items,
	};

	set_up(&s, (unsigned)_i);
	run(&s, 0, 60, false);
	cut(&s);
	run(&s, 60, 100, false);
	cut(&s);
	items[1] = items[0] = (struct kvmod_batch_item){
		.size = sizeof(items[0]), .seq = s.seq, .n_tokens = 1, .tokens = s.tokens + 100,
		.logits = logits[0], .n_logits = 1,
	};
	items[1].seq = test_seq(s.engine);
	items[1].logits = logits[1];
	test_run(items[1].seq, s.tokens, 60, s.logits, 1);
	items[1].tokens = s.tokens + 60;
	ck_assert_int_gt(s.seq->base, items[1].seq->base);
	ck_assert_msg(!gg_step(s.engine, &batch), "%s", test_engine_error());
	ck_assert_int_eq(shifted_run(s.other, s.tokens + 100, 1, s.expected), 0);
	test_near(logits[0], s.expected, TINY_VOCAB, NEAR);
	gg_seq_truncate(s.engine, items[1].seq, 0);
	test_run(items[1].seq, s.tokens, 61, s.expected, 1);
	test_near(logits[1], s.expected, TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, items[1].seq);
	tear_down(&s);
}
END_TEST

/* Past what the model was trained for: once said, if gaps stay open, and never if not. */
START_TEST(warns_once)
{
	struct test_engine_params params = { .context_override = 1, .batch = 16 };
	static struct setup s;
	unsigned n;

	set_up(&s, 0);
	gg_seq_close(s.engine, s.seq);
	test_engine_close(s.engine);
	params.model = s.model;
	s.engine = test_engine_open(&params);
	s.engine->net.context = CONTEXT;
	s.seq = test_seq(s.engine);
	for (uint32_t i = 0; i < N; i += 30) {
		struct kvmod_plan *plan;

		test_run(s.seq, s.tokens + i, 30, s.logits, 1);
		plan = test_plan_ends(s.seq, SINKS, NEWEST);
		plan->flags = _i ? 0 : KVMOD_PLAN_CLOSES_GAPS;
		test_apply(s.seq, plan);
	}
	if (_i)
		ck_assert_str_eq(test_engine_warning(&n),
				 "the sequence exceeds the model's context of 64 tokens: answers "
				 "get worse, unless the policy closes the gaps that it leaves "
				 "(see kvmod-policies(7), streamingllm)");
	test_engine_warning(&n);
	ck_assert_uint_eq(n, _i);
	tear_down(&s);
}
END_TEST

/* A layer that stays whole holds the oldest token: what room there is, it sets. */
START_TEST(one_layer_whole)
{
	static struct setup s;
	struct kvmod_plan *plan;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 50, false);
	plan = test_plan_ends(s.seq, SINKS, NEWEST);
	kvmod_keep_at(plan, 1)->kind = KVMOD_KEEP_ALL;
	test_apply(s.seq, plan);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), CONTEXT - 50);
	ck_assert_uint_eq(s.seq->caches[0].n[0], SINKS + NEWEST);
	ck_assert_int_eq(s.seq->caches[0].sinks.places[SINKS - 1], 50 - NEWEST - 1);
	ck_assert_uint_eq(s.seq->caches[1].sinks.room, 0);
	test_run(s.seq, s.tokens + 50, CONTEXT - 50, s.logits, 1);
	ck_assert_int_eq(gg_run_tokens(s.engine, s.seq, s.tokens, 1, s.logits, 1), KVMOD_ERANGE);
	ck_assert_str_eq(test_engine_error(), "1 new and 64 cached tokens exceed the context of 64");
	ck_assert_int_eq(s.seq->base, 0);
	tear_down(&s);
}
END_TEST

/* In ggml's place: for the next n_fail graphs it finds no memory. */
bool ggml_gallocr_alloc_graph(ggml_gallocr_t memory, struct ggml_cgraph *graph)
{
	static bool (*real)(ggml_gallocr_t, struct ggml_cgraph *);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "ggml_gallocr_alloc_graph");
	if (!n_fail)
		return real(memory, graph);
	n_fail--;
	return false;
}

/*
 * Without memory to turn keys back, phases grow past the context: what is computed is the
 * same. Where there is memory again, keys are turned.
 */
START_TEST(no_memory_to_turn)
{
	static struct setup s;
	unsigned n;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 50, false);
	test_apply(s.seq, test_plan_ends(s.seq, 0, NEWEST));
	shifted_cut(s.other, 0, NEWEST);
	s.seq->queries.n = 7;	/* as if there were queries, which stay as the keys do */
	for (uint32_t i = 50; i < 90; i += 20) {
		n_fail = 1;	/* the first graph of a step is the one that turns */
		run(&s, i, i + 20, false);
		ck_assert_uint_eq(n_fail, 0);
		ck_assert_int_eq(s.seq->base, 0);
		ck_assert_uint_eq(s.seq->queries.n, 7);
	}
	ck_assert_int_eq(strcmp(test_engine_warning(&n), "no memory to rotate cached keys back: "
							       "distant positions are computed less exactly"), 0);
	ck_assert_uint_eq(n, 1);
	run(&s, 90, 94, false);
	ck_assert_int_eq(s.seq->base, 50 - NEWEST);
	ck_assert_uint_eq(s.seq->queries.n, 0);
	check(&s, 50, 94);
	tear_down(&s);
}
END_TEST

/* Sinks that have moved must be rotated: without memory that fails, and is tried again later. */
START_TEST(no_memory_to_rotate_sinks)
{
	static struct setup s;

	set_up(&s, (unsigned)_i);
	run(&s, 0, 50, false);
	cut(&s);
	n_fail = 1;
	ck_assert_int_eq(gg_run_tokens(s.engine, s.seq, s.tokens + 50, 10, s.logits, 1), KVMOD_ENOMEM);
	ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), 50);
	run(&s, 50, 60, false);
	check(&s, 50, 60);
	tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, streams, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, one_layer, 0, 2 * (int)n_tiny_models);
	tcase_add_loop_test(tc, turns, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, truncates, 0, 2);
	tcase_add_loop_test(tc, truncates_to_sinks, 0, 2);
	tcase_add_loop_test(tc, forks, 0, 2);
	tcase_add_loop_test(tc, replays, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, replays_closed, 0, 2);
	tcase_add_loop_test(tc, replays_what_fits, 0, 2);
	tcase_add_loop_test(tc, no_sinks, 0, 2);
	tcase_add_loop_test(tc, other_sinks, 0, 2);
	tcase_add_loop_test(tc, requests_tell_turns, 0, 2);
	tcase_add_loop_test(tc, lists_between, 0, 2);
	tcase_add_loop_test(tc, together, 0, 2);
	tcase_add_loop_test(tc, warns_once, 0, 2);
	tcase_add_test(tc, one_layer_whole);
	tcase_add_loop_test(tc, no_memory_to_turn, 0, 2);
	tcase_add_loop_test(tc, no_memory_to_rotate_sinks, 0, 2);
}

int main(void)
{
	return test_main("engine phases", add);
}
