/* SPDX-License-Identifier: Apache-2.0 */
/* A sequence: its caches, its collected queries, and what a policy sees of both. */
#ifndef KV_PLUGINS_GGML_SEQUENCE_H
#define KV_PLUGINS_GGML_SEQUENCE_H

#include "cache.h"
#include "divergence.h"

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

/*
 * Attention reduced over the tokens that pay it, beside the rows of the caches that get it:
 * the extra GG_COLUMN_SUMS.
 */
struct gg_columns {
	bool on;			/* every token since the first one was collected */
	int32_t lost;			/* the error for which it is no longer on; 0: none */
	uint32_t reduce;		/* KVMOD_COLUMNS_... */
	uint32_t pending;		/* the newest rows of queries, which are not added yet */
	/* Maxima: positions below `sinks`, from begin to end, and from `run` on take part. */
	uint64_t sinks, begin, end, run;
};

/* The answer of the whole cache, which replay compares trials with. */
struct gg_whole {
	struct gg_divergence divergence;
	struct kvmod_seq *copy;		/* what ran last, whose memory the next trial takes */
	uint32_t rows;			/* 0: not computed yet */
};

/* A question of a policy and the model's answer; replay runs their last tokens again, if there are any. */
struct gg_asked {
	int32_t *tokens;
	uint32_t n;
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
	struct gg_columns columns;
	struct gg_asked asked;
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
 * say so, and with room for n more tokens. keeps NULL, or a layer's NULL: all positions.
 */
int32_t gg_seq_copy(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
		    uint64_t logical, uint64_t n, struct kvmod_seq **copy);
/* The same in the place of an earlier copy, in its memory as far as that fits. If this fails,
   the copy is only good for gg_seq_close(). */
int32_t gg_seq_copy_again(struct kvmod_seq *copy, struct kvmod_seq *seq,
			  const struct kvmod_keep *const *keeps, uint32_t flags, uint64_t logical,
			  uint64_t n);
/* Makes room for n more tokens in every cache. */
int32_t gg_seq_reserve(struct kvmod_seq *seq, uint64_t n);
/* The caches have moved or changed length: no graph built before fits. */
void gg_seq_moved(struct kvmod_seq *seq);
/* Drops positions >= logical. */
void gg_seq_forget(struct kvmod_seq *seq, uint64_t logical);
/* How many rows of a head have a position below the limit; these rows come first. */
uint32_t gg_rows_before(const struct gg_cache *cache, uint32_t head, uint64_t limit);
/* The sequence has changed: what was derived from it is void. */
void gg_seq_touch(struct kvmod_seq *seq);
/* Only the run over the whole cache, which replay() then makes again. */
void gg_whole_free(struct kvmod_seq *seq);
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
int32_t gg_seq_narrow(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
		      const struct kvmod_needs *needs);
int32_t gg_serves(void *self, const struct kvmod_needs *needs);
/*
 * Makes room for the queries of a prompt of n tokens, of which the newest `wanted` are to be
 * shown. False: not enough memory, and no queries are collected.
 */
bool gg_queries_new(struct kvmod_seq *seq, uint64_t n, uint32_t wanted, bool decode);
/* The prompt is over: gives back the memory that tokens decoded one by one do not need. */
void gg_queries_shrink(struct kvmod_seq *seq);
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
bool gg_norms_served(const struct gg_engine *engine);
/* A prompt begins. */
void gg_norms_begin(struct kvmod_seq *seq, const struct kvmod_needs *needs);
/* Computes the norms of rows that are new, if they are wanted. */
int32_t gg_norms_update(struct kvmod_seq *seq);
/* Positions >= logical were dropped. */
void gg_norms_forget(struct kvmod_seq *seq, uint64_t logical);

/* --- attention reduced over tokens (columns.c) -------------------------------------------------- */

/* Can it be computed for all layers? */
bool gg_columns_served(const struct gg_engine *engine);
/* Before a prompt: sums go on, begin if the sequence is empty, or end. needs may be NULL. */
void gg_columns_begin(struct kvmod_seq *seq, const struct kvmod_needs *needs);
/* Begins anew, with zeros. False: not enough memory, and nothing is collected. */
bool gg_columns_new(struct kvmod_seq *seq, const struct gg_columns *how);
/*
 * Adds what is pending. The cached rows must be those that the pending queries saw, with their
 * keys rotated as they were then. A failure loses the sums, and the log says so.
 */
void gg_columns_settle(struct kvmod_seq *seq);
/* Before positions >= logical are dropped: if they have been added, the sums are lost. */
void gg_columns_forget(struct kvmod_seq *seq, uint64_t logical);
void gg_columns_drop(struct kvmod_seq *seq);

/* --- what a policy sees and decides (request.c, replay.c, reread.c) ------------------------------------------ */

int32_t gg_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out);
int32_t gg_apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan);
/* The rows of a layer that `keep` (NULL: all) keeps: picks[n_kv_heads]. */
void gg_keep_picks(const struct kvmod_seq *seq, const struct kvmod_keep *keep, uint32_t layer,
		   struct gg_pick *picks);
/* How many sinks `keep` (NULL: all) keeps, if it keeps sinks and a suffix only. Else 0. */
uint32_t gg_keep_sinks(const struct kvmod_keep *keep);
int32_t gg_replay(const struct kvmod_request *request, const struct kvmod_plan *plan,
		  uint32_t rows, double *loss);
int32_t gg_reread(const struct kvmod_request *request, const struct kvmod_reread *what, float *out);
/* Its two halves: the tokens that repeat a part of the context (the caller frees them), */
int32_t gg_reread_tokens(struct kvmod_seq *seq, const struct kvmod_reread *what, uint64_t opening,
			 int32_t **tokens, uint32_t *n);
/* and what these tokens pay. */
int32_t gg_reread_run(const struct kvmod_request *request, const struct kvmod_reread *what,
		      const int32_t *tokens, uint32_t n, float *out);
int32_t gg_ask(const struct kvmod_request *request, const struct kvmod_ask *what, float *out);

#endif
