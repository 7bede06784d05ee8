/* SPDX-License-Identifier: Apache-2.0 */
/* Builds made-up caches and the requests that describe them. */
#include "core/testkit/madeup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/vectors.h"
#include "kernels/cpu/arena.h"
#include "core/testkit/random.h"

struct kvmod_model madeup_model(const struct kv_shape *shape)
{
	return kv_model_of_shape(shape, 8192);
}

/* --- contents --------------------------------------------------------------------- */

enum { OF_K, OF_V, OF_Q, OF_EXTRA };

/* Uniformly distributed numbers with deviation 1, the same for the same place. */
static void fill(float *out, size_t n, uint64_t what, uint64_t layer, uint64_t head, uint64_t at)
{
	struct kv_random r = { .state = ((what << 20 | layer) << 20 | head) << 20 ^ at };

	for (size_t i = 0; i < n; i++)
		out[i] = ((float)kv_random_u32(&r) * 0x1p-31f - 1) * 1.7320508f;
}

/* Views point to constant memory; this is the same place, writable. */
static void *inside(const struct madeup *m, const struct kvmod_view *view)
{
	return m->bytes + ((const unsigned char *)view->data - m->bytes);
}

static void fill_rows(const struct madeup *m, const struct kvmod_segment *s, uint32_t g,
		      const struct kvmod_view *view, uint64_t what, float *row)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);
	unsigned char *out = inside(m, view);

	for (uint32_t i = 0; i < head->n; i++, out += view->stride) {
		fill(row, s->head_dim, what, s->layer, g,
		     head->positions ? (uint64_t)head->positions[i] : i);
		kv_encode(view->type, row, s->head_dim, out);
	}
}

static void fill_queries(const struct madeup *m, const struct kvmod_segment *s)
{
	float *out = inside(m, &s->q);
	size_t n = (size_t)s->n_q_heads * s->head_dim;

	for (uint32_t row = 0; row < s->n_rows; row++, out += n)
		fill(out, n, OF_Q, s->layer, 0, s->logical - s->n_rows + row);
}

/* Sums and norms are above zero, and so is the diagonal of a covariance. */
static void fill_extra(const struct madeup *m, const struct kvmod_segment *s,
		       const struct kvmod_view *view, size_t n)
{
	float *out;

	if (!view->data)
		return;
	out = inside(m, view);
	fill(out, n, OF_EXTRA, s->layer, 0, 0);
	for (size_t i = 0; i < n; i++)
		out[i] = fabsf(out[i]);
}

/* What is above the diagonal is below it too. */
static void mirror(const struct madeup *m, const struct kvmod_segment *s)
{
	size_t dim = s->head_dim;
	float *out = s->q_cov.data ? inside(m, &s->q_cov) : NULL;

	for (uint32_t h = 0; out && h < s->n_q_heads; h++, out += dim * dim)
		for (size_t d = 0; d < dim; d++)
			for (size_t e = 0; e < d; e++)
				out[d * dim + e] = out[e * dim + d];
}

static void fill_segment(const struct madeup *m, const struct kvmod_segment *s, float *row)
{
	size_t heads = s->n_q_heads, dim = s->head_dim;

	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		fill_rows(m, s, g, &kvmod_head_at(s, g)->k, OF_K, row);
		fill_rows(m, s, g, &kvmod_head_at(s, g)->v, OF_V, row);
	}
	if (s->n_rows)
		fill_queries(m, s);
	fill_extra(m, s, &s->colsum, heads * (size_t)s->colsum.head_stride / sizeof(float));
	fill_extra(m, s, &s->wo_norm, heads * (size_t)s->wo_norm.head_stride / sizeof(float));
	fill_extra(m, s, &s->q_mean, heads * dim);
	fill_extra(m, s, &s->q_cov, heads * dim * dim);
	mirror(m, s);
}

/* --- layout ------------------------------------------------------------------------ */

static void lay_out_segment(struct madeup *m, struct kv_arena *p, struct kvmod_segment *s,
			    uint32_t what)
{
	size_t f = sizeof(float), dim = s->head_dim, heads = s->n_q_heads;
	size_t row = kvmod_row_bytes(m->shape.type, dim), longest = kvmod_longest_head(s);
	struct kv_extras extras = { 0 };

	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		struct kvmod_head *head = &m->d.heads[s->layer * s->n_kv_heads + g];

		head->k = kv_view(m->shape.type, kv_take(p, head->n, row), row, 0);
		head->v = kv_view(m->shape.type, kv_take(p, head->n, row), row, 0);
	}
	if (s->n_rows)
		kv_describe_queries(s, kv_take(p, s->n_rows * heads * dim, f), s->n_rows);
	if (what & KVMOD_NEED_COLSUM)
		extras.colsum = kv_take(p, heads * longest, f);
	if (what & KVMOD_NEED_WO_NORM)
		extras.wo_norm = kv_take(p, heads * longest, f);
	if (what & KVMOD_NEED_Q_STATS) {
		extras.q_mean = kv_take(p, heads * dim, f);
		extras.q_cov = kv_take(p, heads * dim * dim, f);
	}
	kv_describe_extras(s, (uint32_t)longest, &extras);
}

static void lay_out(struct madeup *m, struct kv_arena *p, uint32_t what)
{
	for (uint32_t i = 0; i < m->shape.n_segments; i++)
		lay_out_segment(m, p, &m->d.segments[i], what);
}

/* Allocates memory for what is described, and fills it; the heads have their n and positions. */
static int furnish(struct madeup *m, uint32_t rows, uint32_t what)
{
	struct kv_arena p = { 0 };
	float *row = malloc(m->shape.head_dim * sizeof(*row));

	for (uint32_t i = 0; i < m->shape.n_segments; i++)
		m->d.segments[i].n_rows = rows;
	lay_out(m, &p, what);
	m->n_bytes = p.used;
	m->bytes = aligned_alloc(64, p.used);
	if (!m->bytes || !row) {
		free(row);
		madeup_free(m);
		return KVMOD_ENOMEM;
	}
	memset(m->bytes, 0, m->n_bytes);
	p = (struct kv_arena){ .base = m->bytes };
	lay_out(m, &p, what);
	for (uint32_t i = 0; i < m->shape.n_segments; i++)
		fill_segment(m, &m->d.segments[i], row);
	free(row);
	return 0;
}

static int start(struct madeup *m, const struct kv_shape *shape, uint32_t n, uint64_t logical,
		 size_t n_positions)
{
	*m = (struct madeup){ .shape = *shape };
	m->positions = calloc(n_positions + 1, sizeof(*m->positions));
	if (m->positions && kv_describe(&m->d, shape, n, logical) == KVMOD_OK)
		return 0;
	madeup_free(m);
	return KVMOD_ENOMEM;
}

int madeup_first(struct madeup *m, const struct kv_shape *shape, uint32_t n,
		 uint32_t rows, uint32_t what)
{
	int err = start(m, shape, n, n, 0);

	return err ? err : furnish(m, rows < n ? rows : n, what);
}

/* The positions of one head: those that the plan kept, then the new ones. */
static int32_t *carry_over(const struct madeup *before, const struct kvmod_plan *plan,
			   uint32_t i, uint32_t g, uint32_t n_new, struct kvmod_head *head,
			   int32_t *at)
{
	const struct kvmod_segment *s = &before->d.segments[i];
	const struct kvmod_head *old = kvmod_head_at(s, g);
	uint32_t *kept = (uint32_t *)at;	/* indices, replaced by positions below */
	uint32_t n = vectors_kept(&before->d.request, plan, i, g, kept);

	for (uint32_t k = 0; k < n; k++)
		at[k] = old->positions ? old->positions[kept[k]] : (int32_t)kept[k];
	for (uint32_t k = 0; k < n_new; k++)
		at[n + k] = (int32_t)(s->logical + k);
	*head = (struct kvmod_head){ .size = sizeof(*head), .n = n + n_new, .positions = at };
	return at + n + n_new;
}

int madeup_next(struct madeup *m, const struct madeup *before, const struct kvmod_plan *plan,
		uint32_t n_new, uint32_t rows, uint32_t what)
{
	const struct kv_shape *shape = &before->shape;
	uint32_t n_heads = shape->n_segments * shape->n_kv_heads;
	uint64_t logical = before->d.segments[0].logical + n_new;
	size_t n_positions = 0;
	int32_t *at;
	int err;

	for (uint32_t i = 0; i < n_heads; i++)
		n_positions += before->d.heads[i].n + n_new;
	rows = rows < n_new ? rows : n_new;
	err = start(m, shape, 0, logical, n_positions + rows);
	if (err)
		return err;
	at = m->positions;
	for (uint32_t i = 0; i < n_heads; i++)
		at = carry_over(before, plan, i / shape->n_kv_heads, i % shape->n_kv_heads, n_new,
				&m->d.heads[i], at);
	for (uint32_t row = 0; row < rows; row++)
		at[row] = (int32_t)(logical - rows + row);
	for (uint32_t i = 0; i < shape->n_segments; i++)
		m->d.segments[i].row_positions = at;
	return furnish(m, rows, what);
}

void madeup_free(struct madeup *m)
{
	kv_undescribe(&m->d);
	free(m->positions);
	free(m->bytes);
	*m = (struct madeup){ 0 };
}
