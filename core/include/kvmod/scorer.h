/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/scorer.h - a policy whose author only says what a position is worth.
 *
 *	#define PARAMS(P, owner) \
 *		KVMOD_P_BUDGET(P, owner, "0.25") \
 *		KVMOD_P_WINDOW(P, owner, "32")
 *
 *	static int32_t score(const void *self, const struct kvmod_task *head, float *out);
 *
 *	KVMOD_SCORER(mine, struct kvmod_scorer, PARAMS, "1.0", "Apache-2.0", "Me <me@here>",
 *		     "keeps what I like", .score = score, .what = KVMOD_NEED_K);
 *
 * is a whole module. The toolkit does the rest: it selects positions, uses the host's
 * threads, applies the budget, keeps layers whole, and reports errors. Sinks and
 * window are always kept; a smaller budget is raised to them, with one warning. Of
 * equal scores the older position is kept, and each head keeps at least one position.
 * A score that is not finite fails its segment with KVMOD_ENUMERIC.
 */
#ifndef KVMOD_SCORER_H
#define KVMOD_SCORER_H

#include <kvmod/toolkit.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * What the instance of a scorer starts with: the standard parameters. A parameter that
 * the author does not list is 0 and has no effect. Frozen. An author with further
 * parameters has a struct that begins with this one:
 *
 *	struct mine {
 *		struct kvmod_scorer scorer;
 *		double alpha;
 *	};
 */
struct kvmod_scorer {
	struct kvmod_instance instance;
	struct kvmod_amount budget;	/* positions kept per KV head; the mean, if heads share */
	int64_t sinks;			/* oldest positions, always kept */
	int64_t window;			/* newest positions, always kept */
	int64_t pool;			/* width of the pooling of scores, odd */
	int64_t decode_every;		/* cut again after so many decoded tokens */
	double level;			/* see KVMOD_ABOVE_LEVEL */
	struct kvmod_list whole_layers;	/* layers kept whole */
	int32_t pooling;		/* KVMOD_POOL_... */
	uint32_t said_raised;		/* the toolkit's own */
	double loss;			/* see KVMOD_BY_LOSS */
	int64_t replay_rows;		/* newest tokens that are run again to measure it */
	int32_t store;			/* what kept rows are stored as: KVMOD_STORES_... */
	uint32_t said_level;		/* the toolkit's own */
};

/* The standard parameters; the author chooses each default. */
#define KVMOD_P_BUDGET(P, owner, def) \
	P(owner, struct kvmod_scorer, budget, AMOUNT, def, "0..", \
	  "positions kept per KV head (the mean, if heads share): a fraction of the tokens " \
	  "seen, or a count")
#define KVMOD_P_SINKS(P, owner, def) \
	P(owner, struct kvmod_scorer, sinks, INT, def, "0..1024", \
	  "oldest positions, always kept")
#define KVMOD_P_WINDOW(P, owner, def) \
	P(owner, struct kvmod_scorer, window, INT, def, "1..4096", \
	  "newest positions, always kept")
/* The same parameter, for scores that are computed from the newest queries. */
#define KVMOD_P_PROBES(P, owner, def) \
	P(owner, struct kvmod_scorer, window, INT, def, "1..4096", \
	  "newest positions, always kept; their queries are the probes")
#define KVMOD_P_WHOLE_LAYERS(P, owner, def) \
	P(owner, struct kvmod_scorer, whole_layers, LIST, def, "0..", \
	  "layers kept whole: a number of first layers, or a list")
#define KVMOD_P_POOL(P, owner, def) \
	P(owner, struct kvmod_scorer, pool, INT, def, "1..255", \
	  "width of the pooling of scores, odd; 1: none")
#define KVMOD_P_POOLING(P, owner, def) \
	P(owner, struct kvmod_scorer, pooling, CHOICE, def, KVMOD_POOLINGS, \
	  "how scores are pooled")
#define KVMOD_P_DECODE_EVERY(P, owner, def) \
	P(owner, struct kvmod_scorer, decode_every, INT, def, "0..1000000", \
	  "decoded tokens from one cut to the next; 0: cut after prompts only")
#define KVMOD_P_LEVEL(P, owner, def) \
	P(owner, struct kvmod_scorer, level, REAL, def, "", \
	  "lowest score that is kept")
#define KVMOD_P_LOSS(P, owner, def) \
	P(owner, struct kvmod_scorer, loss, REAL, def, "0..", \
	  "nats a token that a cut may cost, measured on the newest tokens")
#define KVMOD_P_REPLAY_ROWS(P, owner, def) \
	P(owner, struct kvmod_scorer, replay_rows, INT, def, "1..4096", \
	  "newest tokens that are run again to measure the loss; at most half of all")
#define KVMOD_P_STORE(P, owner, def) \
	P(owner, struct kvmod_scorer, store, CHOICE, def, KVMOD_STORES, \
	  "what kept rows are stored as; same: as [kvmod] store says")

/*
 * How positions are selected: those with the highest scores, as many as the budget C
 * leaves after sinks and window.
 */
#define KVMOD_PER_HEAD		0u	/* C for each KV head */
#define KVMOD_PER_LAYER		1u	/* C in the mean: the KV heads of a layer compete for the sum */
/*
 * The same, but all KV heads of the request compete: of all its layers, which the needs ask
 * for, and of all sequences that the host put into one request. Sessions put in one. A
 * fraction is of what all heads have seen together.
 */
#define KVMOD_PER_REQUEST	2u
#define KVMOD_ABOVE_LEVEL	3u	/* no budget: every score of at least `level` */
#define KVMOD_PER_SEQUENCE	4u	/* as KVMOD_PER_REQUEST, each sequence by itself */
/*
 * C for each layer, whose KV heads all keep the same positions: those with the highest sums
 * of the heads' scores. A layer whose heads differ in length fails with KVMOD_ENOTSUP.
 */
#define KVMOD_ONE_SET		5u
/*
 * No budget: every score of at least a level that all heads of the request share. It is the
 * highest of the author's levels at which the replayed loss of the plan is at most `loss`
 * (the request's service replay(), which the newest `replay_rows` tokens are run with). Where
 * the host has no such service, it is `level`, with one note.
 */
#define KVMOD_BY_LOSS		6u

/* Flags of a scorer. */
#define KVMOD_SCORER_POOLS	1u	/* score() pools by itself; the toolkit does not */

/* As `rows`: the value of the parameter `window`. */
#define KVMOD_ROWS_OF_WINDOW	UINT32_MAX

/*
 * For spread(): the layers of one sequence that are cut, in ascending order. A layer that
 * is kept whole, or for which score() or first() failed, is not among them.
 */
struct kvmod_layers {
	uint32_t size;
	uint32_t n_layers;
	/* How many scored positions the layers may keep together, one KV head of each. */
	uint64_t budget;
	const struct kvmod_segment *const *segments;	/* [n_layers] */
	const uint32_t *n_scored;	/* [n_layers]: of the layer's longest head */
	const double *sums;		/* [n_layers][n_sums]: over all heads of the layer */
};

/* What the author provides, in this order. Members left out are 0. */
struct kvmod_scorer_ops {
	uint32_t size;
	uint32_t reserved;
	/*
	 * out[i]: what position i of the head is worth, for i < head->m, all but the
	 * window; the higher, the better. Sinks are scored too, to be pooled. Returns 0
	 * or an error. self is the instance. Several threads at once, each for a head
	 * of its own; head->scratch has `floats` floats.
	 */
	int32_t (*score)(const void *self, const struct kvmod_task *head, float *out);
	uint32_t select;		/* KVMOD_PER_HEAD, ... */
	uint32_t what;			/* KVMOD_NEED_...: what score() reads */
	uint32_t rows;			/* newest rows of queries; KVMOD_ROWS_OF_WINDOW */
	uint32_t flags;			/* KVMOD_SCORER_... */
	/* Optional: the floats of scratch that a call of score(), first() or keep() needs. */
	size_t (*floats)(const void *self, const struct kvmod_request *request);
	/*
	 * Optional, with KVMOD_PER_LAYER: changes how many of its scored positions each
	 * of the layer's n_heads keeps. counts has how many of the layer's heaviest are
	 * the head's; each head's equal share would be `own`. What exceeds a head's
	 * positions goes to the layer's other heads. Not called where the layer keeps all.
	 */
	void (*share)(const void *self, uint64_t own, uint32_t n_heads, uint32_t *counts);
	/* Optional: checks the author's own parameters, and the model. */
	int32_t (*open)(void *self, const struct kvmod_model *model);
	/*
	 * In place of score() and of all selection, for rules that are no ranking: keeps
	 * positions of a head with a keep_...() call of the toolkit. Threads, scratch and
	 * errors are those of score(). Of the standard parameters only whole_layers and
	 * decode_every have an effect; budget has one with least().
	 */
	int32_t (*keep)(const void *self, const struct kvmod_task *head);
	/*
	 * Optional: the budget of each KV head of a segment, in place of c, which is what the
	 * parameter `budget` buys; like c, it includes sinks and window. Not called where c is
	 * all tokens seen. An answer below sinks plus window is raised to them.
	 */
	uint64_t (*budget)(const void *self, const struct kvmod_request *request,
			   const struct kvmod_segment *segment, uint64_t c);
	/*
	 * Optional: sets marks[i] to 1 for each of the head's first m positions that is kept
	 * before all others, whatever its score. Of more than the budget buys, the older
	 * come first. head->notes has what score() left there, and head->sums the sums over
	 * all heads of the layer. Threads, scratch and errors are those of score().
	 */
	int32_t (*first)(const void *self, const struct kvmod_task *head, uint8_t *marks);
	/*
	 * Optional, with KVMOD_PER_SEQUENCE, in place of the competition: how many of its
	 * scored positions each KV head of a layer keeps, counts[n_layers], 0 at first. A head
	 * that has fewer keeps all of them. Not called where everything is kept.
	 */
	void (*spread)(const void *self, const struct kvmod_layers *layers, uint32_t *counts);
	/*
	 * How many numbers score() adds to in head->sums: first() and spread() get their sums
	 * over the heads of a layer. Not with KVMOD_PER_HEAD and KVMOD_ABOVE_LEVEL, which do
	 * not wait for a layer's other heads.
	 */
	uint32_t n_sums;
	uint32_t reserved3;
	/*
	 * Optional, for a policy that does not cut whenever it is asked: 0 if this request
	 * is to be left whole.
	 */
	int32_t (*cuts)(const void *self, const struct kvmod_request *request);
	/*
	 * Optional: finds once what score() needs in all heads, such as the answer of a
	 * service of the request. Called on the thread of compress(), where services may be
	 * called, before the first score(), and only if something may be cut. memory is
	 * head->prepared from then on. After an error everything stays whole.
	 */
	int32_t (*prepare)(const void *self, const struct kvmod_request *request, float *memory);
	/* With prepare(): how many floats its memory has. */
	size_t (*prepared_floats)(const void *self, const struct kvmod_request *request);
	/* Optional: completes needs, which have what the members above and decode_every ask for. */
	int32_t (*needs)(const void *self, struct kvmod_needs *needs);
	/*
	 * With keep(), for a rule that obeys the parameter `budget`: how many of a head's n
	 * positions keep() always keeps. A smaller budget is raised to that, with one warning,
	 * and keep() raises its own in the same way: kvmod_budget_at_least(). It is not called
	 * for a layer whose heads are all within their budgets.
	 */
	uint32_t (*least)(const void *self, uint32_t n);
	/* With KVMOD_BY_LOSS: level k < n_levels of those that are tried, from the highest on.
	   If the loss is too large at the last one, everything is kept; if it is too large even
	   then, rows also stay in their types. */
	double (*level_at)(const void *self, uint32_t k);
	uint32_t n_levels;
	uint32_t reserved4;
	/* Optional, with KVMOD_BY_LOSS: the loss for this request, in place of the parameter. */
	double (*loss)(const void *self, const struct kvmod_request *request);
};

/* A constant: 1 if a list of parameters has `window`. */
#define KVMOD_IS_WINDOW_(owner, type, field, kind, def, range, help) \
	|| offsetof(type, field) == offsetof(struct kvmod_scorer, window)
#define KVMOD_HAS_WINDOW_(LIST) (0 LIST(KVMOD_IS_WINDOW_, ))

/*
 * Only the policy, for a module that contains more; defines the same names as
 * KVMOD_POLICY(). type: the instance, struct kvmod_scorer or a struct that starts with
 * it. LIST: the parameters. The remaining arguments are members of struct
 * kvmod_scorer_ops. A scorer without a window may drop the newest position.
 */
#define KVMOD_SCORER_POLICY(name_, type_, LIST, description_, devices_, ...) \
	/* Refused here: an instance that does not start with struct kvmod_scorer. */ \
	typedef char name_##_starts_with_kvmod_scorer \
		[sizeof(type_) >= sizeof(struct kvmod_scorer) ? 1 : -1]; \
	static const struct kvmod_scorer_ops name_##_scorer = { \
		.size = sizeof(struct kvmod_scorer_ops), \
		__VA_ARGS__ \
	}; \
	static int32_t name_##_open(void *self, const struct kvmod_model *model) \
	{ \
		return kvmod_toolkit_of(self)->scorer_open(self, &name_##_scorer, model); \
	} \
	static int32_t name_##_needs(void *self, struct kvmod_needs *needs) \
	{ \
		return kvmod_toolkit_of(self)->scorer_needs(self, &name_##_scorer, needs); \
	} \
	static int32_t name_##_workspace(void *self, const struct kvmod_request *request, \
					 struct kvmod_workspace *need) \
	{ \
		return kvmod_toolkit_of(self)->scorer_workspace(self, &name_##_scorer, request, need); \
	} \
	static int32_t name_##_compress(void *self, const struct kvmod_request *request, \
					struct kvmod_plan *plan) \
	{ \
		return kvmod_toolkit_of(self)->scorer_compress(self, &name_##_scorer, request, plan); \
	} \
	KVMOD_POLICY(name_, type_, LIST, description_, \
		     KVMOD_HAS_WINDOW_(LIST) ? 0 : KVMOD_POLICY_MAY_DROP_NEWEST, devices_, \
		     .open = name_##_open, .needs = name_##_needs, .workspace = name_##_workspace, \
		     .compress = name_##_compress)

/* A whole module of one such policy. */
#define KVMOD_SCORER(name_, type_, LIST, version_, license_, author_, description_, ...) \
	KVMOD_SCORER_POLICY(name_, type_, LIST, description_, "cpu", __VA_ARGS__) \
	KVMOD_MODULE(#name_, version_, license_, author_, description_, 0, name_##_init, NULL)

#ifdef __cplusplus
}
#endif
#endif
