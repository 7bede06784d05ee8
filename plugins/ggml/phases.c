/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Positions, places and phases. A token's position is its number and never changes:
 * truncating, masks and plans go by it. RoPE sees distances only, so a gap closes when
 * the rows before it move up to those behind it. Where a row then stands is its place:
 * for the lead of a head it moves, for all other rows it is the position. A row's phase,
 * the angle that its key is turned by, is its place less the sequence's base. The base
 * rises when phases would reach the context, because float angles get worse as they grow.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

bool gg_lead_new(struct gg_engine *engine, enum gg_side side, struct gg_lead *lead, uint32_t room)
{
	size_t n_heads = engine->net.n_kv_heads;

	memset(lead, 0, sizeof(*lead));
	lead->room = room;
	lead->n = calloc(n_heads, sizeof(*lead->n));
	lead->places = calloc(n_heads * room, sizeof(*lead->places));
	return lead->n && lead->places &&
	       gg_memory_new(engine, &lead->keys, side,
			     n_heads * room * engine->net.head_dim * sizeof(float));
}

void gg_lead_free(struct gg_lead *lead)
{
	gg_memory_free(&lead->keys);
	free(lead->n);
	free(lead->places);
	memset(lead, 0, sizeof(*lead));
}

/* --- places ------------------------------------------------------------------------------- */

static uint32_t lead_rows(const struct gg_cache *cache, uint32_t head)
{
	return cache->lead.room ? cache->lead.n[head] : 0;
}

static int32_t place_of(const struct gg_cache *cache, uint32_t head, uint32_t row)
{
	if (row < lead_rows(cache, head))
		return cache->lead.places[(size_t)head * cache->lead.room + row];
	return cache->positions ? cache->positions[cache->first[head] + row] : (int32_t)row;
}

bool gg_lead_turn(const struct gg_cache *cache, uint32_t head, uint32_t *n, int32_t *by)
{
	const int32_t *positions = cache->positions ? cache->positions + cache->first[head] : NULL;
	uint32_t rows = lead_rows(cache, head);

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

/* The least place of all rows; where there is none, that of the next token. */
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

	/* Before the first cut that closes a gap, places are positions. */
	if (seq->logical <= engine->limit)
		return seq->logical;
	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		const struct gg_cache *cache = &seq->caches[i];

		for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
			uint32_t n = lead_rows(cache, g);

			width = n ? (uint64_t)(place_of(cache, g, n - 1) - place_of(cache, g, 0) + 1) : 0;
			widest = width > widest ? width : widest;
		}
	}
	return widest < engine->limit ? engine->limit - widest : 0;
}

/* --- closing gaps ------------------------------------------------------------------------- */

static void shift(struct gg_lead *lead, uint32_t head, uint32_t n, int32_t by)
{
	for (uint32_t i = 0; i < n; i++)
		lead->places[(size_t)head * lead->room + i] += by;
	lead->moved = lead->moved || by;
}

void gg_lead_trim(const struct gg_engine *engine, struct gg_cache *cache, uint64_t logical)
{
	for (uint32_t g = 0; cache->lead.room && g < engine->net.n_kv_heads; g++) {
		uint32_t n = cache->n[g];

		if (cache->lead.n[g] < n)
			continue;	/* what stands behind it came before what is gone */
		cache->lead.n[g] = n;
		if (n && place_of(cache, g, n - 1) >= (int32_t)logical)
			shift(&cache->lead, g, n, (int32_t)logical - 1 - place_of(cache, g, n - 1));
	}
}

/* By how much the first n rows of a head must move. */
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
 * A lead of at least n rows a head, its keys turned back from those in the cache, which
 * stand where they should. That is done once: they have been rounded once more than the
 * cache's own, and never again.
 */
static int32_t make_lead(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
			 uint32_t n)
{
	struct gg_turn turn = { .kind = GG_TURN_TO_LEAD, .cache = cache };
	struct gg_lead lead, old = cache->lead;
	int32_t code;

	if (!gg_lead_new(engine, side, &lead, n > old.room ? n : old.room)) {
		gg_lead_free(&lead);
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for %u keys a head", n);
	}
	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		lead.n[g] = n < cache->n[g] ? n : cache->n[g];
		if (lead.n[g] < lead_rows(cache, g))
			lead.n[g] = lead_rows(cache, g);
		for (uint32_t i = 0; i < lead.n[g]; i++)
			lead.places[(size_t)g * lead.room + i] = place_of(cache, g, i);
		turn.n += lead.n[g];
	}
	cache->lead = lead;
	code = gg_turn(engine, side, &turn, 1);
	if (code)
		cache->lead = old;
	gg_lead_free(code ? &lead : &old);
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
		longer = longer || lead_rows(cache, g) < rows;
	}
	if (open && longer)
		code = make_lead(engine, side, cache, n);
	for (uint32_t g = 0; open && !code && g < n_heads; g++)
		shift(&cache->lead, g, n < cache->n[g] ? n : cache->n[g],
		      gap_behind(cache, g, n, logical));
	return code;
}

/* --- turning what has moved ---------------------------------------------------------------- */

/* A base above 0 is for phases that would reach what the model was trained for. */
static void choose_base(struct kvmod_seq *seq, uint64_t n)
{
	const struct gg_engine *engine = seq->engine;
	int32_t oldest = oldest_place(seq);
	uint64_t most = engine->limit < engine->net.context ? engine->limit : engine->net.context;

	if (oldest < seq->base ||
	    (oldest > seq->base && seq->logical + n - (uint64_t)seq->base > most))
		seq->base = oldest;
}

/* What is to be turned in a layer; gives the number of turns. */
static uint32_t note_turns(struct kvmod_seq *seq, uint32_t layer, struct gg_turn turns[2])
{
	struct gg_cache *cache = &seq->caches[layer];
	struct gg_turn lead = { .kind = GG_TURN_LEAD, .cache = cache, .base = seq->base };
	struct gg_turn rest = lead;
	uint32_t n = 0;

	rest.kind = GG_TURN_REST;
	for (uint32_t g = 0; g < seq->engine->net.n_kv_heads; g++) {
		lead.n += lead_rows(cache, g);
		rest.n += cache->n[g] - lead_rows(cache, g);
	}
	if (lead.n && (cache->lead.moved || cache->base != seq->base))
		turns[n++] = lead;
	if (rest.n && cache->base != seq->base)
		turns[n++] = rest;
	return n;
}

static int32_t settle_side(struct kvmod_seq *seq, enum gg_side side, struct gg_turn *turns)
{
	struct gg_engine *engine = seq->engine;
	uint32_t n = 0;
	int32_t code;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		if (gg_side_of(engine, i) == side)
			n += note_turns(seq, i, turns + n);
	}
	code = gg_turn(engine, side, turns, n);
	for (uint32_t i = 0; !code && i < engine->net.n_layers; i++) {
		if (gg_side_of(engine, i) != side)
			continue;
		seq->caches[i].base = seq->base;
		seq->caches[i].lead.moved = false;
	}
	return code;
}

static bool is_settled(const struct kvmod_seq *seq)
{
	for (uint32_t i = 0; i < seq->engine->net.n_layers; i++) {
		if (seq->caches[i].base != seq->base || seq->caches[i].lead.moved)
			return false;
	}
	return true;
}

static int32_t settle_sides(struct kvmod_seq *seq)
{
	struct gg_turn *turns = calloc(2 * (size_t)seq->engine->net.n_layers, sizeof(*turns));
	int32_t code = KVMOD_OK;

	if (!turns)
		return gg_fail(seq->engine, KVMOD_ENOMEM, "no memory to turn keys");
	for (int side = 0; !code && side < GG_N_SIDES; side++)
		code = settle_side(seq, side, turns);
	free(turns);
	return code;
}

/*
 * Without memory to turn keys, a base that was to rise may stay: larger angles are less
 * exact, and no less right. Not so where a lead has moved or a side has been turned.
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
	if (!engine->said_unturned)
		gg_log(engine, KVMOD_WARN,
		       "no memory to turn cached keys back: they stay as they are, and what is far "
		       "along is computed less exactly");
	engine->said_unturned = true;
	return true;
}

/* A side that fails is as it was, and tried again when this is called again. */
int32_t gg_seq_settle(struct kvmod_seq *seq, uint64_t n)
{
	int32_t old = seq->base, code;

	choose_base(seq, n);
	if (is_settled(seq))
		return KVMOD_OK;
	code = settle_sides(seq);
	if (code == KVMOD_ENOMEM && stays(seq, old))
		return KVMOD_OK;
	if (seq->base != old)
		seq->rows.n = 0; /* queries that were turned by other phases */
	return code;
}
