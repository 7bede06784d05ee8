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
 * is a whole module. The toolkit does the rest: selection, threads, memory, budgets,
 * layers kept whole, and the messages. Sinks and window are always kept; a budget below
 * their sum is raised to it, with one warning. Of equal scores the older position
 * stays, and a head keeps at least one position. A score that is not finite fails its
 * segment with KVMOD_ENUMERIC.
 */
#ifndef KVMOD_SCORER_H
#define KVMOD_SCORER_H

#include <kvmod/toolkit.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The first member of a scorer's instance: the standard parameters. A parameter that
 * the author does not list is 0 and has no effect. Frozen. An author who adds parameters
 * defines a struct that starts with this one:
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
	int64_t pool;			/* width of the pooling of scores, in positions; odd */
	int64_t decode_every;		/* decoded tokens from one cut to the next */
	double level;			/* see KVMOD_ABOVE_LEVEL */
	struct kvmod_list whole_layers;	/* layers kept whole */
	int32_t pooling;		/* KVMOD_POOL_... */
	uint32_t said_raised;		/* the toolkit's own */
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
	  "newest positions, always kept; if queries rank the others, theirs do")
#define KVMOD_P_WHOLE_LAYERS(P, owner, def) \
	P(owner, struct kvmod_scorer, whole_layers, LIST, def, "0..", \
	  "layers kept whole: that many first ones, or a list")
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

/*
 * How positions are selected: those with the highest scores, as many as the budget C
 * leaves after sinks and window.
 */
#define KVMOD_PER_HEAD		0u	/* C for each KV head */
#define KVMOD_PER_LAYER		1u	/* C in the mean: the KV heads of a layer share */
#define KVMOD_PER_REQUEST	2u	/* the same, but all KV heads of the request share */
#define KVMOD_ABOVE_LEVEL	3u	/* no budget: every score of at least `level` */

/* As `rows`: the value of the parameter `window`. */
#define KVMOD_ROWS_OF_WINDOW	UINT32_MAX

/* What the author provides, in this order. Members left out are 0. */
struct kvmod_scorer_ops {
	uint32_t size;
	uint32_t reserved;
	/*
	 * Sets out[i] to the worth of the head's position i, for i < head->m: all but the
	 * window. Higher is better. Sinks are scored too, for pooling. Returns 0 or an
	 * error. self is the instance. Runs in several threads at once, in each for a
	 * different head; head->scratch has as many floats as floats() returned.
	 */
	int32_t (*score)(const void *self, const struct kvmod_task *head, float *out);
	uint32_t select;		/* KVMOD_PER_HEAD, ... */
	uint32_t what;			/* KVMOD_NEED_...: what score() reads */
	uint32_t rows;			/* newest rows of queries; KVMOD_ROWS_OF_WINDOW */
	uint32_t reserved2;
	/* Optional: the floats of scratch that a call of score() or keep() needs. */
	size_t (*floats)(const void *self, const struct kvmod_request *request);
	/*
	 * Optional, with KVMOD_PER_LAYER: changes how many of its scored positions each
	 * of the layer's n_heads heads keeps. On entry counts[h] is how many of the layer's
	 * heaviest positions are in head h; an equal share would be `own`. A count above
	 * what a head has goes to the layer's other heads. Not called if the layer keeps
	 * everything.
	 */
	void (*share)(const void *self, uint64_t own, uint32_t n_heads, uint32_t *counts);
	/* Optional: checks the author's own parameters, and the model. */
	int32_t (*open)(void *self, const struct kvmod_model *model);
	/*
	 * Replaces score() and the whole selection, for policies that do not rank: keeps
	 * positions of a head with a keep_...() call of the toolkit. Threads, scratch and
	 * errors as for score(). Of the standard parameters only whole_layers and
	 * decode_every have an effect.
	 */
	int32_t (*keep)(const void *self, const struct kvmod_task *head);
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
