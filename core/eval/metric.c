/* SPDX-License-Identifier: Apache-2.0 */
/* How good an answer is beside reference answers. */
#include "core/eval/metric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli/cli.h"
#include "core/eval/words.h"

#define EXACT_TOLERANCE		1e-6	/* of the reference */
#define DECIMAL_TOLERANCE	0.01

/* --- number ----------------------------------------------------------------------- */

static bool is_near(double value, const struct eval_number *reference)
{
	double tolerance = reference->is_decimal ? DECIMAL_TOLERANCE : EXACT_TOLERANCE;

	return fabs(value - reference->value) <= tolerance * fabs(reference->value);
}

static double number_score(const char *text, const char *reference)
{
	struct eval_number found, expected;

	if (!eval_whole_number(reference, &expected) || !eval_last_number(text, &found))
		return 0;
	if (expected.is_percent && found.is_percent)
		return is_near(found.value, &expected);
	if (is_near(found.value, &expected))
		return 1;
	if (expected.is_percent)
		return is_near(100 * found.value, &expected);
	return found.is_percent && is_near(found.value / 100, &expected);
}

/* --- contains --------------------------------------------------------------------- */

static double contains_score(const char *text, const char *reference)
{
	struct cli_text whole = eval_plain(text), part = eval_plain(reference);
	bool found = part.n && strstr(whole.bytes, part.bytes);

	cli_text_free(&whole);
	cli_text_free(&part);
	return found;
}

/* --- exact and f1 ----------------------------------------------------------------- */

/* Both texts as SQuAD compares them; without articles, unless the reference has only those. */
struct pair {
	struct eval_words text, reference;
};

static struct pair squad_pair(const char *text, const char *reference)
{
	struct pair p = { .reference = eval_squad_words(reference, true) };
	bool without_articles = p.reference.n > 0;

	if (!without_articles) {
		eval_words_free(&p.reference);
		p.reference = eval_squad_words(reference, false);
	}
	p.text = eval_squad_words(text, without_articles);
	return p;
}

static void pair_free(struct pair *p)
{
	eval_words_free(&p->text);
	eval_words_free(&p->reference);
}

static double exact_score(const char *text, const char *reference)
{
	struct pair p = squad_pair(text, reference);
	bool equal = eval_words_equal(&p.text, &p.reference);

	pair_free(&p);
	return equal;
}

/* The harmonic mean of the shares of n_a and of n_b words that the two have in common. */
static double f_measure(size_t common, size_t n_a, size_t n_b)
{
	return common ? 2.0 * (double)common / (double)(n_a + n_b) : 0;
}

static int by_word(const void *a, const void *b)
{
	return eval_word_cmp(a, b);
}

static void sort(struct eval_words *words)
{
	if (words->n)
		qsort(words->word, words->n, sizeof(*words->word), by_word);
}

static size_t n_common(struct eval_words *a, struct eval_words *b)
{
	size_t common = 0;

	sort(a);
	sort(b);
	for (size_t i = 0, j = 0; i < a->n && j < b->n;) {
		int order = eval_word_cmp(&a->word[i], &b->word[j]);

		common += order == 0;
		i += order <= 0;
		j += order >= 0;
	}
	return common;
}

static double f1_score(const char *text, const char *reference)
{
	struct pair p = squad_pair(text, reference);
	double score = 1;

	if (p.text.n || p.reference.n)
		score = f_measure(n_common(&p.text, &p.reference), p.text.n, p.reference.n);
	pair_free(&p);
	return score;
}

/* --- rouge-l ---------------------------------------------------------------------- */

/* One row of the table of lengths is enough: `diagonal` is the one above to the left. */
static size_t common_subsequence(const struct eval_words *a, const struct eval_words *b)
{
	size_t *row = cli_alloc((b->n + 1) * sizeof(*row)), longest;

	memset(row, 0, (b->n + 1) * sizeof(*row));
	for (size_t i = 0; i < a->n; i++) {
		size_t diagonal = 0;

		for (size_t j = 0; j < b->n; j++) {
			size_t above = row[j + 1];

			if (!eval_word_cmp(&a->word[i], &b->word[j]))
				row[j + 1] = diagonal + 1;
			else if (row[j] > above)
				row[j + 1] = row[j];
			diagonal = above;
		}
	}
	longest = row[b->n];
	free(row);
	return longest;
}

static double rouge_l_score(const char *text, const char *reference)
{
	struct eval_words a = eval_rouge_words(text), b = eval_rouge_words(reference);
	double score = f_measure(common_subsequence(&a, &b), a.n, b.n);

	eval_words_free(&a);
	eval_words_free(&b);
	return score;
}

/* --- all -------------------------------------------------------------------------- */

static const struct {
	const char *name;
	double (*score)(const char *text, const char *reference);
} metrics[EVAL_N_METRICS] = {
	[EVAL_NUMBER] = { "number", number_score },
	[EVAL_CONTAINS] = { "contains", contains_score },
	[EVAL_ROUGE_L] = { "rouge-l", rouge_l_score },
	[EVAL_EXACT] = { "exact", exact_score },
	[EVAL_F1] = { "f1", f1_score },
};

const char *eval_metric_name(enum eval_metric metric)
{
	return metrics[metric].name;
}

bool eval_metric_find(const char *name, enum eval_metric *metric)
{
	for (unsigned i = 0; i < EVAL_N_METRICS; i++) {
		if (!kv_name_eq(name, metrics[i].name))
			continue;
		*metric = (enum eval_metric)i;
		return true;
	}
	return false;
}

static bool is_blank(struct cli_text plain)
{
	bool blank = plain.n == 0;

	cli_text_free(&plain);
	return blank;
}

static bool has_word(struct eval_words words)
{
	bool has = words.n > 0;

	eval_words_free(&words);
	return has;
}

const char *eval_metric_refuses(enum eval_metric metric, const char *reference)
{
	struct eval_number number;

	switch (metric) {
	case EVAL_NUMBER:
		return eval_whole_number(reference, &number) ? NULL : "a number";
	case EVAL_CONTAINS:
		return is_blank(eval_plain(reference)) ? "a text" : NULL;
	case EVAL_ROUGE_L:
		return has_word(eval_rouge_words(reference)) ? NULL : "a letter a-z or a digit";
	default:
		return has_word(eval_squad_words(reference, false)) ? NULL : "a word";
	}
}

double eval_score(enum eval_metric metric, const char *text, const char *const *references,
		  size_t n)
{
	double best = 0;

	for (size_t i = 0; i < n; i++)
		best = fmax(best, metrics[metric].score(text, references[i]));
	return best;
}
