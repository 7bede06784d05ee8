/* SPDX-License-Identifier: Apache-2.0 */
/* The module "llama": answers like the engine "ggml", and refuses to compress its cache. */
#include <config.h>
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kvmod/kvmod.h>

#include "tests/tiny_model.h"

#define N	70
#define CONTEXT	96

struct setup {
	char *model;
	struct kvmod_ctx *ctx;
	struct kvmod_engine *engine;
	const struct kvmod_engine_ops *ops;
	void *instance;
	struct kvmod_seq *seq;
	int32_t tokens[N];
	unsigned n_logged;		/* lines of libllama about the vocabulary */
};

static void count_line(void *arg, uint32_t level, const char *line)
{
	struct setup *s = arg;

	s->n_logged += level == KVMOD_DEBUG && strstr(line, "vocab") != NULL;
}

static void set_up(struct setup *s, const char *engine, const char *batch)
{
	char texts[5][256];
	const char *overrides[5];

	s->model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	snprintf(texts[0], sizeof(*texts), "engine %s.model=%s", engine, s->model);
	snprintf(texts[1], sizeof(*texts), "engine %s.batch=%s", engine, batch);
	snprintf(texts[2], sizeof(*texts), "engine %s.cache_type=f32", engine);
	snprintf(texts[3], sizeof(*texts), "engine %s.context=%d", engine, CONTEXT);
	snprintf(texts[4], sizeof(*texts), "engine %s.gpu_layers=0", engine);
	for (int i = 0; i < 5; i++)
		overrides[i] = texts[i];
	s->n_logged = 0;
	ck_assert_int_eq(kvmod_new(&s->ctx), 0);
	kvmod_set_log(s->ctx, count_line, s);
	kvmod_set_log_level(s->ctx, KVMOD_DEBUG);
	ck_assert_msg(!kvmod_configure(s->ctx, "/dev/null", overrides, 5), "%s", kvmod_error());
	ck_assert_msg(!kvmod_engine_open(s->ctx, engine, &s->engine), "%s", kvmod_error());
	s->ops = kvmod_engine_ops(s->engine);
	s->instance = kvmod_engine_instance(s->engine);
	ck_assert_int_eq(s->ops->seq_open(s->instance, &s->seq), 0);
	tiny_tokens(s->tokens, N, 1);
}

static void tear_down(struct setup *s)
{
	s->ops->seq_close(s->instance, s->seq);
	kvmod_engine_close(s->engine);
	kvmod_unref(s->ctx);
	unlink(s->model);
	free(s->model);
}

static int run(struct setup *s, struct kvmod_seq *seq, const int32_t *tokens, uint32_t n,
	       float *logits, uint32_t n_logits)
{
	const struct kvmod_batch_item item = {
		.size = sizeof(item), .n_tokens = n, .seq = seq, .tokens = tokens,
		.logits = logits, .n_logits = n_logits,
	};
	const struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 1, .item_stride = sizeof(item), .items = &item,
	};

	return s->ops->step(s->instance, &batch);
}

/* Root of the mean square of a - b, at most `relative` of b's. */
static void check_near(const float *a, const float *b, size_t n, double relative)
{
	double sum = 0, whole = 0;

	for (size_t i = 0; i < n; i++) {
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
		whole += (double)b[i] * (double)b[i];
	}
	ck_assert_double_gt(whole, 0);
	ck_assert_double_le(sqrt(sum / whole), relative);
}

START_TEST(says_what_ggml_says)
{
	static float expected[9 * TINY_VOCAB], logits[9 * TINY_VOCAB];
	struct setup ggml, llama;

	set_up(&ggml, "ggml", "512");
	ck_assert_int_eq(run(&ggml, ggml.seq, ggml.tokens, N, expected, 9), 0);
	/* Passes of 16: the logits of the last 9 come from two of them. */
	set_up(&llama, "llama", "16");
	ck_assert_int_eq(run(&llama, llama.seq, llama.tokens, N, logits, 9), 0);
	/* libllama rounds an F32 cache to F16 for flash attention. */
	check_near(logits, expected, 9 * TINY_VOCAB, 3e-3);
	ck_assert_uint_eq(llama.ops->seq_length(llama.instance, llama.seq), N);
	ck_assert_uint_eq(kvmod_engine_model(llama.engine)->head_dim,
			  kvmod_engine_model(ggml.engine)->head_dim);
	tear_down(&llama);
	tear_down(&ggml);
}
END_TEST

/* libllama has one log for the process: modules hand its lines on to each other. */
START_TEST(each_engine_has_its_log)
{
	static const char *const names[] = { "ggml", "llama", "ggml", "llama" };
	struct setup s[4];

	for (int i = 0; i < 4; i++) {
		set_up(&s[i], names[i], "16");
		ck_assert_uint_gt(s[i].n_logged, 0);
		for (int j = 0; j < i; j++)
			s[j].n_logged = 0;
	}
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(s[i].n_logged, 0);
	for (int i = 0; i < 4; i++)
		tear_down(&s[i]);
}
END_TEST

START_TEST(forgets_and_forks)
{
	static float first[TINY_VOCAB], again[TINY_VOCAB], forked[TINY_VOCAB];
	struct kvmod_seq *copy;
	struct setup s;

	set_up(&s, "llama", "512");
	ck_assert_int_eq(run(&s, s.seq, s.tokens, 40, NULL, 0), 0);
	ck_assert_int_eq(s.ops->seq_fork(s.instance, s.seq, &copy), 0);
	ck_assert_int_eq(run(&s, s.seq, s.tokens + 40, 20, first, 1), 0);
	ck_assert_int_eq(run(&s, copy, s.tokens + 40, 20, forked, 1), 0);
	check_near(forked, first, TINY_VOCAB, 1e-5);
	ck_assert_int_eq(s.ops->seq_truncate(s.instance, s.seq, 40), 0);
	ck_assert_uint_eq(s.ops->seq_length(s.instance, s.seq), 40);
	ck_assert_int_eq(run(&s, s.seq, s.tokens + 40, 20, again, 1), 0);
	check_near(again, first, TINY_VOCAB, 1e-5);
	ck_assert_int_eq(s.ops->seq_truncate(s.instance, s.seq, 61), KVMOD_ERANGE);
	s.ops->seq_close(s.instance, copy);
	tear_down(&s);
}
END_TEST

START_TEST(refuses_what_does_not_fit)
{
	struct setup s;

	set_up(&s, "llama", "512");
	ck_assert_int_eq(s.ops->prompt_begin(s.instance, s.seq, CONTEXT + 1, NULL), KVMOD_ERANGE);
	ck_assert_ptr_nonnull(strstr(kvmod_error(), "96"));
	ck_assert_int_eq(run(&s, s.seq, s.tokens, N, NULL, 0), 0);
	ck_assert_int_eq(run(&s, s.seq, s.tokens, N, NULL, 0), KVMOD_ERANGE);
	ck_assert_uint_eq(s.ops->seq_length(s.instance, s.seq), N);
	tear_down(&s);
}
END_TEST

START_TEST(serves_what_needs_lengths_only)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .decode_every = 1 };
	struct setup s;

	set_up(&s, "llama", "16");
	ck_assert_int_eq(s.ops->serves(s.instance, &needs), KVMOD_OK);
	needs.rows.value = 1;
	ck_assert_int_eq(s.ops->serves(s.instance, &needs), KVMOD_ENOTSUP);
	needs.rows.value = 0;
	needs.what = KVMOD_NEED_K;
	ck_assert_int_eq(s.ops->serves(s.instance, &needs), KVMOD_ENOTSUP);
	ck_assert_str_eq(kvmod_error(), "libllama does not show its cache: use the policy fullkv "
			 "with this engine");
	tear_down(&s);
}
END_TEST

/* No need tells a policy that cuts by position from one that keeps everything. */
START_TEST(sessions_are_for_fullkv)
{
	static const char *const names[] = { "streamingllm", "snapkv", "fullkv", NULL };
	struct kvmod_session *session;
	struct kvmod_policy *policy;
	struct setup s;

	set_up(&s, "llama", "16");
	for (int i = 0; i < 4; i++) {
		int expected = i < 2 ? KVMOD_ENOTSUP : KVMOD_OK;

		policy = NULL;
		session = NULL;
		if (names[i])
			ck_assert_msg(!kvmod_policy_open(s.ctx, names[i], NULL, kvmod_engine_model(s.engine),
							 &policy), "%s", kvmod_error());
		ck_assert_int_eq(kvmod_session_open(s.engine, policy, &session), expected);
		if (expected)
			ck_assert_str_eq(kvmod_error(), "engine llama cannot cut its cache: use the "
					 "policy fullkv with this engine");
		kvmod_session_close(session);
		if (policy)
			kvmod_policy_close(policy);
	}
	tear_down(&s);
}
END_TEST

START_TEST(cannot_be_cut)
{
	const struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_K };
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };
	struct kvmod_plan *plan;
	struct setup s;

	set_up(&s, "llama", "512");
	ck_assert_int_eq(s.ops->prompt_begin(s.instance, s.seq, 10, &needs), KVMOD_ENOTSUP);
	ck_assert_int_eq(run(&s, s.seq, s.tokens, 10, NULL, 0), 0);
	ck_assert_int_eq(s.ops->request(s.instance, s.seq, &request), 0);
	ck_assert_uint_eq(kvmod_head_at(kvmod_segment_at(&request, 1), 0)->n, 10);
	ck_assert_int_eq(kvmod_plan_new(&request, &plan), 0);
	ck_assert_int_eq(s.ops->apply(s.instance, s.seq, plan), 0);
	kvmod_keep_at(plan, 1)->kind = KVMOD_KEEP_SPANS;
	kvmod_keep_at(plan, 1)->n_spans = 1;
	kvmod_keep_at(plan, 1)->spans[0] = (struct kvmod_span){ .begin = 5, .end = 10 };
	ck_assert_int_eq(s.ops->apply(s.instance, s.seq, plan), KVMOD_ENOTSUP);
	s.ops->bytes(s.instance, s.seq, &bytes);
	ck_assert_uint_eq(bytes.used, bytes.full);
	ck_assert_uint_eq(bytes.used, 10 * 2 * 4 * (uint64_t)tiny_models[0].n_layers *
			  tiny_models[0].n_kv_heads * tiny_models[0].head_dim);
	kvmod_plan_free(plan);
	tear_down(&s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine llama");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_test(t, says_what_ggml_says);
	tcase_add_test(t, each_engine_has_its_log);
	tcase_add_test(t, forgets_and_forks);
	tcase_add_test(t, refuses_what_does_not_fit);
	tcase_add_test(t, serves_what_needs_lengths_only);
	tcase_add_test(t, sessions_are_for_fullkv);
	tcase_add_test(t, cannot_be_cut);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
