/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters: each type's text, value and refusal, and how an instance is filled. */
#include "core/config/paths.h"
#include "core/config/values.h"
#include "tests/fixture.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct kv_arena arena;

/* Field is big enough for any type. */
static union {
	int32_t i32;
	int64_t i64;
	double real;
	struct kvmod_amount amount;
	struct kvmod_list list;
	const char *text;
} field;

static int parse(uint32_t type, const char *range, const char *text)
{
	const struct kvmod_param param = { .name = "p", .type = type, .def = "", .range = range };

	memset(&field, 0xee, sizeof(field));
	return kv_param_parse(&param, text, "/dir/", &arena, &field);
}

static void assert_none(uint32_t type, const char *range, const char *const *texts,
			const char *error)
{
	for (; *texts; texts++) {
		ck_assert_msg(parse(type, range, *texts) == KVMOD_EINVAL, "took `%s`", *texts);
		ck_assert_str_eq(kvmod_error(), error);
	}
	kv_arena_free(&arena);
}
#define NONE(...) (const char *const[]){ __VA_ARGS__, NULL }

START_TEST(bools)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };

	for (int i = 0; i < 4; i++) {
		assert_ok(parse(KVMOD_PARAM_BOOL, "", yes[i]));
		ck_assert_int_eq(field.i32, 1);
		assert_ok(parse(KVMOD_PARAM_BOOL, "", no[i]));
		ck_assert_int_eq(field.i32, 0);
	}
	assert_none(KVMOD_PARAM_BOOL, "", NONE("", "y", "2", "yes please"), "expected yes or no");
}
END_TEST

START_TEST(ints)
{
	assert_ok(parse(KVMOD_PARAM_INT, "", "-9223372036854775808"));
	ck_assert_int_eq(field.i64, INT64_MIN);
	assert_ok(parse(KVMOD_PARAM_INT, "0..1024", "1024"));
	ck_assert_int_eq(field.i64, 1024);
	assert_ok(parse(KVMOD_PARAM_INT, "-5..", "-5"));
	assert_none(KVMOD_PARAM_INT, "0..1024",
		    NONE("", "1025", "-1", "1.0", "1e2", "0x10", "12 ", " 12", "1k",
			 "9223372036854775808", "--1", "00000000000000000000000000000000000001"),
		    "expected an integer in 0..1024");
	assert_none(KVMOD_PARAM_INT, "1..", NONE("0"), "expected an integer of at least 1");
	assert_none(KVMOD_PARAM_INT, "..9", NONE("10"), "expected an integer of at most 9");
	assert_none(KVMOD_PARAM_INT, "", NONE("x"), "expected an integer");
}
END_TEST

START_TEST(reals)
{
	assert_ok(parse(KVMOD_PARAM_REAL, "0..1", "0.01"));
	ck_assert_double_eq(field.real, 0.01);
	assert_ok(parse(KVMOD_PARAM_REAL, "", "-1e-3"));
	ck_assert_double_eq(field.real, -1e-3);
	assert_ok(parse(KVMOD_PARAM_REAL, "0..", "1e-400"));
	ck_assert_double_eq(field.real, 0);
	assert_none(KVMOD_PARAM_REAL, "0..1",
		    NONE("", "1.5", "nan", "inf", "1e999", "0x1p-1", "0,5", "half", "1 ", "."),
		    "expected a real number in 0..1");
}
END_TEST

/* A point is a point, whatever the program's locale says. */
START_TEST(locale)
{
	if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
		ck_assert_msg(uselocale(newlocale(LC_NUMERIC_MASK, "C", NULL)) != NULL, "no locale");
	assert_ok(parse(KVMOD_PARAM_REAL, "0..1", "0.5"));
	ck_assert_double_eq(field.real, 0.5);
	assert_none(KVMOD_PARAM_REAL, "0..1", NONE("0,5"), "expected a real number in 0..1");
}
END_TEST

START_TEST(amounts)
{
	static const char expected[] =
		"expected a fraction such as 0.25 or 25%, or a count such as 1024";

	assert_ok(parse(KVMOD_PARAM_AMOUNT, "", "25%"));
	ck_assert_double_eq(field.amount.value, 0.25);
	ck_assert_uint_eq(field.amount.is_count, 0);
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "", "0.25"));
	ck_assert_double_eq(field.amount.value, 0.25);
	ck_assert_uint_eq(field.amount.is_count, 0);
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "", "1"));
	ck_assert_double_eq(field.amount.value, 1);
	ck_assert_uint_eq(field.amount.is_count, 1);
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "", "1.0"));
	ck_assert_uint_eq(field.amount.is_count, 0);
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "", "12.5%"));
	ck_assert_double_eq(field.amount.value, 0.125);
	assert_none(KVMOD_PARAM_AMOUNT, "",
		    NONE("", "%", "-1%", "-5", "-0.5", "1e-3", "25 %", "nan%",
			 "9007199254740993"), expected);
	assert_none(KVMOD_PARAM_AMOUNT, "", NONE("101%", "120%", "1.01", "516.0"),
		    "must be between 0 and 100% (1.0); a count has neither point nor percent sign");
}
END_TEST

/* A bound of the other kind says nothing. */
/* Of 100, each percentage as people write it. */
START_TEST(amounts_round_down_as_written)
{
	char text[32];

	for (unsigned percent = 0; percent <= 100; percent++) {
		snprintf(text, sizeof(text), "%u%%", percent);
		assert_ok(parse(KVMOD_PARAM_AMOUNT, "", text));
		ck_assert_uint_eq(kvmod_amount_of(&field.amount, 100), percent);
		ck_assert_uint_eq(kvmod_amount_of(&field.amount, 1000000), percent * 10000ull);
		ck_assert_uint_eq(kvmod_amount_of(&field.amount, 99), percent * 99 / 100);
		snprintf(text, sizeof(text), "%u.%02u", percent / 100, percent % 100);
		assert_ok(parse(KVMOD_PARAM_AMOUNT, "", text));
		ck_assert_uint_eq(kvmod_amount_of(&field.amount, 100), percent);
	}
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "", "29"));
	ck_assert_uint_eq(kvmod_amount_of(&field.amount, 100), 29);
}
END_TEST

START_TEST(amounts_in_a_range)
{
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "1..50%", "100"));
	assert_ok(parse(KVMOD_PARAM_AMOUNT, "1..50%", "0.0"));
	assert_none(KVMOD_PARAM_AMOUNT, "1..50%", NONE("0", "51%", "0.6"), "expected a fraction such "
		    "as 0.25 or 25%, or a count such as 1024, in 1..50%");
}
END_TEST

static void assert_list(const char *text, uint32_t plain, uint32_t n, const int64_t *items)
{
	assert_ok(parse(KVMOD_PARAM_LIST, "0..", text));
	ck_assert_uint_eq(field.list.plain, plain);
	ck_assert_uint_eq(field.list.n_items, n);
	if (n)
		ck_assert_mem_eq(field.list.items, items, n * sizeof(*items));
}

START_TEST(lists)
{
	assert_list("2", 1, 1, (const int64_t[]){ 2 });
	assert_list("3,", 0, 1, (const int64_t[]){ 3 });
	assert_list("0,1,5-8", 0, 6, (const int64_t[]){ 0, 1, 5, 6, 7, 8 });
	assert_list("0, 1 ,3-3", 0, 3, (const int64_t[]){ 0, 1, 3 });
	assert_list("", 0, 0, NULL);
	assert_none(KVMOD_PARAM_LIST, "0..100",
		    NONE("1,1", "2,1", "5-3", "-1", "1-", ",1", "1,,2", "x", "1-200", "101", "1.5",
			 "0-3,2"), "expected a number, or an ascending list such as 0,1,5-8, in 0..100");
	assert_none(KVMOD_PARAM_LIST, "", NONE("0-99999999999", "0-65536"),
		    "expected a number, or an ascending list such as 0,1,5-8");
	kv_arena_free(&arena);
}
END_TEST

START_TEST(choices)
{
	assert_ok(parse(KVMOD_PARAM_CHOICE, "position|attention", "attention"));
	ck_assert_int_eq(field.i32, 1);
	assert_none(KVMOD_PARAM_CHOICE, "position|attention",
		    NONE("", "atten", "attention ", "position|attention", "1"),
		    "expected one of position, attention");
}
END_TEST

START_TEST(texts)
{
	assert_ok(parse(KVMOD_PARAM_STRING, "", ""));
	ck_assert_str_eq(field.text, "");
	assert_ok(parse(KVMOD_PARAM_PATH, "", ""));
	ck_assert_str_eq(field.text, "");
	assert_ok(parse(KVMOD_PARAM_PATH, "", "sub/file"));
	ck_assert_str_eq(field.text, "/dir/sub/file");
	assert_ok(parse(KVMOD_PARAM_PATH, "", "/abs/file"));
	ck_assert_str_eq(field.text, "/abs/file");
	assert_ok(parse(KVMOD_PARAM_PATH, "", "~/file"));
	ck_assert_str_eq(field.text, fixture_path("file"));
	assert_ok(parse(KVMOD_PARAM_PATH, "", "~user/file"));
	ck_assert_str_eq(field.text, "/dir/~user/file");
	kv_arena_free(&arena);
}
END_TEST

/* --- an instance -------------------------------------------------------------------- */

struct mine {
	struct kvmod_instance base;
	int64_t whole;
	double real;
	struct kvmod_amount amount;
	struct kvmod_list list;
	int32_t choice, flag;
	const char *text, *file;
};

#define MINE_PARAMS(P, owner) \
	P(owner, struct mine, whole, INT, "4", "0..1024", "") \
	P(owner, struct mine, real, REAL, "0.5", "0..1", "") \
	P(owner, struct mine, amount, AMOUNT, "25%", "", "") \
	P(owner, struct mine, list, LIST, "0,2-3", "0..", "") \
	P(owner, struct mine, choice, CHOICE, "b", "a|b", "") \
	P(owner, struct mine, flag, BOOL, "yes", "", "") \
	P(owner, struct mine, text, STRING, "some text", "", "") \
	P(owner, struct mine, file, PATH, "models/none.gguf", "", "")
KVMOD_PARAMS(policy, mine, MINE_PARAMS);

static struct mine *opened;

static int32_t mine_open(void *self, const struct kvmod_model *model)
{
	(void)model;
	opened = self;
	return KVMOD_OK;
}

static int32_t mine_compress(void *self, const struct kvmod_request *request,
			     struct kvmod_plan *plan)
{
	(void)self;
	(void)request;
	(void)plan;
	return KVMOD_OK;
}

static const struct kvmod_policy_ops mine_ops = {
	.size = sizeof(mine_ops), .name = "mine", .description = "",
	.instance_size = sizeof(struct mine), .params = mine_params,
	.n_params = sizeof(mine_params) / sizeof(*mine_params),
	.open = mine_open, .compress = mine_compress,
};

static int32_t mine_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &mine_ops);
}

KVMOD_MODULE("mine", "1.0", "Apache-2.0", "", "", 0, mine_init, NULL);

START_TEST(defaults)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;
	char path[4200];

	assert_ok(kvmod_add_builtin(ctx, &kvmod_module));
	assert_ok(fixture_open(ctx, "mine", &policy));
	ck_assert_int_eq(opened->whole, 4);
	ck_assert_double_eq(opened->real, 0.5);
	ck_assert_double_eq(opened->amount.value, 0.25);
	ck_assert_uint_eq(opened->list.n_items, 3);
	ck_assert_int_eq(opened->list.items[2], 3);
	ck_assert_int_eq(opened->choice, 1);
	ck_assert_int_eq(opened->flag, 1);
	ck_assert_str_eq(opened->text, "some text");
	snprintf(path, sizeof(path), "%s/models/none.gguf", kv_build_tree());
	ck_assert_str_eq(opened->file, path);
	ck_assert_uint_eq((uintptr_t)opened % 64, 0);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(from_a_file)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_policy *policy;

	assert_ok(kvmod_add_builtin(ctx, &kvmod_module));
	assert_ok(fixture_configure(ctx, "[policy mine]\nwhole = 9\nreal = 0.25\namount = 30\n"
				    "list = 5\nchoice = a\nflag = off\ntext =\nfile = sub/x\n"));
	assert_ok(fixture_open(ctx, "mine", &policy));
	/* What is open keeps its own. */
	assert_ok(fixture_configure(ctx, ""));
	ck_assert_int_eq(opened->whole, 9);
	ck_assert_double_eq(opened->real, 0.25);
	ck_assert_double_eq(opened->amount.value, 30);
	ck_assert_uint_eq(opened->list.plain, 1);
	ck_assert_int_eq(opened->list.items[0], 5);
	ck_assert_int_eq(opened->choice, 0);
	ck_assert_int_eq(opened->flag, 0);
	ck_assert_str_eq(opened->text, "");
	ck_assert_str_eq(opened->file, fixture_path("sub/x"));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(path_in_an_override)
{
	struct kvmod_ctx *ctx = fixture_context();
	const char *override = "policy mine.file=sub/x";
	struct kvmod_policy *policy;

	assert_ok(kvmod_add_builtin(ctx, &kvmod_module));
	assert_ok(kvmod_configure(ctx, "/dev/null", &override, 1));
	ck_assert_int_eq(chdir(fixture_dir), 0);
	assert_ok(fixture_open(ctx, "mine", &policy));
	ck_assert_str_eq(opened->file, fixture_path("sub/x"));
	ck_assert_int_eq(chdir("/"), 0);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("params", bools, ints, reals, locale, amounts, amounts_round_down_as_written,
	     amounts_in_a_range, lists, choices,
	     texts, defaults, from_a_file, path_in_an_override)
