/* SPDX-License-Identifier: Apache-2.0 */
/* Collects the queries of the newest tokens, for a policy that asks for them. */
#include "sequence.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/gather.h"

/* While tokens are decoded one by one, older rows are dropped every so many tokens. */
#define DECODE_SLACK 64u

void gg_queries_free(struct gg_queries *rows)
{
	for (int side = 0; side < GG_N_SIDES; side++)
		gg_memory_free(&rows->memory[side]);
	memset(rows, 0, sizeof(*rows));
}

static size_t row_bytes(const struct kvmod_seq *seq)
{
	return (size_t)seq->engine->net.dims[GG_Q_ROWS] * sizeof(float);
}

/* The address of row i of a layer, on the layer's side. */
static float *row_of(const struct kvmod_seq *seq, const struct gg_queries *rows, uint32_t layer, uint32_t i)
{
	const struct gg_engine *engine = seq->engine;
	enum gg_side side = gg_side_of(engine, layer);
	size_t index = layer;

	if (side == GG_GPU)
		index -= engine->net.n_layers - engine->gpu.n_layers;
	return (float *)((char *)rows->memory[side].address + (index * rows->room + i) * row_bytes(seq));
}

static uint32_t layers_on(const struct gg_engine *engine, enum gg_side side)
{
	return side == GG_GPU ? engine->gpu.n_layers : engine->net.n_layers - engine->gpu.n_layers;
}

/* Gives *rows memory for its room; false: there is not enough. */
static bool take_memory(struct kvmod_seq *seq, struct gg_queries *rows)
{
	struct gg_engine *engine = seq->engine;

	memset(rows->memory, 0, sizeof(rows->memory));
	for (int side = 0; side < GG_N_SIDES; side++) {
		uint32_t n = layers_on(engine, side);

		if (n && !gg_memory_new(engine, &rows->memory[side], side,
					n * (size_t)rows->room * row_bytes(seq))) {
			gg_queries_free(rows);
			return false;
		}
	}
	return true;
}

/* Which of these needs this engine does not supply, and why; NULL: it supplies all. */
static const char *missing(const struct gg_engine *engine, uint32_t what)
{
	if (what & KVMOD_NEED_COLSUM && !gg_columns_served(engine))
		return "column sums of attention: the device of the GPU layers does not compute "
		       "them; set gpu_layers = 0";
	if (what & KVMOD_NEED_WO_NORM && !gg_norms_served(engine))
		return "norms of Wo v: the device of the GPU layers does not compute them; "
		       "set gpu_layers = 0";
	return NULL;
}

/*
 * The prompt runs all the same: the core finds the need missing from the request, says
 * so, and leaves the cache whole.
 */
static void note_missing(struct gg_engine *engine, uint32_t what)
{
	if (missing(engine, what))
		gg_log(engine, KVMOD_WARN, "the policy needs %s", missing(engine, what));
}

int32_t gg_serves(void *self, const struct kvmod_needs *needs)
{
	struct gg_engine *engine = self;

	if (missing(engine, needs->what))
		return gg_fail(engine, KVMOD_ENOTSUP, "the policy needs %s",
			       missing(engine, needs->what));
	if (needs->types && !(needs->types & KVMOD_TYPE_BIT(gg_element_type(engine->type))))
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "the policy does not read K and V of cache_type = %s",
			       ggml_type_name(engine->type));
	return KVMOD_OK;
}

bool gg_queries_new(struct kvmod_seq *seq, uint64_t n, uint32_t wanted, bool decode)
{
	uint64_t pass = n < (uint64_t)seq->engine->batch ? n : (uint64_t)seq->engine->batch;
	struct gg_queries *rows = &seq->queries;

	gg_queries_free(rows);
	*rows = (struct gg_queries){ .wanted = wanted, .decode = wanted && decode, .room = wanted,
				     .from = seq->logical + n - wanted };
	if (rows->decode || seq->columns.on)
		rows->room += DECODE_SLACK;
	if (seq->columns.on && rows->room < pass)
		rows->room = (uint32_t)pass;
	if (!rows->room || take_memory(seq, rows))
		return true;
	gg_columns_drop(seq);
	return false;
}

/* The newest n rows of each layer, in *rows, go to *to: their first ones. */
static int32_t copy_rows(const struct kvmod_seq *seq, struct gg_queries *to, const struct gg_queries *rows,
			 uint32_t n)
{
	struct gg_engine *engine = seq->engine;
	uint32_t n_layers = engine->net.n_layers, n_gathers = 0;
	struct kvmod_span newest = { .begin = rows->n - n, .end = rows->n };
	struct kvmod_gather *gathers = calloc(n_layers, sizeof(*gathers));
	int32_t code;

	if (!gathers)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to move queries");
	for (uint32_t i = 0; n && i < n_layers; i++) {
		gathers[n_gathers] = (struct kvmod_gather){
			.size = sizeof(*gathers), .n_spans = 1, .spans = &newest,
			.row_bytes = row_bytes(seq), .n_rows = rows->n,
			.src = row_of(seq, rows, i, 0), .dst = row_of(seq, to, i, 0),
			.src_stride = (int64_t)row_bytes(seq), .dst_stride = (int64_t)row_bytes(seq),
		};
		if (gg_side_of(engine, i) == GG_HOST)
			kv_cpu_gather(&gathers[n_gathers]);
		else
			n_gathers++;
	}
	code = gg_gpu_gather(engine, gathers, n_gathers);
	free(gathers);
	return code;
}

int32_t gg_queries_copy(struct kvmod_seq *to, const struct kvmod_seq *from)
{
	int32_t code;

	to->queries = from->queries;
	if (!from->queries.room)
		return KVMOD_OK;
	if (!take_memory(to, &to->queries))
		return gg_fail(from->engine, KVMOD_ENOMEM, "no memory for a copy of the queries");
	code = copy_rows(from, &to->queries, &from->queries, from->queries.n);
	if (code)
		gg_queries_free(&to->queries);
	return code;
}

void gg_queries_shrink(struct kvmod_seq *seq)
{
	struct gg_queries less = seq->queries;
	uint32_t keep = less.n < less.wanted ? less.n : less.wanted;

	less.room = less.wanted + DECODE_SLACK;
	if (seq->queries.room <= less.room || !take_memory(seq, &less))
		return;
	if (copy_rows(seq, &less, &seq->queries, keep)) {
		gg_queries_free(&less);
		return;
	}
	less.n = keep;
	gg_queries_free(&seq->queries);
	seq->queries = less;
}

int32_t gg_prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			const struct kvmod_needs *needs)
{
	struct gg_engine *engine = self;
	uint32_t wanted;
	int32_t code;

	if (!n_tokens)
		return gg_fail(engine, KVMOD_EINVAL, "the prompt is empty");
	if (n_tokens > gg_seq_room(engine, seq))
		return gg_fail(engine, KVMOD_ERANGE,
			       "%llu new and %llu cached tokens exceed the context of %llu",
			       (unsigned long long)n_tokens, (unsigned long long)gg_seq_extent(seq),
			       (unsigned long long)engine->limit);
	gg_gpu_wait(engine);
	gg_columns_settle(seq);
	code = gg_seq_reserve(seq, n_tokens);
	if (code)
		return code;
	gg_columns_begin(seq, needs);
	gg_queries_free(&seq->queries);
	gg_seq_moved(seq);
	gg_stats_begin(seq, n_tokens, needs);
	gg_norms_begin(seq, needs);
	if (!needs)
		return KVMOD_OK;
	note_missing(engine, needs->what);
	wanted = kvmod_needs_rows(needs, n_tokens);
	if (!gg_queries_new(seq, n_tokens, wanted, needs->decode_every))
		gg_log(engine, KVMOD_WARN, "no memory for the queries of %u tokens, which the policy needs",
		       wanted);
	return KVMOD_OK;
}

int32_t gg_seq_narrow(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
		      const struct kvmod_needs *needs)
{
	struct gg_queries *rows = &seq->queries;

	gg_gpu_wait(self);
	gg_columns_settle(seq);
	gg_columns_begin(seq, needs);
	gg_stats_begin(seq, 0, needs);	/* the prompt is over */
	gg_norms_begin(seq, needs);
	rows->wanted = needs ? kvmod_needs_rows(needs, n_tokens) : 0;
	rows->decode = needs && needs->decode_every;
	if (rows->wanted || seq->columns.on)	/* column sums are made of rows as they come */
		gg_queries_shrink(seq);
	else
		gg_queries_free(rows);
	gg_seq_moved(seq);
	return KVMOD_OK;
}

uint32_t gg_queries_due(const struct kvmod_seq *seq, uint32_t n)
{
	const struct gg_queries *rows = &seq->queries;
	uint64_t end = seq->logical + n, due;

	if (seq->columns.on)
		return n;
	if (!rows->wanted || end <= rows->from)
		return 0;
	due = end - rows->from < n ? end - rows->from : n;
	/* The prompt is over: its rows are no longer the newest. */
	if (!rows->decode && seq->logical >= rows->from + rows->wanted)
		return 0;
	return due < rows->wanted ? (uint32_t)due : rows->wanted;
}

float *gg_query_row(const struct kvmod_seq *seq, uint32_t layer, uint32_t i)
{
	return row_of(seq, &seq->queries, layer, i);
}

int32_t gg_queries_reserve(struct kvmod_seq *seq, uint32_t n)
{
	struct gg_queries *rows = &seq->queries;
	uint32_t keep = rows->room - n;
	int32_t code;

	if (rows->n <= keep)
		return KVMOD_OK;
	gg_columns_settle(seq);
	/* The policy may see these if this pass fails. */
	keep = keep < rows->wanted ? keep : rows->wanted;
	code = copy_rows(seq, rows, rows, keep);
	if (!code)
		rows->n = keep;
	return code;
}

void gg_queries_push(struct kvmod_seq *seq, uint32_t n)
{
	seq->queries.n += n;
	seq->queries.end = seq->logical;
	if (seq->columns.on)
		seq->columns.pending += n;
}

void gg_queries_forget(struct gg_queries *rows, uint64_t logical)
{
	uint64_t drop = rows->end > logical ? rows->end - logical : 0;

	rows->n -= drop < rows->n ? (uint32_t)drop : rows->n;
	rows->end -= drop;
}
