/* SPDX-License-Identifier: Apache-2.0 */
/* Ragged caches: compressed at random and decoded on, compared with libllama under masks. */
#include "tests/engine_host.h"
#include "tests/oracle.h"
#include "core/testkit/random.h"
#include "tests/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N 96
#define NEAR 1e-4

struct setup {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	struct oracle *oracle;
	struct kv_random random;
	int32_t tokens[N];
	float logits[N * TINY_VOCAB], expected[N * TINY_VOCAB];
};

static void set_up(struct setup *s, const struct tiny_model *spec, enum ggml_type type)
{
	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(spec, TINY_GOOD);
	s->engine = test_engine_open(
		&(struct test_engine_params){ .model = s->model, .type = type, .batch = 16 });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	s->oracle = oracle_new(spec->n_layers, spec->n_kv_heads, N);
	s->random.state = 5;
	tiny_tokens(s->tokens, N, 3);
}

static void tear_down(struct setup *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	oracle_free(s->oracle);
	unlink(s->model);
	free(s->model);
}

/* Runs tokens[from..to) in one call, or one by one. */
static void run(struct setup *s, uint32_t from, uint32_t to, bool single)
{
	uint32_t n = single ? 1 : to - from;

	for (uint32_t i = from; i < to; i += n)
		test_run(s->seq, s->tokens + i, n, s->logits + i * TINY_VOCAB, n);
}

static void check(struct setup *s)
{
	oracle_run(s->oracle, s->model, s->tokens, s->expected);
	test_near(s->logits, s->expected, N * TINY_VOCAB, NEAR);
}

static uint32_t position_at(const struct kvmod_head *head, uint32_t i)
{
	return head->positions ? (uint32_t)head->positions[i] : i;
}

static void note_gone(struct setup *s, uint32_t layer, uint32_t g, uint32_t position)
{
	*oracle_gone(s->oracle, layer, g, position) = (uint32_t)s->seq->logical;
}

/* Each head keeps about `percent` of what it has, and its newest. */
static void cut_heads(struct setup *s, const struct kvmod_segment *segment, struct kvmod_keep *keep,
		      uint32_t percent)
{
	keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(segment, g);
		uint32_t *indices = keep->indices + g * keep->index_stride, n = 0;

		for (uint32_t i = 0; i < head->n; i++) {
			if (i + 1 == head->n || kv_random_range(&s->random, 0, 99) < percent)
				indices[n++] = i;
			else
				note_gone(s, segment->layer, g, position_at(head, i));
		}
		keep->counts[g] = n;
	}
}

/* The first three and the last `last`, in every head. */
static void cut_spans(struct setup *s, const struct kvmod_segment *segment, struct kvmod_keep *keep,
		      uint32_t last)
{
	uint32_t n = kvmod_head_at(segment, 0)->n;

	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 2;
	keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = 3 };
	keep->spans[1] = (struct kvmod_span){ .begin = n - last, .end = n };
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		for (uint32_t i = 3; i < n - last; i++)
			note_gone(s, segment->layer, g, position_at(kvmod_head_at(segment, g), i));
	}
}

/* Layer 0 as the kind says, the others head by head; layer 2 is sometimes whole. */
static void cut(struct setup *s, uint32_t kind)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(s->seq, &request);

	for (uint32_t i = 0; i < request.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&request, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (!i && kind == KVMOD_KEEP_SPANS)
			cut_spans(s, segment, keep, 9);
		else if (i < 2 || kv_random_range(&s->random, 0, 1))
			cut_heads(s, segment, keep, 20 + 30 * i);
		ck_assert_msg(!kvmod_plan_check(&request, plan, i, 0), "%s", kvmod_error());
	}
	test_apply(s->seq, plan);
}

/* Keeps the oldest `n` of every head: what comes next is not the n-th position. */
static void keep_oldest(struct setup *s, uint32_t n)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(s->seq, &request);

	for (uint32_t i = 0; i < request.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&request, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = n };
		for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
			for (uint32_t p = n; p < kvmod_head_at(segment, g)->n; p++)
				note_gone(s, segment->layer, g, p);
		}
	}
	test_apply(s->seq, plan);
}

/* Truncating takes the newest rows, not those whose number is past the length. */
START_TEST(oldest_only)
{
	static struct setup s;

	set_up(&s, &tiny_models[_i], GGML_TYPE_F32);
	run(&s, 0, 40, false);
	keep_oldest(&s, 2);
	run(&s, 40, 60, false);
	ck_assert(!gg_seq_truncate(s.engine, s.seq, 45));
	ck_assert_uint_eq(s.seq->caches[0].n[0], 2 + 5);
	run(&s, 45, 70, true);
	run(&s, 70, N, false);
	check(&s);
	tear_down(&s);
}
END_TEST

/* Two turns, cut after each, and decoding in between. */
START_TEST(two_turns)
{
	static struct setup s;

	set_up(&s, &tiny_models[_i], GGML_TYPE_F32);
	run(&s, 0, 40, false);
	cut(&s, KVMOD_KEEP_HEADS);
	run(&s, 40, 50, true);
	run(&s, 50, 80, false);
	cut(&s, KVMOD_KEEP_HEADS);
	run(&s, 80, N, true);
	check(&s);
	tear_down(&s);
}
END_TEST

START_TEST(spans)
{
	static struct setup s;

	set_up(&s, &tiny_models[_i], GGML_TYPE_F32);
	run(&s, 0, 60, false);
	cut(&s, KVMOD_KEEP_SPANS);
	run(&s, 60, 70, true);
	run(&s, 70, N, false);
	check(&s);
	tear_down(&s);
}
END_TEST

/* Positions that were cut stay cut, whatever is forgotten behind them. */
START_TEST(truncate_ragged)
{
	static struct setup s;
	uint32_t back = _i ? 55 : 30; /* behind the cut, and before it */

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	run(&s, 0, 50, false);
	cut(&s, KVMOD_KEEP_HEADS);
	run(&s, 50, 60, true);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 61), KVMOD_ERANGE);
	ck_assert_str_eq(test_engine_error(), "cannot truncate to 61 tokens: the sequence has 60");
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, back), 0);
	ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), back);
	tiny_tokens(s.tokens + back, N - back, 77);
	for (uint32_t i = 0; i < TINY_LAYERS * 2 * N; i++) {
		uint32_t *gone = &s.oracle->gone[i];

		/* What was cut and forgotten comes anew; what was cut before is gone for all that is new. */
		if (*gone != UINT32_MAX)
			*gone = i % N >= back ? UINT32_MAX : *gone < back ? *gone : back;
	}
	run(&s, back, N, false);
	oracle_run(s.oracle, s.model, s.tokens, s.expected);
	test_near(s.logits + back * TINY_VOCAB, s.expected + back * TINY_VOCAB,
		  (N - back) * TINY_VOCAB, NEAR);
	tear_down(&s);
}
END_TEST

/* A fork goes its own way; the other one knows nothing of it. */
START_TEST(fork_ragged)
{
	static struct setup s;
	struct kvmod_seq *first;
	static float before[TINY_VOCAB];

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	run(&s, 0, 40, false);
	cut(&s, KVMOD_KEEP_HEADS);
	run(&s, 40, 60, false);
	first = s.seq;
	s.seq = test_fork(first);
	test_run(first, s.tokens + 60, 1, before, 1);
	cut(&s, KVMOD_KEEP_HEADS);
	run(&s, 60, N, true);
	check(&s);
	gg_seq_truncate(s.engine, first, 60);
	test_run(first, s.tokens + 60, 1, s.logits, 1);
	ck_assert_mem_eq(before, s.logits, sizeof(before));
	gg_seq_close(s.engine, first);
	tear_down(&s);
}
END_TEST

/* Ragged and whole sequences decode together as they do alone. */
START_TEST(batch_of_ragged)
{
	static struct setup s;
	static float alone[3][TINY_VOCAB], together[3][TINY_VOCAB];
	struct kvmod_batch_item items[3];
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = 3,
		.item_stride = sizeof(items[0]),
		.items = items,
	};

	set_up(&s, &tiny_models[_i], GGML_TYPE_F32);
	run(&s, 0, 50, false);
	for (int i = 0; i < 3; i++) {
		struct kvmod_seq *copy;

		if (i)
			cut(&s, KVMOD_KEEP_HEADS);
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(items[0]),
			.seq = test_fork(s.seq),
			.tokens = s.tokens + 50 + i,
			.n_tokens = 1 + (uint32_t)i,
			.n_logits = 1,
			.logits = together[i],
		};
		copy = test_fork(s.seq);
		test_run(copy, items[i].tokens, items[i].n_tokens, alone[i], 1);
		gg_seq_close(s.engine, copy);
	}
	ck_assert_msg(!gg_step(s.engine, &batch), "%s", test_engine_error());
	for (int i = 0; i < 3; i++) {
		test_near(together[i], alone[i], TINY_VOCAB, NEAR);
		gg_seq_close(s.engine, items[i].seq);
	}
	tear_down(&s);
}
END_TEST

/* The last ten positions of one layer. */
static void cut_one_layer(struct kvmod_seq *seq, uint32_t layer)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(seq, &request);
	struct kvmod_keep *keep = kvmod_keep_at(plan, layer);

	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 1;
	keep->spans[0] = (struct kvmod_span){ .begin = 40, .end = 50 };
	test_apply(seq, plan);
}

/*
 * Graphs of as many nodes that differ in which layer is short, one after the
 * other: memory planned for one must not serve the next.
 */
START_TEST(alternate)
{
	static struct setup s;
	static float logits[TINY_LAYERS][20 * TINY_VOCAB];
	struct kvmod_seq *seqs[TINY_LAYERS];

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	run(&s, 0, 50, false);
	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		seqs[i] = test_fork(s.seq);
		cut_one_layer(seqs[i], i);
	}
	for (uint32_t t = 0; t < 20; t++) {
		for (uint32_t i = 0; i < TINY_LAYERS; i++)
			test_run(seqs[i], s.tokens + 50 + t, 1, logits[i] + t * TINY_VOCAB, 1);
	}
	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		memset(s.oracle->gone, 0xff, TINY_LAYERS * 2 * N * sizeof(uint32_t));
		for (uint32_t j = 0; j < 40; j++)
			*oracle_gone(s.oracle, i, 0, j) = *oracle_gone(s.oracle, i, 1, j) = 50;
		oracle_run(s.oracle, s.model, s.tokens, s.expected);
		test_near(logits[i], s.expected + 50 * TINY_VOCAB, 20 * TINY_VOCAB, NEAR);
		gg_seq_close(s.engine, seqs[i]);
	}
	tear_down(&s);
}
END_TEST

/* --- plans that keep everything --------------------------------------------------------------- */

static void keep_all(struct kvmod_seq *seq, uint32_t kind)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(seq, &request);

	for (uint32_t i = 0; i < request.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&request, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = kind;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = (uint32_t)segment->logical };
		for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
			keep->counts[g] = kvmod_head_at(segment, g)->n;
			for (uint32_t j = 0; j < keep->counts[g]; j++)
				keep->indices[g * keep->index_stride + j] = j;
		}
	}
	test_apply(seq, plan);
}

START_TEST(keep_all_is_exact)
{
	static const enum ggml_type types[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0 };
	static struct setup s;
	static float cut_logits[20 * TINY_VOCAB];
	struct kvmod_seq *copy;

	set_up(&s, &tiny_models[0], types[_i / 3]);
	run(&s, 0, 60, false);
	copy = test_fork(s.seq);
	/* In turns of two, and cut within one: a graph must not outlive what it is for. */
	for (uint32_t i = 0; i < 20; i++) {
		if (i == 11)
			keep_all(copy, (uint32_t)(_i % 3));
		test_run(copy, s.tokens + 60 + i, 1, cut_logits + i * TINY_VOCAB, 1);
		if (i % 2)
			run(&s, 59 + i, 61 + i, true);
	}
	ck_assert_mem_eq(cut_logits, s.logits + 60 * TINY_VOCAB, sizeof(cut_logits));
	ck_assert_ptr_null(copy->caches[0].positions);
	gg_seq_close(s.engine, copy);
	tear_down(&s);
}
END_TEST

/* A segment whose keep was refused, and a plan for another model. */
START_TEST(refused_plans)
{
	static struct setup s;
	struct kvmod_request request;
	struct kvmod_plan *plan;

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	run(&s, 0, 40, false);
	plan = test_plan(s.seq, &request);
	cut_heads(&s, kvmod_segment_at(&request, 1), kvmod_keep_at(plan, 1), 10);
	kvmod_keep_at(plan, 1)->status = KVMOD_EPLAN;
	test_apply(s.seq, plan);
	ck_assert_uint_eq(s.seq->caches[1].n[0], 40);
	plan = test_plan(s.seq, &request);
	plan->n_keeps--;
	ck_assert_int_eq(gg_apply(s.engine, s.seq, plan), KVMOD_EPLAN);
	kvmod_plan_free(plan);
	tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, oldest_only, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, two_turns, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, spans, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, truncate_ragged, 0, 2);
	tcase_add_test(tc, fork_ragged);
	tcase_add_loop_test(tc, batch_of_ragged, 0, (int)n_tiny_models);
	tcase_add_test(tc, alternate);
	tcase_add_loop_test(tc, keep_all_is_exact, 0, 9);
	tcase_add_test(tc, refused_plans);
}

int main(void)
{
	return test_main("engine caches", add);
}
