/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: who opens them, how long they stay, and which of them a policy runs on. */
#include "core/run/policy.h"
#include "tests/reader.h"

#include <stdlib.h>
#include <string.h>

/* --- opening --------------------------------------------------------------------------------- */

START_TEST(opened_once)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kvmod_device *one, *two;

	assert_ok(kvmod_device_open(ctx, "cuda", &one));
	assert_ok(kvmod_device_open(ctx, "cuda", &two));
	ck_assert_ptr_eq(one, two);
	ck_assert_uint_eq(gpu.n_opened, 1);
	ck_assert_str_eq(kvmod_device_ops(one)->name, "cuda");
	ck_assert_ptr_nonnull(kvmod_device_instance(one));
	kvmod_device_close(one);
	ck_assert_uint_eq(gpu.n_closed, 0);
	ck_assert_int_eq(kvmod_unload(ctx, "cuda"), KVMOD_EBUSY);
	kvmod_device_close(two);
	ck_assert_uint_eq(gpu.n_closed, 1);
	kvmod_device_close(NULL);
	assert_ok(kvmod_unload(ctx, "cuda"));
	reader_end(ctx, NULL);
}
END_TEST

START_TEST(an_open_device_holds_the_context)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kvmod_device *device;
	void *memory;

	assert_ok(kvmod_device_open(ctx, "cuda", &device));
	kvmod_unref(ctx);
	assert_ok(kvmod_device_ops(device)->alloc(kvmod_device_instance(device), 10, &memory));
	kvmod_device_ops(device)->free(kvmod_device_instance(device), memory);
	kvmod_device_close(device);
	ck_assert_uint_eq(gpu.n_closed, 1);
}
END_TEST

START_TEST(opening_may_fail)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kvmod_device *device;
	char text[256];

	snprintf(text, sizeof(text), "no device `rocm` (looked in %s)", fixture_dir);
	assert_fails(kvmod_device_open(ctx, "rocm", &device), KVMOD_ENOENT, text);
	gpu.fail_open = KVMOD_EDEVICE;
	assert_fails(kvmod_device_open(ctx, "cuda", &device), KVMOD_EDEVICE, "device cuda: no GPU here");
	gpu.fail_open = 0;
	gpu.n_opened = 0;
	assert_ok(kvmod_device_open(ctx, "cuda", &device));
	kvmod_device_close(device);
	assert_ok(kvmod_unload(ctx, "cuda"));
	reader_end(ctx, NULL);
}
END_TEST

START_TEST(parameters_of_a_device)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kvmod_device *device;

	assert_fails(fixture_configure(ctx, "[device cuda]\nbroken = perhaps\n"), KVMOD_EINVAL,
		     "kvmod.conf:2: [device cuda] broken = perhaps: expected yes or no");
	assert_ok(fixture_configure(ctx, "[device cuda]\nbroken = yes\n"));
	assert_fails(kvmod_device_open(ctx, "cuda", &device), KVMOD_ENOENT, "device cuda: no GPU here");
	reader_end(ctx, NULL);
}
END_TEST

START_TEST(the_hosts_own_device)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	const struct kvmod_span spans[] = { { .begin = 1, .end = 2 }, { .begin = 3, .end = 4 } };
	struct kvmod_gather g = { .size = sizeof(g), .n_spans = 2, .spans = spans, .row_bytes = 2,
				  .src_stride = 2, .dst_stride = 2 };
	const struct kvmod_device_ops *ops;
	struct kvmod_device *device;
	char back[5] = "";
	void *self, *memory, *from, *to;
	double seconds = -1;

	assert_ok(kvmod_device_open(ctx, "cpu", &device));
	ops = kvmod_device_ops(device);
	self = kvmod_device_instance(device);
	assert_ok(ops->alloc(self, 8, &memory));
	ck_assert_uint_eq((uintptr_t)memory % 256, 0);
	assert_ok(ops->from_host(self, NULL, memory, "aabbccdd", 8));
	g.src = g.dst = memory;
	assert_ok(ops->gather(self, NULL, &g, 1, sizeof(g)));
	assert_ok(ops->to_host(self, NULL, back, memory, 4));
	assert_ok(ops->synchronize(self, NULL));
	ck_assert_str_eq(back, "bbdd");
	ops->free(self, memory);
	ck_assert_int_eq(ops->alloc(self, UINT64_MAX, &memory), KVMOD_ENOMEM);
	assert_ok(ops->mark_new(self, &from));
	assert_ok(ops->mark_new(self, &to));
	assert_ok(ops->mark_set(self, NULL, from));
	assert_ok(ops->mark_set(self, NULL, to));
	assert_ok(ops->elapsed(self, from, to, &seconds));
	ck_assert(seconds >= 0 && seconds < 10);
	ops->mark_free(self, from);
	ops->mark_free(self, to);
	kvmod_device_close(device);
	reader_end(ctx, NULL);
}
END_TEST

/* --- asked for by modules ----------------------------------------------------------------------- */

START_TEST(a_module_keeps_what_it_asked_for)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	const struct kvmod_device_ops *ops;
	void *self;

	reader.asks_for_device = true;
	kvmod_policy_close(open_reader(ctx, "cpu"));
	ops = reader.ops;
	self = reader.self;
	ck_assert_str_eq(ops->name, "cuda");
	assert_ok(ops->synchronize(self, NULL));
	kvmod_policy_close(open_reader(ctx, "cpu"));
	ck_assert_ptr_eq(reader.self, self);
	ck_assert_uint_eq(gpu.n_opened, 1);
	ck_assert_int_eq(kvmod_unload(ctx, "cuda"), KVMOD_EBUSY);
	assert_ok(kvmod_unload(ctx, "reader"));
	ck_assert_uint_eq(gpu.n_closed, 1);
	assert_ok(kvmod_unload(ctx, "cuda"));
	reader_end(ctx, NULL);
}
END_TEST

/* That module holds the device does not keep the context, in whichever order they go. */
START_TEST(the_context_goes_all_the_same)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);

	reader.asks_for_device = true;
	kvmod_policy_close(open_reader(ctx, "cpu"));
	ck_assert_uint_eq(gpu.n_closed, 0);
	reader_end(ctx, NULL);
	ck_assert_uint_eq(gpu.n_closed, 1);
}
END_TEST

START_TEST(its_own_device_does_not_keep_a_module)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kv_module *module = kv_module_find(ctx, "cuda");
	const struct kvmod_device_ops *ops;
	struct kvmod_device *device;
	void *self;

	assert_ok(module->host.device(module->host.ctx, "cuda", &ops, &self));
	assert_ok(kvmod_device_open(ctx, "cuda", &device));
	ck_assert_int_eq(kvmod_unload(ctx, "cuda"), KVMOD_EBUSY);
	kvmod_device_close(device);
	assert_ok(kvmod_unload(ctx, "cuda"));
	reader_end(ctx, NULL);
}
END_TEST

static int32_t init_that_asks(const struct kvmod_host *host)
{
	const struct kvmod_device_ops *ops;
	void *self;

	return host->device(host->ctx, "cuda", &ops, &self);
}

START_TEST(not_in_init)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kvmod_module early = reader_module;

	early.name = "early";
	early.init = init_that_asks;
	assert_fails(kvmod_add_builtin(ctx, &early), KVMOD_EINVAL, "built-in module: init() failed: "
		     "early asks for a device inside init()");
	reader_end(ctx, NULL);
}
END_TEST

static const struct kvmod_host *late_host;
static int32_t late_answer;

static int32_t init_of_late(const struct kvmod_host *host)
{
	late_host = host;
	return 0;
}

static void exit_that_asks(void)
{
	late_answer = init_that_asks(late_host);
}

/* Nobody would close it. */
START_TEST(not_in_exit)
{
	struct kvmod_ctx *ctx = reader_context(KVMOD_ON_CPU, 0);
	struct kvmod_module late = reader_module;

	late.name = "late";
	late.init = init_of_late;
	late.exit = exit_that_asks;
	assert_ok(kvmod_add_builtin(ctx, &late));
	assert_ok(kvmod_unload(ctx, "late"));
	ck_assert_int_eq(late_answer, KVMOD_EINVAL);
	ck_assert_uint_eq(gpu.n_opened, 0);
	reader_end(ctx, NULL);
}
END_TEST

/* --- where a policy runs ------------------------------------------------------------------------- */

static const struct choice {
	const char *conf, *device;	/* asked for */
	uint32_t on, also_on;		/* versions */
	uint32_t n_device_layers;
	bool no_gpu;
	const char *where;		/* NULL: it fails */
	const char *said;		/* in the log, or the reason */
} choices[] = {
	{ NULL, NULL, CPU, CUDA, 0, false, "cpu", "" },
	{ NULL, NULL, CPU, CUDA, LAYERS, false, "cuda", "" },
	{ NULL, "auto", CPU, CUDA, LAYERS / 2, false, "cuda", "" },
	{ NULL, "auto", CPU, CUDA, LAYERS / 2 - 1, false, "cpu", "" },
	{ NULL, "auto", CPU | CUDA, 0, LAYERS, false, "cuda", "" },
	{ NULL, NULL, CPU, 0, LAYERS, false, "cpu",
	  "policy `reader` has no version for cuda; policy reader runs on cpu\n" },
	{ NULL, NULL, CUDA, 0, 0, false, "cuda",
	  "policy `reader` has no version for cpu; policy reader runs on cuda\n" },
	{ NULL, NULL, CPU, CUDA, LAYERS, true, "cpu",
	  "device cuda: no GPU here; policy reader runs on cpu\n" },
	{ NULL, NULL, CPU, CUDA, 0, true, "cpu", "" },
	{ NULL, NULL, CUDA, 0, 0, true, NULL, "device cuda: no GPU here" },
	{ NULL, NULL, CUDA, 0, LAYERS, true, NULL, "device cuda: no GPU here" },
	{ "cuda", NULL, CPU, CUDA, 0, false, "cuda", "" },
	{ "cuda", NULL, CPU, CUDA, 0, true, NULL, "device cuda: no GPU here" },
	{ "cuda", NULL, CPU, 0, LAYERS, false, NULL, "policy `reader` has no version for cuda" },
	{ "cuda", "cpu", CPU, CUDA, LAYERS, false, "cpu", "" },
	{ "cpu", NULL, CPU, CUDA, LAYERS, false, "cpu", "" },
	{ "cpu", NULL, CUDA, 0, LAYERS, false, NULL, "policy `reader` has no version for cpu" },
	{ "cpu", "gpu", CPU, CUDA, 0, false, NULL, "device `gpu`: expected auto, cpu or cuda" },
};

START_TEST(choosing)
{
	const struct choice *c = &choices[_i];
	struct kvmod_ctx *ctx = reader_context(c->on, c->also_on);
	struct kvmod_policy *policy = NULL;
	struct kvmod_model m = reader_model;
	char text[256];

	m.n_device_layers = c->n_device_layers;
	m.device = c->n_device_layers ? "cuda" : NULL;
	snprintf(text, sizeof(text), "%s%s\n[device cuda]\nbroken = %s\n",
		 c->conf ? "[kvmod]\ndevice = " : "", c->conf ? c->conf : "", c->no_gpu ? "yes" : "no");
	assert_ok(fixture_configure(ctx, text));
	if (c->where) {
		assert_ok(kvmod_policy_open(ctx, "reader", c->device, &m, &policy));
		ck_assert_str_eq(kvmod_policy_device(policy), c->where);
		ck_assert_uint_eq(gpu.n_opened, strcmp(c->where, "cuda") == 0);
		ck_assert_str_eq(fixture_log, c->said);
	} else {
		ck_assert_int_lt(kvmod_policy_open(ctx, "reader", c->device, &m, &policy), 0);
		ck_assert_str_eq(kvmod_error(), c->said);
	}
	reader_end(ctx, policy);
}
END_TEST

/* A model of an older header says nothing of devices. */
START_TEST(older_models)
{
	struct kvmod_ctx *ctx = reader_context(CPU, CUDA);
	struct kvmod_policy *policy;
	struct kvmod_model m = reader_model;

	m.device = "cuda";
	m.n_device_layers = LAYERS;
	m.size = offsetof(struct kvmod_model, device);
	assert_ok(kvmod_policy_open(ctx, "reader", NULL, &m, &policy));
	ck_assert_str_eq(kvmod_policy_device(policy), "cpu");
	reader_end(ctx, policy);
}
END_TEST

START_TEST(what_cannot_do_it_gives_way)
{
	struct kvmod_ctx *ctx = reader_context(CPU, CUDA);
	struct kvmod_policy *policy;
	struct kvmod_model m = reader_model;

	reader.cannot_open = true;
	assert_fails(kvmod_policy_open(ctx, "reader", NULL, &m, &policy), KVMOD_ENOTSUP,
		     "policy reader: not for this model");
	m.device = "cuda";
	m.n_device_layers = LAYERS;
	assert_fails(kvmod_policy_open(ctx, "reader", NULL, &m, &policy), KVMOD_ENOTSUP,
		     "policy reader: not for this model");
	assert_ok(kvmod_policy_open(ctx, "fullkv", NULL, &m, &policy));
	ck_assert_str_eq(kvmod_policy_device(policy), "cuda");
	reader_end(ctx, policy);
}
END_TEST

/* What one version said that it needs is nothing to the other. */
START_TEST(needs_of_a_version_that_gives_way)
{
	struct kvmod_ctx *ctx = reader_context(CPU, CUDA);
	struct kvmod_policy *policy;
	struct kvmod_model m = reader_model;

	reader.not_on = CUDA;
	m.device = "cuda";
	m.n_device_layers = LAYERS;
	assert_ok(kvmod_policy_open(ctx, "reader", NULL, &m, &policy));
	ck_assert_str_eq(kvmod_policy_device(policy), "cpu");
	ck_assert_str_eq(fixture_log, "policy reader: not for this GPU; policy reader runs on cpu\n");
	ck_assert_uint_eq(kvmod_policy_needs(policy)->what, READER_ALL);
	ck_assert_uint_eq(kvmod_policy_needs(policy)->decode_every, 0);
	reader_end(ctx, policy);
}
END_TEST

/* --- trying a configuration ------------------------------------------------------- */

/* What this process uses, a child cannot; and what it does not use must work. */
START_TEST(no_child_uses_the_parents_gpu)
{
	struct kvmod_ctx *ctx = reader_context(CUDA, 0);
	const char *config = fixture_write("kvmod.conf", "[kvmod]\npolicy = reader\ndevice = cuda\n");
	struct kvmod_device *device;

	assert_ok(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL));
	gpu.fail_wait = KVMOD_EDEVICE;
	assert_fails(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL), KVMOD_EDEVICE,
		     "policy reader: device cuda: the GPU fell off");
	assert_ok(kvmod_device_open(ctx, "cuda", &device));
	assert_ok(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL));
	kvmod_device_close(device);
	gpu.fail_wait = 0;
	reader_end(ctx, NULL);
}
END_TEST

/* Where the parent uses the GPU, a policy is still to have the version that is asked for. */
START_TEST(no_version_for_the_device_in_use)
{
	struct kvmod_ctx *ctx = reader_context(CPU, 0);
	const char *config = fixture_write("kvmod.conf", "[kvmod]\npolicy = reader\ndevice = cuda\n");
	struct kvmod_device *device;

	assert_ok(kvmod_device_open(ctx, "cuda", &device));
	assert_fails(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL), KVMOD_ENOTSUP,
		     "policy reader: policy `reader` has no version for cuda");
	kvmod_device_close(device);
	reader_end(ctx, NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("device");
	TCase *tc = tcase_create("device");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_test(tc, opened_once);
	tcase_add_test(tc, an_open_device_holds_the_context);
	tcase_add_test(tc, opening_may_fail);
	tcase_add_test(tc, parameters_of_a_device);
	tcase_add_test(tc, the_hosts_own_device);
	tcase_add_test(tc, a_module_keeps_what_it_asked_for);
	tcase_add_test(tc, the_context_goes_all_the_same);
	tcase_add_test(tc, its_own_device_does_not_keep_a_module);
	tcase_add_test(tc, not_in_init);
	tcase_add_test(tc, not_in_exit);
	tcase_add_loop_test(tc, choosing, 0, (int)(sizeof(choices) / sizeof(*choices)));
	tcase_add_test(tc, no_child_uses_the_parents_gpu);
	tcase_add_test(tc, no_version_for_the_device_in_use);
	tcase_add_test(tc, older_models);
	tcase_add_test(tc, what_cannot_do_it_gives_way);
	tcase_add_test(tc, needs_of_a_version_that_gives_way);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
