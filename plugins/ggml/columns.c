/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention reduced over the tokens that pay it: sums for policies, and maxima while a context
 * is read again. Flash attention leaves no weights behind. Queries of all tokens are therefore
 * collected, and their attention is computed once more, in blocks: when the rows of queries
 * are full, and before anything looks at the result or moves what it depends on.
 */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/columns.h"

/* --- what there is -------------------------------------------------------------------- */

bool gg_columns_served(const struct gg_engine *engine)
{
	return !engine->gpu.n_layers || gg_gpu_attention(engine);
}

void gg_columns_drop(struct kvmod_seq *seq)
{
	for (uint32_t i = 0; i < seq->engine->net.n_layers; i++)
		gg_memory_free(&seq->caches[i].extras[GG_COLUMN_SUMS]);
	memset(&seq->columns, 0, sizeof(seq->columns));
}

bool gg_columns_new(struct kvmod_seq *seq, const struct gg_columns *how)
{
	struct gg_engine *engine = seq->engine;

	seq->columns = *how;
	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		if (gg_extra_new(engine, gg_side_of(engine, i), &seq->caches[i], GG_COLUMN_SUMS))
			continue;
		gg_columns_drop(seq);
		return false;
	}
	return true;
}

void gg_columns_begin(struct kvmod_seq *seq, const struct kvmod_needs *needs)
{
	const struct gg_columns sums = { .on = true, .reduce = KVMOD_COLUMNS_SUM };

	if (!needs || !(needs->what & KVMOD_NEED_COLSUM) || !gg_columns_served(seq->engine)) {
		gg_columns_drop(seq);
		return;
	}
	/* Sums that lack some of the tokens are none. */
	if (seq->columns.on || seq->logical)
		return;
	if (!gg_columns_new(seq, &sums))
		gg_log(seq->engine, KVMOD_WARN,
		       "no memory for column sums of attention, which the policy needs");
}

void gg_columns_forget(struct kvmod_seq *seq, uint64_t logical)
{
	uint64_t n = seq->logical - logical;

	if (!seq->columns.on)
		return;
	if (n <= seq->columns.pending)
		seq->columns.pending -= (uint32_t)n;
	else
		gg_columns_drop(seq);
}

/* --- jobs --------------------------------------------------------------------------------- */

static void add_span(struct kvmod_columns *job, uint32_t begin, uint32_t end)
{
	if (job->n_spans && begin < job->spans[job->n_spans - 1].end)
		begin = job->spans[job->n_spans - 1].end;
	if (begin < end)
		job->spans[job->n_spans++] = (struct kvmod_span){ .begin = begin, .end = end };
}

/* Maxima: the softmax is over the sinks, the positions that are read again, and the run. */
static void limit_to_spans(const struct gg_columns *columns, const struct gg_cache *cache, uint32_t g,
			   struct kvmod_columns *job)
{
	add_span(job, 0, gg_rows_before(cache, g, columns->sinks));
	add_span(job, gg_rows_before(cache, g, columns->begin), gg_rows_before(cache, g, columns->end));
	add_span(job, gg_rows_before(cache, g, columns->run), cache->n[g]);
}

/* The pending rows over one KV head. They are the newest rows that the head caches. */
static struct kvmod_columns job_of(const struct kvmod_seq *seq, uint32_t layer, uint32_t g)
{
	const struct gg_engine *engine = seq->engine;
	const struct gg_model *model = &engine->net;
	const struct gg_columns *columns = &seq->columns;
	const struct gg_cache *cache = &seq->caches[layer];
	uint32_t group = model->n_q_heads / model->n_kv_heads;
	struct kvmod_view out = gg_extra_view(engine, cache, GG_COLUMN_SUMS);
	size_t head = model->head_dim * sizeof(float), row = gg_row_bytes(engine);
	bool sums = columns->reduce == KVMOD_COLUMNS_SUM;
	struct kvmod_columns job = {
		.size = sizeof(job), .reduce = columns->reduce,
		.n = cache->n[g], .n_rows = columns->pending, .group = group,
		.head_dim = model->head_dim, .n_seen = cache->n[g] - columns->pending + 1,
		.k = { .type = gg_view_type(engine), .stride = (int64_t)row,
		       .data = (const char *)cache->k.address + cache->first[g] * row },
		.q = { .type = KVMOD_F32,
		       .data = gg_query_row(seq, layer, seq->queries.n - columns->pending) +
			       (size_t)g * group * model->head_dim,
		       .stride = (int64_t)(model->n_q_heads * head), .head_stride = (int64_t)head },
		.scale = model->scale,
		.out = (float *)(uintptr_t)out.data +
		       (size_t)g * (sums ? group : 1) * gg_cache_room(engine, cache),
		.out_stride = out.head_stride / (int64_t)sizeof(float),
	};

	if (!sums)
		limit_to_spans(columns, cache, g, &job);
	return job;
}

/* --- running them ---------------------------------------------------------------------------- */

/* The layers of one side. */
struct reduction {
	const struct kvmod_seq *seq;
	enum gg_side side;
	const struct kvmod_device_attention *device;	/* NULL: the host computes */
	uint32_t n_threads;
	uint32_t n;			/* jobs of a layer: one for each KV head */
	struct kvmod_columns *jobs;
};

static void list_jobs(const struct reduction *r, uint32_t layer)
{
	for (uint32_t g = 0; g < r->n; g++)
		r->jobs[g] = job_of(r->seq, layer, g);
}

/* Memory for the layer that needs the most; it stays for the next time. */
static int32_t take_scratch(const struct reduction *r)
{
	struct gg_engine *engine = r->seq->engine;
	struct gg_memory *scratch = &gg_runtime_of(engine)->scratch[r->side];
	size_t bytes = 0, layer;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		if (gg_side_of(engine, i) != r->side)
			continue;
		list_jobs(r, i);
		if (r->device)
			layer = r->device->columns_scratch(engine->gpu.self, r->jobs, r->n,
							   sizeof(*r->jobs));
		else
			layer = kv_columns_scratch(r->jobs, r->n, sizeof(*r->jobs), r->n_threads);
		bytes = layer > bytes ? layer : bytes;
	}
	if (bytes <= scratch->bytes)
		return KVMOD_OK;
	gg_memory_free(scratch);
	if (gg_memory_new(engine, scratch, r->side, bytes))
		return KVMOD_OK;
	gg_memory_free(scratch);
	return KVMOD_ENOMEM;
}

static int32_t reduce_layer(const struct reduction *r, uint32_t layer)
{
	struct gg_engine *engine = r->seq->engine;
	void *scratch = gg_runtime_of(engine)->scratch[r->side].address;

	list_jobs(r, layer);
	if (r->device)
		return r->device->columns(engine->gpu.self, NULL, r->jobs, r->n, sizeof(*r->jobs),
					  scratch);
	return kv_columns(r->n_threads > 1 ? engine->base.host : NULL, r->jobs, r->n,
			  sizeof(*r->jobs), r->n_threads, scratch);
}

static int32_t reduce_side(const struct reduction *r)
{
	const struct gg_engine *engine = r->seq->engine;
	int32_t code = take_scratch(r);

	for (uint32_t i = 0; !code && i < engine->net.n_layers; i++) {
		if (gg_side_of(engine, i) == r->side)
			code = reduce_layer(r, i);
	}
	/* ggml's streams do not wait for the default stream. */
	if (r->device && !code)
		code = engine->gpu.ops->synchronize(engine->gpu.self, NULL);
	return code;
}

static int32_t reduce_sides(const struct kvmod_seq *seq)
{
	const struct gg_engine *engine = seq->engine;
	const struct kvmod_host *host = engine->base.host;
	uint32_t threads = host->n_threads(host->ctx), most = (uint32_t)engine->backend.n_threads;
	struct reduction r = { .seq = seq, .side = GG_HOST, .n = engine->net.n_kv_heads,
			       .n_threads = threads < most ? threads : most };
	int32_t code = KVMOD_OK;

	r.jobs = calloc(r.n, sizeof(*r.jobs));
	if (!r.jobs)
		return KVMOD_ENOMEM;
	if (engine->gpu.n_layers < engine->net.n_layers)
		code = reduce_side(&r);
	r.side = GG_GPU;
	r.device = gg_gpu_attention(engine);
	if (!code && engine->gpu.n_layers)
		code = reduce_side(&r);
	free(r.jobs);
	return code;
}

void gg_columns_settle(struct kvmod_seq *seq)
{
	struct gg_engine *engine = seq->engine;
	int32_t code;
	bool sums;

	if (!seq->columns.on || !seq->columns.pending)
		return;
	gg_gpu_wait(engine);
	code = reduce_sides(seq);
	seq->columns.pending = 0;
	if (!code)
		return;
	sums = seq->columns.reduce == KVMOD_COLUMNS_SUM;
	gg_columns_drop(seq);
	seq->columns.lost = code;
	if (sums)
		gg_log(engine, KVMOD_WARN,
		       "%s the attention that tokens pay: its column sums are lost",
		       code == KVMOD_ENOMEM ? "no memory to add up" : "the device could not add up");
}
