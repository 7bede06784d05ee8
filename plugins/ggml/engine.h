/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine "ggml": GGUF models through ggml's public API, with a cache that is
 * ragged by layer and KV head. libllama gives tokenizer and chat template only.
 */
#ifndef KVMOD_GGML_ENGINE_H
#define KVMOD_GGML_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>

#include <ggml.h>
#include <ggml-backend.h>
#include <llama.h>

#include <kvmod/device.h>
#include <kvmod/engine.h>

#include "pace.h"

#include "file.h"

/* Flash attention wants the length of K in whole blocks of this many rows. */
#define GG_PAD		256u

struct gg_engine;

/* Says why a call fails; returns code. */
#define gg_fail(engine, code, ...) \
	((engine)->base.host->fail((engine)->base.host->ctx, code, __VA_ARGS__))
#define gg_log(engine, level, ...) \
	((engine)->base.host->log((engine)->base.host->ctx, level, __VA_ARGS__))

static inline uint32_t gg_padded(uint64_t n)
{
	return (uint32_t)((n + GG_PAD - 1) / GG_PAD * GG_PAD);
}

/* --- what ggml runs on (backend.c) --------------------------------------------- */

struct gg_backend {
	ggml_backend_dev_t device;
	ggml_backend_t handle;
	ggml_threadpool_t threads;
	int n_threads;
	int n_now;			/* of them in use */
	struct gg_pace pace;
	ggml_backend_set_n_threads_t set_n_threads;	/* NULL: it cannot be said */
	atomic_bool cancelled;
	bool held;			/* what runs now must not end half-way */
};

int32_t gg_backend_open(struct gg_engine *engine);
/* From the next pass on. */
void gg_backend_use_threads(struct gg_backend *backend, int n);
void gg_backend_close(struct gg_engine *engine);
/* What a graph's run ended with; KVMOD_ECANCELED if cancel() came. */
int32_t gg_backend_status(struct gg_engine *engine, enum ggml_status status);
/* While it is set, what ggml and libllama log in this thread goes to engine's host. */
void gg_log_begin(struct gg_engine *engine);
/* Ends that; returns the first error line that came, "" if none did. */
const char *gg_log_end(void);

/* --- a GPU (gpu.c) --------------------------------------------------------------- */

/* Where a layer is: its weights, its cache, the queries collected there. */
enum gg_side { GG_HOST, GG_GPU, GG_N_SIDES };

/* A GPU that ggml computes on; kvmod's device moves rows of its memory. */
struct gg_gpu {
	ggml_backend_dev_t device;
	ggml_backend_t handle;		/* NULL: everything is on the host */
	const struct kvmod_device_ops *ops;
	void *self;
	uint32_t n_layers;		/* that many at the end of the model are there */
	bool output;			/* the output matrix too */
};

/*
 * How many decoded tokens caches and graphs have room for at least. A GPU gets
 * its work all at once, as it was recorded: it pays to record seldom.
 */
static inline uint32_t gg_ahead(const struct gg_gpu *gpu)
{
	return gpu->handle ? GG_PAD : 1;
}

/*
 * The GPU that gpu_layers asks for. *device stays NULL where none was asked for,
 * or where "as many as can be" is none; a message, and a code, where one was
 * asked for by a number and there is none.
 */
int32_t gg_gpu_find(struct gg_engine *engine);
/* After that, and the header of the model: starts it for so many layers. */
int32_t gg_gpu_open(struct gg_engine *engine);
void gg_gpu_close(struct gg_engine *engine);
enum gg_side gg_side_of(const struct gg_engine *engine, uint32_t layer);
enum gg_side gg_output_side(const struct gg_engine *engine);
/* Until all that ggml has begun there is done; nothing to do where there is none. */
void gg_gpu_wait(const struct gg_engine *engine);
/* Moves rows of the GPU's memory, and waits for that. */
int32_t gg_gpu_gather(struct gg_engine *engine, const struct kvmod_gather *gathers, uint32_t n);

/* --- memory (memory.c) ----------------------------------------------------------- */

/* Memory of its own, so that giving it back gives it back to the system. */
struct gg_memory {
	void *address;			/* on its side */
	size_t bytes;
	ggml_backend_buffer_t buffer;
	bool mapped;
};

/* All zeros. *memory is overwritten; false: there is not so much. */
bool gg_memory_new(struct gg_engine *engine, struct gg_memory *memory, enum gg_side side, size_t bytes);
/* On the host, where the GPU can fetch it by itself. */
bool gg_memory_new_shared(struct gg_engine *engine, struct gg_memory *memory, size_t bytes);
void gg_memory_free(struct gg_memory *memory);

/* --- families of models (arch.c) ------------------------------------------------ */

/* What stands in each layer. */
enum gg_weight {
	GG_ATTN_NORM, GG_Q, GG_K, GG_V, GG_Q_BIAS, GG_K_BIAS, GG_V_BIAS,
	GG_Q_NORM, GG_K_NORM, GG_ATTN_OUT, GG_ATTN_OUT_BIAS,
	GG_FFN_NORM, GG_FFN_GATE, GG_FFN_UP, GG_FFN_DOWN,
	GG_FFN_GATE_BIAS, GG_FFN_UP_BIAS, GG_FFN_DOWN_BIAS,
	GG_N_WEIGHTS
};

/* Sizes that shapes of weights are made of. */
enum gg_dim {
	GG_ONE, GG_WIDTH, GG_Q_ROWS, GG_KV_ROWS, GG_HEAD, GG_FFN, GG_VOCAB, GG_HALF_ROT,
	GG_N_DIMS
};

struct gg_weight_info {
	const char *name;		/* in the file: "blk.N.<name>" */
	enum gg_dim columns, rows;	/* rows GG_ONE: a vector */
};

struct gg_family {
	const char *architecture;	/* "general.architecture" in the file */
	int rope_type;			/* which dimensions turn together */
	uint32_t required, optional;	/* bits of enum gg_weight */
	bool rope_factors;		/* may have rope_freqs.weight */
};

extern const struct gg_weight_info gg_weight_infos[GG_N_WEIGHTS];
/* NULL if it is not known. */
const struct gg_family *gg_family_find(const char *architecture);
/* "llama, qwen2, ...": what is known, for messages. */
const char *gg_family_names(char *text, size_t size);

/* --- a model (gguf.c, model.c, weights.c) ----------------------------------------------------- */

struct gg_rope {
	int type, n_dims, n_context;
	float base, scale, ext_factor, attn_factor, beta_fast, beta_slow;
};

struct gg_layer {
	struct ggml_tensor *w[GG_N_WEIGHTS];	/* NULL: not in this model */
	/* Over the same memory: Q, K and V, and their biases, as one. NULL: they lie apart. */
	struct ggml_tensor *qkv, *qkv_bias;
};

/* Bytes on their way from the file to where a weight is. */
struct gg_staging {
	char *bytes;
	size_t room;
};

struct gg_model {
	const struct gg_family *family;
	uint32_t n_layers, n_q_heads, n_kv_heads, head_dim;
	int64_t dims[GG_N_DIMS];
	uint64_t context;		/* trained, or the sliding window if that is less */
	const char *context_is;		/* what that number is, for messages: goes before it */
	float eps, scale;
	struct gg_rope rope;
	char *name;

	struct ggml_tensor *embed, *out_norm, *out;
	struct ggml_tensor *rope_factors[GG_N_SIDES];
	struct gg_layer *layers;

	struct gg_file file;
	struct ggml_context *tensors;	/* as the file has them */
	struct ggml_context *extra;	/* a second one of what is used in two ways or places */
	char *map;			/* the file; NULL: its weights were read */
	ggml_backend_buffer_t map_buffer;
	ggml_backend_buffer_t *buffers;	/* weights that are not where the map has them */
	size_t n_buffers;
	struct gg_staging staging;
	bool dry;			/* weights are checked, and not taken */
};

/* Reads sizes and constants from the header of the file. */
int32_t gg_model_read_header(struct gg_engine *engine);
/* Refuses a key that holds something else than `expected`. */
int32_t gg_refuse_kind(struct gg_engine *engine, const struct gg_pair *pair, const char *expected);

/* Opens the file and reads its header. */
int32_t gg_model_read(struct gg_engine *engine);
/* Checks that the weights are those of the family. */
int32_t gg_model_check(struct gg_engine *engine);
/* Takes them, once it is known where layers run. */
int32_t gg_model_load(struct gg_engine *engine);
void gg_model_close(struct gg_engine *engine);

/* What a weight is used for. */
enum gg_use { GG_LOOKUP, GG_MATRIX, GG_VECTOR };

/* Is it of a type that can be used so? */
int32_t gg_weight_check(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use);
/*
 * Gives a weight its place, unless it has one, and fills it. twin: another one of the
 * same weight, which has its place on the host; or NULL.
 */
int32_t gg_weight_place(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use,
			enum gg_side side, const struct gg_tensor_info *info,
			const struct ggml_tensor *twin);
/* Memory of that type for a weight, which the model then owns. */
int32_t gg_weight_buffer(struct gg_engine *engine, const struct ggml_tensor *weight,
			 ggml_backend_buffer_type_t type, ggml_backend_buffer_t *out);
int32_t gg_weight_put(struct gg_engine *engine, struct ggml_tensor *weight,
		      ggml_backend_buffer_t buffer, size_t offset);
/* Maps the file: what is used as it lies there is not copied then. */
int32_t gg_weights_map(struct gg_engine *engine);
void gg_weights_free(struct gg_model *model);

/* --- the vocabulary in the header (vocab.c) ------------------------------------------- */

/* Refuses what libllama would end the process for, or read otherwise than it is meant. */
int32_t gg_vocab_check(struct gg_engine *engine);
/*
 * Writes the keys that were checked, and no others, to a file in memory for libllama.
 * *fd is the caller's.
 */
int32_t gg_vocab_write(struct gg_engine *engine, int *fd);

/* --- text (text.c, special.c, deep.c, chat.c, chat.h) ---------------------------------- */

/* A token with a meaning of its own, and how it is written. */
struct gg_special {
	const char *text;
	size_t length;
	int32_t token;
};

struct gg_text {
	struct llama_model *model;	/* vocabulary only */
	const struct llama_vocab *vocab;
	int32_t *end_tokens;
	uint32_t n_end_tokens;
	struct gg_special *specials;
	size_t n_specials;
	int32_t bos, eos;		/* that the file names, not that libllama guesses; -1: none */
	bool add_bos;			/* a text begins with the start token */
	size_t longest;			/* bytes of the longest token; 0: not known */
	const struct gg_template *template;	/* how conversations are rendered; NULL: by a guess */
	char *system;			/* the template's own; NULL: none, or in the row */
	bool guessed;			/* that was said */
};

int32_t gg_text_open(struct gg_engine *engine);
void gg_text_close(struct gg_engine *engine);
/*
 * Around libllama's reading of the vocabulary from gguf. Before: makes what the
 * template writes control tokens. After: finds out which start and end are the
 * file's own, and warns of what it lacks.
 */
int32_t gg_special_prepare(struct gg_engine *engine, struct gguf_context *gguf);
void gg_special_settle(struct gg_engine *engine, const struct gguf_context *gguf);
/* The longest special token that is written here, in n bytes; NULL: none. */
const struct gg_special *gg_special_at(const struct gg_text *text, const char *at, size_t n);
/* llama_tokenize() for words of any length. *n is what it returns. */
int32_t gg_tokenize_deep(struct gg_engine *engine, const char *text, size_t length, bool special,
			 int32_t *tokens, size_t room, int32_t *n);
/* Is it UTF-8, and not too long for the context whatever its tokens are? */
int32_t gg_check_text(struct gg_engine *engine, const char *text, size_t length);
/* Makes it UTF-8: a '?' for each byte that is not. */
void gg_mend_text(char *text);
int32_t gg_tokenize(void *self, const char *text, size_t length, uint32_t flags,
		    int32_t *tokens, size_t *n_tokens);
int32_t gg_detokenize(void *self, int32_t token, char *text, size_t *length);
/* Which template it is; the vocabulary has been read. */
int32_t gg_chat_open(struct gg_engine *engine);
int32_t gg_chat(void *self, const struct kvmod_message *messages, size_t n_messages,
		uint32_t first, int32_t *tokens, size_t *n_tokens);

/* --- caches (cache.c) ---------------------------------------------------------------- */

/*
 * The oldest rows of each head, turned anew whenever the gap behind them closes: their
 * keys are kept as they are before RoPE, so that no error grows. phases.c says what a
 * row's place is.
 */
struct gg_lead {
	uint32_t room;			/* rows a head; 0: there is none */
	uint32_t *n;			/* [n_kv_heads]: rows in use */
	int32_t *places;		/* [n_kv_heads][room] */
	struct gg_memory keys;		/* F32 [n_kv_heads][room][head_dim] */
	bool moved;			/* since the cache's own keys were turned */
};

/*
 * K and V of one layer: head_dim-wide rows, KV heads end to end. Head g has the
 * rows first[g] .. first[g + 1] - 1, of which the first n[g] are in use.
 */
struct gg_cache {
	struct gg_memory k, v;
	uint32_t *n;			/* [n_kv_heads] */
	uint32_t *first;		/* [n_kv_heads + 1], multiples of GG_PAD */
	int32_t *positions;		/* of each row; NULL: 0, 1, ... in every head */
	int32_t base;			/* the sequence's when its keys were turned */
	struct gg_lead lead;
};

/* The first n rows of those that spans or indices name; both NULL: of all. */
struct gg_pick {
	uint32_t n;
	uint32_t n_spans;
	const struct kvmod_span *spans;
	const uint32_t *indices;
};

/* Leaves only rows before `limit`. */
void gg_pick_before(struct gg_pick *pick, uint32_t limit);
size_t gg_row_bytes(const struct gg_engine *engine);
/*
 * Makes *to, which is overwritten, from the picked rows of `from` (one pick per
 * head; from NULL: none), with room for at least `room` more rows a head. Its
 * sequence is `logical` tokens long.
 */
int32_t gg_cache_copy(struct gg_engine *engine, enum gg_side side, struct gg_cache *to,
		      const struct gg_cache *from, const struct gg_pick *picks,
		      uint64_t logical, uint32_t room);
void gg_cache_free(struct gg_cache *cache);
/* Are all heads of one length, so that one attention node serves them? */
bool gg_cache_even(const struct gg_engine *engine, const struct gg_cache *cache);

/* --- phases (phases.c, turn.c) ---------------------------------------------------------- */

/* A lead with room for so many rows a head, all zeros; *lead is overwritten. */
bool gg_lead_new(struct gg_engine *engine, enum gg_side side, struct gg_lead *lead, uint32_t room);
void gg_lead_free(struct gg_lead *lead);
/* Brings the first n rows of each head up to what comes next: the row behind them, or `logical`. */
int32_t gg_close_gap(struct gg_engine *engine, enum gg_side side, struct gg_cache *cache,
		     uint32_t n, uint64_t logical);
/* Positions >= logical are gone: what is left of a lead must come before it. */
void gg_lead_trim(const struct gg_engine *engine, struct gg_cache *cache, uint64_t logical);
/*
 * How many of a head's oldest rows stand apart from their positions, and by how much:
 * 0 where no gap was closed. False if it is not one number for all of them.
 */
bool gg_lead_turn(const struct gg_cache *cache, uint32_t head, uint32_t *n, int32_t *by);
/* Tokens that the context has room for. */
uint64_t gg_seq_room(void *self, struct kvmod_seq *seq);
/*
 * Of the last tokens, how many can be run again with what is left of those before them.
 * Where they reach back past what a cut evicted, only leads are left there.
 */
uint64_t gg_replay_room(const struct kvmod_seq *seq);
/* Tokens that count against the context: from the oldest place to the end. */
uint64_t gg_seq_extent(const struct kvmod_seq *seq);
/* Before n tokens are run, or keys looked at: all keys are turned as they should be. */
int32_t gg_seq_settle(struct kvmod_seq *seq, uint64_t n);

/* What is turned, and where it goes. */
enum gg_turn_kind {
	GG_TURN_TO_LEAD,		/* first rows of a cache: back, to its lead */
	GG_TURN_LEAD,			/* a lead's rows: to the cache, each to its phase */
	GG_TURN_REST			/* the cache's other rows, where they are */
};
struct gg_turn {
	enum gg_turn_kind kind;
	struct gg_cache *cache;
	int32_t base;			/* of the sequence */
	uint32_t n;			/* rows */
	struct ggml_tensor *from, *to, *by;	/* row numbers, and how far each is turned */
};

/* Runs them on one side, all or none; for kinds and caches that are filled in. */
int32_t gg_turn(struct gg_engine *engine, enum gg_side side, struct gg_turn *turns, uint32_t n);

/* --- sequences (seq.c) ------------------------------------------------------------------ */

/* Queries after RoPE of the newest tokens, [layer of that side][room][q_heads * head_dim]. */
struct gg_rows {
	struct gg_memory memory[GG_N_SIDES];
	uint32_t wanted;		/* rows; 0: none are collected */
	uint32_t room;			/* >= wanted: what is older moves on in steps */
	uint32_t n;			/* there now; the newest `wanted` of them count */
	uint64_t from;			/* collect from this position on */
	uint64_t end;			/* the position after the newest row */
	bool decode;			/* go on after the prompt */
};

/* What replay keeps of its run over the whole cache, for the trials that follow. */
struct gg_whole {
	float *log_probs;		/* [rows][n_vocab] */
	uint32_t rows;			/* 0: not made yet */
};

struct kvmod_seq {
	struct gg_engine *engine;
	uint64_t id;
	uint64_t version;		/* another one whenever a cache moves or is cut */
	uint64_t logical;
	int32_t base;			/* a new token's phase is its position less this */
	struct gg_cache *caches;	/* [n_layers] */
	int32_t *tokens;		/* [logical]: replay runs the last ones again */
	size_t tokens_room;
	struct gg_rows rows;
	struct gg_whole whole;
	struct kvmod_segment *segments;	/* [n_layers], as request() hands them out */
	struct kvmod_head *heads;	/* [n_layers * n_kv_heads] */
	const struct kvmod_segment **segment_list;	/* of these */
	const struct kvmod_head **head_list;
};

int32_t gg_seq_open(void *self, struct kvmod_seq **seq);
void gg_seq_close(void *self, struct kvmod_seq *seq);
int32_t gg_seq_fork(void *self, struct kvmod_seq *seq, struct kvmod_seq **copy);
int32_t gg_seq_truncate(void *self, struct kvmod_seq *seq, uint64_t logical);
uint64_t gg_seq_length(void *self, struct kvmod_seq *seq);
void gg_seq_bytes(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out);
/*
 * A sequence with the positions before `logical` that keeps[layer] leaves, gaps closed
 * if flags say so; keeps NULL, or a layer's NULL: all of them.
 */
int32_t gg_seq_copy(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
		    uint64_t logical, struct kvmod_seq **copy);
/* Room for n more tokens, in every cache. */
int32_t gg_seq_reserve(struct kvmod_seq *seq, uint64_t n);
/* Caches of the sequence have moved or are of other lengths: no old graph fits. */
void gg_seq_moved(struct kvmod_seq *seq);
/* Forgets positions >= logical. */
void gg_seq_forget(struct kvmod_seq *seq, uint64_t logical);
/* The sequence has changed: what was derived from it is void. */
void gg_seq_touch(struct kvmod_seq *seq);

/* --- collected queries (rows.c) -------------------------------------------------------------- */

int32_t gg_prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			const struct kvmod_needs *needs);
int32_t gg_serves(void *self, const struct kvmod_needs *needs);
/* Of n tokens that come next: how many at their end to collect. */
uint32_t gg_rows_due(const struct kvmod_seq *seq, uint32_t n);
/* Makes room for the rows of n tokens, behind those that are there. */
int32_t gg_rows_reserve(struct kvmod_seq *seq, uint32_t n);
/* The rows of the n newest tokens have been written there. */
void gg_rows_push(struct kvmod_seq *seq, uint32_t n);
/* Where row i of a layer is, on the layer's side. */
float *gg_row_at(const struct kvmod_seq *seq, uint32_t layer, uint32_t i);
/* to has none yet. */
int32_t gg_rows_copy(struct kvmod_seq *to, const struct kvmod_seq *from);
/* Forgets rows of positions >= logical. */
void gg_rows_forget(struct gg_rows *rows, uint64_t logical);
void gg_rows_free(struct gg_rows *rows);

/* --- graphs (graph.c, inputs.c, compute.c, step.c) ---------------------------------------------- */

/* New tokens of one sequence in one pass. */
struct gg_slot {
	struct kvmod_seq *seq;
	const int32_t *tokens;
	uint32_t n_tokens;
	uint32_t n_logits;		/* of the last ones */
	uint32_t n_rows;		/* of the last ones: queries collected */
	float *logits;
};

/* What a graph is fed with: filled on the host, there on each side that has layers. */
struct gg_input {
	struct ggml_tensor *on[GG_N_SIDES];
	size_t offset;			/* in gg_feed's memory */
};

/* The memory of a graph's inputs: what every pass needs anew, then masks. */
struct gg_feed {
	struct gg_memory memory[GG_N_SIDES];
	struct ggml_tensor *all;	/* the GPU's, as bytes */
	size_t small, bytes;		/* masks begin at `small` */
	bool fresh;			/* nothing of it is on the GPU yet */
	ggml_backend_event_t sent;	/* what was sent last is there; NULL: not known */
};

/* Several tokens: the mask for all heads that had n positions when the graph was built. */
struct gg_mask {
	uint32_t n;
	struct gg_input in;		/* [padded length][n_tokens] */
};

/*
 * One token: row r, 0 up to `base` + r and then minus infinity, holds the masks of
 * all heads whose n leaves r divided by GG_MASK_ROWS. Each begins where as much
 * lies before the end of the zeros as it has positions, and goes on for as long
 * as the graph serves: all heads grow alike.
 */
#define GG_MASK_ROWS	8u		/* so that masks begin at multiples of 16 bytes */
struct gg_ladder {
	struct gg_input in;		/* [length][GG_MASK_ROWS] */
	uint32_t base, length;
	uint32_t used;			/* bits: rows that a head needs */
	uint32_t shown;			/* zeros that have come behind the first ones */
};

struct gg_slot_inputs {
	struct gg_input rows;		/* [n_layers][n_tokens * n_kv_heads]: cache rows to write */
	struct gg_input query_rows;	/* [n_rows]: where collected queries go */
	struct gg_mask *masks;
	uint32_t n_masks;
	struct gg_ladder ladder;
};

/* What a graph was built for: while it is the same, the graph serves again. */
struct gg_shape {
	uint64_t version;
	uint64_t logical;		/* when it was built */
	uint64_t limit;			/* the logical length that it serves at most */
	uint32_t n_tokens, n_logits, n_rows;
};

struct gg_graph {
	void *arena;			/* of context: kept, so that a node is where it was */
	size_t arena_bytes;
	struct ggml_context *context;
	struct ggml_cgraph *nodes;
	uint64_t topology;		/* equal numbers: the same nodes, but for lengths */
	ggml_gallocr_t memory;		/* what it runs in, all on the host */
	ggml_backend_sched_t sched;	/* the same where there is a GPU */
	uint64_t planned;		/* the topology that sched's memory is for */
	uint32_t n_slots;
	struct gg_shape *shapes;	/* [n_slots] */
	struct gg_slot_inputs *slots;	/* [n_slots] */
	struct gg_feed feed;
	struct gg_input embeddings, positions, outputs;
	struct gg_input key_positions;	/* the same for each KV head of a token */
	struct ggml_tensor *logits;
	struct gg_memory shared_logits;	/* where the GPU puts them by itself */
};

/* A graph for these slots, built anew only if the last one does not fit. */
int32_t gg_graph_get(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);
void gg_graph_free(struct gg_graph *graph);

/* Rows that a head attends to: those of n positions, and of tokens to come. */
uint32_t gg_attended(const struct gg_engine *engine, const struct gg_slot *slot,
		     const struct gg_cache *cache, uint32_t head);
/* The inputs of a graph whose context is there, and memory for them. */
bool gg_feed_new(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);
/* The mask for heads of slot i that have n positions, `length` long. */
struct ggml_tensor *gg_feed_mask(struct gg_graph *graph, uint32_t i, uint32_t n, uint32_t length,
				 enum gg_side side);
void gg_feed_fill(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);

/* Memory for the nodes of a graph that was built; false: there is not enough. */
bool gg_graph_plan(struct gg_engine *engine, struct gg_graph *graph);
/* Starts it: a GPU may be at it still when this returns. */
int32_t gg_graph_compute(struct gg_engine *engine, struct gg_graph *graph);
/* Waits for the logits, and hands them out. */
int32_t gg_graph_logits(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots);
int32_t gg_step(void *self, const struct kvmod_batch *batch);
/* Runs n tokens of a sequence; logits of the last n_logits go to logits. */
int32_t gg_run_tokens(struct gg_engine *engine, struct kvmod_seq *seq, const int32_t *tokens,
		      uint32_t n, float *logits, uint32_t n_logits);

/* --- policies' side (request.c, replay.c) ------------------------------------------------------ */

/* K and V as views have them: KVMOD_F16 ... */
uint32_t gg_view_type(const struct gg_engine *engine);
int32_t gg_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out);
int32_t gg_apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan);
/* The rows of a layer that `keep` (NULL: all) leaves: picks[n_kv_heads]. */
void gg_keep_picks(const struct kvmod_seq *seq, const struct kvmod_keep *keep, uint32_t layer,
		   struct gg_pick *picks);
/* If `keep` (NULL: all) leaves sinks and a suffix: how many sinks. Else 0. */
uint32_t gg_keep_sinks(const struct kvmod_keep *keep);
int32_t gg_replay(const struct kvmod_request *request, const struct kvmod_plan *plan,
		  uint32_t rows, double *loss);

/* --- the instance (engine.c) --------------------------------------------------------------------- */

struct gg_engine {
	struct kvmod_instance base;

	/* Parameters. */
	const char *model;
	int64_t context, threads, batch, gpu_layers;
	int32_t context_override, cache_type, chat_template, mmap;

	bool check_only;		/* weights stay where they are: nothing will run */
	enum ggml_type type;		/* of K and V */
	uint64_t limit;			/* how far apart the oldest and the newest token may be */
	bool said_unturned;		/* that there was no memory to turn keys back */
	bool said_past;			/* that this went past the model's context */
	uint64_t last_id, last_version;
	struct kvmod_model public_model;
	struct gg_backend backend;
	struct gg_gpu gpu;
	struct gg_model net;
	struct gg_text text;
	struct gg_graph graph;
};

extern const struct kvmod_engine_ops gg_engine_ops;

/* --- libllama as an engine of its own (llama.c) -------------------------------------------------- */

extern const struct kvmod_engine_ops gg_llama_ops;

#endif
