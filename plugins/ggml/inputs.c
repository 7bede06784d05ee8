/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inputs of a graph: embeddings, positions, cache rows to write, masks. They lie in one
 * piece of the host's memory, and a copy lies in one piece of the GPU's. A pass sends them
 * in one call; of the masks it sends only what has changed.
 */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#define F16_MINUS_INFINITY 0xfc00u
#define ALIGNMENT 128u

/* --- declaring inputs -------------------------------------------------------------------- */

static void place(struct gg_graph *graph, struct gg_input *in, enum gg_side side,
		  enum ggml_type type, int64_t ne0, int64_t ne1)
{
	struct gg_memory *memory = &graph->feed.memory[side];

	in->on[side] = ggml_new_tensor_2d(graph->context, type, ne0, ne1);
	ggml_backend_tensor_alloc(memory->buffer, in->on[side], (char *)memory->address + in->offset);
}

/* Gives an input its offset; without memory yet, that only counts bytes. */
static void declare(struct gg_graph *graph, struct gg_input *in, enum ggml_type type, int64_t ne0,
		    int64_t ne1)
{
	struct gg_feed *feed = &graph->feed;

	in->offset = feed->bytes;
	feed->bytes += (ggml_row_size(type, ne0) * (size_t)ne1 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	for (int side = 0; side < GG_N_SIDES; side++) {
		if (feed->memory[side].buffer)
			place(graph, in, side, type, ne0, ne1);
	}
}

uint32_t gg_attended(const struct gg_engine *engine, const struct gg_slot *slot,
		     const struct gg_cache *cache, uint32_t head)
{
	uint32_t room = cache->first[head + 1] - cache->first[head], length;

	length = gg_padded((uint64_t)cache->n[head] +
			   (slot->n_tokens > 1 ? slot->n_tokens : gg_ahead(&engine->gpu)));
	return length < room ? length : room;
}

/* Heads of equal length share a mask. */
static void note_mask(struct gg_slot_inputs *inputs, uint32_t n)
{
	for (uint32_t i = 0; i < inputs->n_masks; i++) {
		if (inputs->masks[i].n == n)
			return;
	}
	inputs->masks[inputs->n_masks++].n = n;
}

static uint32_t row_of(uint32_t n)
{
	return n % GG_MASK_ROWS;
}

/* Where in its row the mask of a head with n positions begins. */
static uint32_t begin_of(const struct gg_decode_masks *decode, uint32_t n)
{
	return decode->base - (n - row_of(n));
}

static void note_decode_mask(struct gg_decode_masks *decode, uint32_t n, uint32_t length)
{
	uint32_t end = begin_of(decode, n) + length;

	decode->used |= 1u << row_of(n);
	decode->length = end > decode->length ? end : decode->length;
}

static void note_masks(const struct gg_engine *engine, const struct gg_slot *slot,
		       struct gg_slot_inputs *inputs)
{
	struct gg_decode_masks *decode = &inputs->decode;
	uint32_t n_heads = engine->net.n_kv_heads, longest = 0;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		if (gg_attention_own(engine, i))
			continue;
		for (uint32_t g = 0; g < n_heads; g++) {
			uint32_t n = slot->seq->caches[i].n[g];

			longest = n > longest ? n : longest;
			if (slot->n_tokens > 1)
				note_mask(inputs, n);
		}
	}
	decode->base = longest - row_of(longest);
	for (uint32_t i = 0; slot->n_tokens == 1 && i < engine->net.n_layers; i++) {
		const struct gg_cache *cache = &slot->seq->caches[i];

		for (uint32_t g = 0; g < n_heads && !gg_attention_own(engine, i); g++)
			note_decode_mask(decode, cache->n[g], gg_attended(engine, slot, cache, g));
	}
}

static void declare_masks(struct gg_graph *graph, const struct gg_slot *slot,
			  struct gg_slot_inputs *inputs)
{
	for (uint32_t i = 0; i < inputs->n_masks; i++)
		declare(graph, &inputs->masks[i].in, GGML_TYPE_F16,
			gg_padded((uint64_t)inputs->masks[i].n + slot->n_tokens), slot->n_tokens);
	if (inputs->decode.used)
		declare(graph, &inputs->decode.in, GGML_TYPE_F16, inputs->decode.length, GG_MASK_ROWS);
}

static void declare_all(const struct gg_engine *engine, struct gg_graph *graph,
			const struct gg_slot *slots, uint32_t n_slots)
{
	const struct gg_model *model = &engine->net;
	uint32_t n_tokens = 0, n_logits = 0;

	graph->feed.bytes = 0;
	for (uint32_t i = 0; i < n_slots; i++) {
		struct gg_slot_inputs *inputs = &graph->slots[i];

		n_tokens += slots[i].n_tokens;
		n_logits += slots[i].n_logits;
		declare(graph, &inputs->cache_rows, GGML_TYPE_I64,
			(int64_t)slots[i].n_tokens * model->n_kv_heads, model->n_layers);
		if (slots[i].n_queries)
			declare(graph, &inputs->query_rows, GGML_TYPE_I64, slots[i].n_queries, 1);
		if (slots[i].n_stats) {
			int64_t ne[2];

			gg_stats_declare(engine, ne);
			declare(graph, &inputs->stat_weights, GGML_TYPE_F32, ne[0], ne[1]);
		}
	}
	declare(graph, &graph->embeddings, GGML_TYPE_F32, model->dims[GG_WIDTH], n_tokens);
	declare(graph, &graph->positions, GGML_TYPE_I32, n_tokens, 1);
	if (engine->gpu.handle)
		declare(graph, &graph->key_positions, GGML_TYPE_I32,
			(int64_t)n_tokens * model->n_kv_heads, 1);
	if (n_logits && n_logits < n_tokens)
		declare(graph, &graph->outputs, GGML_TYPE_I32, n_logits, 1);
	graph->feed.small = graph->feed.bytes;
	for (uint32_t i = 0; i < n_slots; i++)
		declare_masks(graph, &slots[i], &graph->slots[i]);
}

/* --- their memory ---------------------------------------------------------------------------- */

/* Memory is used again, unless it is too small, or much too large. */
static bool fits(const struct gg_memory *memory, size_t bytes)
{
	return memory->buffer && memory->bytes >= bytes && memory->bytes / 4 <= bytes;
}

static bool take_memory(struct gg_engine *engine, struct gg_feed *feed)
{
	struct gg_memory *host = &feed->memory[GG_HOST], *gpu = &feed->memory[GG_GPU];

	if (fits(host, feed->bytes))
		return true;
	gg_gpu_wait(engine);
	gg_memory_free(host);
	gg_memory_free(gpu);
	/* Leave room to grow, so that addresses stay for a while. */
	feed->bytes += feed->bytes / 4;
	if (gg_memory_new_shared(engine, host, feed->bytes) &&
	    (!engine->gpu.handle || gg_memory_new(engine, gpu, GG_GPU, feed->bytes)))
		return true;
	gg_memory_free(host);
	gg_memory_free(gpu);
	return false;
}

bool gg_feed_new(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	struct gg_graph *graph = &gg_runtime_of(engine)->graph;
	struct gg_feed *feed = &graph->feed;
	struct gg_memory kept[GG_N_SIDES];
	size_t n_heads = (size_t)engine->net.n_layers * engine->net.n_kv_heads;

	for (uint32_t i = 0; i < n_slots; i++) {
		graph->slots[i].masks = calloc(n_heads, sizeof(*graph->slots[i].masks));
		if (!graph->slots[i].masks)
			return false;
		note_masks(engine, &slots[i], &graph->slots[i]);
	}
	memcpy(kept, feed->memory, sizeof(kept));
	memset(feed->memory, 0, sizeof(feed->memory));
	declare_all(engine, graph, slots, n_slots);
	memcpy(feed->memory, kept, sizeof(kept));
	if (!take_memory(engine, feed))
		return false;
	declare_all(engine, graph, slots, n_slots);
	if (engine->gpu.handle) {
		feed->all = ggml_new_tensor_1d(graph->context, GGML_TYPE_I8, (int64_t)feed->bytes);
		ggml_backend_tensor_alloc(feed->memory[GG_GPU].buffer, feed->all,
					  feed->memory[GG_GPU].address);
	}
	feed->fresh = true;
	return true;
}

struct ggml_tensor *gg_feed_mask(struct gg_graph *graph, uint32_t i, uint32_t n, uint32_t length,
				 enum gg_side side)
{
	const struct gg_slot_inputs *inputs = &graph->slots[i];
	struct ggml_tensor *rows = inputs->decode.in.on[side];
	uint32_t m = 0;

	if (rows)
		return ggml_view_2d(graph->context, rows, length, 1, rows->nb[1],
				    row_of(n) * rows->nb[1] +
					    begin_of(&inputs->decode, n) * sizeof(ggml_fp16_t));
	while (inputs->masks[m].n != n)
		m++;
	return inputs->masks[m].in.on[side];
}

/* --- filling them ------------------------------------------------------------------------------ */

static void *data_of(const struct gg_graph *graph, const struct gg_input *in)
{
	return (char *)graph->feed.memory[GG_HOST].address + in->offset;
}

static void look_up(const struct ggml_tensor *embed, int32_t token, float *to)
{
	const char *row = (const char *)embed->data + (size_t)token * embed->nb[1];

	if (embed->type == GGML_TYPE_F32)
		memcpy(to, row, (size_t)embed->ne[0] * sizeof(*to));
	else
		ggml_get_type_traits(embed->type)->to_float(row, to, embed->ne[0]);
}

static void fill_tokens(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	const struct gg_graph *graph = &gg_runtime_of(engine)->graph;
	float *embedding = data_of(graph, &graph->embeddings);
	int32_t *positions = data_of(graph, &graph->positions);
	int32_t *outputs = graph->outputs.on[GG_HOST] ? data_of(graph, &graph->outputs) : NULL;
	int32_t *keys = graph->key_positions.on[GG_HOST] ? data_of(graph, &graph->key_positions) : NULL;
	uint32_t at = 0;

	for (uint32_t i = 0; i < n_slots; i++) {
		for (uint32_t t = 0; t < slots[i].n_tokens; t++, at++) {
			look_up(engine->net.embed, slots[i].tokens[t], embedding);
			embedding += engine->net.dims[GG_WIDTH];
			positions[at] = (int32_t)(slots[i].seq->logical + t) - slots[i].seq->base;
			if (outputs && t + slots[i].n_logits >= slots[i].n_tokens)
				*outputs++ = (int32_t)at;
			for (uint32_t g = 0; keys && g < engine->net.n_kv_heads; g++)
				*keys++ = positions[at];
		}
	}
}

/* Row (t, g) of a slot goes behind the rows of head g; queries go behind queries. */
static void fill_rows(struct gg_engine *engine, const struct gg_slot *slot,
		      const struct gg_slot_inputs *inputs)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	int64_t *rows = data_of(&gg_runtime_of(engine)->graph, &inputs->cache_rows);

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		const struct gg_cache *cache = &slot->seq->caches[i];

		for (uint32_t t = 0; t < slot->n_tokens; t++) {
			for (uint32_t g = 0; g < n_heads; g++)
				*rows++ = (int64_t)cache->first[g] + cache->n[g] + t;
		}
	}
	rows = slot->n_queries ? data_of(&gg_runtime_of(engine)->graph, &inputs->query_rows) : NULL;
	for (uint32_t t = 0; t < slot->n_queries; t++)
		rows[t] = (int64_t)slot->seq->queries.n + t;
}

/* `zeros` zeros, then minus infinity. */
static void fill_mask_row(uint16_t *row, size_t zeros, size_t length)
{
	memset(row, 0, zeros * sizeof(*row));
	for (size_t i = zeros; i < length; i++)
		row[i] = F16_MINUS_INFINITY;
}

/*
 * All cached rows are older than the new tokens, so that token t sees n + t + 1 rows
 * whatever their positions are; the rest is padding.
 */
static void fill_mask(const struct gg_graph *graph, const struct gg_mask *mask, uint32_t moved,
		      uint32_t n_tokens)
{
	size_t length = (size_t)mask->in.on[GG_HOST]->ne[0];
	uint16_t *row = data_of(graph, &mask->in);

	for (uint32_t t = 0; t < n_tokens; t++, row += length)
		fill_mask_row(row, (size_t)mask->n + moved + t + 1, length);
}

/* Sends bytes of the inputs to the GPU; they must not change until they have arrived. */
static void send(struct gg_engine *engine, size_t offset, size_t bytes)
{
	struct gg_feed *feed = &gg_runtime_of(engine)->graph.feed;

	if (feed->all && bytes)
		ggml_backend_tensor_set_async(engine->gpu.handle, feed->all,
					      (char *)feed->memory[GG_HOST].address + offset, offset,
					      bytes);
}

/* Adds one zero for each new token: the masks of all layers grow with it. */
static void fill_decode_masks(struct gg_engine *engine, struct gg_decode_masks *decode, uint32_t moved)
{
	struct gg_graph *graph = &gg_runtime_of(engine)->graph;
	uint16_t *rows = data_of(graph, &decode->in);

	for (uint32_t r = 0; r < GG_MASK_ROWS; r++) {
		size_t first = (size_t)r * decode->length, at = first + decode->base + r + decode->shown;

		if (!(decode->used & (1u << r)))
			continue;
		if (graph->feed.fresh) {
			fill_mask_row(rows + first, decode->base + r + moved + 1, decode->length);
			continue;
		}
		memset(rows + at, 0, (moved + 1 - decode->shown) * sizeof(*rows));
		send(engine, decode->in.offset + at * sizeof(*rows),
		     (moved + 1 - decode->shown) * sizeof(*rows));
	}
	decode->shown = moved + 1;
}

/* The GPU may still run the last pass, but must have fetched its inputs. */
static void wait_until_sent(struct gg_engine *engine)
{
	struct gg_feed *feed = &gg_runtime_of(engine)->graph.feed;

	if (feed->sent)
		ggml_backend_event_synchronize(feed->sent);
	else
		gg_gpu_wait(engine);
}

static void note_sent(struct gg_engine *engine)
{
	struct gg_feed *feed = &gg_runtime_of(engine)->graph.feed;

	if (engine->gpu.handle && !feed->sent)
		feed->sent = ggml_backend_event_new(engine->gpu.device);
	if (feed->sent)
		ggml_backend_event_record(feed->sent, engine->gpu.handle);
}

void gg_feed_fill(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	struct gg_graph *graph = &gg_runtime_of(engine)->graph;
	struct gg_feed *feed = &graph->feed;
	bool masks = feed->fresh;

	wait_until_sent(engine);
	fill_tokens(engine, slots, n_slots);
	for (uint32_t i = 0; i < n_slots; i++) {
		struct gg_slot_inputs *inputs = &graph->slots[i];
		/* Every head has grown by the tokens that were run since the graph was built. */
		uint32_t moved = (uint32_t)(slots[i].seq->logical - graph->shapes[i].logical);

		fill_rows(engine, &slots[i], inputs);
		if (slots[i].n_stats)
			gg_stats_fill(&slots[i], data_of(graph, &inputs->stat_weights));
		for (uint32_t m = 0; m < inputs->n_masks; m++)
			fill_mask(graph, &inputs->masks[m], moved, slots[i].n_tokens);
		if (inputs->decode.used)
			fill_decode_masks(engine, &inputs->decode, moved);
		masks = masks || inputs->n_masks;
	}
	send(engine, 0, masks ? feed->bytes : feed->small);
	note_sent(engine);
	feed->fresh = false;
}
