/* SPDX-License-Identifier: Apache-2.0 */
/* Draws a layer whose attention is not flat, in memory of odd alignment and strides. */
#include "tests/refreekv_layer.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

/* A key now and then that many queries like: so attention is not flat. */
static void fill_key(struct kv_random *r, const struct shape *s, uint32_t i, float *key)
{
	float scale = kv_random_range(r, 0, 15) == 0 || i < 2 ? 2 : 0.7f;

	for (uint32_t d = 0; d < s->head_dim; d++)
		key[d] = scale * kv_random_normal(r);
}

static void fill_keys(struct layer *l, struct kv_random *r, const struct shape *s)
{
	size_t row = kvmod_row_bytes(s->type, s->head_dim);
	size_t head = row + kv_random_range(r, 0, 9), stride = head * s->n_kv_heads + kv_random_range(r, 0, 33);
	float *key = malloc(s->head_dim * sizeof(*key));
	char *base;

	l->k = malloc(stride * s->n + 64);
	ck_assert(key && l->k);
	base = l->k + kv_random_range(r, 0, 63);
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		l->heads[g] = (struct kvmod_head){
			.size = sizeof(l->heads[g]), .n = s->n,
			.k = { .type = s->type, .data = base + g * head, .stride = (int64_t)stride },
			.positions = l->positions,
		};
		for (uint32_t i = 0; i < s->n; i++) {
			fill_key(r, s, i, key);
			kv_encode(s->type, key, s->head_dim, base + g * head + i * stride);
		}
	}
	free(key);
}

static void fill_queries(struct layer *l, struct kv_random *r, const struct shape *s)
{
	size_t n = (size_t)s->n_rows * s->n_q_heads * s->head_dim;
	float *q = malloc(n * sizeof(*q));

	ck_assert_ptr_nonnull(q);
	for (size_t i = 0; i < n; i++)
		q[i] = kv_random_normal(r);
	l->q = (char *)q;
	l->segment.q = (struct kvmod_view){
		.type = KVMOD_F32, .data = q,
		.stride = (int64_t)(s->n_q_heads * s->head_dim * sizeof(*q)),
		.head_stride = (int64_t)(s->head_dim * sizeof(*q)),
	};
}

/* The newest rows are cached; older positions have gaps. */
static void fill_positions(struct layer *l, struct kv_random *r, const struct shape *s)
{
	int32_t at = 0;

	l->positions = malloc(s->n * sizeof(*l->positions));
	l->row_positions = malloc(s->n_rows * sizeof(*l->row_positions));
	ck_assert(l->positions && l->row_positions);
	for (uint32_t i = 0; i < s->n; i++) {
		l->positions[i] = at;
		at += i + s->n_rows < s->n ? (int32_t)kv_random_range(r, 1, 4) : 1;
	}
	for (uint32_t i = 0; i < s->n_rows; i++)
		l->row_positions[i] = at - (int32_t)s->n_rows + (int32_t)i;
	l->segment.logical = (uint64_t)at;
}

void layer_make(struct layer *l, struct kv_random *r, const struct shape *s)
{
	*l = (struct layer){ 0 };
	l->segment = (struct kvmod_segment){
		.size = sizeof(l->segment), .layer = 0, .logical = s->n,
		.n_q_heads = s->n_q_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim,
		.total_heads = s->n_kv_heads, .scale = 1 / sqrtf((float)s->head_dim),
		.softcap = kv_random_range(r, 0, 3) ? 0 : 8,
		.heads = l->head_list, .n_rows = s->n_rows,
	};
	kvmod_list_heads(l->head_list, l->heads, s->n_kv_heads);
	kvmod_list_segments(l->segment_list, &l->segment, 1);
	if (s->ragged)
		fill_positions(l, r, s);
	l->segment.row_positions = l->row_positions;
	fill_keys(l, r, s);
	fill_queries(l, r, s);
	l->request = (struct kvmod_request){
		.size = sizeof(l->request), .phase = KVMOD_PREFILL, .n_layers = 1, .n_segments = 1,
		.segments = l->segment_list,
	};
}

void layer_free(struct layer *l)
{
	free(l->k);
	free(l->q);
	free(l->positions);
	free(l->row_positions);
}
