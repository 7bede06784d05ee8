/* SPDX-License-Identifier: Apache-2.0 */
/* Text as the metrics compare it: lower case, and split into words. */
#include "core/eval/words.h"

#include <stdlib.h>
#include <string.h>

#include "core/cli/cli.h"

/* --- characters ------------------------------------------------------------------- */

/* Every step-th character from first to last has its lower case at this distance. */
static const struct {
	uint16_t first, last;
	int16_t step, distance;
} upper[] = {
	{ 0x0041, 0x005a, 1, 32 }, { 0x00c0, 0x00d6, 1, 32 }, { 0x00d8, 0x00de, 1, 32 },
	{ 0x0100, 0x012e, 2, 1 }, { 0x0132, 0x0136, 2, 1 }, { 0x0139, 0x0147, 2, 1 },
	{ 0x014a, 0x0176, 2, 1 }, { 0x0178, 0x0178, 1, -121 }, { 0x0179, 0x017d, 2, 1 },
	{ 0x01a0, 0x01a4, 2, 1 }, { 0x01af, 0x01af, 1, 1 }, { 0x01cd, 0x01db, 2, 1 },
	{ 0x01de, 0x01ee, 2, 1 }, { 0x01f8, 0x021e, 2, 1 }, { 0x0222, 0x0232, 2, 1 },
	{ 0x0370, 0x0372, 2, 1 }, { 0x0376, 0x0376, 1, 1 }, { 0x037f, 0x037f, 1, 116 },
	{ 0x0386, 0x0386, 1, 38 }, { 0x0388, 0x038a, 1, 37 }, { 0x038c, 0x038c, 1, 64 },
	{ 0x038e, 0x038f, 1, 63 }, { 0x0391, 0x03a1, 1, 32 }, { 0x03a3, 0x03ab, 1, 32 },
	{ 0x03cf, 0x03cf, 1, 8 }, { 0x03d8, 0x03ee, 2, 1 }, { 0x03f4, 0x03f4, 1, -60 },
	{ 0x03f7, 0x03f7, 1, 1 }, { 0x03f9, 0x03f9, 1, -7 }, { 0x03fa, 0x03fa, 1, 1 },
	{ 0x03fd, 0x03ff, 1, -130 }, { 0x0400, 0x040f, 1, 80 }, { 0x0410, 0x042f, 1, 32 },
	{ 0x0460, 0x0480, 2, 1 }, { 0x048a, 0x04be, 2, 1 }, { 0x04c0, 0x04c0, 1, 15 },
	{ 0x04c1, 0x04cd, 2, 1 }, { 0x04d0, 0x052e, 2, 1 }, { 0x0531, 0x0556, 1, 48 },
	{ 0x1e00, 0x1e94, 2, 1 }, { 0x1e9e, 0x1e9e, 1, -7615 }, { 0x1ea0, 0x1efe, 2, 1 },
	{ 0x2126, 0x2126, 1, -7517 }, { 0x212a, 0x212a, 1, -8383 }, { 0x212b, 0x212b, 1, -8262 },
	{ 0xff21, 0xff3a, 1, 32 },
};

/* No part of a word: Latin-1's signs, accents, punctuation, symbols, CJK punctuation, emoji. */
static const struct {
	uint32_t first, last;
} no_word[] = {
	{ 0x00, 0x2f }, { 0x3a, 0x40 }, { 0x5b, 0x5e }, { 0x60, 0x60 }, { 0x7b, 0xa9 },
	{ 0xab, 0xb1 }, { 0xb4, 0xb4 }, { 0xb6, 0xb8 }, { 0xbb, 0xbb }, { 0xbf, 0xbf },
	{ 0xd7, 0xd7 }, { 0xf7, 0xf7 }, { 0x2c2, 0x2c5 }, { 0x2d2, 0x2df }, { 0x2e5, 0x2eb },
	{ 0x2ed, 0x2ed }, { 0x2ef, 0x36f }, { 0x2000, 0x206f }, { 0x2072, 0x2073 },
	{ 0x207a, 0x207e }, { 0x208a, 0x208f }, { 0x209d, 0x2101 }, { 0x218a, 0x245f },
	{ 0x2500, 0x2775 }, { 0x2794, 0x2bff }, { 0x2e00, 0x2e2e }, { 0x2e30, 0x3004 },
	{ 0x3008, 0x3020 }, { 0xfe00, 0xfe6f }, { 0xff01, 0xff0f }, { 0xff1a, 0xff20 },
	{ 0xff3b, 0xff40 }, { 0xff5b, 0xff65 }, { 0x1f300, 0x1faff },
};

uint32_t eval_lower(uint32_t c)
{
	for (size_t i = 0; i < CLI_COUNT(upper) && c >= upper[i].first; i++)
		if (c <= upper[i].last)
			return (c - upper[i].first) % (uint32_t)upper[i].step ? c :
				(uint32_t)((int64_t)c + upper[i].distance);
	return c;
}

bool eval_is_space(uint32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
		c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
		c == 0x202f || c == 0x205f || c == 0x3000;
}

bool eval_is_word(uint32_t c)
{
	for (size_t i = 0; i < CLI_COUNT(no_word) && c >= no_word[i].first; i++)
		if (c <= no_word[i].last)
			return false;
	return true;
}

/* string.punctuation of Python */
static bool is_punctuation(uint32_t c)
{
	return c == '_' || (c > 0x20 && c < 0x7f && !eval_is_word(c));
}

/* --- UTF-8 ------------------------------------------------------------------------ */

#define NO_CHARACTER 0x110000u		/* a byte that is not UTF-8 */

/* The character at s, which is not at the end of the text; moves *s past it. */
static uint32_t next_char(const char **s)
{
	const unsigned char *u = (const unsigned char *)*s;
	int length = kv_utf8_length(*s, strnlen(*s, 4));
	uint32_t c;

	if (length <= 0) {
		++*s;
		return NO_CHARACTER + u[0];
	}
	c = length == 1 ? u[0] : u[0] & (0xffu >> (length + 1));
	for (int i = 1; i < length; i++)
		c = c << 6 | (u[i] & 0x3f);
	*s += length;
	return c;
}

static void add(struct cli_text *text, const char *bytes, size_t n)
{
	if (cli_text_add(text, bytes, n))
		cli_no_memory();
}

static void add_char(struct cli_text *text, uint32_t c)
{
	char bytes[4] = { (char)c };	/* also of NO_CHARACTER and a byte, as it came */
	size_t n = 1;

	if (c >= 0x80 && c < NO_CHARACTER) {
		n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
		for (size_t i = n; i-- > 1; c >>= 6)
			bytes[i] = (char)(0x80 | (c & 0x3f));
		bytes[0] = (char)((0xf00 >> n) | c);
	}
	add(text, bytes, n);
}

/* U+0130 becomes two characters, as in Python: i and a dot above. */
static void add_lower(struct cli_text *text, uint32_t c)
{
	if (c == 0x130)
		add(text, "i\xcc\x87", 3);
	else
		add_char(text, eval_lower(c));
}

static struct cli_text lower(const char *text, bool without_punctuation)
{
	struct cli_text out = { 0 };

	add(&out, "", 0);		/* so that it is a string */
	while (*text) {
		uint32_t c = next_char(&text);

		if (!without_punctuation || !is_punctuation(c))
			add_lower(&out, c);
	}
	return out;
}

struct cli_text eval_plain(const char *text)
{
	struct cli_text low = lower(text, false), out = { 0 };
	bool space = false;

	add(&out, "", 0);
	for (const char *s = low.bytes; *s;) {
		uint32_t c = next_char(&s);

		if (eval_is_space(c)) {
			space = true;
			continue;
		}
		if (space && out.n)
			add(&out, " ", 1);
		space = false;
		add_char(&out, c);
	}
	cli_text_free(&low);
	return out;
}

/* --- words ------------------------------------------------------------------------ */

static void add_word(struct eval_words *words, const char *begin, const char *end)
{
	if (begin == end)
		return;
	if (words->n == words->room) {
		words->room = 2 * words->room + 16;
		words->word = reallocarray(words->word, words->room, sizeof(*words->word));
		if (!words->word)
			cli_no_memory();
	}
	words->word[words->n++] = (struct eval_word){ begin, (size_t)(end - begin) };
}

struct eval_words eval_rouge_words(const char *text)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	struct eval_words words = { .text = lower(text, false) };
	const char *s = words.text.bytes;

	while (*s) {
		size_t n = strspn(s, letters);

		add_word(&words, s, s + n);
		s += n + strcspn(s + n, letters);
	}
	return words;
}

static bool is_article(const char *begin, size_t n)
{
	return (n == 1 && !memcmp(begin, "a", n)) || (n == 2 && !memcmp(begin, "an", n)) ||
		(n == 3 && !memcmp(begin, "the", n));
}

/* Puts a space in the place of every article. */
static void drop_articles(struct cli_text *text)
{
	const char *s = text->bytes, *begin = s;
	struct cli_text out = { 0 };

	add(&out, "", 0);
	while (*s) {
		const char *at = s;
		bool is_word = eval_is_word(next_char(&s));

		if (is_word && *s)
			continue;
		if (is_word)		/* the text ends with this word */
			at = s;
		if (is_article(begin, (size_t)(at - begin)))
			add(&out, " ", 1);
		else
			add(&out, begin, (size_t)(at - begin));
		add(&out, at, (size_t)(s - at));
		begin = s;
	}
	cli_text_free(text);
	*text = out;
}

struct eval_words eval_squad_words(const char *text, bool without_articles)
{
	struct eval_words words = { .text = lower(text, true) };
	const char *s, *begin;

	if (without_articles)
		drop_articles(&words.text);
	for (s = begin = words.text.bytes; *s;) {
		const char *at = s;

		if (!eval_is_space(next_char(&s)))
			continue;
		add_word(&words, begin, at);
		begin = s;
	}
	add_word(&words, begin, s);
	return words;
}

void eval_words_free(struct eval_words *words)
{
	free(words->word);
	cli_text_free(&words->text);
	*words = (struct eval_words){ 0 };
}

int eval_word_cmp(const struct eval_word *a, const struct eval_word *b)
{
	int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);

	return order ? order : (a->n > b->n) - (a->n < b->n);
}

bool eval_words_equal(const struct eval_words *a, const struct eval_words *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (eval_word_cmp(&a->word[i], &b->word[i]))
			return false;
	return true;
}
