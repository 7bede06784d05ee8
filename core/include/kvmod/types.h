/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/types.h - what core, modules and hosts exchange: views of a cache,
 * segments, requests and plans.
 *
 * ABI rules, for every header in this folder:
 *  - Every struct starts with its size as its writer compiled it. A reader uses
 *    a field only if KVMOD_HAS() shows that the writer knew it; an absent field
 *    reads as zero. Several structs of one kind are passed as an array of pointers;
 *    where a host makes thousands of them for one call (gathers, batch items), they
 *    are passed as an array of structs with a stride.
 *  - Some structs are contained in others by value, or in plain arrays: kvmod_view,
 *    kvmod_span, kvmod_amount, kvmod_list, kvmod_param, kvmod_message, kvmod_bytes,
 *    kvmod_instance and kvmod_scorer. These are frozen: they never grow within this
 *    ABI major, so they need no size (kvmod_bytes has one all the same).
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

#define KVMOD_ABI_MAJOR 2	/* a module with another major is refused */
#define KVMOD_ABI_MINOR 0	/* a module that needs a higher minor is refused */

/* Did the writer of *(p) know the field? `size` must be the first member. */
#define KVMOD_HAS(p, field) \
	((p)->size >= (size_t)((const char *)(&(p)->field + 1) - (const char *)(p)))

/* Element i of an array of structs whose writer used the given stride. */
#define KVMOD_AT(type, base, stride, i) \
	((type *)((char *)(uintptr_t)(base) + (size_t)(i) * (stride)))

/* What calls return. The values never change; none is an errno. */
#define KVMOD_OK		0
#define KVMOD_EINVAL		(-1)	/* an argument or parameter is wrong */
#define KVMOD_ENOMEM		(-2)	/* out of memory, on host or device */
#define KVMOD_ENOENT		(-3)	/* no such file, module, policy, name */
#define KVMOD_EEXIST		(-4)	/* that name is taken */
#define KVMOD_EPERM		(-5)	/* refused for its owner, its mode, or the blacklist */
#define KVMOD_EFORMAT		(-6)	/* a malformed file: ELF, GGUF, INI */
#define KVMOD_EABI		(-7)	/* built for another kvmod */
#define KVMOD_ENOTSUP		(-8)	/* understood, but not offered here */
#define KVMOD_EIO		(-9)	/* reading or writing failed */
#define KVMOD_ERANGE		(-10)	/* does not fit: context, range */
#define KVMOD_ENUMERIC		(-11)	/* a number that is not finite */
#define KVMOD_EPLAN		(-12)	/* an invalid plan */
#define KVMOD_EBUSY		(-13)	/* still in use */
#define KVMOD_ECANCELED		(-14)	/* stopped on request */
#define KVMOD_EDEVICE		(-15)	/* the accelerator failed */
#define KVMOD_ETIMEOUT		(-16)	/* took longer than allowed */
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

/* Elements of a block; the length of a row is a multiple of it. 0: unknown type. */
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
 * Describes memory that belongs to somebody else: rows of head_dim elements at a
 * constant stride. Borrowed: it is invalid once the call that received it returns.
 */
struct kvmod_view {
	uint32_t type;		/* KVMOD_F32 ... */
	/*
	 * 0: plain. Else d, a power of two that divides head_dim: an engine stores each
	 * row x as H x, block by block of d elements, where H is the orthonormal Hadamard
	 * matrix of d dimensions (in Sylvester's order; H is its own inverse). Only K, V
	 * and Q may be rotated. To a policy on the CPU the core passes plain F32 instead.
	 */
	uint32_t rotation;
	const void *data;	/* on the segment's device; NULL: not supplied */
	int64_t stride;		/* bytes from one row (position) to the next */
	int64_t head_stride;	/* bytes from one head to the next, in a view of several */
};

/*
 * The cache of one KV head. Row i of k and v belongs to the i-th oldest cached
 * position; positions ascend. Keys are those after RoPE. The engine owns all of it.
 */
struct kvmod_head {
	uint32_t size;
	uint32_t n;			/* cached positions: the physical length; 1 or more for a policy */
	struct kvmod_view k, v;		/* [n][head_dim] */
	const int32_t *positions;	/* [n], on the host; NULL: 0, 1, ..., n-1 */
	/*
	 * The engine closed a gap after the n_turned oldest rows (at most n): their keys
	 * carry the RoPE phase of positions[i] + turn, in tokens; all other keys and the
	 * queries carry the phase of their positions. Both are 0 if no gap was closed. Only
	 * differences of phases matter to RoPE: all phases of a sequence may be shifted
	 * down by one common number, segment->phase_base. Keys that no one `turn` describes,
	 * because sinks joined at several cuts, are not shown: k.data is NULL.
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
	uint64_t sequence;		/* number of the sequence: equal numbers, same sequence */
	uint64_t logical;		/* tokens seen: the next position; see kvmod_tokens_seen() */
	uint32_t n_q_heads, n_kv_heads;	/* in this segment */
	uint32_t head_dim;
	uint32_t first_head;		/* tensor parallelism: the first KV head of this rank */
	uint32_t total_heads;		/* KV heads on all ranks together */
	uint32_t n_rows;		/* of q */
	float scale;			/* of q.k, before softmax */
	float softcap;			/* x -> cap * tanh(x / cap) before softmax; 0: none */
	const struct kvmod_head *const *heads;	/* [n_kv_heads], the engine's */

	/*
	 * Queries of the newest rows after RoPE, oldest first: [n_rows][n_q_heads]
	 * [head_dim], q.stride from row to row. After a short second turn there are fewer
	 * rows than the policy asked for.
	 */
	struct kvmod_view q;
	const int32_t *row_positions;	/* [n_rows], on the host; NULL: the last n_rows */

	/*
	 * Extras, each supplied only if the policy's needs ask for it and the engine can
	 * (else data is NULL): column sums of attention over all earlier rows
	 * [n_q_heads][n], mean [n_q_heads][head_dim] and covariance
	 * [n_q_heads][head_dim][head_dim] of queries before RoPE, L1 norms of Wo v
	 * [n_q_heads][n]. All f32, head_stride from head to head, with room for the n of
	 * the longest KV head. Rows of the covariance are q_cov.stride apart, which is
	 * never 0; the numbers of a row, and of the other extras of a head, are contiguous.
	 */
	struct kvmod_view colsum;
	struct kvmod_view q_mean, q_cov;
	struct kvmod_view wo_norm;
	uint64_t n_q_stat;		/* queries in q_mean and q_cov; 0: both are 0 */

	/*
	 * Attention sinks: [n_q_heads] on the host, the engine's. One learned logit for
	 * each query head (after scale and softcap) that is added to the denominator of each
	 * softmax over the segment, and has no position and no value. With it the weights
	 * of a row sum to less than 1; a softmax without it is not the model's.
	 * NULL: the model has none.
	 */
	const float *sink_logits;

	/*
	 * The device with K, V, Q and extras. NULL: request->device. The layers of a model
	 * that is partly on a GPU differ here; a policy never sees that, because the core
	 * first copies all segments to one device.
	 */
	const char *device;
	/* What the phases of all keys and queries are shifted down by; 0 as a rule. */
	uint64_t phase_base;
};

/* When a request is made. */
#define KVMOD_PREFILL	1u	/* a prompt has just been run */
#define KVMOD_DECODE	2u	/* `needs.decode_every` more tokens were decoded */

struct kvmod_plan;

/* What a policy has read again: see request->reread(). */
struct kvmod_reread {
	uint32_t size;
	uint32_t sinks;			/* oldest positions that take part in each softmax */
	uint64_t begin, end;		/* positions begin .. end-1, counted in tokens seen */
};

/* What kvmod_request.ask is asked for. */
struct kvmod_ask {
	uint32_t size;
	uint32_t n_answer;		/* the longest answer that the model may give, in tokens */
	const char *question;		/* about everything cached: "What is this about?" */
};

/*
 * Segments to decide together: all layers of one or more sequences, except layers that
 * cache only a window. segments[i] need not be layer i: use segments[i]->layer.
 */
struct kvmod_request {
	uint32_t size;
	uint32_t phase;			/* KVMOD_PREFILL, KVMOD_DECODE */
	uint32_t n_layers;		/* of the whole model */
	/*
	 * How many of these layers cache only the newest positions, those of a window. The
	 * engine keeps them short by itself, and requests do not contain them.
	 */
	uint32_t n_window_layers;
	uint32_t n_segments;
	/*
	 * 1: the tokens seen end with a context about which something will be asked later, so
	 * the newest tokens do not say what will be needed. See ask().
	 */
	uint32_t question_later;
	const struct kvmod_segment *const *segments;	/* [n_segments], the engine's */
	const char *device;		/* that has K, V and Q: "cpu" (or NULL), "cuda" */
	void *stream;			/* of that device, for all work; NULL: the default stream */
	void *state;			/* the policy's, from begin(), or NULL */

	/*
	 * What the plan would cost: the engine runs the last `rows` tokens of the prompt
	 * once more over the first n - rows positions as the plan leaves them, on a scratch
	 * copy. *loss is the mean over rows of KL(whole || cut) of the next-token
	 * distributions, in nats. Tokens that an earlier cut evicted are run again too; if
	 * the context has no room for all of them, only the last ones that fit are run. The
	 * cache stays bit-identical. NULL: this engine cannot.
	 * A policy calls replay(), reread() and ask() inside compress(), on its thread. The core
	 * checks the plan, which may be one that the policy made itself, and the result.
	 */
	int32_t (*replay)(const struct kvmod_request *request,
			  const struct kvmod_plan *plan, uint32_t rows, double *loss);
	/*
	 * How much the context attends to itself when it is repeated (KVzip, arXiv
	 * 2505.23416): the engine makes tokens that ask for positions begin .. end-1 to be
	 * repeated, and repeats them, and runs them over the cache as it is, on a scratch
	 * copy. Each query of that run attends to everything, but is weighed by a softmax
	 * over the oldest `sinks` positions, begin .. end-1, and the run's own tokens up to
	 * it. For each of begin .. end-1 `out`, the caller's host memory, gets the largest
	 * weight that any query pays to the position:
	 * [n_segments, in the order of request->segments][n_kv_heads][end - begin], also
	 * the largest over the KV head's query heads; 0 where a head no longer caches the
	 * position. The cache stays bit-identical. NULL: this engine cannot.
	 */
	int32_t (*reread)(const struct kvmod_request *request, const struct kvmod_reread *what,
			  float *out);
	void *replay_ctx;		/* the engine's own, for its services */

	/* Scratch from the core, as large as the policy's workspace() asked for. */
	void *scratch;			/* on the host, 64-byte aligned; see host_alloc() of a device */
	size_t scratch_size;
	void *device_scratch;		/* on request->device, 256-byte aligned */
	size_t device_scratch_size;

	/*
	 * The least number of positions that a budget as a fraction buys; see
	 * kvmod_budget_of(). Sessions set it to the value of `[kvmod] leave_below`.
	 */
	uint64_t leave_below;
	/*
	 * How many of the oldest tokens seen are the chat template's, before the text of the
	 * first message that a user wrote. 0: none, or not known.
	 */
	uint64_t opening;
	/*
	 * Asks the context something, in place of the question that comes later: the engine runs
	 * the question over the cache as it is, on a scratch copy, and lets the model answer, by
	 * its likeliest token each time. For each position seen `out`, the caller's host memory,
	 * gets the largest weight that any query of that run pays to it, in a softmax over
	 * everything: [n_segments][n_kv_heads][tokens seen], as reread() does. From then on
	 * replay() runs the last rows of this question and answer in place of the prompt's, in
	 * this request. The cache stays bit-identical. NULL: this engine cannot.
	 */
	int32_t (*ask)(const struct kvmod_request *request, const struct kvmod_ask *what,
		       float *out);
};

/* Indices begin .. end-1 of the cached positions of a segment. */
struct kvmod_span {
	uint32_t begin, end;
};

/* The type in which kept rows are stored: KVMOD_STORE_SAME, or KVMOD_F32 ... */
#define KVMOD_STORE_SAME	0u	/* unchanged */

/* The choice that users have, in [kvmod] and in policies: one type for both, or K's/V's. */
#define KVMOD_STORES		"same|q8_0|q8_0/q4_0"
#define KVMOD_STORES_SAME	0
#define KVMOD_STORES_Q8		1
#define KVMOD_STORES_Q8_Q4	2

/* The types of K and V behind a choice. */
static inline void kvmod_stores_of(int32_t choice, uint32_t *k, uint32_t *v)
{
	*k = choice == KVMOD_STORES_SAME ? KVMOD_STORE_SAME : KVMOD_Q8_0;
	*v = choice == KVMOD_STORES_Q8_Q4 ? KVMOD_Q4_0 : *k;
}

/* How a keep names what its segment keeps. */
#define KVMOD_KEEP_ALL		0u
#define KVMOD_KEEP_SPANS	1u	/* ascending, disjoint; the same for every KV head */
#define KVMOD_KEEP_HEADS	2u	/* a list of indices per KV head, counts may differ */

/*
 * What one segment keeps. The arrays are the core's, on the host. The array of
 * indices has room for any answer; that of spans for as many as can be disjoint and
 * not adjacent, but at most 1024: a policy that needs more uses indices. When the
 * policy gets them, spans and counts are zero and indices are undefined. A policy on
 * an accelerator copies into the arrays on request->stream, and the core waits for that
 * stream before it reads them.
 *
 * A plan names cached positions by index: 0 is the oldest cached, n-1 the
 * newest. As long as nothing was cut, index and position are the same.
 */
struct kvmod_keep {
	uint32_t size;
	uint32_t kind;			/* KVMOD_KEEP_...; at first KVMOD_KEEP_ALL */
	int32_t status;			/* 0, or the error for which this segment stays whole */
	uint32_t max_spans;		/* room in spans: 2 to 1024 */
	uint32_t n_spans;
	/*
	 * The types in which all kept rows of the segment are stored, for K and V
	 * separately; at first what `[kvmod] store` says, in a session, or KVMOD_STORE_SAME.
	 * A policy that does not choose leaves them alone. Valid with every kind of keep, also
	 * KVMOD_KEEP_ALL. The blocks of the type must divide head_dim. An engine without
	 * KVMOD_ENGINE_STORES leaves the rows unchanged, also in a replay(), and the session
	 * logs that once.
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
 * or without its oldest positions (KVMOD_MAX_SINKS at most). Whoever applies the plan
 * turns the keys of the oldest positions forward, so that RoPE sees no gap between
 * these positions and the suffix.
 */
#define KVMOD_PLAN_CLOSES_GAPS	1u
#define KVMOD_MAX_SINKS		1024u

struct kvmod_plan {
	uint32_t size;
	uint32_t n_keeps;		/* = request->n_segments */
	uint32_t flags;			/* KVMOD_PLAN_...; only kvmod_decide() sets them */
	uint32_t reserved;		/* 0 */
	struct kvmod_keep *const *keeps;	/* [n_keeps], the core's: one for each segment */
};

/* For makers of requests: fill an array of pointers, list[i] = &heads[i] or &segments[i]. */
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

/* Cached positions of the KV head that caches the most. */
static inline uint32_t kvmod_longest_head(const struct kvmod_segment *segment)
{
	uint32_t n = 0;

	for (uint32_t g = 0; g < segment->n_kv_heads; g++)
		if (kvmod_head_at(segment, g)->n > n)
			n = kvmod_head_at(segment, g)->n;
	return n;
}

/*
 * N, the tokens seen by the segment's sequence: `logical`. A host that leaves `logical`
 * out, as 0, has cut nothing, so its longest head caches all of them. The core sets
 * `logical` to N in what it hands to a policy.
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

/*
 * Model flag: there is no such model, it stands for any in a test. A policy that has a file
 * for one model must work all the same.
 */
#define KVMOD_MODEL_MADE_UP	1u

/* A model as a policy sees it. Strings and lists live as long as the engine. */
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
	uint32_t n_device_layers;	/* layers with their cache on `device`, not on the host */
	const char *device;		/* "cuda"; NULL: all of the cache is on the host */
	uint32_t n_window_layers;	/* layers that cache only a window; see kvmod_request */
	uint32_t flags;			/* KVMOD_MODEL_... */
	/*
	 * How RoPE turns, where rope_base does not say it all: pair d of dimensions, which is
	 * 2d and 2d + 1, or d and d + n_rope_freqs, by rope_freqs[d] radians a position. Other
	 * dimensions do not turn. NULL: head_dim / 2 pairs, by rope_base^(-2d / head_dim).
	 */
	const float *rope_freqs;
	uint32_t n_rope_freqs;
	/* What RoPE also multiplies dimensions that turn by, as YaRN does; 0 stands for 1. */
	float rope_magnitude;
};

#ifdef __cplusplus
}
#endif
#endif
