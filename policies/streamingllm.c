/* SPDX-License-Identifier: Apache-2.0 */
/*
 * StreamingLLM (arXiv 2309.17453): the first positions, which attention sinks
 * into, and the newest. Cut again while the answer grows, so the cache stays
 * bounded.
 */
#include "policies/common.h"

struct streamingllm {
	struct kvmod_instance instance;
	struct kvmod_amount budget;
	int64_t sinks, every;
	bool said_raised;
};

#define PARAMS(P, owner) \
	P(owner, struct streamingllm, budget, AMOUNT, "516", "0..", \
	  "positions kept, sinks included: a count, or a fraction of the tokens seen " \
	  "(the paper serves with 512 + 4)") \
	P(owner, struct streamingllm, sinks, INT, "4", "0..1024", \
	  "oldest positions, always kept") \
	P(owner, struct streamingllm, every, INT, "64", "0..1000000", \
	  "decoded tokens from one cut to the next; 0: cut after prompts only (the paper: 1)")

KVMOD_PARAMS(policy, streamingllm, PARAMS);
KVMOD_RUNS_ON(streamingllm, "cpu cuda");

static int32_t streamingllm_needs(void *self, struct kvmod_needs *needs)
{
	needs->decode_every = (uint32_t)((struct streamingllm *)self)->every;
	return 0;
}

static void keep_ends(struct streamingllm *self, const struct kvmod_request *request,
		      const struct kvmod_segment *segment, struct kvmod_keep *keep)
{
	uint32_t sinks = (uint32_t)self->sinks, n = kvmod_head_at(segment, 0)->n;
	uint64_t c = kv_budget(request, segment, &self->budget, sinks + 1);

	kv_budget_say(&self->instance, request, segment, &self->budget, sinks + 1,
		      &self->said_raised);
	if (n <= c)
		return;
	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 0;
	if (sinks)
		keep->spans[keep->n_spans++] = (struct kvmod_span){ .end = sinks };
	keep->spans[keep->n_spans++] = (struct kvmod_span){
		.begin = n - ((uint32_t)c - sinks), .end = n,
	};
}

static int32_t streamingllm_compress(void *self_, const struct kvmod_request *request,
				     struct kvmod_plan *plan)
{
	struct streamingllm *self = self_;
	const struct kvmod_host *host = self->instance.host;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		if (kv_same_lengths(segment)) {
			keep_ends(self, request, segment, kvmod_keep_at(plan, i));
			continue;
		}
		kvmod_keep_at(plan, i)->status =
			host->fail(host->ctx, KVMOD_ENOTSUP,
				   "its KV heads hold different numbers of positions, and "
				   "streamingllm keeps one set a layer");
	}
	return 0;
}

static const struct kvmod_policy_ops streamingllm_ops = {
	.size = sizeof(streamingllm_ops),
	.flags = KVMOD_POLICY_CLOSES_GAPS,
	.name = "streamingllm",
	.description = "the sinks and the newest positions (2309.17453)",
	.devices = KVMOD_ON_CPU | KVMOD_ON_CUDA,
	.instance_size = sizeof(struct streamingllm),
	.params = streamingllm_params,
	.n_params = sizeof(streamingllm_params) / sizeof(*streamingllm_params),
	.needs = streamingllm_needs,
	.compress = streamingllm_compress,
};

static int32_t streamingllm_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &streamingllm_ops);
}

KVMOD_MODULE("streamingllm", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "StreamingLLM: attention sinks and the newest positions", 0,
	     streamingllm_init, NULL);
