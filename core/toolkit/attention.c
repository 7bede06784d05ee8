/* SPDX-License-Identifier: Apache-2.0 */
/* The toolkit's attention of the newest queries, and scores computed from it. */
#include "core/toolkit/toolkit.h"

#include <float.h>
#include <math.h>

#include "kernels/cpu/arrays.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/logits.h"

/* Queries that are scored in one pass over the keys. */
#define BLOCK_QUERIES 16

/* A block has as many whole rows as fit BLOCK_QUERIES queries, but at least one. */
static uint32_t block_rows(uint32_t group)
{
	return group < BLOCK_QUERIES ? BLOCK_QUERIES / group : 1;
}

/* The most queries of a block: BLOCK_QUERIES, or one row of a larger group. */
static uint32_t most_queries(uint32_t group)
{
	return group > BLOCK_QUERIES ? group : BLOCK_QUERIES;
}

/* Bytes for the attention of a block, without logits. */
static size_t block_floats(uint32_t group, uint32_t head_dim)
{
	struct kv_attention block = {
		.n_rows = most_queries(group), .group = 1, .head_dim = head_dim, .n_parts = 1,
	};

	return kv_attention_lay_out(&block, NULL) / sizeof(float);
}

/* Memory for a block's attention and logits, and for a mean. */
size_t kv_attention_floats(const struct kvmod_extent *extent)
{
	return block_floats(extent->group, extent->head_dim) +
	       ((size_t)most_queries(extent->group) + 1) * extent->n;
}

static int32_t not_finite(const struct kvmod_task *t)
{
	return kv_task_fail(t, KVMOD_ENUMERIC, "attention is not finite: NaN or infinity in its keys "
			    "or queries");
}

/* What attention is made of must have been asked for. */
static int32_t check_inputs(const struct kvmod_task *t)
{
	if (!t->head->k.data)
		return kv_task_fail(t, KVMOD_EINVAL, "its segment has no keys: a policy's needs ask for "
				    "them with KVMOD_NEED_K");
	if (t->segment->n_rows > 0)
		return KVMOD_OK;
	return kv_task_fail(t, KVMOD_EINVAL, "its segment has no queries: a policy's needs ask for "
			    "rows of them");
}

void kv_queries(const struct kvmod_task *t, uint32_t row, uint32_t n_rows, float *out)
{
	const struct kvmod_segment *segment = t->segment;
	const char *q = segment->q.data;

	for (uint32_t i = 0; i < n_rows * t->group; i++)
		kv_cpu_to_f32(segment->q.type,
			      q + (row + i / t->group) * segment->q.stride +
			      (t->g * t->group + i % t->group) * segment->q.head_stride,
			      segment->head_dim, out + (size_t)i * segment->head_dim);
}

/* Logits of at most one block of rows with the first `sees` positions. */
static void block_logits(const struct kvmod_task *t, uint32_t row, uint32_t n_rows, uint32_t sees,
			 float *out, size_t stride)
{
	const struct kvmod_segment *segment = t->segment;
	float *queries = kv_attention_work(t);

	kv_queries(t, row, n_rows, queries);
	kv_cpu_logits(&t->head->k, segment->head_dim, 0, sees, queries, n_rows * t->group,
		      segment->scale, segment->softcap, out, stride);
}

void kv_logits(const struct kvmod_task *t, uint32_t row, uint32_t n_rows, float *out, size_t stride)
{
	uint32_t step = block_rows(t->group), end = row + n_rows;
	uint32_t sees = n_rows ? kvmod_row_sees(t->segment, t->head, end - 1) : 0;

	for (; row < end; row += step, out += step * t->group * stride)
		block_logits(t, row, row + step <= end ? step : end - row, sees, out, stride);
}

/* Attention of at most one block of rows to all positions that they see; logits are kept. */
static int32_t attend_biased(const struct kvmod_task *t, uint32_t row, uint32_t n_rows, float *logits,
			     const float *bias, struct kv_attention *a)
{
	*a = kv_attention_of(t->segment, t->g, row, n_rows);
	a->logits = logits;
	a->bias = bias;
	kv_attention_lay_out(a, kv_attention_work(t));
	kv_attention_load(a);
	kv_attention_scan(a, 0, 0, t->n);
	return kv_attention_total(a) ? not_finite(t) : 0;
}

static int32_t attend(const struct kvmod_task *t, uint32_t row, uint32_t n_rows, float *logits,
		      struct kv_attention *a)
{
	return attend_biased(t, row, n_rows, logits, NULL, a);
}

int32_t kv_last_attention(const struct kvmod_task *t, float *out)
{
	struct kv_attention a;
	int32_t error = check_inputs(t);

	if (error)
		return error;
	error = attend(t, t->segment->n_rows - 1, 1, out, &a);
	if (error == 0)
		kv_attention_of_logits(&a);
	return error;
}

/* Gets the attention of a block of rows. */
typedef void block_fn(const struct kv_attention *a, void *arg);

/* The newest n_rows rows, or all if there are fewer, from the oldest, block by block. */
static int32_t each_block(const struct kvmod_task *t, uint32_t n_rows, block_fn *fn, void *arg)
{
	const struct kvmod_segment *segment = t->segment;
	uint32_t n = n_rows < segment->n_rows ? n_rows : segment->n_rows;
	uint32_t row = segment->n_rows - n, step = block_rows(t->group);
	float *logits = kv_attention_work(t) + block_floats(t->group, segment->head_dim);
	int32_t error = check_inputs(t);

	for (; row < segment->n_rows && !error; row += step) {
		uint32_t rows = row + step <= segment->n_rows ? step : segment->n_rows - row;
		struct kv_attention a;

		error = attend(t, row, rows, logits, &a);
		if (!error)
			fn(&a, arg);
	}
	return error;
}

struct mean {
	uint32_t m;
	float share;			/* of one row and query head */
	float *out;
};

static void add_block(const struct kv_attention *a, void *mean_)
{
	const struct mean *mean = mean_;

	kv_attention_add(a, a->n_rows, 0, mean->m, mean->share, mean->out, 0);
}

int32_t kv_mean_attention(const struct kvmod_task *t, uint32_t n_rows, uint32_t m, float *out)
{
	uint32_t n = n_rows < t->segment->n_rows ? n_rows : t->segment->n_rows;
	struct mean mean = { .m = m, .share = 1.0f / ((float)n * (float)t->group), .out = out };

	memset(out, 0, m * sizeof(*out));
	return each_block(t, n_rows, add_block, &mean);
}

struct each {
	kvmod_row_fn *fn;
	void *arg;
};

static void hand_out_block(const struct kv_attention *a, void *each_)
{
	const struct each *each = each_;
	float *attention = a->logits;

	kv_attention_of_logits(a);
	for (uint32_t row = 0; row < a->n_rows; row++)
		for (uint32_t h = 0; h < a->group; h++, attention += a->n)
			each->fn(each->arg, a->row + row, h, attention);
}

int32_t kv_each_row(const struct kvmod_task *t, uint32_t n_rows, kvmod_row_fn *fn, void *arg)
{
	struct each each = { fn, arg };

	return each_block(t, n_rows, hand_out_block, &each);
}

void kv_pool(const float *in, uint32_t n, uint32_t width, int32_t pooling, float *out)
{
	if (pooling == KVMOD_POOL_MAX)
		kv_cpu_pool_max(in, n, width / 2, out);
	else
		kv_cpu_pool_average(in, n, width / 2, out);
}

int32_t kv_window_scores(const struct kvmod_task *t, uint32_t window, uint32_t pool,
			 int32_t pooling, float *out)
{
	uint32_t m = t->n > window ? t->n - window : 0;
	float *mean = kv_attention_work(t) + block_floats(t->group, t->segment->head_dim) +
		      (size_t)most_queries(t->group) * t->n;
	int32_t error = kv_mean_attention(t, window, m, mean);

	if (error == 0)
		kv_pool(mean, m, pool, pooling, out);
	return error;
}

/* exp(bias) is the weight, or one that no sum notices in place of 0. */
static int32_t bias_of(const struct kvmod_task *t, const float *weights, float *bias)
{
	for (uint32_t i = 0; i < t->n; i++) {
		if (!isfinite(weights[i]))
			return kv_task_fail(t, KVMOD_ENUMERIC, "the weight of position %u is not finite", i);
		bias[i] = logf(weights[i] > FLT_MIN ? weights[i] : FLT_MIN);
	}
	return 0;
}

int32_t kv_max_attention(const struct kvmod_task *t, uint32_t n_rows, const float *weights, uint32_t m,
			 float *out)
{
	const struct kvmod_segment *segment = t->segment;
	uint32_t n = n_rows < segment->n_rows ? n_rows : segment->n_rows;
	uint32_t row = segment->n_rows - n, step = block_rows(t->group);
	float *logits = kv_attention_work(t) + block_floats(t->group, segment->head_dim);
	float *bias = weights ? logits + (size_t)most_queries(t->group) * t->n : NULL;
	int32_t error = check_inputs(t);

	if (!error && weights)
		error = bias_of(t, weights, bias);
	memset(out, 0, m * sizeof(*out));
	for (; row < segment->n_rows && !error; row += step) {
		uint32_t rows = row + step <= segment->n_rows ? step : segment->n_rows - row;
		struct kv_attention a;

		error = attend_biased(t, row, rows, logits, bias, &a);
		if (!error)
			kv_attention_raise(&a, 0, m, out);
	}
	return error;
}
