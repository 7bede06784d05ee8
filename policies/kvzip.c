/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVzip (arXiv 2505.23416): what a context needs to be repeated. The highest scores of all
 * layers and KV heads are kept.
 */
#include "repeat.h"

struct kvzip {
	struct kvmod_scorer scorer;
	int64_t chunk;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.3") \
	KVMOD_P_SINKS(P, owner, "4") \
	P(owner, struct kvzip, chunk, INT, "2048", "16..1048576", \
	  "positions that the engine repeats at a time")

static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct repeat context = repeat_of(request, ((const struct kvzip *)self)->chunk);

	return repeat_floats(&context, request);
}

static int32_t prepare(const void *self_, const struct kvmod_request *request, float *out)
{
	const struct kvzip *self = self_;
	const struct kvmod_host *host = self->scorer.instance.host;
	struct repeat context = repeat_of(request, self->chunk);

	if (!request->reread)
		return host->fail(host->ctx, KVMOD_ENOTSUP,
				  "its scores need an engine that can read the context again");
	return repeat_run(&context, request, self->scorer.sinks, out);
}

static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	struct repeat context = repeat_of(head->request, ((const struct kvzip *)self)->chunk);

	repeat_scores(&context, head, head->prepared, out);
	return 0;
}

/* The policy reads no rows, so it runs on any device. */
KVMOD_SCORER_POLICY(kvzip, struct kvzip, PARAMS,
		    "what repeating the context needs, for questions that come later (2505.23416)",
		    "*", .score = score, .select = KVMOD_PER_REQUEST, .prepare = prepare,
		    .prepared_floats = floats)
KVMOD_MODULE("kvzip", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "KVzip: keeps what repeating the context needs, over all layers and heads", 0,
	     kvzip_init, NULL);
