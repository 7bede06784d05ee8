/* SPDX-License-Identifier: Apache-2.0 */
/* One decision of a scorer, shared by scorer.c, share.c and level.c. */
#ifndef KV_CORE_TOOLKIT_SCORER_H
#define KV_CORE_TOOLKIT_SCORER_H

#include "core/toolkit/toolkit.h"

struct kv_scorer_job {
	struct kvmod_scorer *self;
	const struct kvmod_scorer_ops *ops;
	const struct kvmod_request *request;
	struct kvmod_plan *plan;
	struct kvmod_extent extent;
	uint32_t sinks, window;
	/*
	 * Where heads share: their segments by sequence and layer, the scores and notes of
	 * each head's first m positions, end to end in that order, and where those of each
	 * begin. A sink's score is -INFINITY. Sums are of a head, then of its whole layer.
	 */
	uint32_t *order;		/* [n_segments] */
	float *scores, *notes;
	size_t *begin;			/* [n_segments][extent.n_kv_heads] */
	double *sums;			/* [n_segments][extent.n_kv_heads][n_sums] */
	/* For spread(), with room for all segments. */
	struct kv_spread {
		const struct kvmod_segment **segments;
		uint32_t *n_scored, *counts;
		double *sums;
	} spread;
	float *prepared;		/* for prepare() */
	void *scratch;			/* the threads' */
};

/* C of a segment: the budget, but at least what is always kept. */
uint64_t kv_scorer_budget(const struct kv_scorer_job *job, const struct kvmod_segment *segment);

/* Positions of a head between sinks and window. */
static inline uint32_t kv_ranked(const struct kv_scorer_job *job, uint32_t n)
{
	uint32_t kept = job->sinks + job->window;

	return n > kept ? n - kept : 0;
}

/* How many of these the budget leaves to a head; a head may have fewer. */
static inline uint64_t kv_own_budget(const struct kv_scorer_job *job,
				     const struct kvmod_segment *segment)
{
	return kv_scorer_budget(job, segment) - job->sinks - job->window;
}

static inline size_t kv_head_number(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	return (size_t)i * job->extent.n_kv_heads + g;
}

static inline double *kv_sums_of(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	return job->sums + kv_head_number(job, i, g) * job->ops->n_sums;
}

static inline uint32_t kv_count_at_least(const float *scores, uint32_t n, double level)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < n; i++)
		count += (double)scores[i] >= level;
	return count;
}

/* Will the segment be cut, as far as is known yet? */
static inline bool kv_is_cut(const struct kvmod_keep *keep)
{
	return keep->kind == KVMOD_KEEP_HEADS && keep->status == 0;
}

/*
 * Sorts the segments, leaves those whole whose sequence or request is within its budget,
 * and sets job->begin.
 */
void kv_share_lay_out(const struct kv_scorer_job *job);
/* Sets keep->counts from the scores of all heads: how many scored positions each keeps. */
void kv_share(const struct kv_scorer_job *job);
/* Keeps as many of a head's scored positions as keep->counts says: for kv_each_head(). */
int32_t kv_keep_shared(const void *job, const struct kvmod_task *task);
/* With KVMOD_BY_LOSS: fills in the plan. */
int32_t kv_keep_by_loss(const struct kv_scorer_job *job, size_t floats);

#endif
