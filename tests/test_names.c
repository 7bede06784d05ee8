/* SPDX-License-Identifier: Apache-2.0 */
/* Text that is shown to people: one line, and nothing that a terminal obeys. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/names.h"

static const struct {
	const char *from, *to;
} shown[] = {
	{ "", "" },
	{ "plain", "plain" },
	{ "a\tb\nc", "a b c" },
	{ "\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m" },
	{ "bell\a, back\b, delete\x7f", "bell\\x07, back\\x08, delete\\x7f" },
	/* C1: U+009B is the CSI that some terminals take in one character. */
	{ "\xc2\x9b" "31m", "\\x9b31m" },
	/* No UTF-8: a byte alone, one cut off, a surrogate, one that is too long. */
	{ "caf\xe9", "caf\\xe9" },
	{ "\xe2\x82", "\\xe2\\x82" },
	{ "\xed\xa0\x80", "\\xed\\xa0\\x80" },
	{ "\xc0\xaf", "\\xc0\\xaf" },
	/* U+202E and U+2066 turn the text around, U+200F and U+061C mark a direction. */
	{ "so.\xe2\x80\xaegnp", "so.\\u202egnp" },
	{ "\xe2\x81\xa6x\xe2\x81\xa9", "\\u2066x\\u2069" },
	{ "\xe2\x80\x8f\xd8\x9c", "\\u200f\\u061c" },
	{ "line\xe2\x80\xa8paragraph\xe2\x80\xa9", "line\\u2028paragraph\\u2029" },
	/* What is only foreign stays: Greek, a dash, Hebrew, an emoji. */
	{ "\xce\xba\xe2\x80\x94\xd7\x90\xf0\x9f\x98\x80", "\xce\xba\xe2\x80\x94\xd7\x90\xf0\x9f\x98\x80" },
	{ "\xc2\xa0", "\xc2\xa0" },
};

START_TEST(shows)
{
	char text[128], again[128];

	ck_assert_uint_eq(kv_show(shown[_i].from, text, sizeof(text)), strlen(shown[_i].to));
	ck_assert_str_eq(text, shown[_i].to);
	ck_assert_uint_eq(kv_show(text, again, sizeof(again)), strlen(text));
	ck_assert_str_eq(again, text);
}
END_TEST

/* What does not fit is left out by whole characters, and no escape is cut. */
START_TEST(leaves_out_what_does_not_fit)
{
	static const char *const fits[] = {
		"", "a", "a", "a", "a", "a\\x07", "a\\x07", "a\\x07\xc3\xa9", "a\\x07\xc3\xa9z",
	};
	char text[16];

	for (size_t room = 1; room <= sizeof(fits) / sizeof(*fits); room++) {
		memset(text, '#', sizeof(text));
		ck_assert_uint_eq(kv_show("a\a\xc3\xa9z", text, room), 8);
		ck_assert_str_eq(text, fits[room - 1]);
		ck_assert_int_eq(text[room], '#');
	}
	ck_assert_uint_eq(kv_show("abc", NULL, 0), 3);
}
END_TEST

/* Messages are made with kv_show(), also a message that becomes part of the next. */
START_TEST(messages)
{
	kv_fail(KVMOD_EINVAL, "module %s", "\xff\x1b[2J");
	kv_fail_in(KVMOD_EINVAL, "file %s", "\xe2\x80\xae.so");
	ck_assert_str_eq(kvmod_error(), "file \\u202e.so: module \\xff\\x1b[2J");
	kv_fail(KVMOD_EINVAL, "again: %s", kvmod_error());
	ck_assert_str_eq(kvmod_error(), "again: file \\u202e.so: module \\xff\\x1b[2J");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("names");
	TCase *tc = tcase_create("names");
	SRunner *runner;
	int failed;

	tcase_add_loop_test(tc, shows, 0, (int)(sizeof(shown) / sizeof(*shown)));
	tcase_add_test(tc, leaves_out_what_does_not_fit);
	tcase_add_test(tc, messages);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
