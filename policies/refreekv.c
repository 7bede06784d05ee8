/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV (arXiv 2502.16886): no budget is given. Each layer keeps the shortest
 * prefix of a ranking whose attention has all but `threshold` of the whole norm. This
 * file distributes the work over threads; each ranking has its own file.
 */
#include "refreekv.h"

#include <string.h>

/* Layers are decided together while their scratch fits in so many bytes. */
#define BATCH_BYTES ((size_t)64 << 20)

/* --- layers to decide --------------------------------------------------------------- */

static uint32_t divide_up(uint32_t a, uint32_t b)
{
	return a / b + (a % b != 0);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* Is there anything to decide? Sets all that follows from lengths and parameters. */
static bool layer_set(struct layer *layer, const struct refreekv *self,
		      const struct kvmod_segment *s)
{
	uint32_t n = kvmod_head_at(s, 0)->n;

	memset(layer, 0, sizeof(*layer));
	layer->self = self;
	layer->kit = kvmod_toolkit_of(self);
	layer->segment = s;
	if (refreekv_leaves(self, s))
		return false;
	if (!kvmod_same_lengths(s)) {
		layer->status = KVMOD_ENOTSUP;
		return true;
	}
	layer->n = n;
	layer->n_heads = s->n_q_heads;
	layer->group = s->n_q_heads / s->n_kv_heads;
	layer->sinks = (uint32_t)(self->sinks < n ? self->sinks : n);
	layer->tail = refreekv_tail(self, n);
	layer->m = refreekv_ranked(self, s);
	layer->n_norm_rows = refreekv_norm_rows(self, s);
	layer->n_window = refreekv_rank_rows(self, s);
	layer->n_rows = larger(layer->n_norm_rows, layer->n_window);
	layer->n_sink_tiles = divide_up(layer->sinks, KVMOD_TILE);
	layer->n_tiles = layer->n_sink_tiles + divide_up(n - layer->sinks, KVMOD_TILE);
	layer->n_chunks = divide_up(layer->n_tiles, CHUNK);
	layer->parts_are_tiles = layer->n_rows == 1;
	return layer->m > 0;
}

struct range refreekv_tile(const struct layer *layer, uint32_t tile)
{
	uint32_t others = layer->n_tiles - layer->n_sink_tiles, end = layer->n;
	struct range t = { .begin = layer->sinks + tile * KVMOD_TILE };

	if (tile >= others) {
		t.begin = (layer->n_tiles - 1 - tile) * KVMOD_TILE;
		end = layer->sinks;
	}
	t.end = end - t.begin < KVMOD_TILE ? end : t.begin + KVMOD_TILE;
	return t;
}

/* Positions that row `row` of the segment sees; past the newest row: all positions. */
static uint32_t sees(const struct kvmod_segment *s, uint32_t g, uint32_t row)
{
	return row < s->n_rows ? kvmod_row_sees(s, kvmod_head_at(s, g), row) : UINT32_MAX;
}

void refreekv_tile_attention(const struct layer *layer, uint32_t tile, uint32_t g, float *a,
			     size_t stride)
{
	const struct kvmod_segment *s = layer->segment;
	struct range t = refreekv_tile(layer, tile);
	uint32_t row = s->n_rows - layer->n_norm_rows, end = sees(s, g, row), h, i;

	for (h = 0; h < layer->group; h++)
		memset(a + h * stride, 0, (t.end - t.begin) * sizeof(*a));
	layer->kit->parts_add(refreekv_attention(layer, g), layer->n_norm_rows, t.begin, t.end, 1,
			      a, stride);
	/* Where row `row` sees a position, all newer rows do. */
	for (i = t.begin; i < t.end && layer->n_norm_rows > 1; i++) {
		while (end <= i)
			end = sees(s, g, ++row);
		for (h = 0; h < layer->group && row < s->n_rows; h++)
			a[h * stride + i - t.begin] /= (float)(s->n_rows - row);
	}
}

/* --- scratch ------------------------------------------------------------------------ */

/* Hands out memory in whole cache lines; base NULL: only counts. */
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

static uint32_t n_parts(const struct layer *layer)
{
	return layer->parts_are_tiles ? layer->n_tiles : layer->n_chunks;
}

/* Gives a layer its scratch; returns how much. memory NULL: only that. */
static size_t layer_lay_out(struct layer *layer, void *memory)
{
	struct arena arena = { memory, 0 };
	uint32_t n_heads = layer->n_heads;

	if (layer->status)
		return 0;
	layer->attention_bytes = layer->kit->parts_bytes(layer->segment, 0, layer->n_rows,
							 n_parts(layer));
	layer->attention_memory = take(&arena, layer->segment->n_kv_heads, layer->attention_bytes);
	layer->norm = take(&arena, n_heads, sizeof(double));
	if (layer->self->rank == RANK_POSITION) {
		size_t sets = layer->parts_are_tiles ? 1 : layer->n_chunks;

		layer->squares = take(&arena, n_heads * (layer->n_tiles + (size_t)1), sizeof(double));
		layer->inside = take(&arena, (size_t)n_heads * KVMOD_TILE, sizeof(double));
		layer->a = take(&arena, sets * n_heads * KVMOD_TILE, sizeof(float));
		return arena.used;
	}
	layer->heads_a = take(&arena, (size_t)n_heads * layer->n, sizeof(float));
	layer->score = take(&arena, (size_t)layer->segment->n_kv_heads * layer->n, sizeof(float));
	layer->order = take(&arena, (size_t)layer->segment->n_kv_heads * layer->m, sizeof(uint64_t));
	layer->spare = take(&arena, layer->m, sizeof(uint64_t));
	layer->dropped = take(&arena, n_heads, sizeof(double));
	return arena.used;
}

static size_t table_bytes(const struct kvmod_request *request)
{
	return (request->n_segments * sizeof(struct layer) + 63) / 64 * 64;
}

static int32_t refreekv_workspace(void *self, const struct kvmod_request *request,
				  struct kvmod_workspace *need)
{
	size_t all = 0, largest = 0;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		struct layer layer;
		size_t bytes;

		if (!layer_set(&layer, self, kvmod_segment_at(request, i)))
			continue;
		bytes = layer_lay_out(&layer, NULL);
		all += bytes;
		largest = bytes > largest ? bytes : largest;
	}
	if (all > BATCH_BYTES)
		all = largest > BATCH_BYTES ? largest : BATCH_BYTES;
	need->host = table_bytes(request) + all;
	return 0;
}

/* --- deciding a batch, on the host's threads ---------------------------------------- */

struct batch {
	struct layer *layers;
	uint32_t n;
	uint32_t n_chunks, n_kv_heads;	/* the most that a layer has */
};

static void load(void *arg, uint32_t i)
{
	struct layer *layer = &((struct batch *)arg)->layers[i];

	for (uint32_t g = 0; g < layer->segment->n_kv_heads && !layer->status; g++)
		layer->kit->parts_open(layer->segment, g, layer->n_rows, n_parts(layer),
				       refreekv_attention(layer, g));
}

/* The layer of the i-th piece of work, a chunk of one KV head; NULL: it has no such chunk. */
static struct layer *piece(const struct batch *batch, uint32_t i, uint32_t *chunk, uint32_t *g)
{
	struct layer *layer = &batch->layers[i / batch->n_kv_heads / batch->n_chunks];

	*chunk = i / batch->n_kv_heads % batch->n_chunks;
	*g = i % batch->n_kv_heads;
	if (layer->status || *chunk >= layer->n_chunks || *g >= layer->segment->n_kv_heads)
		return NULL;
	return layer;
}

static void scan(void *arg, uint32_t i)
{
	uint32_t chunk, g, tile, end;
	struct layer *layer = piece(arg, i, &chunk, &g);

	if (!layer)
		return;
	end = (chunk + 1) * CHUNK < layer->n_tiles ? (chunk + 1) * CHUNK : layer->n_tiles;
	for (tile = chunk * CHUNK; tile < end; tile++) {
		struct range t = refreekv_tile(layer, tile);

		layer->kit->parts_scan(refreekv_attention(layer, g),
				       layer->parts_are_tiles ? tile : chunk, t.begin, t.end);
	}
}

static void total(void *arg, uint32_t i)
{
	struct layer *layer = &((struct batch *)arg)->layers[i];

	for (uint32_t g = 0; g < layer->segment->n_kv_heads && !layer->status; g++)
		layer->status = layer->kit->parts_total(refreekv_attention(layer, g));
}

/* One row, ranked by position, needs no more than the scan. */
static void attend(void *arg, uint32_t i)
{
	uint32_t chunk, g;
	struct layer *layer = piece(arg, i, &chunk, &g);

	if (layer && layer->self->rank == RANK_ATTENTION)
		refreekv_attention_chunk(layer, chunk, g);
	else if (layer && !layer->parts_are_tiles)
		refreekv_position_chunk(layer, chunk, g);
}

static void decide(void *arg, uint32_t i)
{
	struct layer *layer = &((struct batch *)arg)->layers[i];

	if (layer->status)
		return;
	if (layer->self->rank == RANK_ATTENTION)
		refreekv_attention_decide(layer);
	else
		refreekv_position_decide(layer);
}

/* Both steps at once, if nothing comes between them. */
static void finish(void *arg, uint32_t i)
{
	total(arg, i);
	decide(arg, i);
}

static void run(const struct refreekv *self, struct batch *batch, bool *said)
{
	const struct kvmod_host *host = self->instance.host;
	bool second_pass = self->rank == RANK_ATTENTION;
	uint32_t pieces;

	batch->n_chunks = batch->n_kv_heads = 1;
	for (uint32_t i = 0; i < batch->n; i++) {
		const struct layer *layer = &batch->layers[i];

		batch->n_chunks = larger(batch->n_chunks, layer->n_chunks);
		batch->n_kv_heads = larger(batch->n_kv_heads, layer->segment->n_kv_heads);
		second_pass |= layer->n_rows > 1;
	}
	pieces = batch->n * batch->n_chunks * batch->n_kv_heads;
	host->parallel(host->ctx, batch->n, load, batch);
	host->parallel(host->ctx, pieces, scan, batch);
	if (second_pass) {
		host->parallel(host->ctx, batch->n, total, batch);
		host->parallel(host->ctx, pieces, attend, batch);
		host->parallel(host->ctx, batch->n, decide, batch);
	} else {
		host->parallel(host->ctx, batch->n, finish, batch);
	}
	for (uint32_t i = 0; i < batch->n; i++) {
		struct layer *layer = &batch->layers[i];

		if (layer->status && !*said)
			refreekv_say(self, layer->status);
		*said |= layer->status != 0;
		layer->keep->status = layer->status;
	}
}

/* A layer that fails stays whole; the log gets the reason of the first. */
static int32_t refreekv_compress(void *self_, const struct kvmod_request *request,
				 struct kvmod_plan *plan)
{
	const struct refreekv *self = self_;
	char *memory = (char *)request->scratch + table_bytes(request);
	size_t room = request->scratch_size - table_bytes(request), used = 0;
	struct batch batch = { .layers = request->scratch };
	bool said = false;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		struct layer layer;
		size_t bytes;

		kvmod_keep_at(plan, i)->loss = 0;
		if (!layer_set(&layer, self, kvmod_segment_at(request, i)))
			continue;
		bytes = layer_lay_out(&layer, NULL);
		if (used + bytes > room) {
			run(self, &batch, &said);
			batch.n = 0;
			used = 0;
		}
		layer_lay_out(&layer, memory + used);
		layer.keep = kvmod_keep_at(plan, i);
		batch.layers[batch.n++] = layer;
		used += bytes;
	}
	if (batch.n)
		run(self, &batch, &said);
	return 0;
}

KVMOD_POLICY(refreekv, struct refreekv, REFREEKV_PARAMS,
	     "no budget: what keeps all but a share of the attention's norm (2502.16886)", 0,
	     "cpu", .open = refreekv_open, .needs = refreekv_needs,
	     .workspace = refreekv_workspace, .compress = refreekv_compress)
KVMOD_MODULE("refreekv", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "ReFreeKV: threshold-free pruning, one length for each layer", 0,
	     refreekv_init, NULL);
