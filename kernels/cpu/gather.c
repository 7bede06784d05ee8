/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction of rows in host memory: spans and lists of indices. */
#include "kernels/cpu/gather.h"

#include <string.h>

/* Moves n rows from index `from` to index `to`. */
static void move_rows(const struct kvmod_gather *g, uint64_t to, uint64_t from, uint64_t n)
{
	const char *src = (const char *)g->src + (int64_t)from * g->src_stride;
	char *dst = (char *)g->dst + (int64_t)to * g->dst_stride;

	if (src == dst && g->src_stride == g->dst_stride)
		return;
	if (g->src_stride == (int64_t)g->row_bytes && g->src_stride == g->dst_stride) {
		memmove(dst, src, n * g->row_bytes);
		return;
	}
	for (; n > 0; n--, src += g->src_stride, dst += g->dst_stride)
		memmove(dst, src, g->row_bytes);
}

static void gather_spans(const struct kvmod_gather *g)
{
	uint64_t to = 0;

	for (uint32_t i = 0; i < g->n_spans; i++) {
		uint64_t n = g->spans[i].end - g->spans[i].begin;

		move_rows(g, to, g->spans[i].begin, n);
		to += n;
	}
}

/* Runs of consecutive indices move as one: kept sets are mostly runs. */
static void gather_indices(const struct kvmod_gather *g)
{
	uint64_t begin = 0;

	for (uint64_t i = 1; i <= g->n_indices; i++) {
		if (i < g->n_indices && g->indices[i] == g->indices[i - 1] + 1)
			continue;
		move_rows(g, begin, g->indices[begin], i - begin);
		begin = i;
	}
}

void kv_cpu_gather(const struct kvmod_gather *g)
{
	if (g->spans)
		gather_spans(g);
	else if (g->n_indices > 0)
		gather_indices(g);
}
