/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How good an answer is: a score of 0 to 1 for a text beside reference answers. The score is
 * the largest over the references.
 *
 * number    1 if the last number of the text equals the reference, else 0.
 *           Papers: GSM8K (Cobbe et al., 2021) compares the number behind "####" with the
 *           reference, exactly and without commas; with models that do not write "####", the
 *           custom is the last number (lm-evaluation-harness, "flexible-extract"). TheoremQA (Chen
 *           et al., 2023) lets an answer differ from a decimal by a part of it: its own program
 *           by 4%, many others by 1%. For an integer its program rounds the answer.
 *           Here: a reference that is written with a decimal point or an exponent allows a
 *           difference of 1% of itself, any other of 1e-6 of itself.
 *           What is a number: see eval_last_number() below. A number with a percent sign
 *           equals a reference of the number itself or of a hundredth: 8% is 8 and 0.08.
 * contains  1 if the text contains the reference, else 0; lower case, every run of white
 *           space one space. Common for needle tasks and for True or False; "untrue"
 *           contains "true".
 * exact     1 if the text is the reference after SQuAD's normalisation, else 0: lower case,
 *           without ASCII punctuation, without the words a, an, the, white space that does not
 *           matter. (Rajpurkar et al., 2016; evaluate-v2.0.py.)
 * f1        F1 of the words that both have in common, counted with repetitions, after the same
 *           normalisation. (The same program; LongBench's qa_f1_score is the same.)
 *           A reference of articles only, such as the choice "A", keeps them, for exact and f1:
 *           SQuAD's program would compare nothing with nothing. If neither side has a word,
 *           both scores are 1, as in evaluate-v2.0.py.
 * rouge-l   F1 of the longest common subsequence of words, with equal weight for
 *           precision and recall. Words are runs of [a-z0-9] in the lower case, not
 *           stemmed: rougeL of Google's package rouge_score (Lin, 2004). LongBench uses the package
 *           `rouge` instead, which splits at white space only and so gives other digits.
 */
#ifndef KV_CORE_EVAL_METRIC_H
#define KV_CORE_EVAL_METRIC_H

#include <stdbool.h>
#include <stddef.h>

enum eval_metric {
	EVAL_NUMBER,
	EVAL_CONTAINS,
	EVAL_ROUGE_L,
	EVAL_EXACT,
	EVAL_F1,
	EVAL_N_METRICS
};

#define EVAL_METRIC_NAMES "number, contains, rouge-l, exact or f1"

const char *eval_metric_name(enum eval_metric metric);
/* Names are equal if they differ only in '-' and '_'. False: no metric has this name. */
bool eval_metric_find(const char *name, enum eval_metric *metric);

/* Can the metric compare anything with this reference? If not, what it expects: "a number". */
const char *eval_metric_refuses(enum eval_metric metric, const char *reference);

/*
 * The score, the largest over n references; 0 if n is 0. Texts are UTF-8; bytes that are not
 * equal only themselves. Ends the program if memory runs out.
 */
double eval_score(enum eval_metric metric, const char *text, const char *const *references,
		  size_t n);

/* --- numbers (number.c) ------------------------------------------------------------ */

struct eval_number {
	double value;
	bool is_decimal;		/* written with a decimal point or an exponent */
	bool is_percent;
	const char *begin, *end;	/* where it stands, with sign, currency and percent sign */
};

/*
 * The last number of a text; false if it has none. A number is
 *   digits, in groups of three behind commas or narrow, thin or no-break spaces: 1,234,567
 *   a point and digits, which may be all of it: 0.5 and .5; a point behind a number ends
 *     a sentence
 *   an exponent: 4e-05, 4 x 10^-5, 4 × 10^{-5}, 4 \times 10^{-5}, 4*10^5
 *   a fraction of two of these without an exponent: 3/4, \frac{3}{4}; not of three, as in
 *     1/2/2024, where each is a number; 1 1/2 ends with the number 1/2
 *   (of powers only those of 10 in an exponent: 2^10 ends with the number 10)
 *   a minus (- or U+2212) or plus before it, unless a letter, a digit or a closing bracket
 *     stands before that: 3-5 has the numbers 3 and 5
 *   a currency sign before the digits, a percent sign behind them, with or without \
 * Digits are 0 to 9. A number beyond the range of a double is none, nor is one divided by 0.
 */
bool eval_last_number(const char *text, struct eval_number *number);
/* Is the whole text, but for white space and a point at the end, one number? */
bool eval_whole_number(const char *text, struct eval_number *number);

#endif
