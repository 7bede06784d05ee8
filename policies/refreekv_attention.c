/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV, rank = attention: each KV head ranks its positions by what the last
 * `window` queries pay them in all. Sinks and window are kept, outside of ranking
 * and norm; of the others every head keeps equally many.
 */
#include <math.h>
#include <string.h>

#include "refreekv.h"

#define RADIX_BITS	11
#define RADIX		(1u << RADIX_BITS)

/* A number that orders as the float does; attention is never below 0. */
static uint32_t order_of(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

void refreekv_attention_chunk(const struct layer *layer, uint32_t chunk, uint32_t g)
{
	uint32_t tile = chunk * CHUNK, end = tile + CHUNK;

	for (; tile < end && tile < layer->n_tiles; tile++) {
		struct range t = refreekv_tile(layer, tile);
		float *score = layer->score + (size_t)g * layer->n + t.begin;

		refreekv_tile_attention(layer, tile, g, layer->heads_a +
					(size_t)g * layer->group * layer->n + t.begin, layer->n);
		memset(score, 0, (t.end - t.begin) * sizeof(*score));
		layer->kit->parts_add(refreekv_attention(layer, g), layer->n_window, t.begin, t.end,
				      1, score, 0);
	}
}

/* By the upper half of the keys, smallest first; equal ones stay in order. */
static void sort(uint64_t *keys, uint64_t *spare, uint32_t n)
{
	for (unsigned shift = 32; shift < 64; shift += RADIX_BITS) {
		uint32_t at[RADIX] = { 0 }, sum = 0;

		for (uint32_t i = 0; i < n; i++)
			at[keys[i] >> shift & (RADIX - 1)]++;
		for (uint32_t d = 0; d < RADIX; d++) {
			uint32_t count = at[d];

			at[d] = sum;
			sum += count;
		}
		for (uint32_t i = 0; i < n; i++)
			spare[at[keys[i] >> shift & (RADIX - 1)]++] = keys[i];
		memcpy(keys, spare, n * sizeof(*keys));
	}
}

/* order[g][i]: the position of rank i in the lower half; ties go to the older. */
static void rank(const struct layer *layer)
{
	uint32_t sinks = layer->sinks;

	for (uint32_t g = 0; g < layer->segment->n_kv_heads; g++) {
		const float *score = layer->score + (size_t)g * layer->n;
		uint64_t *order = layer->order + (size_t)g * layer->m;

		for (uint32_t i = 0; i < layer->m; i++)
			order[i] = (uint64_t)~order_of(score[sinks + i]) << 32 | (sinks + i);
		sort(order, layer->spare, layer->m);
	}
}

/* Adds the squares of the positions of rank i to sums[h]. */
static void add_rank(const struct layer *layer, uint32_t i, double *sums)
{
	for (uint32_t h = 0; h < layer->n_heads; h++) {
		uint32_t position = (uint32_t)layer->order[(size_t)(h / layer->group) * layer->m + i];
		double a = layer->heads_a[(size_t)h * layer->n + position];

		sums[h] += a * a;
	}
}

static void find_norms(const struct layer *layer)
{
	memset(layer->norm, 0, layer->n_heads * sizeof(*layer->norm));
	for (uint32_t i = 0; i < layer->m; i++)
		add_rank(layer, i, layer->norm);
	for (uint32_t h = 0; h < layer->n_heads; h++)
		layer->norm[h] = sqrt(layer->norm[h]);
}

/* A head keeps the sinks, the first `count` of its order, and the tail. */
static void keep_ranked(const struct layer *layer, uint32_t g, uint32_t count)
{
	uint32_t n = layer->n, sinks = layer->sinks, n_kept = 0;
	uint32_t *kept = layer->keep->indices + g * layer->keep->index_stride;
	float *score = layer->score + (size_t)g * n;

	for (uint32_t i = 0; i < count; i++)
		score[(uint32_t)layer->order[(size_t)g * layer->m + i]] = -1;
	for (uint32_t i = 0; i < n; i++)
		if (i < sinks || i >= sinks + layer->m || score[i] < 0)
			kept[n_kept++] = i;
	layer->keep->counts[g] = n_kept;
}

/* Drops from the last rank on, while the loss is within the threshold. */
void refreekv_attention_decide(const struct layer *layer)
{
	uint32_t count = layer->m;
	double loss;

	rank(layer);
	find_norms(layer);
	if (!refreekv_norm_usable(layer))
		return;
	memset(layer->dropped, 0, layer->n_heads * sizeof(*layer->dropped));
	for (; count > 0; count--) {
		add_rank(layer, count - 1, layer->dropped);
		loss = refreekv_loss(layer->norm, layer->dropped, 1, layer->n_heads);
		if (loss > layer->self->threshold)
			break;
		layer->keep->loss = loss;
	}
	if (count == layer->m)
		return;
	layer->keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < layer->segment->n_kv_heads; g++)
		keep_ranked(layer, g, count);
}
