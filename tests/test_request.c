/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of a foreign host: what is wrong with one is said in words before a
 * policy sees the request, or a plan for it is made.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL request_module
#include "tests/fixture.h"

#include "core/run/describe.h"

#define LAYERS 3u
#define HEADS 2u
#define N 16u
#define DIM 32u

static unsigned n_asked;		/* calls of the policy's compress() */

static int32_t witness_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	needs->rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	return KVMOD_OK;
}

static int32_t witness_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	(void)self;
	(void)r;
	(void)plan;
	n_asked++;
	return KVMOD_OK;
}

static const struct kvmod_policy_ops witness_ops = {
	.size = sizeof(witness_ops), .name = "witness", .description = "counts its calls",
	.instance_size = sizeof(struct kvmod_instance),
	.needs = witness_needs, .compress = witness_compress,
};

static int32_t witness_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &witness_ops);
}

KVMOD_MODULE("request-test", "1", "Apache-2.0", "kvmod", "for this test", 0, witness_init, NULL);

/* --- a good request ------------------------------------------------------------------- */

static float keys[N * DIM], queries[2 * HEADS * DIM], sinks[HEADS];
static int32_t positions[N];
static struct kv_described cache;
static struct kvmod_ctx *ctx;
static struct kvmod_policy *policy;

/* Segment 2 and its heads, for tests to spoil. */
static struct kvmod_segment *last;
static struct kvmod_head *spoiled;

static void make_request(void)
{
	static const struct kv_shape shape = {
		.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = HEADS, .n_kv_heads = HEADS,
		.head_dim = DIM,
	};

	assert_ok(kv_describe(&cache, &shape, N, N));
	for (uint32_t i = 0; i < LAYERS * HEADS; i++) {
		cache.heads[i].k = kv_view(KVMOD_F32, keys, DIM * sizeof(float), 0);
		cache.heads[i].positions = positions;
	}
	for (uint32_t l = 0; l < LAYERS; l++) {
		kv_describe_queries(&cache.segments[l], queries, 2);
		cache.segments[l].sequence = 5;
		cache.segments[l].sink_logits = sinks;
	}
	last = &cache.segments[2];
	spoiled = &cache.heads[2 * HEADS];
	for (uint32_t i = 0; i < N; i++)
		positions[i] = (int32_t)i;
	memset(sinks, 0, sizeof(sinks));
}

static void set_up(void)
{
	fixture_setup();
	ctx = fixture_context();
	assert_ok(kvmod_add_builtin(ctx, &request_module));
	assert_ok(kvmod_policy_open(ctx, "witness", "cpu", &fixture_model, &policy));
	make_request();
	n_asked = 0;
}

static void tear_down(void)
{
	kv_undescribe(&cache);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	fixture_teardown();
}

/* --- one mistake each ------------------------------------------------------------------ */

static int32_t falling[N] = { 9, 8 }, far[N] = { [N - 1] = N }, negative[N] = { -1, [N - 1] = N - 1 };
static const int32_t rows_too_late[2] = { 14, 16 };

#define MISTAKES(M) \
	M(request_size, cache.request.size = 0, "the request has size 0, expected at least 32") \
	M(no_layers, cache.request.n_layers = 0, \
	  "the request's model has 0 layers, expected 1 to 65536") \
	M(no_segments, cache.request.n_segments = 0, "the request has 0 segments, expected 1 to 1048576") \
	M(all_windows, cache.request.n_window_layers = 3, \
	  "the request has 3 window layers in a model of 3 layers: expected fewer") \
	M(null_segments, cache.request.segments = NULL, "the request's segments are NULL") \
	M(null_segment, cache.segment_list[1] = NULL, "segment 1 is NULL") \
	M(segment_size, last->size = 0, "segment 2 has size 0, expected at least 248") \
	M(layer, last->layer = 3, "segment 2 is layer 3, but the model has 3 layers") \
	M(layer_twice, last->layer = 0, "segments 0 and 2 are both layer 0 of sequence 5") \
	M(no_kv_heads, last->n_kv_heads = 0, \
	  "segment 2 has 2 query heads on 0 KV heads, expected a multiple") \
	M(no_q_heads, last->n_q_heads = 0, \
	  "segment 2 has 0 query heads on 2 KV heads, expected a multiple") \
	M(many_heads, last->n_q_heads = 1u << 31, \
	  "segment 2 has 2147483648 query heads, expected at most 65536") \
	M(no_dim, last->head_dim = 0, "segment 2 has a head_dim of 0, expected 1 to 65536") \
	M(huge_dim, last->head_dim = UINT32_MAX, \
	  "segment 2 has a head_dim of 4294967295, expected 1 to 65536") \
	M(null_heads, last->heads = NULL, "segment 2 has no heads") \
	M(null_head, cache.head_list[2 * HEADS + 1] = NULL, "layer 2: KV head 1 is NULL") \
	M(head_size, spoiled[1].size = 0, "layer 2: KV head 1 has size 0, expected at least 88") \
	M(empty_head, spoiled[1].n = 0, "layer 2: KV head 1 is empty") \
	M(long_head, spoiled[1].n = UINT32_MAX, \
	  "layer 2: KV head 1 caches 4294967295 positions, expected at most 2147483647") \
	M(logical_below, last->logical = N - 1, \
	  "layer 2: KV head 0 caches 16 positions of a sequence of 15 tokens") \
	M(turned, spoiled[1].n_turned = N + 1, "layer 2: KV head 1 has 17 turned rows of 16") \
	M(nan_scale, last->scale = NAN, "layer 2: scale is nan, expected a finite number") \
	M(no_scale, last->scale = 0, "layer 2: scale is 0, expected more than 0") \
	M(nan_softcap, last->softcap = NAN, "layer 2: softcap is nan, expected 0 or more") \
	M(negative_softcap, last->softcap = -1, "layer 2: softcap is -1, expected 0 or more") \
	M(nan_sink, sinks[1] = NAN, \
	  "layer 0: the sink logit of query head 1 is nan, expected a finite number") \
	M(phase_base, last->phase_base = N + 1, "layer 2: phases are shifted by 17, but only 16 tokens " \
	  "were seen") \
	M(unknown_type, spoiled[0].k.type = 77, "layer 2: K has the unknown element type 77") \
	M(block_type, (spoiled[0].k.type = KVMOD_Q8_0, last->head_dim = 48), \
	  "layer 2: K comes in blocks of 32 elements, but head_dim is 48") \
	M(rotation, spoiled[0].k.rotation = 24, "layer 2: K has a rotation of 24, expected 0 or a " \
	  "power of two that divides head_dim, 32") \
	M(no_stride, spoiled[0].k.stride = 0, \
	  "layer 2: K has a stride of 0 bytes, expected at least 128") \
	M(short_stride, spoiled[0].k.stride = -127, \
	  "layer 2: K has a stride of -127 bytes, expected at least 128") \
	M(huge_stride, spoiled[0].k.stride = INT64_MIN, \
	  "layer 2: K has a stride of -9223372036854775808 bytes, too large for 16 of them") \
	M(v_stride, (spoiled[1].v = spoiled[1].k, spoiled[1].v.stride = 4), \
	  "layer 2: V has a stride of 4 bytes, expected at least 128") \
	M(q_stride, last->q.stride = 0, "layer 2: Q has a stride of 0 bytes, expected at least 128") \
	M(q_head_stride, last->q.head_stride = 0, \
	  "layer 2: Q has a head_stride of 0 bytes, expected at least 128") \
	M(many_rows, last->n_rows = N + 1, \
	  "layer 2: 17 rows of queries, but only 16 tokens were seen") \
	M(backwards, spoiled[0].positions = falling, \
	  "layer 2: K has 16 positions from 9 to 0, expected them ascending and below 16") \
	M(too_far, spoiled[0].positions = far, \
	  "layer 2: K has 16 positions from 0 to 16, expected them ascending and below 16") \
	M(negative_position, spoiled[0].positions = negative, \
	  "layer 2: K has 16 positions from -1 to 15, expected them ascending and below 16") \
	M(row_positions, last->row_positions = rows_too_late, \
	  "layer 2: Q has 2 positions from 14 to 16, expected them ascending and below 16") \
	M(no_queries, last->n_rows = 0, "layer 2 comes without queries") \
	M(no_keys, spoiled[1].k.data = NULL, "layer 2 comes without K, which the policy needs")

#define SPOIL(name, mistake, why) static void name(void) { mistake; }
MISTAKES(SPOIL)
#define ENTRY(name, mistake, why) { name, #name, why },
static const struct {
	void (*spoil)(void);
	const char *name, *why;
} mistakes[] = { MISTAKES(ENTRY) };

START_TEST(mistakes_are_refused)
{
	struct kvmod_plan *plan;
	char why[256];

	assert_ok(kvmod_plan_new(&cache.request, &plan));
	mistakes[_i].spoil();
	snprintf(why, sizeof(why), "policy witness: %s", mistakes[_i].why);
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), KVMOD_EINVAL);
	ck_assert_msg(strcmp(kvmod_error(), why) == 0, "%s: %s", mistakes[_i].name, kvmod_error());
	ck_assert_ptr_nonnull(strstr(fixture_log, why));
	ck_assert_uint_eq(n_asked, 0);
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_int_eq(kvmod_keep_at(plan, i)->status, KVMOD_EINVAL);
	kvmod_plan_free(plan);
}
END_TEST

/* What is odd, but right. */
START_TEST(good_requests)
{
	struct kvmod_plan *plan;

	assert_ok(kvmod_plan_new(&cache.request, &plan));
	assert_ok(kvmod_decide(policy, &cache.request, plan));
	for (uint32_t l = 0; l < LAYERS; l++)
		cache.segments[l].logical = 0;		/* left out: nothing was cut */
	assert_ok(kvmod_decide(policy, &cache.request, plan));
	last->layer = 0;				/* the same layer of another sequence */
	last->sequence = 4;
	assert_ok(kvmod_decide(policy, &cache.request, plan));
	last->layer = 2;
	spoiled[0].k.stride = -(int64_t)(DIM * sizeof(float));
	spoiled[0].k.data = keys + (N - 1) * DIM;
	assert_ok(kvmod_decide(policy, &cache.request, plan));
	ck_assert_uint_eq(n_asked, 4);
	kvmod_plan_free(plan);
}
END_TEST

/* A plan made while the cache was shorter has no room for the answer. */
START_TEST(plan_of_a_shorter_cache)
{
	struct kvmod_plan *plan;

	spoiled[0].n = spoiled[1].n = N / 2;
	spoiled[0].positions = spoiled[1].positions = NULL;
	assert_ok(kvmod_plan_new(&cache.request, &plan));
	spoiled[1].n = N;
	assert_fails(kvmod_decide(policy, &cache.request, plan), KVMOD_EINVAL,
		     "policy witness: keep 2 of the plan has no room for the 16 positions of its "
		     "segment: expected a plan of kvmod_plan_new()");
	ck_assert_uint_eq(n_asked, 0);
	assert_ok(kvmod_plan_renew(&cache.request, &plan));
	assert_ok(kvmod_decide(policy, &cache.request, plan));
	kvmod_plan_free(plan);
}
END_TEST

START_TEST(no_plan_for_a_bad_request)
{
	struct kvmod_plan *plan = NULL;

	spoiled[1].n = UINT32_MAX;
	assert_fails(kvmod_plan_new(&cache.request, &plan), KVMOD_EINVAL, "layer 2: KV head 1 caches "
		     "4294967295 positions, expected at most 2147483647");
	ck_assert_ptr_null(plan);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("request");
	TCase *tc = tcase_create("request");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_loop_test(tc, mistakes_are_refused, 0, sizeof(mistakes) / sizeof(*mistakes));
	tcase_add_test(tc, good_requests);
	tcase_add_test(tc, plan_of_a_shorter_cache);
	tcase_add_test(tc, no_plan_for_a_bad_request);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
