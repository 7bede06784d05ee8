/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels in plain C: the reference, and what runs where there is no SIMD. */
#include <float.h>
#include <math.h>

#include "kernels/cpu/ops.h"

/* One float sum would round more than the several of a vector do. */
static float dot(uint32_t type, const void *key, const float *q, uint32_t n)
{
	double sum = 0;
	uint32_t i;

	for (i = 0; i < n; i++)
		sum += kv_element(type, key, i) * q[i];
	return (float)sum;
}

static void dots(const struct kvmod_view *k, uint32_t head_dim, uint32_t begin,
		 uint32_t end, const float *q, uint32_t n_q, float *out, size_t out_stride)
{
	uint32_t i, j;

	for (i = begin; i < end; i++) {
		const char *key = (const char *)k->data + i * k->stride;

		for (j = 0; j < n_q; j++)
			out[j * out_stride + i - begin] =
				dot(k->type, key, q + (size_t)j * head_dim, head_dim);
	}
}

static void scale(float *x, size_t n, float factor, float softcap)
{
	size_t i;

	for (i = 0; i < n; i++) {
		x[i] *= factor;
		if (softcap != 0)
			x[i] = softcap * tanhf(x[i] / softcap);
	}
}

static void to_f32(uint32_t type, const void *src, size_t n, float *dst)
{
	size_t i;

	for (i = 0; i < n; i++)
		dst[i] = kv_element(type, src, i);
}

static float max(const float *x, size_t n)
{
	float m = -FLT_MAX;
	size_t i;

	for (i = 0; i < n; i++)
		if (x[i] > m)
			m = x[i];
	return m;
}

static void softmax(const float *x, size_t stride, uint32_t n_q, size_t n, struct kv_softmax *out)
{
	size_t i;

	for (; n_q > 0; n_q--, x += stride, out++) {
		float m = max(x, n);
		double sum = 0, squares = 0;

		for (i = 0; i < n; i++) {
			float e = expf(x[i] - m);

			sum += e;
			squares += e * e;
		}
		*out = (struct kv_softmax){ m, (float)sum, (float)squares };
	}
}

static void exp_add(const float *x, size_t n, float m, float weight, float *out)
{
	size_t i;

	for (i = 0; i < n; i++)
		out[i] += weight * expf(x[i] - m);
}

static void exp_raise(const float *x, size_t n, float m, float weight, float *out)
{
	size_t i;

	for (i = 0; i < n; i++)
		out[i] = fmaxf(out[i], weight * expf(x[i] - m));
}

static void exp_scale(float *x, size_t n, float m, float weight)
{
	size_t i;

	for (i = 0; i < n; i++)
		x[i] = weight * expf(x[i] - m);
}

static uint64_t sum_bytes(const unsigned char *x, size_t n)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		sum += x[i];
	return sum;
}

/* Sums that do not wait for each other. */
#define CHAINS 8

static uint64_t multiply_add(uint64_t n, float *sum)
{
	float x[CHAINS] = { 0, 1, 2, 3, 4, 5, 6, 7 };
	uint64_t done;
	int j;

	for (done = 0; done < n; done += CHAINS)
		for (j = 0; j < CHAINS; j++)
			x[j] = x[j] * 0.75f + 0.25f;
	*sum = 0;
	for (j = 0; j < CHAINS; j++)
		*sum += x[j];
	return done;
}

static void rows(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n, float *out,
		 size_t out_stride)
{
	for (; n > 0; n--, k += stride, out += out_stride)
		to_f32(type, k, dim, out);
}

static void norms(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n, float *out)
{
	for (uint32_t i = 0; i < n; i++, k += stride) {
		double sum = 0;

		for (uint32_t d = 0; d < dim; d++)
			sum += (double)kv_element(type, k, d) * kv_element(type, k, d);
		out[i] = (float)sqrt(sum);
	}
}

static void sum(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		const float *weights, float *out)
{
	for (uint32_t d = 0; d < dim; d++) {
		double total = 0;

		for (uint32_t i = 0; i < n; i++)
			total += (double)kv_element(type, k + i * stride, d) *
				 (weights ? weights[i] : 1);
		out[d] = (float)total;
	}
}

void kv_column_stats(uint32_t type, const char *k, int64_t stride, uint32_t d, uint32_t n,
		     const struct kv_columns *out)
{
	double total = 0, squares = 0;
	float low = INFINITY, high = -INFINITY;

	for (uint32_t i = 0; i < n; i++)
		total += kv_element(type, k + i * stride, d);
	total /= n;
	for (uint32_t i = 0; i < n; i++) {
		float x = kv_element(type, k + i * stride, d);

		squares += (x - total) * (x - total);
		low = x < low ? x : low;
		high = x > high ? x : high;
	}
	if (out->mean)
		out->mean[d] = (float)total;
	if (out->variance)
		out->variance[d] = (float)(squares / n);
	if (out->smallest)
		out->smallest[d] = low;
	if (out->largest)
		out->largest[d] = high;
}

static void stats(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		  const struct kv_columns *out)
{
	for (uint32_t d = 0; d < dim; d++)
		kv_column_stats(type, k, stride, d, n, out);
}

/* --- queries side by side: x[key][lane] --- */

static void lane_logits(const float *k, uint32_t dim, uint32_t n, const float *q, uint32_t lanes,
			float *out)
{
	for (uint32_t i = 0; i < n; i++, k += dim, out += lanes) {
		memset(out, 0, lanes * sizeof(*out));
		for (uint32_t d = 0; d < dim; d++)
			for (uint32_t l = 0; l < lanes; l++)
				out[l] += k[d] * q[(size_t)d * lanes + l];
	}
}

static void lane_softmax(float *x, uint32_t n, uint32_t lanes, const float *sees, float *max,
			 float *sum)
{
	for (uint32_t l = 0; l < lanes; l++) {
		float *column = x + l;
		double total = 0;

		max[l] = -FLT_MAX;
		for (uint32_t i = 0; i < n; i++) {
			if (sees && (float)i >= sees[l])
				column[(size_t)i * lanes] -= 1e30f;
			if (column[(size_t)i * lanes] > max[l])
				max[l] = column[(size_t)i * lanes];
		}
		for (uint32_t i = 0; i < n; i++) {
			column[(size_t)i * lanes] = expf(column[(size_t)i * lanes] - max[l]);
			total += column[(size_t)i * lanes];
		}
		sum[l] = (float)total;
	}
}

static void lane_weights(float *max, const float *sum, uint32_t n_pieces, uint32_t lanes)
{
	for (uint32_t l = 0; l < lanes; l++) {
		float most = -FLT_MAX;
		double total = 0;

		for (uint32_t i = 0; i < n_pieces; i++)
			most = max[i * lanes + l] > most ? max[i * lanes + l] : most;
		for (uint32_t i = 0; i < n_pieces; i++) {
			max[i * lanes + l] = expf(max[i * lanes + l] - most);
			total += (double)sum[i * lanes + l] * max[i * lanes + l];
		}
		for (uint32_t i = 0; i < n_pieces; i++)
			max[i * lanes + l] = (float)(max[i * lanes + l] / total);
	}
}

static void lane_sum(const float *x, uint32_t n, uint32_t lanes, const float *weights, float *out)
{
	for (uint32_t i = 0; i < n; i++, x += lanes) {
		double total = 0;

		for (uint32_t l = 0; l < lanes; l++)
			total += (double)x[l] * weights[l];
		out[i] += (float)total;
	}
}

static void lane_max(const float *x, uint32_t n, uint32_t lanes, const float *weights, float *out)
{
	for (uint32_t i = 0; i < n; i++, x += lanes)
		for (uint32_t l = 0; l < lanes; l++)
			out[i] = x[l] * weights[l] > out[i] ? x[l] * weights[l] : out[i];
}

static void lane_sizes(const float *x, uint32_t n, uint32_t lanes, float *out)
{
	for (uint32_t l = 0; l < lanes; l++) {
		double total = 0;

		for (uint32_t i = 0; i < n; i++)
			total += (double)fabsf(x[(size_t)i * lanes + l]);
		out[l] += (float)total;
	}
}

/* --- attention's output --- */

static void values(uint32_t type, const char *v, int64_t stride, uint32_t dim, uint32_t n,
		   const float *weights, size_t w_stride, uint32_t n_q, float *out)
{
	for (uint32_t i = 0; i < n; i++, v += stride)
		for (uint32_t d = 0; d < dim; d++)
			for (uint32_t j = 0; j < n_q; j++)
				out[(size_t)j * dim + d] += weights[j * w_stride + i] *
							    kv_element(type, v, d);
}

static void lane_values(const float *v, uint32_t dim, uint32_t n, const float *x, uint32_t lanes,
			const float *keep, const float *add, float *out)
{
	for (uint32_t d = 0; d < dim; d++, out += lanes) {
		for (uint32_t l = 0; l < lanes; l++) {
			float total = 0;

			for (uint32_t i = 0; i < n; i++)
				total += v[(size_t)i * dim + d] * x[(size_t)i * lanes + l];
			out[l] = out[l] * keep[l] + total * add[l];
		}
	}
}

static void lane_join(float *max, float *sum, const float *tile_max, const float *tile_sum,
		      uint32_t lanes, float *keep, float *add)
{
	for (uint32_t l = 0; l < lanes; l++) {
		float most = tile_max[l] > max[l] ? tile_max[l] : max[l];

		keep[l] = expf(max[l] - most);
		add[l] = expf(tile_max[l] - most);
		sum[l] = sum[l] * keep[l] + tile_sum[l] * add[l];
		max[l] = most;
	}
}

/* --- arrays of numbers --- */

static float total(const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += x[i];
	return (float)sum;
}

static float entropy(const float *x, size_t n, float epsilon)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum -= x[i] * logf(x[i] + epsilon);
	return (float)sum;
}

static void moments(const float *x, size_t n, float share, float *mean, float *squares)
{
	for (size_t i = 0; i < n; i++) {
		float from = x[i] - mean[i];

		mean[i] += from * share;
		squares[i] += from * (x[i] - mean[i]);
	}
}

static void add(const float *x, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] += x[i];
}

static void larger(const float *x, size_t n, float *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = x[i] > out[i] ? x[i] : out[i];
}

static void quadratic(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		      const float *a, const float *b, float *out)
{
	for (uint32_t i = 0; i < n; i++, k += stride) {
		double total = 0;

		for (uint32_t d = 0; d < dim; d++) {
			double y = b[d];

			for (uint32_t e = 0; e < dim; e++)
				y += (double)a[(size_t)d * dim + e] * kv_element(type, k, e);
			total += y * kv_element(type, k, d);
		}
		out[i] = (float)total;
	}
}

const struct kv_cpu_ops kv_cpu_scalar = {
	.dots = dots,
	.scale = scale,
	.to_f32 = to_f32,
	.max = max,
	.softmax = softmax,
	.exp_add = exp_add,
	.exp_raise = exp_raise,
	.exp_scale = exp_scale,
	.sum_bytes = sum_bytes,
	.multiply_add = multiply_add,
	.rows = rows,
	.norms = norms,
	.sum = sum,
	.stats = stats,
	.lane_logits = lane_logits,
	.lane_softmax = lane_softmax,
	.lane_weights = lane_weights,
	.lane_sum = lane_sum,
	.lane_max = lane_max,
	.lane_sizes = lane_sizes,
	.values = values,
	.lane_values = lane_values,
	.lane_join = lane_join,
	.total = total,
	.entropy = entropy,
	.moments = moments,
	.add = add,
	.larger = larger,
	.quadratic = quadratic,
};
