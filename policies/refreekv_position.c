/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV, rank = position: the sinks, then from the newest to the oldest. A layer
 * keeps the sinks and a suffix. The loss never falls as the suffix shrinks, so that
 * bisection finds where the suffix begins, first over tiles, then inside of one.
 */
#include <math.h>

#include "refreekv.h"

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
bool refreekv_norm_usable(const struct layer *layer)
{
	double full = 0;

	for (uint32_t h = 0; h < layer->n_heads; h++)
		full += layer->norm[h];
	return full > 0 && isfinite(full);
}

/* Tiles that may be dropped: the sinks only where they have a rank. */
static uint32_t n_droppable(const struct layer *layer)
{
	return layer->n_tiles -
	       (layer->self->norm_scope == SCOPE_ALL ? 0 : layer->n_sink_tiles);
}

/* One query head's row of layer->squares. */
static double *squares_of(const struct layer *layer, uint32_t h)
{
	return layer->squares + (size_t)h * (layer->n_tiles + 1);
}

/* Several rows: what each tile adds to a norm needs the attention itself. */
void refreekv_position_chunk(const struct layer *layer, uint32_t chunk, uint32_t g)
{
	uint32_t tile = chunk * CHUNK, end = tile + CHUNK, first = g * layer->group;
	float *a = layer->a + ((size_t)chunk * layer->n_heads + first) * KVMOD_TILE;

	for (; tile < end && tile < layer->n_tiles; tile++) {
		struct range t = refreekv_tile(layer, tile);

		refreekv_tile_attention(layer, tile, g, a, KVMOD_TILE);
		for (uint32_t h = 0; h < layer->group; h++) {
			double sum = 0;

			for (uint32_t i = 0; i < t.end - t.begin; i++)
				sum += (double)a[h * KVMOD_TILE + i] * a[h * KVMOD_TILE + i];
			squares_of(layer, first + h)[tile] = sum;
		}
	}
}

/* From now on squares[h][tile] is what is dropped before that tile. */
static void sum_up(const struct layer *layer)
{
	uint32_t n = n_droppable(layer), group = layer->group;

	for (uint32_t h = 0; h < layer->n_heads; h++) {
		double *square = squares_of(layer, h), dropped = 0;

		if (layer->parts_are_tiles)
			layer->kit->parts_shares(refreekv_attention(layer, h / group), 0, h % group,
						 NULL, square);
		for (uint32_t tile = 0; tile < n; tile++) {
			double here = square[tile];

			square[tile] = dropped;
			dropped += here;
		}
		square[n] = dropped;
		layer->norm[h] = sqrt(dropped);
	}
}

/* inside[h][i]: what is dropped before the i-th position of a tile that goes. */
static void look_inside(const struct layer *layer, uint32_t tile)
{
	struct range t = refreekv_tile(layer, tile);
	uint32_t n = t.end - t.begin;
	bool backwards = t.begin < layer->sinks;

	for (uint32_t g = 0; g < layer->segment->n_kv_heads; g++)
		refreekv_tile_attention(layer, tile, g, layer->a + g * layer->group * KVMOD_TILE,
					KVMOD_TILE);
	for (uint32_t h = 0; h < layer->n_heads; h++) {
		double dropped = squares_of(layer, h)[tile], *inside = layer->inside + h * KVMOD_TILE;
		const float *a = layer->a + h * KVMOD_TILE;

		for (uint32_t i = 0; i < n; i++) {
			double here = a[backwards ? n - 1 - i : i];

			inside[i] = dropped;
			dropped += here * here;
		}
	}
}

/* The last of 0..last whose loss is within the threshold; 0 if none other is. */
static uint32_t last_within(const struct layer *layer, const double *dropped, size_t stride,
			    uint32_t last)
{
	uint32_t first = 0;

	while (first < last) {
		uint32_t middle = last - (last - first) / 2;

		if (refreekv_loss(layer->norm, dropped + middle, stride, layer->n_heads) <=
		    layer->self->threshold)
			first = middle;
		else
			last = middle - 1;
	}
	return first;
}

/* How many positions after the sinks go, and the loss then. */
static uint32_t count_dropped(const struct layer *layer, double *loss)
{
	uint32_t n = n_droppable(layer), others = layer->n - layer->sinks, tile, i;
	struct range t;

	tile = last_within(layer, layer->squares, layer->n_tiles + (size_t)1, n);
	if (tile == n) {
		*loss = 1;
		return others;
	}
	t = refreekv_tile(layer, tile);
	look_inside(layer, tile);
	i = last_within(layer, layer->inside, KVMOD_TILE, t.end - t.begin - 1);
	*loss = refreekv_loss(layer->norm, layer->inside + i, KVMOD_TILE, layer->n_heads);
	return t.begin < layer->sinks ? others : t.begin - layer->sinks + i;
}

/* Sinks and tail stay, whatever the loss. */
void refreekv_position_decide(const struct layer *layer)
{
	struct kvmod_keep *keep = layer->keep;
	uint32_t dropped;
	double loss;

	sum_up(layer);
	if (!refreekv_norm_usable(layer))
		return;
	dropped = count_dropped(layer, &loss);
	keep->loss = loss;
	if (dropped > layer->n - layer->sinks - layer->tail)
		dropped = layer->n - layer->sinks - layer->tail;
	refreekv_keep_from(layer->self, keep, layer->sinks + dropped, layer->n);
}
