/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Positions, places and phases: how gaps in a cache close. A token's position is its number
 * and never changes: truncation, masks and plans use it. RoPE depends on distances only, so
 * a gap closes when the rows before it move up to the rows behind it. Where a row then stands
 * is its place: the place of a head's sinks moves, the place of any other row is its position.
 * A row's phase, by which RoPE rotates its key, is its place less the sequence's base. The base
 * rises before phases reach the context, because float angles lose precision as they grow.
 */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

bool gg_sinks_new(struct gg_engine *engine, enum gg_side side, struct gg_sinks *sinks, uint32_t room)
{
	size_t n_heads = engine->net.n_kv_heads;

	memset(sinks, 0, sizeof(*sinks));
	sinks->room = room;
	sinks->n = calloc(n_heads, sizeof(*sinks->n));
	sinks->places = calloc(n_heads * room, sizeof(*sinks->places));
	return sinks->n && sinks->places &&
	       gg_memory_new(engine, &sinks->keys, side,
			     n_heads * room * engine->net.head_dim * sizeof(float));
}

void gg_sinks_free(struct gg_sinks *sinks)
{
	gg_memory_free(&sinks->keys);
	free(sinks->n);
	free(sinks->places);
	memset(sinks, 0, sizeof(*sinks));
}

/* --- places ------------------------------------------------------------------------------- */

static uint32_t sink_rows(const struct gg_cache *cache, uint32_t head)
{
	return cache->sinks.room ? cache->sinks.n[head] : 0;
}

static int32_t place_of(const struct gg_cache *cache, uint32_t head, uint32_t row)
{
	if (row < sink_rows(cache, head))
		return cache->sinks.places[(size_t)head * cache->sinks.room + row];
	return cache->positions ? cache->positions[cache->first[head] + row] : (int32_t)row;
}

bool gg_sinks_turn(const struct gg_cache *cache, uint32_t head, uint32_t *n, int32_t *by)
{
	const int32_t *positions = cache->positions ? cache->positions + cache->first[head] : NULL;
	uint32_t rows = sink_rows(cache, head);

	*n = 0;
	*by = 0;
	for (uint32_t i = 0; i < rows; i++) {
		int32_t apart = place_of(cache, head, i) - (positions ? positions[i] : (int32_t)i);

		if (i > 0 && apart != *by)
			return false;
		*by = apart;
	}
	*n = *by ? rows : 0;
	return true;
}

/* The least place of all rows; in an empty cache, the place of the next token. */
static int32_t oldest_place(const struct kvmod_seq *seq)
{
	const struct gg_model *model = &seq->engine->net;
	int32_t oldest = (int32_t)seq->logical;

	for (uint32_t i = 0; i < model->n_layers; i++) {
		const struct gg_cache *cache = &seq->caches[i];

		for (uint32_t g = 0; g < model->n_kv_heads; g++) {
			if (cache->n[g] && place_of(cache, g, 0) < oldest)
				oldest = place_of(cache, g, 0);
		}
	}
	return oldest;
}

uint64_t gg_seq_extent(const struct kvmod_seq *seq)
{
	return seq->logical - (uint64_t)oldest_place(seq);
}

uint64_t gg_seq_room(void *self, struct kvmod_seq *seq)
{
	const struct gg_engine *engine = self;
	uint64_t extent = gg_seq_extent(seq), numbers = INT32_MAX - seq->logical;
	uint64_t room = extent < engine->limit ? engine->limit - extent : 0;

	return room < numbers ? room : numbers;
}

uint64_t gg_replay_room(const struct kvmod_seq *seq)
{
	const struct gg_engine *engine = seq->engine;
	uint64_t widest = 0, width;

	/* Before the first gap closes, places are positions. */
	if (seq->logical <= engine->limit)
		return seq->logical;
	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		const struct gg_cache *cache = &seq->caches[i];

		for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
			uint32_t n = sink_rows(cache, g);

			width = n ? (uint64_t)(place_of(cache, g, n - 1) - place_of(cache, g, 0) + 1) : 0;
			widest = width > widest ? width : widest;
		}
	}
	return widest < engine->limit ? engine->limit - widest : 0;
}

/* --- closing gaps ------------------------------------------------------------------------- */

static void shift(struct gg_sinks *sinks, uint32_t head, uint32_t n, int32_t by)
{
	for (uint32_t i = 0; i < n; i++)
		sinks->places[(size_t)head * sinks->room + i] += by;
	sinks->moved = sinks->moved || by;
}

void gg_sinks_trim(const struct gg_engine *engine, struct gg_cache *cache, uint64_t logical)
{
	for (uint32_t g = 0; cache->sinks.room && g < engine->net.n_kv_heads; g++) {
		uint32_t n = cache->n[g];

		if (cache->sinks.n[g] < n)
			continue;	/* rows behind the sinks remain */
		cache->sinks.n[g] = n;
		if (n && place_of(cache, g, n - 1) >= (int32_t)logical)
			shift(&cache->sinks, g, n, (int32_t)logical - 1 - place_of(cache, g, n - 1));
	}
}

/* How far the first n rows of a head must move. */
static int32_t gap_behind(const struct gg_cache *cache, uint32_t head, uint32_t n, uint64_t logical)
{
	int32_t next = (int32_t)logical;

	if (n > cache->n[head])
		n = cache->n[head];
	if (n < cache->n[head])
		next = place_of(cache, head, n);
	return n ? next - 1 - place_of(cache, head, n - 1) : 0;
}

/*
 * Makes sinks of at least n rows a head. Their keys are rotated back from the keys in the
 * cache, once: they are rounded once more than the cache's own keys, and never again.
 */
static int32_t make_sinks(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
			 uint32_t n)
{
	struct gg_rotation rotation = { .kind = GG_ROTATE_TO_SINKS, .cache = cache };
	struct gg_sinks sinks, old = cache->sinks;
	int32_t code;

	if (!gg_sinks_new(engine, side, &sinks, n > old.room ? n : old.room)) {
		gg_sinks_free(&sinks);
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to keep %u keys for each head", n);
	}
	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		sinks.n[g] = n < cache->n[g] ? n : cache->n[g];
		if (sinks.n[g] < sink_rows(cache, g))
			sinks.n[g] = sink_rows(cache, g);
		for (uint32_t i = 0; i < sinks.n[g]; i++)
			sinks.places[(size_t)g * sinks.room + i] = place_of(cache, g, i);
		rotation.n += sinks.n[g];
	}
	cache->sinks = sinks;
	code = gg_rotate(engine, side, &rotation, 1);
	if (code)
		cache->sinks = old;
	gg_sinks_free(code ? &sinks : &old);
	return code;
}

int32_t gg_close_gap(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache, uint32_t n,
		     uint64_t logical)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	bool open = false, longer = false;
	int32_t code = KVMOD_OK;

	for (uint32_t g = 0; g < n_heads; g++) {
		uint32_t rows = n < cache->n[g] ? n : cache->n[g];

		open = open || gap_behind(cache, g, n, logical);
		longer = longer || sink_rows(cache, g) < rows;
	}
	if (open && longer)
		code = make_sinks(engine, side, cache, n);
	for (uint32_t g = 0; open && !code && g < n_heads; g++)
		shift(&cache->sinks, g, n < cache->n[g] ? n : cache->n[g],
		      gap_behind(cache, g, n, logical));
	return code;
}

/* --- rotating what has moved --------------------------------------------------------------- */

/* The base rises above 0 only where phases would otherwise reach the trained context. */
static void choose_base(struct kvmod_seq *seq, uint64_t n)
{
	const struct gg_engine *engine = seq->engine;
	int32_t oldest = oldest_place(seq);
	uint64_t most = engine->limit < engine->net.context ? engine->limit : engine->net.context;

	if (oldest < seq->base ||
	    (oldest > seq->base && seq->logical + n - (uint64_t)seq->base > most))
		seq->base = oldest;
}

/* Lists the rotations that a layer needs; returns their number. */
static uint32_t note_rotations(struct kvmod_seq *seq, uint32_t layer, struct gg_rotation rotations[2])
{
	struct gg_cache *cache = &seq->caches[layer];
	struct gg_rotation sinks = { .kind = GG_ROTATE_SINKS, .cache = cache, .base = seq->base };
	struct gg_rotation rest = sinks;
	uint32_t n = 0;

	rest.kind = GG_ROTATE_REST;
	for (uint32_t g = 0; g < seq->engine->net.n_kv_heads; g++) {
		sinks.n += sink_rows(cache, g);
		rest.n += cache->n[g] - sink_rows(cache, g);
	}
	if (sinks.n && (cache->sinks.moved || cache->base != seq->base))
		rotations[n++] = sinks;
	if (rest.n && cache->base != seq->base)
		rotations[n++] = rest;
	return n;
}

static int32_t settle_side(struct kvmod_seq *seq, enum gg_side side, struct gg_rotation *rotations)
{
	struct gg_engine *engine = seq->engine;
	uint32_t n = 0;
	int32_t code;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		if (gg_side_of(engine, i) == side)
			n += note_rotations(seq, i, rotations + n);
	}
	code = gg_rotate(engine, side, rotations, n);
	for (uint32_t i = 0; !code && i < engine->net.n_layers; i++) {
		if (gg_side_of(engine, i) != side)
			continue;
		seq->caches[i].base = seq->base;
		seq->caches[i].sinks.moved = false;
	}
	return code;
}

static bool is_settled(const struct kvmod_seq *seq)
{
	for (uint32_t i = 0; i < seq->engine->net.n_layers; i++) {
		if (seq->caches[i].base != seq->base || seq->caches[i].sinks.moved)
			return false;
	}
	return true;
}

static int32_t settle_sides(struct kvmod_seq *seq)
{
	struct gg_rotation *rotations = calloc(2 * (size_t)seq->engine->net.n_layers, sizeof(*rotations));
	int32_t code = KVMOD_OK;

	if (!rotations)
		return gg_fail(seq->engine, KVMOD_ENOMEM, "no memory to rotate keys");
	for (int side = 0; !code && side < GG_N_SIDES; side++)
		code = settle_side(seq, side, rotations);
	free(rotations);
	return code;
}

/*
 * Without memory to rotate keys, a base that was to rise may stay: larger angles are less
 * precise, but correct. It cannot stay once sinks have moved or one side has been rotated.
 */
static bool stays(struct kvmod_seq *seq, int32_t old)
{
	struct gg_engine *engine = seq->engine;
	int32_t wanted = seq->base;

	if (wanted < old)
		return false;
	seq->base = old;
	if (!is_settled(seq)) {
		seq->base = wanted;
		return false;
	}
	if (!gg_runtime_of(engine)->warned_unrotated)
		gg_log(engine, KVMOD_WARN,
		       "no memory to rotate cached keys back: distant positions are computed less exactly");
	gg_runtime_of(engine)->warned_unrotated = true;
	return true;
}

/* A side that fails stays unchanged, and the next call tries again. */
int32_t gg_seq_settle(struct kvmod_seq *seq, uint64_t n)
{
	int32_t old = seq->base, code;

	choose_base(seq, n);
	if (is_settled(seq))
		return KVMOD_OK;
	gg_columns_settle(seq);
	code = settle_sides(seq);
	if (code == KVMOD_ENOMEM && stays(seq, old))
		return KVMOD_OK;
	if (seq->base != old)
		seq->queries.n = 0; /* they were rotated by other phases */
	return code;
}
