/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV, rank = attention: each KV head ranks its positions by what the last
 * `window` queries pay them in all. Sinks and window are kept, outside of ranking
 * and norm; how many of the others is one number for the layer.
 */
#include "policies/refreekv.h"

#include <math.h>
#include <string.h>

#define RADIX_BITS	11
#define RADIX		(1u << RADIX_BITS)

/* A number that orders as the float does. */
static uint32_t order_of(float x)
{
	uint32_t bits;

	x += 0.0f;	/* -0 is 0 */
	memcpy(&bits, &x, sizeof(bits));
	return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

void refreekv_attention_chunk(const struct cut *cut, uint32_t chunk, uint32_t g)
{
	const struct kv_rows *rows = &cut->rows;
	uint32_t tile = chunk * KV_CHUNK, end = tile + KV_CHUNK;

	for (; tile < end && tile < rows->n_tiles; tile++) {
		uint32_t begin = kv_rows_tile(rows, tile).begin;

		kv_rows_attention(rows, cut->n_rows, tile, g, cut->attention +
				  (size_t)g * rows->group * rows->n + begin, rows->n);
		kv_rows_mass(rows, cut->n_window, tile, g,
			     cut->score + (size_t)g * rows->n + begin);
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
static void rank(const struct cut *cut)
{
	uint32_t n_kv_heads = cut->n_heads / cut->rows.group, split = cut->rows.split;

	for (uint32_t g = 0; g < n_kv_heads; g++) {
		const float *score = cut->score + (size_t)g * cut->rows.n;
		uint64_t *order = cut->order + (size_t)g * cut->m;

		for (uint32_t i = 0; i < cut->m; i++)
			order[i] = (uint64_t)~order_of(score[split + i]) << 32 | (split + i);
		sort(order, cut->spare, cut->m);
	}
}

/* Adds the squares of the positions of rank i to sums[h]. */
static void add_rank(const struct cut *cut, uint32_t i, double *sums)
{
	const struct kv_rows *rows = &cut->rows;

	for (uint32_t h = 0; h < cut->n_heads; h++) {
		uint32_t position = (uint32_t)cut->order[(size_t)(h / rows->group) * cut->m + i];
		double a = cut->attention[(size_t)h * rows->n + position];

		sums[h] += a * a;
	}
}

static void find_norms(const struct cut *cut)
{
	memset(cut->norm, 0, cut->n_heads * sizeof(*cut->norm));
	for (uint32_t i = 0; i < cut->m; i++)
		add_rank(cut, i, cut->norm);
	for (uint32_t h = 0; h < cut->n_heads; h++)
		cut->norm[h] = sqrt(cut->norm[h]);
}

/* A head keeps the sinks, the first `count` of its order, and the tail. */
static void keep_ranked(const struct cut *cut, uint32_t g, uint32_t count)
{
	uint32_t n = cut->rows.n, split = cut->rows.split, n_kept = 0;
	uint32_t *kept = cut->keep->indices + g * cut->keep->index_stride;
	float *score = cut->score + (size_t)g * n;

	for (uint32_t i = 0; i < count; i++)
		score[(uint32_t)cut->order[(size_t)g * cut->m + i]] = -1;
	for (uint32_t i = 0; i < n; i++)
		if (i < split || i >= split + cut->m || score[i] < 0)
			kept[n_kept++] = i;
	cut->keep->counts[g] = n_kept;
}

/* Drops from the last rank on, while the loss is within the threshold. */
void refreekv_attention_decide(const struct cut *cut)
{
	uint32_t count = cut->m;
	double loss;

	rank(cut);
	find_norms(cut);
	if (!refreekv_norm_usable(cut))
		return;
	memset(cut->dropped, 0, cut->n_heads * sizeof(*cut->dropped));
	for (; count > 0; count--) {
		add_rank(cut, count - 1, cut->dropped);
		loss = refreekv_loss(cut->norm, cut->dropped, 1, cut->n_heads);
		if (loss > cut->self->threshold)
			break;
		cut->keep->loss = loss;
	}
	if (count == cut->m)
		return;
	cut->keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < cut->n_heads / cut->rows.group; g++)
		keep_ranked(cut, g, count);
}
