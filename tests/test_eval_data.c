/* SPDX-License-Identifier: Apache-2.0 */
/* JSONL files of prompts: what is read, what is refused and how, and which prompts are chosen. */
#include <config.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cli/cli.h"
#include "core/eval/data.h"

static char folder[64], path[128], other[128];
static struct eval_data data;
static char messages[4096];

static void setup(void)
{
	snprintf(folder, sizeof(folder), "/tmp/kvmod-eval-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/one.set.jsonl", folder);
	snprintf(other, sizeof(other), "%s/two", folder);
}

static void teardown(void)
{
	eval_data_free(&data);
	unlink(path);
	unlink(other);
	ck_assert_int_eq(rmdir(folder), 0);
}

static void write_bytes(const char *file, const char *bytes, size_t n)
{
	FILE *f = fopen(file, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

static void write_text(const char *file, const char *text)
{
	write_bytes(file, text, strlen(text));
}

/* Collects messages, without the folder. */
static void note(void *arg, const char *message)
{
	size_t n = strlen(messages);

	ck_assert_ptr_eq(arg, &data);
	ck_assert_int_eq(strncmp(message, folder, strlen(folder)), 0);
	snprintf(messages + n, sizeof(messages) - n, "%s\n", message + strlen(folder) + 1);
}

static int read_files(size_t n_files, size_t per_file, bool with_question)
{
	const char *const files[] = { path, other };
	struct eval_reading how = {
		.per_file = per_file, .with_question = with_question, .broken = note, .arg = &data,
	};

	messages[0] = '\0';
	eval_data_free(&data);
	return eval_data_read(&data, files, n_files, &how);
}

static void read_text(const char *text)
{
	write_text(path, text);
	ck_assert_int_eq(read_files(1, 0, false), CLI_OK);
}

/* The one line is refused with this message. */
static void refuse(const char *line, const char *message)
{
	char expected[600];

	read_text(line);
	snprintf(expected, sizeof(expected), "one.set.jsonl:1: %s\n", message);
	ck_assert_str_eq(messages, expected);
	ck_assert_uint_eq(data.n, 0);
	ck_assert_uint_eq(data.n_broken, 1);
}

/* --- good lines ------------------------------------------------------------------------ */

START_TEST(members_are_read)
{
	char id[160];

	/* The digests are FNV-1a by a Python program. */
	read_text("{\"id\": \"i\", \"task\": \"t\", \"metric\": \"contains\", \"prompt\": "
		  "\"Ünï \\ud83d\\ude00 text. Why?\", \"question_at\": 12, "
		  "\"answers\": [\"a b\", \"ç\"]}\n"
		  "{\"prompt\": \"Two and two?\", \"other\": [1, {}], \"answers\": [], "
		  "\"id\": null}\n"
		  "{\"context\": \"Story.\", \"question\": \"Who?\", \"answer\": \"Ann\", "
		  "\"metric\": \"f1\"}\n");
	ck_assert_str_eq(messages, "");
	ck_assert_uint_eq(data.n, 3);
	ck_assert_uint_eq(data.n_broken, 0);
	ck_assert_str_eq(data.prompts[0].id, "i");
	ck_assert_str_eq(data.prompts[0].task, "t");
	ck_assert_uint_eq(data.prompts[0].metric, EVAL_CONTAINS);
	ck_assert_uint_eq(data.prompts[0].n, strlen(data.prompts[0].text));
	ck_assert_str_eq(data.prompts[0].text + data.prompts[0].question, "Why?");
	ck_assert_uint_eq(data.prompts[0].n_answers, 2);
	ck_assert_str_eq(data.prompts[0].answers[1], "ç");

	snprintf(id, sizeof(id), "%s:2", path);
	ck_assert_str_eq(data.prompts[1].id, id);
	ck_assert_str_eq(data.prompts[1].task, "one.set");
	ck_assert_str_eq(data.prompts[1].file, path);
	ck_assert_uint_eq(data.prompts[1].line, 2);
	ck_assert_uint_eq(data.prompts[1].question, 0);
	ck_assert_uint_eq(data.prompts[1].n_answers, 0);
	ck_assert_uint_eq(data.prompts[1].digest, UINT64_C(0xba356a50d56dd9f1));

	ck_assert_str_eq(data.prompts[2].text, "Story.\n\nWho?");
	ck_assert_str_eq(data.prompts[2].text + data.prompts[2].question, "Who?");
	ck_assert_str_eq(data.prompts[2].answers[0], "Ann");
	ck_assert_uint_eq(data.prompts[2].digest, UINT64_C(0xad688703b945f57b));
}
END_TEST

static uint64_t digest(const char *line)
{
	read_text(line);
	ck_assert_str_eq(messages, "");
	return data.prompts[0].digest;
}

#define REST "\"metric\": \"exact\", \"answers\": [\"x\", \"y\"]}"

START_TEST(the_digest_is_of_what_matters)
{
	uint64_t is = digest("{\"prompt\": \"abc\", \"question_at\": 1, " REST);

	/* By the Python program: "abc", "1", "exact", "x", "y", a NUL behind each. */
	ck_assert_uint_eq(is, UINT64_C(0x0ed818e021647508));
	ck_assert_uint_eq(digest("{\"id\": \"i\", \"task\": \"t\", \"question_at\": 1, \"prompt\": "
				 "\"a\\u0062c\", " REST), is);
	ck_assert_uint_eq(digest("\n{\"context\": \"a \", \"question\": \"bc\"}"),
			  digest("{\"prompt\": \"a bc\", \"question_at\": 2}"));
	ck_assert_uint_ne(digest("{\"prompt\": \"abd\", \"question_at\": 1, " REST), is);
	ck_assert_uint_ne(digest("{\"prompt\": \"abc\", \"question_at\": 2, " REST), is);
	ck_assert_uint_ne(digest("{\"prompt\": \"abc\", " REST), is);
	ck_assert_uint_ne(digest("{\"prompt\": \"abc\", \"question_at\": 1, \"metric\": \"f1\", "
				 "\"answers\": [\"x\", \"y\"]}"), is);
	ck_assert_uint_ne(digest("{\"prompt\": \"abc\", \"question_at\": 1, \"metric\": \"exact\", "
				 "\"answers\": [\"xy\"]}"), is);
}
END_TEST

START_TEST(context_and_question_are_joined)
{
	static const struct {
		const char *line, *text, *question;
	} cases[] = {
		{ "{\"context\": \"C\", \"question\": \"Q\"}", "C\n\nQ", "Q" },
		{ "{\"context\": \"C\\n\", \"question\": \"Q\"}", "C\nQ", "Q" },
		{ "{\"context\": \"C \", \"question\": \" Q\\n\"}", "C  Q\n", " Q\n" },
		{ "{\"context\": \"é\", \"question\": \"ü\", \"prompt\": null}", "é\n\nü", "ü" },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		read_text(cases[i].line);
		ck_assert_str_eq(data.prompts[0].text, cases[i].text);
		ck_assert_str_eq(data.prompts[0].text + data.prompts[0].question,
				 cases[i].question);
		ck_assert_uint_eq(data.prompts[0].n, strlen(cases[i].text));
	}
}
END_TEST

START_TEST(files_come_from_anywhere)
{
	read_text("\xef\xbb\xbf{\"prompt\": \"a\\r\\nb\"}\r\n\r\n \t\n{\"prompt\": \"c\"}");
	ck_assert_str_eq(messages, "");
	ck_assert_uint_eq(data.n, 2);
	ck_assert_str_eq(data.prompts[0].text, "a\r\nb");
	ck_assert_str_eq(data.prompts[1].text, "c");
	ck_assert_uint_eq(data.prompts[1].line, 4);
}
END_TEST

START_TEST(a_line_may_be_long)
{
	const size_t n = 10 << 20;
	static const char begin[] = "{\"prompt\": \"", end[] = "?\", \"question_at\": 10485760}\n";
	char *line = malloc(n + sizeof(begin) + sizeof(end));

	ck_assert_ptr_nonnull(line);
	memcpy(line, begin, sizeof(begin) - 1);
	memset(line + sizeof(begin) - 1, 'x', n);
	memcpy(line + sizeof(begin) - 1 + n, end, sizeof(end));
	read_text(line);
	free(line);
	ck_assert_str_eq(messages, "");
	ck_assert_uint_eq(data.prompts[0].n, n + 1);
	ck_assert_uint_eq(data.prompts[0].question, n);
}
END_TEST

/* --- broken lines ------------------------------------------------------------------------ */

START_TEST(broken_lines_are_told)
{
	static const struct {
		const char *line, *message;
	} cases[] = {
		{ "{\"prompt\": \"a\"", "bad JSON near byte 14: '}' expected near end of file; "
		  "expected an object" },
		{ "{\"prompt\": \"a\"} x", "bad JSON near byte 17: end of file expected near 'x'; "
		  "expected an object" },
		{ "[\"prompt\"]", "a list, expected an object" },
		{ "{\"prompt\": \"a\", \"prompt\": \"b\"}",
		  "bad JSON near byte 24: duplicate object key near '\"prompt\"'; expected an "
		  "object" },
		{ "{}", "no `prompt`, expected `prompt`, or `context` and `question`" },
		{ "{\"prompt\": null}",
		  "no `prompt`, expected `prompt`, or `context` and `question`" },
		{ "{\"context\": \"a\"}",
		  "no `question`, expected `prompt`, or `context` and `question`" },
		{ "{\"question\": \"a\"}",
		  "no `context`, expected `prompt`, or `context` and `question`" },
		{ "{\"prompt\": \"a\", \"question\": \"b\"}",
		  "`prompt` and `question`, expected `prompt`, or `context` and `question`" },
		{ "{\"prompt\": 1}", "`prompt` is an integer, expected a string" },
		{ "{\"prompt\": [\"a\"]}", "`prompt` is a list, expected a string" },
		{ "{\"prompt\": \" \\n\"}", "`prompt` is blank, expected text" },
		{ "{\"context\": \"a\", \"question\": \"\"}",
		  "`question` is blank, expected text" },
		{ "{\"context\": \"a\", \"question\": \"b\", \"question_at\": 1}",
		  "`question_at` and `context`, expected `question_at` only with `prompt`" },
		{ "{\"prompt\": \"äöü\", \"question_at\": 3}",
		  "`question_at` is 3, expected 1 to 2 in a prompt of 3 characters" },
		{ "{\"prompt\": \"äöü\", \"question_at\": 0}",
		  "`question_at` is 0, expected 1 to 2 in a prompt of 3 characters" },
		{ "{\"prompt\": \"äöü\", \"question_at\": -1}",
		  "`question_at` is -1, expected 1 to 2 in a prompt of 3 characters" },
		{ "{\"prompt\": \"abc\", \"question_at\": \"1\"}",
		  "`question_at` is a string, expected an integer" },
		{ "{\"prompt\": \"abc\", \"question_at\": 1.0}",
		  "`question_at` is a decimal, expected an integer" },
		{ "{\"prompt\": \"a\", \"metric\": \"bleu\"}",
		  "metric `bleu`, expected number, contains, rouge-l, exact or f1" },
		{ "{\"prompt\": \"a\", \"answer\": \"b\"}",
		  "answers without `metric`, expected number, contains, rouge-l, exact or f1" },
		{ "{\"prompt\": \"a\", \"answer\": 7, \"metric\": \"number\"}",
		  "`answer` is an integer, expected a string" },
		{ "{\"prompt\": \"a\", \"answers\": \"b\", \"metric\": \"f1\"}",
		  "`answers` is a string, expected a list of strings" },
		{ "{\"prompt\": \"a\", \"answers\": [\"b\", false], \"metric\": \"f1\"}",
		  "`answers` has a boolean, expected strings" },
		{ "{\"prompt\": \"a\", \"answers\": [\"b\"], \"answer\": \"b\", "
		  "\"metric\": \"f1\"}",
		  "`answers` and `answer`, expected one of them" },
		{ "{\"prompt\": \"a\", \"answer\": \"seven\", \"metric\": \"number\"}",
		  "answer `seven`, expected a number for metric number" },
		{ "{\"prompt\": \"a\", \"id\": 7}", "`id` is an integer, expected a string" },
		{ "{\"prompt\": \"a\", \"task\": \"\"}", "`task` is blank, expected text" },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++)
		refuse(cases[i].line, cases[i].message);
}
END_TEST

START_TEST(only_unicode_text_is_read)
{
	static const struct {
		const char *line, *part;
	} cases[] = {
		{ "{\"prompt\": \"caf\xe9\"}",
		  "one.set.jsonl:1: bad JSON near byte 15: unable to decode byte 0xe9" },
		{ "{\"prompt\": \"\\ud83d\"}", "invalid Unicode" },
		{ "{\"prompt\": \"a\\u0000b\"}", "\\u0000 is not allowed" },
	};
	static const char nul[] = "{\"prompt\": \"a\0b\"}\n{\"prompt\": \"c\"}";

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		read_text(cases[i].line);
		ck_assert_msg(strstr(messages, cases[i].part) != NULL, "%s", messages);
		ck_assert_uint_eq(data.n_broken, 1);
	}
	write_bytes(path, nul, sizeof(nul) - 1);
	ck_assert_int_eq(read_files(1, 0, false), CLI_OK);
	ck_assert_uint_eq(data.n, 1);
	ck_assert_uint_eq(data.n_broken, 1);
}
END_TEST

START_TEST(the_rest_goes_on)
{
	char expected[600];

	write_text(path, "{\"prompt\": \"a\", \"id\": \"x\"}\n"
		   "nonsense\n"
		   "\n"
		   "{\"prompt\": \"b\", \"id\": \"x\"}\n"
		   "{\"prompt\": 1, \"id\": \"y\"}\n"
		   "{\"prompt\": \"c\", \"id\": \"y\"}\n");
	write_text(other, "{\"prompt\": \"d\", \"id\": \"y\"}\n{\"prompt\": \"e\"}\n");
	ck_assert_int_eq(read_files(2, 0, false), CLI_OK);
	snprintf(expected, sizeof(expected),
		 "one.set.jsonl:2: bad JSON near byte 8: '[' or '{' expected near 'nonsense'; "
		 "expected an object\n"
		 "one.set.jsonl:4: id `x` is that of %s:1 too, expected each id once\n"
		 "one.set.jsonl:5: `prompt` is an integer, expected a string\n"
		 "two:1: id `y` is that of %s:6 too, expected each id once\n", path, path);
	ck_assert_str_eq(messages, expected);
	ck_assert_uint_eq(data.n_broken, 4);
	ck_assert_uint_eq(data.n, 3);
	ck_assert_str_eq(data.prompts[0].text, "a");
	ck_assert_str_eq(data.prompts[1].text, "c");
	ck_assert_str_eq(data.prompts[2].text, "e");
	ck_assert_str_eq(data.prompts[2].task, "two");
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
	static const char *const empty[] = { "", "\n \r\n", "\xef\xbb\xbf" };
	char expected[200];

	snprintf(expected, sizeof(expected), "%s: empty, expected a JSON object in each line",
		 path);
	for (size_t i = 0; i < CLI_COUNT(empty); i++) {
		write_text(path, empty[i]);
		ck_assert_int_eq(read_files(1, 0, false), CLI_FAILED);
		ck_assert_str_eq(data.error, expected);
	}
	write_text(path, "{\"prompt\": \"a\"}");
	ck_assert_int_eq(read_files(2, 0, false), CLI_FAILED);
	snprintf(expected, sizeof(expected), "%s: No such file or directory", other);
	ck_assert_str_eq(data.error, expected);
	snprintf(other, sizeof(other), "%s", folder);
	ck_assert_int_eq(read_files(2, 0, false), CLI_FAILED);
	snprintf(expected, sizeof(expected), "%s: a directory, expected a regular file", folder);
	ck_assert_str_eq(data.error, expected);
	/* Nothing is left, but the file can be read. */
	read_text("nonsense\n");
	ck_assert_uint_eq(data.n, 0);
}
END_TEST

/* --- choice ------------------------------------------------------------------------------- */

/* Prompts 0 to n - 1; every second has a question. */
static void write_numbers(const char *file, int n)
{
	FILE *f = fopen(file, "w");

	ck_assert_ptr_nonnull(f);
	for (int i = 0; i < n; i++)
		fprintf(f, "{\"prompt\": \"%d?\"%s}\n", i, i % 2 ? ", \"question_at\": 1" : "");
	ck_assert_int_eq(fclose(f), 0);
}

static void check_chosen(const char *expected)
{
	char found[200] = "";

	for (size_t i = 0; i < data.n; i++)
		snprintf(found + strlen(found), sizeof(found) - strlen(found), "%d ",
			 atoi(data.prompts[i].text));
	ck_assert_str_eq(found, expected);
}

/* As Python says of list(range(found))[::max(1, found // n)][:n]. */
START_TEST(prompts_are_evenly_spaced)
{
	static const struct {
		int found;
		size_t per_file;
		const char *chosen;
	} cases[] = {
		{ 10, 0, "0 1 2 3 4 5 6 7 8 9 " }, { 10, 1, "0 " }, { 10, 2, "0 5 " },
		{ 10, 3, "0 3 6 " }, { 10, 4, "0 2 4 6 " }, { 10, 6, "0 1 2 3 4 5 " },
		{ 10, 10, "0 1 2 3 4 5 6 7 8 9 " }, { 3, 7, "0 1 2 " }, { 11, 5, "0 2 4 6 8 " },
		{ 1, 1, "0 " },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		write_numbers(path, cases[i].found);
		ck_assert_int_eq(read_files(1, cases[i].per_file, false), CLI_OK);
		check_chosen(cases[i].chosen);
	}
}
END_TEST

START_TEST(the_choice_is_of_each_file)
{
	write_numbers(path, 4);
	write_numbers(other, 9);
	ck_assert_int_eq(read_files(2, 3, false), CLI_OK);
	check_chosen("0 1 2 0 3 6 ");
	ck_assert_int_eq(read_files(2, 2, true), CLI_OK);
	check_chosen("1 3 1 5 ");
	ck_assert_uint_eq(data.n_without_question, 2 + 5);
	ck_assert_uint_eq(data.n_broken, 0);
}
END_TEST

/* Broken lines take no place. */
START_TEST(the_choice_is_of_good_lines)
{
	write_text(path, "{\"prompt\": \"0\"}\n?\n{\"prompt\": \"1\"}\n{\"prompt\": \"2\"}\n?\n"
		   "{\"prompt\": \"3\"}\n");
	ck_assert_int_eq(read_files(1, 2, false), CLI_OK);
	check_chosen("0 2 ");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("eval data");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, members_are_read);
	tcase_add_test(t, the_digest_is_of_what_matters);
	tcase_add_test(t, context_and_question_are_joined);
	tcase_add_test(t, files_come_from_anywhere);
	tcase_add_test(t, a_line_may_be_long);
	tcase_add_test(t, broken_lines_are_told);
	tcase_add_test(t, only_unicode_text_is_read);
	tcase_add_test(t, the_rest_goes_on);
	tcase_add_test(t, files_that_cannot_be_read);
	tcase_add_test(t, prompts_are_evenly_spaced);
	tcase_add_test(t, the_choice_is_of_each_file);
	tcase_add_test(t, the_choice_is_of_good_lines);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
