/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine tells a policy, and the memory that caches take. */
#include "tests/engine_host.h"
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
	int32_t tokens[N];
	float logits[N * TINY_VOCAB];
};

static void set_up(struct setup *s, const struct tiny_model *spec, enum ggml_type type)
{
	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(spec, TINY_GOOD);
	s->engine = test_engine_open(
		&(struct test_engine_params){ .model = s->model, .type = type, .batch = 16 });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	tiny_tokens(s->tokens, N, 3);
}

static void tear_down(struct setup *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
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

/* --- memory ---------------------------------------------------------------------------------------- */

static const struct tiny_model wide = {
	.name = "wide",
	.architecture = "llama",
	.n_layers = 6,
	.width = 64,
	.ffn = 64,
	.n_vocab = TINY_VOCAB,
	.context = TINY_CONTEXT,
	.n_q_heads = 8,
	.n_kv_heads = 8,
	.head_dim = 128,
};

static size_t resident(void)
{
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fscanf(file, "%*u %lu", &pages), 1);
	fclose(file);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

START_TEST(memory_goes_back)
{
	static struct setup s;
	int32_t tokens[1000];
	size_t before, after;
	struct kvmod_bytes full = { .size = sizeof(full) }, less = full;
	struct kvmod_request request;
	struct kvmod_plan *plan;

	set_up(&s, &wide, GGML_TYPE_F32);
	tiny_tokens(tokens, 1000, 9);
	test_run(s.seq, tokens, 1000, NULL, 0);
	gg_seq_bytes(s.engine, s.seq, &full);
	before = resident();
	plan = test_plan(s.seq, &request);
	for (uint32_t i = 0; i < request.n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 2;
		keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = 4 };
		keep->spans[1] = (struct kvmod_span){ .begin = 800, .end = 1000 };
	}
	test_apply(s.seq, plan);
	after = resident();
	gg_seq_bytes(s.engine, s.seq, &less);
	ck_assert_uint_eq(full.used, 2ull * 1000 * 6 * 8 * 128 * 4);
	ck_assert_uint_eq(less.used, full.used / 1000 * 204);
	ck_assert_uint_eq(less.full, full.used);
	ck_assert_uint_eq(less.held, full.used / 1000 * 256);
	/* 36 MB less are cached: nearly all of that is the system's again. */
	ck_assert_uint_ge(before, after + (full.used - less.used) * 9 / 10);
	tear_down(&s);
}
END_TEST

/* Decoding takes memory in steps, and never much more than it needs. */
START_TEST(memory_grows)
{
	static struct setup s;
	int32_t tokens[600];
	static float one[TINY_VOCAB], other[TINY_VOCAB];
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };
	struct kvmod_seq *seq;

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	tiny_tokens(tokens, 600, 4);
	for (uint32_t i = 0; i < 600; i++) {
		test_run(s.seq, tokens + i, 1, one, 1);
		gg_seq_bytes(s.engine, s.seq, &bytes);
		ck_assert_uint_le(bytes.held,
				  bytes.used + bytes.used / 8 + 2 * 2 * TINY_LAYERS * 256 * 32 * 4);
	}
	seq = test_seq(s.engine);
	test_run(seq, tokens, 600, other, 1);
	test_near(one, other, TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, seq);
	tear_down(&s);
}
END_TEST

/* --- queries for policies --------------------------------------------------------------------------- */

static void prompt(struct setup *s, uint32_t n, struct kvmod_amount rows, uint32_t decode_every)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .rows = rows, .decode_every = decode_every };

	ck_assert_msg(!gg_prompt_begin(s->engine, s->seq, n, &needs), "%s", test_engine_error());
	test_run(s->seq, s->tokens + s->seq->logical, n, s->logits, 1);
}

static const struct kvmod_segment *segment_of(struct kvmod_seq *seq, uint32_t layer)
{
	struct kvmod_request request = { .size = sizeof(request) };

	ck_assert(!gg_request(seq->engine, seq, &request));
	ck_assert_uint_eq(request.n_segments, TINY_LAYERS);
	return kvmod_segment_at(&request, layer);
}

/* 20 rows over passes of 16; then as many tokens as were asked for, and a fraction. */
START_TEST(queries_of_a_prompt)
{
	static struct setup s;
	const struct kvmod_segment *segment;
	static float rows[20 * 4 * 32];

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	prompt(&s, 50, (struct kvmod_amount){ .value = 20, .is_count = 1 }, 0);
	segment = segment_of(s.seq, 2);
	ck_assert_uint_eq(segment->n_rows, 20);
	ck_assert_int_eq(segment->q.stride, 4 * 32 * 4);
	ck_assert_int_eq(segment->q.head_stride, 32 * 4);
	memcpy(rows, segment->q.data, sizeof(rows));

	gg_seq_truncate(s.engine, s.seq, 0);
	prompt(&s, 50, (struct kvmod_amount){ .value = 1.0 }, 0);
	segment = segment_of(s.seq, 2);
	ck_assert_uint_eq(segment->n_rows, 50);
	test_near(rows, (const float *)segment->q.data + 30 * 4 * 32, 20 * 4 * 32, NEAR);

	/* A short second turn gives the rows that it has; a token later there are none left. */
	prompt(&s, 3, (struct kvmod_amount){ .value = 20, .is_count = 1 }, 0);
	ck_assert_uint_eq(segment_of(s.seq, 0)->n_rows, 3);
	run(&s, 53, 54, true);
	ck_assert_uint_eq(segment_of(s.seq, 0)->n_rows, 0);
	tear_down(&s);
}
END_TEST

/* While decoding, the newest rows are those of the newest tokens. */
START_TEST(queries_of_decoding)
{
	static struct setup s;
	const struct kvmod_segment *segment;
	static float rows[8 * 4 * 32];

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	prompt(&s, 10, (struct kvmod_amount){ .value = 8, .is_count = 1 }, 1);
	for (uint32_t i = 10; i < N; i++) {
		run(&s, i, i + 1, true);
		segment = segment_of(s.seq, 1);
		ck_assert_uint_eq(segment->n_rows, 8);
	}
	memcpy(rows, segment->q.data, sizeof(rows));
	gg_seq_truncate(s.engine, s.seq, 0);
	prompt(&s, N, (struct kvmod_amount){ .value = 8, .is_count = 1 }, 0);
	test_near(rows, segment_of(s.seq, 1)->q.data, 8 * 4 * 32, NEAR);
	tear_down(&s);
}
END_TEST

/* Nothing that was not asked for is there. */
START_TEST(extras_not_asked)
{
	static struct setup s;
	struct kvmod_needs needs = {
		.size = sizeof(needs), .what = KVMOD_NEED_K,
		.rows = { .value = 1, .is_count = 1 }, .min_rows = 3,
	};
	const struct kvmod_segment *segment;

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, 5, &needs), 0);
	test_run(s.seq, s.tokens, 5, NULL, 0);
	segment = segment_of(s.seq, 0);
	ck_assert_ptr_null(segment->colsum.data);
	ck_assert_ptr_null(segment->q_mean.data);
	ck_assert_ptr_null(segment->q_cov.data);
	ck_assert_ptr_null(segment->wo_norm.data);
	ck_assert_uint_eq(segment->n_rows, 3);
	tear_down(&s);
}
END_TEST

/* A fork has the queries of what it was made from. */
START_TEST(queries_of_a_fork)
{
	static struct setup s;
	struct kvmod_seq *copy;

	set_up(&s, &tiny_models[0], GGML_TYPE_F32);
	prompt(&s, N, (struct kvmod_amount){ .value = 8, .is_count = 1 }, 4);
	copy = test_fork(s.seq);
	ck_assert_uint_eq(segment_of(copy, 1)->n_rows, 8);
	ck_assert_mem_eq(segment_of(copy, 1)->q.data, segment_of(s.seq, 1)->q.data,
			 8 * 4 * 32 * sizeof(float));
	gg_seq_close(s.engine, copy);
	tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, memory_goes_back);
	tcase_add_test(tc, memory_grows);
	tcase_add_test(tc, queries_of_a_prompt);
	tcase_add_test(tc, queries_of_decoding);
	tcase_add_test(tc, extras_not_asked);
	tcase_add_test(tc, queries_of_a_fork);
}

int main(void)
{
	return test_main("engine requests", add);
}
