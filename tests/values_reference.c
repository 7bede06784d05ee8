/* SPDX-License-Identifier: Apache-2.0 */
/* keydiff, lagkv, expected and contribution with plain sums, of one KV head after the other. */
#include "tests/values_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ops.h"
#include "tests/refreekv_reference.h"

struct work {
	const struct kvmod_segment *s;
	const struct kvmod_head *head;
	const struct values_params *p;
	struct policy_answer *out;
	uint32_t g, n, dim, group;
	long double *score;		/* [n] */
	double *row;			/* [n] */
	unsigned char *kept;		/* [n] */
};

static double element(const struct kvmod_view *view, uint32_t i, uint32_t d)
{
	return (double)kv_element(view->type, (const char *)view->data + i * view->stride, d);
}

static double length(const struct work *w, const struct kvmod_view *view, uint32_t i)
{
	double sum = 0;

	for (uint32_t d = 0; d < w->dim; d++)
		sum += element(view, i, d) * element(view, i, d);
	return sqrt(sum);
}

static uint64_t budget_of(const struct work *w, uint64_t least)
{
	uint64_t c = w->p->count ? w->p->count : w->s->logical * w->p->permille / 1000;

	return c > least ? c : least;
}

static void note(struct work *w, long double apart)
{
	w->out->finite = w->out->finite && isfinite(apart);
	if (apart > 0)
		w->out->tie = fmin(w->out->tie, (double)apart);
}

/*
 * Keeps the `count` best of positions begin .. end-1, the older first of equals. unit: what
 * a difference is a part of; 0: of the better of the two.
 */
static void keep_best(struct work *w, uint32_t begin, uint32_t end, uint64_t count, long double unit)
{
	long double last = 0;

	for (uint64_t k = 0; k <= count && k < end - begin; k++) {
		uint32_t best = end;

		for (uint32_t i = begin; i < end; i++)
			if (!w->kept[i] && (best == end || w->score[i] > w->score[best]))
				best = i;
		if (k == count && k > 0)
			note(w, (last - w->score[best]) / (unit > 0 ? unit : last));
		else if (k < count)
			w->kept[best] = 1;
		last = w->score[best];
	}
}

/* --- keydiff ------------------------------------------------------------------------- */

static void decide_keydiff(struct work *w)
{
	const struct kvmod_view *k = &w->head->k;
	uint64_t c = budget_of(w, 1);
	double *anchor = calloc(w->dim, sizeof(*anchor)), size = 0;

	for (uint32_t i = 0; i < w->n; i++) {
		w->row[i] = length(w, k, i);
		for (uint32_t d = 0; d < w->dim && w->row[i] > 0; d++)
			anchor[d] += element(k, i, d) / w->row[i] / w->n;
	}
	for (uint32_t d = 0; d < w->dim; d++)
		size += anchor[d] * anchor[d];
	for (uint32_t i = 0; i < w->n; i++) {
		double dot = 0;

		for (uint32_t d = 0; d < w->dim; d++)
			dot += element(k, i, d) * anchor[d];
		w->score[i] = w->row[i] > 0 ? -dot / (w->row[i] * sqrt(size)) : 0;
	}
	free(anchor);
	keep_best(w, 0, w->n, c < w->n ? c : w->n, 1);
}

/* --- lagkv ---------------------------------------------------------------------------- */

/* Of row i among the extremes of rows from .. from + lag - 1. */
static double deviation(const struct work *w, const struct kvmod_view *view, uint32_t i, uint32_t from)
{
	double sum = 0, squares = 0;

	for (int pass = 0; pass < 2; pass++)
		for (uint32_t d = 0; d < w->dim; d++) {
			double low = INFINITY, high = -INFINITY, x = 0;

			for (uint32_t j = from; j < from + w->p->lag; j++) {
				low = fmin(low, element(view, j, d));
				high = fmax(high, element(view, j, d));
			}
			if (high > low)
				x = (element(view, i, d) - low) / (high - low);
			if (pass == 0)
				sum += x / w->dim;
			else
				squares += (x - sum) * (x - sum);
		}
	return sqrt(squares / (w->dim - 1));
}

static void add_shares(struct work *w, const struct kvmod_view *view, uint32_t begin)
{
	uint32_t end = begin + w->p->lag;
	double sum = 0;

	for (uint32_t i = begin; i < end; i++)
		sum += w->row[i] = exp(deviation(w, view, i, end));
	for (uint32_t i = begin; i < end; i++)
		w->score[i] += w->row[i] / sum / 2;
}

static void decide_lagkv(struct work *w)
{
	uint32_t sinks = w->p->sinks, lag = w->p->lag, parts = w->n < sinks ? 0 : (w->n - sinks) / lag;
	uint64_t c, left;

	memset(w->kept, 1, w->n);
	if (parts < 2)
		return;
	c = budget_of(w, w->n - (parts - 1) * lag);
	if (w->n <= c)
		return;
	left = c - (w->n - (parts - 1) * lag);
	for (uint32_t p = 0; p < parts - 1; p++) {
		uint32_t begin = sinks + p * lag;

		add_shares(w, &w->head->k, begin);
		add_shares(w, &w->head->v, begin);
		memset(w->kept + begin, 0, lag);
		keep_best(w, begin, begin + lag, left / (parts - 1) + (p < left % (parts - 1)), 0);
	}
}

/* --- expected --------------------------------------------------------------------------- */

/* Element (a, b) of the rotation at a position. */
static double rotation(const struct kvmod_model *m, uint32_t dim, uint32_t a, uint32_t b, double position)
{
	uint32_t pairs = m->rope_freqs ? m->n_rope_freqs : dim / 2;
	uint32_t pair = m->rope_interleaved ? a / 2 : a % pairs;
	uint32_t first = m->rope_interleaved ? 2 * pair : pair;
	uint32_t second = m->rope_interleaved ? first + 1 : pair + pairs;
	double magnitude = m->rope_magnitude > 0 ? (double)m->rope_magnitude : 1, angle;

	if (a >= 2 * pairs || b >= 2 * pairs)
		return a == b;
	if ((a != first && a != second) || (b != first && b != second))
		return 0;
	angle = position * (m->rope_freqs ? (double)m->rope_freqs[pair] :
			    pow((double)m->rope_base, -2.0 * pair / dim));
	return magnitude * (a == b ? cos(angle) : a == first ? -sin(angle) : sin(angle));
}

/* y = R x R' */
static void turn_matrix(const double *r, const double *x, uint32_t dim, double *y)
{
	double *half = calloc((size_t)dim * dim, sizeof(*half));

	for (uint32_t a = 0; a < dim; a++)
		for (uint32_t c = 0; c < dim; c++)
			for (uint32_t b = 0; b < dim && r[a * dim + c] != 0; b++)
				half[a * dim + b] += r[a * dim + c] * x[c * dim + b];
	memset(y, 0, (size_t)dim * dim * sizeof(*y));
	for (uint32_t b = 0; b < dim; b++)
		for (uint32_t c = 0; c < dim; c++)
			for (uint32_t a = 0; a < dim && r[b * dim + c] != 0; a++)
				y[a * dim + b] += half[a * dim + c] * r[b * dim + c];
	free(half);
}

/* Adds a query head's softmax to the scores; returns its largest logit. */
static double add_expected(struct work *w, uint32_t h, const double *r)
{
	const struct kvmod_segment *s = w->s;
	uint32_t dim = w->dim;
	const float *mean = (const void *)((const char *)s->q_mean.data + h * s->q_mean.head_stride);
	const char *cov = (const char *)s->q_cov.data + h * s->q_cov.head_stride;
	double *x = calloc(2 * (size_t)dim * dim + dim, sizeof(*x)), *turned = x + dim * dim, *mu = turned + dim * dim;
	double most = -INFINITY, largest = 0;
	long double sum = 0;

	for (uint32_t a = 0; a < dim; a++)
		for (uint32_t b = 0; b < dim; b++) {
			x[a * dim + b] = (double)((const float *)(const void *)(cov + a * s->q_cov.stride))[b];
			mu[a] += r[a * dim + b] * (double)mean[b];
		}
	turn_matrix(r, x, dim, turned);
	for (uint32_t i = w->p->sinks; i < w->n; i++) {
		double logit = 0;

		for (uint32_t a = 0; a < dim; a++) {
			double y = 0;

			for (uint32_t b = 0; b < dim; b++)
				y += turned[a * dim + b] * element(&w->head->k, i, b);
			logit += element(&w->head->k, i, a) * ((double)s->scale * mu[a] +
							       (double)s->scale * (double)s->scale * y / 2);
		}
		w->row[i] = logit;
		most = fmax(most, logit);
		largest = fmax(largest, fabs(logit));
	}
	for (uint32_t i = w->p->sinks; i < w->n; i++)
		sum += expl((long double)w->row[i] - most);
	for (uint32_t i = w->p->sinks; i < w->n; i++)
		w->score[i] += expl((long double)w->row[i] - most) / sum / w->group;
	free(x);
	return largest;
}

static void decide_expected(struct work *w)
{
	uint32_t sinks = w->p->sinks, dim = w->dim;
	uint64_t c = budget_of(w, sinks > 0 ? sinks : 1);
	double *r = calloc((size_t)dim * dim, sizeof(*r)), largest = 1;

	if (w->n <= c) {
		memset(w->kept, 1, w->n);
		free(r);
		return;
	}
	for (uint32_t a = 0; a < dim; a++)
		for (uint32_t b = 0; b < dim; b++)
			for (uint32_t j = 0; j < w->p->future; j++)
				r[a * dim + b] += rotation(w->p->model, dim, a, b, (double)w->s->logical -
							   (double)w->s->phase_base + j) / w->p->future;
	for (uint32_t h = 0; h < w->group; h++)
		largest = fmax(largest, add_expected(w, w->g * w->group + h, r));
	for (uint32_t i = sinks; i < w->n; i++)
		w->score[i] = logl((w->score[i] + w->p->epsilon) * length(w, &w->head->v, i));
	memset(w->kept, 1, sinks);
	keep_best(w, sinks, w->n, c - sinks, largest);
	free(r);
}

/* --- contribution -------------------------------------------------------------------------- */

static void raise_scores(struct work *w, uint32_t row, uint32_t h)
{
	double sum = 0;

	reference_attention(w->s, row, h, w->row);
	for (uint32_t i = 0; i < w->n; i++)
		sum += w->row[i] *= length(w, &w->head->v, i);
	for (uint32_t i = 0; i < w->n; i++)
		w->score[i] = fmaxl(w->score[i], w->row[i] / sum);
}

static void decide_contribution(struct work *w)
{
	uint32_t first = w->p->rows < w->s->n_rows ? w->s->n_rows - w->p->rows : 0, half = w->p->pool / 2;

	for (uint32_t row = first; row < w->s->n_rows; row++)
		for (uint32_t h = 0; h < w->group; h++)
			raise_scores(w, row, w->g * w->group + h);
	for (uint32_t i = 0; i < w->n; i++) {
		long double most = 0;

		for (uint32_t j = i > half ? i - half : 0; j < w->n && j <= i + half; j++)
			most = fmaxl(most, w->score[j]);
		w->kept[i] = i < w->p->sinks || i + w->p->window >= w->n || most >= w->p->level;
		note(w, fabsl(most - w->p->level) / w->p->level);
	}
}

/* --- a segment ------------------------------------------------------------------------------- */

static void decide(struct work *w)
{
	void (*const rules[])(struct work *w) = {
		[RULE_KEYDIFF] = decide_keydiff, [RULE_LAGKV] = decide_lagkv,
		[RULE_EXPECTED] = decide_expected, [RULE_CONTRIBUTION] = decide_contribution,
	};

	memset(w->score, 0, w->n * sizeof(*w->score));
	rules[w->p->rule](w);
}

int values_decide(const struct kvmod_segment *s, const struct values_params *p, struct policy_answer *out)
{
	uint32_t stride = kvmod_longest_head(s);
	struct work w = {
		.s = s, .p = p, .out = out, .dim = s->head_dim, .group = s->n_q_heads / s->n_kv_heads,
		.score = calloc(stride, sizeof(*w.score)), .row = calloc(stride, sizeof(*w.row)),
	};

	*out = (struct policy_answer){
		.finite = true, .tie = 1, .stride = stride,
		.kept = calloc((size_t)s->n_kv_heads * stride, 1),
	};
	for (w.g = 0; w.score && w.row && out->kept && w.g < s->n_kv_heads; w.g++) {
		w.head = kvmod_head_at(s, w.g);
		w.n = w.head->n;
		w.kept = out->kept + (size_t)w.g * stride;
		decide(&w);
	}
	free(w.score);
	free(w.row);
	return w.g == s->n_kv_heads ? 0 : KVMOD_ENOMEM;
}
