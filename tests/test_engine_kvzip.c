/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVzip with context first on the default model, with weights as F32, against what an
 * independent program kept of the context and predicted after the question.
 */
#include <config.h>

#include "tests/e2e_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct kvmod_module kvmod_module_kvzip;

/* Lines of the file; with KVMOD_GOLDEN_ALL in the environment all six, which takes minutes. */
static const int lines[] = { 5, 4, 0, 1, 2, 3 };
#define N_USUAL	2
#define N_LINES 6
#define MAX_CHUNKS 3

static char *f32_model;

struct setup {
	struct gg_engine *engine;
	const struct kvmod_model *model;
	json_t *all, *line;
	struct kvmod_seq *seq;
	int32_t *question, *greedy;
	size_t n_question, n_greedy;
	struct kvmod_request request;
	struct kvmod_plan *plan;
	float *whole; /* logits after the question, of the greedy tokens, over the whole context */
};

/* --- reading again once, for all budgets ------------------------------------------------ */

static int32_t (*engine_reread)(const struct kvmod_request *, const struct kvmod_reread *, float *);
static struct {
	struct kvmod_reread what;
	float *weights;
} chunks[MAX_CHUNKS];
static int n_chunks;

static int32_t reread_once(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	size_t bytes = (size_t)(what->end - what->begin) * r->n_segments *
		       kvmod_segment_at(r, 0)->n_kv_heads * sizeof(*out);
	int i = 0;

	while (i < n_chunks && chunks[i].what.begin != what->begin)
		i++;
	if (i == n_chunks) {
		ck_assert_int_lt(n_chunks++, MAX_CHUNKS);
		chunks[i].what = *what;
		chunks[i].weights = malloc(bytes);
		ck_assert_msg(!engine_reread(r, what, chunks[i].weights), "%s", test_engine_error());
	}
	ck_assert_uint_eq(chunks[i].what.end, what->end);
	memcpy(out, chunks[i].weights, bytes);
	return KVMOD_OK;
}

static void forget_chunks(void)
{
	while (n_chunks > 0)
		free(chunks[--n_chunks].weights);
}

/* --- a context and its question ----------------------------------------------------------- */

/* Runs the question and all of the answer but its last token: [n_greedy][n_vocab]. */
static float *run_answer(struct setup *s, struct kvmod_seq *context)
{
	float *logits = malloc(s->n_greedy * s->model->n_vocab * sizeof(*logits));
	struct kvmod_seq *copy = test_fork(context);

	test_run(copy, s->question, (uint32_t)s->n_question, logits, 1);
	test_run(copy, s->greedy, (uint32_t)s->n_greedy - 1, logits + s->model->n_vocab,
		 (uint32_t)s->n_greedy - 1);
	gg_seq_close(s->engine, copy);
	return logits;
}

static void set_up(struct setup *s, int index)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_ALL_LAYERS };
	int32_t *context;
	size_t n;

	s->engine = test_engine(f32_model, GGML_TYPE_F32);
	s->model = gg_engine_ops.model(s->engine);
	s->all = e2e_load_kvzip();
	s->line = json_array_get(s->all, (size_t)index);
	s->question = e2e_ints(s->line, "question_tokens", &s->n_question);
	s->greedy = e2e_ints(s->line, "greedy", &s->n_greedy);
	context = e2e_ints(s->line, "context_tokens", &n);
	s->seq = test_seq(s->engine);
	ck_assert(!gg_prompt_begin(s->engine, s->seq, n, &needs));
	test_run(s->seq, context, (uint32_t)n, NULL, 0);
	free(context);
	s->whole = run_answer(s, s->seq);
	s->plan = test_plan(s->seq, &s->request);
	s->request.opening = (uint64_t)e2e_number(s->line, "first");
	engine_reread = s->request.reread;
	s->request.reread = reread_once;
}

static void tear_down(struct setup *s)
{
	forget_chunks();
	kvmod_plan_free(s->plan);
	free(s->whole);
	free(s->question);
	free(s->greedy);
	json_decref(s->all);
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
}

static void decide(struct setup *s, const char *budget)
{
	struct kvmod_policy *policy;
	struct kvmod_ctx *ctx;
	char override[64];
	const char *overrides[] = { override };

	snprintf(override, sizeof(override), "policy kvzip.budget=%s", budget);
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &kvmod_module_kvzip), 0);
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", overrides, 1), "%s", kvmod_error());
	ck_assert_msg(!kvmod_policy_open(ctx, "kvzip", "cpu", s->model, &policy), "%s", kvmod_error());
	ck_assert_msg(!kvmod_decide(policy, &s->request, s->plan), "%s, %s", kvmod_error(), test_engine_error());
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}

/*
 * How many positions each head keeps. A score that is next to the threshold may fall on the
 * other side, and another one takes its place.
 */
static void check_counts(struct setup *s, const json_t *golden)
{
	const json_t *layers = json_object_get(golden, "keep");
	json_int_t sum = 0, expected_sum = 0, off = 0;

	ck_assert_uint_eq(json_array_size(layers), s->model->n_layers);
	for (uint32_t i = 0; i < s->model->n_layers; i++) {
		for (uint32_t g = 0; g < s->model->n_kv_heads; g++) {
			json_int_t n = json_integer_value(json_array_get(json_array_get(layers, i), g));
			json_int_t kept = (json_int_t)kvmod_plan_count(&s->request, s->plan, i, g);

			ck_assert_msg(llabs(kept - n) <= 2, "layer %u, head %u: %lld kept, expected %lld",
				      i, g, (long long)kept, (long long)n);
			sum += kept;
			expected_sum += n;
			off += llabs(kept - n);
		}
	}
	ck_assert_int_eq(sum, expected_sum);
	ck_assert_int_le(off, 8);
}

static void check_answer(struct setup *s, const json_t *golden)
{
	struct kvmod_seq *copy = test_fork(s->seq);
	size_t n = s->model->n_vocab;
	double kl = 0, agree = 0;
	float *cut;

	ck_assert(!gg_apply(s->engine, copy, s->plan));
	cut = run_answer(s, copy);
	for (size_t i = 0; i < s->n_greedy; i++) {
		kl += e2e_divergence(s->whole + i * n, cut + i * n, n);
		agree += e2e_best(s->whole + i * n, n) == e2e_best(cut + i * n, n);
	}
	ck_assert_double_eq_tol(kl / (double)s->n_greedy, e2e_number(golden, "kl"),
				1e-5 + 3e-3 * e2e_number(golden, "kl"));
	ck_assert_double_eq_tol(agree / (double)s->n_greedy, e2e_number(golden, "agree"), 1e-4);
	free(cut);
	gg_seq_close(s->engine, copy);
}

START_TEST(golden)
{
	static const char *const budgets[] = { "0.5", "0.3", "0.1" };
	struct setup s;

	set_up(&s, lines[_i]);
	for (int b = 0; b < 3; b++) {
		char key[16];
		const json_t *expected;

		snprintf(key, sizeof(key), "kvzip_%s", budgets[b]);
		expected = json_object_get(s.line, key);
		decide(&s, budgets[b]);
		check_counts(&s, expected);
		check_answer(&s, expected);
	}
	tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_set_timeout(tc, 900);
	tcase_add_loop_test(tc, golden, 0, getenv("KVMOD_GOLDEN_ALL") ? N_LINES : N_USUAL);
}

int main(void)
{
	if (!*TEST_MODEL) {
		puts("no default model: configure --with-model=FILE");
		return 77;
	}
	return e2e_main("engine kvzip", TEST_MODEL, &f32_model, add);
}
