/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: who opens them, how long they stay, and which of them a policy runs on. */
#include "core/run/policy.h"
#include "tests/reader.h"

#include <stdlib.h>
#include <string.h>

/* --- opening --------------------------------------------------------------------------------- */

START_TEST(opened_once)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_device *one, *two;

	assert_ok(kvmod_device_open(ctx, GPU, &one));
	assert_ok(kvmod_device_open(ctx, GPU, &two));
	ck_assert_ptr_eq(one, two);
	ck_assert_uint_eq(gpu.n_opened, 1);
	ck_assert_str_eq(kvmod_device_ops(one)->name, GPU);
	ck_assert_ptr_nonnull(kvmod_device_instance(one));
	kvmod_device_close(one);
	ck_assert_uint_eq(gpu.n_closed, 0);
	ck_assert_int_eq(kvmod_unload(ctx, GPU), KVMOD_EBUSY);
	kvmod_device_close(two);
	ck_assert_uint_eq(gpu.n_closed, 1);
	kvmod_device_close(NULL);
	assert_ok(kvmod_unload(ctx, GPU));
	reader_end(ctx, NULL);
}
END_TEST

START_TEST(an_open_device_holds_the_context)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_device *device;
	void *memory;

	assert_ok(kvmod_device_open(ctx, GPU, &device));
	kvmod_unref(ctx);
	assert_ok(kvmod_device_ops(device)->alloc(kvmod_device_instance(device), 10, &memory));
	kvmod_device_ops(device)->free(kvmod_device_instance(device), memory);
	kvmod_device_close(device);
	ck_assert_uint_eq(gpu.n_closed, 1);
}
END_TEST

START_TEST(opening_may_fail)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_device *device;
	char text[256];

	snprintf(text, sizeof(text), "no device `rocm` (installed: cpu, " GPU "; looked in %s)", fixture_dir);
	assert_fails(kvmod_device_open(ctx, "rocm", &device), KVMOD_ENOENT, text);
	gpu.fail_open = KVMOD_EDEVICE;
	assert_fails(kvmod_device_open(ctx, GPU, &device), KVMOD_EDEVICE, "device " GPU ": no GPU here");
	gpu.fail_open = 0;
	gpu.n_opened = 0;
	assert_ok(kvmod_device_open(ctx, GPU, &device));
	kvmod_device_close(device);
	assert_ok(kvmod_unload(ctx, GPU));
	reader_end(ctx, NULL);
}
END_TEST

START_TEST(parameters_of_a_device)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_device *device;

	assert_fails(fixture_configure(ctx, "[device " GPU "]\nbroken = perhaps\n"), KVMOD_EINVAL,
		     "kvmod.conf:2: [device " GPU "] broken = perhaps: expected yes or no");
	assert_ok(fixture_configure(ctx, "[device " GPU "]\nbroken = yes\n"));
	assert_fails(kvmod_device_open(ctx, GPU, &device), KVMOD_ENOENT, "device " GPU ": no GPU here");
	reader_end(ctx, NULL);
}
END_TEST

START_TEST(the_hosts_own_device)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	const struct kvmod_span spans[] = { { .begin = 1, .end = 2 }, { .begin = 3, .end = 4 } };
	struct kvmod_gather g = { .size = sizeof(g), .n_spans = 2, .spans = spans, .row_bytes = 2,
				  .src_stride = 2, .dst_stride = 2 };
	const struct kvmod_device_timing *timing;
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
	ck_assert_ptr_null(ops->get_extension(self, "kvmod.none/1"));
	timing = ops->get_extension(self, KVMOD_DEVICE_TIMING);
	ck_assert_ptr_nonnull(timing);
	ck_assert_uint_eq(timing->size, sizeof(*timing));
	ck_assert_ptr_null(timing->read);
	assert_ok(timing->mark_new(self, &from));
	assert_ok(timing->mark_new(self, &to));
	assert_ok(timing->mark_set(self, NULL, from));
	assert_ok(timing->mark_set(self, NULL, to));
	assert_ok(timing->elapsed(self, from, to, &seconds));
	ck_assert(seconds >= 0 && seconds < 10);
	timing->mark_free(self, from);
	timing->mark_free(self, to);
	kvmod_device_close(device);
	reader_end(ctx, NULL);
}
END_TEST

/* --- asked for by modules ----------------------------------------------------------------------- */

START_TEST(a_module_keeps_what_it_asked_for)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	const struct kvmod_device_ops *ops;
	void *self;

	reader.asks_for_device = true;
	kvmod_policy_close(open_reader(ctx, "cpu"));
	ops = reader.ops;
	self = reader.self;
	ck_assert_str_eq(ops->name, GPU);
	assert_ok(ops->synchronize(self, NULL));
	kvmod_policy_close(open_reader(ctx, "cpu"));
	ck_assert_ptr_eq(reader.self, self);
	ck_assert_uint_eq(gpu.n_opened, 1);
	ck_assert_int_eq(kvmod_unload(ctx, GPU), KVMOD_EBUSY);
	assert_ok(kvmod_unload(ctx, "reader"));
	ck_assert_uint_eq(gpu.n_closed, 1);
	assert_ok(kvmod_unload(ctx, GPU));
	reader_end(ctx, NULL);
}
END_TEST

/* That module holds the device does not keep the context, in whichever order they go. */
START_TEST(the_context_goes_all_the_same)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);

	reader.asks_for_device = true;
	kvmod_policy_close(open_reader(ctx, "cpu"));
	ck_assert_uint_eq(gpu.n_closed, 0);
	reader_end(ctx, NULL);
	ck_assert_uint_eq(gpu.n_closed, 1);
}
END_TEST

START_TEST(its_own_device_does_not_keep_a_module)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kv_module *module = kv_module_find(ctx, GPU);
	const struct kvmod_device_ops *ops;
	struct kvmod_device *device;
	void *self;

	assert_ok(module->host.device(module->host.ctx, GPU, &ops, &self));
	assert_ok(kvmod_device_open(ctx, GPU, &device));
	ck_assert_int_eq(kvmod_unload(ctx, GPU), KVMOD_EBUSY);
	kvmod_device_close(device);
	assert_ok(kvmod_unload(ctx, GPU));
	reader_end(ctx, NULL);
}
END_TEST

static int32_t init_that_asks(const struct kvmod_host *host)
{
	const struct kvmod_device_ops *ops;
	void *self;

	return host->device(host->ctx, GPU, &ops, &self);
}

START_TEST(not_in_init)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
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
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
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
	const char *on, *also_on;	/* versions */
	uint32_t n_device_layers;
	bool no_gpu;
	const char *where;		/* NULL: it fails */
	const char *said;		/* in the log, or the reason */
} choices[] = {
	{ NULL, NULL, CPU, GPU, 0, false, "cpu", "" },
	{ NULL, NULL, CPU, GPU, LAYERS, false, GPU, "" },
	{ NULL, "auto", CPU, GPU, LAYERS / 2, false, GPU, "" },
	{ NULL, "auto", CPU, GPU, LAYERS / 2 - 1, false, "cpu", "" },
	{ NULL, "auto", BOTH, NULL, LAYERS, false, GPU, "" },
	{ NULL, NULL, CPU, NULL, LAYERS, false, "cpu",
	  "policy `reader` has no version for " GPU "; policy reader runs on cpu\n" },
	{ NULL, NULL, GPU, NULL, 0, false, GPU,
	  "policy `reader` has no version for cpu; policy reader runs on " GPU "\n" },
	{ NULL, NULL, CPU, GPU, LAYERS, true, "cpu",
	  "device " GPU ": no GPU here; policy reader runs on cpu\n" },
	{ NULL, NULL, CPU, GPU, 0, true, "cpu", "" },
	{ NULL, NULL, GPU, NULL, 0, true, NULL, "device " GPU ": no GPU here" },
	{ NULL, NULL, GPU, NULL, LAYERS, true, NULL, "device " GPU ": no GPU here" },
	{ GPU, NULL, CPU, GPU, 0, false, GPU, "" },
	{ GPU, NULL, CPU, GPU, 0, true, NULL, "device " GPU ": no GPU here" },
	{ GPU, NULL, CPU, NULL, LAYERS, false, NULL, "policy `reader` has no version for " GPU },
	{ GPU, "cpu", CPU, GPU, LAYERS, false, "cpu", "" },
	{ "cpu", NULL, CPU, GPU, LAYERS, false, "cpu", "" },
	{ "cpu", NULL, GPU, NULL, LAYERS, false, NULL, "policy `reader` has no version for cpu" },
};

START_TEST(choosing)
{
	const struct choice *c = &choices[_i];
	struct kvmod_ctx *ctx = reader_context(c->on, c->also_on);
	struct kvmod_policy *policy = NULL;
	struct kvmod_model m = reader_model;
	char text[256];

	m.n_device_layers = c->n_device_layers;
	m.device = c->n_device_layers ? GPU : NULL;
	snprintf(text, sizeof(text), "%s%s\n[device " GPU "]\nbroken = %s\n",
		 c->conf ? "[kvmod]\ndevice = " : "", c->conf ? c->conf : "", c->no_gpu ? "yes" : "no");
	assert_ok(fixture_configure(ctx, text));
	if (c->where) {
		assert_ok(kvmod_policy_open(ctx, "reader", c->device, &m, &policy));
		ck_assert_str_eq(kvmod_policy_device(policy), c->where);
		ck_assert_uint_eq(gpu.n_opened, strcmp(c->where, GPU) == 0);
		ck_assert_str_eq(fixture_log, c->said);
	} else {
		ck_assert_int_lt(kvmod_policy_open(ctx, "reader", c->device, &m, &policy), 0);
		ck_assert_str_eq(kvmod_error(), c->said);
	}
	reader_end(ctx, policy);
}
END_TEST

/* --- devices that only a policy's list names ----------------------------------------------- */

static int32_t keep_all(void *self, const struct kvmod_request *r, struct kvmod_plan *out)
{
	(void)self;
	(void)r;
	(void)out;
	return KVMOD_OK;
}

static const char *wishes;

static int32_t init_of_picky(const struct kvmod_host *host)
{
	const struct kvmod_policy_ops ops = {
		.size = sizeof(ops), .name = "picky", .description = "runs where it likes",
		.devices = wishes, .instance_size = sizeof(struct kvmod_instance), .compress = keep_all,
	};

	return host->register_policy(host->ctx, &ops);
}

static const struct {
	const char *devices, *home;	/* of the policy; of the model's cache */
	const char *where, *said;	/* where: NULL: it fails */
} picky[] = {
	{ "abacus " GPU, NULL, GPU, "policy `picky` has no version for cpu; policy picky runs on " GPU "\n" },
	{ GPU " abacus", NULL, GPU, "policy `picky` has no version for cpu; policy picky runs on " GPU "\n" },
	{ "abacus cpu", "abacus", "cpu", "no device `abacus` (installed: cpu, " GPU "; looked in DIR); "
	  "policy picky runs on cpu\n" },
	{ "abacus " GPU, "abacus", GPU, "no device `abacus` (installed: cpu, " GPU "; looked in DIR); "
	  "policy picky runs on " GPU "\n" },
	{ "*", "abacus", "cpu", "no device `abacus` (installed: cpu, " GPU "; looked in DIR); "
	  "policy picky runs on cpu\n" },
	{ "*", GPU, GPU, "" },
	{ "abacus", GPU, NULL, "no device `abacus` (installed: cpu, " GPU "; looked in DIR)" },
};

static const char *without_folder(const char *text)
{
	static char out[512];
	const char *at = strstr(text, fixture_dir);

	if (!at)
		return text;
	snprintf(out, sizeof(out), "%.*sDIR%s", (int)(at - text), text, at + strlen(fixture_dir));
	return out;
}

START_TEST(choosing_from_a_list)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	struct kvmod_module module = reader_module;
	struct kvmod_policy *policy = NULL;
	struct kvmod_model m = reader_model;

	wishes = picky[_i].devices;
	module.name = "picky";
	module.init = init_of_picky;
	assert_ok(kvmod_add_builtin(ctx, &module));
	m.device = picky[_i].home;
	m.n_device_layers = m.device ? LAYERS : 0;
	if (picky[_i].where) {
		assert_ok(kvmod_policy_open(ctx, "picky", NULL, &m, &policy));
		ck_assert_str_eq(kvmod_policy_device(policy), picky[_i].where);
		ck_assert_str_eq(without_folder(fixture_log), picky[_i].said);
	} else {
		ck_assert_int_eq(kvmod_policy_open(ctx, "picky", NULL, &m, &policy), KVMOD_ENOENT);
		ck_assert_str_eq(without_folder(kvmod_error()), picky[_i].said);
	}
	reader_end(ctx, policy);
}
END_TEST

/* It names the nearest and what is installed, whatever the policy has versions for. */
START_TEST(no_such_device)
{
	struct kvmod_ctx *ctx = reader_context(CPU, GPU);
	struct kvmod_policy *policy;
	char text[256];

	snprintf(text, sizeof(text), "no device `%sx`; did you mean `%s`? (installed: cpu, %s; looked in %s)",
		 GPU, GPU, GPU, fixture_dir);
	ck_assert_int_eq(kvmod_policy_open(ctx, "reader", GPU "x", &reader_model, &policy), KVMOD_ENOENT);
	ck_assert_str_eq(kvmod_error(), text);
	assert_fails(fixture_configure(ctx, "[kvmod]\ndevice = " GPU "x\n"), KVMOD_ENOENT, "kvmod.conf:2: "
		     "no device `" GPU "x`; did you mean `" GPU "`? (installed: cpu, " GPU ")");
	reader_end(ctx, NULL);
}
END_TEST

/* A model of an older header says nothing of devices. */
START_TEST(older_models)
{
	struct kvmod_ctx *ctx = reader_context(CPU, GPU);
	struct kvmod_policy *policy;
	struct kvmod_model m = reader_model;

	m.device = GPU;
	m.n_device_layers = LAYERS;
	m.size = offsetof(struct kvmod_model, device);
	assert_ok(kvmod_policy_open(ctx, "reader", NULL, &m, &policy));
	ck_assert_str_eq(kvmod_policy_device(policy), "cpu");
	reader_end(ctx, policy);
}
END_TEST

START_TEST(what_cannot_do_it_gives_way)
{
	struct kvmod_ctx *ctx = reader_context(CPU, GPU);
	struct kvmod_policy *policy;
	struct kvmod_model m = reader_model;

	reader.cannot_open = true;
	assert_fails(kvmod_policy_open(ctx, "reader", NULL, &m, &policy), KVMOD_ENOTSUP,
		     "policy reader: not for this model");
	m.device = GPU;
	m.n_device_layers = LAYERS;
	assert_fails(kvmod_policy_open(ctx, "reader", NULL, &m, &policy), KVMOD_ENOTSUP,
		     "policy reader: not for this model");
	assert_ok(kvmod_policy_open(ctx, "fullkv", NULL, &m, &policy));
	ck_assert_str_eq(kvmod_policy_device(policy), GPU);
	reader_end(ctx, policy);
}
END_TEST

/* What one version said that it needs is nothing to the other. */
START_TEST(needs_of_a_version_that_gives_way)
{
	struct kvmod_ctx *ctx = reader_context(CPU, GPU);
	struct kvmod_policy *policy;
	struct kvmod_model m = reader_model;

	reader.not_on = GPU;
	m.device = GPU;
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
	struct kvmod_ctx *ctx = reader_context(GPU, NULL);
	const char *config = fixture_write("kvmod.conf", "[kvmod]\npolicy = reader\ndevice = " GPU "\n");
	struct kvmod_device *device;

	assert_ok(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL));
	gpu.fail_wait = KVMOD_EDEVICE;
	assert_fails(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL), KVMOD_EDEVICE,
		     "policy reader: device " GPU ": the GPU fell off");
	assert_ok(kvmod_device_open(ctx, GPU, &device));
	assert_ok(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL));
	kvmod_device_close(device);
	gpu.fail_wait = 0;
	reader_end(ctx, NULL);
}
END_TEST

/* Where the parent uses the GPU, a policy is still to have the version that is asked for. */
START_TEST(no_version_for_the_device_in_use)
{
	struct kvmod_ctx *ctx = reader_context(CPU, NULL);
	const char *config = fixture_write("kvmod.conf", "[kvmod]\npolicy = reader\ndevice = " GPU "\n");
	struct kvmod_device *device;

	assert_ok(kvmod_device_open(ctx, GPU, &device));
	assert_fails(kvmod_check(ctx, config, NULL, 0, 0, NULL, NULL), KVMOD_ENOTSUP,
		     "policy reader: policy `reader` has no version for " GPU);
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
	tcase_add_loop_test(tc, choosing_from_a_list, 0, (int)(sizeof(picky) / sizeof(*picky)));
	tcase_add_test(tc, no_such_device);
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
