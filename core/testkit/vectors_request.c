/* SPDX-License-Identifier: Apache-2.0 */
/* Turns golden vectors into requests, and compares plans with the expected decisions. */
#define _GNU_SOURCE
#include "core/testkit/vectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"

/* --- the model and the parameters ------------------------------------------------ */

static struct kv_shape shape_of(const struct vectors_case *c, uint32_t type)
{
	return (struct kv_shape){
		.n_layers = c->n_layers, .n_segments = c->n_layers,
		.n_q_heads = c->n_q_heads, .n_kv_heads = c->n_kv_heads,
		.head_dim = c->head_dim, .type = type,
	};
}

struct kvmod_model vectors_model(const struct vectors_case *c)
{
	const char *base = vectors_param(c, "rope_base"), *rope = vectors_param(c, "rope");
	struct kv_shape shape = shape_of(c, KVMOD_F32);
	struct kvmod_model model = kv_model_of_shape(&shape, 1 << 20);

	if (base)
		model.rope_base = strtof(base, NULL);
	model.rope_interleaved = rope && strcmp(rope, "interleaved") == 0;
	return model;
}

size_t vectors_overrides(const struct vectors_case *c, char *overrides[VECTORS_MAX_PARAMS])
{
	size_t n = 0;

	for (uint32_t i = 0; i < c->n_params; i++) {
		const struct vectors_param *p = &c->params[i];

		if (strcmp(p->key, "rope") == 0 || strcmp(p->key, "rope_base") == 0)
			continue;
		if (asprintf(&overrides[n], "policy %s.%s=%s", c->policy, p->key, p->value) >= 0) {
			n++;
			continue;
		}
		while (n)
			free(overrides[--n]);
		return 0;
	}
	return n;
}

/* --- the request ------------------------------------------------------------------- */

static const float *layer_of(const struct vectors_case *c, enum vectors_input input,
			     uint32_t layer, size_t size)
{
	return c->input[input] ? c->input[input] + layer * size : NULL;
}

static unsigned char *encode(const struct vectors_case *c, enum vectors_input input, uint32_t type)
{
	size_t rows = (size_t)c->n_layers * c->n * c->n_kv_heads;
	size_t bytes = kvmod_row_bytes(type, c->head_dim);
	unsigned char *out = malloc(rows * bytes);

	for (size_t i = 0; out && i < rows; i++)
		kv_encode(type, c->input[input] + i * c->head_dim, c->head_dim, out + i * bytes);
	return out;
}

/* |Wo v|_1 of one query head at one position. */
static float wo_norm(const struct vectors_case *c, const float *wo, const float *v)
{
	double norm = 0;

	for (uint32_t e = 0; e < c->width; e++) {
		double sum = 0;

		for (uint32_t d = 0; d < c->head_dim; d++)
			sum += (double)v[d] * wo[(size_t)d * c->width + e];
		norm += fabs(sum);
	}
	return (float)norm;
}

/* [layer][q_head][n] */
static float *wo_norms(const struct vectors_case *c)
{
	size_t dim = c->head_dim, n_kv = c->n_kv_heads, group = c->n_q_heads / n_kv;
	float *out = malloc((size_t)c->n_layers * c->n_q_heads * c->n * sizeof(*out)), *at = out;

	for (uint32_t l = 0; out && l < c->n_layers; l++) {
		const float *v = layer_of(c, VECTORS_V, l, c->n * n_kv * dim);
		const float *wo = layer_of(c, VECTORS_WO, l, c->n_q_heads * dim * c->width);

		for (uint32_t h = 0; h < c->n_q_heads; h++)
			for (uint32_t i = 0; i < c->n; i++)
				*at++ = wo_norm(c, wo + h * dim * c->width,
						v + (i * n_kv + h / group) * dim);
	}
	return out;
}

static void set_heads(const struct vectors_case *c, uint32_t type, uint32_t layer,
		      struct vectors_request *r)
{
	size_t row = kvmod_row_bytes(type, c->head_dim), all = row * c->n_kv_heads;

	for (uint32_t g = 0; g < c->n_kv_heads; g++) {
		size_t at = layer * all * c->n + g * row, i = (size_t)layer * c->n_kv_heads + g;
		struct kvmod_head *head = &r->d.heads[i];

		head->n = vectors_n(c, i);
		head->k = kv_view(type, r->k ? r->k + at : NULL, all, 0);
		head->v = kv_view(type, r->v ? r->v + at : NULL, all, 0);
		head->positions = c->n_cached ? c->positions + i * c->n : NULL;
	}
}

static void set_segment(const struct vectors_case *c, uint32_t layer, struct vectors_request *r)
{
	size_t heads = c->n_q_heads, dim = c->head_dim;
	struct kvmod_segment *s = &r->d.segments[layer];
	struct kv_extras extras = {
		.colsum = layer_of(c, VECTORS_COLSUM, layer, heads * c->n),
		.wo_norm = r->wo_norm ? r->wo_norm + layer * heads * c->n : NULL,
		.q_mean = layer_of(c, VECTORS_MU, layer, heads * dim),
		.q_cov = layer_of(c, VECTORS_SIGMA, layer, heads * dim * dim),
	};

	kv_describe_queries(s, layer_of(c, VECTORS_Q, layer, c->rows * heads * dim),
			    c->input[VECTORS_Q] ? c->rows : 0);
	kv_describe_extras(s, c->n, &extras);
}

int vectors_request(const struct vectors_case *c, uint32_t type, struct vectors_request *r)
{
	bool norms = c->input[VECTORS_WO] && c->input[VECTORS_V];
	struct kv_shape shape = shape_of(c, type);

	*r = (struct vectors_request){ 0 };
	r->k = c->input[VECTORS_K] ? encode(c, VECTORS_K, type) : NULL;
	r->v = c->input[VECTORS_V] ? encode(c, VECTORS_V, type) : NULL;
	r->wo_norm = norms ? wo_norms(c) : NULL;
	if ((c->input[VECTORS_K] && !r->k) || (c->input[VECTORS_V] && !r->v) ||
	    (norms && !r->wo_norm) || kv_describe(&r->d, &shape, c->n, c->logical)) {
		vectors_request_free(r);
		return KVMOD_ENOMEM;
	}
	for (uint32_t l = 0; l < c->n_layers; l++) {
		set_heads(c, type, l, r);
		set_segment(c, l, r);
	}
	return 0;
}

void vectors_request_free(struct vectors_request *r)
{
	kv_undescribe(&r->d);
	free(r->k);
	free(r->v);
	free(r->wo_norm);
	*r = (struct vectors_request){ 0 };
}

/* --- the plan ------------------------------------------------------------------------- */

static uint32_t add_range(uint32_t begin, uint32_t end, uint32_t *kept)
{
	for (uint32_t i = begin; i < end; i++)
		*kept++ = i;
	return end - begin;
}

uint32_t vectors_kept(const struct kvmod_request *request, const struct kvmod_plan *plan,
		      uint32_t i, uint32_t g, uint32_t *kept)
{
	const struct kvmod_keep *keep = kvmod_keep_at(plan, i);
	uint32_t n = 0;

	if (keep->kind == KVMOD_KEEP_ALL)
		return add_range(0, kvmod_head_at(kvmod_segment_at(request, i), g)->n, kept);
	if (keep->kind == KVMOD_KEEP_HEADS) {
		memcpy(kept, keep->indices + g * keep->index_stride,
		       keep->counts[g] * sizeof(*kept));
		return keep->counts[g];
	}
	for (uint32_t s = 0; s < keep->n_spans; s++)
		n += add_range(keep->spans[s].begin, keep->spans[s].end, kept + n);
	return n;
}

/* The first position that is in only one of two ascending lists; n if there is none. */
static uint32_t first_difference(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b,
				 uint32_t n)
{
	uint32_t i = 0;

	while (i < n_a && i < n_b && a[i] == b[i])
		i++;
	if (i == n_a || i == n_b)
		return i < n_a ? a[i] : i < n_b ? b[i] : n;
	return a[i] < b[i] ? a[i] : b[i];
}

static bool match_head(const struct vectors_case *c, const struct kvmod_request *request,
		       const struct kvmod_plan *plan, uint32_t layer, uint32_t g,
		       uint32_t *kept, char *why, size_t room)
{
	size_t head = (size_t)layer * c->n_kv_heads + g;
	uint32_t count = vectors_kept(request, plan, layer, g, kept);
	uint32_t at = first_difference(kept, count, c->kept + head * c->n, c->counts[head], c->n);

	if (at == c->n)
		return true;
	snprintf(why, room, "layer %u, KV head %u keeps %u of %u positions, expected %u; "
		 "the first difference is position %u", layer, g, count, vectors_n(c, head),
		 c->counts[head], vectors_position(c, head, at));
	return false;
}

static bool match_loss(const struct vectors_case *c, const struct kvmod_plan *plan,
		       char *why, size_t room)
{
	double loss = kvmod_keep_at(plan, 0)->loss;

	if (isnan(c->loss) || fabs(loss - c->loss) <= 1e-4 * fabs(c->loss) + 1e-9)
		return true;
	snprintf(why, room, "loss %.9g, expected %.9g within 1e-4 of it", loss, c->loss);
	return false;
}

bool vectors_match(const struct vectors_case *c, const struct kvmod_request *request,
		   const struct kvmod_plan *plan, char *why, size_t room)
{
	uint32_t *kept = malloc(c->n * sizeof(*kept));
	bool same = kept != NULL;

	if (!kept)
		snprintf(why, room, "out of memory");
	for (uint32_t i = 0; same && i < c->n_layers * c->n_kv_heads; i++)
		same = match_head(c, request, plan, i / c->n_kv_heads, i % c->n_kv_heads,
				  kept, why, room);
	free(kept);
	return same && match_loss(c, plan, why, room);
}
