/* SPDX-License-Identifier: Apache-2.0 */
/* A sequence: its caches, its collected queries, and what a policy sees of both. */
#ifndef KV_PLUGINS_GGML_SEQUENCE_H
#define KV_PLUGINS_GGML_SEQUENCE_H

#include "cache.h"

/* Queries after RoPE of the newest tokens, [layer of that side][room][q_heads * head_dim]. */
struct gg_queries {
	struct gg_memory memory[GG_N_SIDES];
	uint32_t wanted;		/* rows; 0: no queries are collected */
	uint32_t room;			/* >= wanted: older rows make room in steps */
	uint32_t n;			/* rows in memory, of which the newest `wanted` count */
	uint64_t from;			/* collect from this position on */
	uint64_t end;			/* the position after the newest row */
	bool decode;			/* go on after the prompt */
};

enum gg_stats_state {
	GG_STATS_NONE,			/* no policy asked for them */
	GG_STATS_KEPT,
	GG_STATS_LOST			/* until a prompt begins an empty sequence */
};

/*
 * Mean and covariance of queries before RoPE (query_stats.c), of all prompts since the
 * sequence was empty. [layer of that side]: [q_heads * head_dim], then
 * [q_heads][head_dim][head_dim].
 */
struct gg_query_stats {
	enum gg_stats_state state;
	struct gg_memory memory[GG_N_SIDES];
	uint32_t skip;			/* oldest tokens, which are left out */
	uint64_t n;			/* queries */
	uint64_t end;			/* the position after the newest of them */
	uint64_t until;			/* positions from here on are decoded, and left out */
};

/* Norms of Wo v (wo_norms.c), which are extras of the caches. */
struct gg_wo_norms {
	bool wanted;
	uint64_t known;			/* rows of positions below this have their norms */
};

/* The answer of the whole cache, which replay compares trials with. */
struct gg_whole {
	float *log_probs;		/* [rows][n_vocab] */
	uint32_t rows;			/* 0: not computed yet */
};

struct kvmod_seq {
	struct gg_engine *engine;
	uint64_t id;
	uint64_t version;		/* changes whenever a cache moves or loses rows */
	uint64_t logical;
	int32_t base;			/* a new token's phase is its position less this */
	struct gg_cache *caches;	/* [n_layers] */
	int32_t *tokens;		/* [logical]: replay runs the last ones again */
	size_t tokens_room;
	struct gg_queries queries;
	struct gg_query_stats stats;
	struct gg_wo_norms norms;
	struct gg_whole whole;
	struct kvmod_segment *segments;	/* [n_layers], as request() hands them out */
	struct kvmod_head *heads;	/* [n_layers * n_kv_heads] */
	const struct kvmod_segment **segment_list;	/* of these */
	const struct kvmod_head **head_list;
};

/* --- the sequence (seq.c) --------------------------------------------------------------- */

int32_t gg_seq_open(void *self, struct kvmod_seq **seq);
void gg_seq_close(void *self, struct kvmod_seq *seq);
int32_t gg_seq_fork(void *self, struct kvmod_seq *seq, struct kvmod_seq **copy);
int32_t gg_seq_truncate(void *self, struct kvmod_seq *seq, uint64_t logical);
uint64_t gg_seq_length(void *self, struct kvmod_seq *seq);
void gg_seq_bytes(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out);
/*
 * Copies the positions before `logical` that keeps[layer] keeps, with gaps closed if flags
 * say so. keeps NULL, or a layer's NULL: all positions.
 */
int32_t gg_seq_copy(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
		    uint64_t logical, struct kvmod_seq **copy);
/* Makes room for n more tokens in every cache. */
int32_t gg_seq_reserve(struct kvmod_seq *seq, uint64_t n);
/* The caches have moved or changed length: no graph built before fits. */
void gg_seq_moved(struct kvmod_seq *seq);
/* Drops positions >= logical. */
void gg_seq_forget(struct kvmod_seq *seq, uint64_t logical);
/* The sequence has changed: what was derived from it is void. */
void gg_seq_touch(struct kvmod_seq *seq);
/*
 * After gg_cache_copy(): the copy of a layer of seq gets the extras of the same picks. If that
 * fails, the sequence loses all of its extras, the log says so, and the answer is false.
 */
bool gg_seq_move_extras(struct kvmod_seq *seq, uint32_t layer, struct gg_cache *to,
			const struct gg_cache *from, const struct gg_pick *picks);

/* --- places and phases (phases.c) ---------------------------------------------------------- */

/* How many more tokens the context has room for. */
uint64_t gg_seq_room(void *self, struct kvmod_seq *seq);
/* How many of the last tokens replay can run again with what is kept of those before. */
uint64_t gg_replay_room(const struct kvmod_seq *seq);
/* Tokens that count against the context: from the oldest place to the end. */
uint64_t gg_seq_extent(const struct kvmod_seq *seq);
/* Rotates keys to their phases, before n tokens are run or keys are shown. */
int32_t gg_seq_settle(struct kvmod_seq *seq, uint64_t n);

/* --- collected queries (queries.c) ------------------------------------------------------------ */

int32_t gg_prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			const struct kvmod_needs *needs);
int32_t gg_serves(void *self, const struct kvmod_needs *needs);
/* Of the next n tokens: how many at their end to collect. */
uint32_t gg_queries_due(const struct kvmod_seq *seq, uint32_t n);
/* Makes room for the queries of n tokens, behind those collected before. */
int32_t gg_queries_reserve(struct kvmod_seq *seq, uint32_t n);
/* The queries of the n newest tokens have been written. */
void gg_queries_push(struct kvmod_seq *seq, uint32_t n);
/* The address of row i of a layer, on the layer's side. */
float *gg_query_row(const struct kvmod_seq *seq, uint32_t layer, uint32_t i);
/* `to` must not have any yet. */
int32_t gg_queries_copy(struct kvmod_seq *to, const struct kvmod_seq *from);
/* Drops the queries of positions >= logical. */
void gg_queries_forget(struct gg_queries *queries, uint64_t logical);
void gg_queries_free(struct gg_queries *queries);

/* --- statistics of queries (query_stats.c; graph.h has the rest) ----------------------- */

/* A prompt of n_tokens tokens begins; needs NULL: nothing is collected. */
void gg_stats_begin(struct kvmod_seq *seq, uint64_t n_tokens, const struct kvmod_needs *needs);
/* Of the next n tokens: how many belong to the statistics, from token *first on. */
uint32_t gg_stats_due(const struct kvmod_seq *seq, uint32_t n, uint32_t *first);
/* The next tokens have been run: n of them, from token `first` on, are in the statistics. */
void gg_stats_push(struct kvmod_seq *seq, uint32_t first, uint32_t n);
/* A pass has failed: nobody knows which layers have its queries. */
void gg_stats_lose(struct gg_query_stats *stats);
/* Positions >= logical were dropped. */
void gg_stats_forget(struct gg_query_stats *stats, uint64_t logical);
/* `to` must not have any yet. */
int32_t gg_stats_copy(struct kvmod_seq *to, const struct kvmod_seq *from);
void gg_stats_describe(const struct kvmod_seq *seq, struct kvmod_segment *segment);
void gg_stats_free(struct gg_query_stats *stats);

/* --- norms of Wo v (wo_norms.c) ----------------------------------------------------------- */

/* Can norms be computed where the layers are? */
bool gg_has_norms(const struct gg_engine *engine);
/* A prompt begins. */
void gg_norms_begin(struct kvmod_seq *seq, const struct kvmod_needs *needs);
/* Computes the norms of rows that are new, if they are wanted. */
int32_t gg_norms_update(struct kvmod_seq *seq);
/* Positions >= logical were dropped. */
void gg_norms_forget(struct kvmod_seq *seq, uint64_t logical);

/* --- what a policy sees and decides (request.c, replay.c) ------------------------------------------ */

/* The element type of K and V in a request: KVMOD_F16 ... */
uint32_t gg_view_type(const struct gg_engine *engine);
int32_t gg_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out);
int32_t gg_apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan);
/* The rows of a layer that `keep` (NULL: all) keeps: picks[n_kv_heads]. */
void gg_keep_picks(const struct kvmod_seq *seq, const struct kvmod_keep *keep, uint32_t layer,
		   struct gg_pick *picks);
/* How many sinks `keep` (NULL: all) keeps, if it keeps sinks and a suffix only. Else 0. */
uint32_t gg_keep_sinks(const struct kvmod_keep *keep);
int32_t gg_replay(const struct kvmod_request *request, const struct kvmod_plan *plan,
		  uint32_t rows, double *loss);

#endif
