/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is counted in a request of a foreign host, and in the model of an engine: tokens
 * seen, layers of each sequence, room of extras. A wrong count is refused in words.
 */
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL counts_module
#include <kvmod/toolkit.h>

#include "tests/fixture.h"

#include "core/run/request.h"

#define LAYERS 3u
#define HEADS 2u
#define N 16u
#define DIM 32u
#define ROWS 2u
#define MOST 9u			/* segments */

extern const struct kvmod_module kvmod_module_snapkv;

/* --- a policy that notes what it sees ------------------------------------------------- */

static uint32_t wanted, taken;		/* what its needs() asks for, and takes */
static uint32_t there;			/* the extras that it saw last, KVMOD_NEED_... */
static uint64_t logical;		/* of the segment that it saw last */
static uint32_t sees[ROWS];		/* positions that its rows see */

static int32_t witness_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = wanted;
	needs->takes = taken;
	needs->rows = (struct kvmod_amount){ .value = ROWS, .is_count = 1 };
	return KVMOD_OK;
}

static int32_t witness_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	(void)self;
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		logical = s->logical;
		there = (s->colsum.data ? KVMOD_NEED_COLSUM : 0) | (s->wo_norm.data ? KVMOD_NEED_WO_NORM : 0) |
			(s->q_mean.data || s->q_cov.data ? KVMOD_NEED_Q_STATS : 0) |
			(kvmod_head_at(s, 0)->k.data ? KVMOD_NEED_K : 0);
		for (uint32_t row = 0; row < ROWS; row++)
			sees[row] = kvmod_row_sees(s, kvmod_head_at(s, 0), row);
	}
	return KVMOD_OK;
}

static const struct kvmod_policy_ops witness_ops = {
	.size = sizeof(witness_ops), .name = "witness", .description = "notes what it sees",
	.instance_size = sizeof(struct kvmod_instance),
	.needs = witness_needs, .compress = witness_compress,
};

static int32_t counts_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &witness_ops);
}

KVMOD_MODULE("counts-test", "1", "Apache-2.0", "kvmod", "for this test", 0, counts_init, NULL);

/* --- a cache ---------------------------------------------------------------------------- */

static float keys[N * DIM], queries[ROWS * HEADS * DIM], extra[HEADS * DIM * DIM];
static struct kvmod_head heads[HEADS];
static const struct kvmod_head *head_list[HEADS];
static struct kvmod_segment segments[MOST], *const first = &segments[0];
static const struct kvmod_segment *segment_list[MOST];
static struct kvmod_request request;
static struct kvmod_plan *plan;
static struct kvmod_ctx *ctx;
static struct kvmod_policy *policy;

static struct kvmod_view floats(const float *data, size_t stride, size_t head_stride)
{
	return (struct kvmod_view){
		.type = KVMOD_F32, .data = data, .stride = (int64_t)(stride * sizeof(float)),
		.head_stride = (int64_t)(head_stride * sizeof(float)),
	};
}

/* Segments in that order: "a0 b2" are layer 0 of sequence 0 and layer 2 of sequence 1. */
static void make_request(const char *layout)
{
	uint32_t n = (uint32_t)(strlen(layout) + 1) / 3;

	for (uint32_t g = 0; g < HEADS; g++)
		heads[g] = (struct kvmod_head){
			.size = sizeof(heads[g]), .n = N, .k = floats(keys, DIM, 0),
		};
	kvmod_list_heads(head_list, heads, HEADS);
	for (uint32_t i = 0; i < n; i++)
		segments[i] = (struct kvmod_segment){
			.size = sizeof(segments[i]), .layer = (uint32_t)(layout[3 * i + 1] - '0'),
			.sequence = (uint64_t)(layout[3 * i] - 'a'), .logical = N,
			.n_q_heads = HEADS, .n_kv_heads = HEADS, .head_dim = DIM, .scale = 1,
			.heads = head_list, .n_rows = ROWS, .q = floats(queries, HEADS * DIM, DIM),
		};
	kvmod_list_segments(segment_list, segments, n);
	request = (struct kvmod_request){
		.size = sizeof(request), .phase = KVMOD_PREFILL, .n_layers = LAYERS,
		.n_segments = n, .segments = segment_list,
	};
}

static void set_up(void)
{
	fixture_setup();
	ctx = fixture_context();
	assert_ok(kvmod_add_builtin(ctx, &counts_module));
	assert_ok(kvmod_add_builtin(ctx, &kvmod_module_snapkv));
	policy = NULL;
	plan = NULL;
	wanted = taken = 0;
	for (uint32_t i = 0; i < N * DIM; i++)
		keys[i] = (float)(i * 37 % 101) / 101;
	for (uint32_t i = 0; i < ROWS * HEADS * DIM; i++)
		queries[i] = (float)(i * 53 % 97) / 97;
}

static void tear_down(void)
{
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	fixture_teardown();
}

static void open_witness(uint32_t what)
{
	wanted = what;
	kvmod_policy_close(policy);
	assert_ok(kvmod_policy_open(ctx, "witness", "cpu", &fixture_model, &policy));
}

/* --- tokens seen ------------------------------------------------------------------------ */

/* A host that has cut nothing may leave `logical` out. */
START_TEST(logical_left_out)
{
	make_request("a0");
	open_witness(0);
	assert_ok(kvmod_plan_new(&request, &plan));
	for (int i = 0; i < 2; i++) {
		first->logical = i ? 0 : N;
		logical = 0;
		assert_ok(kvmod_decide(policy, &request, plan));
		ck_assert_uint_eq(logical, N);
		ck_assert_uint_eq(sees[0], N - 1);
		ck_assert_uint_eq(sees[1], N);
	}
	ck_assert_uint_eq(first->logical, 0);
}
END_TEST

START_TEST(snapkv_decides_the_same)
{
	const char *overrides[] = { "policy snapkv.budget=0.5", "policy snapkv.window=2",
				    "policy snapkv.pool=1", "kvmod.threads=1" };
	uint32_t counts[HEADS], indices[HEADS][N];
	const struct kvmod_keep *keep;

	make_request("a0");
	assert_ok(kvmod_configure(ctx, "/dev/null", overrides, 4));
	assert_ok(kvmod_policy_open(ctx, "snapkv", "cpu", &fixture_model, &policy));
	assert_ok(kvmod_plan_new(&request, &plan));
	assert_ok(kvmod_decide(policy, &request, plan));
	keep = kvmod_keep_at(plan, 0);
	ck_assert_uint_eq(keep->kind, KVMOD_KEEP_HEADS);
	for (uint32_t g = 0; g < HEADS; g++) {
		counts[g] = keep->counts[g];
		ck_assert_uint_eq(counts[g], N / 2);
		memcpy(indices[g], keep->indices + g * keep->index_stride, counts[g] * sizeof(uint32_t));
		memset(keep->indices + g * keep->index_stride, 0, counts[g] * sizeof(uint32_t));
	}
	first->logical = 0;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_int_eq(keep->status, 0);
	for (uint32_t g = 0; g < HEADS; g++) {
		ck_assert_uint_eq(keep->counts[g], counts[g]);
		ck_assert_mem_eq(keep->indices + g * keep->index_stride, indices[g],
				 counts[g] * sizeof(uint32_t));
	}
}
END_TEST

START_TEST(tokens_are_counted_by_position)
{
	int32_t far[N] = { [N - 1] = N };

	make_request("a0");
	first->logical = UINT64_MAX;
	assert_fails(kvmod_plan_new(&request, &plan), KVMOD_EINVAL, "segment 0 is of a sequence of "
		     "18446744073709551615 tokens, expected at most 2147483647");
	first->logical = (uint64_t)INT32_MAX + 1;
	assert_fails(kvmod_plan_new(&request, &plan), KVMOD_EINVAL, "segment 0 is of a sequence of "
		     "2147483648 tokens, expected at most 2147483647");
	first->logical = INT32_MAX;
	assert_ok(kvmod_plan_new(&request, &plan));
	/* Whoever leaves `logical` out has cut nothing. */
	first->logical = 0;
	heads[1].positions = far;
	assert_fails(kvmod_plan_new(&request, &plan), KVMOD_EINVAL, "layer 0: K has 16 positions from "
		     "0 to 16, expected them ascending and below 16");
}
END_TEST

/* As after a truncation: a plan for an empty cache keeps all of it, but nothing is to be decided. */
START_TEST(empty_caches)
{
	make_request("a0 a1 a2");
	heads[0].n = 0;
	first->n_rows = 0;
	assert_ok(kvmod_plan_new(&request, &plan));
	ck_assert_uint_eq(kvmod_plan_count(&request, plan, 1, 0), 0);
	ck_assert_uint_eq(kvmod_plan_count(&request, plan, 1, 1), N);
	open_witness(0);
	assert_fails(kvmod_decide(policy, &request, plan), KVMOD_EINVAL,
		     "policy witness: layer 0: KV head 0 is empty");
	heads[1].n = 0;
	for (uint32_t i = 0; i < LAYERS; i++) {
		segments[i].n_rows = 0;
		segments[i].logical = 0;
	}
	assert_ok(kvmod_plan_renew(&request, &plan));
	ck_assert_double_eq(kvmod_plan_budget(&request, plan), 1);
}
END_TEST

/* Each length passes, but not their product. */
START_TEST(more_than_memory)
{
	enum { MANY = 65536 };
	const struct kvmod_head **list = calloc(MANY, sizeof(*list));

	ck_assert_ptr_nonnull(list);
	make_request("a0");
	heads[0].n = INT32_MAX;
	heads[0].k.data = NULL;
	for (uint32_t g = 0; g < MANY; g++)
		list[g] = &heads[0];
	first->heads = list;
	first->n_kv_heads = first->n_q_heads = MANY;
	first->logical = 0;
	first->q.data = NULL;
	assert_fails(kvmod_plan_new(&request, &plan), KVMOD_ENOMEM,
		     "no memory for a plan of more than 35184372088832 positions");
	free(list);
}
END_TEST

/* --- layers of each sequence -------------------------------------------------------------- */

#define TWICE(i, j, layer, sequence) \
	"segments " #i " and " #j " are both layer " #layer " of sequence " #sequence
#define SOME(sequence, n) \
	"sequence " #sequence " has " #n " segments, but the policy decides over all 3 layers at once"
#define TOO_MANY(n, named) \
	"sequence 0 has " #n " segments, but only " #named " of the model's 3 layers cache more than " \
	"a window"

/* Why a request is refused, and why with a policy that decides over all layers; NULL: it is not. */
static const struct {
	const char *layout;
	uint32_t n_window_layers;
	const char *why, *why_all;
} layouts[] = {
	{ "a0 a1 a2", 0, NULL, NULL },
	{ "a2 a0 a1", 0, NULL, NULL },
	{ "a0 a1", 0, NULL, SOME(0, 2) },
	{ "a1 a0", 0, NULL, SOME(0, 2) },
	/* sequence by sequence */
	{ "a0 a1 a2 b0 b1 b2", 0, NULL, NULL },
	{ "a0 a1 a2 b0 b1 c0", 0, NULL, SOME(1, 2) },
	{ "a1 a2 b1 b2", 1, NULL, NULL },
	/* layer by layer */
	{ "a0 b0 c0 a1 b1 c1 a2 b2 c2", 0, NULL, NULL },
	{ "a0 b0 a1 b1", 0, NULL, SOME(0, 2) },
	{ "a0 b0 a1 a2", 0, NULL, SOME(1, 1) },
	{ "a0 b0 a1 b1 a2", 0, NULL, SOME(1, 2) },
	{ "a1 b1 a2 b2", 1, NULL, NULL },
	/* in any order */
	{ "c2 a1 b0 a0 b2 a2 c1 b1 c0", 0, NULL, NULL },
	{ "c2 a1 b0 a0 b2 a2 b1 c0", 0, NULL, SOME(2, 2) },
	{ "b0 a0 b1 a2 b2 a1", 0, NULL, NULL },
	/* twice */
	{ "a0 a0", 0, TWICE(0, 1, 0, 0), NULL },
	{ "b0 a0 b0", 0, TWICE(0, 2, 0, 1), NULL },
	{ "a0 a1 b0 b1 a1", 0, TWICE(1, 4, 1, 0), NULL },
	{ "a0 b0 a1 b1 a1 b1", 0, TWICE(2, 4, 1, 0), NULL },
	/* layers that cache a window alone are not to be named */
	{ "a0 a1 a2", 2, TOO_MANY(3, 1), NULL },
	{ "a0 b0 a1 b1 a2 b2", 1, TOO_MANY(3, 2), NULL },
	{ "a2 a0 a1", 1, TOO_MANY(3, 2), NULL },
	{ "a0", 2, NULL, NULL },
};

START_TEST(layers_of_sequences)
{
	const char *why = layouts[_i].why, *why_all = layouts[_i].why_all;
	char text[256];
	int err;

	make_request(layouts[_i].layout);
	request.n_window_layers = layouts[_i].n_window_layers;
	err = kvmod_plan_new(&request, &plan);
	ck_assert_int_eq(err, why ? KVMOD_EINVAL : KVMOD_OK);
	if (why) {
		ck_assert_str_eq(kvmod_error(), why);
		return;
	}
	open_witness(0);
	assert_ok(kvmod_decide(policy, &request, plan));
	open_witness(KVMOD_NEED_ALL_LAYERS);
	err = kvmod_decide(policy, &request, plan);
	ck_assert_msg(err == (why_all ? KVMOD_EINVAL : KVMOD_OK), "%s: %d: %s", layouts[_i].layout, err,
		      kvmod_error());
	snprintf(text, sizeof(text), "policy witness: %s", why_all ? why_all : "");
	if (why_all)
		ck_assert_str_eq(kvmod_error(), text);
}
END_TEST

/* --- extras ------------------------------------------------------------------------------- */

static void add_extras(void)
{
	first->colsum = floats(extra, 0, N);
	first->wo_norm = floats(extra, 0, N);
	first->q_mean = floats(extra, 0, DIM);
	first->q_cov = floats(extra, DIM, DIM * DIM);
}

#define EXTRAS(M) \
	M(colsum.type = KVMOD_F16, "layer 0: colsum has the element type 2, expected 1 (f32)") \
	M(wo_norm.type = 77, "layer 0: wo_norm has the element type 77, expected 1 (f32)") \
	M(q_mean.rotation = DIM, "layer 0: q_mean has a rotation of 32, expected 0") \
	M(colsum.head_stride = 63, \
	  "layer 0: colsum has a head_stride of 63 bytes, expected at least 64") \
	M(wo_norm.head_stride = 0, \
	  "layer 0: wo_norm has a head_stride of 0 bytes, expected at least 64") \
	M(q_mean.head_stride = -64, \
	  "layer 0: q_mean has a head_stride of -64 bytes, expected at least 128") \
	M(q_cov.stride = 0, "layer 0: q_cov has a stride of 0 bytes, expected at least 128") \
	M(q_cov.head_stride = 4095, \
	  "layer 0: q_cov has a head_stride of 4095 bytes, expected at least 4096") \
	M(q_cov.stride = 132, \
	  "layer 0: q_cov has a head_stride of 4096 bytes, expected at least 4220") \
	M(q_cov.head_stride = INT64_MIN, "layer 0: q_cov has a head_stride of " \
	  "-9223372036854775808 bytes, too large for 2 of them")

START_TEST(extras_are_checked)
{
#define EXTRA(mistake, why) \
	add_extras(); \
	assert_ok(kvmod_plan_renew(&request, &plan)); \
	first->mistake; \
	assert_fails(kvmod_plan_renew(&request, &plan), KVMOD_EINVAL, why);
	make_request("a0");
	EXTRAS(EXTRA)
}
END_TEST

START_TEST(extras_with_gaps)
{
	make_request("a0");
	add_extras();
	first->colsum.head_stride = 68;
	first->q_cov.stride = 132;
	first->q_cov.head_stride = 4220;
	open_witness(KVMOD_NEED_COLSUM | KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM);
	assert_ok(kvmod_plan_new(&request, &plan));
	assert_ok(kvmod_decide(policy, &request, plan));
	/* One head: there is no stride to a next one. */
	first->n_kv_heads = first->n_q_heads = 1;
	first->colsum.head_stride = first->q_mean.head_stride = 0;
	assert_ok(kvmod_plan_renew(&request, &plan));
}
END_TEST

/* What a policy takes it gets where there is any; a request without it is as good. */
START_TEST(extras_that_are_taken)
{
	make_request("a0");
	add_extras();
	taken = KVMOD_NEED_COLSUM | KVMOD_NEED_WO_NORM | KVMOD_NEED_K;
	open_witness(0);
	assert_ok(kvmod_plan_new(&request, &plan));
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(there, KVMOD_NEED_COLSUM | KVMOD_NEED_WO_NORM);
	first->colsum.data = NULL;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(there, KVMOD_NEED_WO_NORM);
	open_witness(KVMOD_NEED_COLSUM);
	assert_fails(kvmod_decide(policy, &request, plan), KVMOD_EINVAL,
		     "policy witness: layer 0 comes without column sums");
}
END_TEST

/* --- models --------------------------------------------------------------------------------- */

static const float frequencies[] = { 1, 0.5f, INFINITY };

#define MODELS(M) \
	M(size, offsetof(struct kvmod_model, name), "the model has size 32, expected at least 76") \
	M(size, offsetof(struct kvmod_model, n_end_tokens), "the model has size 72, expected at least 76") \
	M(name, NULL, "the model has no name") \
	M(n_end_tokens, 3, "the model has 3 end tokens, but a list of them that is NULL") \
	M(n_layers, 0, "the model has 0 layers, expected 1 to 65536") \
	M(n_layers, 65537, "the model has 65537 layers, expected 1 to 65536") \
	M(n_window_layers, 2, "the model has 2 window layers among its 2 layers: expected fewer") \
	M(n_kv_heads, 0, "the model has 4 query heads on 0 KV heads, expected a multiple, at most 65536") \
	M(n_kv_heads, 3, "the model has 4 query heads on 3 KV heads, expected a multiple, at most 65536") \
	M(n_q_heads, 0, "the model has 0 query heads on 2 KV heads, expected a multiple, at most 65536") \
	M(n_q_heads, 65538, "the model has 65538 query heads on 2 KV heads, expected a multiple, " \
	  "at most 65536") \
	M(head_dim, 0, "the model has a head_dim of 0, expected 1 to 65536") \
	M(head_dim, 65537, "the model has a head_dim of 65537, expected 1 to 65536") \
	M(n_vocab, 0, "the model has a vocabulary of 0 tokens, expected 1 to 2147483647") \
	M(n_vocab, 1u << 31, "the model has a vocabulary of 2147483648 tokens, expected 1 to 2147483647") \
	M(n_device_layers, 3, "the model has 3 layers on a device, but only 2 in all") \
	M(n_rope_freqs, 1, "the model has 1 RoPE frequencies in a list that is NULL, expected 1 to 16") \
	M(rope_freqs, frequencies, "the model has 0 RoPE frequencies, expected 1 to 16") \
	M(rope_magnitude, -1, "the model has a RoPE magnitude of -1, expected 0 or more") \
	M(rope_magnitude, NAN, "the model has a RoPE magnitude of nan, expected 0 or more")

START_TEST(models_are_checked)
{
#define MODEL(field, value, why) do { \
		struct kvmod_model m = fixture_model; \
		\
		m.field = value; \
		assert_fails(kv_model_check(&m), KVMOD_EINVAL, why); \
	} while (0);
	struct kvmod_model oldest = fixture_model, turning = fixture_model;

	MODELS(MODEL)
	assert_fails(kv_model_check(NULL), KVMOD_EINVAL, "the engine returned no model");
	assert_ok(kv_model_check(&fixture_model));
	oldest.size = offsetof(struct kvmod_model, n_end_tokens) + sizeof(oldest.n_end_tokens);
	oldest.n_device_layers = oldest.n_window_layers = 99;		/* beyond its end */
	oldest.n_rope_freqs = 99;
	assert_ok(kv_model_check(&oldest));
	turning.rope_freqs = frequencies;
	turning.n_rope_freqs = 2;
	turning.rope_magnitude = 1.1f;
	assert_ok(kv_model_check(&turning));
	turning.n_rope_freqs = 3;
	assert_fails(kv_model_check(&turning), KVMOD_EINVAL,
		     "RoPE frequency 2 of the model is inf, expected a finite number");
	turning.n_rope_freqs = 17;
	assert_fails(kv_model_check(&turning), KVMOD_EINVAL,
		     "the model has 17 RoPE frequencies, expected 1 to 16");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("request, counts");
	TCase *tc = tcase_create("counts");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, logical_left_out);
	tcase_add_test(tc, snapkv_decides_the_same);
	tcase_add_test(tc, tokens_are_counted_by_position);
	tcase_add_test(tc, empty_caches);
	tcase_add_test(tc, more_than_memory);
	tcase_add_loop_test(tc, layers_of_sequences, 0, sizeof(layouts) / sizeof(*layouts));
	tcase_add_test(tc, extras_are_checked);
	tcase_add_test(tc, extras_with_gaps);
	tcase_add_test(tc, extras_that_are_taken);
	tcase_add_test(tc, models_are_checked);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
