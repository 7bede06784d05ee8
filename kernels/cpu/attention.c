/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of a few rows of queries to one KV head: scans, totals, and what they give. */
#include "kernels/cpu/attention.h"

#include <float.h>
#include <math.h>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/ops.h"

/* A query is one row of one query head. So many have their logits of a tile at a time. */
#define BLOCK 8

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* --- memory ------------------------------------------------------------------- */

struct kv_attention kv_attention_of(const struct kvmod_segment *segment, uint32_t g,
				    uint32_t row, uint32_t n_rows)
{
	const struct kvmod_head *head = kvmod_head_at(segment, g);

	return (struct kv_attention){
		.segment = segment, .head = head, .g = g, .row = row, .n_rows = n_rows,
		.group = segment->n_q_heads / segment->n_kv_heads,
		.head_dim = segment->head_dim, .n = head->n, .n_parts = 1,
	};
}

static uint32_t queries_of(const struct kv_attention *a)
{
	return a->n_rows * a->group;
}

size_t kv_attention_lay_out(struct kv_attention *a, void *memory)
{
	size_t queries = queries_of(a), parts = queries * a->n_parts;
	struct kv_arena arena = { memory, 0 };

	a->q = kv_take(&arena, queries * a->head_dim, sizeof(*a->q));
	a->sees = kv_take(&arena, a->n_rows, sizeof(*a->sees));
	a->max = kv_take(&arena, parts, sizeof(*a->max));
	a->sum = kv_take(&arena, parts, sizeof(*a->sum));
	a->squares = kv_take(&arena, parts, sizeof(*a->squares));
	a->query_max = kv_take(&arena, queries, sizeof(*a->query_max));
	a->query_weight = kv_take(&arena, queries, sizeof(*a->query_weight));
	return arena.used;
}

/* --- queries -------------------------------------------------------------------- */

static void load_row(const struct kv_attention *a, uint32_t row)
{
	const struct kvmod_segment *s = a->segment;
	const char *q = (const char *)s->q.data + (a->row + row) * s->q.stride +
			(size_t)a->g * a->group * s->q.head_stride;
	float *out = a->q + (size_t)row * a->group * a->head_dim;

	for (uint32_t h = 0; h < a->group; h++, out += a->head_dim) {
		kv_cpu_to_f32(s->q.type, q + h * s->q.head_stride, a->head_dim, out);
		kv_cpu_ops()->scale(out, a->head_dim, s->scale, 0);
	}
	a->sees[row] = kvmod_row_sees(s, a->head, a->row + row);
}

void kv_attention_load(const struct kv_attention *a)
{
	size_t parts = (size_t)queries_of(a) * a->n_parts;

	for (uint32_t row = 0; row < a->n_rows; row++)
		load_row(a, row);
	for (size_t i = 0; i < parts; i++)
		a->max[i] = -FLT_MAX;
	memset(a->sum, 0, parts * sizeof(*a->sum));
	memset(a->squares, 0, parts * sizeof(*a->squares));
}

/* --- a tile: positions begin .. end-1, at most KV_TILE ---------------------------- */

/* Logits of n queries: [n][KV_TILE]. */
static void tile_logits(const struct kv_attention *a, uint32_t begin, uint32_t end,
			uint32_t query, uint32_t n, float *x)
{
	kv_cpu_logits(&a->head->k, a->head_dim, begin, end, a->q + (size_t)query * a->head_dim, n,
		      1, a->segment->softcap, x, KV_TILE);
	for (uint32_t j = 0; j < n && a->bias; j++)
		kv_cpu_ops()->add(a->bias + begin, end - begin, x + j * KV_TILE);
}

/* How many positions of the tile a query sees. */
static uint32_t seen(const struct kv_attention *a, uint32_t begin, uint32_t end, uint32_t query)
{
	uint32_t sees = a->sees[query / a->group];

	return sees <= begin ? 0 : smaller(sees, end) - begin;
}

/* Softmax of n queries' logits; queries of one row see the same part of the tile. */
static void tile_softmax(const struct kv_attention *a, uint32_t begin, uint32_t end,
			 uint32_t query, uint32_t n, float *x, struct kv_softmax *out)
{
	uint32_t j, same;

	for (j = 0; j < n; j += same) {
		same = smaller(a->group - (query + j) % a->group, n - j);
		kv_cpu_softmax_piece(x + j * KV_TILE, KV_TILE, same,
				     seen(a, begin, end, query + j), out + j);
	}
}

/* --- scans ------------------------------------------------------------------------ */

static void add_to_part(const struct kv_attention *a, uint32_t query, uint32_t part,
			const struct kv_softmax *s)
{
	size_t i = (size_t)query * a->n_parts + part;
	struct kv_softmax all = { a->max[i], a->sum[i], a->squares[i] };

	if (all.max == -FLT_MAX && all.sum == 0)
		all = *s;
	else
		kv_softmax_merge(&all, s);
	a->max[i] = all.max;
	a->sum[i] = all.sum;
	a->squares[i] = all.squares;
}

static void scan_tile(const struct kv_attention *a, uint32_t part, uint32_t begin, uint32_t end)
{
	uint32_t n_queries = queries_of(a), query, n, j;
	struct kv_softmax here[BLOCK];
	float x[BLOCK * KV_TILE];

	for (query = 0; query < n_queries; query += n) {
		n = smaller(n_queries - query, BLOCK);
		tile_logits(a, begin, end, query, n, x);
		for (j = 0; j < n && a->logits; j++)
			memcpy(a->logits + (size_t)(query + j) * a->n + begin, x + j * KV_TILE,
			       (end - begin) * sizeof(*x));
		tile_softmax(a, begin, end, query, n, x, here);
		for (j = 0; j < n; j++)
			add_to_part(a, query + j, part, &here[j]);
	}
}

void kv_attention_scan(const struct kv_attention *a, uint32_t part, uint32_t begin, uint32_t end)
{
	/* The newest row sees all that any row sees. */
	end = a->n_rows ? smaller(end, a->sees[a->n_rows - 1]) : 0;
	for (; begin < end; begin += KV_TILE)
		scan_tile(a, part, begin, smaller(begin + KV_TILE, end));
}

/* --- totals ------------------------------------------------------------------------ */

/* A model's attention sink takes part in each softmax, and gets what it is paid. */
static const float *sink_of(const struct kv_attention *a, uint32_t query)
{
	const struct kvmod_segment *s = a->segment;

	return KVMOD_HAS(s, sink_logits) && s->sink_logits && !a->bias ?
	       s->sink_logits + a->g * a->group + query % a->group : NULL;
}

/* A row that sees nothing pays nothing. */
static int total(const struct kv_attention *a, uint32_t query)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	float *max = a->max + (size_t)query * a->n_parts, *sum = a->sum + (size_t)query * a->n_parts;
	const float *sink = sink_of(a, query);
	float query_max = ops->max(max, a->n_parts);
	double query_sum = 0;

	if (a->sees[query / a->group] == 0) {
		a->query_max[query] = a->query_weight[query] = 0;
		return 0;
	}
	if (sink) {
		query_max = *sink > query_max ? *sink : query_max;
		query_sum = exp((double)*sink - query_max);
	}
	ops->exp_scale(max, a->n_parts, query_max, 1);
	for (uint32_t part = 0; part < a->n_parts; part++)
		query_sum += (double)sum[part] * max[part];
	a->query_max[query] = query_max;
	a->query_weight[query] = (float)(1 / query_sum);
	return isfinite(query_sum) && query_sum > 0 ? 0 : KVMOD_ENUMERIC;
}

int kv_attention_total(const struct kv_attention *a)
{
	for (uint32_t query = 0; query < queries_of(a); query++)
		if (total(a, query) != 0)
			return KVMOD_ENUMERIC;
	return 0;
}

/* --- attention ------------------------------------------------------------------- */

void kv_attention_parts(const struct kv_attention *a, uint32_t row, uint32_t h,
			double *share, double *squares)
{
	size_t query = (size_t)row * a->group + h, i = query * a->n_parts;

	for (uint32_t part = 0; part < a->n_parts; part++, i++) {
		double weight = (double)a->max[i] * a->query_weight[query];

		if (share)
			share[part] = a->sum[i] * weight;
		if (squares)
			squares[part] = a->squares[i] * weight * weight;
	}
}

/* Logits of n queries that are kept, or computed again to x; *stride floats from one to the next. */
static const float *logits_again(const struct kv_attention *a, uint32_t begin, uint32_t end,
				 uint32_t query, uint32_t n, float *x, size_t *stride)
{
	*stride = a->logits ? a->n : KV_TILE;
	if (a->logits)
		return a->logits + (size_t)query * a->n + begin;
	tile_logits(a, begin, end, query, n, x);
	return x;
}

static void add_tile(const struct kv_attention *a, uint32_t query, uint32_t begin, uint32_t end,
		     float weight, float *out, size_t head_stride)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	uint32_t n_queries = queries_of(a), n, j;
	float x[BLOCK * KV_TILE];
	size_t stride;

	for (; query < n_queries; query += n) {
		const float *logits;

		n = smaller(n_queries - query, BLOCK);
		logits = logits_again(a, begin, end, query, n, x, &stride);
		for (j = 0; j < n; j++)
			ops->exp_add(logits + j * stride, seen(a, begin, end, query + j),
				     a->query_max[query + j], weight * a->query_weight[query + j],
				     out + (query + j) % a->group * head_stride);
	}
}

void kv_attention_add(const struct kv_attention *a, uint32_t n_rows, uint32_t begin, uint32_t end,
		      float weight, float *out, size_t head_stride)
{
	uint32_t first = (a->n_rows - n_rows) * a->group;

	for (; begin < end; begin += KV_TILE, out += KV_TILE)
		add_tile(a, first, begin, smaller(begin + KV_TILE, end), weight, out, head_stride);
}

static void raise_tile(const struct kv_attention *a, uint32_t begin, uint32_t end, float *out)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	uint32_t n_queries = queries_of(a), query, n, j;
	float x[BLOCK * KV_TILE];
	size_t stride;

	for (query = 0; query < n_queries; query += n) {
		const float *logits;

		n = smaller(n_queries - query, BLOCK);
		logits = logits_again(a, begin, end, query, n, x, &stride);
		for (j = 0; j < n; j++)
			ops->exp_raise(logits + j * stride, seen(a, begin, end, query + j),
				       a->query_max[query + j], a->query_weight[query + j], out);
	}
}

void kv_attention_raise(const struct kv_attention *a, uint32_t begin, uint32_t end, float *out)
{
	for (; begin < end; begin += KV_TILE, out += KV_TILE)
		raise_tile(a, begin, smaller(begin + KV_TILE, end), out);
}

void kv_attention_of_logits(const struct kv_attention *a)
{
	float *x = a->logits;

	for (uint32_t query = 0; query < queries_of(a); query++, x += a->n) {
		uint32_t sees = a->sees[query / a->group];

		kv_cpu_ops()->exp_scale(x, sees, a->query_max[query], a->query_weight[query]);
		memset(x + sees, 0, (a->n - sees) * sizeof(*x));
	}
}
