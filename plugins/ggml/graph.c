/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building the graph of one pass: weights are multiplied once for all sequences
 * of the batch, attention runs on each sequence's own cache. A graph is built
 * for padded lengths, so one serves up to GG_PAD decoded tokens.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

struct builder {
	struct gg_engine *engine;
	const struct gg_model *model;
	struct gg_graph *graph;
	struct ggml_context *context;
	const struct gg_slot *slots;
	uint32_t n_slots, n_tokens, n_logits;
	struct ggml_tensor **parts; /* [max(n_slots, n_kv_heads)] */
};

/* --- does the last graph fit? ----------------------------------------------------------- */

static bool shape_fits(const struct gg_engine *engine, const struct gg_shape *shape,
		       const struct gg_slot *slot)
{
	const struct gg_model *model = &engine->net;
	const uint32_t *padded = shape->padded;

	if (shape->version != slot->seq->version || shape->n_tokens != slot->n_tokens ||
	    shape->n_logits != slot->n_logits || shape->n_rows != slot->n_rows)
		return false;
	for (uint32_t i = 0; i < model->n_layers; i++) {
		const uint32_t *n = slot->seq->caches[i].n;

		for (uint32_t g = 0; g < model->n_kv_heads; g++) {
			if (*padded++ != gg_padded((uint64_t)n[g] + slot->n_tokens))
				return false;
		}
	}
	return true;
}

static bool graph_fits(const struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	const struct gg_graph *graph = &engine->graph;

	if (!graph->nodes || graph->n_slots != n_slots)
		return false;
	for (uint32_t i = 0; i < n_slots; i++) {
		if (!shape_fits(engine, &graph->shapes[i], &slots[i]))
			return false;
	}
	return true;
}

static bool shape_set(const struct gg_engine *engine, struct gg_shape *shape, const struct gg_slot *slot)
{
	const struct gg_model *model = &engine->net;
	uint32_t *padded = malloc((size_t)model->n_layers * model->n_kv_heads * sizeof(*padded));

	*shape = (struct gg_shape){
		.version = slot->seq->version,
		.logical = slot->seq->logical,
		.n_tokens = slot->n_tokens,
		.n_logits = slot->n_logits,
		.n_rows = slot->n_rows,
		.padded = padded,
	};
	for (uint32_t i = 0; padded && i < model->n_layers; i++) {
		for (uint32_t g = 0; g < model->n_kv_heads; g++)
			*padded++ = gg_padded((uint64_t)slot->seq->caches[i].n[g] + slot->n_tokens);
	}
	return shape->padded;
}

/* --- inputs -------------------------------------------------------------------------------- */

static struct ggml_tensor *input(const struct builder *b, enum ggml_type type, int64_t ne0, int64_t ne1)
{
	struct ggml_tensor *tensor = ggml_new_tensor_2d(b->context, type, ne0, ne1);

	ggml_set_input(tensor);
	return tensor;
}

/* The mask for heads of a slot that have n positions: equal lengths share one. */
static struct ggml_tensor *mask_for(const struct builder *b, uint32_t slot, uint32_t n)
{
	struct gg_slot_inputs *inputs = &b->graph->slots[slot];
	uint32_t n_tokens = b->slots[slot].n_tokens;
	struct gg_mask *mask;

	for (uint32_t i = 0; i < inputs->n_masks; i++) {
		if (inputs->masks[i].n == n)
			return inputs->masks[i].tensor;
	}
	mask = &inputs->masks[inputs->n_masks++];
	mask->n = n;
	mask->tensor = input(b, GGML_TYPE_F16, gg_padded((uint64_t)n + n_tokens), n_tokens);
	return mask->tensor;
}

static bool slot_inputs_new(const struct builder *b, uint32_t slot)
{
	struct gg_slot_inputs *inputs = &b->graph->slots[slot];
	uint32_t n_layers = b->model->n_layers, n_heads = b->model->n_kv_heads;

	inputs->masks = calloc((size_t)n_layers * n_heads, sizeof(*inputs->masks));
	inputs->rows = input(b, GGML_TYPE_I64, (int64_t)b->slots[slot].n_tokens * n_heads, n_layers);
	if (b->slots[slot].n_rows)
		inputs->queries = calloc(n_layers, sizeof(*inputs->queries));
	return inputs->masks && (inputs->queries || !b->slots[slot].n_rows);
}

/* --- pieces of a layer ------------------------------------------------------------------------ */

static struct ggml_tensor *norm(const struct builder *b, struct ggml_tensor *x, struct ggml_tensor *weight)
{
	return ggml_mul(b->context, ggml_rms_norm(b->context, x, b->model->eps), weight);
}

static struct ggml_tensor *linear(const struct builder *b, struct ggml_tensor *x,
				  struct ggml_tensor *weight, struct ggml_tensor *bias)
{
	x = ggml_mul_mat(b->context, weight, x);
	return bias ? ggml_add(b->context, x, bias) : x;
}

/* Queries or keys: by heads, normalised if the family does that, turned by position. */
static struct ggml_tensor *by_heads(const struct builder *b, struct ggml_tensor *x,
				    uint32_t n_heads, struct ggml_tensor *norm_weight)
{
	const struct gg_rope *rope = &b->model->rope;

	x = ggml_reshape_3d(b->context, x, b->model->head_dim, n_heads, b->n_tokens);
	if (norm_weight)
		x = norm(b, x, norm_weight);
	return ggml_rope_ext(b->context, x, b->graph->positions, b->model->rope_factors,
			     rope->n_dims, rope->type, rope->n_context, rope->base, rope->scale,
			     rope->ext_factor, rope->attn_factor, rope->beta_fast, rope->beta_slow);
}

/* The whole of a cache's K or V as rows. */
static struct ggml_tensor *cache_rows(const struct builder *b, const struct gg_memory *memory,
				      uint32_t n_rows)
{
	struct ggml_tensor *tensor = ggml_new_tensor_2d(b->context, b->engine->type,
							b->model->head_dim, n_rows);

	ggml_backend_tensor_alloc(memory->buffer, tensor, memory->address);
	return tensor;
}

/* Writes the new rows of one slot, head by head as the input `rows` says. */
static struct ggml_tensor *write_rows(const struct builder *b, uint32_t slot, uint32_t layer,
				      uint32_t begin, struct ggml_tensor *cache, struct ggml_tensor *x)
{
	struct ggml_tensor *all = b->graph->slots[slot].rows, *rows;
	int64_t n_heads = b->model->n_kv_heads, n = b->slots[slot].n_tokens * n_heads;

	x = ggml_reshape_2d(b->context, x, b->model->head_dim, n_heads * b->n_tokens);
	x = ggml_view_2d(b->context, x, x->ne[0], n, x->nb[1], begin * n_heads * x->nb[1]);
	rows = ggml_view_1d(b->context, all, n, layer * all->nb[1]);
	cache = ggml_set_rows(b->context, cache, x, rows);
	ggml_build_forward_expand(b->graph->nodes, cache);
	return cache;
}

/* Puts tensors one after the other; by halves, so that each is copied seldom. */
static struct ggml_tensor *join(const struct builder *b, struct ggml_tensor **parts, uint32_t n, int dim)
{
	if (n == 1)
		return parts[0];
	return ggml_concat(b->context, join(b, parts, n / 2, dim),
			   join(b, parts + n / 2, n - n / 2, dim), dim);
}

/* Attention of `n_q` query heads from q_head on, over rows of a cache from `first` on. */
static struct ggml_tensor *attend(const struct builder *b, uint32_t slot, uint32_t begin,
				  struct ggml_tensor *q, uint32_t q_head, uint32_t n_q,
				  struct ggml_tensor *const kv[2], uint32_t first, uint32_t stride,
				  uint32_t n_kv, uint32_t n)
{
	struct ggml_context *context = b->context;
	uint32_t n_tokens = b->slots[slot].n_tokens, length = gg_padded((uint64_t)n + n_tokens);
	struct ggml_tensor *views[2];

	for (int i = 0; i < 2; i++)
		views[i] = ggml_view_3d(context, kv[i], kv[i]->ne[0], length, n_kv, kv[i]->nb[1],
					stride * kv[i]->nb[1], first * kv[i]->nb[1]);
	q = ggml_view_3d(context, q, q->ne[0], n_q, n_tokens, q->nb[1], q->nb[2],
			 begin * q->nb[2] + q_head * q->nb[1]);
	return ggml_flash_attn_ext(context, ggml_permute(context, q, 0, 2, 1, 3), views[0],
				   views[1], mask_for(b, slot, n), b->model->scale, 0, 0);
}

/* [head_dim, n_q_heads, n_tokens] of one slot: one node, or one a KV head if they differ. */
static struct ggml_tensor *attend_slot(const struct builder *b, uint32_t slot, uint32_t layer,
				       uint32_t begin, struct ggml_tensor *q,
				       struct ggml_tensor *const kv[2])
{
	const struct gg_cache *cache = &b->slots[slot].seq->caches[layer];
	uint32_t n_heads = b->model->n_kv_heads, group = b->model->n_q_heads / n_heads;
	struct ggml_tensor **parts = b->parts + b->n_slots;

	if (gg_cache_even(b->engine, cache))
		return attend(b, slot, begin, q, 0, b->model->n_q_heads, kv, 0, cache->first[1],
			      n_heads, cache->n[0]);
	for (uint32_t g = 0; g < n_heads; g++)
		parts[g] = attend(b, slot, begin, q, g * group, group, kv, cache->first[g], 0, 1,
				  cache->n[g]);
	return join(b, parts, n_heads, 1);
}

/* Copies of the last queries of a slot, which stay after the pass. */
static void collect(const struct builder *b, uint32_t slot, uint32_t layer, uint32_t begin,
		    struct ggml_tensor *q)
{
	uint32_t n = b->slots[slot].n_rows;
	struct ggml_tensor *rows;

	if (!n)
		return;
	begin += b->slots[slot].n_tokens - n;
	rows = ggml_cont(b->context, ggml_view_3d(b->context, q, q->ne[0], q->ne[1], n, q->nb[1],
						  q->nb[2], begin * q->nb[2]));
	ggml_set_output(rows);
	ggml_build_forward_expand(b->graph->nodes, rows);
	b->graph->slots[slot].queries[layer] = rows;
}

/* Attention of all slots; NULL if this layer's output is not wanted. */
static struct ggml_tensor *attention(const struct builder *b, uint32_t layer, struct ggml_tensor *x,
				     bool output)
{
	struct ggml_tensor *const *w = b->model->layers[layer].w;
	struct ggml_tensor *q = linear(b, x, w[GG_Q], w[GG_Q_BIAS]);
	struct ggml_tensor *k = linear(b, x, w[GG_K], w[GG_K_BIAS]);
	struct ggml_tensor *v = linear(b, x, w[GG_V], w[GG_V_BIAS]);
	uint32_t begin = 0;

	q = by_heads(b, q, b->model->n_q_heads, w[GG_Q_NORM]);
	k = by_heads(b, k, b->model->n_kv_heads, w[GG_K_NORM]);
	for (uint32_t i = 0; i < b->n_slots; begin += b->slots[i++].n_tokens) {
		const struct gg_cache *cache = &b->slots[i].seq->caches[layer];
		uint32_t n_rows = cache->first[b->model->n_kv_heads];
		struct ggml_tensor *kv[2];

		kv[0] = write_rows(b, i, layer, begin, cache_rows(b, &cache->k, n_rows), k);
		kv[1] = write_rows(b, i, layer, begin, cache_rows(b, &cache->v, n_rows), v);
		collect(b, i, layer, begin, q);
		if (output)
			b->parts[i] = attend_slot(b, i, layer, begin, q, kv);
	}
	if (!output)
		return NULL;
	x = join(b, b->parts, b->n_slots, 2);
	x = ggml_reshape_2d(b->context, x, b->model->dims[GG_Q_ROWS], b->n_tokens);
	return linear(b, x, w[GG_ATTN_OUT], w[GG_ATTN_OUT_BIAS]);
}

static struct ggml_tensor *feed_forward(const struct builder *b, uint32_t layer, struct ggml_tensor *x)
{
	struct ggml_tensor *const *w = b->model->layers[layer].w;
	struct ggml_tensor *up, *gate;

	x = norm(b, x, w[GG_FFN_NORM]);
	up = linear(b, x, w[GG_FFN_UP], w[GG_FFN_UP_BIAS]);
	gate = linear(b, x, w[GG_FFN_GATE], w[GG_FFN_GATE_BIAS]);
	x = ggml_swiglu_split(b->context, gate, up);
	return linear(b, x, w[GG_FFN_DOWN], w[GG_FFN_DOWN_BIAS]);
}

/* --- the whole -------------------------------------------------------------------------------------- */

static void build_nodes(const struct builder *b)
{
	struct gg_graph *graph = b->graph;
	struct ggml_context *context = b->context;
	struct ggml_tensor *x = ggml_get_rows(context, b->model->embed, graph->tokens), *y;

	for (uint32_t i = 0; i < b->model->n_layers; i++) {
		bool last = i + 1 == b->model->n_layers;

		y = attention(b, i, norm(b, x, b->model->layers[i].w[GG_ATTN_NORM]), !last || b->n_logits);
		if (!y)
			return; /* nobody asked for logits: the caches are written */
		if (last && graph->outputs) {
			x = ggml_get_rows(context, x, graph->outputs);
			y = ggml_get_rows(context, y, graph->outputs);
		}
		x = ggml_add(context, y, x);
		x = ggml_add(context, feed_forward(b, i, x), x);
	}
	graph->logits = ggml_mul_mat(context, b->model->out, norm(b, x, b->model->out_norm));
	ggml_set_output(graph->logits);
	ggml_build_forward_expand(graph->nodes, graph->logits);
}

/* Tensors that a graph of these slots has at most. */
static size_t max_tensors(const struct builder *b)
{
	size_t n = 32;

	for (uint32_t i = 0; i < b->model->n_layers; i++) {
		n += 48;
		for (uint32_t s = 0; s < b->n_slots; s++) {
			bool even = gg_cache_even(b->engine, &b->slots[s].seq->caches[i]);

			n += 26 + (even ? 0 : 7 * b->model->n_kv_heads);
		}
	}
	return n;
}

static bool graph_new(struct builder *b)
{
	struct gg_graph *graph = b->graph;
	size_t n = max_tensors(b);
	struct ggml_init_params params = {
		.mem_size = n * ggml_tensor_overhead() + ggml_graph_overhead_custom(n, false),
		.no_alloc = true,
	};

	graph->context = b->context = ggml_init(params);
	graph->shapes = calloc(b->n_slots, sizeof(*graph->shapes));
	graph->slots = calloc(b->n_slots, sizeof(*graph->slots));
	if (!graph->context || !graph->shapes || !graph->slots)
		return false;
	graph->n_slots = b->n_slots;
	graph->nodes = ggml_new_graph_custom(b->context, n, false);
	graph->tokens = input(b, GGML_TYPE_I32, b->n_tokens, 1);
	graph->positions = input(b, GGML_TYPE_I32, b->n_tokens, 1);
	if (b->n_logits && b->n_logits < b->n_tokens)
		graph->outputs = input(b, GGML_TYPE_I32, b->n_logits, 1);
	for (uint32_t i = 0; i < b->n_slots; i++) {
		if (!slot_inputs_new(b, i) || !shape_set(b->engine, &graph->shapes[i], &b->slots[i]))
			return false;
	}
	return true;
}

/* Forgets what was built; the memory that graphs run in stays. */
static void graph_clear(struct gg_graph *graph)
{
	ggml_gallocr_t memory = graph->memory;

	for (uint32_t i = 0; i < graph->n_slots; i++) {
		free(graph->shapes[i].padded);
		free(graph->slots[i].masks);
		free(graph->slots[i].queries);
	}
	free(graph->shapes);
	free(graph->slots);
	if (graph->context)
		ggml_free(graph->context);
	memset(graph, 0, sizeof(*graph));
	graph->memory = memory;
}

void gg_graph_free(struct gg_graph *graph)
{
	graph_clear(graph);
	if (graph->memory)
		ggml_gallocr_free(graph->memory);
	graph->memory = NULL;
}

static int32_t graph_build(struct builder *b)
{
	struct gg_graph *graph = b->graph;

	if (!graph->memory)
		graph->memory = ggml_gallocr_new(
			ggml_backend_get_default_buffer_type(b->engine->backend.handle));
	if (!graph->memory || !graph_new(b))
		return gg_fail(b->engine, KVMOD_ENOMEM, "no memory to build the model's graph");
	build_nodes(b);
	/*
	 * Reserve anew: left to itself the allocator compares counts and sizes, and
	 * takes another graph with as many nodes for the one it has planned for.
	 */
	if (!ggml_gallocr_reserve(graph->memory, graph->nodes) ||
	    !ggml_gallocr_alloc_graph(graph->memory, graph->nodes))
		return gg_fail(b->engine, KVMOD_ENOMEM, "no memory to run %u tokens in", b->n_tokens);
	return KVMOD_OK;
}

int32_t gg_graph_get(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	struct builder b = {
		.engine = engine,
		.model = &engine->net,
		.graph = &engine->graph,
		.slots = slots,
		.n_slots = n_slots,
	};
	int32_t code;

	if (graph_fits(engine, slots, n_slots))
		return KVMOD_OK;
	graph_clear(&engine->graph);
	for (uint32_t i = 0; i < n_slots; i++) {
		b.n_tokens += slots[i].n_tokens;
		b.n_logits += slots[i].n_logits;
	}
	b.parts = calloc((size_t)n_slots + engine->net.n_kv_heads, sizeof(struct ggml_tensor *));
	if (!b.parts)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to build the model's graph");
	code = graph_build(&b);
	free(b.parts);
	if (code)
		graph_clear(&engine->graph);
	return code;
}
