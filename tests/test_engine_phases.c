/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closing gaps: compares streams of any length with libllama, which moves newer tokens back
 * where the engine rotates the oldest forward. For RoPE the two are the same.
 */
#include "tests/phases.h"

#include <dlfcn.h>
#include <string.h>

static unsigned n_fail;

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

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 40, false);
	phases_cut(&s);
	for (uint32_t i = 40; i < N; i += 10) {
		phases_run(&s, i, i + 10, i % 20);
		phases_cut(&s);
	}
	if (!phases_is_yarn((unsigned)_i))
		phases_check(&s, 0, N);
	check_phases(&s);
	ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), N);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), CONTEXT - SINKS - NEWEST);
	phases_tear_down(&s);
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
	phases_set_up_alone(&s, &spec);
	phases_run_one(&s, s.seq, 0, 40, false);
	for (uint32_t i = 40; i < N; i += 10) {
		phases_cut_one(s.seq);
		phases_run_one(&s, s.seq, i, i + 10, i % 20);
	}
	check_phases(&s);
	memcpy(s.expected, s.logits + (N - 10) * TINY_VOCAB, 10 * TINY_VOCAB * sizeof(float));
	fresh = test_seq(s.engine);
	phases_run_one(&s, fresh, 0, SINKS, false);
	phases_run_one(&s, fresh, N - 10 - NEWEST, N, false);
	test_near(s.logits + (N - 10) * TINY_VOCAB, s.expected, 10 * TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, fresh);
	phases_tear_down(&s);
}
END_TEST

/* Prompts of a conversation: each as long as the context lets it be, and no longer. */
START_TEST(turns)
{
	static struct setup s;
	uint32_t longest = CONTEXT - SINKS - NEWEST;

	phases_set_up(&s, (unsigned)_i);
	ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, CONTEXT + 1, NULL), KVMOD_ERANGE);
	phases_run(&s, 0, CONTEXT, false);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), 0);
	phases_cut(&s);
	for (uint32_t i = CONTEXT; i + longest <= N; i += longest) {
		ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, longest + 1, NULL), KVMOD_ERANGE);
		ck_assert_str_eq(test_engine_error(),
				 "42 new and 23 cached tokens exceed the context of 64");
		ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, longest, NULL), 0);
		phases_run(&s, i, i + longest, false);
		phases_cut(&s);
		if (!phases_is_yarn((unsigned)_i))
			phases_check(&s, i, i + longest);
	}
	check_phases(&s);
	phases_tear_down(&s);
}
END_TEST

/* Behind the last cut, and to a place in the middle of a step that goes another way. */
START_TEST(truncates)
{
	static struct setup s;

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 50, false);
	phases_cut(&s);
	phases_run(&s, 50, 70, false);
	phases_cut(&s);
	phases_run(&s, 70, 90, true);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 75), 0);
	shifted_forget(s.other, 15);
	tiny_tokens(s.tokens + 75, N - 75, 9);
	phases_run(&s, 75, 90, false);
	phases_cut(&s);
	/* Before the cut: of the newest, ten are left. */
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 80), 0);
	shifted_forget(s.other, 10);
	phases_run(&s, 80, 100, true);
	phases_check(&s, 0, 100);
	phases_tear_down(&s);
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

		phases_set_up(&s, (unsigned)_i);
		phases_run(&s, 0, 50, false);
		phases_cut(&s);
		phases_run(&s, 50, 80, true);
		phases_cut(&s);
		ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, lengths[i]), 0);
		ck_assert_uint_eq(gg_seq_extent(s.seq), left);
		shifted_forget(s.other, SINKS + NEWEST - left);
		phases_run(&s, 80, 110, false);
		ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), lengths[i] + 30);
		phases_check(&s, 80, 110);
		phases_tear_down(&s);
	}
}
END_TEST

/* A fork streams on by itself; the other one knows nothing of it. */
START_TEST(forks)
{
	static float alone[20 * TINY_VOCAB];
	static struct setup s;
	struct kvmod_seq *first;

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 50, false);
	phases_cut(&s);
	phases_run(&s, 50, 80, true);
	phases_cut(&s);
	first = s.seq;
	s.seq = test_fork(first);
	phases_run(&s, 80, 100, true);
	phases_cut(&s);
	phases_run(&s, 100, 140, false);
	phases_cut(&s);
	phases_run(&s, 140, 160, true);
	phases_check(&s, 0, 160);
	memcpy(alone, s.logits + 80 * TINY_VOCAB, sizeof(alone));
	phases_run_one(&s, first, 80, 100, true);
	ck_assert_mem_eq(alone, s.logits + 80 * TINY_VOCAB, sizeof(alone));
	gg_seq_close(s.engine, first);
	phases_tear_down(&s);
}
END_TEST

/* The newest alone: there is no gap, and phases are turned back all the same. */
START_TEST(no_sinks)
{
	static struct setup s;

	phases_set_up(&s, (unsigned)_i);
	for (uint32_t i = 0; i < N; i += 20) {
		phases_run(&s, i, i + 20, false);
		test_apply(s.seq, test_plan_ends(s.seq, 0, NEWEST));
		shifted_cut(s.other, 0, NEWEST);
	}
	phases_check(&s, 0, N);
	check_phases(&s);
	ck_assert_uint_eq(s.seq->caches[0].sinks.room, 0);
	phases_tear_down(&s);
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

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, at, false);
	for (unsigned i = 0; i < sizeof(sinks) / sizeof(*sinks); i++, at += 20) {
		uint32_t newest = i == 2 ? s.seq->caches[0].n[0] - 6 : NEWEST;

		test_apply(s.seq, test_plan_ends(s.seq, sinks[i], newest));
		shifted_cut(s.other, sinks[i], newest);
		phases_run(&s, at, at + 20, i % 2);
		ck_assert_uint_eq(s.seq->caches[0].n[0], sinks[i] + newest + 20);
	}
	phases_check(&s, 0, at);
	phases_tear_down(&s);
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
	phases_set_up_alone(&s, &spec);
	phases_run_one(&s, s.seq, 0, 40, false);
	for (uint32_t i = 40; i < END; i += 10) {
		phases_cut_one(s.seq);
		phases_run_one(&s, s.seq, i, i + 10, false);
	}
	seqs[0] = s.seq;
	seqs[1] = test_seq(s.engine);
	phases_run_one(&s, seqs[1], 0, SINKS, false);
	phases_run_one(&s, seqs[1], END - NEWEST - 10, END, false);
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
	phases_tear_down(&s);
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

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 60, false);
	phases_cut(&s);
	phases_run(&s, 60, 100, false);
	phases_cut(&s);
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
	phases_tear_down(&s);
}
END_TEST

/* Past what the model was trained for: once said, if gaps stay open, and never if not. */
START_TEST(warns_once)
{
	struct test_engine_params params = { .context_override = 1, .batch = 16 };
	static struct setup s;
	unsigned n;

	phases_set_up(&s, 0);
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
	phases_tear_down(&s);
}
END_TEST

/* A layer that stays whole holds the oldest token: what room there is, it sets. */
START_TEST(one_layer_whole)
{
	static struct setup s;
	struct kvmod_plan *plan;

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 50, false);
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
	phases_tear_down(&s);
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

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 50, false);
	test_apply(s.seq, test_plan_ends(s.seq, 0, NEWEST));
	shifted_cut(s.other, 0, NEWEST);
	s.seq->queries.n = 7;	/* as if there were queries, which stay as the keys do */
	for (uint32_t i = 50; i < 90; i += 20) {
		n_fail = 1;	/* the first graph of a step is the one that turns */
		phases_run(&s, i, i + 20, false);
		ck_assert_uint_eq(n_fail, 0);
		ck_assert_int_eq(s.seq->base, 0);
		ck_assert_uint_eq(s.seq->queries.n, 7);
	}
	ck_assert_int_eq(strcmp(test_engine_warning(&n), "no memory to rotate cached keys back: "
							       "distant positions are computed less exactly"), 0);
	ck_assert_uint_eq(n, 1);
	phases_run(&s, 90, 94, false);
	ck_assert_int_eq(s.seq->base, 50 - NEWEST);
	ck_assert_uint_eq(s.seq->queries.n, 0);
	phases_check(&s, 50, 94);
	phases_tear_down(&s);
}
END_TEST

/* Sinks that have moved must be rotated: without memory that fails, and is tried again later. */
START_TEST(no_memory_to_rotate_sinks)
{
	static struct setup s;

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 50, false);
	phases_cut(&s);
	n_fail = 1;
	ck_assert_int_eq(gg_run_tokens(s.engine, s.seq, s.tokens + 50, 10, s.logits, 1), KVMOD_ENOMEM);
	ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), 50);
	phases_run(&s, 50, 60, false);
	phases_check(&s, 50, 60);
	phases_tear_down(&s);
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
	tcase_add_loop_test(tc, no_sinks, 0, 2);
	tcase_add_loop_test(tc, other_sinks, 0, 2);
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
