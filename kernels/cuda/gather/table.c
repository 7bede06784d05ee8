/* SPDX-License-Identifier: Apache-2.0 */
/* The host's part of a gather: checks, and the table that the kernel reads. */
#include <stdbool.h>
#include <string.h>

#include "kernels/cuda/gather/table.h"

static const struct kvmod_gather *gather_at(const struct kvmod_gather *gathers, uint32_t stride, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_gather, gathers, stride, i);
}

static uint64_t rows_of(const struct kvmod_gather *g)
{
	uint64_t rows = 0;
	uint32_t i;

	if (!g->spans)
		return g->n_indices;
	for (i = 0; i < g->n_spans; i++)
		rows += g->spans[i].end - g->spans[i].begin;
	return rows;
}

/* Rows of the source; 0: unknown. */
static uint64_t rows_there(const struct kvmod_gather *g)
{
	return KVMOD_HAS(g, n_rows) ? g->n_rows : 0;
}

/* One past the highest source row, without a pass over a long list where that is possible. */
static uint64_t source_end(const struct kvmod_gather *g)
{
	uint32_t last = 0, end = 0, i;
	uint64_t k;

	for (i = 0; g->spans && i < g->n_spans; i++)
		end = g->spans[i].end > end ? g->spans[i].end : end;
	if (g->spans || g->n_indices == 0)
		return end;
	if (rows_there(g))
		return rows_there(g);
	for (k = 0; k < g->n_indices; k++)
		last = g->indices[k] > last ? g->indices[k] : last;
	return last + 1ull;
}

/* end: of source_end() */
static bool overlaps(const struct kvmod_gather *g, uint64_t end)
{
	uintptr_t src = (uintptr_t)g->src, dst = (uintptr_t)g->dst;

	return src < dst + rows_of(g) * g->dst_stride && dst < src + end * g->src_stride;
}

/* In overlapping memory, rows must be ascending and never move away from the front. */
static bool moves_forward(const struct kvmod_gather *g)
{
	uint64_t i, last = 0;

	if (g->dst > g->src || g->dst_stride > g->src_stride)
		return false;
	for (i = 0; g->spans && i < g->n_spans; i++) {
		if (g->spans[i].begin < last || g->spans[i].end < g->spans[i].begin)
			return false;
		last = g->spans[i].end;
	}
	for (i = 0; !g->spans && i < g->n_indices; i++)
		if (i && g->indices[i] <= g->indices[i - 1])
			return false;
	return true;
}

static uint32_t tile_rows(const struct kvmod_gather *g)
{
	uint64_t rows = KV_GATHER_TILE / g->row_bytes;

	return rows ? (uint32_t)rows : 1;
}

static uint32_t tiles_of(const struct kvmod_gather *g)
{
	return (uint32_t)((rows_of(g) + tile_rows(g) - 1) / tile_rows(g));
}

/* Does gather i use the list of gather i - 1? */
static bool same_list(const struct kvmod_gather *gathers, uint32_t stride, uint32_t i)
{
	const struct kvmod_gather *g = gather_at(gathers, stride, i), *before;

	if (i == 0)
		return false;
	before = gather_at(gathers, stride, i - 1);
	return g->spans == before->spans && g->n_spans == before->n_spans &&
	       (g->spans || (g->indices == before->indices && g->n_indices == before->n_indices &&
			     rows_there(g) == rows_there(before)));
}

uint32_t kv_cuda_gather_part(const struct kvmod_gather *gathers, uint32_t n_gathers, uint32_t stride,
			     uint64_t n_indices)
{
	uint64_t listed = 0;
	uint32_t i;

	for (i = 0; i < n_gathers; i++) {
		const struct kvmod_gather *g = gather_at(gathers, stride, i);

		if (same_list(gathers, stride, i))
			continue;
		if (listed >= n_indices)
			break;
		listed += g->spans ? 0 : g->n_indices;
	}
	return i;
}

int kv_cuda_gather_prepare(const struct kvmod_gather *gathers, uint32_t n_gathers, uint32_t stride,
			   struct kv_gather_job *job)
{
	uint64_t end = 0;
	uint32_t i;

	*job = (struct kv_gather_job){ .n_gathers = n_gathers };
	for (i = 0; i < n_gathers; i++) {
		const struct kvmod_gather *g = gather_at(gathers, stride, i);

		if (g->row_bytes == 0 || g->row_bytes > UINT32_MAX || rows_of(g) > UINT32_MAX ||
		    g->src_stride < (int64_t)g->row_bytes || g->dst_stride < (int64_t)g->row_bytes)
			return KVMOD_EINVAL;
		if (!same_list(gathers, stride, i))
			end = source_end(g);
		if (overlaps(g, end)) {
			if (!moves_forward(g))
				return KVMOD_EINVAL;
			job->in_place = 1;
		}
		job->n_tiles += tiles_of(g);
		if (same_list(gathers, stride, i))
			continue;
		job->n_spans += g->spans ? g->n_spans : 0;
		job->n_indices += g->spans ? 0 : g->n_indices;
	}
	job->table_bytes = kv_gather_layout(job).end;
	return 0;
}

static uint32_t alignment(const struct kvmod_gather *g)
{
	uint64_t all = (uintptr_t)g->src | (uintptr_t)g->dst | (uint64_t)g->src_stride |
		       (uint64_t)g->dst_stride | g->row_bytes;

	return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
}

static void fill_spans(const struct kvmod_gather *g, struct kv_gather_span *span)
{
	uint32_t target = 0, i;

	for (i = 0; i < g->n_spans; i++) {
		span[i].begin = g->spans[i].begin;
		span[i].target = target;
		target += g->spans[i].end - g->spans[i].begin;
	}
}

void kv_cuda_gather_table(const struct kv_gather_job *job, const struct kvmod_gather *gathers,
			  uint32_t stride, void *table)
{
	struct kv_gather_layout l = kv_gather_layout(job);
	struct kv_gather_entry *e = (void *)((char *)table + l.entries);
	struct kv_gather_span *spans = (void *)((char *)table + l.spans);
	uint32_t *first_tile = (void *)((char *)table + l.first_tiles);
	uint32_t *indices = (void *)((char *)table + l.indices);
	uint32_t tiles = 0, n_spans = 0, i;
	uint64_t n_indices = 0;

	memset(table, 0, l.indices);
	for (i = 0; i < job->n_gathers; i++, e++) {
		const struct kvmod_gather *g = gather_at(gathers, stride, i);

		e->src = g->src;
		e->dst = g->dst;
		e->src_stride = g->src_stride;
		e->dst_stride = g->dst_stride;
		e->n_rows = (uint32_t)rows_of(g);
		e->row_bytes = (uint32_t)g->row_bytes;
		e->tile_rows = tile_rows(g);
		e->in_place = job->in_place && overlaps(g, source_end(g));
		e->aligned = alignment(g);
		e->n_spans = g->spans ? g->n_spans : 0;
		e->first_span = n_spans;
		e->first_index = n_indices;
		first_tile[i] = tiles;
		tiles += tiles_of(g);
		if (same_list(gathers, stride, i)) {
			e->first_span = e[-1].first_span;
			e->first_index = e[-1].first_index;
			continue;
		}
		fill_spans(g, spans + n_spans);
		n_spans += e->n_spans;
		if (!g->spans) {
			memcpy(indices + n_indices, g->indices, g->n_indices * sizeof(*indices));
			n_indices += g->n_indices;
		}
	}
}
