/* SPDX-License-Identifier: Apache-2.0 */
/* What a graph is fed with: tokens, positions, cache rows to write, masks. */
#include "engine.h"

#include <string.h>

#define F16_MINUS_INFINITY 0xfc00u

/* Inputs that no node uses have no memory. */
static void *data_of(const struct ggml_tensor *tensor)
{
	return tensor->buffer ? tensor->data : NULL;
}

static void set_tokens(const struct gg_graph *graph, const struct gg_slot *slots, uint32_t n_slots)
{
	int32_t *tokens = data_of(graph->tokens), *positions = data_of(graph->positions);
	int32_t *outputs = graph->outputs ? data_of(graph->outputs) : NULL;
	uint32_t at = 0, out = 0;

	for (uint32_t i = 0; i < n_slots; i++) {
		for (uint32_t t = 0; t < slots[i].n_tokens; t++, at++) {
			tokens[at] = slots[i].tokens[t];
			positions[at] = (int32_t)(slots[i].seq->logical + t);
			if (outputs && t + slots[i].n_logits >= slots[i].n_tokens)
				outputs[out++] = (int32_t)at;
		}
	}
}

/* Row (t, g) of a slot goes behind the rows that head g has. */
static void set_rows(const struct gg_engine *engine, struct ggml_tensor *tensor,
		     const struct gg_slot *slot)
{
	uint32_t n_heads = engine->net.n_kv_heads;
	int64_t *rows = data_of(tensor);

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		const struct gg_cache *cache = &slot->seq->caches[i];

		for (uint32_t t = 0; t < slot->n_tokens; t++) {
			for (uint32_t g = 0; g < n_heads; g++)
				*rows++ = (int64_t)cache->first[g] + cache->n[g] + t;
		}
	}
}

/*
 * All that is cached is older than the new tokens, so that token t sees n + t + 1
 * rows whatever positions they have; the rest is padding.
 */
static void set_mask(const struct gg_mask *mask, uint32_t n, uint32_t n_tokens)
{
	uint16_t *row = data_of(mask->tensor);
	size_t length = (size_t)mask->tensor->ne[0];

	for (uint32_t t = 0; row && t < n_tokens; t++, row += length) {
		size_t visible = (size_t)n + t + 1;

		memset(row, 0, visible * sizeof(*row));
		for (size_t j = visible; j < length; j++)
			row[j] = F16_MINUS_INFINITY;
	}
}

void gg_graph_set_inputs(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	struct gg_graph *graph = &engine->graph;

	set_tokens(graph, slots, n_slots);
	for (uint32_t i = 0; i < n_slots; i++) {
		struct gg_slot_inputs *inputs = &graph->slots[i];
		uint64_t moved = slots[i].seq->logical - graph->shapes[i].logical;

		set_rows(engine, inputs->rows, &slots[i]);
		/* Every head has become longer by what was run since the graph was built. */
		for (uint32_t m = 0; m < inputs->n_masks; m++)
			set_mask(&inputs->masks[m], inputs->masks[m].n + (uint32_t)moved,
				 slots[i].n_tokens);
	}
}
