/* SPDX-License-Identifier: Apache-2.0 */
/* The cost that replay reports, compared with a sum computed from libllama's logits. */
#include "tests/engine_host.h"
#include "tests/oracle.h"
#include "core/testkit/random.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N 80
#define ROWS 24

struct setup {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	struct kvmod_request request;
	struct kvmod_plan *plan;
	int32_t tokens[N];
};

static void set_up(struct setup *s, unsigned model)
{
	s->model = tiny_model_write(&tiny_models[model], TINY_GOOD);
	s->engine = test_engine(s->model, GGML_TYPE_F32);
	s->seq = test_seq(s->engine);
	tiny_tokens(s->tokens, N, 8);
	test_run(s->seq, s->tokens, N, NULL, 0);
	s->plan = test_plan(s->seq, &s->request);
}

static void tear_down(struct setup *s)
{
	kvmod_plan_free(s->plan);
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	unlink(s->model);
	free(s->model);
}

/* A random plan; what it drops before the replayed rows is gone for them. */
static void fill(struct setup *s, struct oracle *oracle)
{
	struct kv_random random = { 21 };

	for (uint32_t i = 0; i < s->request.n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(s->plan, i);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < oracle->n_kv_heads; g++) {
			uint32_t n = 0;

			for (uint32_t j = 0; j < N; j++) {
				if (j + 1 == N || kv_random_range(&random, 0, 99) < 30 + 20 * g)
					keep->indices[g * keep->index_stride + n++] = j;
				else if (j < N - ROWS)
					*oracle_gone(oracle, i, g, j) = N - ROWS;
			}
			keep->counts[g] = n;
		}
	}
}

static double mean_divergence(const float *whole, const float *cut)
{
	double total = 0;

	for (uint32_t t = N - ROWS; t < N; t++)
		total += test_divergence(whole + t * TINY_VOCAB, cut + t * TINY_VOCAB, TINY_VOCAB);
	return total / ROWS;
}

START_TEST(loss_of_a_plan)
{
	static float whole[N * TINY_VOCAB], cut[N * TINY_VOCAB];
	static struct setup s;
	struct oracle *oracle;
	double loss, again, expected;
	uint64_t before;

	set_up(&s, (unsigned)_i);
	oracle = oracle_new(TINY_LAYERS, tiny_models[_i].n_kv_heads, N);
	oracle_run(oracle, s.model, s.tokens, whole);
	fill(&s, oracle);
	oracle_run(oracle, s.model, s.tokens, cut);
	expected = mean_divergence(whole, cut);
	before = test_fingerprint(s.seq);
	ck_assert_msg(!s.request.replay(&s.request, s.plan, ROWS, &loss), "%s", test_engine_error());
	ck_assert_double_eq_tol(loss, expected, 1e-3 * expected);
	ck_assert_double_gt(loss, 0.01);
	ck_assert(!s.request.replay(&s.request, s.plan, ROWS, &again));
	ck_assert_double_eq(loss, again);
	ck_assert_uint_eq(test_fingerprint(s.seq), before);
	ck_assert_uint_eq(gg_seq_length(s.engine, s.seq), N);
	oracle_free(oracle);
	tear_down(&s);
}
END_TEST

/* A plan that keeps everything costs nothing at all, with and without lists. */
START_TEST(keep_all_costs_nothing)
{
	static struct setup s;
	double loss = 1;

	set_up(&s, 0);
	ck_assert(!s.request.replay(&s.request, s.plan, ROWS, &loss));
	ck_assert_double_eq(loss, 0);
	for (uint32_t i = 0; i < s.request.n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(s.plan, i);

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 2;
		keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = 11 };
		keep->spans[1] = (struct kvmod_span){ .begin = 11, .end = N };
	}
	loss = 1;
	ck_assert(!s.request.replay(&s.request, s.plan, N - 1, &loss));
	ck_assert_double_eq(loss, 0);
	tear_down(&s);
}
END_TEST

START_TEST(too_many_rows)
{
	static struct setup s;
	double loss;

	set_up(&s, 0);
	ck_assert_int_eq(s.request.replay(&s.request, s.plan, N, &loss), KVMOD_ERANGE);
	ck_assert_str_eq(test_engine_error(),
			 "cannot replay 80 of 80 tokens: at least one token must precede them");
	ck_assert_int_eq(s.request.replay(&s.request, s.plan, 0, &loss), KVMOD_ERANGE);
	tear_down(&s);
}
END_TEST

/* After more tokens the run over everything is another one. */
START_TEST(after_more_tokens)
{
	static struct setup s;
	double loss = 1;

	set_up(&s, 0);
	ck_assert(!s.request.replay(&s.request, s.plan, ROWS, &loss));
	ck_assert_uint_eq(s.seq->whole.rows, ROWS);
	test_run(s.seq, s.tokens, 10, NULL, 0);
	ck_assert_uint_eq(s.seq->whole.rows, 0);
	kvmod_plan_free(s.plan);
	s.plan = test_plan(s.seq, &s.request);
	ck_assert(!s.request.replay(&s.request, s.plan, ROWS, &loss));
	ck_assert_double_eq(loss, 0);
	tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, loss_of_a_plan, 0, (int)n_tiny_models);
	tcase_add_test(tc, keep_all_costs_nothing);
	tcase_add_test(tc, too_many_rows);
	tcase_add_test(tc, after_more_tokens);
}

int main(void)
{
	return test_main("engine replay", add);
}
