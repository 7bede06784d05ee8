/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two accelerators, the made-up GPU and a second one, "xpu": neither reaches the other's
 * memory. And what a policy is handed, wherever the cache lies.
 */
#include "tests/reader.h"

#include <stdlib.h>
#include <string.h>

#define XPU "xpu"

/* What the second device adds to the first one's addresses: neither can read the other's. */
#define FURTHER ((uintptr_t)1 << 60)

/* --- the second device ----------------------------------------------------------------- */

static struct kvmod_device_ops first, second;
static unsigned n_sent, n_fetched;	/* calls of the second device */

static void *further(const void *memory)
{
	return (char *)(uintptr_t)memory + FURTHER;
}

static void *nearer(const void *memory)
{
	return (char *)(uintptr_t)memory - FURTHER;
}

static int32_t xpu_alloc(void *self, uint64_t bytes, void **memory)
{
	int32_t err = first.alloc(self, bytes, memory);

	*memory = err ? NULL : further(*memory);
	return err;
}

static void xpu_free(void *self, void *memory)
{
	first.free(self, nearer(memory));
}

static int32_t xpu_to_host(void *self, void *stream, void *host, const void *device, uint64_t bytes)
{
	n_fetched++;
	return first.to_host(self, stream, host, nearer(device), bytes);
}

static int32_t xpu_from_host(void *self, void *stream, void *device, const void *host,
			     uint64_t bytes)
{
	n_sent++;
	return first.from_host(self, stream, nearer(device), host, bytes);
}

static int32_t xpu_gather(void *self, void *stream, const struct kvmod_gather *gathers, uint32_t n,
			  uint32_t stride)
{
	int32_t err = KVMOD_OK;

	for (uint32_t i = 0; i < n && !err; i++) {
		struct kvmod_gather g = *KVMOD_AT(const struct kvmod_gather, gathers, stride, i);

		g.src = nearer(g.src);
		g.dst = nearer(g.dst);
		err = first.gather(self, stream, &g, 1, sizeof(g));
	}
	return err;
}

static int32_t xpu_init(const struct kvmod_host *host)
{
	return host->register_device(host->ctx, &second);
}

static const struct kvmod_module xpu_module = {
	.size = sizeof(xpu_module), .magic = KVMOD_MAGIC, .abi_major = KVMOD_ABI_MAJOR,
	.name = XPU, .version = "1", .license = "Apache-2.0", .init = xpu_init,
};

static struct kvmod_ctx *two_devices(const char *policy_on)
{
	struct kvmod_ctx *ctx = reader_context(policy_on, NULL);
	struct kvmod_device *device;

	assert_ok(kvmod_device_open(ctx, GPU, &device));
	first = second = *kvmod_device_ops(device);
	kvmod_device_close(device);
	second.name = XPU;
	second.alloc = xpu_alloc;
	second.free = xpu_free;
	second.to_host = xpu_to_host;
	second.from_host = xpu_from_host;
	second.gather = xpu_gather;
	n_sent = n_fetched = 0;
	assert_ok(kvmod_add_builtin(ctx, &xpu_module));
	reader.beyond = strcmp(policy_on, XPU) == 0 ? FURTHER : 0;
	return ctx;
}

/* --- a cache that moves ---------------------------------------------------------------- */

static void move_view(struct kvmod_view *view)
{
	view->data = further(view->data);
}

/* What lies on the first device, layer by layer, now lies on the second. */
static void move_to_xpu(uint32_t layer)
{
	struct kvmod_segment *s = &segments[layer];

	for (uint32_t g = 0; g < HEADS; g++) {
		move_view(&heads[layer][g].k);
		move_view(&heads[layer][g].v);
	}
	move_view(&s->q);
	move_view(&s->colsum);
	move_view(&s->wo_norm);
	move_view(&s->q_mean);
	move_view(&s->q_cov);
	s->device = XPU;
}

static void decides_right(struct kvmod_policy *policy)
{
	reader.n_views = 0;
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.n_wrong, 0);
	ck_assert_uint_eq(reader.n_views, reader_views(READER_ALL, ROWS));
}

/* --- tests ------------------------------------------------------------------------------ */

/* The host is between them: what the one gives is there before the other takes it. */
START_TEST(from_one_to_the_other)
{
	struct kvmod_ctx *ctx = two_devices(XPU);
	struct kvmod_policy *policy = open_reader(ctx, XPU);
	unsigned n_allocations;

	make_request(GPU, GPU, 0, (enum layout)_i);
	decides_right(policy);
	ck_assert_str_eq(reader.device, XPU);
	ck_assert_uint_eq(n_sent, 1);
	ck_assert_uint_eq(n_fetched, 0);
	ck_assert_uint_gt(gpu.n_to_host, 0);
	ck_assert_uint_eq(gpu.n_host_live, 1);
	ck_assert_str_eq(fixture_log,
			 "policy reader runs on " XPU "; copied there from " GPU ": layer 0-3\n");
	n_allocations = gpu.n_allocations;
	decides_right(policy);
	ck_assert_uint_eq(gpu.n_allocations, n_allocations);
	ck_assert_uint_eq(n_sent, 2);
	reader_end(ctx, policy);
	ck_assert_uint_eq(gpu.n_host_live, 0);
}
END_TEST

START_TEST(no_memory_on_the_way)
{
	struct kvmod_ctx *ctx = two_devices(XPU);
	struct kvmod_policy *policy = open_reader(ctx, XPU);

	make_request(GPU, GPU, 0, GAPS);
	gpu.fail_host_alloc = KVMOD_ENOMEM;
	assert_fails(kvmod_decide(policy, &request, plan), KVMOD_ENOMEM,
		     "policy reader: device " XPU ": no page can be pinned");
	gpu.fail_host_alloc = 0;
	decides_right(policy);
	reader_end(ctx, policy);
}
END_TEST

/* A policy is not tied to the device of its first request. */
START_TEST(the_source_changes)
{
	struct kvmod_ctx *ctx = two_devices(_i == 0 ? "cpu" : XPU);
	struct kvmod_policy *policy = open_reader(ctx, NULL);

	make_request(GPU, GPU, 0, GAPS);
	decides_right(policy);
	for (uint32_t l = 0; l < LAYERS; l++)
		move_to_xpu(l);
	decides_right(policy);
	if (_i == 0) {
		ck_assert_uint_gt(n_fetched, 0);
		/* The first device is closed: its last holder was the policy, which left it. */
		ck_assert_uint_eq(gpu.n_opened - gpu.n_closed, 1);
	} else {
		ck_assert_uint_eq(n_sent, 1);
		ck_assert_uint_eq(n_fetched, 0);
	}
	reader_end(ctx, policy);
}
END_TEST

START_TEST(two_sources_at_once)
{
	struct kvmod_ctx *ctx = two_devices("cpu");
	struct kvmod_policy *policy = open_reader(ctx, "cpu");

	make_request("cpu", GPU, 1, DENSE);
	move_to_xpu(3);
	assert_fails(kvmod_decide(policy, &request, plan), KVMOD_ENOTSUP,
		     "policy reader: layer 3 is on xpu, but layer 1 on npu: expected one device besides "
		     "cpu, where the policy runs");
	/* That request is refused, and no later one. */
	for (uint32_t l = 1; l < LAYERS - 1; l++)
		move_to_xpu(l);
	decides_right(policy);
	reader_end(ctx, policy);
}
END_TEST

/* A policy sees only what it asked for: on its own device, and what was copied there. */
START_TEST(nothing_that_was_not_asked_for)
{
	static const struct { uint32_t what, rows; } needs[] = {
		{ KVMOD_NEED_K, 0 }, { KVMOD_NEED_V, 0 }, { 0, 1 }, { KVMOD_NEED_COLSUM, 0 },
		{ KVMOD_NEED_Q_STATS, 0 }, { KVMOD_NEED_WO_NORM, 0 }, { READER_ALL, ROWS }, { 0, 0 },
	};
	static const char *const caches[] = { "cpu", GPU };
	uint32_t what = needs[_i / 2].what, rows = needs[_i / 2].rows;
	struct kvmod_ctx *ctx = two_devices("cpu");
	struct kvmod_policy *policy;

	reader.what = what;
	reader.rows = rows;
	policy = open_reader(ctx, "cpu");
	make_request(caches[_i % 2], caches[_i % 2], 0, DENSE);
	assert_ok(kvmod_decide(policy, &request, plan));
	ck_assert_uint_eq(reader.there, what);
	ck_assert_uint_eq(reader.there_rows, rows ? ROWS : 0);
	ck_assert_uint_eq(reader.n_wrong, 0);
	/* The engine's own is as it was. */
	ck_assert_ptr_nonnull(heads[0][0].v.data);
	ck_assert_uint_eq(segments[0].n_rows, ROWS);
	reader_end(ctx, policy);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("two devices");
	TCase *tc = tcase_create("two devices");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_loop_test(tc, from_one_to_the_other, 0, 3);
	tcase_add_test(tc, no_memory_on_the_way);
	tcase_add_loop_test(tc, the_source_changes, 0, 2);
	tcase_add_test(tc, two_sources_at_once);
	tcase_add_loop_test(tc, nothing_that_was_not_asked_for, 0, 16);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
