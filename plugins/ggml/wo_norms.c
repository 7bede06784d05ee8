/* SPDX-License-Identifier: Apache-2.0 */
/*
 * |Wo v|_1 of each query head and cached position, as extras of the caches. A position's norm
 * never changes: a request computes those of positions that are new since the last one.
 *
 * Wo comes from the model's file, because the weight that ggml multiplies with may have another
 * layout, or be on a GPU. One layer at a time is in memory, as F16.
 */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/wo_norms.h"

#define READ_BYTES	(1u << 20)	/* of the file at a time */
#define ROWS		16u		/* that a thread turns into F16 at a time */

/* What one call needs, for one layer after the other. */
struct update {
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	struct kvmod_norms *jobs;	/* [n_kv_heads] */
	ggml_fp16_t *wo;		/* [GG_WIDTH][GG_Q_ROWS] */
	void *wo_on_gpu;
	struct gg_store plain;		/* values of the layer, where they are stored rotated */
	char *raw;			/* rows of the file, */
	uint32_t raw_rows;		/* as many as fit READ_BYTES */
	float *rows;			/* [n_threads][GG_Q_ROWS] */
	void *scratch;
	size_t scratch_bytes;
	uint32_t n_threads;
};

/* --- Wo, from the file ------------------------------------------------------------------ */

/* Rows of the file that threads turn into F16. */
struct conversion {
	const struct update *update;
	const struct ggml_tensor *weight;
	ggml_fp16_t *to;
	uint32_t n_rows;
};

static void convert_rows(void *arg, uint32_t thread)
{
	const struct conversion *c = arg;
	const struct update *u = c->update;
	int64_t n = c->weight->ne[0];
	size_t bytes = ggml_row_size(c->weight->type, n);
	ggml_to_float_t to_float = ggml_get_type_traits(c->weight->type)->to_float;
	float *row = u->rows + thread * (size_t)n;

	for (uint32_t i = thread * ROWS; i < c->n_rows; i += u->n_threads * ROWS) {
		for (uint32_t r = i; r < i + ROWS && r < c->n_rows; r++) {
			const char *from = u->raw + r * bytes;

			if (c->weight->type == GGML_TYPE_F32)
				memcpy(row, from, bytes);
			else
				to_float(from, row, n);
			ggml_fp32_to_fp16_row(row, c->to + r * (size_t)n, n);
		}
	}
}

static void parallel(const struct update *u, void (*fn)(void *arg, uint32_t i), void *arg)
{
	const struct kvmod_host *host = u->engine->base.host;

	if (u->n_threads > 1)
		host->parallel(host->ctx, u->n_threads, fn, arg);
	else
		fn(arg, 0);
}

static int32_t load_wo(const struct update *u, uint32_t layer)
{
	const struct gg_layer *l = &u->engine->net.layers[layer];
	const struct ggml_tensor *weight = l->w[GG_ATTN_OUT];
	size_t bytes = ggml_row_size(weight->type, weight->ne[0]);
	uint32_t n = (uint32_t)weight->ne[1];
	int32_t code = KVMOD_OK;

	for (uint32_t row = 0; row < n && !code; row += u->raw_rows) {
		struct conversion c = {
			.update = u, .weight = weight, .to = u->wo + row * (size_t)weight->ne[0],
			.n_rows = n - row < u->raw_rows ? n - row : u->raw_rows,
		};

		code = gg_file_read(u->engine, l->attn_out_offset + row * bytes, u->raw,
				    c.n_rows * bytes);
		if (!code)
			parallel(u, convert_rows, &c);
	}
	return code;
}

/* --- norms of one layer ------------------------------------------------------------------- */

/* A job for each KV head that has new rows; returns their number. */
static uint32_t list_jobs(const struct update *u, uint32_t layer, uint64_t known, const void *wo,
			  const struct gg_store *values)
{
	const struct gg_model *net = &u->engine->net;
	const struct gg_cache *cache = &u->seq->caches[layer];
	struct kvmod_view all = gg_extra_view(u->engine, cache, GG_WO_NORMS);
	uint32_t group = net->n_q_heads / net->n_kv_heads, n = 0;
	size_t head = net->head_dim * sizeof(ggml_fp16_t);
	int64_t room = all.head_stride / (int64_t)sizeof(float);
	uint32_t width = (uint32_t)net->dims[GG_WIDTH];

	for (uint32_t g = 0; g < net->n_kv_heads; g++) {
		uint32_t first = gg_rows_before(cache, g, known);

		if (first == cache->n[g])
			continue;
		u->jobs[n++] = (struct kvmod_norms){
			.size = sizeof(struct kvmod_norms),
			.n = cache->n[g] - first,
			.group = group, .head_dim = net->head_dim, .n_out = width,
			.v = gg_store_view(u->engine, values, cache->first[g] + first),
			.wo = { .type = KVMOD_F16, .data = (const char *)wo + g * group * head,
				.stride = (int64_t)(net->n_q_heads * head),
				.head_stride = (int64_t)head },
			.out = (float *)(uintptr_t)all.data + (int64_t)(g * group) * room + first,
			.out_stride = room,
		};
	}
	return n;
}

static int32_t run_on_host(struct update *u, uint32_t n_jobs)
{
	size_t bytes = kv_wo_norms_scratch(u->jobs, n_jobs, sizeof(*u->jobs), u->n_threads);

	if (u->scratch_bytes < bytes) {
		free(u->scratch);
		u->scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
		u->scratch_bytes = u->scratch ? bytes : 0;
	}
	if (!u->scratch)
		return gg_fail(u->engine, KVMOD_ENOMEM, "no memory for norms of Wo v");
	return kv_wo_norms(u->engine->base.host, u->jobs, n_jobs, sizeof(*u->jobs), u->n_threads,
			   u->scratch);
}

static size_t wo_bytes(const struct gg_engine *engine)
{
	return (size_t)engine->net.dims[GG_WIDTH] * (size_t)engine->net.dims[GG_Q_ROWS] *
	       sizeof(ggml_fp16_t);
}

/*
 * The default stream keeps the order: the GPU gets Wo of the next layer, which the host may
 * already read, after these norms.
 */
static int32_t run_on_gpu(struct update *u, uint32_t n_jobs)
{
	const struct kvmod_device_attention *attention = gg_gpu_attention(u->engine);
	const struct kvmod_device_ops *ops = u->engine->gpu.ops;
	void *self = u->engine->gpu.self;
	int32_t code = ops->from_host(self, NULL, u->wo_on_gpu, u->wo, wo_bytes(u->engine));

	return code ? code : attention->norms(self, NULL, u->jobs, n_jobs, sizeof(*u->jobs));
}

static int32_t take_wo_on_gpu(struct update *u)
{
	const struct gg_gpu *gpu = &u->engine->gpu;

	if (u->wo_on_gpu)
		return KVMOD_OK;
	return gpu->ops->alloc(gpu->self, wo_bytes(u->engine), &u->wo_on_gpu);
}

static bool any_new(const struct update *u, uint32_t layer, uint64_t known)
{
	const struct gg_cache *cache = &u->seq->caches[layer];
	uint32_t g = 0;

	while (g < u->engine->net.n_kv_heads && gg_rows_before(cache, g, known) == cache->n[g])
		g++;
	return g < u->engine->net.n_kv_heads;
}

/* Makes room for norms, unless the cache has them: then positions before *known have theirs. */
static int32_t need_norms(struct update *u, enum gg_side side, struct gg_cache *cache,
			  uint64_t *known)
{
	if (gg_extra_kept(cache, GG_WO_NORMS))
		return KVMOD_OK;
	*known = 0;
	if (gg_extra_new(u->engine, side, cache, GG_WO_NORMS))
		return KVMOD_OK;
	return gg_fail(u->engine, KVMOD_ENOMEM, "no memory for norms of Wo v%s",
		       side == GG_GPU ? " on the GPU: set a smaller gpu_layers" : "");
}

/* Values that are not rotated: the cache's, or a copy. */
static int32_t plain_values(struct update *u, enum gg_side side, const struct gg_cache *cache,
			    const struct gg_store **values)
{
	/* On a GPU this waits for the norms that still read it. */
	gg_memory_free(&u->plain.memory);
	*values = cache->v.rotation ? &u->plain : &cache->v;
	if (!cache->v.rotation)
		return KVMOD_OK;
	return gg_store_plain(u->engine, side, &cache->v, cache->first[u->engine->net.n_kv_heads],
			      &u->plain);
}

static int32_t update_layer(struct update *u, uint32_t layer)
{
	enum gg_side side = gg_side_of(u->engine, layer);
	struct gg_cache *cache = &u->seq->caches[layer];
	uint64_t known = u->seq->norms.known;
	const struct gg_store *values;
	int32_t code = need_norms(u, side, cache, &known);

	if (code || !any_new(u, layer, known))
		return code;
	if (side == GG_GPU)
		code = take_wo_on_gpu(u);
	if (!code)
		code = plain_values(u, side, cache, &values);
	if (!code)
		code = load_wo(u, layer);
	if (code)
		return code;
	if (side == GG_GPU)
		return run_on_gpu(u, list_jobs(u, layer, known, u->wo_on_gpu, values));
	return run_on_host(u, list_jobs(u, layer, known, u->wo, values));
}

/* --- all layers ------------------------------------------------------------------------------ */

static bool take_memory(struct update *u)
{
	const struct gg_model *net = &u->engine->net;
	size_t columns = (size_t)net->dims[GG_Q_ROWS], widest = 0;

	for (uint32_t i = 0; i < net->n_layers; i++) {
		enum ggml_type type = net->layers[i].w[GG_ATTN_OUT]->type;
		size_t bytes = ggml_row_size(type, net->dims[GG_Q_ROWS]);

		widest = bytes > widest ? bytes : widest;
	}
	u->raw_rows = (uint32_t)(READ_BYTES / widest);
	if (!u->raw_rows)
		u->raw_rows = 1;
	if (u->raw_rows > net->dims[GG_WIDTH])
		u->raw_rows = (uint32_t)net->dims[GG_WIDTH];
	u->raw = malloc(u->raw_rows * widest);
	u->rows = malloc(u->n_threads * columns * sizeof(*u->rows));
	u->wo = malloc(wo_bytes(u->engine));
	u->jobs = calloc(net->n_kv_heads, sizeof(*u->jobs));
	return u->raw && u->rows && u->wo && u->jobs;
}

static void free_memory(struct update *u)
{
	if (u->wo_on_gpu)
		u->engine->gpu.ops->free(u->engine->gpu.self, u->wo_on_gpu);
	gg_memory_free(&u->plain.memory);
	free(u->raw);
	free(u->rows);
	free(u->wo);
	free(u->jobs);
	free(u->scratch);
}

int32_t gg_norms_update(struct kvmod_seq *seq)
{
	struct gg_engine *engine = seq->engine;
	const struct kvmod_host *host = engine->base.host;
	uint32_t threads = host->n_threads(host->ctx), most = (uint32_t)engine->backend.n_threads;
	struct update u = {
		.engine = engine, .seq = seq, .n_threads = threads < most ? threads : most,
	};
	int32_t code;

	if (!seq->norms.wanted)
		return KVMOD_OK;
	code = gg_file_check(engine);
	if (!code && !take_memory(&u))
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory for norms of Wo v");
	for (uint32_t i = 0; !code && i < engine->net.n_layers; i++)
		code = update_layer(&u, i);
	if (u.wo_on_gpu) {
		int32_t waited = engine->gpu.ops->synchronize(engine->gpu.self, NULL);

		code = code ? code : waited;
	}
	free_memory(&u);
	if (!code)
		seq->norms.known = seq->logical;
	return code;
}

void gg_norms_begin(struct kvmod_seq *seq, const struct kvmod_needs *needs)
{
	seq->norms.wanted = needs && needs->what & KVMOD_NEED_WO_NORM && gg_norms_served(seq->engine);
	for (uint32_t i = 0; !seq->norms.wanted && i < seq->engine->net.n_layers; i++)
		gg_memory_free(&seq->caches[i].extras[GG_WO_NORMS]);
}

void gg_norms_forget(struct kvmod_seq *seq, uint64_t logical)
{
	if (seq->norms.known > logical)
		seq->norms.known = logical;
}

bool gg_norms_served(const struct gg_engine *engine)
{
	return !engine->gpu.n_layers || gg_gpu_attention(engine);
}
