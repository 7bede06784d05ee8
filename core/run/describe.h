/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests for caches that no engine made: from a shape to segments, heads and the arrays
 * of pointers to them. Trials, golden vectors and benchmarks each add memory of their own.
 */
#ifndef KV_CORE_RUN_DESCRIBE_H
#define KV_CORE_RUN_DESCRIBE_H

#include <kvmod/types.h>

struct kv_shape {
	uint32_t n_layers;		/* of the model */
	/* Segment i is layer i % n_layers of sequence i / n_layers. */
	uint32_t n_segments;
	uint32_t n_q_heads, n_kv_heads, head_dim;
	uint32_t type;			/* of K and V */
};

/* A request and all that it points to, except the memory of its views. Zeroed, it is empty. */
struct kv_described {
	struct kvmod_request request;
	struct kvmod_segment *segments;	/* [n_segments] */
	struct kvmod_head *heads;	/* [n_segments][n_kv_heads] */
	const struct kvmod_segment **segment_list;	/* of these */
	const struct kvmod_head **head_list;
};

/* A model of that shape; its name is "made-up". */
struct kvmod_model kv_model_of_shape(const struct kv_shape *shape, uint64_t context);

/*
 * A prefill of `logical` tokens, of which every head caches n. All views are empty: the
 * caller sets k and v of each head, and the others with the calls below. reread() answers
 * made-up weights, which depend on layer, KV head and position. 0; or KVMOD_ENOMEM, without
 * a message and with nothing to free.
 */
int kv_describe(struct kv_described *d, const struct kv_shape *shape, uint32_t n,
		uint64_t logical);
void kv_undescribe(struct kv_described *d);

static inline struct kvmod_view kv_view(uint32_t type, const void *data, size_t stride,
					size_t head_stride)
{
	return (struct kvmod_view){
		.type = type, .data = data,
		.stride = (int64_t)stride, .head_stride = (int64_t)head_stride,
	};
}

/* The newest rows of Q, end to end: [n_rows][n_q_heads][head_dim]. */
void kv_describe_queries(struct kvmod_segment *s, const float *q, uint32_t n_rows);

/* Extras, end to end as kvmod_segment has them, of heads that cache n; NULL: not there. */
struct kv_extras {
	const float *colsum, *wo_norm, *q_mean, *q_cov;
};
void kv_describe_extras(struct kvmod_segment *s, uint32_t n, const struct kv_extras *extras);

#endif
