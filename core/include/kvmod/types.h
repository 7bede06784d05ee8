/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/types.h - what core, modules and hosts exchange: views of a cache,
 * segments, requests and plans.
 *
 * ABI rules, for every header in this folder:
 *  - Every struct starts with its size as its writer compiled it. A reader uses
 *    a field only if KVMOD_HAS() says that the writer knew it; what is absent
 *    reads as zero. Many structs of one kind are an array of pointers; where a
 *    host makes thousands of them for one call (gathers, batch items) they lie one
 *    after the other, and a stride says how far apart.
 *  - Some structs stand in others by value, or in plain arrays: kvmod_view,
 *    kvmod_span, kvmod_amount, kvmod_list, kvmod_param, kvmod_message, kvmod_bytes,
 *    kvmod_instance and kvmod_scorer. They are frozen: they never grow within this ABI major,
 *    and so need no size to grow by.
 *  - Fields are appended, never moved, and never change meaning.
 *  - Fixed-width integers, no enum members, no bit-fields, no C++ types, no
 *    errno, no FILE *. Pointers travel with a length.
 *  - Calls return 0 or one of the KVMOD_E... codes below.
 */
#ifndef KVMOD_TYPES_H
#define KVMOD_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVMOD_ABI_MAJOR 2	/* differs: the module is refused */
#define KVMOD_ABI_MINOR 0	/* the module needs a newer one: refused */

/* Did the writer of *(p) know the field? (p)->size must be its first member. */
#define KVMOD_HAS(p, field) \
	((p)->size >= (size_t)((const char *)(&(p)->field + 1) - (const char *)(p)))

/* Element i of an array of structs whose writer used the given stride. */
#define KVMOD_AT(type, base, stride, i) \
	((type *)((char *)(uintptr_t)(base) + (size_t)(i) * (stride)))

/* What calls return. Fixed for ever; errno has no part in it. */
#define KVMOD_OK		0
#define KVMOD_EINVAL		(-1)	/* an argument or parameter is wrong */
#define KVMOD_ENOMEM		(-2)	/* memory of host or device is used up */
#define KVMOD_ENOENT		(-3)	/* no such file, module, policy, name */
#define KVMOD_EEXIST		(-4)	/* that name is taken */
#define KVMOD_EPERM		(-5)	/* refused for its owner, mode or blacklist */
#define KVMOD_EFORMAT		(-6)	/* not what it should be: ELF, GGUF, INI */
#define KVMOD_EABI		(-7)	/* built for another kvmod */
#define KVMOD_ENOTSUP		(-8)	/* understood, but not offered here */
#define KVMOD_EIO		(-9)	/* reading or writing failed */
#define KVMOD_ERANGE		(-10)	/* does not fit: context, range */
#define KVMOD_ENUMERIC		(-11)	/* a number that is not finite */
#define KVMOD_EPLAN		(-12)	/* a plan that may not be applied */
#define KVMOD_EBUSY		(-13)	/* still in use */
#define KVMOD_ECANCELED		(-14)	/* stopped on request */
#define KVMOD_EDEVICE		(-15)	/* the accelerator failed */
#define KVMOD_ETIMEOUT		(-16)	/* took longer than it may */
#define KVMOD_ECRASH		(-17)	/* died of a signal */

/* Element types of a view. */
#define KVMOD_F32	1u
#define KVMOD_F16	2u	/* IEEE binary16 */
#define KVMOD_BF16	3u
#define KVMOD_Q8_0	4u	/* blocks of 32: an f16 scale, then 32 int8 */
/*
 * Blocks of 32: an f16 scale, then 16 bytes. The low four bits of byte i are element i,
 * the high four element i + 16; a value is scale * (bits - 8).
 */
#define KVMOD_Q4_0	5u
#define KVMOD_TYPE_BIT(type)	(1u << (type))

/* Elements of a block: a row is a multiple of that. 0: unknown type. */
static inline uint32_t kvmod_block_size(uint32_t type)
{
	switch (type) {
	case KVMOD_F32:
	case KVMOD_F16:
	case KVMOD_BF16:
		return 1;
	case KVMOD_Q8_0:
	case KVMOD_Q4_0:
		return 32;
	default:
		return 0;
	}
}

/* Bytes of n elements in a row; n is a multiple of kvmod_block_size(). 0: unknown type. */
static inline size_t kvmod_row_bytes(uint32_t type, size_t n)
{
	switch (type) {
	case KVMOD_F32:
		return 4 * n;
	case KVMOD_F16:
	case KVMOD_BF16:
		return 2 * n;
	case KVMOD_Q8_0:
		return n / 32 * 34;
	case KVMOD_Q4_0:
		return n / 32 * 18;
	default:
		return 0;
	}
}

/*
 * Memory of somebody else's, described: rows of head_dim elements that lie one
 * after the other. Borrowed: it is dead when the call that got it returns.
 */
struct kvmod_view {
	uint32_t type;		/* KVMOD_F32 ... */
	/*
	 * 0: plain. Else d, a power of two that divides head_dim: an engine stores each
	 * row x as H x, block by block of d elements, where H is the orthonormal Hadamard
	 * matrix of d dimensions (in Sylvester's order; H is its own inverse). K, V and Q
	 * alone may be rotated. The core hands a policy on the CPU plain F32 instead.
	 */
	uint32_t rotation;
	const void *data;	/* on the segment's device; NULL: not there */
	int64_t stride;		/* bytes from one row (position) to the next */
	int64_t head_stride;	/* bytes from one head to the next, if it has several */
};

/*
 * The cache of one KV head. Row i of k and v belongs to the i-th oldest cached
 * position; positions ascend. Keys are those after RoPE. The engine owns it all.
 */
struct kvmod_head {
	uint32_t size;
	uint32_t n;			/* cached positions: the physical length; 1 or more for a policy */
	struct kvmod_view k, v;		/* [n][head_dim] */
	const int32_t *positions;	/* [n], on the host; NULL: 0, 1, ..., n-1 */
	/*
	 * The engine closed a gap behind the n_turned oldest rows (at most n): their keys
	 * carry the RoPE phase of positions[i] + turn, in tokens, all others and the
	 * queries that of their positions. Both 0 where no gap was closed. RoPE tells
	 * distances alone: all phases of a sequence may be less by one and the same number.
	 */
	uint32_t n_turned;
	int32_t turn;
};

/*
 * One layer of one sequence.
 * Query head h reads KV head h / (n_q_heads / n_kv_heads).
 */
struct kvmod_segment {
	uint32_t size;
	uint32_t layer;			/* 0 .. request->n_layers - 1 */
	uint64_t sequence;		/* which sequence: equal numbers, same one */
	uint64_t logical;		/* tokens seen: the next position; see kvmod_tokens_seen() */
	uint32_t n_q_heads, n_kv_heads;	/* those that are here */
	uint32_t head_dim;
	uint32_t first_head;		/* tensor parallelism: the first KV head here */
	uint32_t total_heads;		/* and how many there are on all ranks */
	uint32_t n_rows;		/* of q */
	float scale;			/* of q.k, before softmax */
	float softcap;			/* x -> cap * tanh(x / cap) before softmax; 0: none */
	const struct kvmod_head *const *heads;	/* [n_kv_heads], the engine's */

	/*
	 * Queries after RoPE of the newest rows, oldest first: [n_rows][n_q_heads]
	 * [head_dim], q.stride from row to row. A short second turn gives fewer
	 * rows than were asked for.
	 */
	struct kvmod_view q;
	const int32_t *row_positions;	/* [n_rows], on the host; NULL: the last n_rows */

	/*
	 * Extras, each there only if needs asked and the engine can (else data is
	 * NULL): column sums of attention over all earlier rows [n_q_heads][n],
	 * mean [n_q_heads][head_dim] and covariance [n_q_heads][head_dim][head_dim]
	 * of queries before RoPE, L1 norms of Wo v [n_q_heads][n]. All f32. A head's
	 * numbers lie end to end, but for rows of the covariance: q_cov.stride bytes from
	 * one to the next, head_dim * 4 where they too lie end to end. head_stride from
	 * head to head: room for n of the longest KV head, and for a whole matrix.
	 */
	struct kvmod_view colsum;
	struct kvmod_view q_mean, q_cov;
	struct kvmod_view wo_norm;
	uint64_t n_q_stat;		/* queries behind q_mean and q_cov */

	/*
	 * Attention sinks: [n_q_heads] on the host, the engine's. One learned logit for
	 * each query head (after scale and softcap) that joins the denominator of each
	 * softmax over the segment, and has no position and no value. A softmax that leaves
	 * it out is not the model's: the rows' weights then sum to 1, not to less.
	 * NULL: the model has none.
	 */
	const float *sink_logits;

	/*
	 * Where all that is: K, V, Q and extras. NULL: on request->device. Layers of
	 * a model that is partly on a GPU differ here; a policy never sees that: the
	 * core has brought all segments to one device before it asks.
	 */
	const char *device;
};

/* When a request is made. */
#define KVMOD_PREFILL	1u	/* a prompt has just been run */
#define KVMOD_DECODE	2u	/* `needs.decode_every` more tokens were decoded */

struct kvmod_plan;

/*
 * Segments to decide together: all layers of one or more sequences, but for those that
 * cache a window alone. A segment says which layer it is: i of segments[i] does not.
 */
struct kvmod_request {
	uint32_t size;
	uint32_t phase;			/* KVMOD_PREFILL, KVMOD_DECODE */
	uint32_t n_layers;		/* of the whole model */
	/*
	 * Of these, layers that cache the newest positions of a window alone: the engine
	 * keeps them short by itself, and no request names them.
	 */
	uint32_t n_window_layers;
	uint32_t n_segments;
	uint32_t reserved;		/* 0 */
	const struct kvmod_segment *const *segments;	/* [n_segments], the engine's */
	const char *device;		/* where K, V and Q are: "cpu" (or NULL), "cuda" */
	void *stream;			/* of that device: all work goes on it; NULL: the default one */
	void *state;			/* what the policy's begin() left, or NULL */

	/*
	 * What the plan costs this request: the engine runs the last `rows` tokens
	 * of the prompt once more over the first n - rows positions as the plan
	 * leaves them, on a scratch copy, and answers with the mean over rows of
	 * KL(whole || cut) of the next-token distributions, in nats. Tokens that an
	 * earlier cut evicted are run again too: of more than the context has room
	 * for, only the last that fit are run. The cache stays bit-identical.
	 * NULL: this engine cannot.
	 * A policy calls replay() and reread() inside compress(), on its thread. The core
	 * checks the plan, which may be one that the policy made itself, and the answer.
	 */
	int32_t (*replay)(const struct kvmod_request *request,
			  const struct kvmod_plan *plan, uint32_t rows, double *loss);
	/*
	 * How well the context reads itself (KVzip): session and engine make the tokens of
	 * a run that repeats the context's positions begin .. end-1 (tokens seen, not
	 * indices) and run it over the cache as it is, on a scratch copy. `out`, on the
	 * host, the caller's, gets the largest attention weight that any query of the run
	 * pays to each of these positions:
	 * [n_segments, in the order of request->segments][n_kv_heads][end - begin], the
	 * largest of the KV head's query heads too; 0 where a head no longer caches the
	 * position. The cache stays bit-identical. NULL: this engine cannot.
	 */
	int32_t (*reread)(const struct kvmod_request *request, uint64_t begin, uint64_t end,
			  float *out);
	void *replay_ctx;		/* the engine's own, for replay() and reread() */

	/* Scratch from the core, as big as the policy's workspace() asked for. */
	void *scratch;			/* on the host, 64-byte aligned; see host_alloc() of a device */
	size_t scratch_size;
	void *device_scratch;		/* on request->device, 256-byte aligned */
	size_t device_scratch_size;

	/*
	 * A fraction of the tokens seen buys at least so many positions; see
	 * kvmod_budget_of(). Sessions set it, to what `[kvmod] leave_below` says.
	 */
	uint64_t leave_below;
};

/* Indices begin .. end-1 of the cached positions of a segment. */
struct kvmod_span {
	uint32_t begin, end;
};

/* What kept rows are to be stored as: this, or an element type, KVMOD_F32 ... */
#define KVMOD_STORE_SAME	0u	/* as they were */

/* Kinds of what a segment keeps. */
#define KVMOD_KEEP_ALL		0u
#define KVMOD_KEEP_SPANS	1u	/* ascending, disjoint; the same for every KV head */
#define KVMOD_KEEP_HEADS	2u	/* a list of indices per KV head, counts may differ */

/*
 * What one segment keeps. The arrays are the core's, on the host. Those of
 * indices are big enough for any answer; spans are as many as can be apart from
 * each other, but 1024 at most: what needs more goes in indices. Spans and counts
 * are zero as the policy gets them, indices anything. A policy on an accelerator
 * copies into them on request->stream, and the core waits for that stream before it reads.
 *
 * A plan names cached positions by index: 0 is the oldest cached, n-1 the
 * newest. Where nothing was cut before, index and position are the same.
 */
struct kvmod_keep {
	uint32_t size;
	uint32_t kind;			/* KVMOD_KEEP_ALL as the policy gets it */
	int32_t status;			/* 0, or the error that leaves this segment whole */
	uint32_t max_spans;		/* room in spans: 2 to 1024 */
	uint32_t n_spans;
	/*
	 * What all kept rows of the segment become, K and V apart; KVMOD_STORE_SAME as the
	 * policy gets them, and of any kind of keep, KVMOD_KEEP_ALL too. Rows of a type with
	 * blocks need a head_dim that these divide. An engine without KVMOD_ENGINE_STORES
	 * keeps the rows as they were, in a replay() too, and the session says so once.
	 */
	uint32_t k_store, v_store;	/* KVMOD_STORE_SAME, KVMOD_F32 ... */
	uint32_t reserved;		/* 0 */
	double loss;			/* in the policy's own measure; NaN: none reported */
	struct kvmod_span *spans;
	uint32_t *counts;		/* [n_kv_heads] */
	uint32_t *indices;		/* head g's begin at indices + g * index_stride */
	uint64_t index_stride;		/* in elements; at least the head's n */
};

/*
 * Plan flag: every segment keeps everything, or the same suffix in every KV head, with
 * or without its oldest positions (KVMOD_MAX_SINKS at most). RoPE is to see no gap
 * between these two: whoever applies the plan turns the keys of the oldest forward.
 */
#define KVMOD_PLAN_CLOSES_GAPS	1u
#define KVMOD_MAX_SINKS		1024u

struct kvmod_plan {
	uint32_t size;
	uint32_t n_keeps;		/* = request->n_segments */
	uint32_t flags;			/* KVMOD_PLAN_...: kvmod_decide() sets them, no policy does */
	uint32_t reserved;		/* 0 */
	struct kvmod_keep *const *keeps;	/* [n_keeps], the core's: one for each segment */
};

/* For who makes requests: list[i] = &heads[i], and &segments[i], of n in an array. */
static inline void kvmod_list_heads(const struct kvmod_head **list,
				    const struct kvmod_head *heads, size_t n)
{
	for (size_t i = 0; i < n; i++)
		list[i] = &heads[i];
}

static inline void kvmod_list_segments(const struct kvmod_segment **list,
				       const struct kvmod_segment *segments, size_t n)
{
	for (size_t i = 0; i < n; i++)
		list[i] = &segments[i];
}

static inline const struct kvmod_segment *
kvmod_segment_at(const struct kvmod_request *request, uint32_t i)
{
	return request->segments[i];
}

static inline const struct kvmod_head *
kvmod_head_at(const struct kvmod_segment *segment, uint32_t g)
{
	return segment->heads[g];
}

/* Cached positions of the KV head that has most. */
static inline uint32_t kvmod_longest_head(const struct kvmod_segment *segment)
{
	uint32_t n = 0;

	for (uint32_t g = 0; g < segment->n_kv_heads; g++)
		if (kvmod_head_at(segment, g)->n > n)
			n = kvmod_head_at(segment, g)->n;
	return n;
}

/*
 * Tokens seen of the segment's sequence, N. It is `logical`; a host that leaves that
 * out, 0, has cut nothing, and its longest head caches all of them. Policies find N in
 * `logical` then too.
 */
static inline uint64_t kvmod_tokens_seen(const struct kvmod_segment *segment)
{
	uint32_t n = kvmod_longest_head(segment);

	return segment->logical > n ? segment->logical : n;
}

static inline struct kvmod_keep *kvmod_keep_at(const struct kvmod_plan *plan, uint32_t i)
{
	return plan->keeps[i];
}

/* A model as a policy sees it. Strings live as long as the engine. */
struct kvmod_model {
	uint32_t size;
	uint32_t n_layers;
	uint32_t n_q_heads, n_kv_heads;
	uint32_t head_dim;
	uint32_t n_vocab;
	uint64_t context;		/* longest logical length it was trained for */
	const char *name;		/* "SmolLM2 135M Instruct" */
	const char *architecture;	/* "llama" */
	float scale, softcap;		/* as in kvmod_segment */
	float rope_base;
	uint32_t rope_interleaved;	/* 1: dims 2d, 2d+1 turn together; 0: d, d + D/2 */
	const int32_t *end_tokens;	/* generation stops at these */
	uint32_t n_end_tokens;
	uint32_t n_device_layers;	/* whose cache is on `device`; the others' are on the host */
	const char *device;		/* "cuda"; NULL: all of the cache is on the host */
	uint32_t n_window_layers;	/* of n_layers: cache a window alone; see kvmod_request */
	uint32_t reserved;		/* 0 */
};

#ifdef __cplusplus
}
#endif
#endif
