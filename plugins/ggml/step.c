/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a batch: divides it into passes, and takes all of them back if one fails. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

/* Heads that all differ in length need a mask each: a pass takes fewer tokens then. */
#define MAX_MASK_BYTES (64u << 20)

/* --- one pass ------------------------------------------------------------------------------ */

static void append(struct gg_engine *engine, const struct gg_slot *slot)
{
	struct kvmod_seq *seq = slot->seq;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		struct gg_cache *cache = &seq->caches[i];

		for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
			int32_t *positions = cache->positions;

			if (positions)
				positions += cache->first[g] + cache->n[g];
			for (uint32_t t = 0; positions && t < slot->n_tokens; t++)
				positions[t] = (int32_t)(seq->logical + t);
			cache->n[g] += slot->n_tokens;
		}
	}
	memcpy(seq->tokens + seq->logical, slot->tokens, slot->n_tokens * sizeof(*seq->tokens));
	seq->logical += slot->n_tokens;
	gg_seq_touch(seq);
}

static int32_t run(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	int32_t code = engine->net.map ? gg_file_check(engine) : KVMOD_OK;

	for (uint32_t i = 0; !code && i < n_slots; i++)
		code = slots[i].n_queries ? gg_queries_reserve(slots[i].seq, slots[i].n_queries) : KVMOD_OK;
	if (code || (code = gg_graph_get(engine, slots, n_slots)))
		return code;
	gg_feed_fill(engine, slots, n_slots);
	if ((code = gg_graph_compute(engine, &gg_runtime_of(engine)->graph)) ||
	    (code = gg_graph_logits(engine, slots, n_slots))) {
		for (uint32_t i = 0; i < n_slots; i++) {
			if (slots[i].n_stats)
				gg_stats_lose(&slots[i].seq->stats);
		}
		return code;
	}
	for (uint32_t i = 0; i < n_slots; i++) {
		if (slots[i].n_stats)
			gg_stats_push(slots[i].seq, slots[i].first_stat, slots[i].n_stats);
		append(engine, &slots[i]);
		if (slots[i].n_queries)
			gg_queries_push(slots[i].seq, slots[i].n_queries);
	}
	return KVMOD_OK;
}

/* --- batches -------------------------------------------------------------------------------- */

struct work {
	struct gg_engine *engine;
	const struct kvmod_batch *batch;
	const struct gg_memory *kept;	/* memory that logits go to; NULL: the host's own */
	uint32_t *done;			/* tokens of each item */
	struct gg_slot *slots;
};

static const struct kvmod_batch_item *item_at(const struct kvmod_batch *batch, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_batch_item, batch->items, batch->item_stride, i);
}

static int32_t check_item(struct gg_engine *engine, const struct kvmod_batch *batch, uint32_t index)
{
	const struct kvmod_batch_item *item = item_at(batch, index);

	if (!item->n_tokens || item->n_logits > item->n_tokens || (item->n_logits && !item->logits))
		return gg_fail(engine, KVMOD_EINVAL, "item %u of the batch has %u tokens and wants %u logits%s",
			       index, item->n_tokens, item->n_logits,
			       item->logits ? "" : ", but no memory for them");
	for (uint32_t i = 0; i < index; i++) {
		if (item_at(batch, i)->seq == item->seq)
			return gg_fail(engine, KVMOD_EINVAL,
				       "items %u and %u of the batch belong to one sequence", i, index);
	}
	for (uint32_t t = 0; t < item->n_tokens; t++) {
		if (item->tokens[t] < 0 || item->tokens[t] >= engine->net.dims[GG_VOCAB])
			return gg_fail(engine, KVMOD_EINVAL, "token %d is not in the vocabulary of %lld tokens",
				       item->tokens[t], (long long)engine->net.dims[GG_VOCAB]);
	}
	if (item->n_tokens > gg_seq_room(engine, item->seq))
		return gg_fail(engine, KVMOD_ERANGE,
			       "%u new and %llu cached tokens exceed the context of %llu",
			       item->n_tokens, (unsigned long long)gg_seq_extent(item->seq),
			       (unsigned long long)engine->limit);
	return KVMOD_OK;
}

/* Is this the first head, of those that need masks, with n positions? */
static bool is_first_of(const struct kvmod_seq *seq, uint32_t layer, uint32_t head, uint32_t n)
{
	uint32_t n_heads = seq->engine->net.n_kv_heads;

	for (uint32_t i = 0; i <= layer; i++) {
		if (gg_attention_own(seq->engine, i))
			continue;
		for (uint32_t g = 0; g < (i == layer ? head : n_heads); g++) {
			if (seq->caches[i].n[g] == n)
				return false;
		}
	}
	return true;
}

/* The most tokens of a sequence that one pass takes. */
static uint32_t max_chunk(const struct kvmod_seq *seq)
{
	const struct gg_engine *engine = seq->engine;
	uint64_t bytes = 0, n;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		if (gg_attention_own(engine, i))
			continue;
		for (uint32_t g = 0; g < engine->net.n_kv_heads; g++) {
			n = seq->caches[i].n[g];
			if (is_first_of(seq, i, g, (uint32_t)n))
				bytes += sizeof(ggml_fp16_t) * gg_padded(n + (uint64_t)engine->batch);
		}
	}
	n = bytes ? MAX_MASK_BYTES / bytes : (uint64_t)engine->batch;
	n = n < (uint64_t)engine->batch ? (n ? n : 1) : (uint64_t)engine->batch;
	/* All queries of the pass are collected. */
	if (seq->columns.on && n > seq->queries.room)
		n = seq->queries.room;
	return (uint32_t)n;
}

/* The slot that the next pass takes of an item, and its tokens; 0: nothing is left, or no room. */
static uint32_t take(const struct work *work, uint32_t index, uint32_t room, struct gg_slot *slot)
{
	const struct kvmod_batch_item *item = item_at(work->batch, index);
	uint32_t done = work->done[index];
	uint32_t n = item->n_tokens - done, first_logit = item->n_tokens - item->n_logits, chunk, at;

	if (n > 1) {
		chunk = max_chunk(item->seq);
		n = n < chunk ? n : chunk;
	}
	n = n < room ? n : room;
	at = done > first_logit ? done : first_logit;
	*slot = (struct gg_slot){
		.seq = item->seq,
		.tokens = item->tokens + done,
		.n_tokens = n,
		.n_logits = done + n > at ? done + n - at : 0,
		.n_queries = n ? gg_queries_due(item->seq, n) : 0,
		.kept = work->kept,
	};
	slot->n_stats = gg_stats_due(item->seq, n, &slot->first_stat);
	if (slot->n_logits)
		slot->logits = item->logits + (size_t)(at - first_logit) *
						      (size_t)item->seq->engine->net.dims[GG_VOCAB];
	return n;
}

/* Fills and runs one pass of *n_done tokens. */
static int32_t next_pass(struct work *work, uint64_t *n_done)
{
	uint32_t room = (uint32_t)work->engine->batch, n_slots = 0, n = 0;
	int32_t code;

	for (uint32_t i = 0; i < work->batch->n_items && n < room; i++) {
		uint32_t taken = take(work, i, room - n, &work->slots[n_slots]);

		n += taken;
		n_slots += taken > 0;
	}
	*n_done = n;
	if (!n)
		return KVMOD_OK;
	code = run(work->engine, work->slots, n_slots);
	for (uint32_t i = 0, s = 0; !code && i < work->batch->n_items && s < n_slots; i++) {
		if (work->slots[s].seq == item_at(work->batch, i)->seq)
			work->done[i] += work->slots[s++].n_tokens;
	}
	return code;
}

static int32_t run_passes(struct work *work)
{
	const struct kvmod_batch *batch = work->batch;
	uint64_t total = 0, n;
	int32_t code;

	do {
		code = next_pass(work, &n);
		total += n;
		if (!code && n && batch->progress)
			batch->progress(batch->progress_arg, total);
	} while (!code && n);
	for (uint32_t i = 0; code && i < batch->n_items; i++) {
		struct kvmod_seq *seq = item_at(batch, i)->seq;

		gg_seq_forget(seq, seq->logical - work->done[i]);
	}
	return code;
}

/* Makes room for an item's tokens, and rotates the cached keys to their phases. */
static int32_t prepare_item(struct gg_engine *engine, const struct kvmod_batch_item *item)
{
	struct kvmod_seq *seq = item->seq;
	int32_t code = gg_seq_reserve(seq, item->n_tokens);

	if (!code)
		code = gg_seq_settle(seq, item->n_tokens);
	if (code || gg_runtime_of(engine)->warned_past_context ||
	    gg_seq_extent(seq) + item->n_tokens <= engine->net.context)
		return code;
	gg_runtime_of(engine)->warned_past_context = true;
	gg_log(engine, KVMOD_WARN,
	       "the sequence exceeds %s of %llu tokens: answers get worse, unless the policy "
	       "closes the gaps that it leaves (see kvmod-policies(7), streamingllm)",
	       engine->net.context_is, (unsigned long long)engine->net.context);
	return code;
}

static int32_t run_batch(struct gg_engine *engine, const struct kvmod_batch *batch,
			 const struct gg_memory *kept)
{
	struct work work = { .engine = engine, .batch = batch, .kept = kept };
	int32_t code = KVMOD_OK;

	atomic_store(&engine->backend.cancelled, false);
	for (uint32_t i = 0; !code && i < batch->n_items; i++)
		code = check_item(engine, batch, i);
	for (uint32_t i = 0; !code && i < batch->n_items; i++)
		code = prepare_item(engine, item_at(batch, i));
	if (code || !batch->n_items)
		return code;
	work.done = calloc(batch->n_items, sizeof(*work.done));
	work.slots = calloc(batch->n_items, sizeof(*work.slots));
	if (work.done && work.slots)
		code = run_passes(&work);
	else
		code = gg_fail(engine, KVMOD_ENOMEM, "no memory for a batch of %u", batch->n_items);
	free(work.done);
	free(work.slots);
	return code;
}

int32_t gg_step(void *self, const struct kvmod_batch *batch)
{
	return run_batch(self, batch, NULL);
}

static int32_t run_tokens(struct gg_engine *engine, struct kvmod_seq *seq, const int32_t *tokens,
			  uint32_t n, float *logits, uint32_t n_logits, const struct gg_memory *kept)
{
	struct kvmod_batch_item item = {
		.size = sizeof(item),
		.n_tokens = n,
		.seq = seq,
		.tokens = tokens,
		.logits = logits,
		.n_logits = n_logits,
	};
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = 1,
		.item_stride = sizeof(item),
		.items = &item,
	};

	return run_batch(engine, &batch, kept);
}

int32_t gg_run_tokens(struct gg_engine *engine, struct kvmod_seq *seq, const int32_t *tokens,
		      uint32_t n, float *logits, uint32_t n_logits)
{
	return run_tokens(engine, seq, tokens, n, logits, n_logits, NULL);
}

int32_t gg_run_tokens_there(struct gg_engine *engine, struct kvmod_seq *seq, const int32_t *tokens,
			    uint32_t n, uint32_t n_logits, const struct gg_memory *logits)
{
	return run_tokens(engine, seq, tokens, n, logits->address, n_logits, logits);
}
