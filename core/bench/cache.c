/* SPDX-License-Identifier: Apache-2.0 */
/* Builds made-up caches as large as real ones, for kvmod bench. */
#include "core/bench/cache.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"

/* Rows are copied from a few, so that a large cache is written at memory speed. */
#define N_ROWS		1024
#define N_LIKED		64		/* rows of them that are similar to the queries */
#define LIKED		0.7f		/* how similar: the logit is this times sqrt(head_dim) */
#define ONE_IN		512		/* one position in so many is similar, since `oldest` */
#define RECENT		32		/* newest positions, all similar */

static struct kv_shape shape_of(const struct bench_shape *s)
{
	return (struct kv_shape){
		.n_layers = s->n_layers, .n_segments = bench_segments(s),
		.n_q_heads = s->n_q_heads, .n_kv_heads = s->n_kv_heads,
		.head_dim = s->head_dim, .type = s->type,
	};
}

struct kvmod_model bench_model(const struct bench_shape *s, uint64_t context)
{
	struct kv_shape shape = shape_of(s);

	return kv_model_of_shape(&shape, context);
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
	float *direction;		/* the common part of all queries */
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

/* Sinks, recent positions, and some positions since `oldest` are similar to the queries. */
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

static struct kvmod_view rows(const struct bench_shape *s, void *data, size_t head, uint32_t n)
{
	size_t row = kvmod_row_bytes(s->type, s->head_dim);

	return kv_view(s->type, data ? (unsigned char *)data + head * n * row : NULL, row, 0);
}

/* All segments share them; column sums and |Wo v| are the same numbers. */
static struct kv_extras extras(const float *extra, const struct bench_shape *s, uint32_t n)
{
	size_t heads = s->n_q_heads, dim = s->head_dim;

	if (!extra)
		return (struct kv_extras){ 0 };
	return (struct kv_extras){
		.colsum = extra, .wo_norm = extra, .q_mean = extra + n * heads,
		.q_cov = extra + n * heads + dim * heads,
	};
}

bool bench_cache_describe(struct bench_cache *c, const struct bench_shape *s, uint32_t n,
			  const struct kvmod_needs *needs)
{
	struct kv_extras shared = extras(c->extra, s, n);
	struct kv_shape shape = shape_of(s);

	if (kv_describe(&c->d, &shape, n, n))
		return false;
	/* A policy that is asked while decoding may cut only then. */
	if (needs->decode_every)
		c->d.request.phase = KVMOD_DECODE;
	for (size_t i = 0; i < (size_t)bench_segments(s) * s->n_kv_heads; i++) {
		c->d.heads[i].k = rows(s, c->k, i, n);
		c->d.heads[i].v = rows(s, c->v, i, n);
	}
	for (uint32_t i = 0; i < bench_segments(s); i++) {
		kv_describe_queries(&c->d.segments[i], c->q, kvmod_needs_rows(needs, n));
		kv_describe_extras(&c->d.segments[i], n, &shared);
	}
	return true;
}

/* --- memory ------------------------------------------------------------------------- */

void bench_cache_free(struct bench_cache *c)
{
	kv_undescribe(&c->d);
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
