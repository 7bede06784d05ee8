/* SPDX-License-Identifier: Apache-2.0 */
/* What a module file says of itself: refused where it cannot be true, believed before its tables are. */
#include "core/modules/modinfo.h"
#include "tests/fixture.h"

#include <string.h>

#define TOP "abi=" KVMOD_ABI_TEXT "\0name=m\0version=1\0license=x\0policy=mine\0policy=two-words\0"

static int read_section(struct kvmod_modinfo *info, const char *text, size_t size)
{
	char *copy;

	*info = (struct kvmod_modinfo){ .fd = -1 };
	copy = kv_arena_alloc(&info->arena, size);
	ck_assert_ptr_nonnull(copy);
	memcpy(copy, text, size);
	return kv_facts_read(info, copy, size);
}

#define READ(info, facts) read_section(info, TOP facts, sizeof(TOP facts))
#define ANOTHER "expected names of devices with spaces between them, or *"

/* --- where a policy runs ------------------------------------------------------------- */

static const struct {
	const char *name, *section;
	size_t size;
	const char *why;
} wrong[] = {
#define WRONG(name, facts, why) { name, TOP facts, sizeof(TOP facts), why }
	WRONG("no tab", "on=mine", "on=mine in its .kvmod.info section: use KVMOD_RUNS_ON()"),
	WRONG("no policy", "on=\tcpu", "on= cpu in its .kvmod.info section: use KVMOD_RUNS_ON()"),
	WRONG("no devices", "on=mine\t", "its .kvmod.info section says that the policy `mine` runs on ``: "
	      ANOTHER),
	WRONG("blanks", "on=mine\t  ", "its .kvmod.info section says that the policy `mine` runs on `  `: "
	      ANOTHER),
	WRONG("a comma", "on=mine\tcpu, npu", "its .kvmod.info section says that the policy `mine` runs "
	      "on `cpu, npu`: " ANOTHER),
	WRONG("any and one", "on=mine\tcpu *", "its .kvmod.info section says that the policy `mine` runs "
	      "on `cpu *`: " ANOTHER),
	WRONG("a long name", "on=mine\t"
	      "x123456789x123456789x123456789x123456789x123456789x123456789x123456789",
	      "its .kvmod.info section says that the policy `mine` runs on "
	      "`x123456789x123456789x123456789x123456789`: " ANOTHER),
	WRONG("another policy", "on=yours\tcpu", "its .kvmod.info section says where a policy `yours` runs, "
	      "but lists no such policy: KVMOD_RUNS_ON() takes the name of a policy of the same file"),
	WRONG("a part of a name", "on=min\tcpu", "its .kvmod.info section says where a policy `min` runs, "
	      "but lists no such policy: KVMOD_RUNS_ON() takes the name of a policy of the same file"),
	WRONG("twice", "on=mine\tcpu\0on=mine\tnpu", "its .kvmod.info section says twice where the policy "
	      "`mine` runs: expected one KVMOD_RUNS_ON()"),
#undef WRONG
};

START_TEST(wrong_devices)
{
	struct kvmod_modinfo info;

	ck_assert_msg(read_section(&info, wrong[_i].section, wrong[_i].size) == KVMOD_EFORMAT, "%s",
		      wrong[_i].name);
	ck_assert_str_eq(kvmod_error(), wrong[_i].why);
	kv_arena_free(&info.arena);
}
END_TEST

START_TEST(right_devices)
{
	struct kvmod_modinfo info;

	assert_ok(READ(&info, "on=mine\tcpu my-npu\0on=two_words\t*"));
	ck_assert_str_eq(kv_modinfo_devices(&info, "mine"), "cpu my-npu");
	ck_assert_str_eq(kv_modinfo_devices(&info, "two-words"), "*");
	kv_arena_free(&info.arena);
	assert_ok(READ(&info, ""));
	ck_assert_str_eq(kv_modinfo_devices(&info, "mine"), "cpu");
	kv_arena_free(&info.arena);
}
END_TEST

START_TEST(lists_of_devices)
{
	ck_assert(kv_devices_have("cpu my-npu", "my_npu"));
	ck_assert(kv_devices_have("cpu my-npu", NULL));
	ck_assert(kv_devices_have("*", "abacus"));
	ck_assert(!kv_devices_have("cpu npu", "np"));
	ck_assert(!kv_devices_have("cpu npu", "npu2"));
	ck_assert(kv_devices_overlap("cpu npu", "cuda npu"));
	ck_assert(kv_devices_overlap("cpu", "*"));
	ck_assert(kv_devices_overlap("*", "*"));
	ck_assert(!kv_devices_overlap("cpu npu", "cuda"));
	ck_assert(!kv_devices_overlap("cpu", "cpu2"));
}
END_TEST

/* --- counts --------------------------------------------------------------------------- */

START_TEST(counts_of_parameters)
{
	struct kvmod_modinfo info;

	assert_ok(READ(&info, "param=mine.a\tINT\t1\t\t\0param=mine.b\tINT\t1\t\t"));
	ck_assert_uint_eq(kv_modinfo_n_params(&info, "mine"), 2);
	ck_assert_uint_eq(kv_modinfo_n_params(&info, "two-words"), 0);
	kv_arena_free(&info.arena);
}
END_TEST

/* A table that claims too many entries: nothing beyond its end is read. */
START_TEST(more_parameters_than_the_section)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_fails(kvmod_load(ctx, fixture_module("counts", NULL)), KVMOD_EFORMAT,
		     "counts.so: init() failed: policy `counts`: its table has 1000 parameters, the "
		     "file's .kvmod.info section 3: use KVMOD_PARAMS");
	kvmod_unref(ctx);
}
END_TEST

/* A section that promises more than the table has. */
START_TEST(fewer_parameters_than_the_section)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *path = fixture_module("fewer", NULL);

	assert_fails(kvmod_load(ctx, path), KVMOD_EFORMAT,
		     "fewer.so: init() failed: policy `fewer`: its table has 2 parameters, the "
		     "file's .kvmod.info section 3: use KVMOD_PARAMS");
	kvmod_unref(ctx);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("metadata");
	TCase *tc = tcase_create("metadata");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
	tcase_add_loop_test(tc, wrong_devices, 0, (int)(sizeof(wrong) / sizeof(*wrong)));
	tcase_add_test(tc, right_devices);
	tcase_add_test(tc, lists_of_devices);
	tcase_add_test(tc, counts_of_parameters);
	tcase_add_test(tc, more_parameters_than_the_section);
	tcase_add_test(tc, fewer_parameters_than_the_section);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
