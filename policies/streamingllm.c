/* SPDX-License-Identifier: Apache-2.0 */
/*
 * StreamingLLM (arXiv 2309.17453): keeps the first positions, the attention sinks, and
 * the newest. Cuts again while the answer grows, so that the cache stays bounded.
 */
#include <kvmod/toolkit.h>

struct streamingllm {
	struct kvmod_instance instance;
	struct kvmod_amount budget;
	int64_t sinks, decode_every;
	uint32_t said_raised;
};

#define PARAMS(P, owner) \
	P(owner, struct streamingllm, budget, AMOUNT, "516", "0..", \
	  "positions kept, sinks included: a count, or a fraction of the tokens seen " \
	  "(the paper serves with 512 + 4)") \
	P(owner, struct streamingllm, sinks, INT, "4", "0..1024", \
	  "oldest positions, always kept") \
	P(owner, struct streamingllm, decode_every, INT, "64", "0..1000000", \
	  "decoded tokens from one cut to the next; 0: cut after prompts only (the paper: 1)")

static int32_t needs_of(void *self, struct kvmod_needs *needs)
{
	needs->decode_every = (uint32_t)((struct streamingllm *)self)->decode_every;
	return KVMOD_OK;
}

static int32_t compress(void *self_, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct streamingllm *self = self_;
	const struct kvmod_host *host = self->instance.host;
	uint32_t sinks = (uint32_t)self->sinks;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);
		uint64_t c = kvmod_budget_at_least(request, segment, &self->budget, sinks + 1);
		uint32_t n = kvmod_head_at(segment, 0)->n;

		if (!kvmod_same_lengths(segment)) {
			kvmod_keep_at(plan, i)->status =
				host->fail(host->ctx, KVMOD_ENOTSUP, "its KV heads hold different numbers "
					   "of positions, and streamingllm keeps one set a layer");
			continue;
		}
		kvmod_say_raised(&self->instance, request, segment, &self->budget, sinks + 1,
				 &self->said_raised);
		if (n > c)
			kvmod_keep_ends(kvmod_keep_at(plan, i), n, sinks, (uint32_t)c - sinks);
	}
	return KVMOD_OK;
}

KVMOD_POLICY(streamingllm, struct streamingllm, PARAMS,
	     "the sinks and the newest positions (2309.17453)", KVMOD_POLICY_CLOSES_GAPS,
	     "*", .needs = needs_of, .compress = compress)
KVMOD_MODULE("streamingllm", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "StreamingLLM: attention sinks and the newest positions", 0,
	     streamingllm_init, NULL);
