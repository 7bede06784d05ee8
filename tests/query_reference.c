/* SPDX-License-Identifier: Apache-2.0 */
/* A reference for statistics of queries: double precision, one number at a time. */
#include "tests/query_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float *floats(const struct ggml_tensor *tensor)
{
	return tensor ? tensor->data : NULL;
}

static void normalize(const double *x, int64_t n, const float *weight, double eps, double *out)
{
	double sum = 0;

	for (int64_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	for (int64_t i = 0; i < n; i++)
		out[i] = x[i] / sqrt(sum / (double)n + eps) * (double)weight[i];
}

static void first_of(const struct gg_model *m, int32_t token, double *q)
{
	const struct gg_layer *l = &m->layers[0];
	int64_t width = m->dims[GG_WIDTH], n = m->dims[GG_Q_ROWS], dim = m->head_dim;
	double *x = calloc((size_t)width, sizeof(*x));

	ck_assert_ptr_nonnull(x);
	for (int64_t i = 0; i < width; i++)
		x[i] = (double)floats(m->embed)[token * width + i];
	normalize(x, width, floats(l->w[GG_ATTN_NORM]), (double)m->eps, x);
	for (int64_t r = 0; r < n; r++) {
		q[r] = l->w[GG_Q_BIAS] ? (double)floats(l->w[GG_Q_BIAS])[r] : 0;
		for (int64_t i = 0; i < width; i++)
			q[r] += (double)floats(l->w[GG_Q])[r * width + i] * x[i];
	}
	for (int64_t h = 0; l->w[GG_Q_NORM] && h < n / dim; h++)
		normalize(q + h * dim, dim, floats(l->w[GG_Q_NORM]), (double)m->eps, q + h * dim);
	free(x);
}

void query_reference_first(const struct gg_engine *engine, const int32_t *tokens, uint32_t n,
			   double *q)
{
	for (uint32_t t = 0; t < n; t++)
		first_of(&engine->net, tokens[t],
			 q + (size_t)t * (size_t)engine->net.dims[GG_Q_ROWS]);
}

/* By how much the pair d of a head turns from one position to the next. */
static double angle(const struct gg_model *m, uint32_t d)
{
	const float *factors = floats(m->rope_factors[GG_HOST]);
	double a = pow((double)m->rope.base, -2.0 * d / m->rope.n_dims) * (double)m->rope.scale;

	return factors ? a / (double)factors[d] : a;
}

void query_reference_unturn(const struct gg_engine *engine, const float *turned, uint32_t n,
			    double *q)
{
	const struct gg_model *m = &engine->net;
	bool pairs = m->rope.type == GGML_ROPE_TYPE_NORMAL;
	uint32_t half = (uint32_t)m->rope.n_dims / 2;

	for (uint32_t t = 0; t < n; t++) {
		for (uint32_t h = 0; h < m->n_q_heads;
		     h++, turned += m->head_dim, q += m->head_dim) {
			for (uint32_t d = 0; d < m->head_dim; d++)
				q[d] = (double)turned[d];
			for (uint32_t d = 0; d < half; d++) {
				uint32_t a = pairs ? 2 * d : d, b = pairs ? 2 * d + 1 : d + half;
				double by = t * angle(m, d), x = q[a], y = q[b];

				q[a] = x * cos(by) + y * sin(by);
				q[b] = y * cos(by) - x * sin(by);
			}
		}
	}
}

static void check_numbers(const float *got, const double *expected, size_t n, double near,
			  const char *what, uint32_t layer, uint32_t head)
{
	double largest = 0;

	for (size_t i = 0; i < n; i++)
		largest = fmax(largest, fabs(expected[i]));
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(
			fabs((double)got[i] - expected[i]) <= near * largest,
			"layer %u, head %u: number %zu of the %s is %g, expected %g (largest %g)",
			layer, head, i, what, (double)got[i], expected[i], largest);
}

/* Of one head, whose queries lie `stride` apart. */
static uint32_t reference(const struct query_set *set, const double *q, size_t stride, uint32_t dim,
			  double *mean, double *covariance)
{
	uint32_t n = 0;

	memset(mean, 0, dim * sizeof(*mean));
	memset(covariance, 0, (size_t)dim * dim * sizeof(*covariance));
	for (uint32_t t = 0; t < set->n; t++) {
		if (set->in && !set->in[t])
			continue;
		n++;
		for (uint32_t d = 0; d < dim; d++)
			mean[d] += q[t * stride + d];
	}
	for (uint32_t d = 0; d < dim; d++)
		mean[d] /= n ? n : 1;
	for (uint32_t t = 0; t < set->n; t++) {
		if (set->in && !set->in[t])
			continue;
		for (uint32_t a = 0; a < dim; a++)
			for (uint32_t b = 0; b < dim; b++)
				covariance[a * dim + b] += (q[t * stride + a] - mean[a]) *
							   (q[t * stride + b] - mean[b]) / n;
	}
	return n;
}

void query_reference_check(const struct kvmod_segment *s, const struct query_set *set, double near)
{
	uint32_t dim = s->head_dim;
	double *mean = calloc(dim, sizeof(*mean)),
	       *covariance = calloc((size_t)dim * dim, sizeof(*covariance));

	ck_assert(mean && covariance && s->q_mean.data && s->q_cov.data);
	for (uint32_t h = 0; h < s->n_q_heads; h++) {
		const char *cov = (const char *)s->q_cov.data + h * s->q_cov.head_stride;
		uint32_t n = reference(set, set->q + (size_t)h * dim, (size_t)s->n_q_heads * dim,
				       dim, mean, covariance);

		ck_assert_uint_eq(s->n_q_stat, n);
		check_numbers(
			(const void *)((const char *)s->q_mean.data + h * s->q_mean.head_stride),
			mean, dim, near, "mean", s->layer, h);
		ck_assert_int_eq(s->q_cov.stride, dim * sizeof(float));
		check_numbers((const void *)cov, covariance, (size_t)dim * dim, near, "covariance",
			      s->layer, h);
	}
	free(mean);
	free(covariance);
}
