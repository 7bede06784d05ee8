/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/toolkit.h - building blocks of policies on the CPU: rows of K, V and Q as
 * floats, attention, pooling, selection, and work distributed over threads.
 *
 * It is an extension of the host, a table of functions that needs no linking:
 *
 *	KVMOD_USES(toolkit, KVMOD_TOOLKIT);		// in the module's metadata
 *	const struct kvmod_toolkit *kit = kvmod_toolkit_of(self);
 *
 * The toolkit is for policies on the CPU: calls that read rows need them in the
 * host's memory. The calls read all element types, with the SIMD that the processor
 * has; arithmetic is in float or better. A policy that only says what a position
 * is worth needs less than this: see kvmod/scorer.h.
 *
 * Results depend only on the inputs of a call, not on the number of threads.
 * Any thread may make a call unless its comment says otherwise.
 */
#ifndef KVMOD_TOOLKIT_H
#define KVMOD_TOOLKIT_H

#include <stdbool.h>

#include <kvmod/policy.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVMOD_TOOLKIT	"kvmod.toolkit/1"

/* Pooling, in the order of a parameter's words KVMOD_POOLINGS. */
#define KVMOD_POOLINGS		"average|max"
#define KVMOD_POOL_AVERAGE	0
#define KVMOD_POOL_MAX		1

/* Positions that attention processes at a time. */
#define KVMOD_TILE		384

struct kvmod_toolkit;
struct kvmod_attention;
struct kvmod_scorer_ops;

/*
 * One KV head to cut: the argument of the functions that each_head() calls. Invalid
 * when that function returns.
 */
struct kvmod_task {
	uint32_t size;
	uint32_t i, g;			/* segment i of the request, KV head g of the segment */
	uint32_t n;			/* positions that the head caches */
	uint32_t m;			/* in a scorer: the first m are scored; else n */
	uint32_t group;			/* query heads that share the KV head */
	const struct kvmod_toolkit *kit;
	const struct kvmod_request *request;
	const struct kvmod_segment *segment;
	const struct kvmod_head *head;
	struct kvmod_keep *keep;	/* the segment's */
	float *scratch;			/* the thread's own; 64-byte aligned, content undefined */
	void *work;			/* the toolkit's own */
	/*
	 * In a scorer with a budget: how many positions it buys this head, sinks and window
	 * included; the mean, if heads share.
	 */
	uint64_t budget;
	float *notes;			/* in a scorer with first(): [m], from score() to it */
	double *sums;			/* in a scorer with n_sums: [n_sums], 0 before score() */
	const float *prepared;		/* in a scorer with prepare(): what that left */
};

/* Returns 0, or the KVMOD_E... code for which the task's segment stays whole; see fail(). */
typedef int32_t kvmod_task_fn(const void *arg, const struct kvmod_task *task);

/*
 * Gets one row's attention, that of query head h of the group, to all n positions of the
 * head; 0 where the row does not see one. `attention` may be overwritten.
 */
typedef void kvmod_row_fn(void *arg, uint32_t row, uint32_t h, float *attention);

/*
 * Statistics of rows, for each dimension; an array that is NULL is not computed. The
 * variance is the population's (divided by the number of rows). NaN in a row makes mean
 * and variance NaN; smallest and largest ignore it.
 */
struct kvmod_stats {
	uint32_t size;
	uint32_t reserved;
	float *mean, *variance, *smallest, *largest;	/* [head_dim] */
};

struct kvmod_toolkit {
	uint32_t size;
	uint32_t reserved;

	/* --- rows -------------------------------------------------------------
	 * Rows begin .. end-1 of a view, such as head->k or head->v, each of `dim`
	 * elements (the segment's head_dim). For an empty range sum() writes zeros and
	 * the others write nothing. Numbers that are not finite propagate to the results;
	 * if the policy did not ask for the rows (view->data is NULL), all results are NaN.
	 */

	/* Rows as floats: row i goes to out + (i - begin) * stride; stride in floats. */
	void (*rows)(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		     float *out, size_t stride);
	/*
	 * Dot products with n_q vectors, [n_q][dim]: vector j with row i goes to
	 * out[j * stride + i - begin].
	 */
	void (*dots)(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		     const float *q, uint32_t n_q, float *out, size_t stride);
	/* out[i - begin]: Euclidean norm of row i. */
	void (*norms)(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		      float *out);
	/* out[dim]: sum of the rows, row i times weights[i - begin]; weights NULL: all 1. */
	void (*sum)(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		    const float *weights, float *out);
	/* Statistics of at least one row. */
	void (*stats)(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		      const struct kvmod_stats *out);

	/* --- attention --------------------------------------------------------
	 * Of the newest queries, rows of segment->q, which the policy's needs ask for.
	 * Row 0 is the oldest, segment->n_rows - 1 the newest. Attention is the softmax
	 * over all positions that a row sees: those at or before its own. Where the model
	 * has sink logits (segment->sink_logits) they take their share of it. Only within
	 * a task; KVMOD_ENUMERIC, with the reason set as fail() does, if it is not finite.
	 */

	/* Queries of rows row .. row + n_rows - 1, [n_rows][group][head_dim]. */
	void (*queries)(const struct kvmod_task *task, uint32_t row, uint32_t n_rows, float *out);
	/*
	 * Logits of these rows, scaled and capped, [n_rows][group], `stride` floats apart:
	 * one for each position that the newest of these rows sees. See kvmod_row_sees().
	 */
	void (*logits)(const struct kvmod_task *task, uint32_t row, uint32_t n_rows,
		       float *out, size_t stride);
	/*
	 * Softmax of n logits, in place, without sink logits. KVMOD_ENUMERIC, no reason
	 * set, if it is not finite.
	 */
	int32_t (*softmax)(float *x, size_t n);
	/* out[group][n]: the newest row's attention to each position; 0 if it does not see it. */
	int32_t (*last_attention)(const struct kvmod_task *task, float *out);
	/*
	 * out[m]: attention to the first m <= n positions, the mean over the newest n_rows
	 * rows (all, if there are fewer) and the query heads of the group.
	 */
	int32_t (*mean_attention)(const struct kvmod_task *task, uint32_t n_rows, uint32_t m,
				  float *out);
	/*
	 * SnapKV's score of the n - window positions before the window (none if n is at
	 * most window): mean_attention() of `window` rows, pooled.
	 */
	int32_t (*window_scores)(const struct kvmod_task *task, uint32_t window, uint32_t pool,
				 int32_t pooling, float *out);
	/*
	 * out[i] = average or maximum of in[i - width/2 .. i + width/2]; width is odd,
	 * and 0 counts as 1. Elements beyond the ends count as 0 in the average, which always
	 * divides by width, and are ignored by the maximum. in and out must not overlap.
	 */
	void (*pool)(const float *in, uint32_t n, uint32_t width, int32_t pooling, float *out);

	/* --- selection --------------------------------------------------------
	 * Scores must be finite; of equal scores the older position comes first. marks[i]
	 * is set to 1 for each selected position; other marks are left as they are.
	 */

	/* The `count` largest. */
	void (*mark_heaviest)(const float *scores, size_t n, size_t count, uint8_t *marks);
	/* As few of the largest as sum to at least `mass`; no score may be negative. */
	void (*mark_mass)(const float *scores, size_t n, double mass, uint8_t *marks);

	/* --- sets into the plan -----------------------------------------------
	 * These write what the task's head keeps, as a sorted list, to task->keep. Only in a
	 * task of a segment whose kind is KVMOD_KEEP_HEADS.
	 */

	void (*keep_whole)(const struct kvmod_task *task);
	/* The `count` heaviest of the head's first m <= n positions, and all after these m. */
	void (*keep_heaviest)(const struct kvmod_task *task, const float *scores, uint32_t m,
			      uint32_t count);
	/* The positions with marks[i] other than 0; i < n. */
	void (*keep_marked)(const struct kvmod_task *task, const uint8_t *marks);
	/*
	 * The positions of a list, in any order, with duplicates allowed. KVMOD_EINVAL, with
	 * a message, if one is not below n or the list has more than n.
	 */
	int32_t (*keep_listed)(const struct kvmod_task *task, const uint32_t *list, uint32_t n_listed);

	/* --- work distributed over threads -------------------------------------
	 * One task per KV head. [the thread that runs workspace() or compress()]
	 */

	/*
	 * Bytes of scratch that each_head() needs if each thread gets `floats` floats: for
	 * workspace() to ask for, besides what the policy itself uses.
	 */
	size_t (*scratch_bytes)(const struct kvmod_instance *self,
				const struct kvmod_request *request, size_t floats);
	/*
	 * Runs fn(arg, task) for each KV head of each segment whose kind is KVMOD_KEEP_HEADS
	 * and whose status is 0. The threads' memory is request->scratch from `scratch`,
	 * 64-byte aligned, to its end. A failure becomes the segment's status; the first
	 * one also sets the message. If several heads of a segment fail, which of them is
	 * reported depends on the threads.
	 */
	void (*each_head)(const struct kvmod_instance *self, const struct kvmod_request *request,
			  const struct kvmod_plan *plan, void *scratch, size_t floats,
			  kvmod_task_fn *fn, const void *arg);
	/*
	 * Sets the message for the failure of a task, and returns code: `return
	 * kit->fail(task, KVMOD_ENUMERIC, "key %u is not finite", i)`. [in the task]
	 */
	int32_t (*fail)(const struct kvmod_task *task, int32_t code, const char *format, ...)
		__attribute__((format(printf, 3, 4)));

	/* --- attention in parts -----------------------------------------------
	 * For policies that distribute one layer's work over host->parallel() by chunks of
	 * positions, not by KV heads. No task is needed; the caller provides the memory.
	 * For the attention of some rows to one KV head:
	 *
	 *	a = kit->parts_open(segment, g, n_rows, n_parts, memory);
	 *	kit->parts_scan(a, part, begin, end);	// all positions, each once
	 *	kit->parts_total(a);			// when all scans have returned
	 *	kit->parts_add(a, ...);			// of any positions, any number of times
	 *
	 * The caller chooses which positions make up a part, in one range or several;
	 * results depend only on that choice and on the order of the ranges in a part.
	 * Ranges of KVMOD_TILE positions are read fastest. Logits are not kept:
	 * parts_add() computes them again.
	 */

	/* Bytes of memory that parts_open() needs, a multiple of 64. */
	size_t (*parts_bytes)(const struct kvmod_segment *segment, uint32_t g, uint32_t n_rows,
			      uint32_t n_parts);
	/*
	 * For the newest n_rows rows of segment->q (all, if there are fewer) and KV head g.
	 * The object returned lies at `memory`, 64-byte aligned, needs no closing, and points
	 * to the segment, which must outlive it.
	 */
	struct kvmod_attention *(*parts_open)(const struct kvmod_segment *segment, uint32_t g,
					      uint32_t n_rows, uint32_t n_parts, void *memory);
	/*
	 * Adds positions begin .. end-1 to part < n_parts; positions that no row sees add
	 * nothing. [any thread; one at a time for each part]
	 */
	void (*parts_scan)(struct kvmod_attention *a, uint32_t part, uint32_t begin, uint32_t end);
	/* KVMOD_ENUMERIC, without a message, if attention is not finite. [one thread] */
	int32_t (*parts_total)(struct kvmod_attention *a);
	/*
	 * Of one row (0: the oldest of the n_rows) and query head h of the group: the
	 * share of its attention that lies in each part, and the sum of the squares of
	 * what it pays to each position there; [n_parts], NULL: not wanted. The shares of
	 * all parts add up to 1, or to less where the segment has sink_logits.
	 */
	void (*parts_shares)(const struct kvmod_attention *a, uint32_t row, uint32_t h,
			     double *share, double *squares);
	/*
	 * Adds `weight` times the attention of the newest n_rows of the rows (all, if there
	 * are fewer) to positions
	 * begin .. end-1, summed over these rows: for query head h to
	 * out[h * head_stride + i - begin]. With a head_stride of 0 it is also summed over
	 * the query heads of the group.
	 */
	void (*parts_add)(const struct kvmod_attention *a, uint32_t n_rows, uint32_t begin,
			  uint32_t end, float weight, float *out, size_t head_stride);

	/* --- scorers: for the macros of kvmod/scorer.h only ---------------------- */

	int32_t (*scorer_open)(void *self, const struct kvmod_scorer_ops *ops,
			       const struct kvmod_model *model);
	int32_t (*scorer_needs)(void *self, const struct kvmod_scorer_ops *ops,
				struct kvmod_needs *needs);
	int32_t (*scorer_workspace)(void *self, const struct kvmod_scorer_ops *ops,
				    const struct kvmod_request *request,
				    struct kvmod_workspace *need);
	int32_t (*scorer_compress)(void *self, const struct kvmod_scorer_ops *ops,
				   const struct kvmod_request *request, struct kvmod_plan *plan);

	/* --- more about attention and values -------------------------------------- */

	/*
	 * The attention of the newest n_rows rows (all, if there are fewer) one by one: calls
	 * fn for each of them, the oldest first, and for each query head of the group. For
	 * statistics over rows; keys are read as often as by mean_attention(), and errors are
	 * those of other calls about attention.
	 */
	int32_t (*each_row)(const struct kvmod_task *task, uint32_t n_rows, kvmod_row_fn *fn,
			    void *arg);
	/*
	 * out[n]: |Wo v|_1 of KV head g of the task's segment, the mean over its query heads, at
	 * the n positions that the task's head caches; 0 where head g no longer caches one.
	 * KVMOD_EINVAL, with the reason set as fail() does, if the policy's needs did not ask
	 * with KVMOD_NEED_WO_NORM. Only within a task.
	 */
	int32_t (*wo_norms)(const struct kvmod_task *task, uint32_t g, float *out);

	/* --- arrays of numbers ------------------------------------------------------ */

	double (*total)(const float *x, size_t n);
	/* The sum of -x ln(x + epsilon). No number is negative; epsilon is at least 1e-37. */
	double (*entropy)(const float *x, size_t n, float epsilon);
	/*
	 * Mean and spread of several arrays of n numbers, element by element: adds x, the
	 * count-th of them, to mean[n], and to squares[n], the sums of squares about the mean.
	 * Both are 0 before the first; in the end squares / (count - 1) is the variance.
	 */
	void (*moments)(const float *x, size_t n, uint32_t count, float *mean, float *squares);
	/* --- more about attention: within a task, and with the errors of the calls above ---- */

	/*
	 * out[m]: the most that any of the newest n_rows rows (all, if there are fewer) and
	 * query heads of the group pays to each of the first m <= n positions. With weights,
	 * [n] and not negative, a row's attention is first multiplied by them and divided by
	 * its new sum, over all that the row sees. With |v|_2 as weights that is each
	 * position's part in the output of attention. Sink logits have no value, so they then
	 * take no share. NULL: attention as it is. out and weights must not overlap.
	 */
	int32_t (*max_attention)(const struct kvmod_task *task, uint32_t n_rows, const float *weights,
				 uint32_t m, float *out);

	/* --- more about rows ------------------------------------------------------ */

	/*
	 * out[i - begin] = x'Mx + v.x, where x is row i: the quadratic form of `matrix`, M,
	 * which is symmetric, [dim][dim], and `vector`, v, [dim].
	 */
	void (*quadratic)(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
			  const float *matrix, const float *vector, float *out);
};

/*
 * The toolkit, for an instance of a policy. Not NULL in a module whose metadata has
 * KVMOD_USES(): a host without the toolkit does not load that module.
 */
static inline const struct kvmod_toolkit *kvmod_toolkit_of(const void *self)
{
	const struct kvmod_host *host = ((const struct kvmod_instance *)self)->host;

	return (const struct kvmod_toolkit *)host->get_extension(host->ctx, KVMOD_TOOLKIT);
}

/* Registers a policy in init(); fails with a message if the host has no toolkit. */
static inline int32_t kvmod_register_with_toolkit(const struct kvmod_host *host,
						  const struct kvmod_policy_ops *ops)
{
	if (host->get_extension(host->ctx, KVMOD_TOOLKIT))
		return host->register_policy(host->ctx, ops);
	/* In parentheses, as below: <check.h> has a macro of that name. */
	return (host->fail)(host->ctx, KVMOD_ENOTSUP, "%s needs the extension " KVMOD_TOOLKIT
			  ", which this kvmod does not offer", ops->name);
}

/*
 * A policy on the toolkit. Defines its metadata and parameters, the table `name_ops`,
 * and `name_init` for KVMOD_MODULE(). type: the instance. LIST: the parameters, as
 * KVMOD_PARAMS() takes them. The remaining arguments are the calls: members of struct
 * kvmod_policy_ops, in their order there.
 */
#define KVMOD_POLICY(name_, type_, LIST, description_, flags_, devices_, ...) \
	KVMOD_USES(name_, KVMOD_TOOLKIT); \
	KVMOD_PARAMS(policy, name_, LIST); \
	KVMOD_RUNS_ON(name_, devices_); \
	static const struct kvmod_policy_ops name_##_ops = { \
		.size = sizeof(struct kvmod_policy_ops), \
		.flags = (flags_), \
		.name = #name_, \
		.description = description_, \
		.devices = (devices_), \
		.instance_size = sizeof(type_), \
		.n_params = sizeof(name_##_params) / sizeof(*name_##_params), \
		.params = name_##_params, \
		__VA_ARGS__ \
	}; \
	static int32_t name_##_init(const struct kvmod_host *host) \
	{ \
		return kvmod_register_with_toolkit(host, &name_##_ops); \
	}

/* --- layers and lengths -------------------------------------------------------- */

/* Is the layer in a list parameter? A plain number N means the first N layers. */
static inline bool kvmod_layer_listed(const struct kvmod_list *list, uint32_t layer)
{
	if (list->plain)
		return list->n_items && layer < list->items[0];
	for (uint32_t i = 0; i < list->n_items; i++)
		if (list->items[i] == layer)
			return true;
	return false;
}

/* Do all KV heads cache equally many positions? Spans, the same for all heads, need that. */
static inline bool kvmod_same_lengths(const struct kvmod_segment *segment)
{
	for (uint32_t g = 1; g < segment->n_kv_heads; g++)
		if (kvmod_head_at(segment, g)->n != kvmod_head_at(segment, 0)->n)
			return false;
	return true;
}

/*
 * Of the layers that the request has of the segment's sequence: how many are there, and,
 * in *below, how many of them come before the segment's.
 */
static inline uint32_t kvmod_layers_of(const struct kvmod_request *request,
				       const struct kvmod_segment *segment, uint32_t *below)
{
	uint32_t n_layers = 0;

	*below = 0;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		if (s->sequence != segment->sequence)
			continue;
		n_layers++;
		*below += s->layer < segment->layer;
	}
	return n_layers;
}

/* The largest of each over all segments of a request. */
struct kvmod_extent {
	uint32_t n, n_kv_heads, head_dim;
	uint32_t group;			/* query heads that share a KV head */
};

static inline struct kvmod_extent kvmod_extent_of(const struct kvmod_request *request)
{
	struct kvmod_extent most = { 0, 0, 0, 0 };

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		uint32_t n = kvmod_longest_head(s), group = s->n_q_heads / s->n_kv_heads;

		most.n = n > most.n ? n : most.n;
		most.n_kv_heads = s->n_kv_heads > most.n_kv_heads ? s->n_kv_heads : most.n_kv_heads;
		most.head_dim = s->head_dim > most.head_dim ? s->head_dim : most.head_dim;
		most.group = group > most.group ? group : most.group;
	}
	return most;
}

/* The position, in tokens seen, of the i-th oldest that a head caches. */
static inline int64_t kvmod_position(const struct kvmod_head *head, uint32_t i)
{
	return head->positions ? head->positions[i] : (int64_t)i;
}

/* How many cached positions row `row` of segment->q sees: always the oldest ones. */
static inline uint32_t kvmod_row_sees(const struct kvmod_segment *segment,
				      const struct kvmod_head *head, uint32_t row)
{
	int64_t at = segment->row_positions ? segment->row_positions[row] :
		     (int64_t)segment->logical - segment->n_rows + row;
	uint32_t low = 0, high = head->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (kvmod_position(head, middle) <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* --- budgets -------------------------------------------------------------------- */

/*
 * The budget of kvmod_budget_of(), but at least `least`, the positions that are always
 * kept (sinks and window). A head that caches no more than that is kept whole.
 */
static inline uint64_t kvmod_budget_at_least(const struct kvmod_request *request,
					     const struct kvmod_segment *segment,
					     const struct kvmod_amount *budget, uint32_t least)
{
	uint64_t c = kvmod_budget_of(request, segment, budget);

	return c > least ? c : least;
}

/* If the budget is raised to `least`, logs a warning, once for an instance. */
static inline void kvmod_say_raised(const struct kvmod_instance *self,
				    const struct kvmod_request *request,
				    const struct kvmod_segment *segment,
				    const struct kvmod_amount *budget, uint32_t least,
				    uint32_t *said)
{
	uint64_t c = kvmod_budget_of(request, segment, budget), seen = kvmod_tokens_seen(segment);

	if (*said || c >= least || c >= seen)
		return;
	*said = 1;
	self->host->log(self->host->ctx, KVMOD_WARN,
			"a budget of %llu of %llu positions is below what is always kept: "
			"raised to %u", (unsigned long long)c, (unsigned long long)seen, least);
}

/*
 * Sets KVMOD_KEEP_HEADS for each segment in which some head is above its budget, and
 * logs once that a budget was raised.
 */
static inline void kvmod_mark_over_budget(const struct kvmod_instance *self,
					  const struct kvmod_request *request,
					  const struct kvmod_plan *plan,
					  const struct kvmod_amount *budget, uint32_t least,
					  uint32_t *said)
{
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		kvmod_say_raised(self, request, segment, budget, least, said);
		if (kvmod_longest_head(segment) >
		    kvmod_budget_at_least(request, segment, budget, least))
			kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	}
}

/* KVMOD_EINVAL, with a message, if a pooling width is even. */
static inline int32_t kvmod_check_pool(const struct kvmod_instance *self, int64_t pool)
{
	if (pool % 2)
		return KVMOD_OK;
	return (self->host->fail)(self->host->ctx, KVMOD_EINVAL,
				  "pool = %lld is even: the width of the pooling must be odd",
				  (long long)pool);
}

/* --- spans -------------------------------------------------------------------------- */

/* All KV heads keep the oldest `sinks` and the newest `recent` positions; sinks + recent < n. */
static inline void kvmod_keep_ends(struct kvmod_keep *keep, uint32_t n, uint32_t sinks,
				   uint32_t recent)
{
	struct kvmod_span *span = keep->spans;

	keep->kind = KVMOD_KEEP_SPANS;
	if (sinks) {
		span->begin = 0;
		span++->end = sinks;
	}
	if (recent) {
		span->begin = n - recent;
		span++->end = n;
	}
	keep->n_spans = (uint32_t)(span - keep->spans);
}

#ifdef __cplusplus
}
#endif
#endif
