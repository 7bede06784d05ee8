/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A question about a context, and the model's answer: its tokens against greedy decoding on a
 * fork, what they pay against a reread of the same tokens, and replay() of them against a sum
 * from the forks' logits; on the CPU, and with layers on a made-up GPU.
 */
#include <config.h>

#include "tests/sides.h"
#include "tests/gguf_edit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG	90		/* tokens of the context */
#define ANSWER	12		/* of an answer, at most */
#define ASKED	64		/* of a question and its answer, at most */
#define HEADS	2		/* KV heads, at most */

static const char question[] = "What is it about?";

static char *model;
static struct gg_engine *engine;
static struct kvmod_seq *seq;
static struct kvmod_request request;
static int32_t tokens[LONG];
static float out[TINY_LAYERS * HEADS * LONG], expected[TINY_LAYERS * HEADS * LONG];

/* The model has a vocabulary of bytes; the norm of its output can be NaN. */
static void write_model(int i, bool is_nan)
{
	struct edit e;

	model = tiny_model_write(&tiny_models[sides_setups[i].model], TINY_GOOD);
	edit_open(&e, model);
	edit_spm(&e, TINY_VOCAB);
	if (is_nan)
		memset(e.data.bytes + edit_tensor(&e, "output_norm.weight")->offset, 0xff, sizeof(float));
	edit_write(&e, model);
	edit_close(&e);
}

static void open_model(int i, int64_t context)
{
	struct test_engine_params params = {
		.model = model, .type = sides_setups[i].type, .batch = sides_setups[i].batch, .context = context,
		.gpu_layers = sides_setups[i].layers, .gpu = sides_setups[i].layers ? sides_find_gpu() : NULL,
	};

	engine = test_engine_open(&params);
	ck_assert_msg(engine, "%s", test_engine_error());
	engine->text.n_end_tokens = 0;		/* a test says which there are */
	seq = test_seq(engine);
	tiny_tokens(tokens, LONG, 11);
}

static void look(void)
{
	request = (struct kvmod_request){ .size = sizeof(request) };
	ck_assert_msg(!gg_request(engine, seq, &request), "%s", test_engine_error());
}

/* Whole; ragged, heads of their own lengths; with a gap that was closed. */
enum { WHOLE, RAGGED, CLOSED, SHAPES };

static void set_up(int i, int shape)
{
	struct kvmod_request r;

	write_model(i, false);
	open_model(i, 0);
	test_run(seq, tokens, LONG - 20, NULL, 0);
	if (shape == RAGGED)
		test_apply(seq, sides_plan(seq, KVMOD_KEEP_HEADS, &r));
	else if (shape == CLOSED)
		test_apply(seq, test_plan_ends(seq, 5, 40));
	test_run(seq, tokens + LONG - 20, 20, NULL, 0);
	look();
}

static void tear_down(void)
{
	gg_seq_close(engine, seq);
	test_engine_close(engine);
	unlink(model);
	free(model);
}

static int32_t ask(const char *text, uint32_t n_answer)
{
	struct kvmod_ask what = { .size = sizeof(what), .n_answer = n_answer, .question = text };

	return request.ask(&request, &what, out);
}

static void must_ask(uint32_t n_answer)
{
	memset(out, 0xff, sizeof(out));		/* NaN: what is not written is found */
	ck_assert_msg(!ask(question, n_answer), "%s", test_engine_error());
}

/* The question's tokens, without a template. */
static uint32_t question_tokens(int32_t *to)
{
	size_t n = ASKED;

	ck_assert(!gg_tokenize(engine, question, strlen(question), 0, to, &n));
	return (uint32_t)n;
}

static size_t n_weights(void)
{
	return (size_t)request.n_segments * engine->net.n_kv_heads * (size_t)seq->logical;
}

/* --- the answer ------------------------------------------------------------------------------- */

/* Is each token of the answer the likeliest after those before it? What comes after all of them? */
static int32_t check_greedy(uint32_t n_question)
{
	static float logits[TINY_VOCAB];
	struct kvmod_seq *fork = test_fork(seq);
	const int32_t *asked = seq->asked.tokens;
	uint32_t best = 0;

	test_run(fork, asked, n_question, logits, 1);
	for (uint32_t i = n_question; i <= seq->asked.n; i++) {
		best = 0;
		for (uint32_t t = 1; t < TINY_VOCAB; t++)
			best = logits[t] > logits[best] ? t : best;
		if (i == seq->asked.n)
			break;
		ck_assert_int_eq(asked[i], (int32_t)best);
		test_run(fork, asked + i, 1, logits, 1);
	}
	gg_seq_close(engine, fork);
	return (int32_t)best;
}

START_TEST(greedy_answer)
{
	int32_t of_question[ASKED];
	uint32_t n;

	set_up(_i / SHAPES, _i % SHAPES);
	n = question_tokens(of_question);
	must_ask(ANSWER);
	ck_assert_uint_eq(seq->asked.n, n + ANSWER);
	ck_assert_mem_eq(seq->asked.tokens, of_question, n * sizeof(*of_question));
	check_greedy(n);
	must_ask(0);
	ck_assert_uint_eq(seq->asked.n, n);
	ck_assert_mem_eq(seq->asked.tokens, of_question, n * sizeof(*of_question));
	tear_down();
}
END_TEST

/* An end token is no part of the answer, and nothing comes after it; the first can be one. */
START_TEST(ends)
{
	int32_t whole[ANSWER];
	uint32_t n, before;

	set_up(_i, WHOLE);
	must_ask(ANSWER);
	n = seq->asked.n - ANSWER;
	memcpy(whole, seq->asked.tokens + n, sizeof(whole));
	engine->text.n_end_tokens = 1;
	for (uint32_t i = 0; i < ANSWER; i++) {
		engine->text.end_tokens[0] = whole[i];
		must_ask(ANSWER);
		for (before = 0; whole[before] != whole[i]; before++)
			;
		ck_assert_uint_eq(seq->asked.n, n + before);
		ck_assert_mem_eq(seq->asked.tokens + n, whole, before * sizeof(*whole));
		ck_assert_int_eq(check_greedy(n), whole[i]);
	}
	engine->text.end_tokens[0] = TINY_VOCAB;
	must_ask(ANSWER);
	ck_assert_uint_eq(seq->asked.n, n + ANSWER);
	tear_down();
}
END_TEST

/* --- the weights ------------------------------------------------------------------------------ */

/* Rows of F16 and Q8_0 are rounded: of one token or of many, that may differ by a step. */
static double tolerance(void)
{
	return engine->type == GGML_TYPE_F32 ? 2e-5 : 2e-3;
}

static void check_weights(void)
{
	struct kvmod_reread everything = { .size = sizeof(everything), .end = seq->logical };
	int32_t asked[ASKED];
	uint32_t n = seq->asked.n;

	ck_assert_uint_le(n, ASKED);
	memcpy(asked, seq->asked.tokens, n * sizeof(*asked));
	ck_assert_msg(!gg_reread_run(&request, &everything, asked, n, expected), "%s", test_engine_error());
	for (size_t i = 0; i < n_weights(); i++)
		ck_assert_double_eq_tol((double)out[i], (double)expected[i], tolerance());
}

/* A longer answer has more that can pay: no weight is smaller, and some are larger. */
START_TEST(weights)
{
	static float alone[TINY_LAYERS * HEADS * LONG];
	bool larger = false;

	set_up(_i / SHAPES, _i % SHAPES);
	must_ask(0);
	check_weights();
	memcpy(alone, out, n_weights() * sizeof(*alone));
	must_ask(ANSWER);
	check_weights();
	for (size_t i = 0; i < n_weights(); i++) {
		ck_assert_double_ge((double)out[i], (double)alone[i] - tolerance());
		larger = larger || (double)out[i] > (double)alone[i] + 10 * tolerance();
	}
	ck_assert(larger);
	tear_down();
}
END_TEST

/* What is not cached any more is paid nothing, and everything else something. */
START_TEST(evicted)
{
	const float *weight = out;

	set_up(_i, RAGGED);
	must_ask(3);
	for (uint32_t i = 0; i < request.n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(&request, i);

		for (uint32_t g = 0; g < s->n_kv_heads; g++, weight += LONG) {
			const struct kvmod_head *head = kvmod_head_at(s, g);
			uint32_t at = 0;

			for (uint32_t p = 0; p < LONG; p++) {
				bool cached = at < head->n && (uint32_t)head->positions[at] == p;

				ck_assert_int_eq(weight[p] > 0, cached);
				at += cached;
			}
			ck_assert_uint_eq(at, head->n);
			ck_assert_uint_lt(at, LONG);
		}
	}
	tear_down();
}
END_TEST

/* --- replay of it ----------------------------------------------------------------------------- */

/* KL(whole || cut) over the last rows of the asked tokens, run on two forks of the sequence. */
static double expected_loss(const struct kvmod_plan *plan, uint32_t rows)
{
	static float whole[ASKED * TINY_VOCAB], cut[ASKED * TINY_VOCAB];
	struct kvmod_seq *a = test_fork(seq), *b = test_fork(seq);
	uint32_t n = seq->asked.n;
	double total = 0;

	ck_assert_uint_le(n, ASKED);
	ck_assert_msg(!gg_apply(engine, b, plan), "%s", test_engine_error());
	test_run(a, seq->asked.tokens, n, whole, n);
	test_run(b, seq->asked.tokens, n, cut, n);
	for (uint32_t t = n - rows; t < n; t++)
		total += test_divergence(whole + t * TINY_VOCAB, cut + t * TINY_VOCAB, TINY_VOCAB);
	gg_seq_close(engine, a);
	gg_seq_close(engine, b);
	return total / rows;
}

static double loss_of(const struct kvmod_plan *plan, uint32_t rows)
{
	double loss = NAN;

	ck_assert_msg(!request.replay(&request, plan, rows, &loss), "%s", test_engine_error());
	return loss;
}

START_TEST(replays)
{
	static const uint32_t rows[] = { 1, ANSWER, ANSWER + 5 };
	struct kvmod_plan *plan;
	double relative;

	set_up(_i / SHAPES, _i % SHAPES);
	relative = engine->type == GGML_TYPE_F32 ? 1e-3 : 1e-2;
	plan = sides_plan(seq, KVMOD_KEEP_HEADS, &request);
	must_ask(ANSWER);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		double is = loss_of(plan, rows[i]), must_be = expected_loss(plan, rows[i]);

		ck_assert_double_gt(must_be, 0.01);
		ck_assert_double_eq_tol(is, must_be, must_be * relative);
		/* Again, with the run over the whole cache that was kept. */
		ck_assert_double_eq(loss_of(plan, rows[i]), is);
	}
	kvmod_plan_free(plan);
	/* Nothing is lost where nothing is cut. */
	plan = test_plan(seq, &request);
	must_ask(ANSWER);
	ck_assert_double_eq(loss_of(plan, ANSWER), 0);
	kvmod_plan_free(plan);
	tear_down();
}
END_TEST

/* There are no more rows than the question and its answer have; the prompt's do not count. */
START_TEST(rows)
{
	static const uint32_t too_many[] = { 1, LONG, UINT32_MAX };
	struct kvmod_plan *plan;
	double all, loss;
	uint32_t n;

	set_up(0, WHOLE);
	plan = sides_plan(seq, KVMOD_KEEP_HEADS, &request);
	must_ask(ANSWER);
	n = seq->asked.n;
	all = loss_of(plan, n);
	ck_assert_double_eq_tol(all, expected_loss(plan, n), 1e-3 * all);
	ck_assert_double_ne(all, loss_of(plan, n - 1));
	for (size_t i = 0; i < sizeof(too_many) / sizeof(*too_many); i++)
		ck_assert_double_eq(loss_of(plan, too_many[i] > 1 ? too_many[i] : n + 1), all);
	ck_assert_int_eq(request.replay(&request, plan, 0, &loss), KVMOD_ERANGE);
	kvmod_plan_free(plan);
	/* Of a context with fewer tokens than these. */
	ck_assert(!gg_seq_truncate(engine, seq, 4));
	plan = test_plan_ends(seq, 1, 2);
	plan->flags = 0;
	look();
	must_ask(ANSWER);
	all = loss_of(plan, ANSWER);
	ck_assert_double_eq_tol(all, expected_loss(plan, ANSWER), 1e-3 * all);
	kvmod_plan_free(plan);
	tear_down();
}
END_TEST

/* After new tokens, a change, another request or a failure, the prompt's rows are run. */
START_TEST(forgotten)
{
	struct kvmod_plan *plan;
	double of_prompt;

	set_up(0, WHOLE);
	plan = sides_plan(seq, KVMOD_KEEP_HEADS, &request);
	of_prompt = loss_of(plan, ANSWER);
	must_ask(ANSWER);
	ck_assert_double_ne(loss_of(plan, ANSWER), of_prompt);
	switch (_i) {
	case 0:
		gg_seq_touch(seq);
		break;
	case 1:
		look();
		break;
	case 2:
		test_run(seq, tokens, 1, NULL, 0);
		ck_assert(!gg_seq_truncate(engine, seq, LONG));
		look();
		break;
	case 3:
		gg_seq_touch(seq);
		ck_assert_int_eq(ask("\xff", ANSWER), KVMOD_EINVAL);
		break;
	}
	ck_assert_double_eq(loss_of(plan, ANSWER), of_prompt);
	kvmod_plan_free(plan);
	tear_down();
}
END_TEST

/* A fork was not asked anything. */
START_TEST(forks)
{
	struct kvmod_seq *fork, *asked;
	struct kvmod_plan *plan;
	double of_prompt;

	set_up(0, RAGGED);
	plan = sides_plan(seq, KVMOD_KEEP_HEADS, &request);
	of_prompt = loss_of(plan, ANSWER);
	must_ask(ANSWER);
	fork = test_fork(seq);
	asked = seq;
	seq = fork;
	look();
	ck_assert_double_eq(loss_of(plan, ANSWER), of_prompt);
	gg_seq_close(engine, asked);
	ck_assert_double_eq(loss_of(plan, ANSWER), of_prompt);
	kvmod_plan_free(plan);
	tear_down();
}
END_TEST

/* --- no trace --------------------------------------------------------------------------------- */

/* All that the sequence holds is the same after questions and replays; so is what it says then. */
START_TEST(leaves_no_trace)
{
	static float logits[TINY_VOCAB], of_fork[TINY_VOCAB];
	struct kvmod_plan *plan;
	struct kvmod_seq *fork;
	uint64_t before;

	set_up(_i / SHAPES, _i % SHAPES);
	fork = test_fork(seq);
	test_run(fork, tokens, 1, of_fork, 1);
	gg_seq_close(engine, fork);
	plan = sides_plan(seq, KVMOD_KEEP_HEADS, &request);
	before = test_fingerprint(seq);
	must_ask(ANSWER);
	ck_assert_uint_eq(test_fingerprint(seq), before);
	loss_of(plan, ANSWER);
	ck_assert_uint_eq(test_fingerprint(seq), before);
	test_run(seq, tokens, 1, logits, 1);
	ck_assert_mem_eq(logits, of_fork, sizeof(logits));
	kvmod_plan_free(plan);
	tear_down();
}
END_TEST

/* --- what cannot be --------------------------------------------------------------------------- */

/* Question and answer have to fit after what is cached; an answer that would never end does not. */
START_TEST(does_not_fit)
{
	int32_t of_question[ASKED];
	char why[256];
	uint32_t n;

	write_model(0, false);
	open_model(0, LONG + 40);
	test_run(seq, tokens, LONG, NULL, 0);
	look();
	n = question_tokens(of_question);
	ck_assert_uint_lt(n, 40);
	ck_assert_int_eq(ask(question, 41 - n), KVMOD_ERANGE);
	snprintf(why, sizeof(why), "cannot ask: a question of %u tokens, an answer of %u and 90 cached tokens "
		 "exceed the context of 130", n, 41 - n);
	ck_assert_str_eq(test_engine_error(), why);
	ck_assert_int_eq(ask(question, UINT32_MAX), KVMOD_ERANGE);
	ck_assert_int_eq(ask(question, 40 - n), KVMOD_OK);
	ck_assert_uint_eq(seq->asked.n, 40);
	tear_down();
}
END_TEST

START_TEST(no_question)
{
	set_up(0, WHOLE);
	ck_assert_int_eq(ask("", ANSWER), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(), "cannot ask: the question has no tokens");
	ck_assert_int_eq(ask("no\xff", ANSWER), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(), "the text is not UTF-8: byte 2 of 3 is 0xff");
	ck_assert_uint_eq(seq->asked.n, 0);
	tear_down();
}
END_TEST

START_TEST(no_vocabulary)
{
	char why[512];

	model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	open_model(0, 0);
	test_run(seq, tokens, LONG, NULL, 0);
	look();
	ck_assert_int_eq(ask(question, ANSWER), KVMOD_ENOTSUP);
	snprintf(why, sizeof(why), "%s has no vocabulary: only token ids can be run", model);
	ck_assert_str_eq(test_engine_error(), why);
	tear_down();
}
END_TEST

/* No token is the likeliest of logits that are NaN. */
START_TEST(not_finite)
{
	write_model(0, true);
	open_model(0, 0);
	test_run(seq, tokens, LONG, NULL, 0);
	look();
	ck_assert_int_eq(ask(question, ANSWER), KVMOD_ENUMERIC);
	ck_assert_str_eq(test_engine_error(), "the logits are not finite");
	ck_assert_uint_eq(seq->asked.n, 0);
	tear_down();
}
END_TEST

/* Without KVMOD_DEVICE_ATTENTION there is no such service; where the device fails, one line. */
START_TEST(devices)
{
	set_up(4, WHOLE);
	ck_assert(request.ask == gg_ask);
	sides_attention_fails = KVMOD_EDEVICE;
	ck_assert_int_eq(ask(question, ANSWER), KVMOD_EDEVICE);
	ck_assert_str_eq(test_engine_error(), "the device could not compute the attention that the tokens pay");
	ck_assert_uint_eq(seq->asked.n, 0);
	sides_attention_fails = 0;
	ck_assert_int_eq(ask(question, ANSWER), KVMOD_OK);
	sides_no_attention = true;
	look();
	ck_assert(!request.ask);
	sides_no_attention = false;
	tear_down();
}
END_TEST

/* --- on the default model --------------------------------------------------------------------- */

static uint32_t tokenize(const char *text, uint32_t flags, int32_t *to)
{
	size_t n = ASKED;

	ck_assert(!gg_tokenize(engine, text, strlen(text), flags, to, &n));
	return (uint32_t)n;
}

/* The template's end of a message, and its beginning of an answer, stand behind the question. */
START_TEST(default_model)
{
	static const char text[] = "<|im_start|>user\nThe colour of the bicycle is green. "
				   "The lighthouse keeper owns it.";
	static const char asks[] = "\nWhat is the colour of the bicycle?";
	int32_t ids[ASKED], of_question[ASKED];
	char answer[512] = "";
	float *most;
	uint32_t n;

	engine = test_engine(TEST_MODEL, GGML_TYPE_F16);
	seq = test_seq(engine);
	n = tokenize(text, KVMOD_TOKENIZE_SPECIAL, ids);
	test_run(seq, ids, n, NULL, 0);
	look();
	most = calloc((size_t)request.n_segments * engine->net.n_kv_heads * n, sizeof(*most));
	ck_assert_ptr_nonnull(most);
	n = tokenize(asks, 0, of_question);
	n += tokenize("<|im_end|>\n<|im_start|>assistant\n", KVMOD_TOKENIZE_SPECIAL, of_question + n);
	ck_assert_int_eq(request.ask(&request, &(struct kvmod_ask){
		.size = sizeof(struct kvmod_ask), .n_answer = ASKED, .question = asks }, most), KVMOD_OK);
	ck_assert_uint_gt(seq->asked.n, n);
	ck_assert_uint_lt(seq->asked.n, n + ASKED);	/* it ended by itself */
	ck_assert_mem_eq(seq->asked.tokens, of_question, n * sizeof(*of_question));
	for (uint32_t i = n; i < seq->asked.n; i++) {
		size_t length = strlen(answer), room = sizeof(answer) - length - 1;

		ck_assert(!gg_detokenize(engine, seq->asked.tokens[i], answer + length, &room));
		answer[length + room] = '\0';
	}
	ck_assert_msg(strstr(answer, "green"), "the answer is: %s", answer);
	free(most);
	gg_seq_close(engine, seq);
	test_engine_close(engine);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, greedy_answer, 0, SIDES_SETUPS * SHAPES);
	tcase_add_loop_test(tc, ends, 0, SIDES_SETUPS);
	tcase_add_loop_test(tc, weights, 0, SIDES_SETUPS * SHAPES);
	tcase_add_loop_test(tc, evicted, 0, SIDES_SETUPS);
	tcase_add_loop_test(tc, replays, 0, SIDES_SETUPS * SHAPES);
	tcase_add_test(tc, rows);
	tcase_add_loop_test(tc, forgotten, 0, 4);
	tcase_add_test(tc, forks);
	tcase_add_loop_test(tc, leaves_no_trace, 0, SIDES_SETUPS * SHAPES);
	tcase_add_test(tc, does_not_fit);
	tcase_add_test(tc, no_question);
	tcase_add_test(tc, no_vocabulary);
	tcase_add_test(tc, not_finite);
	tcase_add_test(tc, devices);
	if (*TEST_MODEL)
		tcase_add_test(tc, default_model);
}

int main(void)
{
	if (!*TEST_MODEL)
		printf("skipped: the default model, which configure was not given\n");
	return test_main("asking a context", add);
}
