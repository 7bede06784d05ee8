/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Positions drawn at random, for each KV head its own: the floor that every
 * other policy must beat.
 *
 * The generator is splitmix64 in counter mode. Its state is made of seed,
 * sequence, layer, KV head and tokens seen, each mixed in by one step, and the
 * i-th oldest position's score is the top 24 bits of output i + 1. So a draw
 * depends neither on threads nor on the order of calls, and a second prompt in
 * the same sequence draws anew.
 */
#include "policies/common.h"

struct random {
	struct kvmod_instance instance;
	struct kvmod_amount budget;
	int64_t seed;
	bool said_raised;
};

#define PARAMS(P, owner) \
	P(owner, struct random, budget, AMOUNT, "0.25", "0..", \
	  "positions kept: a fraction of the tokens seen, or a count") \
	P(owner, struct random, seed, INT, "0", "0..", \
	  "another number, another draw")

KVMOD_PARAMS(policy, random, PARAMS);
KVMOD_RUNS_ON(random, "cpu cuda");

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15u

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t stream_of(uint64_t seed, const struct kvmod_segment *segment, uint32_t g)
{
	const uint64_t of[] = {
		seed, segment->sequence, segment->layer,
		(uint64_t)segment->first_head + g, segment->logical,
	};
	uint64_t state = 0;

	for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++)
		state = mix(state + GOLDEN_GAMMA + of[i]);
	return state;
}

static int32_t draw_head(const void *self_, const struct kv_task *t)
{
	const struct random *self = self_;
	uint64_t c = kv_budget(t->request, t->segment, &self->budget, 1);
	uint64_t stream = stream_of((uint64_t)self->seed, t->segment, t->g);

	if (t->n <= c) {
		kv_keep_whole(t);
		return 0;
	}
	for (uint32_t i = 0; i < t->n; i++)
		t->scratch[i] = (float)(mix(stream + (i + 1ull) * GOLDEN_GAMMA) >> 40);
	kv_keep_heaviest(t, t->scratch, t->n, (uint32_t)c);
	return 0;
}

static int32_t random_workspace(void *self, const struct kvmod_request *request,
				struct kvmod_workspace *need)
{
	need->host = kv_scratch_bytes(self, request, kv_extent(request).n);
	return 0;
}

static int32_t random_compress(void *self_, const struct kvmod_request *request,
			       struct kvmod_plan *plan)
{
	struct random *self = self_;

	kv_mark_over_budget(&self->instance, request, plan, &self->budget, 1, &self->said_raised);
	kv_each_head(&self->instance, request, plan, request->scratch,
		     kv_extent(request).n, draw_head, self);
	return 0;
}

static const struct kvmod_policy_ops random_ops = {
	.size = sizeof(random_ops),
	.flags = KVMOD_POLICY_MAY_DROP_NEWEST,
	.name = "random",
	.description = "positions drawn at random, for each KV head its own",
	.devices = KVMOD_ON_CPU | KVMOD_ON_CUDA,
	.instance_size = sizeof(struct random),
	.params = random_params,
	.n_params = sizeof(random_params) / sizeof(*random_params),
	.workspace = random_workspace,
	.compress = random_compress,
};

static int32_t random_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &random_ops);
}

KVMOD_MODULE("random", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "positions drawn at random: the floor that other policies must beat", 0,
	     random_init, NULL);
