/* SPDX-License-Identifier: Apache-2.0 */
/*
 * @NAME@: a policy for kvmod. It keeps the oldest and the newest positions of each
 * layer, the same for all KV heads. kvmod-module(7) lists everything that a plan may ask
 * for.
 */
#include <kvmod/toolkit.h>

/* An instance, one for each model that the policy is opened for. The core sets the parameters. */
struct policy {
	struct kvmod_instance instance;
	struct kvmod_amount budget;
	int64_t sinks;
	uint32_t said_raised;
};

/* name, type, default, range, help; `kvmod info` shows them, kvmod.conf sets them. */
#define PARAMS(P, owner) \
	P(owner, struct policy, budget, AMOUNT, "0.5", "0..", \
	  "positions kept, sinks included: a fraction of the tokens seen, or a count") \
	P(owner, struct policy, sinks, INT, "4", "0..1024", "oldest positions, always kept")

/* Decides each segment (a layer of a sequence). */
static int32_t compress(void *self_, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct policy *self = (struct policy *)self_;
	uint32_t sinks = (uint32_t)self->sinks;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);
		uint64_t budget = kvmod_budget_at_least(request, segment, &self->budget, sinks + 1);
		uint32_t n = kvmod_head_at(segment, 0)->n;

		kvmod_say_raised(&self->instance, request, segment, &self->budget, sinks + 1,
				 &self->said_raised);
		/* Spans are for layers whose KV heads cache equally many positions. */
		if (kvmod_same_lengths(segment) && n > budget)
			kvmod_keep_ends(kvmod_keep_at(plan, i), n, sinks, (uint32_t)budget - sinks);
	}
	return KVMOD_OK;
}

KVMOD_POLICY(@NAME@, struct policy, PARAMS, "keeps the oldest and the newest positions", 0,
	     "*", .compress = compress)
KVMOD_MODULE("@NAME@", "0.1.0", "Apache-2.0", "@AUTHOR@",
	     "keeps the oldest and the newest positions", 0, @NAME@_init, NULL);
