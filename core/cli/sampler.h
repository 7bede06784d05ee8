/* SPDX-License-Identifier: Apache-2.0 */
/* Samples a token from logits. */
#ifndef KV_CORE_CLI_SAMPLER_H
#define KV_CORE_CLI_SAMPLER_H

#include <stdint.h>

/*
 * The filters look at probabilities before the temperature, in this order:
 * top_k, top_p, min_p. Values that switch one off: 0, 1 and 0.
 */
struct cli_sampling {
	double temperature;	/* 0: greedy */
	uint64_t top_k;		/* the k likeliest */
	double top_p;		/* the fewest of the likeliest that sum to p */
	double min_p;		/* those with at least p times the likeliest's probability */
	uint64_t seed;		/* same seed, same logits: same tokens */
};

struct cli_sampler;

/* NULL if memory ran out. */
struct cli_sampler *cli_sampler_new(const struct cli_sampling *how, uint32_t n_vocab);
void cli_sampler_free(struct cli_sampler *sampler);
/* Begins again from the seed. */
void cli_sampler_restart(struct cli_sampler *sampler);
/* A token; -1 if a logit is NaN or the largest is not finite. */
int32_t cli_sample(struct cli_sampler *sampler, const float *logits);
/* The likeliest token, the lowest of equally likely ones; -1 as above. */
int32_t cli_likeliest(const float *logits, uint32_t n_vocab);

#endif
