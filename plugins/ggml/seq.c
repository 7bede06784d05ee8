/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences: opening, copying, truncating, and making room. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

void gg_whole_free(struct gg_whole *whole)
{
	free(whole->log_probs);
	memset(whole, 0, sizeof(*whole));
}

void gg_seq_touch(struct kvmod_seq *seq)
{
	gg_whole_free(&seq->whole);
	free(seq->asked.tokens);
	memset(&seq->asked, 0, sizeof(seq->asked));
}

void gg_seq_moved(struct kvmod_seq *seq)
{
	seq->version = ++gg_runtime_of(seq->engine)->last_version;
}

void gg_seq_close(void *self, struct kvmod_seq *seq)
{
	(void)self;
	if (!seq)
		return;
	gg_gpu_wait(seq->engine);
	for (uint32_t i = 0; seq->caches && i < seq->engine->net.n_layers; i++)
		gg_cache_free(&seq->caches[i]);
	gg_seq_touch(seq);
	gg_queries_free(&seq->queries);
	gg_stats_free(&seq->stats);
	free(seq->caches);
	free(seq->tokens);
	free(seq->segments);
	free(seq->heads);
	free(seq->segment_list);
	free(seq->head_list);
	free(seq);
}

/* A sequence without caches. */
static struct kvmod_seq *seq_new(struct gg_engine *engine)
{
	const struct gg_model *model = &engine->net;
	size_t n_heads = (size_t)model->n_layers * model->n_kv_heads;
	struct kvmod_seq *seq = calloc(1, sizeof(*seq));

	if (!seq)
		return NULL;
	seq->engine = engine;
	seq->id = ++gg_runtime_of(engine)->last_id;
	gg_seq_moved(seq);
	seq->caches = calloc(model->n_layers, sizeof(*seq->caches));
	seq->segments = calloc(model->n_layers, sizeof(*seq->segments));
	seq->heads = calloc(n_heads, sizeof(*seq->heads));
	seq->segment_list = calloc(model->n_layers, sizeof(*seq->segment_list));
	seq->head_list = calloc(n_heads, sizeof(*seq->head_list));
	if (!seq->caches || !seq->segments || !seq->heads || !seq->segment_list || !seq->head_list) {
		gg_seq_close(engine, seq);
		return NULL;
	}
	kvmod_list_segments(seq->segment_list, seq->segments, model->n_layers);
	kvmod_list_heads(seq->head_list, seq->heads, n_heads);
	return seq;
}

int32_t gg_seq_open(void *self, struct kvmod_seq **out)
{
	struct gg_engine *engine = self;
	struct kvmod_seq *seq = seq_new(engine);
	struct gg_pick *picks = calloc(engine->net.n_kv_heads, sizeof(*picks));
	int32_t code = KVMOD_OK;

	if (!seq || !picks)
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory for a sequence");
	for (uint32_t i = 0; !code && i < engine->net.n_layers; i++)
		code = gg_cache_copy(engine, gg_side_of(engine, i), &seq->caches[i], NULL, picks, 0,
				     gg_ahead(&engine->gpu));
	free(picks);
	if (code)
		gg_seq_close(engine, seq);
	else
		*out = seq;
	return code;
}

/* --- tokens, which replay runs again ---------------------------------------------- */

static int32_t reserve_tokens(struct kvmod_seq *seq, uint64_t n)
{
	size_t room = seq->tokens_room + seq->tokens_room / 2 + 256;
	int32_t *tokens;

	if (n <= seq->tokens_room)
		return KVMOD_OK;
	if (room < n)
		room = n;
	tokens = realloc(seq->tokens, room * sizeof(*tokens));
	if (!tokens)
		return gg_fail(seq->engine, KVMOD_ENOMEM, "no memory for %zu tokens", room);
	seq->tokens = tokens;
	seq->tokens_room = room;
	return KVMOD_OK;
}

/* --- extras -------------------------------------------------------------------------------- */

bool gg_seq_move_extras(struct kvmod_seq *seq, uint32_t layer, struct gg_cache *to,
			const struct gg_cache *from, const struct gg_pick *picks)
{
	struct gg_engine *engine = seq->engine;
	int32_t code = gg_extras_copy(engine, gg_side_of(engine, layer), to, from, picks);

	if (!code)
		return true;
	gg_columns_drop(seq);
	for (uint32_t i = 0; i < engine->net.n_layers; i++)
		gg_extras_free(&seq->caches[i]);
	gg_log(engine, KVMOD_WARN, "%s what the policy needs beside K and V: it is lost",
	       code == KVMOD_ENOMEM ? "no memory to copy" : "the device could not copy");
	return false;
}

/* A copy of all rows gets the extras too. */
static int32_t copy_extras(struct kvmod_seq *copy, const struct kvmod_seq *seq)
{
	const struct gg_model *model = &seq->engine->net;
	struct gg_pick *picks = calloc(model->n_kv_heads, sizeof(*picks));
	bool moved = true;

	if (!picks)
		return gg_fail(seq->engine, KVMOD_ENOMEM, "no memory for a sequence");
	for (uint32_t i = 0; moved && i < model->n_layers; i++) {
		gg_keep_picks(seq, NULL, i, picks);
		moved = gg_seq_move_extras(copy, i, &copy->caches[i], &seq->caches[i], picks);
	}
	free(picks);
	return KVMOD_OK;
}

/* --- lengths -------------------------------------------------------------------------- */

void gg_seq_forget(struct kvmod_seq *seq, uint64_t logical)
{
	const struct gg_model *model = &seq->engine->net;

	if (logical == seq->logical)
		return;
	gg_columns_forget(seq, logical);
	for (uint32_t i = 0; i < model->n_layers; i++) {
		struct gg_cache *cache = &seq->caches[i];

		for (uint32_t g = 0; g < model->n_kv_heads; g++)
			cache->n[g] = gg_rows_before(cache, g, logical);
		gg_sinks_trim(seq->engine, cache, logical);
	}
	seq->logical = logical;
	gg_queries_forget(&seq->queries, logical);
	gg_stats_forget(&seq->stats, logical);
	gg_norms_forget(seq, logical);
	gg_seq_touch(seq);
	gg_seq_moved(seq);
}

int32_t gg_seq_truncate(void *self, struct kvmod_seq *seq, uint64_t logical)
{
	if (logical > seq->logical)
		return gg_fail((struct gg_engine *)self, KVMOD_ERANGE,
			       "cannot truncate to %llu tokens: the sequence has %llu",
			       (unsigned long long)logical, (unsigned long long)seq->logical);
	gg_seq_forget(seq, logical);
	return KVMOD_OK;
}

uint64_t gg_seq_length(void *self, struct kvmod_seq *seq)
{
	(void)self;
	return seq->logical;
}

/* The most rows that a head has in use, and the fewest that a head has free. */
static void measure(const struct gg_cache *cache, uint32_t n_heads, uint32_t *longest, uint32_t *spare)
{
	*longest = 0;
	*spare = UINT32_MAX;
	for (uint32_t g = 0; g < n_heads; g++) {
		uint32_t left = cache->first[g + 1] - cache->first[g] - cache->n[g];

		*spare = left < *spare ? left : *spare;
		*longest = cache->n[g] > *longest ? cache->n[g] : *longest;
	}
}

static int32_t grow(struct kvmod_seq *seq, uint32_t layer, uint32_t room)
{
	struct gg_engine *engine = seq->engine;
	struct gg_cache *cache = &seq->caches[layer];
	uint32_t n_heads = engine->net.n_kv_heads;
	struct gg_pick *picks = calloc(n_heads, sizeof(*picks));
	struct gg_cache larger;
	int32_t code;

	if (!picks)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for a cache");
	for (uint32_t g = 0; g < n_heads; g++)
		picks[g].n = cache->n[g];
	code = gg_cache_copy(engine, gg_side_of(engine, layer), &larger, cache, picks, seq->logical,
			     room);
	if (!code)
		gg_seq_move_extras(seq, layer, &larger, cache, picks);
	free(picks);
	if (code)
		return code;
	gg_cache_free(cache);
	*cache = larger;
	gg_seq_moved(seq);
	return KVMOD_OK;
}

/* Caches grow by an eighth at a time, so that copying takes a constant share of the time. */
static uint32_t grown_by(uint32_t longest, uint64_t n, uint32_t ahead)
{
	uint64_t room = longest / 8 > ahead ? longest / 8 : ahead;

	return (uint32_t)(n > room ? n : room);
}

/*
 * When one layer must grow, the layers that soon would have to grow with it: otherwise
 * layers of unequal length would move one by one, and void the graph each time.
 */
int32_t gg_seq_reserve(struct kvmod_seq *seq, uint64_t n)
{
	const struct gg_model *model = &seq->engine->net;
	int32_t code = reserve_tokens(seq, seq->logical + n);
	uint32_t ahead = gg_ahead(&seq->engine->gpu), longest, spare, tightest = UINT32_MAX;

	for (uint32_t i = 0; i < model->n_layers; i++) {
		measure(&seq->caches[i], model->n_kv_heads, &longest, &spare);
		tightest = spare < tightest ? spare : tightest;
	}
	if (tightest >= n)
		return code;
	for (uint32_t i = 0; !code && i < model->n_layers; i++) {
		measure(&seq->caches[i], model->n_kv_heads, &longest, &spare);
		if (spare < n || spare < ahead)
			code = grow(seq, i, grown_by(longest, n, ahead));
	}
	return code;
}

/* --- copies --------------------------------------------------------------------------------- */

static int32_t copy_caches(struct kvmod_seq *copy, struct kvmod_seq *seq,
			   const struct kvmod_keep *const *keeps, uint32_t flags, uint64_t logical,
			   uint64_t n)
{
	struct gg_engine *engine = seq->engine;
	uint32_t n_heads = engine->net.n_kv_heads;
	struct gg_pick *picks = calloc(n_heads, sizeof(*picks));
	uint64_t ahead = gg_ahead(&engine->gpu);
	int32_t code = KVMOD_OK;

	if (!picks)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for a sequence");
	for (uint32_t i = 0; !code && i < engine->net.n_layers; i++) {
		const struct kvmod_keep *keep = keeps ? keeps[i] : NULL;
		uint32_t n_sinks = flags & KVMOD_PLAN_CLOSES_GAPS ? gg_keep_sinks(keep) : 0;

		gg_keep_picks(seq, keep, i, picks);
		for (uint32_t g = 0; g < n_heads; g++)
			gg_pick_before(&picks[g], gg_rows_before(&seq->caches[i], g, logical));
		code = gg_cache_copy(engine, gg_side_of(engine, i), &copy->caches[i],
				     &seq->caches[i], picks, logical,
				     (uint32_t)(n > ahead ? n : ahead));
		if (code)
			break;
		if (keep && !keep->status)
			code = gg_cache_convert(engine, gg_side_of(engine, i), &copy->caches[i], keep);
		if (code)
			break;
		gg_sinks_trim(engine, &copy->caches[i], logical);
		if (n_sinks)
			code = gg_close_gap(engine, gg_side_of(engine, i), &copy->caches[i], n_sinks,
					    logical);
	}
	free(picks);
	return code;
}

int32_t gg_seq_copy(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
		    uint64_t logical, uint64_t n, struct kvmod_seq **out)
{
	struct gg_engine *engine = seq->engine;
	struct kvmod_seq *copy = seq_new(engine);
	int32_t code;

	if (!copy)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for a sequence");
	code = reserve_tokens(copy, logical);
	if (!code)
		code = copy_caches(copy, seq, keeps, flags, logical, n);
	if (code) {
		gg_seq_close(engine, copy);
		return code;
	}
	if (logical)
		memcpy(copy->tokens, seq->tokens, logical * sizeof(*copy->tokens));
	copy->logical = logical;
	copy->base = seq->base;
	*out = copy;
	return KVMOD_OK;
}

int32_t gg_seq_fork(void *self, struct kvmod_seq *seq, struct kvmod_seq **copy)
{
	int32_t code;

	gg_columns_settle(seq);
	code = gg_seq_copy(seq, NULL, 0, seq->logical, 0, copy);
	if (code)
		return code;
	(*copy)->norms = seq->norms;
	(*copy)->columns = seq->columns;
	code = copy_extras(*copy, seq);
	if (!code)
		code = gg_queries_copy(*copy, seq);
	if (!code)
		code = gg_stats_copy(*copy, seq);
	if (code)
		gg_seq_close(self, *copy);
	return code;
}

void gg_seq_bytes(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out)
{
	const struct gg_engine *engine = self;
	const struct gg_model *model = &engine->net;
	size_t row = ggml_row_size(engine->type, model->head_dim);

	out->used = out->held = 0;
	for (uint32_t i = 0; i < model->n_layers; i++) {
		const struct gg_cache *cache = &seq->caches[i];

		for (uint32_t g = 0; g < model->n_kv_heads; g++)
			out->used += cache->n[g] * (gg_store_row(engine, &cache->k) +
						    gg_store_row(engine, &cache->v));
		out->held += cache->k.memory.bytes + cache->v.memory.bytes + cache->sinks.keys.bytes;
	}
	out->full = 2 * seq->logical * model->n_layers * model->n_kv_heads * row;
}
