/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of h2o, tova, knorm and rkv in double precision, from every pair of keys. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ops.h"
#include "tests/policies_reference.h"
#include "tests/refreekv_reference.h"

struct head {
	const struct kvmod_segment *s;
	const struct kvmod_head *cache;
	uint32_t g, group, n, m;
	double *row;			/* [n] */
	struct policy_answer *out;
};

static double key(const struct head *h, uint32_t i, uint32_t d)
{
	return (double)kv_element(h->cache->k.type,
				  (const char *)h->cache->k.data + i * h->cache->k.stride, d);
}

static double dot(const struct head *h, uint32_t i, uint32_t j)
{
	double sum = 0;

	for (uint32_t d = 0; d < h->s->head_dim; d++)
		sum += key(h, i, d) * key(h, j, d);
	return sum;
}

/* --- attention: h2o, tova --------------------------------------------------------------- */

/* The newest rows' attention, summed; the mean over the group. */
static void add_rows(const struct head *h, uint32_t rows, double *score)
{
	const struct kvmod_segment *s = h->s;

	for (uint32_t row = rows < s->n_rows ? s->n_rows - rows : 0; row < s->n_rows; row++)
		for (uint32_t q = h->g * h->group; q < (h->g + 1) * h->group; q++) {
			reference_attention(s, row, q, h->row);
			for (uint32_t i = 0; i < h->m; i++) {
				h->out->finite = h->out->finite && isfinite(h->row[i]);
				score[i] += h->row[i] / h->group;
			}
		}
}

static void add_colsum(const struct head *h, double *score)
{
	const struct kvmod_view *sums = &h->s->colsum;

	for (uint32_t q = h->g * h->group; sums->data && q < (h->g + 1) * h->group; q++) {
		const float *of = (const void *)((const char *)sums->data + q * sums->head_stride);

		for (uint32_t i = 0; i < h->m; i++)
			score[i] += (double)of[i] / h->group;
	}
}

/* --- rkv ---------------------------------------------------------------------------------- */

/* Before the softmax; -infinity where the row does not see a position. */
static double logit(const struct head *h, uint32_t row, uint32_t q, uint32_t i)
{
	const struct kvmod_segment *s = h->s;
	const char *query = (const char *)s->q.data + row * s->q.stride + q * s->q.head_stride;
	int64_t at = s->row_positions ? s->row_positions[row] : (int64_t)s->logical - s->n_rows + row;
	double x = 0;

	if ((h->cache->positions ? h->cache->positions[i] : (int64_t)i) > at)
		return -INFINITY;
	for (uint32_t d = 0; d < s->head_dim; d++)
		x += (double)kv_element(s->q.type, query, d) * key(h, i, d);
	x *= s->scale;
	return s->softcap > 0 ? s->softcap * tanh(x / s->softcap) : x;
}

static void softmax(double *x, uint32_t n)
{
	double most = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		most = fmax(most, x[i]);
	for (uint32_t i = 0; i < n; i++)
		sum += x[i] = exp(x[i] - most);
	for (uint32_t i = 0; i < n; i++)
		x[i] /= sum;
}

static void add_attention(const struct head *h, const struct policy_params *p, double *score)
{
	uint32_t rows = p->window < h->s->n_rows ? p->window : h->s->n_rows;
	double *mean = calloc(h->m + 1, sizeof(*mean));

	for (uint32_t row = h->s->n_rows - rows; mean && row < h->s->n_rows; row++) {
		for (uint32_t i = 0; i < h->m; i++) {
			h->row[i] = -INFINITY;
			for (uint32_t q = h->g * h->group; q < (h->g + 1) * h->group; q++)
				h->row[i] = fmax(h->row[i], logit(h, row, q, i));
		}
		softmax(h->row, h->m);
		for (uint32_t i = 0; i < h->m; i++)
			mean[i] += h->row[i] / rows;
	}
	for (int64_t i = 0; mean && i < h->m; i++) {
		double most = 0;

		for (int64_t j = i - p->pool / 2; j <= i + p->pool / 2; j++)
			most = j >= 0 && j < h->m ? fmax(most, mean[j]) : most;
		score[i] += p->lambda * most;
	}
	free(mean);
}

/* The whole matrix of cosines, with what does not count set to 0. */
static void fill_cosines(const struct head *h, double similarity, double *cosines)
{
	for (uint32_t i = 0; i < h->n; i++) {
		double *row = cosines + (size_t)i * h->n, length = sqrt(dot(h, i, i)) + 1e-8;
		uint32_t newest = 0;

		for (uint32_t j = 0; j < h->n; j++) {
			row[j] = i == j ? 0 : dot(h, i, j) / length / (sqrt(dot(h, j, j)) + 1e-8);
			if (row[j] > similarity)
				newest = j;
			if (i != j)
				h->out->tie = fmin(h->out->tie, 100 * fabs(row[j] - similarity));
		}
		row[newest] = 0;
	}
}

static void take_redundancy(const struct head *h, const struct policy_params *p, double *score)
{
	double *cosines = calloc((size_t)h->n * h->n, sizeof(*cosines));

	if (!cosines)
		return;
	fill_cosines(h, p->similarity, cosines);
	for (uint32_t j = 0; j < h->n; j++) {
		h->row[j] = 0;
		for (uint32_t i = 0; i < h->n; i++)
			h->row[j] += cosines[(size_t)i * h->n + j] / h->n;
	}
	softmax(h->row, h->n);
	for (uint32_t i = 0; i < h->m; i++)
		score[i] -= (1 - p->lambda) * h->row[i];
	free(cosines);
}

/* --- all ------------------------------------------------------------------------------------ */

void policy_score(const struct kvmod_segment *s, const struct policy_params *p, uint32_t g,
		  uint32_t m, double *row, double *score, struct policy_answer *out)
{
	const struct head h = {
		.s = s, .cache = kvmod_head_at(s, g), .g = g, .group = s->n_q_heads / s->n_kv_heads,
		.n = kvmod_head_at(s, g)->n, .m = m, .row = row, .out = out,
	};

	memset(score, 0, m * sizeof(*score));
	if (p->rule == RULE_H2O) {
		add_rows(&h, p->rows, score);
		add_colsum(&h, score);
	} else if (p->rule == RULE_TOVA) {
		add_rows(&h, 1, score);
	} else if (p->rule == RULE_RKV) {
		add_attention(&h, p, score);
		take_redundancy(&h, p, score);
	} else {
		for (uint32_t i = 0; i < m; i++)
			score[i] = -sqrt(dot(&h, i, i));
	}
}
