/* SPDX-License-Identifier: Apache-2.0 */
/* The cache as a policy sees it, and cut as a plan says. */
#include "engine.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static uint32_t public_type(const struct gg_engine *engine)
{
	switch (engine->type) {
	case GGML_TYPE_F32:
		return KVMOD_F32;
	case GGML_TYPE_Q8_0:
		return KVMOD_Q8_0;
	default:
		return KVMOD_F16;
	}
}

static struct kvmod_view view_of(const struct gg_engine *engine, const struct gg_memory *memory,
				 uint32_t first)
{
	size_t row = gg_row_bytes(engine);

	return (struct kvmod_view){
		.size = sizeof(struct kvmod_view),
		.type = public_type(engine),
		.data = (const char *)memory->address + first * row,
		.stride = (int64_t)row,
	};
}

static void describe_heads(struct kvmod_seq *seq, uint32_t layer)
{
	const struct gg_engine *engine = seq->engine;
	const struct gg_cache *cache = &seq->caches[layer];

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		uint32_t first = cache->first[g];

		seq->heads[layer * engine->net.n_kv_heads + g] = (struct kvmod_head){
			.size = sizeof(struct kvmod_head),
			.n = cache->n[g],
			.k = view_of(engine, &cache->k, first),
			.v = view_of(engine, &cache->v, first),
			.positions = cache->positions ? cache->positions + first : NULL,
		};
	}
}

/* The newest rows of queries; none if tokens were run after them. */
static void describe_rows(struct kvmod_seq *seq, struct kvmod_segment *segment)
{
	const struct gg_rows *rows = &seq->rows;
	const struct gg_model *model = &seq->engine->net;
	uint32_t n = rows->n < rows->wanted ? rows->n : rows->wanted;

	if (!n || rows->end != seq->logical)
		return;
	segment->n_rows = n;
	segment->q = (struct kvmod_view){
		.size = sizeof(struct kvmod_view),
		.type = KVMOD_F32,
		.data = gg_row_at(seq, segment->layer, rows->n - n),
		.stride = (int64_t)(model->dims[GG_Q_ROWS] * (int64_t)sizeof(float)),
		.head_stride = (int64_t)(model->head_dim * sizeof(float)),
	};
}

int32_t gg_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out)
{
	struct gg_engine *engine = self;
	const struct gg_model *model = &engine->net;

	for (uint32_t i = 0; i < model->n_layers; i++) {
		seq->segments[i] = (struct kvmod_segment){
			.size = sizeof(struct kvmod_segment),
			.layer = i,
			.sequence = seq->id,
			.logical = seq->logical,
			.n_q_heads = model->n_q_heads,
			.n_kv_heads = model->n_kv_heads,
			.head_dim = model->head_dim,
			.total_heads = model->n_kv_heads,
			.scale = model->scale,
			.head_stride = sizeof(struct kvmod_head),
			.heads = seq->heads + (size_t)i * model->n_kv_heads,
		};
		describe_heads(seq, i);
		describe_rows(seq, &seq->segments[i]);
	}
	out->n_layers = out->n_segments = model->n_layers;
	out->segment_stride = sizeof(struct kvmod_segment);
	out->segments = seq->segments;
	out->device = "cpu";
	out->stream = NULL;
	out->replay = gg_replay;
	out->replay_ctx = seq;
	out->comm = NULL;
	return KVMOD_OK;
}

/* --- applying a plan ---------------------------------------------------------------------- */

void gg_keep_picks(const struct kvmod_seq *seq, const struct kvmod_keep *keep, uint32_t layer,
		   struct gg_pick *picks)
{
	const struct gg_cache *cache = &seq->caches[layer];

	for (uint32_t g = 0; g < seq->engine->net.n_kv_heads; g++) {
		picks[g] = (struct gg_pick){ .n = cache->n[g] };
		if (!keep || keep->status || keep->kind == KVMOD_KEEP_ALL)
			continue;
		if (keep->kind == KVMOD_KEEP_HEADS) {
			picks[g].n = keep->counts[g];
			picks[g].indices = keep->indices + g * keep->index_stride;
		} else {
			picks[g].spans = keep->spans;
			picks[g].n_spans = keep->n_spans;
			gg_pick_before(&picks[g], cache->n[g]);
		}
	}
}

/* A layer that there is no memory to make smaller stays as it is. */
static bool cut_layer(struct kvmod_seq *seq, const struct kvmod_keep *keep, uint32_t layer,
		      struct gg_pick *picks)
{
	struct gg_cache *cache = &seq->caches[layer], smaller;

	if (keep->status || keep->kind == KVMOD_KEEP_ALL)
		return true;
	gg_keep_picks(seq, keep, layer, picks);
	if (gg_cache_copy(seq->engine, &smaller, cache, picks, seq->logical, 1))
		return false;
	gg_cache_free(cache);
	*cache = smaller;
	return true;
}

int32_t gg_apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan)
{
	struct gg_engine *engine = self;
	struct gg_pick *picks;
	uint32_t n_whole = 0;

	if (plan->n_keeps != engine->net.n_layers)
		return gg_fail(engine, KVMOD_EPLAN, "a plan for %u layers, the model has %u",
			       plan->n_keeps, engine->net.n_layers);
	picks = calloc(engine->net.n_kv_heads, sizeof(*picks));
	if (!picks)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to apply a plan");
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		n_whole += !cut_layer(seq, kvmod_keep_at(plan, i), i, picks);
	free(picks);
	if (n_whole)
		gg_log(engine, KVMOD_WARN, "no memory to cut %u of %u layers: they stay whole",
		       n_whole, plan->n_keeps);
	gg_seq_moved(seq);
	gg_seq_touch(seq);
	/* What a prompt was run in is large, and decoding needs little. */
	gg_graph_free(&engine->graph);
	malloc_trim(0);
	return KVMOD_OK;
}
