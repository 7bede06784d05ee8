/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the level of scores at which the host measures a loss that is small enough. */
#include "core/toolkit/scorer.h"

#include <math.h>

static void keep_above(const struct kv_scorer_job *job, size_t floats, double level)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);
		struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);

		for (uint32_t g = 0; g < segment->n_kv_heads && kv_is_cut(keep); g++) {
			const float *scores = job->scores + job->begin[kv_head_number(job, i, g)] + job->sinks;
			uint32_t n = kv_ranked(job, kvmod_head_at(segment, g)->n);

			keep->counts[g] = kv_count_at_least(scores, n, level);
		}
	}
	kv_each_head(&job->self->instance, job->request, job->plan, job->scratch, floats, kv_keep_shared, job);
}

static double level_at(const struct kv_scorer_job *job, uint32_t k)
{
	return k < job->ops->n_levels ? job->ops->level_at(job->self, k) : -INFINITY;
}

static uint32_t rows(const struct kv_scorer_job *job)
{
	return kv_rows_to_replay(kvmod_tokens_seen(kvmod_segment_at(job->request, 0)),
				 (uint64_t)job->self->replay_rows);
}

/* The loss that a cut may cost. */
static double most(const struct kv_scorer_job *job)
{
	if (KVMOD_HAS(job->ops, loss) && job->ops->loss)
		return job->ops->loss(job->self, job->request);
	return job->self->loss;
}

/* Plans a level, and measures it. */
static int32_t try_level(const struct kv_scorer_job *job, size_t floats, uint32_t k, bool *good)
{
	double loss = 0;
	int32_t err;

	keep_above(job, floats, level_at(job, k));
	err = job->request->replay(job->request, job->plan, rows(job), &loss);
	*good = loss <= most(job);
	return err;
}

/* What is stored as another type loses too much, even if all of it is kept. */
static void store_unchanged(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);

		keep->k_store = keep->v_store = KVMOD_STORE_SAME;
	}
}

/*
 * Bisects: where a lower level keeps more, it loses less. The plan is then that of the highest
 * level that is good, or else keeps everything.
 */
static int32_t find(const struct kv_scorer_job *job, size_t floats)
{
	uint32_t low = 0, n = job->ops->n_levels, high = n, tried = n;
	bool good = true;
	int32_t err = KVMOD_OK;

	while (low < high && err == KVMOD_OK) {
		tried = (low + high) / 2;
		err = try_level(job, floats, tried, &good);
		if (good)
			high = tried;
		else
			low = tried + 1;
	}
	if (err != KVMOD_OK)
		return err;
	if (high == n) {
		err = try_level(job, floats, n, &good);
		if (err == KVMOD_OK && !good)
			store_unchanged(job);
	} else if (tried != high) {
		keep_above(job, floats, level_at(job, high));
	}
	return err;
}

int32_t kv_keep_by_loss(const struct kv_scorer_job *job, size_t floats)
{
	const struct kvmod_host *host = job->self->instance.host;

	if (job->request->replay && rows(job) > 0)
		return find(job, floats);
	if (!job->self->said_level)
		host->log(host->ctx, KVMOD_NOTE, "the host cannot replay tokens: every score of at least %g is "
			  "kept", job->self->level);
	job->self->said_level = 1;
	keep_above(job, floats, job->self->level);
	return KVMOD_OK;
}
