/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Caches of one layer. Each of K and V is memory of its own: what a plan cuts
 * goes back to the system when the smaller copy has taken its place.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

size_t gg_row_bytes(const struct gg_engine *engine)
{
	return ggml_row_size(engine->type, engine->net.head_dim);
}

void gg_cache_free(struct gg_cache *cache)
{
	gg_memory_free(&cache->k);
	gg_memory_free(&cache->v);
	free(cache->n);
	free(cache->first);
	free(cache->positions);
	memset(cache, 0, sizeof(*cache));
}

bool gg_cache_even(const struct gg_engine *engine, const struct gg_cache *cache)
{
	for (uint32_t g = 1; g < engine->net.n_kv_heads; g++) {
		if (cache->n[g] != cache->n[0] ||
		    cache->first[g + 1] - cache->first[g] != cache->first[1])
			return false;
	}
	return true;
}

/* --- picking rows ------------------------------------------------------------------------ */

void gg_pick_before(struct gg_pick *pick, uint32_t limit)
{
	uint32_t n = 0;

	if (pick->spans) {
		for (uint32_t i = 0; i < pick->n_spans && pick->spans[i].begin < limit; i++)
			n += (pick->spans[i].end < limit ? pick->spans[i].end : limit) -
			     pick->spans[i].begin;
		pick->n = n;
	} else if (pick->indices) {
		while (pick->n && pick->indices[pick->n - 1] >= limit)
			pick->n--;
	} else if (pick->n > limit) {
		pick->n = limit;
	}
}

/* The next rows that lie side by side: from *begin on; done: rows picked before. */
static uint32_t next_run(const struct gg_pick *pick, uint32_t done, uint32_t *span, uint32_t *begin)
{
	uint32_t left = pick->n - done, n = 1;

	if (pick->spans) {
		const struct kvmod_span *at = &pick->spans[(*span)++];

		*begin = at->begin;
		return at->end - at->begin < left ? at->end - at->begin : left;
	}
	if (!pick->indices) {
		*begin = done;
		return left;
	}
	*begin = pick->indices[done];
	while (n < left && pick->indices[done + n] == *begin + n)
		n++;
	return n;
}

/* Copies the picked rows of `from`, each `bytes` wide, to the front of `to`. */
static void copy_rows(const struct gg_pick *pick, void *to, const void *from, size_t bytes)
{
	uint32_t begin, span = 0, n;

	for (uint32_t done = 0; done < pick->n; done += n) {
		n = next_run(pick, done, &span, &begin);
		memcpy((char *)to + done * bytes, (const char *)from + begin * bytes, n * bytes);
	}
}

/* Where nothing was cut before: the positions of the picked rows are their numbers. */
static void number_rows(const struct gg_pick *pick, int32_t *to)
{
	uint32_t begin, span = 0, n;

	for (uint32_t done = 0; done < pick->n; done += n) {
		n = next_run(pick, done, &span, &begin);
		for (uint32_t i = 0; i < n; i++)
			to[done + i] = (int32_t)(begin + i);
	}
}

/* Are the picked rows the first n, without a gap? */
static bool is_front(const struct gg_pick *pick, uint64_t n)
{
	uint32_t begin = 0, span = 0;

	return pick->n == n && (!n || (next_run(pick, 0, &span, &begin) == n && !begin));
}

/*
 * Positions are kept only where they are not 0, 1, 2, ... up to the logical
 * length: what lost its newest rows goes on at a position that is not its row.
 */
static bool needs_positions(const struct gg_cache *from, const struct gg_pick *picks,
			    uint32_t n_heads, uint64_t logical)
{
	if (from->positions)
		return true;
	for (uint32_t g = 0; g < n_heads; g++) {
		if (!is_front(&picks[g], logical))
			return true;
	}
	return false;
}

/* --- caches ---------------------------------------------------------------------------------- */

static bool cache_new(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
		      const struct gg_pick *picks, uint32_t room, bool positions)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	size_t row = gg_row_bytes(engine);

	memset(cache, 0, sizeof(*cache));
	cache->n = calloc(n_heads, sizeof(*cache->n));
	cache->first = calloc(n_heads + 1, sizeof(*cache->first));
	if (!cache->n || !cache->first)
		return false;
	for (uint32_t g = 0; g < n_heads; g++) {
		cache->n[g] = picks[g].n;
		cache->first[g + 1] = cache->first[g] + gg_padded((uint64_t)picks[g].n + room);
	}
	if (positions) {
		cache->positions = malloc(cache->first[n_heads] * sizeof(*cache->positions));
		if (!cache->positions)
			return false;
	}
	return gg_memory_new(engine, &cache->k, side, cache->first[n_heads] * row) &&
	       gg_memory_new(engine, &cache->v, side, cache->first[n_heads] * row);
}

static void copy_on_host(const struct gg_engine *engine, struct gg_cache *to,
			 const struct gg_cache *from, const struct gg_pick *picks)
{
	size_t row = gg_row_bytes(engine);

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		size_t source = from->first[g] * row, target = to->first[g] * row;

		copy_rows(&picks[g], (char *)to->k.address + target,
			  (const char *)from->k.address + source, row);
		copy_rows(&picks[g], (char *)to->v.address + target,
			  (const char *)from->v.address + source, row);
	}
}

/* What a pick names, for a device: spans that are cut off where it ends. Gives their number. */
static uint32_t describe_pick(const struct gg_pick *pick, struct kvmod_gather *gather,
			      struct kvmod_span *spans)
{
	uint32_t begin, span = 0, n_spans = 0, n;

	if (pick->indices) {
		gather->indices = pick->indices;
		gather->n_indices = pick->n;
		return 0;
	}
	for (uint32_t done = 0; done < pick->n; done += n) {
		n = next_run(pick, done, &span, &begin);
		spans[n_spans++] = (struct kvmod_span){ .begin = begin, .end = begin + n };
	}
	gather->spans = spans;
	gather->n_spans = n_spans;
	return n_spans;
}

/* K and V of all heads in one call. */
static int32_t gather_heads(struct gg_engine *engine, struct gg_cache *to, const struct gg_cache *from,
			    const struct gg_pick *picks, struct kvmod_gather *gathers,
			    struct kvmod_span *spans)
{
	size_t row = gg_row_bytes(engine);
	uint32_t n = 0;

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		size_t source = from->first[g] * row, target = to->first[g] * row;
		struct kvmod_gather gather = {
			.size = sizeof(gather), .row_bytes = row,
			.src_stride = (int64_t)row, .dst_stride = (int64_t)row,
		};

		if (!picks[g].n)
			continue;
		spans += describe_pick(&picks[g], &gather, spans);
		gather.src = (const char *)from->k.address + source;
		gather.dst = (char *)to->k.address + target;
		gathers[n++] = gather;
		gather.src = (const char *)from->v.address + source;
		gather.dst = (char *)to->v.address + target;
		gathers[n++] = gather;
	}
	return gg_gpu_gather(engine, gathers, n);
}

static int32_t copy_on_gpu(struct gg_engine *engine, struct gg_cache *to,
			   const struct gg_cache *from, const struct gg_pick *picks)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	struct kvmod_gather *gathers = calloc(2 * (size_t)n_heads, sizeof(*gathers));
	struct kvmod_span *spans;
	size_t n_spans = 0;
	int32_t code;

	for (uint32_t g = 0; g < n_heads; g++)
		n_spans += picks[g].spans ? picks[g].n_spans : 1;
	spans = calloc(n_spans + 1, sizeof(*spans));
	if (gathers && spans)
		code = gather_heads(engine, to, from, picks, gathers, spans);
	else
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory to copy a cache");
	free(gathers);
	free(spans);
	return code;
}

static void copy_positions(const struct gg_engine *engine, struct gg_cache *to,
			   const struct gg_cache *from, const struct gg_pick *picks)
{
	for (uint32_t g = 0; to->positions && g < engine->net.n_kv_heads; g++) {
		int32_t *target = to->positions + to->first[g];

		if (from->positions)
			copy_rows(&picks[g], target, from->positions + from->first[g], sizeof(*target));
		else
			number_rows(&picks[g], target);
	}
}

int32_t gg_cache_copy(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		      const struct gg_cache *from, const struct gg_pick *picks, uint64_t logical,
		      uint32_t room)
{
	bool positions = from && needs_positions(from, picks, engine->net.n_kv_heads, logical);
	int32_t code = KVMOD_OK;

	if (!cache_new(engine, side, to, picks, room, positions))
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory for a cache%s",
			       side == GG_GPU ? " on the GPU: a smaller gpu_layers leaves more" : "");
	else if (from && side == GG_GPU)
		code = copy_on_gpu(engine, to, from, picks);
	else if (from)
		copy_on_host(engine, to, from, picks);
	if (code) {
		gg_cache_free(to);
		return code;
	}
	if (from)
		copy_positions(engine, to, from, picks);
	return KVMOD_OK;
}
