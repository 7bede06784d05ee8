/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotates cached keys with ggml's own RoPE: for each layer a graph fetches rows, rotates
 * them, and writes them. A rotation scales nothing: YaRN's magnitude is in the keys already.
 */
#include "cache.h"

#include <stdlib.h>

#include "small_graph.h"

#define NODES_PER_ROTATION 12u

/* --- the graph -------------------------------------------------------------------------- */

static struct ggml_tensor *input(const struct gg_small_graph *t, enum ggml_type type, uint32_t n)
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

static void add_rotation(const struct gg_small_graph *t, struct gg_rotation *rotation)
{
	const struct gg_model *model = &t->engine->net;
	const struct gg_rope *rope = &model->rope;
	struct gg_cache *cache = rotation->cache;
	struct ggml_tensor *keys, *sinks = NULL, *x;

	keys = gg_store_rows(t->engine, t->context, &cache->k, cache->first[model->n_kv_heads]);
	if (rotation->kind != GG_ROTATE_REST)
		sinks = gg_memory_rows(t->context, &cache->sinks.keys, GGML_TYPE_F32,
				       model->head_dim, model->n_kv_heads * cache->sinks.room);
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

static void list_rows(const struct gg_small_graph *t, const struct gg_rotation *rotation, struct rows *rows)
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

static bool feed(const struct gg_small_graph *t, const struct gg_rotation *rotation)
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

static bool prepare(struct gg_small_graph *t, struct gg_rotation *rotations, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		add_rotation(t, &rotations[i]);
	if (!gg_small_graph_plan(t))
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (!feed(t, &rotations[i]))
			return false;
	return true;
}

int32_t gg_rotate(struct gg_engine *engine, enum gg_side side, struct gg_rotation *rotations, uint32_t n)
{
	struct gg_small_graph t;
	int32_t code;

	if (!n)
		return KVMOD_OK;
	gg_gpu_wait(engine);
	if (gg_small_graph_new(&t, engine, side, (size_t)n * NODES_PER_ROTATION) && prepare(&t, rotations, n))
		code = gg_small_graph_run(&t);
	else
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory to rotate the keys of %u layers", n);
	gg_small_graph_free(&t);
	return code;
}
