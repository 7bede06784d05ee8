/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large configurations, sections and registries. Each takes a second; comparing every
 * entry with all others would take many minutes, and an alarm ends the test before.
 * Reaching a limit gives a message.
 */
#include "core/modules/catalog.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_FILES		3
#define PER_FILE	50000
#define N_POLICIES	50000
#define ALARM_S		60

/* "aN = bN" for PER_FILE numbers from `first` on. */
static void write_aliases(const char *name, unsigned first)
{
	char *text = malloc(1 << 20);
	size_t n = 0;

	ck_assert_ptr_nonnull(text);
	n += (size_t)sprintf(text, "[alias]\n");
	for (unsigned i = first; i < first + PER_FILE; i++)
		n += (size_t)sprintf(text + n, "a%x=b%x\n", i, i);
	ck_assert_uint_lt(n, 1 << 20);
	fixture_write(name, text);
	free(text);
}

START_TEST(many_aliases)
{
	struct kvmod_ctx *ctx = fixture_context();
	char name[64], wanted[64];

	alarm(ALARM_S);
	ck_assert_int_eq(mkdir(fixture_path("kvmod.conf.d"), 0755), 0);
	for (unsigned i = 0; i < N_FILES; i++) {
		snprintf(name, sizeof(name), "kvmod.conf.d/%u.conf", i);
		write_aliases(name, i * PER_FILE);
	}
	fixture_write("kvmod.conf.d/9.conf", "[alias]\na-7=seven\n[kvmod]\npolicy=a_7\n");
	assert_fails(fixture_configure(ctx, "[alias]\na7=first\n[policy fullkv]\n"), KVMOD_ENOENT,
		     "kvmod.conf.d/9.conf:4: no policy `seven`, which the alias `a_7` stands for");
	fixture_write("kvmod.conf.d/9.conf", "[alias]\na-7=seven\na_7=eight\n");
	assert_fails(fixture_configure(ctx, "[alias]\na7=first\n"), KVMOD_EINVAL,
		     "kvmod.conf.d/9.conf:3: [alias] a_7 is set a second time; first on line 2");
	fixture_write("kvmod.conf.d/9.conf", "[alias]\na7=last\n");
	assert_ok(fixture_configure(ctx, "[alias]\na7=first\na_8 = x\n"));
	ck_assert_str_eq(kvmod_config_get(ctx, "alias", "a7"), "last");
	ck_assert_str_eq(kvmod_config_get(ctx, "alias", "a-8"), "x");
	for (unsigned i = 8; i < N_FILES * PER_FILE; i++) {
		snprintf(name, sizeof(name), "a%x", i);
		snprintf(wanted, sizeof(wanted), "b%x", i);
		ck_assert_str_eq(kvmod_config_get(ctx, "alias", name), wanted);
	}
	ck_assert_ptr_null(kvmod_config_get(ctx, "alias", "a99999999"));
	kvmod_unref(ctx);
}
END_TEST

/* --- policies ----------------------------------------------------------------------- */

static int32_t compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	(void)self;
	(void)request;
	(void)plan;
	return KVMOD_OK;
}

static int32_t init(const struct kvmod_host *host)
{
	struct kvmod_policy_ops ops = {
		.size = sizeof(ops), .description = "", .instance_size = sizeof(struct kvmod_instance),
		.compress = compress,
	};
	static char names[N_POLICIES][16];
	int32_t err = KVMOD_OK;

	/* Each name twice: its version for the CPU and that for CUDA. */
	for (unsigned i = 0; i < 2 * N_POLICIES && err == KVMOD_OK; i++) {
		snprintf(names[i / 2], sizeof(names[0]), "p_%u", i / 2);
		ops.name = names[i / 2];
		ops.devices = i % 2 ? "cuda" : "cpu";
		err = host->register_policy(host->ctx, &ops);
	}
	return err;
}

static const struct kvmod_module many = {
	.size = sizeof(many), .magic = KVMOD_MAGIC, .abi_major = KVMOD_ABI_MAJOR, .name = "many",
	.version = "1", .license = "Apache-2.0", .init = init,
};

START_TEST(many_policies)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kv_provider *p;

	alarm(ALARM_S);
	assert_ok(kvmod_add_builtin(ctx, &many));
	p = kv_provider_find(ctx, KV_POLICY, "p-4711", "cuda");
	ck_assert_ptr_nonnull(p);
	ck_assert_str_eq(p->name, "p_4711");
	ck_assert_str_eq(p->devices, "cuda");
	ck_assert_ptr_ne(p, kv_provider_find(ctx, KV_POLICY, "p-4711", "cpu"));
	ck_assert_ptr_null(kv_provider_find(ctx, KV_ENGINE, "p-4711", NULL));
	ck_assert_ptr_null(kv_provider_find(ctx, KV_POLICY, "p_50000", NULL));
	assert_ok(kvmod_unload(ctx, "many"));
	ck_assert_ptr_null(kv_provider_find(ctx, KV_POLICY, "p-4711", NULL));
	ck_assert_str_eq(kv_provider_find(ctx, KV_POLICY, "fullkv", NULL)->name, "fullkv");
	/* What was there before and what comes after are in one list. */
	assert_ok(kvmod_add_builtin(ctx, &many));
	ck_assert_ptr_nonnull(kv_provider_find(ctx, KV_POLICY, "p-49999", "cpu"));
	kvmod_unref(ctx);
}
END_TEST

static const struct kvmod_param one_param = {
	.name = "x", .type = KVMOD_PARAM_INT, .offset = sizeof(struct kvmod_instance), .def = "0",
};

static int32_t init_params(const struct kvmod_host *host)
{
	const struct kvmod_policy_ops ops = {
		.size = sizeof(ops), .name = "wide", .description = "",
		.instance_size = sizeof(struct kvmod_instance) + 8, .compress = compress,
		.params = &one_param, .n_params = 1025,
	};

	return host->register_policy(host->ctx, &ops);
}

START_TEST(too_many_parameters)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_module wide = many;

	wide.name = "wide";
	wide.init = init_params;
	assert_fails(kvmod_add_builtin(ctx, &wide), KVMOD_EINVAL,
		     "built-in module: init() failed: policy `wide`: 1025 parameters: "
		     "expected at most 1024");
	kvmod_unref(ctx);
}
END_TEST

/* --- sections of module files ----------------------------------------------------------- */

#define TOP "abi=2.0\0name=m\0version=1\0license=x"

/* What kv_facts_read() says of TOP and n lines more. */
static int read_facts(struct kvmod_modinfo *info, unsigned n, void (*line)(char *text, unsigned i))
{
	size_t size = sizeof(TOP);
	char *text;
	int err;

	*info = (struct kvmod_modinfo){ .fd = -1 };
	text = kv_arena_alloc(&info->arena, size + n * 64);
	ck_assert_ptr_nonnull(text);
	memcpy(text, TOP, size);
	for (unsigned i = 0; i < n; i++) {
		line(text + size, i);
		size += strlen(text + size) + 1;
	}
	err = kv_facts_read(info, text, size);
	if (err)
		kv_arena_free(&info->arena);
	return err;
}

static void on(char *text, unsigned i)
{
	sprintf(text, i < 2046 ? "policy=policy-%u" : "on=policy-%u\tcpu%s", i % 2046, i % 2 ? " cuda" : "");
}

static void param(char *text, unsigned i)
{
	sprintf(text, "param=policy-%u.p%u\tINT\t%u\t\thelp", i % 7, i / 7, i);
}

START_TEST(many_facts)
{
	struct kvmod_modinfo info;
	struct kvmod_param said;
	unsigned n = 0;

	ck_assert_int_eq(read_facts(&info, 40000, on), KVMOD_EFORMAT);
	ck_assert_str_eq(kvmod_error(), "its .kvmod.info section holds more than 4096 strings, "
			 "the limit");
	assert_ok(read_facts(&info, 4092, on));
	ck_assert_str_eq(kvmod_modinfo_get(&info, "on", 0), "policy-0\tcpu");
	ck_assert_str_eq(kvmod_modinfo_get(&info, "on", 2045), "policy-2045\tcpu cuda");
	ck_assert_ptr_null(kvmod_modinfo_get(&info, "on", 2046));
	ck_assert_str_eq(kvmod_modinfo_get(&info, "version", 0), "1");
	ck_assert_ptr_null(kvmod_modinfo_get(&info, "version", 1));
	for (unsigned i = 0; i < 2046; i++) {
		char name[32];

		snprintf(name, sizeof(name), "policy_%u", i);
		ck_assert_str_eq(kv_modinfo_devices(&info, name), i % 2 ? "cpu cuda" : "cpu");
	}
	kv_arena_free(&info.arena);
	assert_ok(read_facts(&info, 4092, param));
	ck_assert_str_eq(kv_modinfo_find_param(&info, "policy_3", "p100")->def, "703");
	ck_assert_ptr_null(kv_modinfo_find_param(&info, "policy_3", "p585"));
	ck_assert_ptr_null(kv_modinfo_find_param(&info, "policy_7", "p1"));
	while (kv_modinfo_param(&info, "policy_6", n, &said))
		n++;
	ck_assert_uint_eq(n, 584);
	kv_arena_free(&info.arena);
}
END_TEST

FIXTURE_MAIN("scale", many_aliases, many_policies, too_many_parameters, many_facts)
