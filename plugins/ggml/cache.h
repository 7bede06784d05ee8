/* SPDX-License-Identifier: Apache-2.0 */
/* The cache of one layer: its rows, the numbers that go with them, the rotation of its keys. */
#ifndef KV_PLUGINS_GGML_CACHE_H
#define KV_PLUGINS_GGML_CACHE_H

#include "memory.h"

/*
 * How many decoded tokens caches and graphs have room for at least. A GPU gets a whole
 * recorded graph at once: it pays to record seldom.
 */
static inline uint32_t gg_ahead(const struct gg_gpu *gpu)
{
	return gpu->handle ? GG_PAD : 1;
}

/*
 * The oldest rows of each head, whose keys are rotated anew whenever the gap behind them
 * closes. These keys are kept as they are before RoPE, so that no error accumulates.
 * phases.c says what a row's place is.
 */
struct gg_sinks {
	uint32_t room;			/* rows a head; 0: this cache has no sinks */
	uint32_t *n;			/* [n_kv_heads]: rows in use */
	int32_t *places;		/* [n_kv_heads][room] */
	struct gg_memory keys;		/* F32 [n_kv_heads][room][head_dim] */
	bool moved;			/* since the cache's own keys were rotated */
};

/*
 * Extras: numbers that an engine keeps for policies beside the rows of a cache, one float
 * for each query head and row of its KV head. Their memory is [n_q_heads][gg_cache_room()],
 * on the cache's side: number i of query head h belongs to row i of h's KV head.
 *
 * They follow the rows: a cut gathers them, growth and forks copy them, copies for a replay
 * have none. Numbers of rows that are new are 0, unless a truncate dropped rows before: it
 * leaves their numbers, which whoever keeps an extra must then overwrite or drop. An extra
 * whose memory has no bytes is not kept, or was lost for want of memory: losing one costs
 * compression, never output.
 */
enum gg_extra { GG_COLUMN_SUMS, GG_WO_NORMS, GG_N_EXTRAS };

/* Rows of K or of V, and how they are stored. */
struct gg_store {
	struct gg_memory memory;
	enum ggml_type type;
	uint32_t rotation;		/* as of a kvmod_view */
};

/*
 * K and V of one layer: head_dim-wide rows, KV heads end to end. Head g has the
 * rows first[g] .. first[g + 1] - 1, of which the first n[g] are in use.
 */
struct gg_cache {
	struct gg_store k, v;
	struct gg_memory extras[GG_N_EXTRAS];
	uint32_t *n;			/* [n_kv_heads] */
	uint32_t *first;		/* [n_kv_heads + 1], multiples of GG_PAD */
	int32_t *positions;		/* of each row; NULL: 0, 1, ... in every head */
	int32_t base;			/* the sequence's, when these keys were rotated */
	struct gg_sinks sinks;
};

/* --- rows (cache.c) ---------------------------------------------------------------- */

/* The first n of the rows that spans or indices name; both NULL: of all rows. */
struct gg_pick {
	uint32_t n;
	uint32_t n_spans;
	const struct kvmod_span *spans;
	const uint32_t *indices;
};

/* Drops rows from `limit` on. */
void gg_pick_before(struct gg_pick *pick, uint32_t limit);
/* The most spans that gg_describe_pick() makes of a pick. */
uint32_t gg_pick_spans(const struct gg_pick *pick);
/* Describes a pick as a gather, by indices or by spans; returns the number of spans. */
uint32_t gg_describe_pick(const struct gg_pick *pick, struct kvmod_gather *gather,
			  struct kvmod_span *spans);
/* The gather that gg_describe_pick() began: of n_rows rows from row `begin` of `from` on, to
   row `end` of `to`. */
struct kvmod_gather gg_move(const struct kvmod_gather *picked, void *to, size_t end, const void *from,
			    size_t begin, uint32_t n_rows, size_t row_bytes);
/*
 * Overwrites *to with a copy of the picked rows of `from` (one pick for each head; from
 * NULL: of no rows) that has room for at least `room` more rows a head, and stores them
 * alike. The copy's sequence is `logical` tokens long.
 */
int32_t gg_cache_copy(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		      const struct gg_cache *from, const struct gg_pick *picks,
		      uint64_t logical, uint32_t room);
/*
 * The same in the place of an earlier copy, whose memory is used again for rows that fit it.
 * *to may be all zero, and is then if this fails.
 */
int32_t gg_cache_copy_again(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
			    const struct gg_cache *from, const struct gg_pick *picks,
			    uint64_t logical, uint32_t room);
void gg_cache_free(struct gg_cache *cache);
/* How many rows of a head have a position below the limit; these rows come first. */
uint32_t gg_rows_before(const struct gg_cache *cache, uint32_t head, uint64_t limit);
/* Rows of the KV head that has the most room. */
uint32_t gg_cache_room(const struct gg_engine *engine, const struct gg_cache *cache);
/* Do all heads have one length, so that one attention node serves them? */
bool gg_cache_even(const struct gg_engine *engine, const struct gg_cache *cache);

/* --- stores (store.c) ------------------------------------------------------------------ */

/* KVMOD_F16 ... of a type that rows are stored as. */
uint32_t gg_element_type(enum ggml_type type);
size_t gg_store_row(const struct gg_engine *engine, const struct gg_store *store);
/* Its rows from number `row` on, as a segment shows them. */
struct kvmod_view gg_store_view(const struct gg_engine *engine, const struct gg_store *store, size_t row);
/* Its first n_rows rows, as a tensor. */
struct ggml_tensor *gg_store_rows(const struct gg_engine *engine, struct ggml_context *context,
				  const struct gg_store *store, size_t n_rows);
/*
 * Overwrites *store: all rows are zero, and stored as the rows of `like`, or as cache_type
 * says if that is NULL. False: not enough memory.
 */
bool gg_store_new(struct gg_engine *engine, enum gg_side side, struct gg_store *store,
		  const struct gg_store *like, size_t n_rows);
/* Has it room for n_rows rows that are stored like those of another one? */
bool gg_store_fits(const struct gg_engine *engine, enum gg_side side, const struct gg_store *store,
		   const struct gg_store *like, size_t n_rows);
/*
 * Stores the rows of a cache as a plan's keep says. What the side cannot store stays as it
 * was, and the log says so once. On failure the cache stays as it was.
 */
int32_t gg_cache_convert(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
			 const struct kvmod_keep *keep);
/* Overwrites *plain with a copy of the first n_rows rows, as floats that are not rotated. */
int32_t gg_store_plain(struct gg_engine *engine, enum gg_side side, const struct gg_store *store,
		       size_t n_rows, struct gg_store *plain);
/* Multiplies rows of floats by Hadamard matrices of d dimensions. */
struct ggml_tensor *gg_hadamard(struct gg_engine *engine, struct ggml_context *context,
				enum gg_side side, struct ggml_tensor *x, uint32_t d);

/* --- extras (extras.c) --------------------------------------------------------------- */

/* Memory for an extra, all of it 0, in the place of what there was. False: not enough. */
bool gg_extra_new(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
		  enum gg_extra which);
static inline bool gg_extra_kept(const struct gg_cache *cache, enum gg_extra which)
{
	return cache->extras[which].bytes > 0;
}
/* As a segment shows it: [n_q_heads][n]. data is NULL where the extra is not kept. */
struct kvmod_view gg_extra_view(const struct gg_engine *engine, const struct gg_cache *cache,
				enum gg_extra which);
/*
 * After gg_cache_copy(): the copy gets the extras of the same picks. If this fails, the copy
 * has no extras.
 */
int32_t gg_extras_copy(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		       const struct gg_cache *from, const struct gg_pick *picks);
void gg_extras_free(struct gg_cache *cache);

/* --- sinks (phases.c) ---------------------------------------------------------------- */

/* Overwrites *sinks; all is zero. False: there is not enough memory. */
bool gg_sinks_new(struct gg_engine *engine, enum gg_side side, struct gg_sinks *sinks, uint32_t room);
void gg_sinks_free(struct gg_sinks *sinks);
/* Moves the first n rows of each head up to the row behind them, or to `logical`. */
int32_t gg_close_gap(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
		     uint32_t n, uint64_t logical);
/* Positions >= logical were dropped: the places of the sinks that are left must be below it. */
void gg_sinks_trim(const struct gg_engine *engine, struct gg_cache *cache, uint64_t logical);
/*
 * How many of a head's oldest rows stand apart from their positions, and by how much:
 * 0 if no gap was closed. False if the distance is not the same for all of them.
 */
bool gg_sinks_turn(const struct gg_cache *cache, uint32_t head, uint32_t *n, int32_t *by);

/* --- rotating keys (rotate.c) ---------------------------------------------------------- */

/* Which keys are rotated, and where they go. */
enum gg_rotation_kind {
	GG_ROTATE_TO_SINKS,		/* a cache's first rows: back, to its sinks */
	GG_ROTATE_SINKS,		/* the sinks: to the cache, each to its phase */
	GG_ROTATE_REST			/* the cache's other rows, in place */
};

struct gg_rotation {
	enum gg_rotation_kind kind;
	struct gg_cache *cache;
	int32_t base;			/* of the sequence */
	uint32_t n;			/* rows */
	struct ggml_tensor *from, *to, *by;	/* row numbers, and the distance of each row */
};

/* Runs rotations on one side, all or none. The caller fills in kind, cache, base and n. */
int32_t gg_rotate(struct gg_engine *engine, enum gg_side side, struct gg_rotation *rotations, uint32_t n);

#endif
