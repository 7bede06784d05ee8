/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a context needs to be repeated, as KVzip has it (arXiv 2505.23416): the score of kvzip,
 * and a part of replay's where the question comes later. The engine reads the context again, a
 * chunk at a time; a position's score is the largest attention that any token of such a run pays
 * it. The chat template's opening is not repeated: its positions score 0.
 */
#ifndef KV_POLICIES_REPEAT_H
#define KV_POLICIES_REPEAT_H

#include <kvmod/scorer.h>

/* The context: after the chat template's opening, up to the newest token. */
struct repeat {
	uint64_t begin, end, chunk;
};

static struct repeat repeat_of(const struct kvmod_request *request, int64_t chunk)
{
	uint64_t seen = kvmod_tokens_seen(kvmod_segment_at(request, 0));

	return (struct repeat){
		.begin = request->opening < seen ? request->opening : seen, .end = seen,
		.chunk = (uint64_t)chunk,
	};
}

/* KV heads of the request's first n segments. */
static uint64_t count_heads(const struct kvmod_request *request, uint32_t n)
{
	uint64_t heads = 0;

	for (uint32_t i = 0; i < n; i++)
		heads += kvmod_segment_at(request, i)->n_kv_heads;
	return heads;
}

/* Of the chunk that begins there: the last one may be short. */
static uint64_t repeat_length(const struct repeat *context, uint64_t begin)
{
	uint64_t left = context->end - begin;

	return context->chunk < left ? context->chunk : left;
}

/* A score for each KV head and position of the context. */
static size_t repeat_floats(const struct repeat *context, const struct kvmod_request *request)
{
	return (size_t)((context->end - context->begin) * count_heads(request, request->n_segments));
}

/* Chunk after chunk, each [n_heads][positions of the chunk]. */
static int32_t repeat_run(const struct repeat *context, const struct kvmod_request *request,
			  int64_t sinks, float *out)
{
	uint64_t n_sinks = (uint64_t)sinks < context->end ? (uint64_t)sinks : context->end;
	struct kvmod_reread what = {
		.size = sizeof(what), .sinks = (uint32_t)n_sinks, .begin = context->begin,
	};
	int32_t err = 0;

	for (; what.begin < context->end && !err; what.begin = what.end) {
		what.end = what.begin + repeat_length(context, what.begin);
		err = request->reread(request, &what, out);
		out += (what.end - what.begin) * count_heads(request, request->n_segments);
	}
	return err;
}

/* Of a head's first m positions, from what repeat_run() found. */
static void repeat_scores(const struct repeat *context, const struct kvmod_task *head,
			  const float *found, float *out)
{
	uint64_t n_heads = count_heads(head->request, head->request->n_segments);
	uint64_t number = count_heads(head->request, head->i) + head->g;

	for (uint32_t i = 0; i < head->m; i++) {
		uint64_t at = (uint64_t)kvmod_position(head->head, i), chunk;

		out[i] = 0;
		if (at < context->begin)
			continue;
		at -= context->begin;
		chunk = at - at % context->chunk;	/* where its chunk begins */
		out[i] = found[chunk * n_heads + at - chunk +
			       number * repeat_length(context, context->begin + chunk)];
	}
}

#endif
