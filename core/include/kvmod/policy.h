/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/policy.h - a policy decides which cached positions to keep.
 *
 * Order of the calls into one instance: open, needs, (begin, compress*, end)*,
 * close. They are serial for one instance; instances run in parallel, so a
 * module keeps no writable globals. A policy never writes to the cache. On an
 * accelerator all work goes on request->stream, and the policy allocates
 * nothing there: scratch comes from the core.
 *
 * Whatever goes wrong costs compression, never output: an error code from
 * compress(), or a plan that fails the core's checks, leaves the cache whole.
 * Request and plan are copies for one call: the core reads only what a policy puts
 * into keeps and their arrays. A policy fills arrays in, and never replaces one.
 */
#ifndef KVMOD_POLICY_H
#define KVMOD_POLICY_H

#include <kvmod/module.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a policy must be handed: bits of kvmod_needs.what. It is handed nothing else. */
#define KVMOD_NEED_K		(1u << 0)
#define KVMOD_NEED_V		(1u << 1)
#define KVMOD_NEED_COLSUM	(1u << 2)	/* column sums of attention */
#define KVMOD_NEED_Q_STATS	(1u << 3)	/* mean and covariance of queries before RoPE */
#define KVMOD_NEED_WO_NORM	(1u << 4)	/* |Wo v|_1 */
#define KVMOD_NEED_ALL_LAYERS	(1u << 5)	/* one request with every layer that requests name */

struct kvmod_needs {
	uint32_t size;
	uint32_t what;			/* KVMOD_NEED_... */
	struct kvmod_amount rows;	/* of Q: the newest; a fraction is of the prompt */
	uint32_t decode_every;		/* call compress again every so many tokens; 0: never */
	/*
	 * KVMOD_TYPE_BIT() of K and V that it reads. 0: every type that a kvmod of its ABI
	 * has, as who reads rows through kvmod does; who reads them itself names its types.
	 */
	uint32_t types;
	uint32_t min_rows;		/* at least so many rows, where `rows` comes to fewer */
	uint32_t reserved;		/* 0 */
};

/* How many rows that is for a prompt of n tokens. */
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
 * that caches no more is kept whole. A count is taken as it is. A fraction is of the
 * tokens seen, not of what earlier cuts left of them: else each turn of a conversation
 * would take the same share again, until nothing is left.
 *
 * A policy with such a parameter calls it `budget`: a session leaves a sequence of
 * `[kvmod] leave_below` tokens or fewer whole, unless the policy's budget is a count.
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
#define KVMOD_POLICY_MAY_DROP_NEWEST	1u	/* and means it */
/*
 * What it cuts out behind the oldest positions is as if it had never been: distances
 * count inside the cache. A sequence then goes on past what the model was trained for.
 */
#define KVMOD_POLICY_CLOSES_GAPS	2u

struct kvmod_policy_ops {
	uint32_t size;
	uint32_t flags;			/* KVMOD_POLICY_... */
	const char *name;		/* "refreekv": what the INI says */
	const char *description;	/* one line */
	/*
	 * Where it runs: names of devices with spaces between them, "cpu cuda", the same
	 * words as in KVMOD_RUNS_ON(). "*": on any device, for a policy that goes by
	 * lengths alone. NULL: "cpu". Versions of one policy for different devices may
	 * have tables, and modules, of their own.
	 */
	const char *devices;
	uint32_t instance_size;		/* its instance starts with struct kvmod_instance */
	uint32_t n_params;
	const struct kvmod_param *params;	/* [n_params] */

	/*
	 * The parameters are filled in and in range; checks what they mean
	 * together and for this model. Optional. [may block]
	 */
	int32_t (*open)(void *self, const struct kvmod_model *model);
	void (*close)(void *self);	/* optional */

	/* After open. Optional: a policy without it needs nothing but lengths. */
	int32_t (*needs)(void *self, struct kvmod_needs *needs);

	/* A sequence starts, and ends: *state is the policy's own. Both optional. */
	int32_t (*begin)(void *self, uint64_t sequence, void **state);
	void (*end)(void *self, uint64_t sequence, void *state);

	/* Scratch that compress will find in the request. Optional: none. */
	int32_t (*workspace)(void *self, const struct kvmod_request *request,
			     struct kvmod_workspace *need);

	/*
	 * Decides. plan comes with every segment as KVMOD_KEEP_ALL. Required.
	 * The hot path: no I/O, no lock, no allocation on an accelerator.
	 */
	int32_t (*compress)(void *self, const struct kvmod_request *request,
			    struct kvmod_plan *plan);
};

#ifdef __cplusplus
}
#endif
#endif
