/* SPDX-License-Identifier: Apache-2.0 */
/* The graph of one pass: what it was built for, its inputs, and running it. */
#ifndef KV_PLUGINS_GGML_GRAPH_H
#define KV_PLUGINS_GGML_GRAPH_H

#include "sequence.h"

/* New tokens of one sequence in one pass. */
struct gg_slot {
	struct kvmod_seq *seq;
	const int32_t *tokens;
	uint32_t n_tokens;
	uint32_t n_logits;		/* wanted, of the last tokens */
	uint32_t n_queries;		/* collected, of the last tokens */
	uint32_t first_stat, n_stats;	/* tokens whose queries are in the statistics */
	float *logits;			/* where these go: in the host's own memory, */
	const struct gg_memory *kept;	/* or in this one, on the side of the output */
};

/* An input of the graph: filled on the host, and copied to the GPU if layers run there. */
struct gg_input {
	struct ggml_tensor *on[GG_N_SIDES];
	size_t offset;			/* in the memory of gg_feed */
};

/* The memory of a graph's inputs: first what every pass fills anew, then masks. */
struct gg_feed {
	struct gg_memory memory[GG_N_SIDES];
	struct ggml_tensor *all;	/* the GPU's memory, as bytes */
	size_t small, bytes;		/* masks begin at `small` */
	bool fresh;			/* no input is on the GPU yet */
	ggml_backend_event_t sent;	/* the GPU has what was sent last; NULL: not known */
};

/* Several tokens: the mask of all heads that had n positions when the graph was built. */
struct gg_mask {
	uint32_t n;
	struct gg_input in;		/* [padded length][n_tokens] */
};

/*
 * One token: row r, zeros up to `base` + r and then minus infinity, holds the masks of all
 * heads whose n leaves the remainder r when divided by GG_MASK_ROWS. A head's mask begins n
 * zeros before the end of the zeros, and is as long as the graph serves: all heads grow alike.
 */
#define GG_MASK_ROWS	8u		/* so that masks begin at multiples of 16 bytes */
struct gg_decode_masks {
	struct gg_input in;		/* [length][GG_MASK_ROWS] */
	uint32_t base, length;
	uint32_t used;			/* bits: rows that a head needs */
	uint32_t shown;			/* zeros added since the graph was built */
};

struct gg_slot_inputs {
	struct gg_input cache_rows;	/* [n_layers][n_tokens * n_kv_heads]: cache rows to write */
	struct gg_input query_rows;	/* [n_queries]: where collected queries go */
	struct gg_input stat_weights;	/* of the tokens before and of these in the statistics */
	struct gg_mask *masks;
	uint32_t n_masks;
	struct gg_decode_masks decode;
};

/* A node of attention on the host. */
struct gg_attention {
	struct gg_engine *engine;
	const struct gg_cache *cache;
};

/* What a graph was built for: slots of equal shape can use it again. */
struct gg_shape {
	uint64_t version;
	uint64_t logical;		/* when it was built */
	uint64_t limit;			/* the largest logical length that it serves */
	uint32_t n_tokens, n_logits, n_queries, first_stat, n_stats;
};

struct gg_graph {
	void *arena;			/* of context: kept, so that nodes keep their addresses */
	size_t arena_bytes;
	struct ggml_context *context;
	struct ggml_cgraph *nodes;
	uint64_t topology;		/* equal numbers: the same nodes, but for lengths */
	ggml_gallocr_t memory;		/* that the nodes run in, where all are on the host */
	ggml_backend_sched_t sched;	/* the same where there is a GPU */
	uint64_t planned;		/* the topology that sched's memory is for */
	uint32_t n_slots;
	struct gg_shape *shapes;	/* [n_slots] */
	struct gg_slot_inputs *slots;	/* [n_slots] */
	struct gg_attention *attention;	/* [n_slots][n_layers] */
	struct gg_memory attention_scratch;
	struct gg_feed feed;
	struct gg_input embeddings, positions, outputs;
	struct gg_input key_positions;	/* positions, repeated for each KV head */
	struct ggml_tensor *logits;
	struct gg_memory shared_logits;	/* that the GPU writes by itself */
};

/* --- building (graph.c) ---------------------------------------------------------------------- */

/* Makes the engine's graph serve these slots: builds it anew only if the last one does not fit. */
int32_t gg_graph_get(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);
void gg_graph_free(struct gg_graph *graph);

/* --- inputs (inputs.c) ------------------------------------------------------------------------- */

/* Rows that a head attends to: its positions, and room for tokens to come. */
uint32_t gg_attended(const struct gg_engine *engine, const struct gg_slot *slot,
		     const struct gg_cache *cache, uint32_t head);
/* Declares the inputs of a graph whose context exists, and allocates their memory. */
bool gg_feed_new(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);
/* The mask for heads of slot i that have n positions, `length` long. */
struct ggml_tensor *gg_feed_mask(struct gg_graph *graph, uint32_t i, uint32_t n, uint32_t length,
				 enum gg_side side);
void gg_feed_fill(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);

/* --- attention on the host (attention.c) --------------------------------------------------- */

/* Does a layer have our own node, instead of ggml's, which needs masks? */
bool gg_attention_own(const struct gg_engine *engine, uint32_t layer);
/* Makes room for the nodes of a graph and what they work in. */
bool gg_attention_new(struct gg_engine *engine, struct gg_graph *graph, const struct gg_slot *slots,
		      uint32_t n_slots);
/* Attention of q, [head_dim, n_q_heads, n_tokens], to all heads of a slot's cache. */
struct ggml_tensor *gg_attention_node(struct gg_engine *engine, struct gg_graph *graph, uint32_t slot,
				      uint32_t layer, const struct gg_cache *cache,
				      struct ggml_tensor *q, struct ggml_tensor *const kv[2]);

/* --- statistics of queries (query_stats.c) ---------------------------------------------- */

/* Tensors that gg_stats_nodes() makes, at most. */
#define GG_STATS_TENSORS	40u
/* The shape of stat_weights. */
void gg_stats_declare(const struct gg_engine *engine, int64_t ne[2]);
void gg_stats_fill(const struct gg_slot *slot, float *weights);
/* Merges a slot's queries before RoPE, [n_stats][n_q_heads * head_dim], into those of a layer. */
void gg_stats_nodes(struct gg_graph *graph, const struct gg_slot *slot,
		    const struct gg_input *weights, uint32_t layer, struct ggml_tensor *q);

/* --- running (compute.c, step.c) ------------------------------------------------------------------ */

/* Allocates memory for the nodes of a graph that was built; false: there is not enough. */
bool gg_graph_plan(struct gg_engine *engine, struct gg_graph *graph);
/* Starts the graph; a GPU may still work on it on return. */
int32_t gg_graph_compute(struct gg_engine *engine, struct gg_graph *graph);
/* Hands out the logits; those that the host wants are there on return. */
int32_t gg_graph_logits(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);
int32_t gg_step(void *self, const struct kvmod_batch *batch);
/* Runs n tokens of a sequence; logits of the last n_logits go to logits. */
int32_t gg_run_tokens(struct gg_engine *engine, struct kvmod_seq *seq, const int32_t *tokens,
		      uint32_t n, float *logits, uint32_t n_logits);
/* Runs n tokens; logits of the last n_logits go to memory on the side of the output. */
int32_t gg_run_tokens_there(struct gg_engine *engine, struct kvmod_seq *seq, const int32_t *tokens,
			    uint32_t n, uint32_t n_logits, const struct gg_memory *logits);

#endif
