/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of one layer. K and V each have memory of their own, so that the memory of
 * evicted rows returns to the system once a smaller copy has replaced it.
 */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/gather.h"

void gg_cache_free(struct gg_cache *cache)
{
	gg_memory_free(&cache->k.memory);
	gg_memory_free(&cache->v.memory);
	gg_extras_free(cache);
	gg_sinks_free(&cache->sinks);
	free(cache->n);
	free(cache->first);
	free(cache->positions);
	memset(cache, 0, sizeof(*cache));
}

uint32_t gg_cache_room(const struct gg_engine *engine, const struct gg_cache *cache)
{
	uint32_t most = 0;

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		uint32_t room = cache->first[g + 1] - cache->first[g];

		most = room > most ? room : most;
	}
	return most;
}

uint32_t gg_rows_before(const struct gg_cache *cache, uint32_t head, uint64_t limit)
{
	uint32_t low = 0, high = cache->n[head];
	const int32_t *positions;

	if (!cache->positions)
		return limit < high ? (uint32_t)limit : high;
	positions = cache->positions + cache->first[head];
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if ((uint64_t)positions[middle] < limit)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
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

/* The number of the next picked rows that lie side by side; *begin: the first of them. */
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

/* In a cache that no row was evicted from, the positions of the picked rows are their numbers. */
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
 * Positions are stored only if they are not 0, 1, 2, ... up to the logical length: in a
 * cache that lost its newest rows, too, the next row's position is not its number.
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

/*
 * A store like another one, in the memory of `old` if it fits. What is left there of other rows
 * does no harm: they are masked, and they are numbers.
 */
static bool take_store(struct gg_engine *engine, enum gg_side side, struct gg_store *store,
		       const struct gg_store *like, size_t n_rows, struct gg_store *old)
{
	bool fits = like && old->memory.bytes && gg_store_fits(engine, side, old, like, n_rows);

	if (!fits) {
		gg_memory_free(&old->memory);
		return gg_store_new(engine, side, store, like, n_rows);
	}
	*store = *old;
	memset(old, 0, sizeof(*old));
	return true;
}

static bool cache_new(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
		      const struct gg_cache *like, const struct gg_pick *picks, uint32_t room,
		      bool positions, struct gg_cache *old)
{
	uint32_t n_heads = engine->net.n_kv_heads;

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
	return take_store(engine, side, &cache->k, like ? &like->k : NULL, cache->first[n_heads], &old->k) &&
	       take_store(engine, side, &cache->v, like ? &like->v : NULL, cache->first[n_heads], &old->v);
}

uint32_t gg_pick_spans(const struct gg_pick *pick)
{
	return pick->spans ? pick->n_spans : 1;
}

uint32_t gg_describe_pick(const struct gg_pick *pick, struct kvmod_gather *gather,
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

struct kvmod_gather gg_move(const struct kvmod_gather *picked, void *to, size_t end, const void *from,
			    size_t begin, uint32_t n_rows, size_t row)
{
	struct kvmod_gather gather = *picked;

	gather.row_bytes = row;
	gather.src_stride = gather.dst_stride = (int64_t)row;
	gather.n_rows = n_rows;
	gather.dst = (char *)to + end * row;
	gather.src = (const char *)from + begin * row;
	return gather;
}

/* The picked sinks become the sinks of the copy; their places are on the host. */
static uint32_t move_sinks(const struct gg_engine *engine, struct gg_sinks *to,
			  const struct gg_sinks *from, const struct gg_pick *pick, uint32_t g,
			  struct kvmod_gather *keys, struct kvmod_span *spans, uint32_t *n_spans)
{
	struct kvmod_gather picked = { .size = sizeof(picked) }, places;
	size_t first = (size_t)g * from->room;
	struct gg_pick rows = *pick;

	gg_pick_before(&rows, from->n[g]);
	to->n[g] = rows.n;
	if (!rows.n)
		return 0;
	*n_spans = gg_describe_pick(&rows, &picked, spans);
	*keys = gg_move(&picked, to->keys.address, first, from->keys.address, first, from->n[g],
			engine->net.head_dim * sizeof(float));
	places = gg_move(&picked, to->places, first, from->places, first, from->n[g],
			 sizeof(*to->places));
	kv_cpu_gather(&places);
	return 1;
}

/* Moves K and V of all heads in one call, on their side; positions are on the host. */
static int32_t gather_heads(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
			    const struct gg_cache *from, const struct gg_pick *picks,
			    struct kvmod_gather *gathers, struct kvmod_span *spans)
{
	size_t k_row = gg_store_row(engine, &from->k), v_row = gg_store_row(engine, &from->v);
	uint32_t n = 0, n_spans;

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		struct kvmod_gather picked = { .size = sizeof(picked) }, positions;

		if (!picks[g].n)
			continue;
		spans += gg_describe_pick(&picks[g], &picked, spans);
		gathers[n++] = gg_move(&picked, to->k.memory.address, to->first[g],
				       from->k.memory.address, from->first[g], from->n[g], k_row);
		gathers[n++] = gg_move(&picked, to->v.memory.address, to->first[g],
				       from->v.memory.address, from->first[g], from->n[g], v_row);
		if (from->positions) {
			positions = gg_move(&picked, to->positions, to->first[g], from->positions,
					    from->first[g], from->n[g], sizeof(*to->positions));
			kv_cpu_gather(&positions);
		}
		n_spans = 0;
		if (from->sinks.room)
			n += move_sinks(engine, &to->sinks, &from->sinks, &picks[g], g, &gathers[n],
				       spans, &n_spans);
		spans += n_spans;
	}
	if (side == GG_GPU)
		return gg_gpu_gather(engine, gathers, n);
	for (uint32_t i = 0; i < n; i++)
		kv_cpu_gather(&gathers[i]);
	return KVMOD_OK;
}

static int32_t copy_rows(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
			 const struct gg_cache *from, const struct gg_pick *picks)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	struct kvmod_gather *gathers = calloc(3 * (size_t)n_heads, sizeof(*gathers));
	struct kvmod_span *spans;
	size_t n_spans = 0;
	int32_t code;

	for (uint32_t g = 0; g < n_heads; g++)
		n_spans += 2 * gg_pick_spans(&picks[g]);
	spans = calloc(n_spans + 1, sizeof(*spans));
	if (gathers && spans)
		code = gather_heads(engine, side, to, from, picks, gathers, spans);
	else
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory to copy a cache");
	free(gathers);
	free(spans);
	return code;
}

/* Makes room for the sinks of a copy, whose keys are rotated like the original's. */
static bool sinks_like(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		      const struct gg_cache *from)
{
	to->base = from->base;
	if (!from->sinks.room)
		return true;
	if (!gg_sinks_new(engine, side, &to->sinks, from->sinks.room))
		return false;
	to->sinks.moved = from->sinks.moved;
	return true;
}

int32_t gg_cache_copy_again(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
			    const struct gg_cache *from, const struct gg_pick *picks, uint64_t logical,
			    uint32_t room)
{
	struct gg_cache old = *to;
	bool positions = from && needs_positions(from, picks, engine->net.n_kv_heads, logical);
	int32_t code = KVMOD_OK;

	if (!cache_new(engine, side, to, from, picks, room, positions, &old) ||
	    (from && !sinks_like(engine, side, to, from)))
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory for a cache%s",
			       side == GG_GPU ? " on the GPU: set a smaller gpu_layers" : "");
	else if (from)
		code = copy_rows(engine, side, to, from, picks);
	gg_cache_free(&old);
	if (code) {
		gg_cache_free(to);
		return code;
	}
	for (uint32_t g = 0; positions && !from->positions && g < engine->net.n_kv_heads; g++)
		number_rows(&picks[g], to->positions + to->first[g]);
	return KVMOD_OK;
}

int32_t gg_cache_copy(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		      const struct gg_cache *from, const struct gg_pick *picks, uint64_t logical,
		      uint32_t room)
{
	memset(to, 0, sizeof(*to));
	return gg_cache_copy_again(engine, side, to, from, picks, logical, room);
}
