/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotates cached keys with ggml's own RoPE: for each layer a graph fetches rows, rotates
 * them, and writes them. A rotation scales nothing: YaRN's magnitude is in the keys already.
 */
#include "cache.h"

#include <stdlib.h>

#define NODES_PER_ROTATION 12u

struct rotator {
	struct gg_engine *engine;
	enum gg_side side;
	struct ggml_context *context;
	struct ggml_cgraph *nodes;
	ggml_gallocr_t memory;
};

static ggml_backend_t backend_of(const struct rotator *t)
{
	return t->side == GG_GPU ? t->engine->gpu.handle : t->engine->backend.handle;
}

/* --- the graph -------------------------------------------------------------------------- */

static struct ggml_tensor *rows_in(const struct rotator *t, const struct gg_memory *memory,
				   enum ggml_type type, uint32_t n_rows)
{
	struct ggml_tensor *tensor = ggml_new_tensor_2d(t->context, type,
							t->engine->net.head_dim, n_rows);

	ggml_backend_tensor_alloc(memory->buffer, tensor, memory->address);
	return tensor;
}

static struct ggml_tensor *input(const struct rotator *t, enum ggml_type type, uint32_t n)
{
	struct ggml_tensor *tensor = ggml_new_tensor_1d(t->context, type, n);

	ggml_set_input(tensor);
	return tensor;
}

/* The factor that undoes the magnitude which ggml's RoPE applies for YaRN. */
static float no_magnitude(const struct gg_rope *rope)
{
	return 1 / gg_rope_magnitude(rope);
}

static void add_rotation(const struct rotator *t, struct gg_rotation *rotation)
{
	const struct gg_model *model = &t->engine->net;
	const struct gg_rope *rope = &model->rope;
	struct gg_cache *cache = rotation->cache;
	struct ggml_tensor *keys, *sinks = NULL, *x;

	keys = rows_in(t, &cache->k, t->engine->type, cache->first[model->n_kv_heads]);
	if (rotation->kind != GG_ROTATE_REST)
		sinks = rows_in(t, &cache->sinks.keys, GGML_TYPE_F32,
			       model->n_kv_heads * cache->sinks.room);
	rotation->from = input(t, GGML_TYPE_I32, rotation->n);
	rotation->to = input(t, GGML_TYPE_I64, rotation->n);
	rotation->by = input(t, GGML_TYPE_I32, rotation->n);
	x = ggml_get_rows(t->context, rotation->kind == GG_ROTATE_SINKS ? sinks : keys, rotation->from);
	x = ggml_reshape_3d(t->context, x, model->head_dim, 1, rotation->n);
	x = ggml_rope_ext(t->context, x, rotation->by, model->rope_factors[t->side], rope->n_dims,
			  rope->type, rope->n_context, rope->base, rope->scale, rope->ext_factor,
			  no_magnitude(rope), rope->beta_fast, rope->beta_slow);
	x = ggml_reshape_2d(t->context, x, model->head_dim, rotation->n);
	x = ggml_set_rows(t->context, rotation->kind == GG_ROTATE_TO_SINKS ? sinks : keys, x, rotation->to);
	ggml_build_forward_expand(t->nodes, x);
}

/* --- its inputs --------------------------------------------------------------------------- */

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

static void list_rows(const struct rotator *t, const struct gg_rotation *rotation, struct rows *rows)
{
	const struct gg_cache *cache = rotation->cache;
	const struct gg_sinks *sinks = &cache->sinks;

	for (uint32_t g = 0; g < t->engine->net.n_kv_heads; g++) {
		size_t first = cache->first[g], sinks_first = (size_t)g * sinks->room;
		uint32_t n = sinks->room ? sinks->n[g] : 0;

		for (uint32_t i = 0; rotation->kind == GG_ROTATE_TO_SINKS && i < n; i++)
			add_row(rows, first + i, sinks_first + i,
				(int64_t)cache->base - sinks->places[sinks_first + i]);
		for (uint32_t i = 0; rotation->kind == GG_ROTATE_SINKS && i < n; i++)
			add_row(rows, sinks_first + i, first + i,
				(int64_t)sinks->places[sinks_first + i] - rotation->base);
		for (uint32_t i = n; rotation->kind == GG_ROTATE_REST && i < cache->n[g]; i++)
			add_row(rows, first + i, first + i, (int64_t)cache->base - rotation->base);
	}
}

static bool feed(const struct rotator *t, const struct gg_rotation *rotation)
{
	struct rows rows = {
		.from = malloc(rotation->n * sizeof(*rows.from)),
		.by = malloc(rotation->n * sizeof(*rows.by)),
		.to = malloc(rotation->n * sizeof(*rows.to)),
	};
	bool listed = rows.from && rows.by && rows.to;

	if (listed) {
		list_rows(t, rotation, &rows);
		ggml_backend_tensor_set(rotation->from, rows.from, 0, ggml_nbytes(rotation->from));
		ggml_backend_tensor_set(rotation->by, rows.by, 0, ggml_nbytes(rotation->by));
		ggml_backend_tensor_set(rotation->to, rows.to, 0, ggml_nbytes(rotation->to));
	}
	free(rows.from);
	free(rows.by);
	free(rows.to);
	return listed;
}

/* --- running it ------------------------------------------------------------------------------ */

static bool prepare(struct rotator *t, struct gg_rotation *rotations, uint32_t n)
{
	size_t n_nodes = (size_t)n * NODES_PER_ROTATION;
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
		add_rotation(t, &rotations[i]);
	if (!ggml_gallocr_alloc_graph(t->memory, t->nodes))
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (!feed(t, &rotations[i]))
			return false;
	return true;
}

int32_t gg_rotate(struct gg_engine *engine, enum gg_side side, struct gg_rotation *rotations, uint32_t n)
{
	struct rotator t = { .engine = engine, .side = side };
	int32_t code;

	if (!n)
		return KVMOD_OK;
	gg_gpu_wait(engine);
	if (prepare(&t, rotations, n)) {
		engine->backend.uninterruptible = true;
		code = gg_backend_status(engine,
					 ggml_backend_graph_compute(backend_of(&t), t.nodes));
		engine->backend.uninterruptible = false;
	} else {
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory to rotate the keys of %u layers", n);
	}
	if (t.memory)
		ggml_gallocr_free(t.memory);
	ggml_free(t.context);
	return code;
}
