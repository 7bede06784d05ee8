/* SPDX-License-Identifier: Apache-2.0 */
/* The loss that the engine computes where the logits are, compared with one computed here. */
#include "tests/sides.h"
#include "core/testkit/random.h"

#include <math.h>
#include <stdlib.h>

#define ROWS 24

#ifdef FAKE_GPU
#define NOISE 5e-8
#else
/* CUDA's fast exponentials. */
#define NOISE 1e-6
#endif

/* On the GPU: the output is on the host, or there too. */
static const int64_t layers[] = { 1, -1 };

static double log_sum(const float *logits, size_t n)
{
	double sum = 0, max = -INFINITY;

	for (size_t i = 0; i < n; i++)
		max = fmax(max, (double)logits[i]);
	for (size_t i = 0; i < n; i++)
		sum += exp((double)logits[i] - max);
	return max + log(sum);
}

static double reference(const float *whole, const float *cut, size_t n_vocab, uint32_t n_rows)
{
	double total = 0;

	for (uint32_t row = 0; row < n_rows; row++, whole += n_vocab, cut += n_vocab) {
		double w = log_sum(whole, n_vocab), c = log_sum(cut, n_vocab);

		for (size_t i = 0; i < n_vocab; i++)
			total += exp((double)whole[i] - w) *
				 ((double)whole[i] - w - (double)cut[i] + c);
	}
	return total / n_rows;
}

static void check(double loss, double expected)
{
	ck_assert_msg(fabs(loss - expected) <= 1e-3 * expected + NOISE, "%.9g, expected %.9g", loss,
		      expected);
	ck_assert_double_ge(loss, 0);
}

/* --- made-up logits -------------------------------------------------------------------------- */

/* Copies logits to where the engine's are. */
static void put(struct gg_engine *engine, const struct gg_memory *to, const float *logits,
		size_t n_vocab, uint32_t n_rows)
{
	struct ggml_context *context = gg_tensors_only(1);
	struct ggml_tensor *rows;

	ck_assert_ptr_nonnull(context);
	rows = gg_memory_rows(context, to, GGML_TYPE_F32, (int64_t)n_vocab, n_rows);
	gg_gpu_wait(engine);
	ggml_backend_tensor_set(rows, logits, 0, ggml_nbytes(rows));
	ggml_free(context);
}

/* The loss of n_rows rows; the code of a failure. */
static int32_t run(struct gg_engine *engine, const float *whole, const float *cut, size_t n_vocab,
		   uint32_t n_rows, double *loss)
{
	int64_t before = engine->net.dims[GG_VOCAB];
	struct gg_divergence d;
	int32_t code;

	engine->net.dims[GG_VOCAB] = (int64_t)n_vocab;
	ck_assert(gg_divergence_new(&d, engine, n_rows));
	put(engine, &d.whole, whole, n_vocab, n_rows);
	put(engine, &d.cut, cut, n_vocab, n_rows);
	code = gg_divergence_run(&d, loss);
	gg_divergence_free(&d);
	engine->net.dims[GG_VOCAB] = before;
	return code;
}

/* Some tokens are likely, most are not; the cut's are so far from the whole's, and shifted. */
static void make_up(float *whole, float *cut, size_t n, double far, double shift)
{
	struct kv_random random = { 5 };

	for (size_t i = 0; i < n; i++) {
		double x = (double)kv_random_range(&random, 0, 100000) / 100000;

		whole[i] = (float)(24 * pow(x, 9) - 3);
		x = (double)kv_random_range(&random, 0, 100000) / 50000 - 1;
		cut[i] = (float)((double)whole[i] + far * x + shift);
	}
}

START_TEST(made_up)
{
	static const double far[] = { 0.024, 0.1, 1, 12, 150 };
	static const size_t sizes[] = { 7, 257, 151937 };
	static struct setup s;

	sides_set_up(&s, 0, layers[_i]);
	for (unsigned i = 0; i < sizeof(far) / sizeof(far[0]) * 3; i++) {
		size_t n_vocab = sizes[i % 3], n = 3 * n_vocab;
		float *whole = calloc(n, sizeof(*whole)), *cut = calloc(n, sizeof(*cut));
		double loss, shift = i % 2 ? 3 : 0, expected;

		ck_assert(whole && cut);
		make_up(whole, cut, n, far[i / 3], shift);
		expected = reference(whole, cut, n_vocab, 3);
		ck_assert(!run(s.cpu.engine, whole, cut, n_vocab, 3, &loss));
		check(loss, expected);
		ck_assert(!run(s.gpu.engine, whole, cut, n_vocab, 3, &loss));
		check(loss, expected);
		ck_assert(!run(s.gpu.engine, cut, cut, n_vocab, 3, &loss));
		ck_assert_double_eq(loss, 0);
		free(whole);
		free(cut);
	}
	sides_tear_down(&s);
}
END_TEST

/* More rows than the nodes take at a time. */
START_TEST(many_rows)
{
	enum { N_VOCAB = 257, N_ROWS = 40000 };
	float *whole = calloc(N_ROWS, N_VOCAB * sizeof(*whole));
	float *cut = calloc(N_ROWS, N_VOCAB * sizeof(*cut));
	static struct setup s;
	double loss;

	ck_assert(whole && cut);
	make_up(whole, cut, (size_t)N_ROWS * N_VOCAB, 1, 1);
	sides_set_up(&s, 0, layers[_i]);
	ck_assert(!run(s.cpu.engine, whole, cut, N_VOCAB, N_ROWS, &loss));
	check(loss, reference(whole, cut, N_VOCAB, N_ROWS));
	ck_assert(!run(s.gpu.engine, whole, cut, N_VOCAB, N_ROWS, &loss));
	check(loss, reference(whole, cut, N_VOCAB, N_ROWS));
	sides_tear_down(&s);
	free(whole);
	free(cut);
}
END_TEST

/* Wherever it is: an error, not a number. */
START_TEST(not_finite)
{
	static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };
	static struct setup s;
	float logits[2][3 * 100], kept;
	double loss = 7;

	sides_set_up(&s, 0, layers[_i]);
	make_up(logits[0], logits[1], 300, 1, 0);
	for (unsigned i = 0; i < 4 * 4; i++) {
		float *at = &logits[i % 2][i / 2 % 2 ? 299 : 117];

		kept = *at;
		*at = bad[i / 4];
		ck_assert_int_eq(run(s.cpu.engine, logits[0], logits[1], 100, 3, &loss), KVMOD_ENUMERIC);
		ck_assert_str_eq(test_engine_error(), "the replayed distributions are not finite");
		ck_assert_int_eq(run(s.gpu.engine, logits[0], logits[1], 100, 3, &loss), KVMOD_ENUMERIC);
		*at = kept;
	}
	for (unsigned i = 0; i < 300; i++)
		logits[1][i] = NAN;
	ck_assert_int_eq(run(s.cpu.engine, logits[0], logits[1], 100, 3, &loss), KVMOD_ENUMERIC);
	ck_assert_int_eq(run(s.gpu.engine, logits[0], logits[1], 100, 3, &loss), KVMOD_ENUMERIC);
	ck_assert_int_eq(run(s.gpu.engine, logits[1], logits[1], 100, 3, &loss), KVMOD_ENUMERIC);
	ck_assert_double_eq(loss, 7);
	sides_tear_down(&s);
}
END_TEST

/* --- a plan's ------------------------------------------------------------------------------ */

/* Drops the first rows of a layer. */
static void drop(struct kvmod_plan *plan, uint32_t layer, uint32_t n)
{
	struct kvmod_keep *keep = kvmod_keep_at(plan, layer);

	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 1;
	keep->spans[0] = (struct kvmod_span){ .begin = n, .end = N };
}

/* The last logits over what the plan keeps, as the engine runs them; NULL: over everything. */
static void replay(struct side *side, const int32_t *tokens, const struct kvmod_plan *plan,
		   float *logits)
{
	const struct kvmod_keep *keeps[TINY_LAYERS];
	struct kvmod_seq *copy;

	for (uint32_t i = 0; plan && i < TINY_LAYERS; i++)
		keeps[i] = kvmod_keep_at(plan, i);
	ck_assert(!gg_seq_copy(side->seq, plan ? keeps : NULL, 0, N - ROWS, ROWS, &copy));
	test_run(copy, tokens + N - ROWS, ROWS, logits, ROWS);
	gg_seq_close(side->engine, copy);
}

static double loss_of(struct side *side, const int32_t *tokens, uint32_t n_dropped, uint32_t first)
{
	static float whole[ROWS * TINY_VOCAB], cut[ROWS * TINY_VOCAB];
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(side->seq, &request);
	double loss, expected;

	for (uint32_t i = first; i < TINY_LAYERS; i++)
		drop(plan, i, n_dropped);
	replay(side, tokens, NULL, whole);
	replay(side, tokens, plan, cut);
	ck_assert_msg(!request.replay(&request, plan, ROWS, &loss), "%s", test_engine_error());
	expected = reference(whole, cut, TINY_VOCAB, ROWS);
	check(loss, expected);
	kvmod_plan_free(plan);
	return loss;
}

/* In several passes: a batch is 16 tokens. */
START_TEST(of_a_plan)
{
	static struct setup s;

	sides_set_up(&s, (unsigned)_i / 2, layers[_i % 2]);
	sides_run(&s, 0, N, false);
	ck_assert_double_gt(loss_of(&s.cpu, s.tokens, 60, 0), 0.01);
	ck_assert_double_gt(loss_of(&s.gpu, s.tokens, 60, 0), 0.01);
	ck_assert_double_lt(loss_of(&s.cpu, s.tokens, 1, TINY_LAYERS - 1), 0.01);
	ck_assert_double_lt(loss_of(&s.gpu, s.tokens, 1, TINY_LAYERS - 1), 0.01);
	sides_tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, made_up, 0, 2);
	tcase_add_loop_test(tc, many_rows, 0, 2);
	tcase_add_loop_test(tc, not_finite, 0, 2);
	tcase_add_loop_test(tc, of_a_plan, 0, 2 * N_MODELS);
}

int main(void)
{
#ifndef FAKE_GPU
	if (sides_skip())
		return 77;
#endif
	return test_main("engine divergence", add);
}
