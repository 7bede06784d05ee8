/* SPDX-License-Identifier: Apache-2.0 */
/* Collects the queries of the newest tokens, for a policy that asks for them. */
#include "sequence.h"

#include <stdlib.h>
#include <string.h>

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

static bool take_memory(struct kvmod_seq *seq)
{
	struct gg_engine *engine = seq->engine;
	uint32_t n_layers[GG_N_SIDES] = {
		[GG_HOST] = engine->net.n_layers - engine->gpu.n_layers,
		[GG_GPU] = engine->gpu.n_layers,
	};

	for (int side = 0; side < GG_N_SIDES; side++) {
		if (n_layers[side] && !gg_memory_new(engine, &seq->queries.memory[side], side,
						     n_layers[side] * seq->queries.room * row_bytes(seq)))
			return false;
	}
	return true;
}

/* Which of these needs this engine does not supply, and why; NULL: it supplies all. */
static const char *missing(const struct gg_engine *engine, uint32_t what)
{
	if (what & KVMOD_NEED_COLSUM)
		return "column sums of attention: this engine does not collect them";
	if (what & KVMOD_NEED_WO_NORM && !gg_has_norms(engine))
		return "norms of Wo v: the GPU's device does not compute them; set gpu_layers = 0";
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
	if (needs->types && !(needs->types & KVMOD_TYPE_BIT(gg_view_type(engine))))
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "the policy does not read K and V of cache_type = %s",
			       ggml_type_name(engine->type));
	return KVMOD_OK;
}

static void rows_new(struct kvmod_seq *seq, uint64_t n_tokens, const struct kvmod_needs *needs)
{
	struct gg_queries *rows = &seq->queries;

	rows->wanted = kvmod_needs_rows(needs, n_tokens);
	rows->decode = rows->wanted && needs->decode_every;
	rows->room = rows->wanted + (rows->decode ? DECODE_SLACK : 0);
	rows->from = seq->logical + n_tokens - rows->wanted;
	if (!rows->wanted)
		return;
	if (take_memory(seq))
		return;
	gg_log(seq->engine, KVMOD_WARN, "no memory for the queries of %u tokens, which the policy needs",
	       rows->wanted);
	gg_queries_free(rows);
}

int32_t gg_queries_copy(struct kvmod_seq *to, const struct kvmod_seq *from)
{
	int32_t code = KVMOD_OK;

	to->queries = from->queries;
	memset(to->queries.memory, 0, sizeof(to->queries.memory));
	if (!from->queries.room)
		return KVMOD_OK;
	if (!take_memory(to)) {
		gg_queries_free(&to->queries);
		return gg_fail(from->engine, KVMOD_ENOMEM, "no memory for a copy of the queries");
	}
	for (int side = 0; !code && side < GG_N_SIDES; side++)
		code = gg_memory_copy(to->engine, side, &to->queries.memory[side],
				      &from->queries.memory[side], row_bytes(from));
	if (code)
		gg_queries_free(&to->queries);
	return code;
}

int32_t gg_prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			const struct kvmod_needs *needs)
{
	struct gg_engine *engine = self;

	if (!n_tokens)
		return gg_fail(engine, KVMOD_EINVAL, "the prompt is empty");
	if (n_tokens > gg_seq_room(engine, seq))
		return gg_fail(engine, KVMOD_ERANGE,
			       "%llu new and %llu cached tokens exceed the context of %llu",
			       (unsigned long long)n_tokens, (unsigned long long)gg_seq_extent(seq),
			       (unsigned long long)engine->limit);
	gg_gpu_wait(engine);
	gg_queries_free(&seq->queries);
	gg_seq_moved(seq);
	gg_stats_begin(seq, n_tokens, needs);
	gg_norms_begin(seq, needs);
	if (needs) {
		note_missing(engine, needs->what);
		rows_new(seq, n_tokens, needs);
	}
	return gg_seq_reserve(seq, n_tokens);
}

uint32_t gg_queries_due(const struct kvmod_seq *seq, uint32_t n)
{
	const struct gg_queries *rows = &seq->queries;
	uint64_t end = seq->logical + n, due;

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
	const struct gg_engine *engine = seq->engine;
	enum gg_side side = gg_side_of(engine, layer);
	size_t index = layer;

	if (side == GG_GPU)
		index -= engine->net.n_layers - engine->gpu.n_layers;
	return (float *)((char *)seq->queries.memory[side].address +
			 (index * seq->queries.room + i) * row_bytes(seq));
}

/* The newest `keep` rows of each layer of the GPU go to its front. */
static int32_t move_on_gpu(struct kvmod_seq *seq, uint32_t keep)
{
	struct gg_engine *engine = seq->engine;
	struct kvmod_span newest = { .begin = seq->queries.n - keep, .end = seq->queries.n };
	uint32_t n = engine->gpu.n_layers, first = engine->net.n_layers - n;
	struct kvmod_gather *gathers = calloc((size_t)n + 1, sizeof(*gathers));
	int32_t code;

	if (!gathers)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to move queries");
	for (uint32_t i = 0; i < n; i++) {
		float *front = gg_query_row(seq, first + i, 0);

		gathers[i] = (struct kvmod_gather){
			.size = sizeof(*gathers), .n_spans = 1, .spans = &newest,
			.row_bytes = row_bytes(seq), .src = front, .dst = front,
			.src_stride = (int64_t)row_bytes(seq), .dst_stride = (int64_t)row_bytes(seq),
		};
	}
	code = gg_gpu_gather(engine, gathers, keep ? n : 0);
	free(gathers);
	return code;
}

int32_t gg_queries_reserve(struct kvmod_seq *seq, uint32_t n)
{
	struct gg_queries *rows = &seq->queries;
	uint32_t keep = rows->room - n, n_host = seq->engine->net.n_layers - seq->engine->gpu.n_layers;
	int32_t code;

	if (rows->n <= keep)
		return KVMOD_OK;
	/* The policy may see these if this pass fails. */
	keep = keep < rows->wanted ? keep : rows->wanted;
	code = move_on_gpu(seq, keep);
	for (uint32_t i = 0; !code && i < n_host; i++)
		memmove(gg_query_row(seq, i, 0), gg_query_row(seq, i, rows->n - keep), keep * row_bytes(seq));
	if (!code)
		rows->n = keep;
	return code;
}

void gg_queries_push(struct kvmod_seq *seq, uint32_t n)
{
	seq->queries.n += n;
	seq->queries.end = seq->logical;
}

void gg_queries_forget(struct gg_queries *rows, uint64_t logical)
{
	uint64_t drop = rows->end > logical ? rows->end - logical : 0;

	rows->n -= drop < rows->n ? (uint32_t)drop : rows->n;
	rows->end -= drop;
}
