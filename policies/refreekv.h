/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV on the CPU: a layer to decide, and the two rankings. */
#ifndef KV_POLICIES_REFREEKV_H
#define KV_POLICIES_REFREEKV_H

#include "refreekv_params.h"

/* Tiles of a chunk: the piece of work, of one KV head, that a thread takes. */
#define CHUNK 5

struct layer {
	const struct refreekv *self;
	const struct kvmod_toolkit *kit;
	const struct kvmod_segment *segment;
	struct kvmod_keep *keep;
	int32_t status;
	uint32_t n;			/* cached positions, the same for every KV head */
	uint32_t n_heads, group;	/* query heads, and those that share a KV head */
	uint32_t sinks, tail;		/* oldest and newest positions, always kept */
	uint32_t m;			/* positions between them: those that have a rank */
	uint32_t n_rows;		/* newest rows whose attention is computed: the most of */
	uint32_t n_norm_rows;		/* those that make the norm, k of Eq. 2, */
	uint32_t n_window;		/* and those that rank by attention */

	/*
	 * Tiles of KVMOD_TILE positions at most, in the order in which the ranking by
	 * position drops them: those after the sinks from the oldest on, then the sinks
	 * from the newest on.
	 */
	uint32_t n_tiles, n_sink_tiles;
	uint32_t n_chunks;
	bool parts_are_tiles;		/* of the attention; else they are chunks */
	void *attention_memory;		/* [n_kv_heads] times attention_bytes */
	size_t attention_bytes;
	double *norm;			/* [n_heads]: of all that is ranked */

	/* rank = position */
	double *squares;		/* [n_heads][n_tiles + 1]: a^2 of each tile, summed */
	double *inside;			/* [n_heads][KVMOD_TILE]: the same inside of one tile */
	float *a;			/* [n_heads][KVMOD_TILE]; several rows: for each chunk */

	/* rank = attention */
	float *heads_a;			/* [n_heads][n] */
	float *score;			/* [n_kv_heads][n] */
	uint64_t *order, *spare;	/* [n_kv_heads][m], [m] */
	double *dropped;		/* [n_heads] */
};

/* What the layer's rows pay to KV head g. */
static inline struct kvmod_attention *refreekv_attention(const struct layer *layer, uint32_t g)
{
	return (void *)((char *)layer->attention_memory + g * layer->attention_bytes);
}

/* Positions begin .. end-1. */
struct range {
	uint32_t begin, end;
};
struct range refreekv_tile(const struct layer *layer, uint32_t tile);

/*
 * Eq. 2 for one tile and KV head: a[h * stride + i - begin] is the mean of what those
 * of the norm's rows that see position i pay it; h of [group].
 */
void refreekv_tile_attention(const struct layer *layer, uint32_t tile, uint32_t g, float *a,
			     size_t stride);

/*
 * Each ranking's part: what it computes for a chunk and KV head when the totals of the
 * attention are known, and the decision when all chunks are done.
 */
void refreekv_position_chunk(const struct layer *layer, uint32_t chunk, uint32_t g);
void refreekv_position_decide(const struct layer *layer);
void refreekv_attention_chunk(const struct layer *layer, uint32_t chunk, uint32_t g);
void refreekv_attention_decide(const struct layer *layer);

/* Is the norm of all that is ranked above zero and finite? */
bool refreekv_norm_usable(const struct layer *layer);
/* loss_i: norm[h] is a head's whole norm, dropped[h * stride] the squares that it lacks. */
double refreekv_loss(const double *norm, const double *dropped, size_t stride, uint32_t n_heads);

#endif
