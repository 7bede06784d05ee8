/* SPDX-License-Identifier: Apache-2.0 */
/* The attention that the newest queries pay, and scores made of it. */
#include "policies/common.h"

#include <math.h>

#include "kernels/cpu/logits.h"

/* Queries that are scored in one pass over the keys. */
#define BLOCK_QUERIES 16

uint32_t kv_row_sees(const struct kvmod_segment *segment, const struct kvmod_head *head,
		     uint32_t row)
{
	int64_t at = segment->row_positions ? segment->row_positions[row] :
		     (int64_t)segment->logical - segment->n_rows + row;
	uint32_t low = 0, high = head->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int64_t position = head->positions ? head->positions[middle] : (int64_t)middle;

		if (position <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* A block is as many whole rows as make BLOCK_QUERIES queries, but one at least. */
static uint32_t block_rows(uint32_t group)
{
	return group < BLOCK_QUERIES ? BLOCK_QUERIES / group : 1;
}

/* Queries and logits of a block; no block has more than BLOCK_QUERIES or one row. */
static size_t block_floats(uint32_t group, uint32_t head_dim, uint32_t n)
{
	size_t n_queries = group > BLOCK_QUERIES ? group : BLOCK_QUERIES;

	return n_queries * ((size_t)head_dim + n);
}

size_t kv_attention_floats(const struct kv_extent *extent)
{
	return block_floats(extent->group, extent->head_dim, extent->n) + 2 * (size_t)extent->n;
}

/* Logits of n_rows rows against all that the newest of them sees; [row][group][n]. */
static float *block_logits(const struct kv_task *t, uint32_t row, uint32_t n_rows)
{
	const struct kvmod_segment *segment = t->segment;
	uint32_t dim = segment->head_dim, n_queries = n_rows * t->group;
	const char *q = segment->q.data;
	float *queries = t->scratch, *logits = queries + (size_t)n_queries * dim;

	for (uint32_t i = 0; i < n_queries; i++)
		kv_cpu_to_f32(segment->q.type,
			      q + (row + i / t->group) * segment->q.stride +
			      (t->g * t->group + i % t->group) * segment->q.head_stride,
			      dim, queries + (size_t)i * dim);
	kv_cpu_logits(&t->head->k, dim, 0, kv_row_sees(segment, t->head, row + n_rows - 1),
		      queries, n_queries, segment->scale, segment->softcap, logits, t->n);
	return logits;
}

int32_t kv_last_attention(const struct kv_task *t, float **attention)
{
	uint32_t row = t->segment->n_rows - 1, sees = kv_row_sees(t->segment, t->head, row);
	float *a = block_logits(t, row, 1);

	for (uint32_t h = 0; h < t->group; h++, a += t->n) {
		if (sees && kv_cpu_softmax(a, sees) != 0)
			return KVMOD_ENUMERIC;
		memset(a + sees, 0, (t->n - sees) * sizeof(*a));
	}
	*attention = a - (size_t)t->group * t->n;
	return 0;
}

static int32_t add_attention(const float *logits, uint32_t sees, uint32_t m, float share,
			     float *out)
{
	struct kv_softmax s;

	if (sees == 0)
		return 0;
	kv_cpu_softmax_sums(logits, sees, &s);
	if (!isfinite(s.sum))
		return KVMOD_ENUMERIC;
	kv_cpu_softmax_add(logits, sees < m ? sees : m, s.max, share / s.sum, out);
	return 0;
}

int32_t kv_mean_attention(const struct kv_task *t, uint32_t n_rows, uint32_t m, float *out)
{
	const struct kvmod_segment *segment = t->segment;
	uint32_t n = n_rows < segment->n_rows ? n_rows : segment->n_rows;
	uint32_t row = segment->n_rows - n, step = block_rows(t->group);
	float share = 1.0f / ((float)n * (float)t->group);

	memset(out, 0, m * sizeof(*out));
	for (; row < segment->n_rows; row += step) {
		uint32_t rows = row + step <= segment->n_rows ? step : segment->n_rows - row;
		const float *logits = block_logits(t, row, rows);

		for (uint32_t i = 0; i < rows * t->group; i++, logits += t->n)
			if (add_attention(logits, kv_row_sees(segment, t->head, row + i / t->group),
					  m, share, out) != 0)
				return KVMOD_ENUMERIC;
	}
	return 0;
}

int32_t kv_check_pool(const struct kvmod_instance *self, int64_t pool)
{
	if (pool % 2)
		return 0;
	return self->host->fail(self->host->ctx, KVMOD_EINVAL,
				"pool = %lld is even: pooling has a middle, give an odd width",
				(long long)pool);
}

void kv_pool(const float *in, uint32_t n, uint32_t width, int32_t pooling, float *out)
{
	uint32_t half = width / 2;

	memcpy(out, in, n * sizeof(*out));
	for (uint32_t d = 1; d <= half && d < n; d++) {
		if (pooling == KV_POOL_MAX) {
			for (uint32_t i = 0; i < n - d; i++)
				out[i] = in[i + d] > out[i] ? in[i + d] : out[i];
			for (uint32_t i = d; i < n; i++)
				out[i] = in[i - d] > out[i] ? in[i - d] : out[i];
		} else {
			for (uint32_t i = 0; i < n - d; i++)
				out[i] += in[i + d];
			for (uint32_t i = d; i < n; i++)
				out[i] += in[i - d];
		}
	}
	if (pooling == KV_POOL_AVERAGE)
		for (uint32_t i = 0; i < n; i++)
			out[i] /= (float)width;
}

int32_t kv_window_scores(const struct kv_task *t, uint32_t window, uint32_t pool,
			 int32_t pooling, const float **scores)
{
	uint32_t m = t->n > window ? t->n - window : 0;
	float *mean = t->scratch + block_floats(t->group, t->segment->head_dim, t->n);
	float *pooled = mean + t->n;
	int32_t error = kv_mean_attention(t, window, m, mean);

	if (error == 0)
		kv_pool(mean, m, pool, pooling, pooled);
	*scores = pooled;
	return error;
}
