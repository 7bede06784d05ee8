/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Caches of one layer. Each of K and V is a mapping of its own: what a plan cuts
 * goes back to the system when the smaller copy has taken its place.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

size_t gg_row_bytes(const struct gg_engine *engine)
{
	return ggml_row_size(engine->type, engine->net.head_dim);
}

static void memory_free(struct gg_memory *memory)
{
	if (memory->buffer)
		ggml_backend_buffer_free(memory->buffer);
	if (memory->address)
		munmap(memory->address, memory->bytes);
	memset(memory, 0, sizeof(*memory));
}

static bool memory_new(struct gg_memory *memory, size_t bytes)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (address == MAP_FAILED)
		return false;
	memory->address = address;
	memory->bytes = bytes;
	memory->buffer = ggml_backend_cpu_buffer_from_ptr(address, bytes);
	return memory->buffer;
}

void gg_cache_free(struct gg_cache *cache)
{
	memory_free(&cache->k);
	memory_free(&cache->v);
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

static bool cache_new(struct gg_engine *engine, struct gg_cache *cache, const struct gg_pick *picks,
		      uint32_t room, bool positions)
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
	return memory_new(&cache->k, cache->first[n_heads] * row) &&
	       memory_new(&cache->v, cache->first[n_heads] * row);
}

int32_t gg_cache_copy(struct gg_engine *engine, struct gg_cache *to, const struct gg_cache *from,
		      const struct gg_pick *picks, uint64_t logical, uint32_t room)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	size_t row = gg_row_bytes(engine);

	if (!cache_new(engine, to, picks, room, from && needs_positions(from, picks, n_heads, logical))) {
		gg_cache_free(to);
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for a cache");
	}
	for (uint32_t g = 0; from && g < n_heads; g++) {
		size_t source = from->first[g], target = to->first[g];

		copy_rows(&picks[g], (char *)to->k.address + target * row,
			  (const char *)from->k.address + source * row, row);
		copy_rows(&picks[g], (char *)to->v.address + target * row,
			  (const char *)from->v.address + source * row, row);
		if (from->positions)
			copy_rows(&picks[g], to->positions + target, from->positions + source,
				  sizeof(*to->positions));
		else if (to->positions)
			number_rows(&picks[g], to->positions + target);
	}
	return KVMOD_OK;
}
