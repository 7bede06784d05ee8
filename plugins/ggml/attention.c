/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention on the host: a node of our own in the place of ggml's. It reads a KV head once for
 * its group of query heads, and serves all heads of a layer, whatever their lengths are,
 * without masks.
 */
#include "runtime.h"

#include <stdlib.h>

#include "kernels/cpu/flash.h"
#include "kernels/cpu/simd.h"

bool gg_attention_own(const struct gg_engine *engine, uint32_t layer)
{
	/* Where our kernels are plain C, ggml's are faster. */
	return gg_side_of(engine, layer) == GG_HOST && kv_simd_level() > KV_SIMD_SCALAR;
}

/* The attention of n_tokens tokens of a sequence in a layer, but for what there is to read. */
static struct kv_flash flash_of(const struct gg_engine *engine, int64_t n_tokens, int n_threads)
{
	const struct gg_model *model = &engine->net;

	return (struct kv_flash){
		.head_dim = model->head_dim, .n_heads = model->n_kv_heads,
		.group = model->n_q_heads / model->n_kv_heads, .n_rows = (uint32_t)n_tokens,
		.scale = model->scale, .n_threads = (uint32_t)n_threads,
	};
}

bool gg_attention_new(struct gg_engine *engine, struct gg_graph *graph, const struct gg_slot *slots,
		      uint32_t n_slots)
{
	struct gg_memory *scratch = &graph->attention_scratch;
	size_t bytes = 0;

	if (!gg_attention_own(engine, 0))	/* the layers on the host are the first ones */
		return true;
	for (uint32_t i = 0; i < n_slots; i++) {
		struct kv_flash flash = flash_of(engine, slots[i].n_tokens, engine->backend.n_threads);
		size_t needed = kv_flash_scratch(&flash);

		bytes = needed > bytes ? needed : bytes;
	}
	graph->attention = calloc((size_t)n_slots * engine->net.n_layers, sizeof(*graph->attention));
	if (!graph->attention || scratch->bytes >= bytes)
		return graph->attention;
	gg_memory_free(scratch);
	return gg_memory_new(engine, scratch, GG_HOST, bytes);
}

/*
 * Lengths are those that the cache has now: a graph serves several passes. A scheduler may
 * choose a backend that has more threads than ours; there is no scratch memory for those.
 */
static void run(struct ggml_tensor *out, int thread, int n_threads, void *arg)
{
	const struct gg_attention *attention = arg;
	const struct ggml_tensor *q = out->src[0];
	int most = attention->engine->backend.n_threads;
	struct kv_flash flash = flash_of(attention->engine, q->ne[2], n_threads < most ? n_threads : most);

	if (thread >= most)
		return;
	flash.q = q->data;
	flash.q_row = q->nb[2] / sizeof(float);
	flash.q_head = q->nb[1] / sizeof(float);
	flash.out = out->data;
	flash.out_row = out->nb[2] / sizeof(float);
	flash.out_head = out->nb[1] / sizeof(float);
	flash.k = gg_store_view(attention->engine, &attention->cache->k, 0);
	flash.v = gg_store_view(attention->engine, &attention->cache->v, 0);
	flash.first = attention->cache->first;
	flash.n = attention->cache->n;
	flash.scratch = gg_runtime_of(attention->engine)->graph.attention_scratch.address;
	kv_flash_run(&flash, (uint32_t)thread);
}

struct ggml_tensor *gg_attention_node(struct gg_engine *engine, struct gg_graph *graph, uint32_t slot,
				      uint32_t layer, const struct gg_cache *cache,
				      struct ggml_tensor *q, struct ggml_tensor *const kv[2])
{
	struct gg_attention *attention = &graph->attention[slot * engine->net.n_layers + layer];
	struct ggml_tensor *args[] = { q, kv[0], kv[1] };

	*attention = (struct gg_attention){ .engine = engine, .cache = cache };
	return ggml_custom_4d(graph->context, GGML_TYPE_F32, q->ne[0], q->ne[1], q->ne[2], 1, args, 3, run,
			      GGML_N_TASKS_MAX, attention);
}
