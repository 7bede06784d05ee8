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
			uint32_t n = kv_ranked(job, kvmod_head_at(segment, g)->n), count = 0;

			for (uint32_t at = 0; at < n; at++)
				count += (double)scores[at] >= level;
			keep->counts[g] = count;
		}
	}
	kv_each_head(&job->self->instance, job->request, job->plan, job->scratch, floats, kv_keep_shared, job);
}

static double level_at(const struct kv_scorer_job *job, uint32_t k)
{
	return k < job->ops->n_levels ? job->ops->level_at(job->self, k) : -INFINITY;
}

/* The newest tokens that are run again: not more than half of what the sequence has seen. */
static uint32_t rows(const struct kv_scorer_job *job)
{
	uint64_t half = kvmod_tokens_seen(kvmod_segment_at(job->request, 0)) / 2;
	uint64_t wanted = (uint64_t)job->self->replay_rows;

	return (uint32_t)(wanted < half ? wanted : half);
}

/* Plans a level, and measures it. */
static int32_t try_level(const struct kv_scorer_job *job, size_t floats, uint32_t k, bool *good)
{
	double loss = 0;
	int32_t err;

	keep_above(job, floats, level_at(job, k));
	err = job->request->replay(job->request, job->plan, rows(job), &loss);
	*good = loss <= job->self->loss;
	return err;
}

/* Bisects: where a lower level keeps more, it loses less. */
static int32_t find(const struct kv_scorer_job *job, size_t floats, double *level)
{
	uint32_t low = 0, high = job->ops->n_levels;
	bool good = true;
	int32_t err = KVMOD_OK;

	while (low < high && err == KVMOD_OK) {
		uint32_t middle = (low + high) / 2;

		err = try_level(job, floats, middle, &good);
		if (good)
			high = middle;
		else
			low = middle + 1;
	}
	/* Even everything may lose too much, by what it is stored as. */
	good = true;
	if (err == KVMOD_OK && high == job->ops->n_levels)
		err = try_level(job, floats, high, &good);
	for (uint32_t i = 0; i < job->request->n_segments && !good; i++)
		kvmod_keep_at(job->plan, i)->k_store = kvmod_keep_at(job->plan, i)->v_store = KVMOD_STORE_SAME;
	*level = level_at(job, high);
	return err;
}

int32_t kv_keep_by_loss(const struct kv_scorer_job *job, size_t floats)
{
	const struct kvmod_host *host = job->self->instance.host;
	double level = job->self->level;
	int32_t err = KVMOD_OK;

	if (job->request->replay && rows(job) > 0) {
		err = find(job, floats, &level);
	} else if (!job->self->said_level) {
		job->self->said_level = 1;
		host->log(host->ctx, KVMOD_NOTE, "the host cannot replay tokens: every score of at least %g is "
			  "kept", level);
	}
	if (err == KVMOD_OK)
		keep_above(job, floats, level);
	return err;
}
