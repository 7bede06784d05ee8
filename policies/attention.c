/* SPDX-License-Identifier: Apache-2.0 */
/* The attention that the newest queries pay, and scores made of it. */
#include "policies/common.h"

#include "kernels/cpu/attention.h"

/* Queries (rows x query heads of the group) whose logits are kept at a time. */
#define BLOCK_QUERIES 16

/* A block is as many whole rows as make BLOCK_QUERIES queries, but one at least. */
static uint32_t block_rows(uint32_t group)
{
	return group < BLOCK_QUERIES ? BLOCK_QUERIES / group : 1;
}

/* The most that a block takes: BLOCK_QUERIES, or one row of a larger group. */
static size_t block_floats(uint32_t group, uint32_t head_dim, uint32_t n)
{
	struct kv_attention block = {
		.n_rows = group > BLOCK_QUERIES ? group : BLOCK_QUERIES, .group = 1,
		.head_dim = head_dim, .n = n, .n_parts = 1, .keeps_logits = true,
	};

	return kv_attention_lay_out(&block, NULL) / sizeof(float);
}

size_t kv_attention_floats(const struct kv_extent *extent)
{
	return block_floats(extent->group, extent->head_dim, extent->n) + 2 * (size_t)extent->n;
}

/* Scans n_rows rows against all that they see, into the task's scratch. */
static int32_t attend(const struct kv_task *t, uint32_t row, uint32_t n_rows,
		      struct kv_attention *a)
{
	*a = kv_attention_of(t->segment, t->g, row, n_rows);
	a->keeps_logits = true;
	kv_attention_lay_out(a, t->scratch);
	kv_attention_load(a);
	kv_attention_scan(a, 0, 0, t->n);
	return kv_attention_total(a);
}

int32_t kv_last_attention(const struct kv_task *t, float **attention)
{
	struct kv_attention a;
	int32_t error = attend(t, t->segment->n_rows - 1, 1, &a);

	if (error == 0)
		kv_attention_of_logits(&a);
	*attention = a.logits;
	return error;
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
		struct kv_attention a;

		if (attend(t, row, rows, &a) != 0)
			return KVMOD_ENUMERIC;
		kv_attention_add(&a, rows, 0, m, share, out, 0);
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
