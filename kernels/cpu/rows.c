/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/rows.h"

#include <float.h>
#include <math.h>

#include "kernels/cpu/ops.h"

/* Queries whose logits of one tile are held at a time. */
#define BLOCK 8

static uint32_t divide_up(uint32_t a, uint32_t b)
{
	return a / b + (a % b != 0);
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* --- memory ------------------------------------------------------------------- */

/* Hands out whole cache lines; with base NULL it only counts. */
struct arena {
	char *base;
	size_t used;
};

static void *take(struct arena *arena, size_t n, size_t size)
{
	void *memory = arena->base ? arena->base + arena->used : NULL;

	arena->used += (n * size + 63) / 64 * 64;
	return memory;
}

static size_t lay_out(struct kv_rows *r, const struct kvmod_segment *s, uint32_t n,
		      uint32_t n_rows, uint32_t split, void *memory)
{
	struct arena arena = { memory, 0 };
	size_t queries = (size_t)s->n_q_heads * n_rows, parts;

	r->segment = s;
	r->n = n;
	r->n_rows = n_rows;
	r->split = split;
	r->group = s->n_q_heads / s->n_kv_heads;
	r->n_tiles = divide_up(split, KV_TILE) + divide_up(n - split, KV_TILE);
	r->n_chunks = divide_up(r->n_tiles, KV_CHUNK);
	r->n_parts = n_rows == 1 ? r->n_tiles : r->n_chunks;
	parts = queries * r->n_parts;
	r->q = take(&arena, queries * s->head_dim, sizeof(*r->q));
	r->sees = take(&arena, (size_t)s->n_kv_heads * n_rows, sizeof(*r->sees));
	r->max = take(&arena, parts, sizeof(*r->max));
	r->sum = take(&arena, parts, sizeof(*r->sum));
	r->sum2 = take(&arena, parts, sizeof(*r->sum2));
	r->row_max = take(&arena, queries, sizeof(*r->row_max));
	r->row_weight = take(&arena, queries, sizeof(*r->row_weight));
	return arena.used;
}

size_t kv_rows_bytes(const struct kvmod_segment *segment, uint32_t n, uint32_t n_rows,
		     uint32_t split)
{
	struct kv_rows rows;

	return lay_out(&rows, segment, n, n_rows, split, NULL);
}

void kv_rows_init(struct kv_rows *rows, const struct kvmod_segment *segment, uint32_t n,
		  uint32_t n_rows, uint32_t split, void *memory)
{
	lay_out(rows, segment, n, n_rows, split, memory);
}

void kv_rows_load(const struct kv_rows *r)
{
	const struct kvmod_segment *s = r->segment;
	const char *q = (const char *)s->q.data + (s->n_rows - r->n_rows) * s->q.stride;
	float *out = r->q;
	uint32_t g, row, h;

	for (g = 0; g < s->n_kv_heads; g++)
		for (row = 0; row < r->n_rows; row++)
			for (h = g * r->group; h < (g + 1) * r->group; h++) {
				kv_cpu_to_f32(s->q.type,
					      q + row * s->q.stride + h * s->q.head_stride,
					      s->head_dim, out);
				kv_cpu_ops()->scale(out, s->head_dim, s->scale, 0);
				out += s->head_dim;
			}
}

/* --- tiles ---------------------------------------------------------------------- */

uint32_t kv_rows_split_tiles(const struct kv_rows *r)
{
	return divide_up(r->split, KV_TILE);
}

struct kv_tile kv_rows_tile(const struct kv_rows *r, uint32_t tile)
{
	uint32_t before = kv_rows_split_tiles(r), end = tile < before ? r->split : r->n;
	struct kv_tile t;

	t.begin = tile < before ? tile * KV_TILE : r->split + (tile - before) * KV_TILE;
	t.end = smaller(t.begin + KV_TILE, end);
	return t;
}

/* Logits of n queries of a KV head against a tile: [n][KV_TILE]. */
static void tile_logits(const struct kv_rows *r, struct kv_tile t, uint32_t g,
			uint32_t query, uint32_t n, float *x)
{
	const struct kvmod_segment *s = r->segment;

	kv_cpu_logits(&kvmod_head_at(s, g)->k, s->head_dim, t.begin, t.end,
		      r->q + ((size_t)g * r->n_rows * r->group + query) * s->head_dim,
		      n, 1, s->softcap, x, KV_TILE);
}

/* How many positions of the tile a query sees. */
static uint32_t seen(const struct kv_rows *r, struct kv_tile t, uint32_t g, uint32_t query)
{
	uint32_t sees = r->sees[g * r->n_rows + query / r->group];

	return sees <= t.begin ? 0 : smaller(sees, t.end) - t.begin;
}

/* --- first pass ------------------------------------------------------------------- */

static void set_part(const struct kv_rows *r, size_t query, uint32_t part,
		     const struct kv_softmax *s)
{
	size_t i = query * r->n_parts + part;

	r->max[i] = s->max;
	r->sum[i] = s->sum;
	r->sum2[i] = s->sum2;
}

/* Softmax of n queries' tile; those of one row see the same part of it. */
static void tile_softmax(const struct kv_rows *r, struct kv_tile t, uint32_t g, uint32_t query,
			 uint32_t n, float *x, struct kv_softmax *out)
{
	uint32_t j, same;

	for (j = 0; j < n; j += same) {
		uint32_t row_end = r->group - (query + j) % r->group;

		same = smaller(row_end, n - j);
		kv_cpu_softmax_rows(x + j * KV_TILE, KV_TILE, same, seen(r, t, g, query + j), out + j);
	}
}

/* n <= BLOCK queries, from `query` on, against tiles first..last-1 as one part. */
static void scan_part(const struct kv_rows *r, uint32_t first, uint32_t last, uint32_t g,
		      uint32_t query, uint32_t n, uint32_t part)
{
	size_t base = (size_t)g * r->n_rows * r->group + query;
	struct kv_softmax sums[BLOCK], here[BLOCK];
	float x[BLOCK * KV_TILE];
	uint32_t tile, j;

	for (tile = first; tile < last; tile++) {
		struct kv_tile t = kv_rows_tile(r, tile);

		tile_logits(r, t, g, query, n, x);
		tile_softmax(r, t, g, query, n, x, tile == first ? sums : here);
		for (j = 0; j < n && tile > first; j++)
			kv_softmax_merge(&sums[j], &here[j]);
	}
	for (j = 0; j < n; j++)
		set_part(r, base + j, part, &sums[j]);
}

void kv_rows_scan(const struct kv_rows *r, uint32_t chunk, uint32_t g)
{
	uint32_t n_queries = r->n_rows * r->group, query, tile;
	uint32_t first = chunk * KV_CHUNK, last = smaller(first + KV_CHUNK, r->n_tiles);

	if (r->n_rows > 1) {
		for (query = 0; query < n_queries; query += BLOCK)
			scan_part(r, first, last, g, query, smaller(n_queries - query, BLOCK), chunk);
		return;
	}
	for (tile = first; tile < last; tile++)
		for (query = 0; query < n_queries; query += BLOCK)
			scan_part(r, tile, tile + 1, g, query,
				  smaller(n_queries - query, BLOCK), tile);
}

/* --- totals ------------------------------------------------------------------------ */

/* A row that sees nothing pays nothing. */
static int total(const struct kv_rows *r, size_t query)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	float *max = r->max + query * r->n_parts, *sum = r->sum + query * r->n_parts;
	float row_max = ops->max(max, r->n_parts), factor[KV_TILE];
	double row_sum = 0;
	uint32_t part, i, n;

	if (r->sees[query / r->group] == 0) {
		r->row_max[query] = r->row_weight[query] = 0;
		return 0;
	}
	for (part = 0; part < r->n_parts; part += n) {
		n = smaller(r->n_parts - part, KV_TILE);
		memset(factor, 0, sizeof(factor));
		ops->exp_add(max + part, n, row_max, 1, factor);
		memcpy(max + part, factor, n * sizeof(*max));
		for (i = 0; i < n; i++)
			row_sum += (double)sum[part + i] * factor[i];
	}
	r->row_max[query] = row_max;
	r->row_weight[query] = (float)(1 / row_sum);
	return isfinite(row_sum) && row_sum > 0 ? 0 : KVMOD_ENUMERIC;
}

int kv_rows_total(const struct kv_rows *r)
{
	size_t n = (size_t)r->segment->n_q_heads * r->n_rows, i;

	for (i = 0; i < n; i++)
		if (total(r, i) != 0)
			return KVMOD_ENUMERIC;
	return 0;
}

/* --- second pass ------------------------------------------------------------------- */

/*
 * Adds what the newest n_rows rows pay to the tile: query head h of the group to
 * out + h * stride.
 */
static void add_rows(const struct kv_rows *r, uint32_t n_rows, struct kv_tile t, uint32_t g,
		     float *out, size_t stride)
{
	uint32_t n_queries = r->n_rows * r->group, query = (r->n_rows - n_rows) * r->group;
	size_t base = (size_t)g * n_queries;
	float x[BLOCK * KV_TILE];

	while (query < n_queries) {
		uint32_t n = smaller(n_queries - query, BLOCK), j;

		tile_logits(r, t, g, query, n, x);
		for (j = 0; j < n; j++, query++)
			kv_cpu_softmax_add(x + j * KV_TILE, seen(r, t, g, query),
					   r->row_max[base + query], r->row_weight[base + query],
					   out + query % r->group * stride);
	}
}

void kv_rows_attention(const struct kv_rows *r, uint32_t n_rows, uint32_t tile, uint32_t g,
		       float *a, size_t stride)
{
	struct kv_tile t = kv_rows_tile(r, tile);
	const uint32_t *sees = r->sees + (g + 1) * r->n_rows - n_rows;
	uint32_t row = 0, i, h;

	for (h = 0; h < r->group; h++)
		memset(a + h * stride, 0, (t.end - t.begin) * sizeof(*a));
	add_rows(r, n_rows, t, g, a, stride);
	/* All rows from some one on see a position. */
	for (i = t.begin; i < t.end && n_rows > 1; i++) {
		while (row < n_rows && sees[row] <= i)
			row++;
		for (h = 0; h < r->group && row < n_rows; h++)
			a[h * stride + i - t.begin] /= (float)(n_rows - row);
	}
}

void kv_rows_mass(const struct kv_rows *r, uint32_t n_rows, uint32_t tile, uint32_t g, float *out)
{
	struct kv_tile t = kv_rows_tile(r, tile);

	memset(out, 0, (t.end - t.begin) * sizeof(*out));
	add_rows(r, n_rows, t, g, out, 0);
}
