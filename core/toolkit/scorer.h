/* SPDX-License-Identifier: Apache-2.0 */
/* One decision of a scorer, shared by scorer.c and share.c. */
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
	 * Where heads share: the scores between sinks and window of all heads, end to
	 * end, and where those of each begin.
	 */
	float *scores;
	size_t *begin;			/* [n_segments * extent.n_kv_heads + 1] */
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

/* Will the segment be cut, as far as is known yet? */
static inline bool kv_is_cut(const struct kvmod_keep *keep)
{
	return keep->kind == KVMOD_KEEP_HEADS && keep->status == 0;
}

/* Sets job->begin: where the scores of each head go. */
void kv_share_lay_out(const struct kv_scorer_job *job);
/* Sets keep->counts from the scores of all heads: how many scored positions each keeps. */
void kv_share_layers(const struct kv_scorer_job *job);
void kv_share_request(const struct kv_scorer_job *job);

#endif
