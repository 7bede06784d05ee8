/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DuoAttention (arXiv 2410.10819): the KV heads that look far back, the retrieval heads, keep
 * everything; the others, the streaming heads, keep the sinks and the newest positions. A
 * table that was measured for the model says how much each head needs what lies between.
 */
#include "duo_table.h"

#include <kvmod/toolkit.h>

#include <stdlib.h>

struct duo {
	struct kvmod_instance instance;
	const char *heads;
	struct kvmod_amount retrieval;
	double threshold;
	int64_t sinks, recent, decode_every;
	uint32_t n_layers, n_kv_heads;	/* of the model */
	uint8_t *whole;			/* [n_layers][n_kv_heads]: is it a retrieval head? */
};

#define PARAMS(P, owner) \
	P(owner, struct duo, heads, PATH, "heads/SmolLM2-135M-Instruct.heads", "", \
	  "the head table; `kvmod heads` makes one, and the default is the default model's") \
	P(owner, struct duo, retrieval, AMOUNT, "0.5", "0..", \
	  "KV heads that keep everything, those with the highest scores: a fraction, or a count") \
	P(owner, struct duo, threshold, REAL, "0", "0..", \
	  "lowest score of a head that keeps everything; 0: retrieval says how many do") \
	P(owner, struct duo, sinks, INT, "128", "0..65536", \
	  "oldest positions that every other head keeps") \
	P(owner, struct duo, recent, INT, "256", "1..", \
	  "newest positions that every other head keeps") \
	P(owner, struct duo, decode_every, INT, "64", "0..1000000", \
	  "decoded tokens from one cut to the next; 0: cut after prompts only")

/* Which heads are retrieval heads; those that were not measured are in any case. */
static void choose(struct duo *self, const float *scores)
{
	size_t n = (size_t)self->n_layers * self->n_kv_heads, n_whole = 0, n_chosen;

	for (size_t i = 0; i < n; i++) {
		self->whole[i] = scores[i] == DUO_NOT_MEASURED ||
				 (self->threshold > 0 && scores[i] >= (float)self->threshold);
		n_whole += self->whole[i];
	}
	if (self->threshold > 0)
		return;
	n_chosen = kvmod_amount_of(&self->retrieval, n - n_whole);
	n_chosen = n_chosen < n - n_whole ? n_chosen : n - n_whole;
	kvmod_toolkit_of(self)->mark_heaviest(scores, n, n_whole + n_chosen, self->whole);
}

static void duo_close(void *self)
{
	free(((struct duo *)self)->whole);
}

/* A made-up model has no table: its heads all count the same. */
static int32_t duo_open(void *self_, const struct kvmod_model *model)
{
	struct duo *self = self_;
	const struct kvmod_host *host = self->instance.host;
	bool made_up = KVMOD_HAS(model, flags) && model->flags & KVMOD_MODEL_MADE_UP;
	size_t n = (size_t)model->n_layers * model->n_kv_heads;
	float *scores = calloc(n, sizeof(*scores));
	int32_t code = KVMOD_OK;

	self->n_layers = model->n_layers;
	self->n_kv_heads = model->n_kv_heads;
	self->whole = calloc(n, sizeof(*self->whole));
	if (!scores || !self->whole)
		code = host->fail(host->ctx, KVMOD_ENOMEM, "no memory for a head table");
	else if (!*self->heads && !made_up)
		code = host->fail(host->ctx, KVMOD_ENOENT, "`heads` names no head table: `kvmod heads` "
				  "makes one for the model");
	else if (!made_up)
		code = duo_table_read(host, self->heads, model, scores);
	if (!code)
		choose(self, scores);
	else
		duo_close(self);
	free(scores);
	return code;
}

static int32_t needs_of(void *self, struct kvmod_needs *needs)
{
	needs->decode_every = (uint32_t)((struct duo *)self)->decode_every;
	return KVMOD_OK;
}

static bool is_whole(const struct duo *self, const struct kvmod_segment *segment, uint32_t g)
{
	uint32_t head = segment->first_head + g;

	return segment->layer >= self->n_layers || head >= self->n_kv_heads ||
	       self->whole[(size_t)segment->layer * self->n_kv_heads + head];
}

/*
 * A streaming head keeps what it still caches of the sinks, and of the newest positions.
 * Returns how many positions the head loses.
 */
static uint32_t cut(const struct duo *self, const struct kvmod_segment *segment, uint32_t g,
		    struct kvmod_keep *keep)
{
	const struct kvmod_head *head = kvmod_head_at(segment, g);
	uint32_t *indices = keep->indices + g * keep->index_stride, n = 0;
	int64_t newest = is_whole(self, segment, g) ? 0 : (int64_t)segment->logical - self->recent;

	for (uint32_t i = 0; i < head->n; i++) {
		int64_t position = kvmod_position(head, i);

		if (position < self->sinks || position >= newest)
			indices[n++] = i;
	}
	keep->counts[g] = n;
	return head->n - n;
}

static int32_t compress(void *self, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			if (cut(self, segment, g, keep))
				keep->kind = KVMOD_KEEP_HEADS;
	}
	return KVMOD_OK;
}

KVMOD_POLICY(duo, struct duo, PARAMS, "retrieval heads whole, others sinks and recent (2410.10819)",
	     0, "*", .open = duo_open, .close = duo_close, .needs = needs_of, .compress = compress)
KVMOD_MODULE("duo", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "DuoAttention: retrieval heads whole, streaming heads sinks and recent", 0,
	     duo_init, NULL);
