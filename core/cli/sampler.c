/* SPDX-License-Identifier: Apache-2.0 */
/* Samples a token from logits. */
#include "core/cli/sampler.h"

#include <math.h>
#include <stdlib.h>

struct candidate {
	double weight;		/* first the logit, then exp(logit - largest logit) */
	int32_t token;
};

struct cli_sampler {
	struct cli_sampling how;
	uint64_t state;
	uint32_t n_vocab;
	struct candidate candidates[];
};

struct cli_sampler *cli_sampler_new(const struct cli_sampling *how, uint32_t n_vocab)
{
	struct cli_sampler *s = malloc(sizeof(*s) + n_vocab * sizeof(*s->candidates));

	if (!s)
		return NULL;
	s->how = *how;
	s->n_vocab = n_vocab;
	cli_sampler_restart(s);
	return s;
}

void cli_sampler_restart(struct cli_sampler *s)
{
	s->state = s->how.seed;
}

void cli_sampler_free(struct cli_sampler *s)
{
	free(s);
}

/* Steele, Lea and Flood's SplitMix64: every seed is a good one. In [0, 1). */
static double uniform(struct cli_sampler *s)
{
	uint64_t z = s->state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	z ^= z >> 31;
	return (double)(z >> 11) * 0x1p-53;
}

int32_t cli_likeliest(const float *logits, uint32_t n_vocab)
{
	int32_t best = 0;

	for (uint32_t i = 0; i < n_vocab; i++) {
		if (isnan(logits[i]))
			return -1;
		if (logits[i] > logits[best])
			best = (int32_t)i;
	}
	return n_vocab && isfinite(logits[best]) ? best : -1;
}

/* The likeliest first; of equally likely tokens the lowest. */
static int by_weight(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight < y->weight ? 1 : -1;
	return (x->token > y->token) - (x->token < y->token);
}

static void sift_down(struct candidate *heap, uint32_t n, uint32_t at)
{
	for (;;) {
		uint32_t last = at, child = 2 * at + 1;

		for (uint32_t c = child; c < child + 2 && c < n; c++)
			if (by_weight(&heap[c], &heap[last]) > 0)
				last = c;
		if (last == at)
			return;

		struct candidate moved = heap[at];

		heap[at] = heap[last];
		heap[last] = moved;
		at = last;
	}
}

/* Moves the k likeliest to the front: a heap of them whose top is the least likely. */
static void select_likeliest(struct candidate *c, uint32_t n, uint32_t k)
{
	for (uint32_t i = k / 2; i-- > 0;)
		sift_down(c, k, i);
	for (uint32_t i = k; i < n; i++) {
		if (by_weight(&c[i], &c[0]) >= 0)
			continue;
		c[0] = c[i];
		sift_down(c, k, 0);
	}
}

static double to_weights(struct candidate *c, uint32_t n, double greatest)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += c[i].weight = exp(c[i].weight - greatest);
	return sum;
}

static uint32_t keep_top_p(const struct candidate *c, uint32_t n, double p, double sum)
{
	double so_far = 0;

	for (uint32_t i = 0; i < n; i++) {
		so_far += c[i].weight;
		if (so_far >= p * sum)
			return i + 1;
	}
	return n;
}

/* The likeliest weighs exactly 1. */
static uint32_t keep_min_p(struct candidate *c, uint32_t n, double p)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < n; i++)
		if (c[i].weight >= p)
			c[kept++] = c[i];
	return kept;
}

static int32_t draw(struct cli_sampler *s, uint32_t n)
{
	struct candidate *c = s->candidates;
	double sum = 0, at;

	for (uint32_t i = 0; i < n; i++)
		sum += c[i].weight = pow(c[i].weight, 1 / s->how.temperature);
	at = uniform(s) * sum;
	for (uint32_t i = 0; i + 1 < n; i++) {
		at -= c[i].weight;
		if (at < 0)
			return c[i].token;
	}
	return c[n - 1].token;
}

int32_t cli_sample(struct cli_sampler *s, const float *logits)
{
	int32_t best = cli_likeliest(logits, s->n_vocab);
	struct candidate *c = s->candidates;
	uint32_t n = s->n_vocab;
	double sum;

	if (best < 0 || s->how.temperature <= 0)
		return best;
	for (uint32_t i = 0; i < n; i++)
		c[i] = (struct candidate){ logits[i], (int32_t)i };
	if (s->how.top_k && s->how.top_k < n) {
		select_likeliest(c, n, (uint32_t)s->how.top_k);
		n = (uint32_t)s->how.top_k;
	}
	if (s->how.top_p < 1)
		qsort(c, n, sizeof(*c), by_weight);
	sum = to_weights(c, n, logits[best]);
	if (s->how.top_p < 1)
		n = keep_top_p(c, n, s->how.top_p, sum);
	n = keep_min_p(c, n, s->how.min_p);
	return draw(s, n);
}
