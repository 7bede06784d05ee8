/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attention that the newest rows of a layer pay to its cache, read tile by
 * tile. The first pass reads all keys once and leaves, for each tile and query,
 * its softmax in parts; their totals then give the attention of any tile, whose
 * logits are computed again: one tile of keys costs less than all logits stored.
 *
 * Tiles and the order of all sums are fixed by the shape alone, so that results
 * do not depend on how the tiles are shared out. [any thread, each on its own
 * tiles or heads]
 */
#ifndef KV_CPU_ROWS_H
#define KV_CPU_ROWS_H

#include <kvmod/types.h>

/*
 * Positions of a tile. The longer, the better the processor fetches ahead, and the
 * more is read again inside of the tile that a decision ends in.
 */
#define KV_TILE 384
/* Tiles of a chunk, the piece of work that is shared out. */
#define KV_CHUNK 5

struct kv_rows {
	const struct kvmod_segment *segment;
	uint32_t n;			/* cached positions, the same for every KV head */
	uint32_t n_rows;		/* so many newest rows of segment->q */
	uint32_t split;			/* a tile begins here */
	uint32_t group;			/* query heads that share a KV head */
	uint32_t n_tiles, n_chunks;
	uint32_t n_parts;		/* one row: a part is a tile; several: a chunk */
	float *q;			/* [n_kv_heads][n_rows][group][head_dim], scaled */
	uint32_t *sees;			/* [n_kv_heads][n_rows]: positions at or before the row */
	/*
	 * Softmax of each part, [n_kv_heads][n_rows][group][n_parts]: largest logit,
	 * sums of exp and of its square. kv_rows_total() puts exp(max - row_max) in
	 * the place of max.
	 */
	float *max, *sum, *sum2;
	float *row_max, *row_weight;	/* of whole rows; weight is 1 / sum */
};

/* Positions begin..end-1. */
struct kv_tile {
	uint32_t begin, end;
};

/* Scratch for a segment, and the rows set up in it; `sees` is the caller's to fill. */
size_t kv_rows_bytes(const struct kvmod_segment *segment, uint32_t n, uint32_t n_rows,
		     uint32_t split);
void kv_rows_init(struct kv_rows *rows, const struct kvmod_segment *segment, uint32_t n,
		  uint32_t n_rows, uint32_t split, void *memory);
/* Reads the queries. */
void kv_rows_load(const struct kv_rows *rows);

struct kv_tile kv_rows_tile(const struct kv_rows *rows, uint32_t tile);
/* How many tiles lie before `split`. */
uint32_t kv_rows_split_tiles(const struct kv_rows *rows);

/* First pass, for one chunk and KV head. */
void kv_rows_scan(const struct kv_rows *rows, uint32_t chunk, uint32_t g);
/* When all are done: the totals. KVMOD_ENUMERIC if attention is not finite. */
int kv_rows_total(const struct kv_rows *rows);

/* Of one row: what a tile's share of a query head's attention is, squared and summed. */
static inline double kv_rows_square(const struct kv_rows *rows, uint32_t h, uint32_t tile)
{
	size_t i = (size_t)h * rows->n_parts + tile;
	double share = (double)rows->max[i] * rows->row_weight[h];

	return rows->sum2[i] * share * share;
}

/*
 * Eq. 2 of ReFreeKV, for one tile and KV head: a[h * stride + i - begin] is the
 * mean of what those of the newest n_rows rows that see position i pay it; h of
 * [group].
 */
void kv_rows_attention(const struct kv_rows *rows, uint32_t n_rows, uint32_t tile, uint32_t g,
		       float *a, size_t stride);
/* out[i - begin]: what the newest n_rows rows and the whole group pay in all. */
void kv_rows_mass(const struct kv_rows *rows, uint32_t n_rows, uint32_t tile, uint32_t g,
		  float *out);

#endif
