/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds the graph of one pass: weights are multiplied once for all sequences of the
 * batch, attention runs on each sequence's own cache. Lengths are padded, so that one
 * graph serves up to GG_PAD decoded tokens.
 */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

struct builder {
	struct gg_engine *engine;
	const struct gg_model *model;
	struct gg_graph *graph;
	struct ggml_context *context;
	const struct gg_slot *slots;
	uint32_t n_slots, n_tokens, n_logits;
	enum gg_side side; /* of the layer that is being built */
	struct ggml_tensor **parts; /* [max(n_slots, n_kv_heads)] */
};

/* --- does the last graph fit? ----------------------------------------------------------- */

static bool shape_fits(const struct gg_shape *shape, const struct gg_slot *slot)
{
	return shape->version == slot->seq->version && shape->n_tokens == slot->n_tokens &&
	       shape->n_logits == slot->n_logits && shape->n_queries == slot->n_queries &&
	       shape->first_stat == slot->first_stat && shape->n_stats == slot->n_stats &&
	       slot->seq->logical + slot->n_tokens <= shape->limit;
}

static bool graph_fits(const struct gg_graph *graph, const struct gg_slot *slots, uint32_t n_slots)
{
	if (!graph->nodes || graph->n_slots != n_slots)
		return false;
	for (uint32_t i = 0; i < n_slots; i++) {
		if (!shape_fits(&graph->shapes[i], &slots[i]))
			return false;
	}
	return true;
}

static void shape_set(const struct gg_engine *engine, struct gg_shape *shape, const struct gg_slot *slot)
{
	const struct gg_model *model = &engine->net;
	uint32_t least = UINT32_MAX;

	for (uint32_t i = 0; i < model->n_layers; i++) {
		const struct gg_cache *cache = &slot->seq->caches[i];

		for (uint32_t g = 0; g < model->n_kv_heads; g++) {
			uint32_t spare = gg_attended(engine, slot, cache, g) - cache->n[g];

			least = spare < least ? spare : least;
		}
	}
	*shape = (struct gg_shape){
		.version = slot->seq->version,
		.logical = slot->seq->logical,
		.limit = slot->seq->logical + least,
		.n_tokens = slot->n_tokens,
		.n_logits = slot->n_logits,
		.n_queries = slot->n_queries,
		.first_stat = slot->first_stat,
		.n_stats = slot->n_stats,
	};
}

/* What decides the nodes that read a cache. */
static uint64_t kind_of(const struct gg_engine *engine, const struct gg_cache *cache)
{
	return (uint64_t)cache->k.type << 16 | (uint64_t)cache->v.type << 1 | gg_cache_even(engine, cache);
}

/* FNV-1a over everything that decides the nodes of the graph and their sources. */
static uint64_t topology_of(const struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (uint32_t s = 0; s < n_slots; s++) {
		const uint32_t counts[] = {
			slots[s].n_tokens, slots[s].n_logits, slots[s].n_queries,
			slots[s].first_stat, slots[s].n_stats,
		};

		for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
			hash = (hash ^ counts[i]) * 0x100000001b3u;
		for (uint32_t i = 0; i < engine->net.n_layers; i++)
			hash = (hash ^ kind_of(engine, &slots[s].seq->caches[i])) * 0x100000001b3u;
	}
	return hash;
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

/* Queries, keys and values of a layer: one product for a token whose weights lie together. */
static void project(const struct builder *b, uint32_t layer, struct ggml_tensor *x, struct ggml_tensor *qkv[3])
{
	const struct gg_layer *l = &b->model->layers[layer];
	bool biased = l->w[GG_Q_BIAS] || l->w[GG_K_BIAS] || l->w[GG_V_BIAS];
	struct ggml_tensor *all;
	size_t offset = 0;

	if (b->n_tokens > 1 || !l->qkv || (biased && !l->qkv_bias)) {
		for (int i = 0; i < 3; i++)
			qkv[i] = linear(b, x, l->w[GG_Q + i], l->w[GG_Q_BIAS + i]);
		return;
	}
	all = linear(b, x, l->qkv, l->qkv_bias);
	for (int i = 0; i < 3; i++) {
		int64_t rows = l->w[GG_Q + i]->ne[1];

		qkv[i] = ggml_view_2d(b->context, all, rows, 1, all->nb[1], offset);
		offset += (size_t)rows * sizeof(float);
	}
}

/* Queries or keys by heads, normalised if the family does that. */
static struct ggml_tensor *by_heads(const struct builder *b, struct ggml_tensor *x, uint32_t n_heads,
				    struct ggml_tensor *norm_weight)
{
	x = ggml_reshape_3d(b->context, x, b->model->head_dim, n_heads,
			    ggml_nelements(x) / b->model->head_dim / n_heads);
	return norm_weight ? norm(b, x, norm_weight) : x;
}

/* Rotates them by position. */
static struct ggml_tensor *rotate(const struct builder *b, struct ggml_tensor *x,
				  const struct gg_input *positions)
{
	const struct gg_rope *rope = &b->model->rope;

	return ggml_rope_ext(b->context, x, positions->on[b->side],
			     b->model->rope_factors[b->side], rope->n_dims, rope->type, rope->n_context, rope->base, rope->scale,
			     rope->ext_factor, rope->attn_factor, rope->beta_fast, rope->beta_slow);
}

/*
 * Keys, rotated. CUDA rotates keys and writes them to the cache in one kernel if each cache
 * row has a position of its own: on a GPU each head therefore counts as a token.
 */
static struct ggml_tensor *keys(const struct builder *b, struct ggml_tensor *x,
				struct ggml_tensor *norm_weight)
{
	if (b->side == GG_GPU)
		return rotate(b, by_heads(b, x, 1, norm_weight), &b->graph->key_positions);
	return rotate(b, by_heads(b, x, b->model->n_kv_heads, norm_weight), &b->graph->positions);
}

/* The numbers of the cache rows that take a slot's new rows in a layer, head by head. */
static struct ggml_tensor *rows_to_write(const struct builder *b, uint32_t slot, uint32_t layer)
{
	struct ggml_tensor *all = b->graph->slots[slot].cache_rows.on[b->side], *rows;

	rows = ggml_view_1d(b->context, all, all->ne[0], layer * all->nb[1]);
	/* Expand now: no node may stand between the rotation of keys and their writing. */
	ggml_build_forward_expand(b->graph->nodes, rows);
	return rows;
}

static struct ggml_tensor *write_rows(const struct builder *b, struct ggml_tensor *rows,
				      uint32_t begin, struct ggml_tensor *cache, struct ggml_tensor *x)
{
	size_t bytes = b->model->head_dim * sizeof(float);

	x = ggml_view_2d(b->context, x, b->model->head_dim, rows->ne[0], bytes,
			 begin * b->model->n_kv_heads * bytes);
	cache = ggml_set_rows(b->context, cache, x, rows);
	ggml_build_forward_expand(b->graph->nodes, cache);
	return cache;
}

/* Concatenates tensors, by halves, so that each is copied seldom. */
static struct ggml_tensor *join(const struct builder *b, struct ggml_tensor **parts, uint32_t n, int dim)
{
	if (n == 1)
		return parts[0];
	return ggml_concat(b->context, join(b, parts, n / 2, dim),
			   join(b, parts + n / 2, n - n / 2, dim), dim);
}

/*
 * Into how many sequences the heads of one token are divided for attention. CUDA has a
 * kernel that reads K and V once for all query heads of a KV head, and one that reads them
 * for each query head. For a single sequence CUDA takes the latter with up to four query
 * heads; with four, it is the slower one from some 8000 positions on (by a fifth at 32768).
 */
static uint32_t n_parts(const struct builder *b, const struct gg_slot *slot, enum ggml_type type,
			uint32_t n_kv, uint32_t length)
{
	if (b->side != GG_GPU || slot->n_tokens > 1 || ggml_is_quantized(type) ||
	    b->model->n_q_heads / b->model->n_kv_heads != 4 || n_kv % 2 || length < 8192)
		return 1;
	return 2;
}

/* Attention of n_q query heads, the first of which is q_head, over cache rows from `first` on. */
static struct ggml_tensor *attend(const struct builder *b, uint32_t slot, uint32_t begin,
				  struct ggml_tensor *q, uint32_t q_head, uint32_t n_q,
				  struct ggml_tensor *const kv[2], uint32_t first, uint32_t stride,
				  uint32_t n_kv, uint32_t n, uint32_t length)
{
	uint32_t parts = n_parts(b, &b->slots[slot], kv[0]->type, n_kv, length);
	uint32_t n_tokens = b->slots[slot].n_tokens;
	struct ggml_context *context = b->context;
	struct ggml_tensor *views[2], *x;

	for (int i = 0; i < 2; i++)
		views[i] = ggml_view_4d(context, kv[i], kv[i]->ne[0], length, n_kv / parts, parts,
					kv[i]->nb[1], stride * kv[i]->nb[1],
					n_kv / parts * stride * kv[i]->nb[1], first * kv[i]->nb[1]);
	q = ggml_view_4d(context, q, q->ne[0], n_tokens, n_q / parts, parts, q->nb[2], q->nb[1],
			 n_q / parts * q->nb[1], begin * q->nb[2] + q_head * q->nb[1]);
	x = ggml_flash_attn_ext(context, q, views[0], views[1],
				gg_feed_mask(b->graph, slot, n, length, b->side),
				b->model->scale, 0, 0);
	/* Some models' keys are too large for a sum of products in half precision. */
	ggml_prec_set_acc(x, GGML_PREC_F32);
	return parts > 1 ? ggml_reshape_3d(context, x, x->ne[0], n_q, n_tokens) : x;
}

/* [head_dim, n_q_heads, n_tokens] of one slot: one node, or one a KV head if lengths differ. */
static struct ggml_tensor *attend_heads(const struct builder *b, uint32_t slot, uint32_t layer,
				       uint32_t begin, struct ggml_tensor *q,
				       struct ggml_tensor *const kv[2])
{
	const struct gg_slot *s = &b->slots[slot];
	const struct gg_cache *cache = &s->seq->caches[layer];
	uint32_t n_heads = b->model->n_kv_heads, group = b->model->n_q_heads / n_heads;
	struct ggml_tensor **parts = b->parts + b->n_slots;

	if (gg_attention_own(b->engine, layer)) {
		q = ggml_view_3d(b->context, q, q->ne[0], q->ne[1], s->n_tokens, q->nb[1], q->nb[2],
				 begin * q->nb[2]);
		return gg_attention_node(b->engine, b->graph, slot, layer, cache, q, kv);
	}
	if (gg_cache_even(b->engine, cache))
		return attend(b, slot, begin, q, 0, b->model->n_q_heads, kv, 0, cache->first[1],
			      n_heads, cache->n[0], gg_attended(b->engine, s, cache, 0));
	for (uint32_t g = 0; g < n_heads; g++)
		parts[g] = attend(b, slot, begin, q, g * group, group, kv, cache->first[g], 0, 1,
				  cache->n[g], gg_attended(b->engine, s, cache, g));
	return join(b, parts, n_heads, 1);
}

/* The same, as if its values were stored plain. */
static struct ggml_tensor *attend_slot(const struct builder *b, uint32_t slot, uint32_t layer,
				       uint32_t begin, struct ggml_tensor *q,
				       struct ggml_tensor *const kv[2])
{
	struct ggml_tensor *x = attend_heads(b, slot, layer, begin, q, kv);
	uint32_t rotation = b->slots[slot].seq->caches[layer].v.rotation;

	return rotation ? gg_hadamard(b->engine, b->context, b->side, x, rotation) : x;
}

/*
 * Writes the last queries of a slot behind the queries collected before. used: a later node
 * reads q. CUDA takes a rotation, a view and a writing of rows that nobody else reads for one
 * kernel, even if the view is of fewer rows than the rotation: an output it leaves alone.
 */
static void collect(const struct builder *b, uint32_t slot, uint32_t layer, uint32_t begin,
		    struct ggml_tensor *q, bool used)
{
	const struct gg_slot *s = &b->slots[slot];
	struct ggml_tensor *store, *input = b->graph->slots[slot].query_rows.on[b->side];
	int64_t width = b->model->dims[GG_Q_ROWS];

	if (!s->n_queries)
		return;
	store = ggml_new_tensor_2d(b->context, GGML_TYPE_F32, width, s->seq->queries.room);
	ggml_backend_tensor_alloc(s->seq->queries.memory[b->side].buffer, store,
				  gg_query_row(s->seq, layer, 0));
	begin += s->n_tokens - s->n_queries;
	if (!used)
		ggml_set_output(q);
	q = ggml_view_2d(b->context, q, width, s->n_queries, q->nb[2], begin * q->nb[2]);
	ggml_build_forward_expand(b->graph->nodes, ggml_set_rows(b->context, store, q, input));
}

/* Adds queries before RoPE to the statistics of the slots that collect them. */
static void add_to_statistics(const struct builder *b, uint32_t layer, struct ggml_tensor *q)
{
	uint32_t begin = 0;

	for (uint32_t i = 0; i < b->n_slots; begin += b->slots[i++].n_tokens) {
		const struct gg_slot *s = &b->slots[i];
		struct ggml_tensor *own;

		if (!s->n_stats)
			continue;
		own = ggml_view_2d(b->context, q, b->model->dims[GG_Q_ROWS], s->n_stats, q->nb[2],
				   (begin + s->first_stat) * q->nb[2]);
		gg_stats_nodes(b->graph, s, &b->graph->slots[i].stat_weights, layer, own);
	}
}

/* Attention of all slots; NULL if the output of this layer is not wanted. */
static struct ggml_tensor *attention(const struct builder *b, uint32_t layer, struct ggml_tensor *x,
				     bool output)
{
	struct ggml_tensor *const *w = b->model->layers[layer].w;
	struct ggml_tensor *qkv[3], *q, *k, *v;
	uint32_t begin = 0;

	project(b, layer, x, qkv);
	v = qkv[2];
	q = by_heads(b, qkv[0], b->model->n_q_heads, w[GG_Q_NORM]);
	add_to_statistics(b, layer, q);
	q = rotate(b, q, &b->graph->positions);
	k = keys(b, qkv[1], w[GG_K_NORM]);
	for (uint32_t i = 0; i < b->n_slots; begin += b->slots[i++].n_tokens) {
		const struct gg_cache *cache = &b->slots[i].seq->caches[layer];
		uint32_t n_rows = cache->first[b->model->n_kv_heads];
		struct ggml_tensor *kv[2], *rows = rows_to_write(b, i, layer), *values = v;

		if (cache->v.rotation)
			values = gg_hadamard(b->engine, b->context, b->side, v, cache->v.rotation);
		kv[0] = gg_store_rows(b->engine, b->context, &cache->k, n_rows);
		kv[0] = write_rows(b, rows, begin, kv[0], k);
		kv[1] = gg_store_rows(b->engine, b->context, &cache->v, n_rows);
		kv[1] = write_rows(b, rows, begin, kv[1], values);
		collect(b, i, layer, begin, q, output);
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

static void build_nodes(struct builder *b)
{
	const struct gg_model *model = b->model;
	struct gg_graph *graph = b->graph;
	struct ggml_context *context = b->context;
	struct ggml_tensor *x = graph->embeddings.on[gg_side_of(b->engine, 0)], *y, *outputs;

	for (uint32_t i = 0; i < model->n_layers; i++) {
		bool last = i + 1 == model->n_layers;

		b->side = gg_side_of(b->engine, i);
		y = attention(b, i, norm(b, x, model->layers[i].w[GG_ATTN_NORM]), !last || b->n_logits);
		if (!y)
			return; /* no logits are wanted, and the caches are written */
		outputs = graph->outputs.on[b->side];
		if (last && outputs) {
			x = ggml_get_rows(context, x, outputs);
			y = ggml_get_rows(context, y, outputs);
		}
		x = ggml_add(context, y, x);
		x = ggml_add(context, feed_forward(b, i, x), x);
	}
	graph->logits = ggml_mul_mat(context, model->out, norm(b, x, model->out_norm));
	ggml_set_output(graph->logits);
	ggml_build_forward_expand(graph->nodes, graph->logits);
}

/* The most tensors that a graph of these slots has. */
static size_t max_tensors(const struct builder *b)
{
	size_t n = 32;

	for (uint32_t i = 0; i < b->model->n_layers; i++) {
		n += 48;
		for (uint32_t s = 0; s < b->n_slots; s++) {
			bool even = gg_cache_even(b->engine, &b->slots[s].seq->caches[i]);

			n += 34 + (even ? 0 : 9 * b->model->n_kv_heads) +
			     (b->slots[s].n_stats ? GG_STATS_TENSORS : 0);
		}
	}
	return n + 6 * b->n_slots;
}

/* Makes an empty graph, whose tensors take the addresses of the last graph's. */
static bool context_new(struct builder *b)
{
	struct gg_graph *graph = b->graph;
	size_t n = max_tensors(b);
	size_t bytes = n * ggml_tensor_overhead() + ggml_graph_overhead_custom(n, false);

	if (graph->arena_bytes < bytes) {
		free(graph->arena);
		graph->arena_bytes = bytes;
		graph->arena = malloc(bytes);
		if (!graph->arena)
			graph->arena_bytes = 0;
	}
	if (graph->arena)
		graph->context = ggml_init((struct ggml_init_params){
			.mem_size = graph->arena_bytes, .mem_buffer = graph->arena, .no_alloc = true });
	if (!graph->context)
		return false;
	b->context = graph->context;
	graph->nodes = ggml_new_graph_custom(b->context, n, false);
	return true;
}

static bool graph_new(struct builder *b)
{
	struct gg_graph *graph = b->graph;

	graph->shapes = calloc(b->n_slots, sizeof(*graph->shapes));
	graph->slots = calloc(b->n_slots, sizeof(*graph->slots));
	if (!graph->shapes || !graph->slots || !context_new(b))
		return false;
	graph->n_slots = b->n_slots;
	graph->topology = topology_of(b->engine, b->slots, b->n_slots);
	for (uint32_t i = 0; i < b->n_slots; i++)
		shape_set(b->engine, &graph->shapes[i], &b->slots[i]);
	return gg_attention_new(b->engine, graph, b->slots, b->n_slots) &&
	       gg_feed_new(b->engine, b->slots, b->n_slots);
}

/* Drops the graph, but keeps the memory that graphs are built and run in. */
static void graph_clear(struct gg_graph *graph)
{
	struct gg_graph kept = {
		.arena = graph->arena, .arena_bytes = graph->arena_bytes,
		.memory = graph->memory, .sched = graph->sched, .planned = graph->planned,
	};

	memcpy(kept.feed.memory, graph->feed.memory, sizeof(kept.feed.memory));
	kept.feed.sent = graph->feed.sent;
	kept.attention_scratch = graph->attention_scratch;
	kept.shared_logits = graph->shared_logits;
	for (uint32_t i = 0; i < graph->n_slots; i++)
		free(graph->slots[i].masks);
	free(graph->shapes);
	free(graph->slots);
	free(graph->attention);
	if (graph->context)
		ggml_free(graph->context);
	*graph = kept;
}

void gg_graph_free(struct gg_graph *graph)
{
	graph_clear(graph);
	if (graph->memory)
		ggml_gallocr_free(graph->memory);
	ggml_backend_sched_free(graph->sched);
	for (int side = 0; side < GG_N_SIDES; side++)
		gg_memory_free(&graph->feed.memory[side]);
	gg_memory_free(&graph->shared_logits);
	gg_memory_free(&graph->attention_scratch);
	if (graph->feed.sent)
		ggml_backend_event_free(graph->feed.sent);
	free(graph->arena);
	memset(graph, 0, sizeof(*graph));
}

static int32_t graph_build(struct builder *b)
{
	if (!graph_new(b))
		return gg_fail(b->engine, KVMOD_ENOMEM, "no memory to build the model's graph");
	build_nodes(b);
	if (!gg_graph_plan(b->engine, b->graph))
		return gg_fail(b->engine, KVMOD_ENOMEM, "no memory to run %u tokens%s", b->n_tokens,
			       b->engine->gpu.handle ? ": set a smaller batch or gpu_layers" : "");
	return KVMOD_OK;
}

int32_t gg_graph_get(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	struct builder b = {
		.engine = engine,
		.model = &engine->net,
		.graph = &gg_runtime_of(engine)->graph,
		.slots = slots,
		.n_slots = n_slots,
	};
	int32_t code;

	if (graph_fits(&gg_runtime_of(engine)->graph, slots, n_slots))
		return KVMOD_OK;
	graph_clear(&gg_runtime_of(engine)->graph);
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
		graph_clear(&gg_runtime_of(engine)->graph);
	return code;
}
