/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What repeating a context pays to its positions, against double precision on a fork that runs
 * the same tokens; on the CPU, and with layers on a made-up GPU. The tokens that ask for it.
 */
#include <config.h>

#include "tests/sides.h"
#include "kernels/cpu/logits.h"
#include "tests/column_sums.h"
#include "tests/e2e.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG	120	/* tokens of the context */
#define RUN	60	/* of a run, at most */

static char *model;
static struct gg_engine *engine;
static struct kvmod_seq *seq;
static int32_t tokens[LONG + RUN];
static float out[TINY_LAYERS * SUMS_HEADS * LONG];

static void set_up(int i, int64_t context)
{
	struct test_engine_params params = {
		.type = sides_setups[i].type, .batch = sides_setups[i].batch, .context = context,
		.gpu_layers = sides_setups[i].layers, .gpu = sides_setups[i].layers ? sides_find_gpu() : NULL,
	};

	model = tiny_model_write(&tiny_models[sides_setups[i].model], TINY_GOOD);
	params.model = model;
	engine = test_engine_open(&params);
	ck_assert_msg(engine, "%s", test_engine_error());
	seq = test_seq(engine);
	tiny_tokens(tokens, LONG + RUN, 11);
}

static void tear_down(void)
{
	gg_seq_close(engine, seq);
	test_engine_close(engine);
	unlink(model);
	free(model);
}

static struct kvmod_request request_of(struct kvmod_seq *s)
{
	struct kvmod_request request = { .size = sizeof(request) };

	ck_assert_msg(!gg_request(engine, s, &request), "%s", test_engine_error());
	return request;
}

/* --- in double precision -------------------------------------------------------------------- */

static uint64_t position_of(const struct kvmod_head *head, uint32_t i)
{
	return head->positions ? (uint64_t)head->positions[i] : i;
}

static bool takes_part(const struct kvmod_reread *what, uint64_t run, uint64_t position)
{
	return position < what->sinks || (position >= what->begin && position < what->end) ||
	       position >= run;
}

/* One row of one query head, which sees the oldest n rows. */
static void pay(const struct kvmod_segment *s, const struct kvmod_head *head, const float *q, uint32_t n,
		const struct kvmod_reread *what, uint64_t run, double *most)
{
	static double a[SUMS_ROWS];
	static float k[512];
	double top = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		a[i] = -INFINITY;
		if (!takes_part(what, run, position_of(head, i)))
			continue;
		kv_cpu_to_f32(head->k.type, (const char *)head->k.data + i * head->k.stride, s->head_dim, k);
		a[i] = 0;
		for (uint32_t d = 0; d < s->head_dim; d++)
			a[i] += (double)q[d] * (double)k[d] * (double)s->scale;
		top = fmax(top, a[i]);
	}
	for (uint32_t i = 0; i < n; i++)
		sum += exp(a[i] - top);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t p = position_of(head, i);

		if (p >= what->begin && p < what->end)
			most[p - what->begin] = fmax(most[p - what->begin], exp(a[i] - top) / sum);
	}
}

/* After a run of n tokens on the fork. */
static void check_layer(const struct kvmod_segment *s, uint32_t n, const struct kvmod_reread *what,
			uint64_t run, const float *got)
{
	uint32_t group = s->n_q_heads / s->n_kv_heads;
	uint64_t length = what->end - what->begin;
	double most[LONG];

	ck_assert_uint_eq(s->n_rows, n);
	for (uint32_t g = 0; g < s->n_kv_heads; g++, got += length) {
		const struct kvmod_head *head = kvmod_head_at(s, g);

		memset(most, 0, sizeof(most));
		for (uint32_t h = g * group; h < (g + 1) * group; h++) {
			for (uint32_t r = 0; r < n; r++) {
				const char *q = (const char *)s->q.data + r * s->q.stride +
						h * s->q.head_stride;

				pay(s, head, (const float *)(const void *)q, head->n - n + r + 1, what, run,
				    most);
			}
		}
		for (uint64_t i = 0; i < length; i++)
			ck_assert_double_eq_tol(got[i], most[i], 2e-5);
	}
}

static void check(const struct kvmod_reread *what, uint32_t n)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_K, .rows = { .value = 1.0 } };
	struct kvmod_request request = request_of(seq);
	struct kvmod_seq *fork = test_fork(seq);
	uint64_t run = seq->logical;

	memset(out, 0xff, sizeof(out));
	ck_assert_msg(!gg_reread_run(&request, what, tokens + LONG, n, out), "%s", test_engine_error());
	ck_assert(!gg_prompt_begin(engine, fork, n, &needs));
	test_run(fork, tokens + LONG, n, NULL, 0);
	request = request_of(fork);
	for (uint32_t i = 0; i < request.n_segments; i++)
		check_layer(kvmod_segment_at(&request, i), n, what, run,
			    out + i * engine->net.n_kv_heads * (what->end - what->begin));
	gg_seq_close(engine, fork);
}

static struct kvmod_reread part(uint32_t sinks, uint64_t begin, uint64_t end)
{
	return (struct kvmod_reread){ .size = sizeof(struct kvmod_reread), .sinks = sinks, .begin = begin,
				      .end = end };
}

/* The first part, with the sinks in it; a later one; all of it without sinks; one position. */
static void check_parts(void)
{
	struct kvmod_reread parts[] = { part(4, 0, 50), part(4, 40, 90), part(0, 0, LONG), part(3, 70, 71) };

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		check(&parts[i], 20 + 10 * (uint32_t)i);
}

/* --- tests -------------------------------------------------------------------------------------- */

START_TEST(whole)
{
	set_up(_i, 0);
	test_run(seq, tokens, LONG, NULL, 0);
	check_parts();
	tear_down();
}
END_TEST

/* Of what each head still caches, also after a gap has closed. */
START_TEST(after_cuts)
{
	struct kvmod_request request;

	set_up(_i, 0);
	test_run(seq, tokens, 100, NULL, 0);
	test_apply(seq, sides_plan(seq, KVMOD_KEEP_HEADS, &request));
	test_run(seq, tokens + 100, LONG - 100, NULL, 0);
	check_parts();
	tear_down();
	set_up(_i, 0);
	test_run(seq, tokens, LONG, NULL, 0);
	test_apply(seq, test_plan_ends(seq, 5, 70));
	check_parts();
	tear_down();
}
END_TEST

/* K, V, sums and queries are those that were there; the next token too. */
START_TEST(leaves_no_trace)
{
	struct kvmod_reread what = part(4, 10, 60);
	struct kvmod_request request;
	static float logits[TINY_VOCAB], expected[TINY_VOCAB];
	struct kvmod_seq *fork;
	uint64_t before;

	set_up(_i, 0);
	ck_assert(!gg_prompt_begin(engine, seq, 90, &sums_needs));
	test_run(seq, tokens, 90, NULL, 0);
	test_apply(seq, sides_plan(seq, KVMOD_KEEP_HEADS, &request));
	request = request_of(seq);
	fork = test_fork(seq);
	test_run(fork, tokens, 1, expected, 1);
	gg_seq_close(engine, fork);
	before = test_fingerprint(seq);
	ck_assert(!gg_reread_run(&request, &what, tokens, RUN, out));
	ck_assert_uint_eq(seq->logical, 90);
	ck_assert_uint_eq(test_fingerprint(seq), before);
	ck_assert(sums_shown(seq));
	test_run(seq, tokens, 1, logits, 1);
	ck_assert_mem_eq(logits, expected, sizeof(logits));
	tear_down();
}
END_TEST

/* Where no position takes part, nothing is paid: no spans are not all positions. */
START_TEST(nothing_takes_part)
{
	const struct gg_columns nothing = { .on = true, .reduce = KVMOD_COLUMNS_MAX, .run = UINT64_MAX };

	set_up(_i, 0);
	ck_assert(gg_columns_new(seq, &nothing));
	ck_assert(gg_queries_new(seq, RUN, 0, false));
	test_run(seq, tokens, RUN, NULL, 0);
	gg_columns_settle(seq);
	ck_assert(seq->columns.on);
	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		const struct gg_memory *most = &seq->caches[i].extras[GG_COLUMN_SUMS];
		const float *numbers = most->address;

		ck_assert_uint_ge(most->bytes, RUN * sizeof(*numbers));
		for (size_t n = 0; n < most->bytes / sizeof(*numbers); n++)
			ck_assert_float_eq(numbers[n], 0);
	}
	tear_down();
}
END_TEST

START_TEST(does_not_fit)
{
	struct kvmod_reread what = part(4, 10, 60), wrong = part(4, 10, 101);
	struct kvmod_request request;

	set_up(0, 130);
	test_run(seq, tokens, 100, NULL, 0);
	request = request_of(seq);
	ck_assert_int_eq(gg_reread_run(&request, &what, tokens, 31, out), KVMOD_ERANGE);
	ck_assert_str_eq(test_engine_error(), "cannot repeat positions 10 to 59: 31 more and 100 cached "
					      "tokens exceed the context of 130");
	ck_assert_int_eq(gg_reread_run(&request, &what, tokens, 30, out), KVMOD_OK);
	ck_assert_int_eq(gg_reread(&request, &wrong, out), KVMOD_EINVAL);
	ck_assert_str_eq(test_engine_error(), "cannot repeat positions 10 to 101: the sequence has 100");
	tear_down();
}
END_TEST

/* Without KVMOD_DEVICE_ATTENTION there is no such service; where the device fails, one line. */
START_TEST(devices)
{
	struct kvmod_reread what = part(4, 10, 60);
	struct kvmod_request request;

	set_up(4, 0);
	test_run(seq, tokens, 100, NULL, 0);
	request = request_of(seq);
	ck_assert(request.reread == gg_reread);
	sides_attention_fails = KVMOD_EDEVICE;
	ck_assert_int_eq(gg_reread_run(&request, &what, tokens, 30, out), KVMOD_EDEVICE);
	ck_assert_str_eq(test_engine_error(),
			 "the device could not compute the attention that the tokens pay");
	sides_attention_fails = 0;
	ck_assert_int_eq(gg_reread_run(&request, &what, tokens, 30, out), KVMOD_OK);
	sides_no_attention = true;
	ck_assert(!request_of(seq).reread);
	sides_no_attention = false;
	tear_down();
}
END_TEST

/* --- on the default model ------------------------------------------------------------------------ */

/* The tokens of each part of each context, of 2048 tokens after the template's. */
static void check_tokens(const json_t *line)
{
	uint64_t opening = (uint64_t)json_integer_value(json_object_get(line, "first"));
	const json_t *runs = json_object_get(line, "repeat_tokens");
	struct kvmod_seq *context = test_seq(engine);
	size_t n;

	/* The call looks at nothing but these. */
	context->tokens = e2e_ints(line, "context_tokens", &n);
	context->logical = n;
	for (size_t i = 0; i < json_array_size(runs); i++) {
		const json_t *run = json_array_get(runs, i);
		uint64_t begin = opening + 2048 * i, end = begin + 2048 < n ? begin + 2048 : n;
		struct kvmod_reread what = part(4, begin, end);
		int32_t *got;
		uint32_t n_got;

		ck_assert(!gg_reread_tokens(context, &what, opening, &got, &n_got));
		ck_assert_uint_eq(n_got, json_array_size(run));
		for (uint32_t t = 0; t < n_got; t++)
			ck_assert_int_eq(got[t], json_integer_value(json_array_get(run, t)));
		free(got);
	}
	context->logical = 0;
	gg_seq_close(engine, context);
}

START_TEST(golden_tokens)
{
	json_t *all = e2e_load_kvzip();

	engine = test_engine(TEST_MODEL, GGML_TYPE_F16);
	for (size_t i = 0; i < json_array_size(all); i++)
		check_tokens(json_array_get(all, i));
	test_engine_close(engine);
	json_decref(all);
}
END_TEST

/* Repeating 8 tokens: each is paid most by a token that repeats one near it. */
START_TEST(default_model)
{
	const char *text = "The secret of the lighthouse keeper is a blue diamond under the stairs.";
	struct kvmod_reread what = part(4, 0, 0);
	struct kvmod_request request;
	int32_t ids[64];
	size_t n = 64;
	float *most;

	engine = test_engine(TEST_MODEL, GGML_TYPE_F16);
	seq = test_seq(engine);
	ck_assert(!gg_tokenize(engine, text, strlen(text), 0, ids, &n));
	test_run(seq, ids, (uint32_t)n, NULL, 0);
	request = request_of(seq);
	what.end = n;
	most = calloc(request.n_segments * engine->net.n_kv_heads * n, sizeof(*most));
	ck_assert_ptr_nonnull(most);
	ck_assert_int_eq(request.reread(&request, &what, most), KVMOD_OK);
	/* A head that looks for the token to repeat pays it nearly all. */
	for (size_t p = 0; p < n; p++) {
		float best = 0;

		for (size_t i = 0; i < request.n_segments * engine->net.n_kv_heads; i++)
			best = fmaxf(best, most[i * n + p]);
		ck_assert_float_ge(best, 0.5f);
		ck_assert_float_le(best, 1.0001f);
	}
	free(most);
	gg_seq_close(engine, seq);
	test_engine_close(engine);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, whole, 0, SIDES_SETUPS);
	tcase_add_loop_test(tc, after_cuts, 0, SIDES_SETUPS);
	tcase_add_loop_test(tc, leaves_no_trace, 0, SIDES_SETUPS);
	tcase_add_loop_test(tc, nothing_takes_part, 0, SIDES_SETUPS);
	tcase_add_test(tc, does_not_fit);
	tcase_add_test(tc, devices);
	if (!*TEST_MODEL)
		return;
	tcase_add_test(tc, golden_tokens);
	tcase_add_test(tc, default_model);
}

int main(void)
{
	if (!*TEST_MODEL)
		printf("skipped: the default model, which configure was not given\n");
	return test_main("reading a context again", add);
}
