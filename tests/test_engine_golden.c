/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares whole prompts on the default model, with weights as F32, with what an
 * independent program kept, lost and answered.
 */
#include <config.h>

#include "tests/e2e_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUERY_ROWS 64u
#define SINKS 4u
#define WINDOW 32u
#define HALF_POOL 16u
#define N_LEVELS 21 /* the level after the last keeps everything */

extern const struct kvmod_module kvmod_module_refreekv, kvmod_module_snapkv;

static char *f32_model;

struct setup {
	struct gg_engine *engine;
	const struct kvmod_model *model;
	json_t *all, *prompt;
	int32_t *tokens, *greedy;
	size_t n, n_greedy;
	struct kvmod_seq *seq;
	struct kvmod_request request;
	struct kvmod_plan *plan;
	float *whole; /* logits of the greedy tokens over the whole cache */
};

static float *run_greedy(struct setup *s, struct kvmod_seq *seq)
{
	float *logits = malloc(s->n_greedy * s->model->n_vocab * sizeof(*logits));

	test_run(seq, s->greedy, (uint32_t)s->n_greedy, logits, (uint32_t)s->n_greedy);
	return logits;
}

static void set_up(struct setup *s, int index)
{
	struct kvmod_needs needs = { .size = sizeof(needs),
				     .rows = { .value = QUERY_ROWS, .is_count = 1 } };
	struct kvmod_seq *copy;

	s->engine = test_engine(f32_model, GGML_TYPE_F32);
	s->model = gg_engine_ops.model(s->engine);
	s->all = e2e_load();
	s->prompt = json_array_get(s->all, (size_t)index);
	s->tokens = e2e_ints(s->prompt, "tokens", &s->n);
	s->greedy = e2e_ints(s->prompt, "greedy", &s->n_greedy);
	s->seq = test_seq(s->engine);
	ck_assert(!gg_prompt_begin(s->engine, s->seq, s->n, &needs));
	test_run(s->seq, s->tokens, (uint32_t)s->n, NULL, 0);
	copy = test_fork(s->seq);
	s->whole = run_greedy(s, copy);
	gg_seq_close(s->engine, copy);
	s->plan = test_plan(s->seq, &s->request);
}

static void tear_down(struct setup *s)
{
	kvmod_plan_free(s->plan);
	free(s->whole);
	free(s->tokens);
	free(s->greedy);
	json_decref(s->all);
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
}

/* --- what a plan does to the answer ----------------------------------------------------- */

/* Cuts a copy to the plan; budget, mean KL and agreement must be the golden ones. */
static void check_answer(struct setup *s, const char *key)
{
	const json_t *golden = json_object_get(s->prompt, key);
	struct kvmod_seq *copy = test_fork(s->seq);
	size_t n = s->model->n_vocab;
	double kl = 0, agree = 0;
	float *cut;

	ck_assert_double_eq_tol(kvmod_plan_budget(&s->request, s->plan),
				e2e_number(golden, "budget"), 1e-5);
	ck_assert(!gg_apply(s->engine, copy, s->plan));
	cut = run_greedy(s, copy);
	for (size_t i = 0; i < s->n_greedy; i++) {
		kl += e2e_divergence(s->whole + i * n, cut + i * n, n);
		agree += e2e_best(s->whole + i * n, n) == e2e_best(cut + i * n, n);
	}
	ck_assert_double_eq_tol(kl / (double)s->n_greedy, e2e_number(golden, "kl"),
				1e-4 + 1e-3 * e2e_number(golden, "kl"));
	ck_assert_double_eq_tol(agree / (double)s->n_greedy, e2e_number(golden, "agree"), 1e-4);
	free(cut);
	gg_seq_close(s->engine, copy);
}

/* --- policies of ours ----------------------------------------------------------------------- */

static void decide(struct setup *s, const struct kvmod_module *module, const char *name,
		   const char *override)
{
	struct kvmod_policy *policy;
	struct kvmod_ctx *ctx;

	ck_assert_int_eq(kvmod_new(&ctx), 0);
	ck_assert_int_eq(kvmod_add_builtin(ctx, module), 0);
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", &override, 1), "%s", kvmod_error());
	ck_assert_msg(!kvmod_policy_open(ctx, name, "cpu", s->model, &policy), "%s", kvmod_error());
	ck_assert_msg(!kvmod_decide(policy, &s->request, s->plan), "%s", kvmod_error());
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}

static void check_refreekv(struct setup *s)
{
	int32_t *keep;
	size_t n;

	decide(s, &kvmod_module_refreekv, "refreekv", "policy refreekv.threshold=0.01");
	keep = e2e_ints(json_object_get(s->prompt, "refreekv"), "keep", &n);
	ck_assert_uint_eq(n, s->model->n_layers);
	for (uint32_t i = 0; i < n; i++)
		ck_assert_msg(kvmod_plan_count(&s->request, s->plan, i, 0) == (uint64_t)keep[i],
			      "%s, layer %u: %llu positions kept, expected %d",
			      e2e_string(s->prompt, "id"), i,
			      (unsigned long long)kvmod_plan_count(&s->request, s->plan, i, 0),
			      keep[i]);
	check_answer(s, "refreekv");
	free(keep);
}

static void check_snapkv(struct setup *s)
{
	char budget[64];

	snprintf(budget, sizeof(budget), "policy snapkv.budget=%zu", s->n / 4 > 36 ? s->n / 4 : 36);
	decide(s, &kvmod_module_snapkv, "snapkv", budget);
	check_answer(s, "snapkv");
}

/* --- replay, under the policy that its golden figures are of ------------------------------- */

/* Raises score to each position's share of the output of one query. */
static void add_query(const struct kvmod_segment *segment, const struct kvmod_head *head,
		      const float *q, uint32_t n, float *share, float *score)
{
	const float *k = head->k.data, *v = head->v.data;
	uint32_t dim = segment->head_dim;
	double sum = 0;
	float max = -INFINITY;

	for (uint32_t i = 0; i < n; i++) {
		float dot = 0;

		for (uint32_t d = 0; d < dim; d++)
			dot += q[d] * k[i * dim + d];
		share[i] = dot * segment->scale;
		max = share[i] > max ? share[i] : max;
	}
	for (uint32_t i = 0; i < n; i++) {
		float norm = 0;

		for (uint32_t d = 0; d < dim; d++)
			norm += v[i * dim + d] * v[i * dim + d];
		share[i] = expf(share[i] - max) * sqrtf(norm);
		sum += (double)share[i];
	}
	for (uint32_t i = 0; i < n; i++)
		score[i] = fmaxf(score[i], (float)(share[i] / sum));
}

/* The largest share that any of the last queries of a KV head gives, and its neighbours'. */
static float *score_head(const struct kvmod_segment *segment, uint32_t g)
{
	const struct kvmod_head *head = kvmod_head_at(segment, g);
	uint32_t n = head->n, group = segment->n_q_heads / segment->n_kv_heads;
	float *score = calloc(n, sizeof(*score)), *pooled = calloc(n, sizeof(*pooled));
	float *share = calloc(n, sizeof(*share));

	for (uint32_t r = 0; r < segment->n_rows; r++) {
		for (uint32_t h = g * group; h < (g + 1) * group; h++) {
			const char *q = (const char *)segment->q.data + r * segment->q.stride +
					h * segment->q.head_stride;

			add_query(segment, head, (const float *)q, n - segment->n_rows + r + 1,
				  share, score);
		}
	}
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t j = i > HALF_POOL ? i - HALF_POOL : 0; j <= i + HALF_POOL && j < n; j++)
			pooled[i] = fmaxf(pooled[i], score[j]);
	}
	free(score);
	free(share);
	return pooled;
}

static void fill_plan(struct setup *s, float *const *scores, double level)
{
	for (uint32_t i = 0; i < s->request.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&s->request, i);
		struct kvmod_keep *keep = kvmod_keep_at(s->plan, i);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
			uint32_t n = kvmod_head_at(segment, g)->n, kept = 0;

			for (uint32_t j = 0; j < n; j++) {
				if (j < SINKS || j + WINDOW >= n ||
				    (double)scores[i * segment->n_kv_heads + g][j] >= level)
					keep->indices[g * keep->index_stride + kept++] = j;
			}
			keep->counts[g] = kept;
		}
	}
}

static double level_of(int k)
{
	return k < N_LEVELS ? exp2(-0.5 * k) : 0;
}

static double loss_at(struct setup *s, float *const *scores, double level)
{
	uint32_t rows = s->n / 2 < 32 ? (uint32_t)(s->n / 2) : 32;
	double loss;

	fill_plan(s, scores, level);
	ck_assert_msg(!s->request.replay(&s->request, s->plan, rows, &loss), "%s", test_engine_error());
	return loss;
}

/* The counts of the plan against golden[key], layer by layer and head by head. */
static void check_counts(struct setup *s, const char *key)
{
	const json_t *layers = json_object_get(json_object_get(s->prompt, "replay"), key);

	ck_assert_uint_eq(json_array_size(layers), s->model->n_layers);
	for (uint32_t i = 0; i < s->model->n_layers; i++) {
		for (uint32_t g = 0; g < s->model->n_kv_heads; g++) {
			json_int_t n = json_integer_value(json_array_get(json_array_get(layers, i), g));

			ck_assert_msg(kvmod_keep_at(s->plan, i)->counts[g] == n,
				      "%s, layer %u, head %u: %u kept, expected %lld",
				      e2e_string(s->prompt, "id"), i, g,
				      kvmod_keep_at(s->plan, i)->counts[g], (long long)n);
		}
	}
}

static double bisect(struct setup *s, float *const *scores, int *level)
{
	double loss, found = NAN;
	int low = 0, high = N_LEVELS;

	while (low < high) {
		int middle = (low + high) / 2;

		loss = loss_at(s, scores, level_of(middle));
		if (loss <= 0.2) {
			high = middle;
			found = loss;
		} else {
			low = middle + 1;
		}
	}
	*level = low;
	return found;
}

static void check_replay(struct setup *s)
{
	const json_t *golden = json_object_get(s->prompt, "replay");
	uint32_t n_kv_heads = s->model->n_kv_heads, n_heads = s->model->n_layers * n_kv_heads;
	float **scores = calloc(n_heads, sizeof(*scores));
	double loss;
	int level;

	for (uint32_t i = 0; i < n_heads; i++)
		scores[i] = score_head(kvmod_segment_at(&s->request, i / n_kv_heads), i % n_kv_heads);
	loss = loss_at(s, scores, 0.03);
	ck_assert_double_eq_tol(loss, e2e_number(golden, "fixed_loss"), 2e-5 + 1e-3 * loss);
	check_counts(s, "fixed_keep");
	loss = bisect(s, scores, &level);
	ck_assert_int_eq(level, (int)e2e_number(golden, "level"));
	ck_assert_double_eq_tol(loss, e2e_number(golden, "loss"), 2e-5 + 1e-3 * loss);
	fill_plan(s, scores, level_of(level));
	check_counts(s, "keep");
	check_answer(s, "replay");
	for (uint32_t i = 0; i < n_heads; i++)
		free(scores[i]);
	free(scores);
}

START_TEST(golden_prompt)
{
	struct setup s;

	set_up(&s, _i);
	check_refreekv(&s);
	check_snapkv(&s);
	check_replay(&s);
	tear_down(&s);
}
END_TEST

/* --- the model as it is, quantised ----------------------------------------------------- */

/* Counts the layers in which ReFreeKV keeps what it keeps in F32; adds to the budgets. */
static uint32_t equal_layers(struct gg_engine *engine, const json_t *prompt, double *budget,
			     double *golden_budget)
{
	struct setup s = { .engine = engine, .model = gg_engine_ops.model(engine) };
	struct kvmod_needs needs = { .size = sizeof(needs),
				     .rows = { .value = 1, .is_count = 1 } };
	const json_t *golden = json_object_get(prompt, "refreekv");
	int32_t *keep = e2e_ints(golden, "keep", &s.n);
	uint32_t equal = 0;

	s.tokens = e2e_ints(prompt, "tokens", &s.n);
	s.seq = test_seq(engine);
	ck_assert(!gg_prompt_begin(engine, s.seq, s.n, &needs));
	test_run(s.seq, s.tokens, (uint32_t)s.n, NULL, 0);
	s.plan = test_plan(s.seq, &s.request);
	decide(&s, &kvmod_module_refreekv, "refreekv", "policy refreekv.threshold=0.01");
	for (uint32_t i = 0; i < s.model->n_layers; i++)
		equal += kvmod_plan_count(&s.request, s.plan, i, 0) == (uint64_t)keep[i];
	*budget += kvmod_plan_budget(&s.request, s.plan);
	*golden_budget += e2e_number(golden, "budget");
	kvmod_plan_free(s.plan);
	gg_seq_close(engine, s.seq);
	free(s.tokens);
	free(keep);
	return equal;
}

/* Rounded weights and an F16 cache move a cut now and then: 85% of layers are equal. */
START_TEST(quantised_keeps_nearly_the_same)
{
	struct gg_engine *engine = test_engine(TEST_MODEL, GGML_TYPE_F16);
	uint32_t n_layers = gg_engine_ops.model(engine)->n_layers, equal = 0;
	double budget = 0, golden_budget = 0;
	json_t *all = e2e_load();
	size_t n = json_array_size(all);

	for (size_t i = 0; i < n; i++)
		equal += equal_layers(engine, json_array_get(all, i), &budget, &golden_budget);
	ck_assert_double_ge((double)equal / (double)(n * n_layers), 0.8);
	ck_assert_double_eq_tol(budget / (double)n, golden_budget / (double)n, 0.03);
	json_decref(all);
	test_engine_close(engine);
}
END_TEST

static void add(TCase *tc)
{
	tcase_set_timeout(tc, 900);
	tcase_add_loop_test(tc, golden_prompt, 0, 12);
	tcase_add_test(tc, quantised_keeps_nearly_the_same);
}

int main(void)
{
	if (!*TEST_MODEL) {
		puts("no default model: configure --with-model=FILE");
		return 77;
	}
	return e2e_main("engine golden", TEST_MODEL, &f32_model, add);
}
