/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV, rank = position: the sinks, then from the newest to the oldest. What
 * is kept is the sinks and a suffix. The loss never falls as the suffix shrinks, so
 * its begin is found by bisection, first over tiles, then over positions of one.
 */
#include "policies/refreekv.h"

#include <math.h>

/*
 * (full - kept) / full, with the difference of each head's norms taken as
 * dropped / (norm + kept norm): nothing cancels, so a small loss is as exact as
 * the attention that it is made of.
 */
double refreekv_loss(const double *norm, const double *dropped, size_t stride, uint32_t n_heads)
{
	double lost = 0, full = 0;

	for (uint32_t h = 0; h < n_heads; h++) {
		double d = dropped[h * stride], kept = sqrt(fmax(norm[h] * norm[h] - d, 0));

		full += norm[h];
		if (norm[h] > 0)
			lost += d / (norm[h] + kept);
	}
	return lost / full;
}

/* Where the norm is zero or not finite there is nothing to go by. */
bool refreekv_norm_usable(const struct cut *cut)
{
	double full = 0;

	for (uint32_t h = 0; h < cut->n_heads; h++)
		full += cut->norm[h];
	return full > 0 && isfinite(full);
}

/*
 * Tiles in the order in which they are dropped, the ranking from its end: those
 * after the sinks from the oldest on, then the sinks, where they are ranked at
 * all, from the newest on.
 */
static uint32_t n_droppable(const struct cut *cut)
{
	bool all = cut->self->norm_scope == SCOPE_ALL;

	return cut->rows.n_tiles - (all ? 0 : kv_rows_split_tiles(&cut->rows));
}

/* From tile to place in that order, and back. */
static uint32_t place_of(const struct cut *cut, uint32_t tile)
{
	uint32_t sinks = kv_rows_split_tiles(&cut->rows);

	return tile >= sinks ? tile - sinks : cut->rows.n_tiles - 1 - tile;
}

static uint32_t tile_at(const struct cut *cut, uint32_t place)
{
	uint32_t sinks = kv_rows_split_tiles(&cut->rows), others = cut->rows.n_tiles - sinks;

	return place < others ? place + sinks : cut->rows.n_tiles - 1 - place;
}

/* One query head's row of cut->squares. */
static double *squares_of(const struct cut *cut, uint32_t h)
{
	return cut->squares + (size_t)h * (cut->rows.n_tiles + 1);
}

/* Several rows: what each tile adds to a norm needs the attention itself. */
void refreekv_position_chunk(const struct cut *cut, uint32_t chunk, uint32_t g)
{
	const struct kv_rows *rows = &cut->rows;
	uint32_t tile = chunk * KV_CHUNK, end = tile + KV_CHUNK;
	float *a = cut->a + ((size_t)chunk * cut->n_heads + g * rows->group) * KV_TILE;

	for (; tile < end && tile < rows->n_tiles; tile++) {
		struct kv_tile t = kv_rows_tile(rows, tile);

		kv_rows_attention(rows, cut->n_rows, tile, g, a, KV_TILE);
		for (uint32_t h = 0; h < rows->group; h++) {
			double sum = 0;

			for (uint32_t i = 0; i < t.end - t.begin; i++)
				sum += (double)a[h * KV_TILE + i] * a[h * KV_TILE + i];
			squares_of(cut, g * rows->group + h)[place_of(cut, tile)] = sum;
		}
	}
}

/* From now on squares[h][place] is what is dropped before that tile. */
static void sum_up(const struct cut *cut)
{
	const struct kv_rows *rows = &cut->rows;
	uint32_t n = n_droppable(cut);

	for (uint32_t h = 0; h < cut->n_heads; h++) {
		double *square = squares_of(cut, h), dropped = 0;

		for (uint32_t place = 0; place < n; place++) {
			double here = rows->n_rows > 1 ? square[place] :
				kv_rows_square(rows, h, tile_at(cut, place));

			square[place] = dropped;
			dropped += here;
		}
		square[n] = dropped;
		cut->norm[h] = sqrt(dropped);
	}
}

/* inside[h][i]: what is dropped before the i-th position of a tile that goes. */
static void look_inside(const struct cut *cut, uint32_t place)
{
	const struct kv_rows *rows = &cut->rows;
	uint32_t tile = tile_at(cut, place), n_kv_heads = cut->n_heads / rows->group;
	struct kv_tile t = kv_rows_tile(rows, tile);
	uint32_t n = t.end - t.begin;
	bool backwards = t.begin < rows->split;

	for (uint32_t g = 0; g < n_kv_heads; g++)
		kv_rows_attention(rows, cut->n_rows, tile, g,
				  cut->a + g * rows->group * KV_TILE, KV_TILE);
	for (uint32_t h = 0; h < cut->n_heads; h++) {
		double dropped = squares_of(cut, h)[place], *inside = cut->inside + h * KV_TILE;
		const float *a = cut->a + h * KV_TILE;

		for (uint32_t i = 0; i < n; i++) {
			double here = a[backwards ? n - 1 - i : i];

			inside[i] = dropped;
			dropped += here * here;
		}
	}
}

/* The last of 0..last whose loss is within the threshold; that at 0 is taken to be. */
static uint32_t last_within(const struct cut *cut, const double *dropped, size_t stride,
			    uint32_t last)
{
	uint32_t first = 0;

	while (first < last) {
		uint32_t middle = last - (last - first) / 2;

		if (refreekv_loss(cut->norm, dropped + middle, stride, cut->n_heads) <=
		    cut->self->threshold)
			first = middle;
		else
			last = middle - 1;
	}
	return first;
}

/* How many positions of the ranking go, and the loss then. */
static uint32_t count_dropped(const struct cut *cut, double *loss)
{
	const struct kv_rows *rows = &cut->rows;
	uint32_t n = n_droppable(cut), others = rows->n - rows->split, place, i;
	struct kv_tile t;

	place = last_within(cut, cut->squares, rows->n_tiles + (size_t)1, n);
	if (place == n) {
		*loss = 1;
		return others;
	}
	t = kv_rows_tile(rows, tile_at(cut, place));
	look_inside(cut, place);
	i = last_within(cut, cut->inside, KV_TILE, t.end - t.begin - 1);
	*loss = refreekv_loss(cut->norm, cut->inside + i, KV_TILE, cut->n_heads);
	return t.begin < rows->split ? others : t.begin - rows->split + i;
}

/* Sinks and the newest stay, whatever the loss. */
void refreekv_position_decide(const struct cut *cut)
{
	struct kvmod_keep *keep = cut->keep;
	uint32_t n = cut->rows.n, sinks = cut->rows.split, dropped;
	double loss;

	sum_up(cut);
	if (!refreekv_norm_usable(cut))
		return;
	dropped = count_dropped(cut, &loss);
	keep->loss = loss;
	if (dropped > n - sinks - cut->tail)
		dropped = n - sinks - cut->tail;
	refreekv_keep_from(cut->self, keep, sinks + dropped, n);
}
