/* SPDX-License-Identifier: Apache-2.0 */
/* Shows the cache to a policy, and compresses it as the policy's plan says. */
#include "runtime.h"

#include <malloc.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Sinks that joined at several cuts: what `turn` cannot describe is not shown. */
static void hide_keys(struct gg_engine *engine, struct kvmod_head *head)
{
	struct gg_runtime *runtime = gg_runtime_of(engine);

	if (!runtime->warned_hidden_keys)
		gg_log(engine, KVMOD_NOTE, "keys of the oldest positions were moved by different "
		       "distances: a policy that reads keys leaves such a sequence whole");
	runtime->warned_hidden_keys = true;
	head->k.data = NULL;
	head->n_turned = 0;
	head->turn = 0;
}

static void describe_heads(struct kvmod_seq *seq, uint32_t layer)
{
	struct gg_engine *engine = seq->engine;
	const struct gg_cache *cache = &seq->caches[layer];

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
		struct kvmod_head *head = &seq->heads[layer * engine->net.n_kv_heads + g];
		uint32_t first = cache->first[g];

		*head = (struct kvmod_head){
			.size = sizeof(struct kvmod_head),
			.n = cache->n[g],
			.k = gg_store_view(engine, &cache->k, first),
			.v = gg_store_view(engine, &cache->v, first),
			.positions = cache->positions ? cache->positions + first : NULL,
		};
		if (!gg_sinks_turn(cache, g, &head->n_turned, &head->turn))
			hide_keys(engine, head);
	}
}

/* A truncate cannot subtract what it drops, and a failed pass has added to some layers only. */
static void note_lost_statistics(struct kvmod_seq *seq)
{
	struct gg_runtime *runtime = gg_runtime_of(seq->engine);

	if (seq->stats.state != GG_STATS_LOST || runtime->warned_lost_statistics)
		return;
	gg_log(seq->engine, KVMOD_NOTE,
	       "statistics of queries are lost once tokens of a prompt are dropped or a prompt fails: "
	       "a policy that needs them leaves such a sequence whole");
	runtime->warned_lost_statistics = true;
}

/* The newest rows of queries; no rows if tokens were run after them. */
static void describe_rows(struct kvmod_seq *seq, struct kvmod_segment *segment)
{
	const struct gg_queries *rows = &seq->queries;
	const struct gg_model *model = &seq->engine->net;
	uint32_t n = rows->n < rows->wanted ? rows->n : rows->wanted;

	if (!n || rows->end != seq->logical)
		return;
	segment->n_rows = n;
	segment->q = (struct kvmod_view){
		.type = KVMOD_F32,
		.data = gg_query_row(seq, segment->layer, rows->n - n),
		.stride = (int64_t)(model->dims[GG_Q_ROWS] * (int64_t)sizeof(float)),
		.head_stride = (int64_t)(model->head_dim * sizeof(float)),
	};
}

int32_t gg_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out)
{
	struct gg_engine *engine = self;
	const struct gg_model *model = &engine->net;
	int32_t code;

	gg_columns_settle(seq);
	code = gg_seq_settle(seq, 0);
	if (code)
		return code;
	/*
	 * The policy may use the default stream: ggml's own streams have finished here, and
	 * stay idle until the next call.
	 */
	gg_gpu_wait(engine);
	code = gg_norms_update(seq);
	if (code)
		return code;
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
			.heads = seq->head_list + (size_t)i * model->n_kv_heads,
			.device = gg_side_of(engine, i) == GG_GPU ? engine->gpu.ops->name : "cpu",
			.phase_base = (uint64_t)seq->base,
		};
		describe_heads(seq, i);
		describe_rows(seq, &seq->segments[i]);
		gg_stats_describe(seq, &seq->segments[i]);
		if (seq->norms.wanted)
			seq->segments[i].wo_norm =
				gg_extra_view(engine, &seq->caches[i], GG_WO_NORMS);
		if (seq->columns.on)
			seq->segments[i].colsum = gg_extra_view(engine, &seq->caches[i], GG_COLUMN_SUMS);
	}
	note_lost_statistics(seq);
	if (seq->asked.n)	/* in another request */
		gg_seq_touch(seq);
	out->n_layers = out->n_segments = model->n_layers;
	out->segments = seq->segment_list;
	out->device = engine->gpu.n_layers ? engine->gpu.ops->name : "cpu";
	out->stream = NULL;
	out->replay = gg_replay;
	out->reread = gg_columns_served(engine) ? gg_reread : NULL;
	out->ask = gg_columns_served(engine) ? gg_ask : NULL;
	out->replay_ctx = seq;
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

uint32_t gg_keep_sinks(const struct kvmod_keep *keep)
{
	if (!keep || keep->status || keep->kind != KVMOD_KEEP_SPANS || keep->n_spans != 2)
		return 0;
	return keep->spans[0].end;
}

/* A layer that cannot be made smaller stays as it is. */
static int32_t cut_layer(struct kvmod_seq *seq, const struct kvmod_keep *keep, uint32_t layer,
			 struct gg_pick *picks)
{
	enum gg_side side = gg_side_of(seq->engine, layer);
	struct gg_cache *cache = &seq->caches[layer], smaller;
	int32_t code;

	if (keep->status)
		return KVMOD_OK;
	if (keep->kind != KVMOD_KEEP_ALL) {
		gg_keep_picks(seq, keep, layer, picks);
		code = gg_cache_copy(seq->engine, side, &smaller, cache, picks, seq->logical,
				     gg_ahead(&seq->engine->gpu));
		if (code)
			return code;
		gg_seq_move_extras(seq, layer, &smaller, cache, picks);
		gg_cache_free(cache);
		*cache = smaller;
	}
	return gg_cache_convert(seq->engine, side, cache, keep);
}

static void cut_layers(struct kvmod_seq *seq, const struct kvmod_plan *plan, struct gg_pick *picks)
{
	uint32_t n_whole = 0;
	int32_t code, last = KVMOD_OK;

	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		code = cut_layer(seq, kvmod_keep_at(plan, i), i, picks);
		n_whole += code != KVMOD_OK;
		last = code ? code : last;
	}
	if (n_whole)
		gg_log(seq->engine, KVMOD_WARN, "%s cut or convert %u of %u layers: what could not be done stays as it was",
		       last == KVMOD_ENOMEM ? "no memory to" : "the device could not", n_whole,
		       plan->n_keeps);
}

static void close_gaps(struct kvmod_seq *seq, const struct kvmod_plan *plan)
{
	struct gg_engine *engine = seq->engine;
	uint32_t n_open = 0;

	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		uint32_t n = gg_keep_sinks(kvmod_keep_at(plan, i));

		if (n && gg_close_gap(engine, gg_side_of(engine, i), &seq->caches[i], n, seq->logical))
			n_open++;
	}
	if (n_open)
		gg_log(engine, KVMOD_WARN, "no memory to close the gaps of %u of %u layers", n_open,
		       plan->n_keeps);
}

/* Free bytes on the GPU; 0 if the device does not tell. */
static uint64_t free_on_gpu(const struct gg_engine *engine)
{
	const struct kvmod_device_ops *ops = engine->gpu.ops;
	uint64_t available = 0, total;

	if (!engine->gpu.n_layers ||
	    ops->size < offsetof(struct kvmod_device_ops, memory) + sizeof(ops->memory) ||
	    !ops->memory || ops->memory(engine->gpu.self, &available, &total))
		return 0;
	return available;
}

int32_t gg_apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan)
{
	struct gg_engine *engine = self;
	uint64_t before = free_on_gpu(engine), after;
	struct gg_pick *picks;
	int32_t code;

	if (plan->n_keeps != engine->net.n_layers)
		return gg_fail(engine, KVMOD_EPLAN, "a plan for %u layers, the model has %u",
			       plan->n_keeps, engine->net.n_layers);
	gg_columns_settle(seq);
	code = gg_seq_settle(seq, 0);
	if (code)
		return code;
	picks = calloc(engine->net.n_kv_heads, sizeof(*picks));
	if (!picks)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to apply a plan");
	gg_gpu_wait(engine);
	gg_seq_touch(seq); /* before a cut takes memory */
	cut_layers(seq, plan, picks);
	free(picks);
	if (plan->flags & KVMOD_PLAN_CLOSES_GAPS)
		close_gaps(seq, plan);
	gg_queries_shrink(seq);
	gg_seq_moved(seq);
	/* A prompt's graph takes much memory, and decoding needs little. */
	gg_graph_free(&gg_runtime_of(engine)->graph);
	for (int side = 0; side < GG_N_SIDES; side++)
		gg_memory_free(&gg_runtime_of(engine)->scratch[side]);
	malloc_trim(0);
	after = free_on_gpu(engine);
	if (after)
		gg_log(engine, KVMOD_DEBUG, "free on the GPU: %llu MiB before the cut, %llu MiB after it",
		       (unsigned long long)before >> 20, (unsigned long long)after >> 20);
	return KVMOD_OK;
}
