/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of what lies on another device than the policy runs on, and what may go wrong there. */
#include "core/run/policy.h"
#include "tests/reader.h"

#include <stdlib.h>
#include <string.h>

/* --- staging ---------------------------------------------------------------------------------------- */

static void is_decided(void)
{
	for (uint32_t l = 0; l < LAYERS; l++) {
		ck_assert_int_eq(kvmod_keep_at(plan, l)->status, 0);
		for (uint32_t g = 0; g < HEADS; g++)
			ck_assert_uint_eq(kvmod_plan_count(&request, plan, l, g), 1);
	}
}

static void is_whole(int status)
{
	for (uint32_t l = 0; l < LAYERS; l++) {
		ck_assert_uint_eq(kvmod_keep_at(plan, l)->kind, KVMOD_KEEP_ALL);
		ck_assert_int_eq(kvmod_keep_at(plan, l)->status, status);
	}
}

static const struct { const char *policy, *below, *above, *note; } sides[] = {
	{ "cpu", "cpu", "cpu", "" },
	{ GPU, GPU, GPU, "" },
	{ GPU, NULL, NULL, "policy reader runs on " GPU "; copied there from cpu: layer 0-3\n" },
	{ "cpu", GPU, GPU, "policy reader runs on cpu; copied there from " GPU ": layer 0-3\n" },
	{ GPU, "cpu", GPU, "policy reader runs on " GPU "; copied there from cpu: layer 0-2\n" },
	{ "cpu", "cpu", GPU, "policy reader runs on cpu; copied there from " GPU ": layer 3\n" },
};
#define N_SIDES 6

START_TEST(staging)
{
	size_t side = (size_t)_i % N_SIDES;
	struct kvmod_ctx *ctx = reader_context(CPU, GPU);
	struct kvmod_policy *policy = open_reader(ctx, sides[side].policy);
	unsigned n_allocations;

	make_request(sides[side].below, sides[side].above, 3, (enum layout)(_i / N_SIDES));
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	ck_assert_uint_eq(reader.n_views, reader_views(READER_ALL, ROWS));
	ck_assert_str_eq(reader.device, sides[side].policy);
	is_decided();
	/* Again: nothing more is logged or allocated. */
	n_allocations = gpu.n_allocations;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	ck_assert_uint_eq(gpu.n_allocations, n_allocations);
	ck_assert_str_eq(fixture_log, sides[side].note);
	reader_end(ctx, policy);
}
END_TEST

START_TEST(only_what_is_needed)
{
	static const struct { uint32_t what, rows; } needs[] = {
		{ KVMOD_NEED_K, 0 }, { KVMOD_NEED_V, 0 }, { 0, 1 }, { KVMOD_NEED_COLSUM, 0 },
		{ KVMOD_NEED_Q_STATS, 0 }, { KVMOD_NEED_WO_NORM, 0 },
	};
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy;
	uint64_t bytes = 0;

	reader.what = needs[_i].what;
	reader.rows = needs[_i].rows;
	policy = open_reader(ctx, NULL);
	make_request(NULL, NULL, 0, GAPS);
	assert_ok(kvmod_decide(policy, &request, plan));
	for (uint32_t l = 0; l < LAYERS; l++) {
		uint64_t n = reader_length(l, 0) + reader_length(l, 1);

		bytes += (_i == 0) * n * 4 * DIM + (_i == 1) * n * 2 * DIM +
			 (_i == 2) * ROWS * Q_HEADS * 4 * DIM + (_i == 3 || _i == 5) * 2 * n * 4 +
			 (_i == 4) * Q_HEADS * (1 + DIM) * 4 * DIM;
	}
	ck_assert_uint_eq(reader.n_wrong, 0);
	ck_assert_uint_eq(gpu.bytes_copied, bytes);
	reader_end(ctx, policy);
}
END_TEST

/* A copy or two a layer, however many heads there are. */
START_TEST(heads_go_together)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_policy *policy;

	reader.what = KVMOD_NEED_K;
	reader.rows = 0;
	policy = open_reader(ctx, "cpu");
	make_request(GPU, GPU, 0, INTERLEAVED);
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_to_host, LAYERS);
	ck_assert_uint_eq(gpu.n_gathers, LAYERS);
	ck_assert_uint_eq(reader.n_wrong, 0);
	reader_end(ctx, policy);
}
END_TEST

/* Whoever goes by lengths alone needs no copies, and no GPU. */
START_TEST(nothing_is_needed)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_policy *policy;

	reader.what = 0;
	reader.rows = 0;
	policy = open_reader(ctx, "cpu");
	make_request(GPU, GPU, 0, DENSE);
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_opened, 0);
	ck_assert_str_eq(fixture_log, "");
	is_decided();
	reader_end(ctx, policy);
}
END_TEST

START_TEST(caches_grow)
{
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, GPU);

	make_request(NULL, NULL, 0, GAPS);
	request.n_segments = plan->n_keeps = 1;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_live, 1);
	request.n_segments = plan->n_keeps = LAYERS;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_live, 1);
	ck_assert_uint_eq(gpu.n_allocations, 2);
	ck_assert_uint_eq(reader.n_wrong, 0);
	is_decided();
	reader_end(ctx, policy);
}
END_TEST

/* A host of an older header has one device for all segments. */
START_TEST(older_segments)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, "cpu");

	make_request(GPU, GPU, 0, GAPS);
	for (uint32_t l = 0; l < LAYERS; l++) {
		segments[l].size = offsetof(struct kvmod_segment, device);
		segments[l].device = (const char *)(uintptr_t)1;
	}
	request.device = GPU;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	is_decided();
	reader_end(ctx, policy);
}
END_TEST

START_TEST(no_such_device)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, "cpu");

	make_request("cpu", "abacus", 2, DENSE);
	assert_fails(kvmod_decide(policy, &request, plan), KVMOD_EINVAL,
		     "policy reader: layer 2 is on `abacus`, but no such device is installed");
	is_whole(KVMOD_EINVAL);
	reader_end(ctx, policy);
}
END_TEST

/* --- streams ------------------------------------------------------------------------------------------ */

/* What an engine has queued on its stream, the copies come after. */
static void write_keys(void *arg)
{
	(void)arg;
	for (uint32_t g = 0; g < HEADS; g++) {
		uint8_t *row = gpu_reach(heads[3][g].k.data);

		for (uint32_t i = 0; i < heads[3][g].n; i++, row += heads[3][g].k.stride)
			for (size_t b = 0; b < 4 * DIM; b++)
				row[b] = reader_byte(OF_K, 3, g, i, b);
	}
}

START_TEST(streams)
{
	const char *where = _i == 0 ? "cpu" : GPU;
	struct kvmod_ctx *ctx = reader_context(CPU, GPU);
	struct kvmod_policy *policy = open_reader(ctx, where);

	make_request("cpu", GPU, 2, GAPS);
	request.device = GPU;
	request.stream = &request;
	for (uint32_t g = 0; g < HEADS; g++)
		memset(gpu_reach(heads[3][g].k.data), 0, 4 * DIM);
	ck_assert_int_eq(gpu_launch(&request, write_keys, NULL), 0);
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	ck_assert_ptr_eq(reader.stream, _i == 0 ? NULL : &request);
	is_decided();
	reader_end(ctx, policy);
}
END_TEST

/* --- scratch ------------------------------------------------------------------------------------------- */

START_TEST(scratch_on_the_device)
{
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, GPU);
	void *first;

	make_request(GPU, GPU, 0, DENSE);
	gpu.n_allocations = 0;
	reader.device_scratch = 1000;
	assert_ok(kvmod_decide(policy, &request, plan));
	first = reader.scratch;
	reader.device_scratch = 500;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_ptr_eq(reader.scratch, first);
	ck_assert_uint_eq(gpu.n_allocations, 1);
	reader.device_scratch = 5000;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_allocations, 2);
	reader.device_scratch = 0;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_ptr_null(reader.scratch);
	reader_end(ctx, policy);
}
END_TEST

/* On the host: the device's own kind of it, as soon as the policy runs there. */
START_TEST(scratch_on_the_host)
{
	struct kvmod_ctx *ctx = reader_context(GPU, CPU);
	struct kvmod_policy *policy = open_reader(ctx, _i == 0 ? GPU : "cpu");
	void *first;

	make_request("cpu", "cpu", 0, DENSE);
	reader.host_scratch = 1000;
	assert_ok(kvmod_decide(policy, &request, plan));
	first = reader.given_host_scratch;
	ck_assert_ptr_nonnull(first);
	ck_assert_uint_eq((uintptr_t)first % 64, 0);
	ck_assert_uint_eq(gpu.n_host_live, _i == 0);
	reader.host_scratch = 500;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_ptr_eq(reader.given_host_scratch, first);
	reader.host_scratch = 50000;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_host_live, _i == 0);
	reader_end(ctx, policy);
	ck_assert_uint_eq(gpu.n_host_live, 0);
}
END_TEST

/* --- what goes wrong ----------------------------------------------------------------------------------- */

static void check_failure(struct kvmod_policy *policy, int code, const char *why)
{
	struct kvmod_counters c = { .size = sizeof(c) };
	char line[256], *said;

	assert_fails(kvmod_decide(policy, &request, plan), code, why);
	is_whole(code);
	snprintf(line, sizeof(line), "%s; the cache stays whole\n", why);
	said = strstr(fixture_log, "policy reader: ");
	ck_assert_str_eq(said ? said : "", line);
	kvmod_policy_counters(policy, &c);
	ck_assert_uint_eq(c.failed_calls, 1);
	ck_assert_uint_eq(c.failed_segments, LAYERS);
}

START_TEST(no_host_memory)
{
	struct kvmod_ctx *ctx = reader_context(GPU, CPU);
	struct kvmod_policy *policy = open_reader(ctx, GPU);

	make_request("cpu", "cpu", 0, DENSE);
	reader.host_scratch = 1000;
	gpu.fail_host_alloc = KVMOD_ENOMEM;
	check_failure(policy, KVMOD_ENOMEM, "policy reader: device " GPU ": no page can be pinned");
	gpu.fail_host_alloc = 0;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(gpu.n_host_live, 1);
	reader_end(ctx, policy);
}
END_TEST

START_TEST(no_memory)
{
	struct kvmod_ctx *ctx = reader_context(GPU, CPU);
	/* Copies, then scratch; or on a GPU full of caches, rows without gaps. */
	struct kvmod_policy *policy = open_reader(ctx, _i < 2 ? GPU : "cpu");

	make_request(_i < 2 ? NULL : GPU, _i < 2 ? NULL : GPU, 0, GAPS);
	reader.device_scratch = _i < 2 ? 1000 : 0;
	gpu.fail_allocation = gpu.n_allocations + (_i == 1 ? 2 : 1);
	check_failure(policy, KVMOD_ENOMEM, "policy reader: device " GPU ": the GPU is full");
	gpu.fail_allocation = 0;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	reader_end(ctx, policy);
}
END_TEST

/* What grows takes more than is asked for, if there is more; else as much as is asked for. */
START_TEST(no_memory_to_spare)
{
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, GPU);

	make_request(NULL, NULL, 0, GAPS);
	request.n_segments = plan->n_keeps = 1;
	assert_ok(kvmod_decide(policy, &request, plan));
	request.n_segments = plan->n_keeps = LAYERS;
	gpu.fail_allocation = gpu.n_allocations + 1;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	is_decided();
	ck_assert_str_eq(fixture_log, "policy reader runs on " GPU "; copied there from cpu: layer 0\n");
	reader_end(ctx, policy);
}
END_TEST

START_TEST(broken_copies)
{
	struct kvmod_ctx *ctx = reader_context(GPU, CPU);
	struct kvmod_policy *policy = open_reader(ctx, _i == 0 ? GPU : "cpu");

	make_request(_i == 0 ? "cpu" : GPU, _i == 0 ? "cpu" : GPU, 0, GAPS);
	gpu.fail_copy = KVMOD_EDEVICE;
	check_failure(policy, KVMOD_EDEVICE, "policy reader: device " GPU ": the bus is broken");
	reader_end(ctx, policy);
}
END_TEST

START_TEST(broken_waits)
{
	struct kvmod_ctx *ctx = reader_context(GPU, CPU);
	struct kvmod_policy *policy = open_reader(ctx, _i == 0 ? GPU : "cpu");

	make_request(GPU, GPU, 0, GAPS);
	gpu.fail_wait = KVMOD_EDEVICE;
	check_failure(policy, KVMOD_EDEVICE, "policy reader: device " GPU ": the GPU fell off");
	reader_end(ctx, policy);
}
END_TEST

/* What a policy queued before it failed is awaited: the plan is freed next. */
START_TEST(a_failing_policy_is_awaited)
{
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, GPU);

	make_request(GPU, GPU, 0, DENSE);
	reader.code = KVMOD_ENUMERIC;
	check_failure(policy, KVMOD_ENUMERIC, "policy reader: it does not please me");
	ck_assert_uint_eq(reader.n_views, reader_views(READER_ALL, ROWS));
	reader_end(ctx, policy);
}
END_TEST

/* Its reason is not what was said before it was asked. */
START_TEST(a_policy_fails_without_a_word)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, "cpu");

	make_request(NULL, NULL, 0, DENSE);
	reader.code = KVMOD_ENUMERIC;
	reader.wordless = true;
	check_failure(policy, KVMOD_ENUMERIC, "policy reader: compress() failed: KVMOD_ENUMERIC");
	reader_end(ctx, policy);
}
END_TEST

/* Copies that are queued are awaited, although nobody is asked: their memory is used again. */
START_TEST(copies_for_nobody_are_awaited)
{
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, GPU);

	make_request(NULL, NULL, 0, GAPS);
	reader.workspace_code = KVMOD_ENOMEM;
	check_failure(policy, KVMOD_ENOMEM, "policy reader: not so much");
	ck_assert_uint_eq(gpu.n_queued, 0);
	reader_end(ctx, policy);
}
END_TEST

START_TEST(the_source_cannot_be_opened)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, "cpu");

	make_request(GPU, GPU, 0, DENSE);
	gpu.fail_open = KVMOD_EDEVICE;
	check_failure(policy, KVMOD_EDEVICE, "policy reader: device " GPU ": no GPU here");
	gpu.n_opened = 0;
	reader_end(ctx, policy);
}
END_TEST

/* --- replays ---------------------------------------------------------------------------------------------- */

static int32_t engine_replay(const struct kvmod_request *r, const struct kvmod_plan *trial,
			     uint32_t rows, double *loss)
{
	(void)trial;
	(void)rows;
	*loss = 0;
	reader.replayed_segments = r->segments;
	ck_assert_ptr_eq(r->replay_ctx, &reader);
	return KVMOD_OK;
}

START_TEST(the_engine_gets_its_own_request_back)
{
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	struct kvmod_policy *policy = open_reader(ctx, GPU);

	make_request(NULL, NULL, 0, GAPS);
	request.replay = engine_replay;
	request.replay_ctx = &reader;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_int_eq(reader.answer, 0);
	ck_assert_ptr_eq(reader.replayed_segments, segment_list);
	reader_end(ctx, policy);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("staging");
	TCase *tc = tcase_create("staging");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_loop_test(tc, staging, 0, 3 * N_SIDES);
	tcase_add_loop_test(tc, only_what_is_needed, 0, 6);
	tcase_add_test(tc, heads_go_together);
	tcase_add_test(tc, nothing_is_needed);
	tcase_add_test(tc, caches_grow);
	tcase_add_test(tc, older_segments);
	tcase_add_test(tc, no_such_device);
	tcase_add_loop_test(tc, streams, 0, 2);
	tcase_add_test(tc, scratch_on_the_device);
	tcase_add_loop_test(tc, scratch_on_the_host, 0, 2);
	tcase_add_test(tc, no_host_memory);
	tcase_add_loop_test(tc, no_memory, 0, 3);
	tcase_add_test(tc, no_memory_to_spare);
	tcase_add_loop_test(tc, broken_copies, 0, 2);
	tcase_add_loop_test(tc, broken_waits, 0, 2);
	tcase_add_test(tc, a_failing_policy_is_awaited);
	tcase_add_test(tc, a_policy_fails_without_a_word);
	tcase_add_test(tc, copies_for_nobody_are_awaited);
	tcase_add_test(tc, the_source_cannot_be_opened);
	tcase_add_test(tc, the_engine_gets_its_own_request_back);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
