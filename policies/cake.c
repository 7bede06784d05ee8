/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CAKE (arXiv 2503.12491): layers share one budget. A layer gets the more of it, the wider
 * its attention is spread over positions (entropy) and the more it moves from row to row
 * (variance). Inside a layer, positions whose attention varies are preferred too.
 */
#include <math.h>
#include <string.h>

#include <kvmod/scorer.h>

struct cake {
	struct kvmod_scorer scorer;
	double gamma, tau1, tau2;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "5") \
	P(owner, struct cake, gamma, REAL, "200", "0..1e6", \
	  "weight of the variance in a position's score") \
	P(owner, struct cake, tau1, REAL, "1", "0.05..1000", \
	  "the greater, the less entropy counts in a layer's share") \
	P(owner, struct cake, tau2, REAL, "1", "0.05..1000", \
	  "the greater, the less variance counts in a layer's share")

enum { ENTROPY, VARIANCE, N_SUMS };

static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct kvmod_extent extent = kvmod_extent_of(request);

	(void)self;
	return 2 * (size_t)extent.group * extent.n;
}

struct rows {
	const struct kvmod_task *head;
	uint32_t first;
	float *mean, *squares;		/* [group][m]: over rows */
	double entropy;
};

static void add_row(void *rows, uint32_t row, uint32_t h, float *a)
{
	struct rows *t = rows;
	const struct kvmod_toolkit *kit = t->head->kit;
	uint32_t m = t->head->m;
	size_t at = (size_t)h * m;

	kit->moments(a, m, row - t->first + 1, t->mean + at, t->squares + at);
	t->entropy += kit->entropy(a, m, 1e-10f);
}

static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct cake *self = self_;
	uint32_t window = (uint32_t)self->scorer.window, given = head->segment->n_rows;
	uint32_t n_rows = given < window ? given : window;
	size_t all = (size_t)head->group * head->m;
	struct rows t = {
		.head = head, .first = given - n_rows,
		.mean = head->scratch, .squares = head->scratch + all,
	};
	float share = n_rows > 1 ? 1.0f / (float)(n_rows - 1) : 0;
	int32_t err;

	memset(head->scratch, 0, 2 * all * sizeof(float));
	memset(out, 0, head->m * sizeof(float));
	err = head->kit->each_row(head, n_rows, add_row, &t);
	for (uint32_t h = 0; h < head->group; h++, t.mean += head->m, t.squares += head->m)
		for (uint32_t i = 0; i < head->m; i++) {
			float variance = t.squares[i] * share;

			out[i] += (t.mean[i] + (float)self->gamma * variance) / (float)head->group;
			head->sums[VARIANCE] += variance;
		}
	head->sums[ENTROPY] += t.entropy;
	return err;
}

static double weight(const struct cake *self, const double *sums)
{
	return pow(sums[ENTROPY], 1 / self->tau1) * pow(sums[VARIANCE], 1 / self->tau2);
}

/* n more, evenly to the layers that have more positions, the remainder to the first of these. */
static void give(const struct kvmod_layers *layers, uint64_t n, uint32_t *counts)
{
	uint32_t n_open = 0, place = 0;

	for (uint32_t l = 0; l < layers->n_layers; l++)
		n_open += counts[l] < layers->n_scored[l];
	for (uint32_t l = 0; l < layers->n_layers; l++)
		if (counts[l] < layers->n_scored[l])
			counts[l] += (uint32_t)(n / n_open + (place++ < n % n_open));
}

static void spread(const void *self, const struct kvmod_layers *layers, uint32_t *counts)
{
	double total = 0;
	uint64_t excess = 0, left = layers->budget;

	for (uint32_t l = 0; l < layers->n_layers; l++)
		total += weight(self, layers->sums + l * N_SUMS);
	for (uint32_t l = 0; l < layers->n_layers; l++) {
		double share = weight(self, layers->sums + l * N_SUMS) / total;
		uint64_t n = 0;

		/* Nothing varies in a single row: all is left, to be shared evenly. */
		if (total > 0)
			n = (uint64_t)(share * (double)layers->budget);
		counts[l] = n < layers->n_scored[l] ? (uint32_t)n : layers->n_scored[l];
		excess += n - counts[l];
	}
	give(layers, excess, counts);
	for (uint32_t l = 0; l < layers->n_layers; l++)
		left -= counts[l];
	give(layers, left, counts);
}

KVMOD_SCORER(cake, struct cake, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "layers share the budget by entropy and variance of their attention (2503.12491)",
	     .score = score, .select = KVMOD_PER_SEQUENCE, .what = KVMOD_NEED_K,
	     .rows = KVMOD_ROWS_OF_WINDOW, .floats = floats, .spread = spread, .n_sums = N_SUMS);
