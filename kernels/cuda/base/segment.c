/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of a segment before its description goes to a kernel. */
#include "kernels/cuda/base/segment.h"

#include "kernels/cuda/base/limits.h"

/* A softmax that counts sinks is another one: the kernels know of none. */
static bool has_sinks(const struct kvmod_segment *s)
{
	return KVMOD_HAS(s, sink_logits) && s->sink_logits;
}

int kv_check_shape(const struct kvmod_segment *s)
{
	uint32_t k_type;

	if (s->n_kv_heads == 0 || s->n_q_heads == 0 || s->n_q_heads % s->n_kv_heads)
		return KVMOD_EINVAL;
	k_type = kvmod_head_at(s, 0)->k.type;
	if (s->head_dim == 0 || s->head_dim % 8 || s->head_dim > KV_MAX_DIM ||
	    s->n_q_heads > KV_MAX_HEADS || has_sinks(s) || (k_type == KVMOD_Q8_0 && s->head_dim % 32))
		return KVMOD_ENOTSUP;
	if (k_type < KVMOD_F32 || k_type > KVMOD_Q8_0 ||
	    s->q.type < KVMOD_F32 || s->q.type > KVMOD_BF16)
		return KVMOD_ENOTSUP;
	return 0;
}

bool kv_same_shape(const struct kvmod_segment *a, const struct kvmod_segment *b)
{
	return a->n_q_heads == b->n_q_heads && a->n_kv_heads == b->n_kv_heads &&
	       a->head_dim == b->head_dim && a->scale == b->scale && a->softcap == b->softcap &&
	       a->q.type == b->q.type && has_sinks(a) == has_sinks(b);
}

bool kv_queries_fit(const struct kvmod_segment *s)
{
	size_t bytes = kv_element_bytes(s->q.type);

	return s->n_rows && s->q.data && kv_aligned_to(s->q.data, s->q.stride, bytes) &&
	       s->q.head_stride % (int64_t)bytes == 0;
}

uint32_t kv_seen(const struct kvmod_segment *s, const struct kvmod_head *head, uint32_t row)
{
	int64_t at = s->row_positions ? s->row_positions[row] : (int64_t)s->logical - s->n_rows + row;
	uint32_t low = 0, high = head->n;

	/* Called for every head of every layer: most have no gaps, or the row sees all. */
	if (!head->positions)
		return at < 0 ? 0 : at < high ? (uint32_t)at + 1 : high;
	if (high > 0 && at >= head->positions[high - 1])
		return high;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (head->positions[middle] <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}
