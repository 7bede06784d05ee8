/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bench/cache.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"

/* Rows to draw from: large caches are written at memory speed. */
#define N_ROWS		1024
#define N_LIKED		64		/* of them: like the queries */
#define LIKED		0.7f		/* how much: the logit is this times sqrt(head_dim) */
#define ONE_IN		512		/* positions is liked, in the part that has some */
#define RECENT		32		/* newest positions, all liked */

struct kvmod_model bench_model(const struct bench_shape *s, uint64_t context)
{
	return (struct kvmod_model){
		.size = sizeof(struct kvmod_model),
		.n_layers = s->n_layers,
		.n_q_heads = s->n_q_heads,
		.n_kv_heads = s->n_kv_heads,
		.head_dim = s->head_dim,
		.n_vocab = 1000,
		.context = context,
		.name = "made-up",
		.architecture = "llama",
		.scale = 1 / sqrtf((float)s->head_dim),
		.rope_base = 10000,
	};
}

size_t bench_k_bytes(const struct bench_shape *s, uint32_t n)
{
	return kvmod_row_bytes(s->type, s->head_dim) * n * s->n_kv_heads * bench_segments(s);
}

static size_t query_floats(const struct bench_shape *s, uint32_t rows)
{
	return (size_t)rows * s->n_q_heads * s->head_dim;
}

size_t bench_q_bytes(const struct bench_shape *s, uint32_t n, const struct kvmod_needs *needs)
{
	return query_floats(s, kvmod_needs_rows(needs, n)) * sizeof(float);
}

/* Column sums or |Wo v|, then means, then covariances, of all heads. */
size_t bench_extra_bytes(const struct bench_shape *s, uint32_t n, const struct kvmod_needs *needs)
{
	if (!(needs->what & (KVMOD_NEED_COLSUM | KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM)))
		return 0;
	return (n + s->head_dim + (size_t)s->head_dim * s->head_dim) * s->n_q_heads * sizeof(float);
}

size_t bench_cache_bytes(const struct bench_shape *s, uint32_t n, const struct kvmod_needs *needs)
{
	return bench_k_bytes(s, n) * (needs->what & KVMOD_NEED_V ? 2 : 1) +
		bench_q_bytes(s, n, needs) + bench_extra_bytes(s, n, needs);
}

/* --- rows ------------------------------------------------------------------------- */

struct pattern {
	float *direction;		/* what all queries have in common */
	unsigned char *rows;		/* encoded; the first N_LIKED are near the direction */
	size_t row_bytes;
};

static void pattern_free(struct pattern *p)
{
	free(p->direction);
	free(p->rows);
}

static bool pattern_make(struct pattern *p, const struct bench_shape *s, struct kv_random *r)
{
	float *row = malloc(s->head_dim * sizeof(*row));

	p->row_bytes = kvmod_row_bytes(s->type, s->head_dim);
	p->direction = malloc(s->head_dim * sizeof(*p->direction));
	p->rows = malloc(N_ROWS * p->row_bytes);
	if (!row || !p->direction || !p->rows) {
		free(row);
		pattern_free(p);
		return false;
	}
	for (uint32_t d = 0; d < s->head_dim; d++)
		p->direction[d] = kv_random_normal(r);
	for (uint32_t i = 0; i < N_ROWS; i++) {
		for (uint32_t d = 0; d < s->head_dim; d++)
			row[d] = kv_random_normal(r) + (i < N_LIKED ? LIKED * p->direction[d] : 0);
		kv_encode(s->type, row, s->head_dim, p->rows + i * p->row_bytes);
	}
	free(row);
	return true;
}

/* Sinks, recent positions, and some since `oldest` are liked. */
static void fill_head(const struct pattern *p, struct kv_random *r, uint32_t n, uint32_t oldest,
		      unsigned char *out)
{
	for (uint32_t i = 0; i < n; i++, out += p->row_bytes) {
		uint32_t x = kv_random_u32(r);
		bool liked = i < 2 || i + RECENT >= n || (i >= oldest && (x >> 10) % ONE_IN == 0);

		memcpy(out, p->rows + (liked ? x % N_LIKED : N_LIKED + x % (N_ROWS - N_LIKED)) *
		       p->row_bytes, p->row_bytes);
	}
}

static void fill_cache(const struct pattern *p, struct kv_random *r, const struct bench_shape *s,
		       uint32_t n, unsigned char *out)
{
	for (uint32_t i = 0; i < bench_segments(s); i++) {
		uint32_t oldest = kv_random_range(r, 0, n - 1);

		for (uint32_t g = 0; g < s->n_kv_heads; g++, out += n * p->row_bytes)
			fill_head(p, r, n, oldest, out);
	}
}

static void fill_queries(const struct pattern *p, struct kv_random *r, const struct bench_shape *s,
			 uint32_t rows, float *q)
{
	for (size_t i = 0; i < query_floats(s, rows); i++)
		q[i] = p->direction[i % s->head_dim] + 0.5f * kv_random_normal(r);
}

static void fill_extra(struct kv_random *r, const struct bench_shape *s, uint32_t n, float *extra)
{
	size_t dim = s->head_dim, heads = s->n_q_heads;

	for (size_t i = 0; i < n * heads; i++)
		*extra++ = fabsf(kv_random_normal(r));
	for (size_t i = 0; i < dim * heads; i++)
		*extra++ = kv_random_normal(r);
	for (size_t i = 0; i < dim * dim * heads; i++)
		*extra++ = i / dim % dim == i % dim;
}

/* --- request ------------------------------------------------------------------------ */

static struct kvmod_view floats(const float *data, size_t offset, size_t stride, size_t head_stride)
{
	return (struct kvmod_view){
		sizeof(struct kvmod_view), KVMOD_F32, data ? data + offset : NULL,
		(int64_t)(stride * sizeof(*data)), (int64_t)(head_stride * sizeof(*data)),
	};
}

static struct kvmod_view rows(const struct bench_shape *s, void *data, size_t head, uint32_t n)
{
	size_t row = kvmod_row_bytes(s->type, s->head_dim);

	return (struct kvmod_view){
		sizeof(struct kvmod_view), s->type,
		data ? (unsigned char *)data + head * n * row : NULL, (int64_t)row, 0,
	};
}

static struct kvmod_segment segment(const struct bench_cache *c, const struct bench_shape *s,
				    uint32_t n, uint32_t i)
{
	size_t dim = s->head_dim, mean = (size_t)n * s->n_q_heads, cov = mean + dim * s->n_q_heads;

	return (struct kvmod_segment){
		.size = sizeof(struct kvmod_segment),
		.layer = i % s->n_layers, .sequence = i / s->n_layers, .logical = n,
		.n_q_heads = s->n_q_heads, .n_kv_heads = s->n_kv_heads,
		.head_dim = s->head_dim, .total_heads = s->n_kv_heads,
		.scale = 1 / sqrtf((float)dim),
		.head_stride = sizeof(c->heads[0]), .heads = c->heads + (size_t)i * s->n_kv_heads,
		.q = floats(c->q, 0, dim * s->n_q_heads, dim),
		.colsum = floats(c->extra, 0, 0, n), .wo_norm = floats(c->extra, 0, 0, n),
		.q_mean = floats(c->extra, mean, 0, dim),
		.q_cov = floats(c->extra, cov, dim, dim * dim),
		.n_q_stat = n,
	};
}

bool bench_cache_describe(struct bench_cache *c, const struct bench_shape *s, uint32_t n,
			  const struct kvmod_needs *needs)
{
	size_t n_heads = (size_t)bench_segments(s) * s->n_kv_heads;

	c->segments = calloc(bench_segments(s), sizeof(*c->segments));
	c->heads = calloc(n_heads, sizeof(*c->heads));
	if (!c->segments || !c->heads)
		return false;
	for (size_t i = 0; i < n_heads; i++)
		c->heads[i] = (struct kvmod_head){
			.size = sizeof(c->heads[i]), .n = n,
			.k = rows(s, c->k, i, n), .v = rows(s, c->v, i, n),
		};
	for (uint32_t i = 0; i < bench_segments(s); i++) {
		c->segments[i] = segment(c, s, n, i);
		c->segments[i].n_rows = kvmod_needs_rows(needs, n);
	}
	c->request = (struct kvmod_request){
		.size = sizeof(c->request), .phase = KVMOD_PREFILL,
		.n_layers = s->n_layers, .n_segments = bench_segments(s),
		.segment_stride = sizeof(c->segments[0]), .segments = c->segments,
	};
	return true;
}

/* --- memory ------------------------------------------------------------------------- */

void bench_cache_free(struct bench_cache *c)
{
	free(c->segments);
	free(c->heads);
	free(c->k);
	free(c->v);
	free(c->q);
	free(c->extra);
}

static bool allocate(struct bench_cache *c, const struct bench_shape *s, uint32_t n,
		     const struct kvmod_needs *needs)
{
	size_t extra = bench_extra_bytes(s, n, needs);
	bool need_v = needs->what & KVMOD_NEED_V;

	*c = (struct bench_cache){ .k_bytes = bench_k_bytes(s, n) };
	c->k = malloc(c->k_bytes);
	c->v = need_v ? malloc(c->k_bytes) : NULL;
	c->q = malloc(bench_q_bytes(s, n, needs) + 1);
	c->extra = extra ? malloc(extra) : NULL;
	return c->k && (c->v || !need_v) && c->q && (c->extra || !extra);
}

bool bench_cache_make(struct bench_cache *c, const struct bench_shape *s, uint32_t n,
		      const struct kvmod_needs *needs)
{
	struct kv_random r = { n };
	struct pattern pattern;

	if (!pattern_make(&pattern, s, &r))
		return false;
	if (!allocate(c, s, n, needs) || !bench_cache_describe(c, s, n, needs)) {
		bench_cache_free(c);
		pattern_free(&pattern);
		return false;
	}
	fill_cache(&pattern, &r, s, n, c->k);
	if (c->v)
		fill_cache(&pattern, &r, s, n, c->v);
	fill_queries(&pattern, &r, s, kvmod_needs_rows(needs, n), c->q);
	if (c->extra)
		fill_extra(&r, s, n, c->extra);
	pattern_free(&pattern);
	return true;
}
