/* SPDX-License-Identifier: Apache-2.0 */
/* Finds numbers in answers. */
#include "core/eval/metric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli/cli.h"

/* isdigit() and isalpha() depend on the locale. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The length of the first of these texts that s begins with, or 0. */
static size_t starts_with(const char *s, const char *const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t length = strlen(texts[i]);

		if (!strncmp(s, texts[i], length))
			return length;
	}
	return 0;
}

/* The same before s, in a text that begins at `text`. */
static size_t ends_with(const char *text, const char *s, const char *const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t length = strlen(texts[i]);

		if ((size_t)(s - text) >= length && !memcmp(s - length, texts[i], length))
			return length;
	}
	return 0;
}

#define STARTS_WITH(s, texts) starts_with(s, texts, CLI_COUNT(texts))
#define ENDS_WITH(text, s, texts) ends_with(text, s, texts, CLI_COUNT(texts))

static const char *const separators[] = { ",", "{,}", "\u202f", "\u2009", "\u00a0" };
static const char *const signs[] = { "-", "\u2212", "+" };
static const char *const currencies[] = { "\\$", "$", "€", "£", "¥", "₹", "₽", "₩" };
static const char *const percents[] = { "%", "\\%", " %", " \\%" };
static const char *const times[] = { "\\times", "\\cdot", "×", "·", "*", "x" };
static const char *const fractions[] = { "\\frac{", "\\dfrac{", "\\tfrac{" };

static const char *skip_spaces(const char *s)
{
	return s + strspn(s, " ");
}

/* --- a number without sign ---------------------------------------------------------- */

#define MAX_DIGITS 400			/* more than any double has before its point */

struct digits {
	char text[MAX_DIGITS + 16];	/* for strtod(): no separators */
	size_t n;
	bool is_decimal;
};

static void add(struct digits *d, const char *text, size_t n)
{
	/* Digits too many: beyond the range anyway, or far behind the point. */
	for (size_t i = 0; i < n && d->n < MAX_DIGITS; i++)
		d->text[d->n++] = text[i];
}

/* The digits behind a separator, if they are a group of three; else NULL. */
static const char *group(const char *s)
{
	size_t separator = STARTS_WITH(s, separators);

	s += separator;
	return separator && strspn(s, "0123456789") == 3 ? s : NULL;
}

/* Reads "1,234.5"; returns its end, or NULL if there are no digits. */
static const char *plain(const char *s, struct digits *d)
{
	size_t n = strspn(s, "0123456789");
	const char *next;

	add(d, s, n);
	if (n && n <= 3 && *s != '0')
		for (; (next = group(s + n)); s = next, n = 3)
			add(d, next, 3);
	s += n;
	if (*s == '.' && is_digit(s[1])) {
		d->is_decimal = true;
		n = 1 + strspn(s + 1, "0123456789");
		add(d, s, n);
		s += n;
	}
	d->text[d->n] = '\0';
	return d->n ? s : NULL;
}

/* Reads "e-05" or " x 10^{-5}" behind the digits; returns its end, or NULL if there is none. */
static const char *exponent(const char *s, int *value)
{
	bool is_braced = false;
	const char *digits;
	bool is_negative;
	size_t n;

	if (*s == 'e' || *s == 'E') {
		s++;
	} else {
		s = skip_spaces(s);
		n = STARTS_WITH(s, times);
		s = skip_spaces(s + n);
		if (!n || strncmp(s, "10^", 3))
			return NULL;
		s += 3;
		is_braced = *s == '{';
		s += is_braced;
	}
	n = STARTS_WITH(s, signs);
	is_negative = n && *s != '+';
	digits = s + n;
	n = strspn(digits, "0123456789");
	if (!n || (is_braced && digits[n] != '}'))
		return NULL;
	*value = n > 4 ? 9999 : atoi(digits);
	if (is_negative)
		*value = -*value;
	return digits + n + is_braced;
}

static double value_of(struct digits *d, int exponent)
{
	char *end;

	snprintf(d->text + d->n, sizeof(d->text) - d->n, "e%d", exponent);
	/* The program never sets LC_NUMERIC. */
	return strtod(d->text, &end);
}

/* --- a number and what belongs to it ------------------------------------------------- */

/* Do the digits at s stand behind "1/"? */
static bool is_below(const char *text, const char *s)
{
	return s - text >= 2 && s[-1] == '/' && is_digit(s[-2]);
}

/* Reads digits with a fraction or an exponent behind them; returns the end, or NULL. */
static const char *unsigned_number(const char *text, const char *s, struct eval_number *number)
{
	struct digits above = { .n = 0 }, below = { .n = 0 };
	const char *end = plain(s, &above), *next;
	int power = 0;

	if (!end)
		return NULL;
	number->is_decimal = above.is_decimal;
	next = exponent(end, &power);
	if (next) {
		number->is_decimal = true;
		number->value = value_of(&above, power);
		return next;
	}
	number->value = value_of(&above, 0);
	next = *end == '/' && !is_below(text, s) ? plain(end + 1, &below) : NULL;
	if (!next || (*next == '/' && is_digit(next[1])))
		return end;
	number->is_decimal = above.is_decimal || below.is_decimal;
	number->value /= value_of(&below, 0);
	return next;
}

/* Reads \frac{3}{4}; returns its end, or NULL. */
static const char *latex_fraction(const char *s, struct eval_number *number)
{
	struct digits above = { .n = 0 }, below = { .n = 0 };

	s += STARTS_WITH(s, fractions);
	s = plain(s, &above);
	if (!s || strncmp(s, "}{", 2))
		return NULL;
	s = plain(s + 2, &below);
	if (!s || *s != '}')
		return NULL;
	number->is_decimal = above.is_decimal || below.is_decimal;
	number->value = value_of(&above, 0) / value_of(&below, 0);
	return s + 1;
}

static bool takes_sign(const char *text, const char *sign)
{
	return sign == text || !(is_digit(sign[-1]) || is_letter(sign[-1]) ||
				 strchr(")]}", sign[-1]));
}

/* Sign and currency before the digits at `s`: "-$5", "$-5", "$5", "-5". */
static const char *with_sign(const char *text, const char *s, struct eval_number *number)
{
	const char *begin = s - ENDS_WITH(text, s, currencies);
	size_t n = ENDS_WITH(text, begin, signs);
	const char *sign = begin - n;

	if (!n || !takes_sign(text, sign))
		return begin;
	if (*sign != '+')
		number->value = -number->value;
	return sign - (begin == s ? ENDS_WITH(text, sign, currencies) : 0);
}

/* The number at s, which begins with a digit, a point or \frac; NULL: there is none. */
static const char *number_at(const char *text, const char *s, struct eval_number *number)
{
	const char *end;
	size_t percent;

	*number = (struct eval_number){ .value = 0 };
	end = STARTS_WITH(s, fractions) ? latex_fraction(s, number) :
		unsigned_number(text, s, number);
	if (!end)
		return NULL;
	number->begin = with_sign(text, s, number);
	percent = STARTS_WITH(end, percents);
	number->is_percent = percent > 0;
	number->end = end + percent;
	return number->end;
}

/* In 1.2.3 no number begins with the second point. */
static bool may_begin(const char *text, const char *s)
{
	if (*s == '.')
		return is_digit(s[1]) && (s == text || !is_digit(s[-1]));
	return is_digit(*s) || STARTS_WITH(s, fractions);
}

bool eval_last_number(const char *text, struct eval_number *number)
{
	struct eval_number one;
	bool found = false;

	for (const char *s = text; *s;) {
		const char *end = may_begin(text, s) ? number_at(text, s, &one) : NULL;

		if (end && isfinite(one.value)) {
			*number = one;
			found = true;
		}
		s = end ? end : s + 1;
	}
	return found;
}

bool eval_whole_number(const char *text, struct eval_number *number)
{
	const char *rest;

	if (!eval_last_number(text, number))
		return false;
	rest = number->end + (*number->end == '.');
	return text + strspn(text, " \t\r\n") == number->begin && !rest[strspn(rest, " \t\r\n")];
}
