/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/policy.h - a policy decides which cached positions to keep.
 *
 * Order of the calls into one instance: open, needs, (begin, compress*, end)*,
 * close. They are serial for one instance; instances run in parallel, so a
 * module keeps no writable globals. A policy never writes to the cache. On an
 * accelerator a policy queues all work on request->stream and allocates
 * nothing: scratch comes from the core.
 *
 * Whatever goes wrong costs compression, never output: an error code from
 * compress(), or a plan that fails the core's checks, leaves the cache whole.
 * Request and plan are copies for one call: the core reads back only the keeps and
 * their arrays. A policy fills the arrays in and never replaces one.
 */
#ifndef KVMOD_POLICY_H
#define KVMOD_POLICY_H

#include <kvmod/module.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * What a request must contain for the policy: bits of kvmod_needs.what. The policy gets
 * nothing else, but for what kvmod_needs.takes names.
 */
#define KVMOD_NEED_K		(1u << 0)
#define KVMOD_NEED_V		(1u << 1)
#define KVMOD_NEED_COLSUM	(1u << 2)	/* column sums of attention */
#define KVMOD_NEED_Q_STATS	(1u << 3)	/* mean and covariance of queries before RoPE */
#define KVMOD_NEED_WO_NORM	(1u << 4)	/* |Wo v|_1 */
#define KVMOD_NEED_ALL_LAYERS	(1u << 5)	/* all layers (but window layers) at once */

struct kvmod_needs {
	uint32_t size;
	uint32_t what;			/* KVMOD_NEED_... */
	struct kvmod_amount rows;	/* newest rows of Q; a fraction is of the prompt */
	uint32_t decode_every;		/* decoded tokens between calls of compress(); 0: never */
	/*
	 * KVMOD_TYPE_BIT() of each type of K and V that the policy reads. 0: every type of
	 * this ABI, for a policy that reads rows through kvmod's toolkit. A policy that
	 * decodes rows itself names the types that it can decode.
	 */
	uint32_t types;
	uint32_t min_rows;		/* the least number of rows, if `rows` comes to fewer */
	uint32_t q_stats_skip;		/* oldest tokens whose queries q_mean and q_cov leave out */
	/*
	 * KVMOD_NEED_COLSUM, _Q_STATS or _WO_NORM that the policy uses if a request has them
	 * anyway: no engine collects them for it, and no request is refused for lack of them.
	 */
	uint32_t takes;
	uint32_t reserved;		/* 0 */
};

/* How many rows `needs` asks for with a prompt of n tokens. */
static inline uint32_t kvmod_needs_rows(const struct kvmod_needs *needs, uint64_t n)
{
	uint64_t rows = kvmod_amount_of(&needs->rows, n);

	if (rows == 0 && needs->rows.value > 0)
		rows = 1;
	if (KVMOD_HAS(needs, min_rows) && rows < needs->min_rows)
		rows = needs->min_rows;
	return (uint32_t)(rows < n ? rows : n);
}

/*
 * How many positions of each KV head a budget buys, at most all tokens seen; a head
 * that caches no more than that is kept whole. A count is taken as it is. A fraction
 * refers to the tokens seen, not to what earlier cuts left of them; otherwise each turn
 * of a conversation would cut the same share again, until nothing is left.
 *
 * A policy with such a parameter must call it `budget`; if it divides its budget, `heavy`
 * and `recent`. A session leaves a sequence of `[kvmod] leave_below` tokens or fewer whole,
 * unless these parameters are counts.
 */
static inline uint64_t kvmod_budget_of(const struct kvmod_request *request,
				       const struct kvmod_segment *segment,
				       const struct kvmod_amount *budget)
{
	uint64_t seen = kvmod_tokens_seen(segment), n = seen, least = 0;

	if (budget->value < (budget->is_count ? (double)seen : 1.0))
		n = kvmod_amount_of(budget, seen);
	if (!budget->is_count && KVMOD_HAS(request, leave_below))
		least = request->leave_below < seen ? request->leave_below : seen;
	return n > least ? n : least;
}

struct kvmod_workspace {
	uint32_t size;
	uint32_t reserved;
	uint64_t host, device;		/* bytes */
};

/* Policy flags. */
/* The policy may drop the newest position. Without this flag such a plan is an error. */
#define KVMOD_POLICY_MAY_DROP_NEWEST	1u
/*
 * Distances between positions count inside the cache: the positions that the policy cuts
 * after the oldest ones leave no gap. A sequence can then grow beyond the length that the
 * model was trained for.
 */
#define KVMOD_POLICY_CLOSES_GAPS	2u

struct kvmod_policy_ops {
	uint32_t size;
	uint32_t flags;			/* KVMOD_POLICY_... */
	const char *name;		/* "refreekv": its name in the configuration */
	const char *description;	/* one line */
	/*
	 * Where the policy runs: names of devices separated by spaces, "cpu cuda", exactly
	 * as in KVMOD_RUNS_ON(). "*": on any device, for a policy that reads only
	 * lengths. NULL: "cpu". Versions of one policy for different devices may
	 * be in separate tables, and in separate modules.
	 */
	const char *devices;
	uint32_t instance_size;		/* its instance starts with struct kvmod_instance */
	uint32_t n_params;
	const struct kvmod_param *params;	/* [n_params] */

	/*
	 * Called when the parameters are filled in and in range: checks whether they fit
	 * each other and this model. Optional. [may block]
	 */
	int32_t (*open)(void *self, const struct kvmod_model *model);
	void (*close)(void *self);	/* optional */

	/* Called after open(). Optional: a policy without it needs only lengths. */
	int32_t (*needs)(void *self, struct kvmod_needs *needs);

	/* A sequence starts, or ends; *state belongs to the policy. Both optional. */
	int32_t (*begin)(void *self, uint64_t sequence, void **state);
	void (*end)(void *self, uint64_t sequence, void *state);

	/* How much scratch compress() needs in the request. Optional: without it, none. */
	int32_t (*workspace)(void *self, const struct kvmod_request *request,
			     struct kvmod_workspace *need);

	/*
	 * Decides. Required. On entry every keep of the plan is KVMOD_KEEP_ALL.
	 * The hot path: no I/O, no lock, no allocation on an accelerator.
	 */
	int32_t (*compress)(void *self, const struct kvmod_request *request,
			    struct kvmod_plan *plan);
};

#ifdef __cplusplus
}
#endif
#endif
