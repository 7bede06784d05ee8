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
	size_t head = model->head_dim * sizeof(float);
	bool sums = columns->reduce == KVMOD_COLUMNS_SUM;
	struct kvmod_columns job = {
		.size = sizeof(job), .reduce = columns->reduce,
		.n = cache->n[g], .n_rows = columns->pending, .group = group,
		.head_dim = model->head_dim, .n_seen = cache->n[g] - columns->pending + 1,
		.k = gg_store_view(engine, &cache->k, cache->first[g]),
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

/* All KV heads of the layers on one side. */
struct reduction {
	struct gg_engine *engine;
	enum gg_side side;
	const struct kvmod_device_attention *device;	/* NULL: the host computes */
	struct kvmod_columns *jobs;
	uint32_t n;
};

/* To a device, maxima over no span would be maxima over all positions. */
static bool has_positions(const struct kvmod_columns *job)
{
	return job->reduce == KVMOD_COLUMNS_SUM || job->n_spans;
}

static void list_jobs(const struct kvmod_seq *seq, struct reduction *r)
{
	r->n = 0;
	for (uint32_t i = 0; i < r->engine->net.n_layers; i++) {
		for (uint32_t g = 0; gg_side_of(r->engine, i) == r->side && g < r->engine->net.n_kv_heads; g++) {
			r->jobs[r->n] = job_of(seq, i, g);
			r->n += has_positions(&r->jobs[r->n]);
		}
	}
}

static uint32_t n_threads(const struct gg_engine *engine)
{
	const struct kvmod_host *host = engine->base.host;
	uint32_t n = host->n_threads(host->ctx), most = (uint32_t)engine->backend.n_threads;

	return n < most ? n : most;
}

/* Scratch memory stays for the next time. */
static int32_t take_scratch(const struct reduction *r)
{
	struct gg_memory *scratch = &gg_runtime_of(r->engine)->scratch[r->side];
	size_t bytes;

	if (r->device)
		bytes = r->device->columns_scratch(r->engine->gpu.self, r->jobs, r->n, sizeof(*r->jobs));
	else
		bytes = kv_columns_scratch(r->jobs, r->n, sizeof(*r->jobs), n_threads(r->engine));
	if (scratch->bytes && bytes <= scratch->bytes)
		return KVMOD_OK;
	gg_memory_free(scratch);
	if (gg_memory_new(r->engine, scratch, r->side, bytes + 1))
		return KVMOD_OK;
	gg_memory_free(scratch);
	return KVMOD_ENOMEM;
}

static int32_t reduce(const struct reduction *r)
{
	const struct gg_gpu *gpu = &r->engine->gpu;
	void *scratch = gg_runtime_of(r->engine)->scratch[r->side].address;
	uint32_t threads = n_threads(r->engine);
	int32_t code;

	if (!r->device)
		return kv_columns(threads > 1 ? r->engine->base.host : NULL, r->jobs, r->n,
				  sizeof(*r->jobs), threads, scratch);
	code = r->device->columns(gpu->self, NULL, r->jobs, r->n, sizeof(*r->jobs), scratch);
	/* ggml's streams do not wait for the default stream. */
	return code ? code : gpu->ops->synchronize(gpu->self, NULL);
}

static int32_t reduce_sides(const struct kvmod_seq *seq)
{
	struct gg_engine *engine = seq->engine;
	const struct gg_model *model = &engine->net;
	struct reduction r = { .engine = engine };
	int32_t code = KVMOD_OK;

	r.jobs = calloc((size_t)model->n_layers * model->n_kv_heads, sizeof(*r.jobs));
	if (!r.jobs)
		return KVMOD_ENOMEM;
	for (int side = 0; !code && side < GG_N_SIDES; side++) {
		r.side = side;
		r.device = side == GG_GPU ? gg_gpu_attention(engine) : NULL;
		list_jobs(seq, &r);
		if (!r.n)
			continue;
		code = take_scratch(&r);
		if (!code)
			code = reduce(&r);
	}
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
