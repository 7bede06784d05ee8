/* SPDX-License-Identifier: Apache-2.0 */
/* Builds requests for caches that no engine made, all but the memory of their rows. */
#include "core/run/describe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float scale_of(const struct kv_shape *shape)
{
	return (float)(1 / sqrt(shape->head_dim));
}

struct kvmod_model kv_model_of_shape(const struct kv_shape *shape, uint64_t context)
{
	return (struct kvmod_model){
		.size = sizeof(struct kvmod_model),
		.n_layers = shape->n_layers,
		.n_q_heads = shape->n_q_heads,
		.n_kv_heads = shape->n_kv_heads,
		.head_dim = shape->head_dim,
		.n_vocab = 1000,
		.context = context,
		.name = "made-up",
		.architecture = "llama",
		.scale = scale_of(shape),
		.rope_base = 10000,
		.flags = KVMOD_MODEL_MADE_UP,
	};
}

static struct kvmod_segment segment(const struct kv_described *d, const struct kv_shape *shape,
				    uint32_t i, uint64_t logical)
{
	return (struct kvmod_segment){
		.size = sizeof(struct kvmod_segment),
		.layer = i % shape->n_layers,
		.sequence = i / shape->n_layers,
		.logical = logical,
		.n_q_heads = shape->n_q_heads,
		.n_kv_heads = shape->n_kv_heads,
		.head_dim = shape->head_dim,
		.total_heads = shape->n_kv_heads,
		.scale = scale_of(shape),
		.heads = d->head_list + (size_t)i * shape->n_kv_heads,
	};
}

/* Between 0 and 1: a step of a multiplicative generator for each number. */
static float made_up_weight(uint32_t layer, uint32_t g, uint64_t position)
{
	uint64_t x = (position << 20 ^ (uint64_t)layer << 10 ^ g) * 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	return (float)(x >> 40) * 0x1p-24f;
}

static int32_t reread(const struct kvmod_request *r, const struct kvmod_reread *what, float *out)
{
	uint64_t n = what->end - what->begin;

	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		memset(out, 0, s->n_kv_heads * n * sizeof(*out));
		for (uint32_t g = 0; g < s->n_kv_heads; g++, out += n) {
			const struct kvmod_head *head = kvmod_head_at(s, g);

			for (uint32_t k = 0; k < head->n; k++) {
				uint64_t at = head->positions ? (uint64_t)head->positions[k] : k;

				if (at >= what->begin && at < what->end)
					out[at - what->begin] = made_up_weight(s->layer, g, at);
			}
		}
	}
	return KVMOD_OK;
}

int kv_describe(struct kv_described *d, const struct kv_shape *shape, uint32_t n,
		uint64_t logical)
{
	size_t n_heads = (size_t)shape->n_segments * shape->n_kv_heads;

	*d = (struct kv_described){
		.segments = calloc(shape->n_segments, sizeof(*d->segments)),
		.heads = calloc(n_heads, sizeof(*d->heads)),
		.segment_list = calloc(shape->n_segments, sizeof(*d->segment_list)),
		.head_list = calloc(n_heads, sizeof(*d->head_list)),
	};
	if (!d->segments || !d->heads || !d->segment_list || !d->head_list) {
		kv_undescribe(d);
		return KVMOD_ENOMEM;
	}
	kvmod_list_segments(d->segment_list, d->segments, shape->n_segments);
	kvmod_list_heads(d->head_list, d->heads, n_heads);
	for (size_t i = 0; i < n_heads; i++)
		d->heads[i] = (struct kvmod_head){ .size = sizeof(*d->heads), .n = n };
	for (uint32_t i = 0; i < shape->n_segments; i++)
		d->segments[i] = segment(d, shape, i, logical);
	d->request = (struct kvmod_request){
		.size = sizeof(d->request),
		.phase = KVMOD_PREFILL,
		.n_layers = shape->n_layers,
		.n_segments = shape->n_segments,
		.segments = d->segment_list,
		.reread = reread,
	};
	return KVMOD_OK;
}

void kv_undescribe(struct kv_described *d)
{
	free(d->segments);
	free(d->heads);
	free(d->segment_list);
	free(d->head_list);
	*d = (struct kv_described){ 0 };
}

void kv_describe_queries(struct kvmod_segment *s, const float *q, uint32_t n_rows)
{
	size_t dim = s->head_dim * sizeof(float);

	s->q = kv_view(KVMOD_F32, q, s->n_q_heads * dim, dim);
	s->n_rows = n_rows;
}

void kv_describe_extras(struct kvmod_segment *s, uint32_t n, const struct kv_extras *extras)
{
	size_t f = sizeof(float), dim = s->head_dim;

	s->colsum = kv_view(KVMOD_F32, extras->colsum, f, n * f);
	s->wo_norm = kv_view(KVMOD_F32, extras->wo_norm, f, n * f);
	s->q_mean = kv_view(KVMOD_F32, extras->q_mean, f, dim * f);
	s->q_cov = kv_view(KVMOD_F32, extras->q_cov, dim * f, dim * dim * f);
	s->n_q_stat = extras->q_mean ? s->logical : 0;
}
