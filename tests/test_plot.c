/* SPDX-License-Identifier: Apache-2.0 */
/* The text of pictures: nothing in it is read by gnuplot or a browser as more than text. */
#include <config.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/plot/page.h"

static struct cli_text text;

static void free_text(void)
{
	cli_text_free(&text);
	text = (struct cli_text){ 0 };
}

static const char *quoted(const char *from)
{
	free_text();
	plot_add_quoted(&text, from);
	return text.bytes;
}

static const char *xml(const char *from, size_t n)
{
	free_text();
	plot_add_bytes(&text, "", 0);
	plot_add_xml(&text, from, n);
	return text.bytes;
}

#define XML(string) xml(string, sizeof(string) - 1)

START_TEST(strings_of_gnuplot)
{
	ck_assert_str_eq(quoted(""), "\"\"");
	ck_assert_str_eq(quoted("snapkv:budget=20, a-b_c/(d)"), "\"snapkv:budget=20, a-b_c/(d)\"");
	ck_assert_str_eq(quoted("'; system(\"x\")"), "\"\\047; system(\\042x\\042)\"");
	ck_assert_str_eq(quoted("`x` @y \\ # $ % {^}"),
			 "\"\\140x\\140 \\100y \\134 \\043 \\044 \\045 \\173\\136\\175\"");
	/* Line ends and tabs are spaces; other control characters are words, and so are bytes. */
	ck_assert_str_eq(quoted("a\nb\tc"), "\"a b c\"");
	ck_assert_str_eq(quoted("\033\377"), "\"\\134x1b\\134xff\"");
	ck_assert_str_eq(quoted("\u00e9"), "\"\\303\\251\"");
	ck_assert_str_eq(quoted("]>]]>"), "\"\\135\\076\\135\\135\\357\\274\\236\"");
	ck_assert_str_eq(quoted("\xef\xbf\xbf"), "\"\\357\\277\\275\"");
}
END_TEST

/* Whatever the bytes are, between the quotes there are only harmless ones. */
START_TEST(no_byte_leaves_the_string)
{
	for (int a = 1; a < 256; a++)
		for (int b = 1; b < 256; b++) {
			const char both[] = { (char)a, (char)b, 0 };
			const char *q = quoted(both);
			size_t n = strlen(q);

			ck_assert(n >= 2 && q[0] == '"' && q[n - 1] == '"');
			for (size_t i = 1; i < n - 1; i++) {
				ck_assert(strchr(" .,:;=+-_/()\\", q[i]) || (q[i] >= '0' && q[i] <= '9') ||
					  (q[i] >= 'a' && q[i] <= 'z') || (q[i] >= 'A' && q[i] <= 'Z'));
				if (q[i] == '\\')
					ck_assert(q[i + 1] >= '0' && q[i + 1] <= '3');
			}
		}
}
END_TEST

START_TEST(long_names)
{
	free_text();
	ck_assert_uint_eq(plot_add_name(&text, "12345", 5), 5);
	ck_assert_str_eq(text.bytes, "\"12345\"");
	free_text();
	ck_assert_uint_eq(plot_add_name(&text, "123456", 5), 5);
	ck_assert_str_eq(text.bytes, "\"1234\u2026\"");
	/* Two columns each. */
	free_text();
	ck_assert_uint_eq(plot_add_name(&text, "\u6f22\u5b57\u6f22", 5), 5);
	ck_assert_str_eq(text.bytes, "\"\\346\\274\\242\\345\\255\\227\u2026\"");
}
END_TEST

START_TEST(text_of_xml)
{
	ck_assert_str_eq(XML("<script>alert(\"1\")</script>&'"),
			 "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;");
	ck_assert_str_eq(XML("]]>--"), "]]&gt;--");
	ck_assert_str_eq(XML("\u00e9 \u6f22 \U0001F600"), "\u00e9 \u6f22 \U0001F600");
	ck_assert_str_eq(XML("a\nb\tc\rd"), "a b c d");
	/* What XML cannot have: control characters, noncharacters, bytes that are not UTF-8. */
	ck_assert_str_eq(XML("\0\033\b"), "\uFFFD\uFFFD\uFFFD");
	ck_assert_str_eq(XML("\xef\xbf\xbe\xef\xbf\xbf"), "\uFFFD\uFFFD");
	ck_assert_str_eq(XML("\xff<\xe6\xbc"), "\uFFFD&lt;\uFFFD\uFFFD");
	ck_assert_str_eq(XML(""), "");
}
END_TEST

START_TEST(steps_of_tics)
{
	ck_assert_uint_eq(plot_step(1, 10), 1);
	ck_assert_uint_eq(plot_step(10, 10), 1);
	ck_assert_uint_eq(plot_step(20, 10), 2);
	ck_assert_uint_eq(plot_step(21, 10), 2);
	ck_assert_uint_eq(plot_step(50, 10), 5);
	ck_assert_uint_eq(plot_step(60, 10), 10);
	ck_assert_uint_eq(plot_step(1893, 10), 200);
	ck_assert_uint_eq(plot_step(1000000, 10), 100000);
	for (size_t n = 1; n < 3000; n++)
		for (size_t most = 1; most < 40; most++)
			ck_assert_uint_le(n / plot_step(n, most), most);
}
END_TEST

/* --- pages ------------------------------------------------------------------------------ */

#define TOKEN(string, s) { .text = string, .n = sizeof(string) - 1, .share = s }

static size_t count(const char *in, const char *what)
{
	size_t n = 0;

	for (in = strstr(in, what); in; in = strstr(in + 1, what))
		n++;
	return n;
}

static const char *page_of(const struct page_token *tokens, size_t n)
{
	struct page page;

	free_text();
	page_begin(&page, 860, "");
	page_add_text(&page, tokens, 0, n);
	page_end(&page, &text);
	return text.bytes;
}

START_TEST(signs_and_lines)
{
	static const struct page_token tokens[] = {
		TOKEN("<a>", 1), TOKEN("\n", 0), TOKEN("\t", 0.5), TOKEN("", 0), TOKEN("\0", 0),
		TOKEN("\u202e", 0), TOKEN("\033[2J", 0), TOKEN("\ufffe", 0),
	};
	const char *svg = page_of(tokens, 8);

	ck_assert_ptr_nonnull(strstr(svg, ">&lt;a&gt;</text>"));
	ck_assert_ptr_nonnull(strstr(svg, ">\u21B5</text>"));
	ck_assert_ptr_nonnull(strstr(svg, ">\u2192</text>"));
	ck_assert_ptr_nonnull(strstr(svg, ">\u00B7</text>"));
	ck_assert_ptr_nonnull(strstr(svg, ">\u2400</text>"));
	ck_assert_ptr_nonnull(strstr(svg, ">\u241B</text>"));
	ck_assert_uint_eq(count(svg, ">\uFFFD</text>"), 2);
	ck_assert_ptr_null(strstr(svg, "\u202e"));
	/* Two lines, with the numbers of their first tokens; shades of what is kept. */
	ck_assert_uint_eq(count(svg, ">0</text>") + count(svg, ">2</text>"), 2);
	ck_assert_uint_eq(count(svg, "<rect "), 3);
}
END_TEST

/* 97 columns: a word that does not fit moves on whole, a longer one is split where the line ends. */
START_TEST(lines_are_wrapped)
{
	struct page_token tokens[200];

	for (int i = 0; i < 200; i++)
		tokens[i] = (struct page_token){ .text = " word", .n = 5 };
	/* 20 words a line, 4 characters and the blank before the next one. */
	ck_assert_uint_eq(count(page_of(tokens, 200), "font-size=\"10\""), 11);
	for (int i = 0; i < 200; i++)
		tokens[i] = (struct page_token){ .text = "\u6f22", .n = 3 };
	ck_assert_uint_eq(count(page_of(tokens, 200), "font-size=\"10\""), 5);
	for (int i = 0; i < 200; i++)
		tokens[i] = (struct page_token){ .text = " ", .n = 1 };
	ck_assert_uint_eq(count(page_of(tokens, 200), "font-size=\"10\""), 3);
}
END_TEST

/* Tokens of any bytes end, and lose none of their number. */
START_TEST(any_bytes)
{
	unsigned seed = 1;
	char bytes[64];
	struct page_token tokens[64];

	for (int round = 0; round < 500; round++) {
		for (int i = 0; i < 64; i++) {
			bytes[i] = (char)(rand_r(&seed) % 4 ? rand_r(&seed) % 256 : '\n');
			tokens[i] = (struct page_token){
				.text = bytes + i / 2, .n = (size_t)rand_r(&seed) % 8, .share = 0.25,
			};
		}
		ck_assert_uint_ge(count(page_of(tokens, 64), "<rect "), 64);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plot");
	TCase *tc = tcase_create("plot");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, NULL, free_text);
	tcase_add_test(tc, strings_of_gnuplot);
	tcase_add_test(tc, no_byte_leaves_the_string);
	tcase_add_test(tc, long_names);
	tcase_add_test(tc, text_of_xml);
	tcase_add_test(tc, steps_of_tics);
	tcase_add_test(tc, signs_and_lines);
	tcase_add_test(tc, lines_are_wrapped);
	tcase_add_test(tc, any_bytes);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
