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
#include <kvmod/scorer.h>

struct random {
	struct kvmod_scorer scorer;
	int64_t seed;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	P(owner, struct random, seed, INT, "0", "0..", \
	  "another number, another draw")

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15u

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static int32_t draw(const void *self, const struct kvmod_task *head, float *out)
{
	const uint64_t of[] = {
		(uint64_t)((const struct random *)self)->seed, head->segment->sequence,
		head->segment->layer, (uint64_t)head->segment->first_head + head->g,
		head->segment->logical,
	};
	uint64_t state = 0;

	for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++)
		state = mix(state + GOLDEN_GAMMA + of[i]);
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = (float)(mix(state + (i + 1ull) * GOLDEN_GAMMA) >> 40);
	return KVMOD_OK;
}

/* The policy reads no cache, so it runs on any device. */
KVMOD_SCORER_POLICY(random, struct random, PARAMS,
		    "positions drawn at random, for each KV head its own",
		    "*", .score = draw)
KVMOD_MODULE("random", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "positions drawn at random: the floor that other policies must beat", 0,
	     random_init, NULL);
