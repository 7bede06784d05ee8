/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVzip (arXiv 2505.23416): what a context needs to be repeated. The engine reads the
 * context again, a chunk at a time; a position's score is the largest attention that any
 * token of such a run pays it. The highest scores of all layers and KV heads are kept.
 */
#include <kvmod/scorer.h>

struct kvzip {
	struct kvmod_scorer scorer;
	int64_t chunk;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.3") \
	KVMOD_P_SINKS(P, owner, "4") \
	P(owner, struct kvzip, chunk, INT, "2048", "16..1048576", \
	  "positions that the engine repeats at a time")

/* KV heads of the request's first n segments. */
static uint64_t count_heads(const struct kvmod_request *request, uint32_t n)
{
	uint64_t heads = 0;

	for (uint32_t i = 0; i < n; i++)
		heads += kvmod_segment_at(request, i)->n_kv_heads;
	return heads;
}

/* The context: after the chat template's opening, up to the newest token. */
static struct kvmod_reread context_of(const struct kvzip *self, const struct kvmod_request *request)
{
	uint64_t seen = kvmod_tokens_seen(kvmod_segment_at(request, 0));

	return (struct kvmod_reread){
		.size = sizeof(struct kvmod_reread), .sinks = (uint32_t)self->scorer.sinks,
		.begin = request->opening < seen ? request->opening : seen, .end = seen,
	};
}

static uint64_t chunk_at(const struct kvzip *self, const struct kvmod_reread *context, uint64_t begin)
{
	uint64_t left = context->end - begin, chunk = (uint64_t)self->chunk;

	return chunk < left ? chunk : left;
}

/* A weight for each KV head and position of the context. */
static size_t weights(const void *self, const struct kvmod_request *request)
{
	struct kvmod_reread context = context_of(self, request);

	return (size_t)((context.end - context.begin) * count_heads(request, request->n_segments));
}

/* Chunk after chunk, each [n_heads][positions of the chunk]. */
static int32_t reread(const void *self_, const struct kvmod_request *request, float *out)
{
	const struct kvzip *self = self_;
	const struct kvmod_host *host = self->scorer.instance.host;
	struct kvmod_reread context = context_of(self, request), what = context;
	int32_t err = 0;

	if (!request->reread)
		return host->fail(host->ctx, KVMOD_ENOTSUP,
				  "its scores need an engine that can read the context again");
	for (; what.begin < context.end && !err; what.begin = what.end) {
		what.end = what.begin + chunk_at(self, &context, what.begin);
		err = request->reread(request, &what, out);
		out += (what.end - what.begin) * count_heads(request, request->n_segments);
	}
	return err;
}

/* The opening was not repeated: 0. */
static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct kvzip *self = self_;
	struct kvmod_reread context = context_of(self, head->request);
	uint64_t n_heads = count_heads(head->request, head->request->n_segments);
	uint64_t number = count_heads(head->request, head->i) + head->g;

	for (uint32_t i = 0; i < head->m; i++) {
		uint64_t at = (uint64_t)kvmod_position(head->head, i), chunk;

		out[i] = 0;
		if (at < context.begin)
			continue;
		at -= context.begin;
		chunk = at - at % (uint64_t)self->chunk;	/* where its chunk begins */
		out[i] = head->prepared[chunk * n_heads + at - chunk +
					number * chunk_at(self, &context, context.begin + chunk)];
	}
	return 0;
}

/* The policy reads no rows, so it runs on any device. */
KVMOD_SCORER_POLICY(kvzip, struct kvzip, PARAMS,
		    "what repeating the context needs, for questions that come later (2505.23416)",
		    "*", .score = score, .select = KVMOD_PER_REQUEST, .prepare = reread,
		    .prepared_floats = weights)
KVMOD_MODULE("kvzip", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "KVzip: keeps what repeating the context needs, over all layers and heads", 0,
	     kvzip_init, NULL);
