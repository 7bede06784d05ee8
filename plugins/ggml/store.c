/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How rows of K and V are stored: as another type, once a plan asks for it. Values of four
 * bits are multiplied by Hadamard matrices first, which spread what is large over a row:
 * quantizing them then costs next to nothing (llama.cpp's pull request 21038), and the
 * output of attention is multiplied back. Keys of four bits ruin some models even so, and
 * are not stored.
 */
#include "runtime.h"

#include <stdlib.h>

#include "kernels/cpu/hadamard.h"
#include "small_graph.h"

/* Floats that a conversion takes at a time. */
#define BLOCK_BYTES	(16u << 20)
#define NODES_PER_BLOCK	8u

uint32_t gg_element_type(enum ggml_type type)
{
	switch (type) {
	case GGML_TYPE_F32:
		return KVMOD_F32;
	case GGML_TYPE_Q8_0:
		return KVMOD_Q8_0;
	case GGML_TYPE_Q4_0:
		return KVMOD_Q4_0;
	default:
		return KVMOD_F16;
	}
}

/* GGML_TYPE_COUNT: none that rows are stored as. */
static enum ggml_type type_of(uint32_t element)
{
	static const enum ggml_type types[] = {
		[KVMOD_F32] = GGML_TYPE_F32, [KVMOD_F16] = GGML_TYPE_F16,
		[KVMOD_BF16] = GGML_TYPE_COUNT, [KVMOD_Q8_0] = GGML_TYPE_Q8_0,
		[KVMOD_Q4_0] = GGML_TYPE_Q4_0,
	};

	return element < sizeof(types) / sizeof(types[0]) ? types[element] : GGML_TYPE_COUNT;
}

size_t gg_store_row(const struct gg_engine *engine, const struct gg_store *store)
{
	return ggml_row_size(store->type, engine->net.head_dim);
}

struct kvmod_view gg_store_view(const struct gg_engine *engine, const struct gg_store *store, size_t row)
{
	size_t bytes = gg_store_row(engine, store);

	return (struct kvmod_view){
		.type = gg_element_type(store->type), .rotation = store->rotation,
		.data = (const char *)store->memory.address + row * bytes, .stride = (int64_t)bytes,
	};
}

struct ggml_tensor *gg_store_rows(const struct gg_engine *engine, struct ggml_context *context,
				  const struct gg_store *store, size_t n_rows)
{
	return gg_memory_rows(context, &store->memory, store->type, engine->net.head_dim,
			      (int64_t)n_rows);
}

static size_t bytes_for(const struct gg_engine *engine, enum gg_side side, const struct gg_store *store,
			size_t n_rows)
{
	return n_rows * gg_store_row(engine, store) +
	       (side == GG_GPU ? gg_gpu_padding(engine, store->type) : 0);
}

static bool take(struct gg_engine *engine, enum gg_side side, struct gg_store *store, enum ggml_type type,
		 uint32_t rotation, size_t n_rows)
{
	*store = (struct gg_store){ .type = type, .rotation = rotation };
	return gg_memory_new(engine, &store->memory, side, bytes_for(engine, side, store, n_rows));
}

bool gg_store_fits(const struct gg_engine *engine, enum gg_side side, const struct gg_store *store,
		   const struct gg_store *like, size_t n_rows)
{
	return store->type == like->type && store->rotation == like->rotation &&
	       store->memory.bytes >= bytes_for(engine, side, like, n_rows);
}

bool gg_store_new(struct gg_engine *engine, enum gg_side side, struct gg_store *store,
		  const struct gg_store *like, size_t n_rows)
{
	return take(engine, side, store, like ? like->type : engine->type, like ? like->rotation : 0,
		    n_rows);
}

/* --- Hadamard matrices ------------------------------------------------------------------------- */

/* The largest power of two that divides n. */
static uint32_t power_of_two(uint32_t n)
{
	return n & (0u - n);
}

static struct ggml_tensor *matrix(struct gg_engine *engine, struct ggml_context *context, enum gg_side side,
				  uint32_t d)
{
	return gg_memory_rows(context, &gg_runtime_of(engine)->hadamard[side], GGML_TYPE_F32, d, d);
}

/* Where ggml has no fast transform, it multiplies by the matrix itself. */
static bool fill_matrix(struct gg_engine *engine, enum gg_side side, uint32_t d)
{
	struct ggml_context *context = gg_tensors_only(1);
	float *numbers = calloc((size_t)d * d, sizeof(*numbers));
	bool made = context && numbers;

	for (uint32_t i = 0; made && i < d; i++)
		numbers[i * d + i] = 1;
	if (made) {
		kv_cpu_hadamard(numbers, (size_t)d * d, d);
		ggml_backend_tensor_set(matrix(engine, context, side, d), numbers, 0,
					(size_t)d * d * sizeof(*numbers));
	}
	free(numbers);
	ggml_free(context);
	return made;
}

/* Makes the matrix of a side, once. False: not enough memory. */
static bool need_matrix(struct gg_engine *engine, enum gg_side side, uint32_t d)
{
	struct gg_memory *memory = &gg_runtime_of(engine)->hadamard[side];

	if (memory->bytes)
		return true;
	if (gg_memory_new(engine, memory, side, (size_t)d * d * sizeof(float)) &&
	    fill_matrix(engine, side, d))
		return true;
	gg_memory_free(memory);
	return false;
}

struct ggml_tensor *gg_hadamard(struct gg_engine *engine, struct ggml_context *context, enum gg_side side,
				struct ggml_tensor *x, uint32_t d)
{
	struct ggml_tensor *y = ggml_reshape_2d(context, x, d, ggml_nelements(x) / d);

	y = ggml_mul_mat(context, matrix(engine, context, side, d), y);
	ggml_mul_mat_set_hint(y, GGML_HINT_SRC0_IS_HADAMARD);
	return ggml_reshape_4d(context, y, x->ne[0], x->ne[1], x->ne[2], x->ne[3]);
}

/* --- converting ----------------------------------------------------------------------------------- */

/* Some rows of `from`, as floats on the way, to the same rows of `to`. */
static void add_block(struct gg_small_graph *graph, struct ggml_tensor *from, struct ggml_tensor *to,
		      uint32_t rotation, size_t first, size_t n)
{
	struct ggml_context *context = graph->context;
	struct ggml_tensor *x = ggml_view_2d(context, from, from->ne[0], (int64_t)n, from->nb[1],
					     first * from->nb[1]);

	if (from->type != GGML_TYPE_F32)
		x = ggml_cast(context, x, GGML_TYPE_F32);
	if (rotation)
		x = gg_hadamard(graph->engine, context, graph->side, x, rotation);
	to = ggml_view_2d(context, to, to->ne[0], (int64_t)n, to->nb[1], first * to->nb[1]);
	ggml_build_forward_expand(graph->nodes, ggml_cpy(context, x, to));
}

static int32_t convert(struct gg_engine *engine, enum gg_side side, const struct gg_store *from,
		       struct gg_store *to, size_t n_rows)
{
	size_t block = BLOCK_BYTES / (engine->net.head_dim * sizeof(float));
	size_t n_blocks = (n_rows + block - 1) / block;
	struct gg_small_graph graph;
	/* A Hadamard matrix is its own inverse. */
	uint32_t rotation = from->rotation == to->rotation ? 0 : from->rotation | to->rotation;
	int32_t code = KVMOD_ENOMEM;

	if (gg_small_graph_new(&graph, engine, side, 2 + n_blocks * NODES_PER_BLOCK)) {
		struct ggml_tensor *source = gg_store_rows(engine, graph.context, from, n_rows);
		struct ggml_tensor *target = gg_store_rows(engine, graph.context, to, n_rows);

		for (size_t i = 0; i < n_rows; i += block)
			add_block(&graph, source, target, rotation, i,
				  n_rows - i < block ? n_rows - i : block);
		if (gg_small_graph_plan(&graph))
			code = gg_small_graph_run(&graph);
	}
	gg_small_graph_free(&graph);
	return code;
}

/* --- what a plan asks for --------------------------------------------------------------------------- */

/* The type that a keep names; the rows' own if it names none. GGML_TYPE_COUNT: none of ours. */
static enum ggml_type wanted(const struct gg_engine *engine, const struct gg_store *store, uint32_t element)
{
	enum ggml_type type = element == KVMOD_STORE_SAME ? store->type : type_of(element);

	if (type == GGML_TYPE_COUNT || engine->net.head_dim % (uint32_t)ggml_blck_size(type))
		return GGML_TYPE_COUNT;
	return type;
}

static void say_once(struct gg_engine *engine, const char *what, const char *why)
{
	struct gg_runtime *runtime = gg_runtime_of(engine);

	if (!runtime->warned_store)
		gg_log(engine, KVMOD_WARN, "%s cannot be stored as asked, %s: rows stay as they are", what, why);
	runtime->warned_store = true;
}

/* Do rows go into these stores? If not, says why. */
static bool can_store(struct gg_engine *engine, enum gg_side side, const struct gg_store *k,
		      const struct gg_store *v)
{
	if (k->type == GGML_TYPE_COUNT || v->type == GGML_TYPE_COUNT)
		say_once(engine, k->type == GGML_TYPE_COUNT ? "K" : "V",
			 "in a type that is unknown here, or in blocks that do not divide the head dimension");
	else if (k->type == GGML_TYPE_Q4_0)
		say_once(engine, "K", "in four bits, which ruin keys");
	else if (side == GG_GPU && !gg_gpu_attends(engine, k->type, v->type))
		say_once(engine, "K and V", "which this GPU's attention does not read");
	else
		return true;
	return false;
}

/* A copy of n_rows rows, stored as `as` says, of which the memory does not count. */
static int32_t copy_as(struct gg_engine *engine, enum gg_side side, const struct gg_store *from,
		       const struct gg_store *as, size_t n_rows, struct gg_store *to)
{
	int32_t code = KVMOD_ENOMEM;

	*to = (struct gg_store){ .type = as->type };
	if ((!as->rotation || need_matrix(engine, side, as->rotation)) &&
	    take(engine, side, to, as->type, as->rotation, n_rows))
		code = convert(engine, side, from, to, n_rows);
	if (code)
		gg_memory_free(&to->memory);
	if (code == KVMOD_ENOMEM)
		return gg_fail(engine, code, "no memory to store rows as another type");
	return code;
}

int32_t gg_store_plain(struct gg_engine *engine, enum gg_side side, const struct gg_store *store,
		       size_t n_rows, struct gg_store *plain)
{
	const struct gg_store floats = { .type = GGML_TYPE_F32 };

	return copy_as(engine, side, store, &floats, n_rows, plain);
}

/* In the place of `store`, its rows as another type; *old: what is to be freed. */
static int32_t replace(struct gg_engine *engine, enum gg_side side, struct gg_store *store,
		       const struct gg_store *as, size_t n_rows, struct gg_memory *old)
{
	struct gg_store made;
	int32_t code;

	if (store->type == as->type)
		return KVMOD_OK;
	code = copy_as(engine, side, store, as, n_rows, &made);
	if (code)
		return code;
	*old = store->memory;
	*store = made;
	return KVMOD_OK;
}

int32_t gg_cache_convert(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
			 const struct kvmod_keep *keep)
{
	size_t n_rows = cache->first[engine->net.n_kv_heads];
	struct gg_store k = { .type = wanted(engine, &cache->k, keep->k_store) };
	struct gg_store v = { .type = wanted(engine, &cache->v, keep->v_store) };
	struct gg_cache was = *cache;
	struct gg_memory old[2] = { { NULL } };
	int32_t code;

	if (!can_store(engine, side, &k, &v))
		return KVMOD_OK;
	v.rotation = v.type == GGML_TYPE_Q4_0 ? power_of_two(engine->net.head_dim) : 0;
	code = replace(engine, side, &cache->k, &k, n_rows, &old[0]);
	if (!code)
		code = replace(engine, side, &cache->v, &v, n_rows, &old[1]);
	if (code && cache->k.type != was.k.type) {
		gg_memory_free(&cache->k.memory);
		cache->k = was.k;
		return code;
	}
	gg_memory_free(&old[0]);
	gg_memory_free(&old[1]);
	return code;
}
