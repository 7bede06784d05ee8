/* SPDX-License-Identifier: Apache-2.0 */
/* Reading files of golden vectors. */
#include "core/testkit/vectors.h"
#include "core/base/regular.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Far above any real case; keeps products of the sizes below in range. */
#define MAX_EXTENT (1u << 20)
#define MAX_NUMBERS (1u << 28)

static int malformed(struct vectors *v, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int malformed(struct vectors *v, const char *format, ...)
{
	int n = snprintf(v->error, sizeof(v->error), "%s:%u: ", v->path, v->line);
	va_list args;

	va_start(args, format);
	if (n > 0 && (size_t)n < sizeof(v->error))
		vsnprintf(v->error + n, sizeof(v->error) - (size_t)n, format, args);
	va_end(args);
	return KVMOD_EFORMAT;
}

static int no_memory(struct vectors *v)
{
	snprintf(v->error, sizeof(v->error), "%s:%u: out of memory", v->path, v->line);
	return KVMOD_ENOMEM;
}

int vectors_open(struct vectors *v, const char *path)
{
	struct stat st = { 0 };
	int fd = kv_open_regular(path, &st), why = errno;

	*v = (struct vectors){ .path = path };
	if (fd >= 0)
		v->file = fdopen(fd, "r");
	if (v->file)
		return 0;
	if (fd >= 0) {
		why = errno;
		close(fd);
	}
	snprintf(v->error, sizeof(v->error), "%s: %s", path, kv_open_regular_error(&st, why));
	return why == ENOENT ? KVMOD_ENOENT : KVMOD_EIO;
}

void vectors_close(struct vectors *v)
{
	if (v->file)
		fclose(v->file);
	free(v->text);
	*v = (struct vectors){ 0 };
}

void vectors_case_free(struct vectors_case *c)
{
	if (!c)
		return;
	for (uint32_t i = 0; i < c->n_params; i++) {
		free(c->params[i].key);
		free(c->params[i].value);
	}
	for (int i = 0; i < VECTORS_INPUTS; i++)
		free(c->input[i]);
	free(c->name);
	free(c->policy);
	free(c->cached);
	free(c->positions);
	free(c->counts);
	free(c->kept);
	free(c);
}

uint32_t vectors_n(const struct vectors_case *c, size_t head)
{
	return c->n_cached ? c->cached[head] : c->n;
}

uint32_t vectors_position(const struct vectors_case *c, size_t head, uint32_t i)
{
	return c->n_cached ? (uint32_t)c->positions[head * c->n + i] : i;
}

const char *vectors_param(const struct vectors_case *c, const char *key)
{
	for (uint32_t i = 0; i < c->n_params; i++)
		if (strcmp(c->params[i].key, key) == 0)
			return c->params[i].value;
	return NULL;
}

/* --- words of a line --------------------------------------------------------------- */

/* The next line that is not empty: 1, 0 at the end, or a code. */
static int next_line(struct vectors *v)
{
	ssize_t n;

	while ((n = getline(&v->text, &v->room, v->file)) >= 0) {
		v->line++;
		/* An editor's signature (a BOM) is no part of the text. */
		if (v->line == 1 && n >= 3 && !memcmp(v->text, "\xef\xbb\xbf", 3)) {
			n -= 3;
			memmove(v->text, v->text + 3, (size_t)n + 1);
		}
		while (n > 0 && isspace((unsigned char)v->text[n - 1]))
			v->text[--n] = '\0';
		if (strlen(v->text) != (size_t)n)
			return malformed(v, "a zero byte: this is no text file");
		if (n > 0)
			return 1;
	}
	if (!feof(v->file))
		return malformed(v, "%s", strerror(errno));
	return 0;
}

/* Cuts the next word off; NULL if there is none. */
static char *word(char **rest)
{
	char *begin = *rest + strspn(*rest, " \t"), *end = begin + strcspn(begin, " \t");

	*rest = *end ? end + 1 : end;
	*end = '\0';
	return *begin ? begin : NULL;
}

/* The next "key=value": 1, 0 at the end of the line, or a code. */
static int pair(struct vectors *v, char **rest, char **key, char **value)
{
	*key = word(rest);
	if (!*key)
		return 0;
	*value = strchr(*key, '=');
	if (!*value || *value == *key || !(*value)[1])
		return malformed(v, "`%.40s`: expected KEY=VALUE", *key);
	*(*value)++ = '\0';
	return 1;
}

static int number(struct vectors *v, const char *text, uint32_t most, uint32_t *value)
{
	char *end;
	unsigned long long parsed;

	errno = 0;
	parsed = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno || parsed > most)
		return malformed(v, "`%.40s`: expected a number of at most %u", text, most);
	*value = (uint32_t)parsed;
	return 0;
}

/* --- lines ---------------------------------------------------------------------------- */

static int set_text(struct vectors *v, char **field, char *rest)
{
	const char *text = word(&rest);

	if (*field)
		return malformed(v, "said twice in one case");
	if (!text || word(&rest))
		return malformed(v, "expected one word");
	*field = strdup(text);
	return *field ? 0 : no_memory(v);
}

static uint32_t *shape_field(struct vectors_case *c, const char *key)
{
	const struct {
		const char *key;
		uint32_t *field;
	} fields[] = {
		{ "layers", &c->n_layers }, { "n", &c->n }, { "q_heads", &c->n_q_heads },
		{ "kv_heads", &c->n_kv_heads }, { "head_dim", &c->head_dim },
		{ "rows", &c->rows }, { "width", &c->width }, { "logical", &c->logical },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		if (strcmp(fields[i].key, key) == 0)
			return fields[i].field;
	return NULL;
}

static int check_shape(struct vectors *v, struct vectors_case *c)
{
	size_t heads;

	if (!c->n_layers)
		c->n_layers = 1;
	if (!c->logical)
		c->logical = c->n;
	if (!c->n || !c->n_q_heads || !c->n_kv_heads || !c->head_dim)
		return malformed(v, "a shape needs n, q_heads, kv_heads and head_dim");
	if (c->n_q_heads % c->n_kv_heads)
		return malformed(v, "%u query heads on %u KV heads", c->n_q_heads, c->n_kv_heads);
	if (c->rows > c->n)
		return malformed(v, "%u rows of %u positions", c->rows, c->n);
	if (c->logical < c->n)
		return malformed(v, "%u positions of %u tokens seen", c->n, c->logical);
	heads = (size_t)c->n_layers * c->n_kv_heads;
	if (heads > MAX_NUMBERS || heads * c->n > MAX_NUMBERS)
		return malformed(v, "a shape too large to be meant");
	c->counts = calloc(heads, sizeof(*c->counts));
	c->kept = calloc(heads * c->n, sizeof(*c->kept));
	return c->counts && c->kept ? 0 : no_memory(v);
}

static int set_shape(struct vectors *v, struct vectors_case *c, char *rest)
{
	char *key, *value;
	int got;

	if (c->n)
		return malformed(v, "said twice in one case");
	while ((got = pair(v, &rest, &key, &value)) == 1) {
		uint32_t *field = shape_field(c, key);

		if (!field)
			return malformed(v, "a shape has no `%.40s`", key);
		got = number(v, value, MAX_EXTENT, field);
		if (got < 0)
			return got;
	}
	return got < 0 ? got : check_shape(v, c);
}

static int add_param(struct vectors *v, struct vectors_case *c, const char *key,
		     const char *value)
{
	struct vectors_param *param = &c->params[c->n_params];

	if (vectors_param(c, key))
		return malformed(v, "parameter %.40s said twice", key);
	if (c->n_params == VECTORS_MAX_PARAMS)
		return malformed(v, "more than %d parameters", VECTORS_MAX_PARAMS);
	c->n_params++;
	param->key = strdup(key);
	param->value = strdup(value);
	return param->key && param->value ? 0 : no_memory(v);
}

static int set_params(struct vectors *v, struct vectors_case *c, char *rest)
{
	char *key, *value;
	int got;

	while ((got = pair(v, &rest, &key, &value)) == 1) {
		got = add_param(v, c, key, value);
		if (got < 0)
			break;
	}
	return got;
}

static const char *const input_names[VECTORS_INPUTS] = {
	"q", "k", "v", "wo", "colsum", "mu", "sigma",
};

/* Numbers of one layer. */
static size_t input_size(const struct vectors_case *c, int input)
{
	size_t heads = c->n_q_heads, dim = c->head_dim;

	switch (input) {
	case VECTORS_Q:
		return c->rows * heads * dim;
	case VECTORS_K:
	case VECTORS_V:
		return (size_t)c->n * c->n_kv_heads * dim;
	case VECTORS_WO:
		return heads * dim * c->width;
	case VECTORS_COLSUM:
		return heads * c->n;
	case VECTORS_MU:
		return heads * dim;
	default:
		return heads * dim * dim;
	}
}

static int read_floats(struct vectors *v, const char *text, size_t n, float *out)
{
	char *end;

	for (size_t i = 0; i < n; i++) {
		out[i] = strtof(text, &end);
		if (end == text || (*end && *end != ' '))
			return malformed(v, "number %zu of %zu is `%.20s`", i + 1, n, text);
		text = end;
	}
	if (text[strspn(text, " ")])
		return malformed(v, "more than the %zu numbers that the shape says", n);
	return 0;
}

static int set_input(struct vectors *v, struct vectors_case *c, int input, const char *rest)
{
	size_t size = input_size(c, input);

	if (!c->n)
		return malformed(v, "numbers before the shape");
	if (size == 0 || size > MAX_NUMBERS / c->n_layers)
		return malformed(v, "%zu numbers a layer, by the shape", size);
	if (c->given[input] == c->n_layers)
		return malformed(v, "more than %u lines of %s", c->n_layers, input_names[input]);
	if (!c->input[input])
		c->input[input] = malloc(size * c->n_layers * sizeof(float));
	if (!c->input[input])
		return no_memory(v);
	return read_floats(v, rest, size, c->input[input] + size * c->given[input]++);
}

/* --- lists of positions ---------------------------------------------------------------- */

/* "p1,p2,...", ascending, below n */
static int read_positions(struct vectors *v, char *text, uint32_t n, uint32_t count,
			  uint32_t *positions)
{
	for (uint32_t i = 0; i < count; i++) {
		char *comma = strchr(text, ',');
		int err;

		if ((comma != NULL) != (i + 1 < count))
			return malformed(v, "expected %u positions", count);
		if (comma)
			*comma = '\0';
		err = number(v, text, n - 1, &positions[i]);
		if (err)
			return err;
		if (i && positions[i] <= positions[i - 1])
			return malformed(v, "position %u does not ascend", positions[i]);
		text = comma ? comma + 1 : text;
	}
	return 0;
}

/*
 * layer=l head=g count=COUNT positions=p1,p2,...: of the pair that is due, the
 * *n_read-th. Into its places of counts and, [n] for each pair, positions.
 */
static int read_head(struct vectors *v, const struct vectors_case *c, char *rest, uint32_t *n_read,
		     uint32_t *counts, uint32_t *positions)
{
	static const char *const keys[] = { "layer", "head", "count", "positions" };
	char *key, *value[4];
	uint32_t layer, head, count;
	int err = 0;

	for (int i = 0; i < 4; i++)
		if (pair(v, &rest, &key, &value[i]) != 1 || strcmp(key, keys[i]) != 0)
			return malformed(v, "expected layer=, head=, count=, positions=");
	if (word(&rest))
		return malformed(v, "words after the positions");
	if ((err = number(v, value[0], c->n_layers - 1, &layer)) ||
	    (err = number(v, value[1], c->n_kv_heads - 1, &head)) ||
	    (err = number(v, value[2], c->n, &count)))
		return err;
	if (layer * c->n_kv_heads + head != *n_read || count == 0)
		return malformed(v, "layer %u, head %u, count %u: out of order, or empty",
				 layer, head, count);
	counts[*n_read] = count;
	return read_positions(v, value[3], c->logical, count,
			      positions + (size_t)(*n_read)++ * c->n);
}

/* What earlier cuts left, and the tokens after them. */
static int set_cached(struct vectors *v, struct vectors_case *c, char *rest)
{
	size_t heads = (size_t)c->n_layers * c->n_kv_heads;

	if (!c->n)
		return malformed(v, "cached positions before the shape");
	if (c->n_expected)
		return malformed(v, "cached positions after an expectation");
	if (!c->cached) {
		c->cached = calloc(heads, sizeof(*c->cached));
		c->positions = calloc(heads * c->n, sizeof(*c->positions));
	}
	if (!c->cached || !c->positions)
		return no_memory(v);
	return read_head(v, c, rest, &c->n_cached, c->cached, (uint32_t *)c->positions);
}

/* --- what is expected ------------------------------------------------------------------ */

/* The index of each expected position among those that the head caches. */
static int find_indices(struct vectors *v, const struct vectors_case *c, size_t head)
{
	uint32_t *kept = c->kept + head * c->n, n = vectors_n(c, head), at = 0;

	for (uint32_t i = 0; i < c->counts[head]; i++, at++) {
		while (at < n && vectors_position(c, head, at) < kept[i])
			at++;
		if (at == n || vectors_position(c, head, at) != kept[i])
			return malformed(v, "position %u is not cached", kept[i]);
		kept[i] = at;
	}
	return 0;
}

static int expect_head(struct vectors *v, struct vectors_case *c, char *rest)
{
	int err = read_head(v, c, rest, &c->n_expected, c->counts, c->kept);

	return err ? err : find_indices(v, c, c->n_expected - 1);
}

/* The sinks, and all from `suffix` on, for every head. */
static int fill_suffix(struct vectors *v, struct vectors_case *c, uint32_t keep, uint32_t suffix)
{
	const char *text = vectors_param(c, "sinks");
	uint32_t sinks;
	int err = text ? number(v, text, MAX_EXTENT, &sinks) :
		  malformed(v, "keep= without a parameter sinks");

	if (err)
		return err;
	for (uint32_t head = 0; head < c->n_layers * c->n_kv_heads; head++) {
		uint32_t *kept = c->kept + (size_t)head * c->n, count = 0;

		for (uint32_t i = 0; i < vectors_n(c, head); i++)
			if (i < sinks || vectors_position(c, head, i) >= suffix)
				kept[count++] = i;
		c->counts[head] = count;
		c->n_expected++;
	}
	if (c->counts[0] != keep)
		return malformed(v, "keep=%u, but %u sinks and all from %u on are %u",
				 keep, sinks, suffix, c->counts[0]);
	return 0;
}

/* keep=KEEP suffix=FIRST loss=L: ReFreeKV's own form */
static int expect_suffix(struct vectors *v, struct vectors_case *c, char *rest)
{
	static const char *const keys[] = { "keep", "suffix", "loss" };
	char *key, *value[3], *end;
	uint32_t keep, suffix;
	int err;

	for (int i = 0; i < 3; i++)
		if (pair(v, &rest, &key, &value[i]) != 1 || strcmp(key, keys[i]) != 0)
			return malformed(v, "expected keep=, suffix=, loss=");
	c->loss = strtod(value[2], &end);
	if (*end || !isfinite(c->loss) || word(&rest))
		return malformed(v, "expected a loss, and nothing after it");
	if ((err = number(v, value[0], c->n, &keep)) ||
	    (err = number(v, value[1], c->logical, &suffix)))
		return err;
	if (c->n_expected)
		return malformed(v, "said twice in one case");
	return fill_suffix(v, c, keep, suffix);
}

static int set_expected(struct vectors *v, struct vectors_case *c, char *rest)
{
	if (!c->n)
		return malformed(v, "an expectation before the shape");
	if (c->n_cached ? c->n_cached != c->n_layers * c->n_kv_heads : c->logical > c->n)
		return malformed(v, "an expectation after lines of cached for %u of %u heads",
				 c->n_cached, c->n_layers * c->n_kv_heads);
	return strncmp(rest, "keep=", 5) ? expect_head(v, c, rest) : expect_suffix(v, c, rest);
}

/* --- cases ---------------------------------------------------------------------------------- */

static int set_line(struct vectors *v, struct vectors_case *c)
{
	char *rest = v->text, *key = word(&rest);

	if (strcmp(key, "policy") == 0)
		return set_text(v, &c->policy, rest);
	if (strcmp(key, "shape") == 0)
		return set_shape(v, c, rest);
	if (strcmp(key, "params") == 0)
		return set_params(v, c, rest);
	if (strcmp(key, "cached") == 0)
		return set_cached(v, c, rest);
	if (strcmp(key, "expect") == 0)
		return set_expected(v, c, rest);
	for (int i = 0; i < VECTORS_INPUTS; i++)
		if (strcmp(key, input_names[i]) == 0)
			return set_input(v, c, i, rest);
	return malformed(v, "`%.40s`: expected policy, shape, params, numbers, cached, expect or end", key);
}

/*
 * A case that names no policy is ReFreeKV's: its one layer is not among those
 * kept whole, and `rows` of the shape is its parameter.
 */
static int imply_refreekv(struct vectors *v, struct vectors_case *c)
{
	char rows[16];
	int err;

	snprintf(rows, sizeof(rows), "%u", c->rows);
	c->policy = strdup("refreekv");
	if (!c->policy)
		return no_memory(v);
	if ((err = add_param(v, c, "rank", "position")) || (err = add_param(v, c, "rows", rows)))
		return err;
	return add_param(v, c, "whole_layers", "0");
}

static int check_case(struct vectors *v, struct vectors_case *c)
{
	if (!c->n)
		return malformed(v, "case %.60s has no shape", c->name);
	for (int i = 0; i < VECTORS_INPUTS; i++)
		if (c->given[i] && c->given[i] != c->n_layers)
			return malformed(v, "case %.60s has %u lines of %s for %u layers", c->name,
					 c->given[i], input_names[i], c->n_layers);
	if (c->n_expected != c->n_layers * c->n_kv_heads)
		return malformed(v, "case %.60s expects something of %u of its %u heads", c->name,
				 c->n_expected, c->n_layers * c->n_kv_heads);
	return c->policy ? 0 : imply_refreekv(v, c);
}

static int read_case(struct vectors *v, struct vectors_case *c)
{
	char *rest = v->text, *key = word(&rest);
	int got;

	c->line = v->line;
	c->loss = NAN;
	if (strcmp(key, "case") != 0)
		return malformed(v, "`%.40s`: expected case NAME", key);
	got = set_text(v, &c->name, rest);
	while (got == 0 && (got = next_line(v)) == 1) {
		if (strcmp(v->text, "end") == 0)
			return check_case(v, c);
		got = set_line(v, c);
	}
	return got < 0 ? got : malformed(v, "the file ends within case %.60s", c->name);
}

int vectors_next(struct vectors *v, struct vectors_case **out)
{
	struct vectors_case *c;
	int got = next_line(v), err;

	if (got != 1)
		return got;
	c = calloc(1, sizeof(*c));
	err = c ? read_case(v, c) : no_memory(v);
	if (err) {
		vectors_case_free(c);
		return err;
	}
	*out = c;
	return 1;
}
