/* SPDX-License-Identifier: Apache-2.0 */
/* Parses one parameter from text into its field, and checks its range. */
#include "core/config/paths.h"
#include "core/config/values.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LIST_ITEMS 65536

/* --- numbers ---------------------------------------------------------------------- */

static locale_t c_locale;

static void make_c_locale(void)
{
	c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* Parses all n bytes of text, whatever the program's locale says of points. */
static bool parse_real(const char *text, size_t n, double *value)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	char copy[64], *end;

	if (n == 0 || n >= sizeof(copy) || strspn(text, "0123456789+-.eE") < n)
		return false;
	memcpy(copy, text, n);
	copy[n] = '\0';
	pthread_once(&once, make_c_locale);
	errno = 0;
	*value = c_locale ? strtod_l(copy, &end, c_locale) : strtod(copy, &end);
	/* An underflow gives zero or a subnormal, the nearest value. */
	return end == copy + n && !(errno == ERANGE && (*value > 1 || *value < -1));
}

static bool parse_int(const char *text, size_t n, int64_t *value)
{
	char copy[32], *end;

	if (n == 0 || n >= sizeof(copy) || strspn(text, "0123456789+-") < n)
		return false;
	memcpy(copy, text, n);
	copy[n] = '\0';
	errno = 0;
	*value = strtoll(copy, &end, 10);
	return end == copy + n && errno == 0;
}

/* A fraction may come out above 1. */
static bool read_amount(const char *text, size_t n, struct kvmod_amount *amount)
{
	bool percent = n > 0 && text[n - 1] == '%';
	int64_t count;

	if (!percent && !memchr(text, '.', n)) {
		/* Above 2^53 a double no longer holds every count. */
		if (!parse_int(text, n, &count) || count < 0 || count > INT64_C(1) << 53)
			return false;
		*amount = (struct kvmod_amount){ .value = (double)count, .is_count = 1 };
		return true;
	}
	*amount = (struct kvmod_amount){ 0 };
	if (!parse_real(text, percent ? n - 1 : n, &amount->value))
		return false;
	if (percent)
		amount->value /= 100;
	return amount->value >= 0;
}

static bool parse_amount(const char *text, size_t n, struct kvmod_amount *amount)
{
	return read_amount(text, n, amount) && (amount->is_count || amount->value <= 1);
}

/* --- ranges -------------------------------------------------------------------------- */

/* "LOW..HIGH": where each bound is; a bound that was left out has no length. */
struct range {
	const char *low, *high;
	size_t n_low, n_high;
};

static bool split_range(const char *text, struct range *range)
{
	const char *dots = text ? strstr(text, "..") : NULL;

	*range = (struct range){ .low = text };
	if (!dots)
		return !text || !*text;
	range->n_low = (size_t)(dots - text);
	range->high = dots + 2;
	range->n_high = strlen(range->high);
	return true;
}

static bool int_in(const struct range *range, int64_t value)
{
	int64_t bound;

	if (range->n_low && parse_int(range->low, range->n_low, &bound) && value < bound)
		return false;
	return !(range->n_high && parse_int(range->high, range->n_high, &bound) && value > bound);
}

static bool real_in(const struct range *range, double value)
{
	double bound;

	if (range->n_low && parse_real(range->low, range->n_low, &bound) && value < bound)
		return false;
	return !(range->n_high && parse_real(range->high, range->n_high, &bound) && value > bound);
}

/* A bound that is a count says nothing of fractions, and the other way round. */
static bool amount_in(const struct range *range, const struct kvmod_amount *a)
{
	struct kvmod_amount bound;

	if (range->n_low && parse_amount(range->low, range->n_low, &bound) &&
	    bound.is_count == a->is_count && a->value < bound.value)
		return false;
	return !(range->n_high && parse_amount(range->high, range->n_high, &bound) &&
		 bound.is_count == a->is_count && a->value > bound.value);
}

static bool range_fits(const struct kvmod_param *param)
{
	struct kvmod_amount amount;
	struct range range;
	int64_t whole;
	double real;
	bool good = split_range(param->range, &range);

	for (int i = 0; i < 2 && good; i++) {
		const char *text = i ? range.high : range.low;
		size_t n = i ? range.n_high : range.n_low;

		if (n == 0)
			continue;
		if (param->type == KVMOD_PARAM_REAL)
			good = parse_real(text, n, &real);
		else if (param->type == KVMOD_PARAM_AMOUNT)
			good = parse_amount(text, n, &amount);
		else
			good = (param->type == KVMOD_PARAM_INT || param->type == KVMOD_PARAM_LIST) &&
			       parse_int(text, n, &whole);
	}
	return good;
}

/* --- what was expected -------------------------------------------------------------------- */

static const struct {
	const char *name;		/* as in a module's section */
	const char *expected;
	uint8_t size, align;
} types[] = {
	[KVMOD_PARAM_BOOL] = { "BOOL", "yes or no", sizeof(int32_t), _Alignof(int32_t) },
	[KVMOD_PARAM_INT] = { "INT", "an integer", sizeof(int64_t), _Alignof(int64_t) },
	[KVMOD_PARAM_REAL] = { "REAL", "a real number", sizeof(double), _Alignof(double) },
	[KVMOD_PARAM_AMOUNT] = { "AMOUNT", "a fraction such as 0.25 or 25%, or a count such as 1024",
				 sizeof(struct kvmod_amount), _Alignof(struct kvmod_amount) },
	[KVMOD_PARAM_LIST] = { "LIST", "a number, or an ascending list such as 0,1,5-8",
			       sizeof(struct kvmod_list), _Alignof(struct kvmod_list) },
	[KVMOD_PARAM_CHOICE] = { "CHOICE", "one of", sizeof(int32_t), _Alignof(int32_t) },
	[KVMOD_PARAM_STRING] = { "STRING", "a text", sizeof(char *), _Alignof(char *) },
	[KVMOD_PARAM_PATH] = { "PATH", "a path", sizeof(char *), _Alignof(char *) },
};

static bool known_type(uint32_t type)
{
	return type >= KVMOD_PARAM_BOOL && type < sizeof(types) / sizeof(*types);
}

size_t kv_param_size(uint32_t type)
{
	return known_type(type) ? types[type].size : 0;
}

size_t kv_param_align(uint32_t type)
{
	return known_type(type) ? types[type].align : 1;
}

uint32_t kv_param_type(const char *name, size_t length)
{
	for (uint32_t t = KVMOD_PARAM_BOOL; known_type(t); t++)
		if (strlen(types[t].name) == length && memcmp(types[t].name, name, length) == 0)
			return t;
	return 0;
}

int kv_param_check(const struct kvmod_param *param)
{
	if (!param->name || !kv_name_valid(param->name))
		return kv_fail(KVMOD_EINVAL, "a parameter has an invalid name: expected letters, "
			       "digits, - and _");
	if (kv_param_size(param->type) == 0)
		return kv_fail(KVMOD_EINVAL, "parameter `%s` is of unknown type %u", param->name,
			       param->type);
	if (param->type != KVMOD_PARAM_CHOICE && !range_fits(param))
		return kv_fail(KVMOD_EINVAL, "the range of `%s`, \"%s\", is invalid: expected LOW..HIGH",
			       param->name, param->range);
	return KVMOD_OK;
}

/* "position|attention" -> "position, attention" */
static void words_of_choice(const char *choices, char *text, size_t room)
{
	size_t n = 0;

	for (; *choices && n + 3 < room; choices++) {
		text[n++] = *choices == '|' ? ',' : *choices;
		if (*choices == '|')
			text[n++] = ' ';
	}
	text[n] = '\0';
}

static int expected(const struct kvmod_param *param)
{
	const char *what = types[param->type].expected;
	const char *comma = strchr(what, ',') ? "," : "";
	struct range range;
	char words[512];

	if (param->type == KVMOD_PARAM_CHOICE) {
		words_of_choice(param->range ? param->range : "", words, sizeof(words));
		return kv_fail(KVMOD_EINVAL, "expected %s %s", what, words);
	}
	if (!split_range(param->range, &range) || range.n_low + range.n_high == 0)
		return kv_fail(KVMOD_EINVAL, "expected %s", what);
	if (range.n_low && range.n_high)
		return kv_fail(KVMOD_EINVAL, "expected %s%s in %s", what, comma, param->range);
	if (range.n_low)
		return kv_fail(KVMOD_EINVAL, "expected %s%s of at least %.*s", what, comma,
			       (int)range.n_low, range.low);
	return kv_fail(KVMOD_EINVAL, "expected %s%s of at most %s", what, comma, range.high);
}

/* --- values ---------------------------------------------------------------------------------- */

static bool parse_choice(const char *text, const char *choices, int32_t *value)
{
	size_t n = strlen(text);

	*value = 0;
	while (choices && *choices) {
		size_t length = strcspn(choices, "|");

		if (length == n && n > 0 && memcmp(choices, text, n) == 0)
			return true;
		choices += length + (choices[length] == '|');
		(*value)++;
	}
	return false;
}

/* One part of a list: "3" or "5-8". */
static bool parse_part(const char *text, size_t n, int64_t *first, int64_t *last)
{
	const char *dash = n > 1 ? memchr(text + 1, '-', n - 1) : NULL;
	size_t n_first = dash ? (size_t)(dash - text) : n;

	if (!parse_int(text, n_first, first) || *first < 0)
		return false;
	*last = *first;
	return !dash || (parse_int(dash + 1, n - n_first - 1, last) && *last >= *first);
}

/*
 * Walks over a list and counts its items, and writes them unless items is NULL. Negative:
 * the text is not a list.
 */
static int64_t walk_list(const char *text, const struct range *range, int64_t *items)
{
	int64_t n = 0, first, last, newest = -1;

	while (*text) {
		size_t length = strcspn(text, ",");
		size_t n_blank = strspn(text, " ");
		size_t end = length;

		while (end > n_blank && text[end - 1] == ' ')
			end--;
		if (n_blank > length || !parse_part(text + n_blank, end - n_blank, &first, &last) ||
		    first <= newest || !int_in(range, first) || !int_in(range, last) ||
		    last - first >= MAX_LIST_ITEMS - n)
			return -1;
		for (int64_t i = first; i <= last; i++, n++)
			if (items)
				items[n] = i;
		newest = last;
		text += length;
		text += *text == ',';
	}
	return n;
}

static int parse_list(const struct kvmod_param *param, const char *text, struct kv_arena *arena,
		      struct kvmod_list *list)
{
	struct range range;
	int64_t *items, n;

	split_range(param->range, &range);
	n = walk_list(text, &range, NULL);
	if (n < 0)
		return expected(param);
	items = kv_arena_alloc(arena, (size_t)n * sizeof(*items));
	if (!items)
		return KVMOD_ENOMEM;
	walk_list(text, &range, items);
	list->n_items = (uint32_t)n;
	list->plain = n > 0 && !strpbrk(text, ",-");
	list->items = items;
	return KVMOD_OK;
}

static int expected_amount(const struct kvmod_param *param, const char *text)
{
	struct kvmod_amount amount;

	if (read_amount(text, strlen(text), &amount) && !amount.is_count && amount.value > 1)
		return kv_fail(KVMOD_EINVAL, "must be between 0 and 100%% (1.0); a count has neither "
			       "point nor percent sign");
	return expected(param);
}

static int keep_text(char *copy, void *field)
{
	if (!copy)
		return KVMOD_ENOMEM;
	memcpy(field, &copy, sizeof(copy));
	return KVMOD_OK;
}

int kv_param_parse(const struct kvmod_param *param, const char *text, const char *dir,
		   struct kv_arena *arena, void *field)
{
	struct range range = { 0 };
	bool good = false;

	if (param->type != KVMOD_PARAM_CHOICE)
		split_range(param->range, &range);
	switch (param->type) {
	case KVMOD_PARAM_BOOL:
		good = kv_parse_bool(text, field);
		break;
	case KVMOD_PARAM_INT:
		good = parse_int(text, strlen(text), field) && int_in(&range, *(int64_t *)field);
		break;
	case KVMOD_PARAM_REAL:
		good = parse_real(text, strlen(text), field) && real_in(&range, *(double *)field);
		break;
	case KVMOD_PARAM_AMOUNT:
		if (parse_amount(text, strlen(text), field) && amount_in(&range, field))
			return KVMOD_OK;
		return expected_amount(param, text);
	case KVMOD_PARAM_LIST:
		return parse_list(param, text, arena, field);
	case KVMOD_PARAM_CHOICE:
		good = parse_choice(text, param->range, field);
		break;
	case KVMOD_PARAM_STRING:
		return keep_text(kv_arena_strdup(arena, text), field);
	case KVMOD_PARAM_PATH:
		/* "" is no path. */
		return keep_text(*text ? kv_path_resolve(arena, text, dir) :
				 kv_arena_strdup(arena, ""), field);
	}
	return good ? KVMOD_OK : expected(param);
}
