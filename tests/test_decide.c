/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deciding: what a policy is handed, and that whatever it does wrong leaves the
 * segment whole, in words and in counters.
 */
#include <check.h>
#undef fail			/* the old name of ck_abort_msg() */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL decide_module
#include <kvmod/kvmod.h>

#include "core/run/describe.h"

#define LAYERS 3u
#define HEADS 2u
#define N 16u
#define DIM 8u

/* A policy that behaves as its parameter says. */
struct odd {
	struct kvmod_instance base;
	int32_t behave;
	int64_t scratch;
};

enum behave { GOOD, BAD_SPAN, ERROR, SILENT_ERROR, ONE_STATUS, DROP_NEWEST, UNSORTED, NO_OPEN,
	      GREEDY, REPLAY_GOOD, REPLAY_WILD, REPLAY_SHORT };

#define ODD_PARAMS(P, owner) \
	P(owner, struct odd, behave, CHOICE, "good", \
	  "good|bad-span|error|silent-error|one-status|drop-newest|unsorted|no-open|" \
	  "greedy|replay-good|replay-wild|replay-short", \
	  "what to do") \
	P(owner, struct odd, scratch, INT, "0", "0..1000000", "bytes of scratch")
KVMOD_PARAMS(policy, odd, ODD_PARAMS);

static int32_t odd_open(void *self, const struct kvmod_model *model)
{
	struct odd *odd = self;
	const struct kvmod_host *host = odd->base.host;

	(void)model;
	if (odd->behave == NO_OPEN)
		return host->fail(host->ctx, KVMOD_EINVAL, "I do not open");
	return KVMOD_OK;
}

static int32_t odd_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	needs->types = KVMOD_TYPE_BIT(KVMOD_F32) | KVMOD_TYPE_BIT(KVMOD_F16);
	needs->rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	return KVMOD_OK;
}

static int32_t odd_workspace(void *self, const struct kvmod_request *r,
			     struct kvmod_workspace *need)
{
	(void)r;
	need->host = (uint64_t)((struct odd *)self)->scratch;
	if (((struct odd *)self)->behave == GREEDY)
		need->host = UINT64_MAX - 1;
	return KVMOD_OK;
}

static void keep_span(struct kvmod_keep *keep, uint32_t begin, uint32_t end)
{
	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 1;
	keep->spans[0] = (struct kvmod_span){ .begin = begin, .end = end };
}

static void keep_unsorted(struct kvmod_keep *keep)
{
	keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < HEADS; g++) {
		keep->counts[g] = 2;
		keep->indices[g * keep->index_stride] = N - 1;
		keep->indices[g * keep->index_stride + 1] = 0;
	}
}

/* What the engine's replay was asked for, and what the policy was answered. */
static struct {
	void *ctx;
	uint32_t n_calls, rows;
	uint32_t counts[LAYERS];
	double loss;
	int32_t answer;
	char said[256];
} replayed;

static int32_t engine_replay(const struct kvmod_request *r, const struct kvmod_plan *trial,
			     uint32_t rows, double *loss)
{
	replayed.n_calls++;
	replayed.ctx = r->replay_ctx;
	replayed.rows = rows;
	for (uint32_t i = 0; i < LAYERS; i++)
		replayed.counts[i] = (uint32_t)kvmod_plan_count(r, trial, i, 0);
	*loss = 0.25;
	return KVMOD_OK;
}

/* Layer 0 is cut, 1 has failed with rubbish in it, 2 as `kind` says. */
static int32_t replay_trial(const struct kvmod_request *r, struct kvmod_plan *trial, int32_t kind)
{
	struct kvmod_keep *last = kvmod_keep_at(trial, 2);

	keep_span(kvmod_keep_at(trial, 0), N / 2, N);
	keep_span(kvmod_keep_at(trial, 1), 5, 9 * N);
	kvmod_keep_at(trial, 1)->status = KVMOD_ENUMERIC;
	last->kind = KVMOD_KEEP_ALL;
	if (kind == REPLAY_WILD)
		keep_span(last, 0, 1000 * N);
	if (kind == REPLAY_SHORT)
		trial->n_keeps--;
	replayed.answer = r->replay(r, trial, 3, &replayed.loss);
	snprintf(replayed.said, sizeof(replayed.said), "%s", kvmod_error());
	trial->n_keeps = LAYERS;
	for (uint32_t i = 0; i < LAYERS; i++) {
		kvmod_keep_at(trial, i)->kind = KVMOD_KEEP_ALL;
		kvmod_keep_at(trial, i)->status = KVMOD_OK;
	}
	return KVMOD_OK;
}

static int32_t odd_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	struct odd *odd = self;
	const struct kvmod_host *host = odd->base.host;

	if (odd->scratch > 0) {
		ck_assert_uint_ge(r->scratch_size, (size_t)odd->scratch);
		ck_assert_uint_eq((uintptr_t)r->scratch % 64, 0);
		memset(r->scratch, 0x5a, (size_t)odd->scratch);
	}
	if (odd->behave >= REPLAY_GOOD)
		return replay_trial(r, plan, odd->behave);
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		keep_span(kvmod_keep_at(plan, i), N / 2, N);
	switch (odd->behave) {
	case BAD_SPAN:
		keep_span(kvmod_keep_at(plan, 1), 0, N + 1);
		return KVMOD_OK;
	case ERROR:
		return host->fail(host->ctx, KVMOD_ENUMERIC, "a key is %s", "not finite");
	case SILENT_ERROR:
		return KVMOD_EIO;
	case ONE_STATUS:
		kvmod_keep_at(plan, 2)->status =
			host->fail(host->ctx, KVMOD_ENOTSUP, "not this one");
		return KVMOD_OK;
	case DROP_NEWEST:
		keep_span(kvmod_keep_at(plan, 0), 0, N - 1);
		return KVMOD_OK;
	case UNSORTED:
		keep_unsorted(kvmod_keep_at(plan, 0));
		return KVMOD_OK;
	default:
		return KVMOD_OK;
	}
}

static const struct kvmod_policy_ops odd_ops = {
	.size = sizeof(odd_ops), .name = "odd", .description = "misbehaves on request",
	.instance_size = sizeof(struct odd),
	.params = odd_params, .n_params = 2,
	.open = odd_open, .needs = odd_needs, .workspace = odd_workspace, .compress = odd_compress,
};

static int32_t odd_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &odd_ops);
}

KVMOD_MODULE("decide", "1", "Apache-2.0", "kvmod", "for this test", 0, odd_init, NULL);

/* --- a made-up cache ------------------------------------------------------------ */

static float keys[N * DIM], queries[HEADS * DIM];
static struct kv_described cache;
static struct kvmod_plan *plan;
static struct kvmod_ctx *ctx;
static struct kvmod_policy *policy;
static char logged[4096];

static void note_line(void *arg, uint32_t level, const char *line)
{
	size_t n = strlen(logged);

	(void)arg;
	(void)level;
	snprintf(logged + n, sizeof(logged) - n, "%s\n", line);
}

static void make_request(void)
{
	static const struct kv_shape shape = {
		.n_layers = LAYERS, .n_segments = LAYERS, .n_q_heads = HEADS, .n_kv_heads = HEADS,
		.head_dim = DIM,
	};

	ck_assert_int_eq(kv_describe(&cache, &shape, N, N), 0);
	for (uint32_t i = 0; i < LAYERS * HEADS; i++)
		cache.heads[i].k = kv_view(KVMOD_F32, keys, DIM * sizeof(float), 0);
	for (uint32_t l = 0; l < LAYERS; l++)
		kv_describe_queries(&cache.segments[l], queries, 1);
}

static int open_policy(const char *behave, const char *scratch)
{
	static const struct kvmod_model model = {
		.size = sizeof(model), .n_layers = LAYERS, .n_q_heads = HEADS,
		.n_kv_heads = HEADS, .head_dim = DIM, .context = 64, .name = "made-up",
	};
	char one[64], two[64];
	const char *overrides[] = { one, two };

	snprintf(one, sizeof(one), "policy odd.behave=%s", behave);
	snprintf(two, sizeof(two), "policy odd.scratch=%s", scratch);
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", overrides, 2) == 0, "%s", kvmod_error());
	return kvmod_policy_open(ctx, "odd", "cpu", &model, &policy);
}

static int decide(const char *behave)
{
	ck_assert_msg(open_policy(behave, "1000") == 0, "%s", kvmod_error());
	return kvmod_decide(policy, &cache.request, plan);
}

static struct kvmod_counters counters(void)
{
	struct kvmod_counters c = { .size = sizeof(c) };

	kvmod_policy_counters(policy, &c);
	return c;
}

static void is_whole(uint32_t i, int status)
{
	ck_assert_uint_eq(kvmod_keep_at(plan, i)->kind, KVMOD_KEEP_ALL);
	ck_assert_int_eq(kvmod_keep_at(plan, i)->status, status);
	ck_assert_uint_eq(kvmod_plan_count(&cache.request, plan, i, 0), N);
}

static void is_cut(uint32_t i)
{
	ck_assert_int_eq(kvmod_keep_at(plan, i)->status, 0);
	ck_assert_uint_eq(kvmod_plan_count(&cache.request, plan, i, 0), N / 2);
}

static void set_up(void)
{
	*logged = '\0';
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, note_line, NULL);
	ck_assert_msg(kvmod_add_builtin(ctx, &decide_module) == 0, "%s", kvmod_error());
	make_request();
	ck_assert_int_eq(kvmod_plan_new(&cache.request, &plan), 0);
	policy = NULL;
}

static void tear_down(void)
{
	kvmod_plan_free(plan);
	kv_undescribe(&cache);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}

START_TEST(good_plan_is_counted)
{
	struct kvmod_counters c;

	ck_assert_int_eq(decide("good"), 0);
	for (uint32_t i = 0; i < LAYERS; i++)
		is_cut(i);
	c = counters();
	ck_assert_uint_eq(c.requests, 1);
	ck_assert_uint_eq(c.segments, LAYERS);
	ck_assert_uint_eq(c.positions_seen, LAYERS * HEADS * N);
	ck_assert_uint_eq(c.positions_kept, LAYERS * HEADS * N / 2);
	ck_assert_uint_eq(c.bytes_freed, LAYERS * HEADS * (N / 2) * DIM * sizeof(float));
	ck_assert_uint_eq(c.failed_calls + c.failed_plans + c.failed_segments, 0);
	ck_assert_str_eq(logged, "");
}
END_TEST

START_TEST(bad_plan_leaves_its_segment_whole)
{
	struct kvmod_counters c;

	ck_assert_int_eq(decide("bad-span"), 0);
	is_cut(0);
	is_whole(1, KVMOD_EPLAN);
	is_cut(2);
	c = counters();
	ck_assert_uint_eq(c.failed_plans, 1);
	ck_assert_uint_eq(c.failed_segments, 1);
	ck_assert_str_eq(logged, "policy odd: layer 1: span 0 is 0..17, expected a part of 0..16; "
				 "1 of 3 segments stay whole\n");
}
END_TEST

START_TEST(newest_may_not_go)
{
	ck_assert_int_eq(decide("drop-newest"), 0);
	is_whole(0, KVMOD_EPLAN);
	is_cut(1);
}
END_TEST

START_TEST(lists_ascend)
{
	ck_assert_int_eq(decide("unsorted"), 0);
	is_whole(0, KVMOD_EPLAN);
}
END_TEST

START_TEST(error_leaves_all_whole)
{
	ck_assert_int_eq(decide("error"), KVMOD_ENUMERIC);
	ck_assert_str_eq(kvmod_error(), "policy odd: a key is not finite");
	for (uint32_t i = 0; i < LAYERS; i++)
		is_whole(i, KVMOD_ENUMERIC);
	ck_assert_uint_eq(counters().failed_calls, 1);
	ck_assert_uint_eq(counters().failed_segments, LAYERS);
	ck_assert_str_eq(logged, "policy odd: a key is not finite; the cache stays whole\n");
}
END_TEST

START_TEST(more_scratch_than_memory)
{
	ck_assert_int_eq(decide("greedy"), KVMOD_ENOMEM);
	for (uint32_t i = 0; i < LAYERS; i++)
		is_whole(i, KVMOD_ENOMEM);
}
END_TEST

START_TEST(silent_error_gets_a_name)
{
	ck_assert_int_eq(decide("silent-error"), KVMOD_EIO);
	ck_assert_str_eq(kvmod_error(), "policy odd: compress() failed: KVMOD_EIO");
}
END_TEST

START_TEST(status_of_one_segment)
{
	ck_assert_int_eq(decide("one-status"), 0);
	is_cut(0);
	is_cut(1);
	is_whole(2, KVMOD_ENOTSUP);
	ck_assert_uint_eq(counters().failed_plans, 0);
	ck_assert_uint_eq(counters().failed_segments, 1);
}
END_TEST

START_TEST(open_may_fail)
{
	ck_assert_int_eq(open_policy("no-open", "0"), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "policy odd: I do not open");
}
END_TEST

/* Everything that a foreign host may forget, in its own words. */
static const struct { const char *why; int err; } incomplete[] = {
	{ "policy odd: layer 2 comes without K, which the policy needs", KVMOD_EINVAL },
	{ "policy odd: layer 2: K has the unknown element type 77", KVMOD_EINVAL },
	{ "policy odd: layer 2: the policy does not read the element type of K", KVMOD_ENOTSUP },
	{ "policy odd: layer 2 comes without queries", KVMOD_EINVAL },
	{ "policy odd: layer 2: KV head 0 is empty", KVMOD_EINVAL },
	{ "policy odd: segment 2 has 3 query heads on 2 KV heads, expected a multiple", KVMOD_EINVAL },
	{ "policy odd: segment 2 has no heads", KVMOD_EINVAL },
	{ "policy odd: layer 0 is on `abacus`, but no such device is installed", KVMOD_EINVAL },
	{ "policy odd: the request's model has 0 layers, expected 1 to 65536", KVMOD_EINVAL },
	{ "policy odd: the request has 0 segments, expected 1 to 1048576", KVMOD_EINVAL },
};

START_TEST(incomplete_requests)
{
	struct kvmod_head *head = &cache.heads[2 * HEADS];

	switch (_i) {
	case 0:
		head->k.data = NULL;
		break;
	case 1:
		head->k.type = 77;
		break;
	case 2:
		head->k.type = KVMOD_BF16;
		break;
	case 3:
		cache.segments[2].n_rows = 0;
		break;
	case 4:
		head->n = 0;
		break;
	case 5:
		cache.segments[2].n_q_heads = 3;
		break;
	case 6:
		cache.segments[2].heads = NULL;
		break;
	case 7:
		cache.request.device = "abacus";
		break;
	case 8:
		cache.request.n_layers = 0;
		break;
	case 9:
		cache.request.n_segments = 0;
		break;
	}
	ck_assert_int_eq(open_policy("good", "0"), 0);
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), incomplete[_i].err);
	ck_assert_str_eq(kvmod_error(), incomplete[_i].why);
	ck_assert_uint_eq(kvmod_keep_at(plan, 0)->kind, KVMOD_KEEP_ALL);
}
END_TEST

START_TEST(plan_of_another_request)
{
	ck_assert_int_eq(open_policy("good", "0"), 0);
	cache.request.n_segments = 2;
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "policy odd: the plan has 3 segments, but the request has 2");
}
END_TEST

/* A host built against an older header hands over a shorter request. */
START_TEST(short_request)
{
	ck_assert_int_eq(open_policy("good", "64"), 0);
	cache.request.size = offsetof(struct kvmod_request, replay);
	cache.request.replay_ctx = (void *)(uintptr_t)0x1;	/* beyond its end */
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), 0);
	is_cut(0);
}
END_TEST

static void decide_with_replay(const char *behave)
{
	memset(&replayed, 0, sizeof(replayed));
	cache.request.replay = engine_replay;
	cache.request.replay_ctx = &replayed;
	ck_assert_int_eq(decide(behave), 0);
}

START_TEST(request_without_segments)
{
	ck_assert_int_eq(open_policy("good", "0"), 0);
	cache.request.size = offsetof(struct kvmod_request, segments);
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "policy odd: the request has size 24, expected at least 32");
	is_whole(0, KVMOD_EINVAL);
}
END_TEST

START_TEST(good_replay_reaches_the_engine)
{
	decide_with_replay("replay-good");
	ck_assert_int_eq(replayed.answer, 0);
	ck_assert_uint_eq(replayed.n_calls, 1);
	ck_assert_ptr_eq(replayed.ctx, &replayed);
	ck_assert_uint_eq(replayed.rows, 3);
	ck_assert_uint_eq(replayed.counts[0], N / 2);
	ck_assert_uint_eq(replayed.counts[2], N);
	ck_assert_double_eq(replayed.loss, 0.25);
	ck_assert_ptr_eq(cache.request.replay_ctx, &replayed);
}
END_TEST

START_TEST(wild_replay_does_not)
{
	decide_with_replay("replay-wild");
	ck_assert_int_eq(replayed.answer, KVMOD_EPLAN);
	ck_assert_str_eq(replayed.said, "replay: layer 2: span 0 is 0..16000, "
			 "expected a part of 0..16");
	ck_assert_uint_eq(replayed.n_calls, 0);
	ck_assert_uint_eq(counters().failed_plans, 0);
}
END_TEST

START_TEST(replay_of_too_few_segments_does_not)
{
	decide_with_replay("replay-short");
	ck_assert_int_eq(replayed.answer, KVMOD_EPLAN);
	ck_assert_str_eq(replayed.said, "replay: the plan has 2 segments, expected 3");
	ck_assert_uint_eq(replayed.n_calls, 0);
}
END_TEST

START_TEST(fullkv_is_always_there)
{
	static const struct kvmod_model model = { .size = sizeof(model), .n_layers = LAYERS };

	ck_assert_msg(kvmod_policy_open(ctx, NULL, "cpu", &model, &policy) == 0, "%s", kvmod_error());
	ck_assert_str_eq(kvmod_policy_ops(policy)->name, "fullkv");
	ck_assert_int_eq(kvmod_decide(policy, &cache.request, plan), 0);
	is_whole(0, 0);
	ck_assert_uint_eq(counters().bytes_freed, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("decide");
	TCase *tc = tcase_create("decide");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, good_plan_is_counted);
	tcase_add_test(tc, bad_plan_leaves_its_segment_whole);
	tcase_add_test(tc, newest_may_not_go);
	tcase_add_test(tc, lists_ascend);
	tcase_add_test(tc, error_leaves_all_whole);
	tcase_add_test(tc, more_scratch_than_memory);
	tcase_add_test(tc, silent_error_gets_a_name);
	tcase_add_test(tc, status_of_one_segment);
	tcase_add_test(tc, open_may_fail);
	tcase_add_loop_test(tc, incomplete_requests, 0, 10);
	tcase_add_test(tc, plan_of_another_request);
	tcase_add_test(tc, short_request);
	tcase_add_test(tc, request_without_segments);
	tcase_add_test(tc, good_replay_reaches_the_engine);
	tcase_add_test(tc, wild_replay_does_not);
	tcase_add_test(tc, replay_of_too_few_segments_does_not);
	tcase_add_test(tc, fullkv_is_always_there);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
