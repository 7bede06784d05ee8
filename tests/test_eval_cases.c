/* SPDX-License-Identifier: Apache-2.0 */
/* Operands of `kvmod eval`: which cases they stand for, and which are refused. */
#include <config.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/eval/cases.h"

static struct eval_cases cases;

/* What is printed goes to a file, whose text is in `said`. */
static char said[4096];

static int add(const char *operand)
{
	FILE *file = tmpfile();
	int kept = dup(STDERR_FILENO), err;
	size_t n;

	ck_assert_ptr_nonnull(file);
	fflush(stderr);
	ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
	err = eval_cases_add(&cases, operand);
	fflush(stderr);
	dup2(kept, STDERR_FILENO);
	close(kept);
	rewind(file);
	n = fread(said, 1, sizeof(said) - 1, file);
	said[n] = '\0';
	fclose(file);
	return err;
}

static void set_up(void)
{
	cases = (struct eval_cases){ 0 };
}

static void tear_down(void)
{
	eval_cases_free(&cases);
}

static void takes(const char *operand)
{
	int err = add(operand);

	ck_assert_msg(err == CLI_OK && !said[0], "%s: %s", operand, said);
}

static void is(size_t i, const char *name, const char *policy)
{
	ck_assert_uint_lt(i, cases.n);
	ck_assert_str_eq(cases.item[i].name, name);
	ck_assert_str_eq(cases.item[i].policy, policy);
}

static void sets(size_t i, size_t k, const char *override)
{
	ck_assert_uint_lt(k, cases.item[i].overrides.n);
	ck_assert_str_eq(cases.item[i].overrides.item[k], override);
}

START_TEST(plain)
{
	takes("fullkv");
	takes("snapkv:budget=20%");
	ck_assert_uint_eq(cases.n, 2);
	is(0, "fullkv", "fullkv");
	ck_assert_uint_eq(cases.item[0].overrides.n, 0);
	is(1, "snapkv:budget=20%", "snapkv");
	ck_assert_uint_eq(cases.item[1].overrides.n, 1);
	sets(1, 0, "policy snapkv.budget=20%");
}
END_TEST

/* The last value changes fastest; operands come one after the other. */
START_TEST(grid)
{
	takes("snapkv:budget=10%|20%,window=16|32|64");
	takes("h2o:heavy=1|2");
	ck_assert_uint_eq(cases.n, 8);
	is(0, "snapkv:budget=10%,window=16", "snapkv");
	is(1, "snapkv:budget=10%,window=32", "snapkv");
	is(2, "snapkv:budget=10%,window=64", "snapkv");
	is(3, "snapkv:budget=20%,window=16", "snapkv");
	is(5, "snapkv:budget=20%,window=64", "snapkv");
	sets(5, 0, "policy snapkv.budget=20%");
	sets(5, 1, "policy snapkv.window=64");
	is(6, "h2o:heavy=1", "h2o");
	is(7, "h2o:heavy=2", "h2o");
}
END_TEST

START_TEST(commas_and_sections)
{
	takes("a:list=1,2,3,b=x,y|z");
	is(0, "a:list=1,2,3,b=x,y", "a");
	is(1, "a:list=1,2,3,b=z", "a");
	sets(0, 0, "policy a.list=1,2,3");
	sets(0, 1, "policy a.b=x,y");
	takes("a:kvmod.store=q8_0/q4_0|f16,b=1");
	is(2, "a:kvmod.store=q8_0/q4_0,b=1", "a");
	sets(2, 0, "kvmod.store=q8_0/q4_0");
	sets(2, 1, "policy a.b=1");
	is(3, "a:kvmod.store=f16,b=1", "a");
	takes("a:policy b.c=1");
	sets(4, 0, "policy b.c=1");
	/* A value may be empty, and may have = and : in it. */
	takes("a:b=");
	sets(5, 0, "policy a.b=");
	takes("a:b=|1,c=d:e=f,");
	is(6, "a:b=,c=d:e=f,", "a");
	is(7, "a:b=1,c=d:e=f,", "a");
}
END_TEST

static const char *const wrong[][2] = {
	{ "", "kvmod: : no policy, expected POLICY[:KEY=VALUE,...]\n" },
	{ ":budget=1", "kvmod: :budget=1: no policy, expected POLICY[:KEY=VALUE,...]\n" },
	{ "a:", "kvmod: a:: expected KEY=VALUE at ``\n" },
	{ "a:budget", "kvmod: a:budget: expected KEY=VALUE at `budget`\n" },
	{ "a:=1", "kvmod: a:=1: expected KEY=VALUE at `=1`\n" },
	{ "a:b|c=1", "kvmod: a:b|c=1: expected KEY=VALUE at `b|c=1`\n" },
	{ "a:b=1|1", "kvmod: a:b=1: given twice\n" },
	{ "a:a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1,q=1",
	  "kvmod: a:a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1,q=1: "
	  "more than 16 parameters\n" },
	{ "a:a=1|2|3|4|5|6|7|8|9|0,b=1|2|3|4|5|6|7|8|9|0,c=1|2|3|4|5|6|7|8|9|0,d=1|2",
	  "kvmod: a:a=1|2|3|4|5|6|7|8|9|0,b=1|2|3|4|5|6|7|8|9|0,c=1|2|3|4|5|6|7|8|9|0,d=1|2: "
	  "more than 1000 combinations\n" },
	/* Results are JSON, whose texts are UTF-8. */
	{ "a:b=\xff", "kvmod: a:b=\\xff: byte 0xff at offset 4: expected UTF-8 text\n" },
	{ "\xc3(", "kvmod: \\xc3(: byte 0xc3 at offset 0: expected UTF-8 text\n" },
	{ "a:b=1,b=2", "kvmod: a:b=1,b=2: b is given twice\n" },
	{ "a:engine b.c=1", "kvmod: a:engine b.c=1: engine b.c is the same for all: expected it in -o\n" },
	{ "a:kvmod.engine=b", "kvmod: a:kvmod.engine=b: kvmod.engine is the same for all: expected it in -o\n" },
	{ "a:kvmod.policy=b", "kvmod: a:kvmod.policy=b: kvmod.policy is the same for all: expected it in -o\n" },
};

START_TEST(refused)
{
	ck_assert_int_eq(add(wrong[_i][0]), CLI_FAILED);
	ck_assert_str_eq(said, wrong[_i][1]);
}
END_TEST

START_TEST(twice)
{
	takes("a");
	ck_assert_int_eq(add("a"), CLI_FAILED);
	ck_assert_str_eq(said, "kvmod: a: given twice\n");
	takes("b:c=1|2");
	ck_assert_int_eq(add("b:c=3|2"), CLI_FAILED);
	ck_assert_str_eq(said, "kvmod: b:c=2: given twice\n");
}
END_TEST

START_TEST(most)
{
	takes("a:a=1|2|3|4|5|6|7|8|9|0,b=1|2|3|4|5|6|7|8|9|0,c=1|2|3|4|5|6|7|8|9|0");
	ck_assert_uint_eq(cases.n, 1000);
	is(123, "a:a=2,b=3,c=4", "a");
	is(999, "a:a=0,b=0,c=0", "a");
	takes("b:a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1");
	ck_assert_uint_eq(cases.item[1000].overrides.n, 16);
	/* Other languages are text, too. */
	takes("c:d=gr\xc3\xbc\xc3\x9f");
	is(1001, "c:d=gr\xc3\xbc\xc3\x9f", "c");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("eval cases");
	TCase *tcase = tcase_create("eval cases");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, plain);
	tcase_add_test(tcase, grid);
	tcase_add_test(tcase, commas_and_sections);
	tcase_add_loop_test(tcase, refused, 0, sizeof(wrong) / sizeof(*wrong));
	tcase_add_test(tcase, twice);
	tcase_add_test(tcase, most);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
