/* SPDX-License-Identifier: Apache-2.0 */
/* Extras: what an engine keeps for policies beside the rows of a cache. cache.h says how. */
#include "cache.h"

#include <stdlib.h>

#include "kernels/cpu/gather.h"

void gg_extras_free(struct gg_cache *cache)
{
	for (int i = 0; i < GG_N_EXTRAS; i++)
		gg_memory_free(&cache->extras[i]);
}

bool gg_extra_new(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
		  enum gg_extra which)
{
	struct gg_memory *memory = &cache->extras[which];

	gg_memory_free(memory);
	if (gg_memory_new(engine, memory, side, engine->net.n_q_heads * sizeof(float) *
						(size_t)gg_cache_room(engine, cache)))
		return true;
	gg_memory_free(memory);
	return false;
}

struct kvmod_view gg_extra_view(const struct gg_engine *engine, const struct gg_cache *cache,
				enum gg_extra which)
{
	return (struct kvmod_view){
		.type = KVMOD_F32,
		.data = gg_extra_kept(cache, which) ? cache->extras[which].address : NULL,
		.stride = sizeof(float),
		.head_stride = (int64_t)(gg_cache_room(engine, cache) * sizeof(float)),
	};
}

/* Lists the moves of all extras that the copy has; returns their number. */
static uint32_t list_moves(const struct gg_engine *engine, const struct gg_cache *to,
			   const struct gg_cache *from, const struct gg_pick *picks,
			   struct kvmod_gather *moves, struct kvmod_span *spans)
{
	uint32_t group = engine->net.n_q_heads / engine->net.n_kv_heads, n = 0;
	size_t to_room = gg_cache_room(engine, to), from_room = gg_cache_room(engine, from);

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		struct kvmod_gather picked = { .size = sizeof(picked) };

		spans += gg_describe_pick(&picks[g], &picked, spans);
		for (int i = 0; picks[g].n && i < GG_N_EXTRAS; i++) {
			for (uint32_t h = g * group; gg_extra_kept(to, i) && h < (g + 1) * group; h++)
				moves[n++] = gg_move(&picked, to->extras[i].address, h * to_room,
						     from->extras[i].address, h * from_room,
						     from->n[g], sizeof(float));
		}
	}
	return n;
}

static int32_t move_all(struct gg_engine *engine, enum gg_side side, const struct gg_cache *to,
			const struct gg_cache *from, const struct gg_pick *picks)
{
	size_t n_spans = 0, most = (size_t)GG_N_EXTRAS * engine->net.n_q_heads;
	struct kvmod_gather *moves = calloc(most, sizeof(*moves));
	struct kvmod_span *spans;
	int32_t code = KVMOD_OK;
	uint32_t n = 0;

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++)
		n_spans += gg_pick_spans(&picks[g]);
	spans = calloc(n_spans + 1, sizeof(*spans));
	if (moves && spans)
		n = list_moves(engine, to, from, picks, moves, spans);
	else
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory to copy what policies need");
	if (side == GG_GPU && !code)
		code = gg_gpu_gather(engine, moves, n);
	for (uint32_t i = 0; side == GG_HOST && i < n; i++)
		kv_cpu_gather(&moves[i]);
	free(moves);
	free(spans);
	return code;
}

int32_t gg_extras_copy(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		       const struct gg_cache *from, const struct gg_pick *picks)
{
	bool any = false;
	int32_t code = KVMOD_OK;

	for (int i = 0; !code && i < GG_N_EXTRAS; i++) {
		if (!gg_extra_kept(from, i))
			continue;
		any = true;
		if (!gg_extra_new(engine, side, to, i))
			code = gg_fail(engine, KVMOD_ENOMEM, "no memory for what policies need%s",
				       side == GG_GPU ? " on the GPU: set a smaller gpu_layers" : "");
	}
	if (any && !code)
		code = move_all(engine, side, to, from, picks);
	if (code)
		gg_extras_free(to);
	return code;
}
