/* SPDX-License-Identifier: Apache-2.0 */
/* Registration: what a table must have, tables of other sizes, built-in modules. */
#include "core/modules/registry.h"
#include "tests/fixture.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct self {
	struct kvmod_instance base;
	int64_t a, b;
};

static const struct kvmod_param params[] = {
	{ "a", KVMOD_PARAM_INT, offsetof(struct self, a), "1", "", "" },
	{ "b", KVMOD_PARAM_INT, offsetof(struct self, b), "2", "0..", "" },
};

static int32_t compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	(void)self;
	(void)request;
	(void)plan;
	return KVMOD_OK;
}

static const struct kvmod_policy_ops good_ops = {
	.size = sizeof(good_ops), .name = "mine", .description = "",
	.instance_size = sizeof(struct self), .params = params, .n_params = 2,
	.compress = compress,
};

/* What the built-in module below registers, and how it ends. */
static const void *tables[4];
static int (*ending)(const struct kvmod_host *host);
static const struct kvmod_host *kept_host;
static int n_exits;

static int32_t init(const struct kvmod_host *host)
{
	int32_t err = KVMOD_OK;

	kept_host = host;
	for (int i = 0; i < 4 && tables[i] && err == KVMOD_OK; i++)
		err = host->register_policy(host->ctx, tables[i]);
	return err == KVMOD_OK && ending ? ending(host) : err;
}

static void on_exit_of_module(void)
{
	n_exits++;
}

static const struct kvmod_module mine = {
	.size = sizeof(mine), .magic = KVMOD_MAGIC, .abi_major = KVMOD_ABI_MAJOR, .name = "mine",
	.version = "1", .license = "Apache-2.0", .init = init, .exit = on_exit_of_module,
};

static int add(struct kvmod_ctx *ctx, const void *table)
{
	tables[0] = table;
	return kvmod_add_builtin(ctx, &mine);
}

static bool registered(struct kvmod_ctx *ctx, const char *name)
{
	return kv_provider_find(ctx, KV_POLICY, name, NULL);
}

static void assert_table_refused(const struct kvmod_policy_ops *ops, const char *reason)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[512];

	snprintf(text, sizeof(text), "built-in module: init() failed: %s", reason);
	ck_assert_int_lt(add(ctx, ops), 0);
	ck_assert_str_eq(kvmod_error(), text);
	ck_assert(!registered(ctx, "mine"));
	ck_assert_ptr_null(ctx->modules);
	kvmod_unref(ctx);
}

START_TEST(builtin)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	n_exits = 0;
	assert_ok(add(ctx, &good_ops));
	assert_ok(fixture_open(ctx, "mine", &policy));
	ck_assert_int_eq(kvmod_unload(ctx, "mine"), KVMOD_EBUSY);
	kvmod_policy_close(policy);
	ck_assert_int_eq(n_exits, 0);
	assert_ok(kvmod_unload(ctx, "mine"));
	ck_assert_int_eq(n_exits, 1);
	ck_assert(!registered(ctx, "mine"));
	assert_ok(add(ctx, &good_ops));
	assert_fails(add(ctx, &good_ops), KVMOD_EEXIST, "built-in module: a module `mine` is "
		     "already loaded, from the program itself");
	kvmod_unref(ctx);
	ck_assert_int_eq(n_exits, 2);
}
END_TEST

START_TEST(fullkv_is_always_there)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy_ops ops = good_ops;
	struct kvmod_policy *policy;

	assert_ok(fixture_open(ctx, NULL, &policy));
	ck_assert_str_eq(kvmod_policy_ops(policy)->name, "fullkv");
	kvmod_policy_close(policy);
	ck_assert_int_eq(kvmod_unload(ctx, "fullkv"), KVMOD_ENOENT);
	ops.name = "full-kv";
	assert_ok(add(ctx, &ops));
	assert_ok(kvmod_unload(ctx, "mine"));
	ops.name = "fullkv";
	ck_assert_int_eq(add(ctx, &ops), KVMOD_EEXIST);
	ck_assert_str_eq(kvmod_error(), "built-in module: init() failed: policy `fullkv`: "
			 "the name is taken by libkvmod itself");
	kvmod_unref(ctx);
}
END_TEST

START_TEST(several_from_one_module)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy_ops second = good_ops, third = good_ops;

	second.name = "second_one";
	third.name = "second-one";
	third.devices = "cuda";
	tables[1] = &second;
	tables[2] = &third;
	assert_ok(add(ctx, &good_ops));
	ck_assert(registered(ctx, "second-one"));
	assert_ok(kvmod_unload(ctx, "mine"));
	third.devices = "cuda cpu";
	ck_assert_int_eq(add(ctx, &good_ops), KVMOD_EEXIST);
	ck_assert(!registered(ctx, "mine"));
	ck_assert(!registered(ctx, "second-one"));
	tables[1] = tables[2] = NULL;
	kvmod_unref(ctx);
}
END_TEST

/* --- tables that are refused ----------------------------------------------------------- */

START_TEST(tables_that_lack_something)
{
	struct kvmod_policy_ops ops = good_ops;

	ops.size = 16;
	assert_table_refused(&ops, "the table of a policy has size 16: expected 104 or more");
	ops = good_ops;
	ops.name = NULL;
	assert_table_refused(&ops, "policy ``: invalid name: expected letters, digits, - and _");
	ops.name = "a b";
	assert_table_refused(&ops, "policy `a b`: invalid name: expected letters, digits, - and _");
	ops = good_ops;
	ops.compress = NULL;
	assert_table_refused(&ops, "policy `mine`: compress() is NULL, but is required");
	ops = good_ops;
	ops.devices = "";
	assert_table_refused(&ops, "policy `mine`: devices is ``: expected names of devices with spaces "
			     "between them, or *");
	ops.devices = "cpu, cuda";
	assert_table_refused(&ops, "policy `mine`: devices is `cpu, cuda`: expected names of devices "
			     "with spaces between them, or *");
	ops.devices = "cpu *";
	assert_table_refused(&ops, "policy `mine`: devices is `cpu *`: expected names of devices with "
			     "spaces between them, or *");
	ops = good_ops;
	ops.instance_size = 8;
	assert_table_refused(&ops, "policy `mine`: instance_size is 8: expected 16 "
			     "(struct kvmod_instance) to 16777216");
	ops = good_ops;
	ops.params = NULL;
	assert_table_refused(&ops, "policy `mine`: 2 parameters, but no table of them");
}
END_TEST

static void assert_param_refused(const struct kvmod_param *param, const char *reason)
{
	struct kvmod_policy_ops ops = good_ops;
	char text[256];

	ops.params = param;
	ops.n_params = 1;
	snprintf(text, sizeof(text), "policy `mine`: %s", reason);
	assert_table_refused(&ops, text);
}

START_TEST(parameters_that_are_wrong)
{
	struct kvmod_param p = params[0];
	struct kvmod_policy_ops twice = good_ops;

	p.name = "no name";
	assert_param_refused(&p, "a parameter has an invalid name: expected letters, "
			     "digits, - and _");
	p = params[0];
	p.type = 99;
	assert_param_refused(&p, "parameter `a` is of unknown type 99");
	p = params[0];
	p.offset = 0;
	assert_param_refused(&p, "parameter `a` lies outside the instance");
	p.offset = sizeof(struct self) - 4;
	assert_param_refused(&p, "parameter `a` lies outside the instance");
	p.offset = UINT32_MAX - 7;
	assert_param_refused(&p, "parameter `a` lies outside the instance");
	p = params[0];
	p.range = "0-5";
	assert_param_refused(&p, "the range of `a`, \"0-5\", is invalid: expected LOW..HIGH");
	p.range = "0..many";
	assert_param_refused(&p, "the range of `a`, \"0..many\", is invalid: expected LOW..HIGH");
	p = params[1];
	p.def = "-1";
	assert_param_refused(&p, "the default of `b`, \"-1\": expected an integer of at least 0");
	twice.params = (const struct kvmod_param[]){ params[0], params[0] };
	assert_table_refused(&twice, "policy `mine`: parameter `a` is listed twice");
}
END_TEST

START_TEST(descriptors_that_are_wrong)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_module m = mine;

	m.magic = 1;
	assert_fails(kvmod_add_builtin(ctx, &m), KVMOD_EFORMAT, "built-in module: invalid module "
		     "descriptor (magic or size): define it with KVMOD_MODULE()");
	m = mine;
	m.abi_major = 1;
	assert_fails(kvmod_add_builtin(ctx, &m), KVMOD_EABI, "built-in module: built for kvmod's ABI "
		     "1, this is ABI 2: rebuild it against these headers");
	m = mine;
	m.init = NULL;
	assert_fails(kvmod_add_builtin(ctx, &m), KVMOD_EINVAL, "built-in module: its descriptor lacks "
		     "a valid name, a license or init()");
	kvmod_unref(ctx);
}
END_TEST

/* --- tables of other sizes ---------------------------------------------------------------- */

/* A module of a later minor: its table is longer. */
START_TEST(longer_tables)
{
	struct {
		struct kvmod_policy_ops known;
		void *later;
	} longer = { good_ops, &longer };
	struct kvmod_ctx *ctx = fixture_context();
	const struct kvmod_policy_ops *ops;
	struct kvmod_policy *policy;

	longer.known.size = sizeof(longer);
	assert_ok(add(ctx, &longer));
	assert_ok(fixture_open(ctx, "mine", &policy));
	ops = kvmod_policy_ops(policy);
	ck_assert_str_eq(ops->params[1].name, "b");
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* --- the host table ---------------------------------------------------------------------------- */

static int fail_in_init(const struct kvmod_host *host)
{
	return host->fail(host->ctx, 5, "positive\tcodes\nfail too");
}

START_TEST(fail_and_log)
{
	struct kvmod_ctx *ctx = fixture_context();

	ending = fail_in_init;
	assert_fails(add(ctx, &good_ops), KVMOD_EINVAL, "built-in module: init() failed: "
		     "positive codes fail too");
	ck_assert(!registered(ctx, "mine"));
	ending = NULL;
	assert_ok(add(ctx, &good_ops));
	kept_host->log(kept_host->ctx, KVMOD_NOTE, "two\nlines %d", 1);
	ck_assert_str_eq(fixture_log, "mine: two lines 1\n");
	ck_assert_uint_eq(kept_host->n_threads(kept_host->ctx), kv_n_threads(ctx));
	ck_assert_ptr_null(kept_host->get_extension(kept_host->ctx, "kvmod.none/1"));
	kvmod_unref(ctx);
}
END_TEST

START_TEST(registering_at_the_wrong_time)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_ok(add(ctx, &good_ops));
	assert_fails(kept_host->register_policy(kept_host->ctx, &good_ops), KVMOD_EINVAL,
		     "mine registers a table outside init()");
	kvmod_unref(ctx);
}
END_TEST

/* --- many threads --------------------------------------------------------------------------------- */

static void *open_and_close(void *arg)
{
	struct kvmod_ctx *ctx = arg;
	struct kvmod_policy *policy;
	intptr_t n_failed = 0;

	for (int i = 0; i < 200; i++) {
		if (fixture_open(ctx, i % 2 ? "good" : "fullkv", &policy) != KVMOD_OK) {
			n_failed++;
			continue;
		}
		if (i % 8 == 0)
			kvmod_unload(ctx, "good");
		kvmod_policy_close(policy);
	}
	return (void *)n_failed;
}

START_TEST(opened_from_several_threads)
{
	struct kvmod_ctx *ctx = fixture_context();
	pthread_t threads[4];
	void *n_failed;

	kvmod_set_log_level(ctx, KVMOD_WARN);
	fixture_module("good", NULL);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, open_and_close, ctx), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &n_failed);
		ck_assert_ptr_null(n_failed);
	}
	for (const struct kv_provider *p = ctx->providers; p; p = p->next)
		ck_assert_uint_eq(p->refs, 0);
	kvmod_unref(ctx);
}
END_TEST

/* --- calls that must be there ----------------------------------------------------------- */

typedef void call_fn(void);

static void never_called(void)
{
	abort();
}

/* n calls, one after the other, from `first` on. */
static void assert_all_required(enum kv_kind kind, void *ops, size_t first,
				const char *const *names, size_t n)
{
	call_fn *there = never_called, *absent = NULL;
	struct kvmod_ctx *ctx = fixture_context();
	char text[128];

	for (size_t i = 0; i < n; i++)
		memcpy((char *)ops + first + i * sizeof(there), &there, sizeof(there));
	for (size_t i = 0; i < n; i++) {
		memcpy((char *)ops + first + i * sizeof(there), &absent, sizeof(absent));
		snprintf(text, sizeof(text), "%s `mine`: %s() is NULL, but is required",
			 kv_kind_name(kind), names[i]);
		assert_fails(kv_register(ctx, NULL, kind, ops), KVMOD_EINVAL, text);
		memcpy((char *)ops + first + i * sizeof(there), &there, sizeof(there));
	}
	assert_ok(kv_register(ctx, NULL, kind, ops));
	kvmod_unref(ctx);
}

START_TEST(calls_that_are_required)
{
	static const char *const of_engine[] = {
		"open", "close", "model", "tokenize", "detokenize", "chat", "seq_open",
		"seq_close", "seq_fork", "seq_truncate", "seq_length", "prompt_begin", "step",
		"cancel", "request", "apply", "bytes",
	};
	static const char *const of_device[] = {
		"open", "close", "alloc", "free", "to_host", "from_host", "synchronize", "gather",
	};
	struct kvmod_engine_ops engine = {
		.size = sizeof(engine), .name = "mine", .instance_size = sizeof(struct self),
	};
	struct kvmod_device_ops device = {
		.size = sizeof(device), .name = "mine", .instance_size = sizeof(struct self),
	};

	assert_all_required(KV_ENGINE, &engine, offsetof(struct kvmod_engine_ops, open),
			    of_engine, sizeof(of_engine) / sizeof(*of_engine));
	assert_all_required(KV_DEVICE, &device, offsetof(struct kvmod_device_ops, open),
			    of_device, sizeof(of_device) / sizeof(*of_device));
}
END_TEST

START_TEST(reserved_names)
{
	struct kvmod_device_ops device;
	struct kvmod_ctx *ctx = fixture_context();
	const struct kv_provider *cpu = kv_provider_find(ctx, KV_DEVICE, "cpu", NULL);

	device = *(const struct kvmod_device_ops *)cpu->ops;
	device.name = "auto";
	assert_fails(kv_register(ctx, NULL, KV_DEVICE, &device), KVMOD_EINVAL, "device `auto`: the name is "
		     "reserved: `device = auto` lets kvmod choose a device");
	device.name = "cpu";
	assert_fails(kv_register(ctx, NULL, KV_DEVICE, &device), KVMOD_EEXIST,
		     "device `cpu`: the name is taken by libkvmod itself");
	kvmod_unref(ctx);
}
END_TEST

/* One name for devices that no other version has; "*" has them all. */
START_TEST(versions_that_overlap)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy_ops ops = good_ops;

	ops.devices = "cpu npu";
	assert_ok(kv_register(ctx, NULL, KV_POLICY, &ops));
	ops.devices = "abacus npu";
	assert_fails(kv_register(ctx, NULL, KV_POLICY, &ops), KVMOD_EEXIST,
		     "policy `mine`: the name is taken by libkvmod itself");
	ops.devices = "*";
	assert_fails(kv_register(ctx, NULL, KV_POLICY, &ops), KVMOD_EEXIST,
		     "policy `mine`: the name is taken by libkvmod itself");
	ops.devices = "abacus";
	assert_ok(kv_register(ctx, NULL, KV_POLICY, &ops));
	ck_assert_str_eq(kv_provider_find(ctx, KV_POLICY, "mine", "npu")->devices, "cpu npu");
	ck_assert_str_eq(kv_provider_find(ctx, KV_POLICY, "mine", "abacus")->devices, "abacus");
	ck_assert_ptr_null(kv_provider_find(ctx, KV_POLICY, "mine", "cuda"));
	ops.devices = NULL;
	assert_fails(kv_register(ctx, NULL, KV_POLICY, &ops), KVMOD_EEXIST,
		     "policy `mine`: the name is taken by libkvmod itself");
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("registry", reserved_names, versions_that_overlap, calls_that_are_required, builtin, fullkv_is_always_there, several_from_one_module,
	     tables_that_lack_something, parameters_that_are_wrong, descriptors_that_are_wrong,
	     longer_tables, fail_and_log, registering_at_the_wrong_time,
	     opened_from_several_threads)
