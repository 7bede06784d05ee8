/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turning keys that are cached, by ggml's own RoPE: a graph of three nodes for each
 * layer fetches rows, turns them, and writes them. A turn has no magnitude: YaRN's
 * is in the keys already.
 */
#include "engine.h"

#include <math.h>
#include <stdlib.h>

#define NODES_PER_TURN 12u

struct turner {
	struct gg_engine *engine;
	enum gg_side side;
	struct ggml_context *context;
	struct ggml_cgraph *nodes;
	ggml_gallocr_t memory;
};

static ggml_backend_t backend_of(const struct turner *t)
{
	return t->side == GG_GPU ? t->engine->gpu.handle : t->engine->backend.handle;
}

/* --- the graph -------------------------------------------------------------------------- */

static struct ggml_tensor *rows_in(const struct turner *t, const struct gg_memory *memory,
				   enum ggml_type type, uint32_t n_rows)
{
	struct ggml_tensor *tensor = ggml_new_tensor_2d(t->context, type,
							t->engine->net.head_dim, n_rows);

	ggml_backend_tensor_alloc(memory->buffer, tensor, memory->address);
	return tensor;
}

static struct ggml_tensor *input(const struct turner *t, enum ggml_type type, uint32_t n)
{
	struct ggml_tensor *tensor = ggml_new_tensor_1d(t->context, type, n);

	ggml_set_input(tensor);
	return tensor;
}

/* What ggml's RoPE is to multiply by so that keys stay as long as they are. */
static float no_magnitude(const struct gg_rope *rope)
{
	return rope->ext_factor != 0 ? 1 / (1 + 0.1f * logf(1 / rope->scale)) : 1;
}

static void add_turn(const struct turner *t, struct gg_turn *turn)
{
	const struct gg_model *model = &t->engine->net;
	const struct gg_rope *rope = &model->rope;
	struct gg_cache *cache = turn->cache;
	struct ggml_tensor *keys, *lead = NULL, *x;

	keys = rows_in(t, &cache->k, t->engine->type, cache->first[model->n_kv_heads]);
	if (turn->kind != GG_TURN_REST)
		lead = rows_in(t, &cache->lead.keys, GGML_TYPE_F32,
			       model->n_kv_heads * cache->lead.room);
	turn->from = input(t, GGML_TYPE_I32, turn->n);
	turn->to = input(t, GGML_TYPE_I64, turn->n);
	turn->by = input(t, GGML_TYPE_I32, turn->n);
	x = ggml_get_rows(t->context, turn->kind == GG_TURN_LEAD ? lead : keys, turn->from);
	x = ggml_reshape_3d(t->context, x, model->head_dim, 1, turn->n);
	x = ggml_rope_ext(t->context, x, turn->by, model->rope_factors[t->side], rope->n_dims,
			  rope->type, rope->n_context, rope->base, rope->scale, rope->ext_factor,
			  no_magnitude(rope), rope->beta_fast, rope->beta_slow);
	x = ggml_reshape_2d(t->context, x, model->head_dim, turn->n);
	x = ggml_set_rows(t->context, turn->kind == GG_TURN_TO_LEAD ? lead : keys, x, turn->to);
	ggml_build_forward_expand(t->nodes, x);
}

/* --- what it is fed with ------------------------------------------------------------------ */

struct rows {
	int32_t *from, *by;
	int64_t *to;
	uint32_t n;
};

static void add_row(struct rows *rows, size_t from, size_t to, int64_t by)
{
	rows->from[rows->n] = (int32_t)from;
	rows->to[rows->n] = (int64_t)to;
	rows->by[rows->n++] = (int32_t)by;
}

static void list_rows(const struct turner *t, const struct gg_turn *turn, struct rows *rows)
{
	const struct gg_cache *cache = turn->cache;
	const struct gg_lead *lead = &cache->lead;

	for (uint32_t g = 0; g < t->engine->net.n_kv_heads; g++) {
		size_t first = cache->first[g], lead_first = (size_t)g * lead->room;
		uint32_t n = lead->room ? lead->n[g] : 0;

		for (uint32_t i = 0; turn->kind == GG_TURN_TO_LEAD && i < n; i++)
			add_row(rows, first + i, lead_first + i,
				(int64_t)cache->base - lead->places[lead_first + i]);
		for (uint32_t i = 0; turn->kind == GG_TURN_LEAD && i < n; i++)
			add_row(rows, lead_first + i, first + i,
				(int64_t)lead->places[lead_first + i] - turn->base);
		for (uint32_t i = n; turn->kind == GG_TURN_REST && i < cache->n[g]; i++)
			add_row(rows, first + i, first + i, (int64_t)cache->base - turn->base);
	}
}

static bool feed(const struct turner *t, const struct gg_turn *turn)
{
	struct rows rows = {
		.from = malloc(turn->n * sizeof(*rows.from)),
		.by = malloc(turn->n * sizeof(*rows.by)),
		.to = malloc(turn->n * sizeof(*rows.to)),
	};
	bool listed = rows.from && rows.by && rows.to;

	if (listed) {
		list_rows(t, turn, &rows);
		ggml_backend_tensor_set(turn->from, rows.from, 0, ggml_nbytes(turn->from));
		ggml_backend_tensor_set(turn->by, rows.by, 0, ggml_nbytes(turn->by));
		ggml_backend_tensor_set(turn->to, rows.to, 0, ggml_nbytes(turn->to));
	}
	free(rows.from);
	free(rows.by);
	free(rows.to);
	return listed;
}

/* --- running it ------------------------------------------------------------------------------ */

static bool prepare(struct turner *t, struct gg_turn *turns, uint32_t n)
{
	size_t n_nodes = (size_t)n * NODES_PER_TURN;
	struct ggml_init_params params = {
		.mem_size = n_nodes * ggml_tensor_overhead() +
			    ggml_graph_overhead_custom(n_nodes, false),
		.no_alloc = true,
	};

	t->context = ggml_init(params);
	t->memory = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend_of(t)));
	if (!t->context || !t->memory)
		return false;
	t->nodes = ggml_new_graph_custom(t->context, n_nodes, false);
	for (uint32_t i = 0; i < n; i++)
		add_turn(t, &turns[i]);
	if (!ggml_gallocr_alloc_graph(t->memory, t->nodes))
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (!feed(t, &turns[i]))
			return false;
	return true;
}

int32_t gg_turn(struct gg_engine *engine, enum gg_side side, struct gg_turn *turns, uint32_t n)
{
	struct turner t = { .engine = engine, .side = side };
	int32_t code;

	if (!n)
		return KVMOD_OK;
	gg_gpu_wait(engine);
	if (prepare(&t, turns, n)) {
		engine->backend.held = true;
		code = gg_backend_status(engine,
					 ggml_backend_graph_compute(backend_of(&t), t.nodes));
		engine->backend.held = false;
	} else {
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory to turn the keys of %u layers", n);
	}
	if (t.memory)
		ggml_gallocr_free(t.memory);
	ggml_free(t.context);
	return code;
}
