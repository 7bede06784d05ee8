/* SPDX-License-Identifier: Apache-2.0 */
/* What follows from ReFreeKV's parameters alone: needs, rows, and how much is ranked. */
#include "refreekv_params.h"

static uint32_t at_most(uint64_t value, uint32_t most)
{
	return value < most ? (uint32_t)value : most;
}

int32_t refreekv_open(void *self_, const struct kvmod_model *model)
{
	const struct refreekv *self = self_;
	const struct kvmod_host *host = self->instance.host;

	(void)model;
	if (self->rank == RANK_ATTENTION && self->norm_scope == SCOPE_ALL)
		return host->fail(host->ctx, KVMOD_EINVAL,
				  "norm_scope = all goes with rank = position: "
				  "rank = attention leaves the sinks out of its norm");
	return 0;
}

int32_t refreekv_needs(void *self_, struct kvmod_needs *needs)
{
	const struct refreekv *self = self_;

	needs->what = KVMOD_NEED_K;
	needs->rows = self->rows;
	if (self->rank == RANK_ATTENTION)
		needs->min_rows = (uint32_t)self->window;
	return 0;
}

uint32_t refreekv_norm_rows(const struct refreekv *self, const struct kvmod_segment *segment)
{
	uint64_t rows = kvmod_amount_of(&self->rows, kvmod_head_at(segment, 0)->n);

	return at_most(rows ? rows : 1, segment->n_rows);
}

uint32_t refreekv_rank_rows(const struct refreekv *self, const struct kvmod_segment *segment)
{
	return self->rank == RANK_ATTENTION ? at_most((uint64_t)self->window, segment->n_rows) : 0;
}

uint32_t refreekv_tail(const struct refreekv *self, uint32_t n)
{
	int64_t tail = self->recent;

	if (self->rank == RANK_ATTENTION && tail < self->window)
		tail = self->window;
	return at_most((uint64_t)tail, n);
}

bool refreekv_leaves(const struct refreekv *self, const struct kvmod_segment *segment)
{
	return self->threshold == 0 || kvmod_layer_listed(&self->whole_layers, segment->layer);
}

uint32_t refreekv_ranked(const struct refreekv *self, const struct kvmod_segment *segment)
{
	uint32_t n = kvmod_head_at(segment, 0)->n, sinks = at_most((uint64_t)self->sinks, n);
	uint32_t tail = refreekv_tail(self, n);

	return n - sinks > tail ? n - sinks - tail : 0;
}

int32_t refreekv_say(const struct refreekv *self, int32_t status)
{
	const struct kvmod_host *host = self->instance.host;

	if (status == KVMOD_ENOTSUP)
		return host->fail(host->ctx, status, "KV heads of different lengths: "
				  "refreekv keeps one length in a layer");
	return host->fail(host->ctx, status,
			  "attention is not finite: NaN or infinity in keys or queries");
}

void refreekv_keep_from(const struct refreekv *self, struct kvmod_keep *keep, uint32_t first,
			uint32_t n)
{
	uint32_t sinks = at_most((uint64_t)self->sinks, n);

	if (first <= sinks)
		return;
	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 0;
	if (sinks)
		keep->spans[keep->n_spans++] = (struct kvmod_span){ .begin = 0, .end = sinks };
	keep->spans[keep->n_spans++] = (struct kvmod_span){ .begin = first, .end = n };
}
