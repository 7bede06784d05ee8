/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's arithmetic against libllama, on small models of every family. */
#include "tests/engine_host.h"
#include "tests/oracle.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N 70
#define NEAR 1e-4

struct setup {
	char *model;
	struct gg_engine *engine;
	int32_t tokens[N];
	float logits[N * TINY_VOCAB], expected[N * TINY_VOCAB];
};

/* A model, its engine, tokens, and what libllama says to them. */
static void set_up(struct setup *s, unsigned model, enum ggml_type type, int64_t batch)
{
	struct oracle *oracle = oracle_new(TINY_LAYERS, tiny_models[model].n_kv_heads, N);

	s->model = tiny_model_write(&tiny_models[model], TINY_GOOD);
	s->engine = test_engine_open(
		&(struct test_engine_params){ .model = s->model, .type = type, .batch = batch });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	tiny_tokens(s->tokens, N, model);
	oracle_run(oracle, s->model, s->tokens, s->expected);
	oracle_free(oracle);
}

static void tear_down(struct setup *s)
{
	test_engine_close(s->engine);
	unlink(s->model);
	free(s->model);
}

START_TEST(one_pass)
{
	static struct setup s;
	struct kvmod_seq *seq;

	set_up(&s, (unsigned)_i, GGML_TYPE_F32, 0);
	seq = test_seq(s.engine);
	test_run(seq, s.tokens, N, s.logits, N);
	test_near(s.logits, s.expected, N * TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, seq);
	tear_down(&s);
}
END_TEST

/* Chunks of 7, the end one by one. */
START_TEST(chunks)
{
	static struct setup s;
	struct kvmod_seq *seq;

	set_up(&s, (unsigned)_i, GGML_TYPE_F32, 7);
	seq = test_seq(s.engine);
	test_run(seq, s.tokens, N - 5, s.logits, N - 5);
	for (int i = N - 5; i < N; i++)
		test_run(seq, s.tokens + i, 1, s.logits + i * TINY_VOCAB, 1);
	test_near(s.logits, s.expected, N * TINY_VOCAB, NEAR);
	ck_assert_uint_eq(gg_seq_length(s.engine, seq), N);
	gg_seq_close(s.engine, seq);
	tear_down(&s);
}
END_TEST

/* Only the last logits are wanted: earlier passes leave out what leads to none. */
START_TEST(last_logits)
{
	static struct setup s;
	struct kvmod_seq *seq;

	set_up(&s, 0, GGML_TYPE_F32, 16);
	seq = test_seq(s.engine);
	test_run(seq, s.tokens, 50, NULL, 0);
	test_run(seq, s.tokens + 50, N - 50, s.logits, 2);
	test_near(s.logits, s.expected + (N - 2) * TINY_VOCAB, 2 * TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, seq);
	tear_down(&s);
}
END_TEST

static const struct {
	enum ggml_type type;
	double near;
} types[] = {
	{ GGML_TYPE_F16, 3e-3 },
	{ GGML_TYPE_Q8_0, 8e-2 },
};

/* Root of the mean square of a - b, as a share of b's. */
static double distance(const float *a, const float *b, size_t n)
{
	double sum = 0, whole = 0;

	for (size_t i = 0; i < n; i++) {
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
		whole += (double)b[i] * (double)b[i];
	}
	return sqrt(sum / whole);
}

START_TEST(cache_types)
{
	static struct setup s;
	struct kvmod_seq *seq;
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };

	set_up(&s, 0, types[_i].type, 0);
	seq = test_seq(s.engine);
	test_run(seq, s.tokens, N - 10, s.logits, N - 10);
	for (int i = N - 10; i < N; i++)
		test_run(seq, s.tokens + i, 1, s.logits + i * TINY_VOCAB, 1);
	ck_assert_double_lt(distance(s.logits, s.expected, N * TINY_VOCAB), types[_i].near);
	gg_seq_bytes(s.engine, seq, &bytes);
	ck_assert_uint_eq(bytes.used, 2ull * N * TINY_LAYERS * 2 * ggml_row_size(types[_i].type, 32));
	ck_assert_uint_eq(bytes.full, bytes.used);
	ck_assert_uint_ge(bytes.held, bytes.used);
	gg_seq_close(s.engine, seq);
	tear_down(&s);
}
END_TEST

/* --- several sequences in one batch ------------------------------------------------------ */

#define N_SEQS 5

/* Prompts of unequal length together, then tokens of all of them together. */
START_TEST(batches)
{
	static struct setup s;
	static float alone[TINY_VOCAB], together[N_SEQS][TINY_VOCAB];
	static const uint32_t lengths[N_SEQS] = { 1, 60, 17, 33, 2 };
	struct kvmod_batch_item items[N_SEQS];
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = N_SEQS,
		.item_stride = sizeof(items[0]),
		.items = items,
	};
	struct kvmod_seq *seq;

	set_up(&s, (unsigned)_i, GGML_TYPE_F32, 24);
	for (int i = 0; i < N_SEQS; i++)
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(items[0]),
			.seq = test_seq(s.engine),
			.tokens = s.tokens + i,
			.n_tokens = lengths[i],
			.logits = together[i],
			.n_logits = 1,
		};
	ck_assert_msg(!gg_step(s.engine, &batch), "%s", test_engine_error());
	for (int step = 0; step < 3; step++) {
		for (int i = 0; i < N_SEQS; i++) {
			items[i].tokens += items[i].n_tokens;
			items[i].n_tokens = 1;
		}
		ck_assert_msg(!gg_step(s.engine, &batch), "%s", test_engine_error());
	}
	for (int i = 0; i < N_SEQS; i++) {
		seq = test_seq(s.engine);
		test_run(seq, s.tokens + i, lengths[i] + 3, alone, 1);
		test_near(together[i], alone, TINY_VOCAB, NEAR);
		ck_assert_uint_eq(items[i].seq->logical, lengths[i] + 3);
		gg_seq_close(s.engine, seq);
		gg_seq_close(s.engine, items[i].seq);
	}
	tear_down(&s);
}
END_TEST

/* --- batches that are refused, and that fail half-way ------------------------------------------- */

static void count_and_cancel(void *arg, uint64_t done)
{
	if (done >= 20)
		gg_engine_ops.cancel(arg);
}

/* Cancelled in its third pass: nothing has happened, and it can be run again. */
START_TEST(cancelled)
{
	static struct setup s;
	struct kvmod_batch_item item = { .size = sizeof(item), .n_tokens = N, .n_logits = 1 };
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = 1,
		.item_stride = sizeof(item),
		.items = &item,
		.progress = count_and_cancel,
	};

	set_up(&s, 0, GGML_TYPE_F32, 10);
	item.seq = test_seq(s.engine);
	item.tokens = s.tokens;
	item.logits = s.logits;
	batch.progress_arg = s.engine;
	test_run(item.seq, s.tokens, 3, NULL, 0);
	ck_assert_int_eq(gg_step(s.engine, &batch), KVMOD_ECANCELED);
	ck_assert_uint_eq(item.seq->logical, 3);
	ck_assert_uint_eq(item.seq->caches[0].n[0], 3);
	gg_seq_truncate(s.engine, item.seq, 0);
	test_run(item.seq, s.tokens, N, s.logits, 1);
	test_near(s.logits, s.expected + (N - 1) * TINY_VOCAB, TINY_VOCAB, NEAR);
	gg_seq_close(s.engine, item.seq);
	tear_down(&s);
}
END_TEST

START_TEST(bad_batches)
{
	static struct setup s;
	struct kvmod_batch_item items[2] = {
		{ .size = sizeof(items[0]), .n_tokens = 2, .n_logits = 1 },
		{ .size = sizeof(items[0]), .n_tokens = 2 },
	};
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = 2,
		.item_stride = sizeof(items[0]),
		.items = items,
	};
	int32_t wrong[2] = { 0, TINY_VOCAB };
	struct kvmod_seq *seqs[2];

	set_up(&s, 0, GGML_TYPE_F32, 0);
	for (int i = 0; i < 2; i++) {
		items[i].seq = seqs[i] = test_seq(s.engine);
		items[i].tokens = s.tokens;
	}
	ck_assert_int_eq(gg_step(s.engine, &batch), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(),
			 "item 0 of the batch has 2 tokens and wants 1 logits, but no memory for them");
	items[0].logits = s.logits;
	items[1].tokens = wrong;
	ck_assert_int_eq(gg_step(s.engine, &batch), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(), "token 300 is not in the vocabulary of 300 tokens");
	items[1] = items[0];
	ck_assert_int_eq(gg_step(s.engine, &batch), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(), "items 0 and 1 of the batch belong to one sequence");
	ck_assert_uint_eq(seqs[0]->logical, 0);
	for (int i = 0; i < 2; i++)
		gg_seq_close(s.engine, seqs[i]);
	tear_down(&s);
}
END_TEST

START_TEST(context)
{
	struct test_engine_params params = { .context = 100 };
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct kvmod_needs needs = { .size = sizeof(needs) };
	int32_t tokens[110];
	struct kvmod_seq *seq;
	struct gg_engine *engine;

	tiny_tokens(tokens, 110, 1);
	params.model = model;
	engine = test_engine_open(&params);
	ck_assert_uint_eq(gg_engine_ops.model(engine)->context, 100);
	seq = test_seq(engine);
	test_run(seq, tokens, 60, NULL, 0);
	ck_assert_int_eq(gg_prompt_begin(engine, seq, 41, &needs), KVMOD_ERANGE);
	ck_assert_str_eq(test_engine_error(),
			 "41 new and 60 cached tokens exceed the context of 100");
	ck_assert_int_eq(gg_prompt_begin(engine, seq, 0, &needs), KVMOD_EINVAL);
	ck_assert_int_eq(gg_prompt_begin(engine, seq, 40, &needs), 0);
	test_run(seq, tokens, 40, NULL, 0);
	ck_assert_int_eq(gg_run_tokens(engine, seq, tokens, 1, NULL, 0), KVMOD_ERANGE);
	gg_seq_close(engine, seq);
	test_engine_close(engine);

	params.context_override = 1;
	engine = test_engine_open(&params);
	seq = test_seq(engine);
	test_run(seq, tokens, 110, NULL, 0);
	gg_seq_close(engine, seq);
	test_engine_close(engine);

	params.context = TINY_CONTEXT + 1;
	params.context_override = 0;
	ck_assert_ptr_null(test_engine_open(&params));
	ck_assert_int_eq(test_engine_code(), KVMOD_ERANGE);
	unlink(model);
	free(model);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, one_pass, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, chunks, 0, (int)n_tiny_models);
	tcase_add_test(tc, last_logits);
	tcase_add_loop_test(tc, cache_types, 0, 2);
	tcase_add_loop_test(tc, batches, 0, (int)n_tiny_models);
	tcase_add_test(tc, cancelled);
	tcase_add_test(tc, bad_batches);
	tcase_add_test(tc, context);
}

int main(void)
{
	return test_main("engine", add);
}
