/* SPDX-License-Identifier: Apache-2.0 */
/* Divides a budget that KV heads share, by the scores in each head. */
#include "core/toolkit/scorer.h"

#include <math.h>

void kv_share_lay_out(const struct kv_scorer_job *job)
{
	size_t at = 0;

	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);
		bool cut = kv_is_cut(kvmod_keep_at(job->plan, i));

		for (uint32_t g = 0; g < job->extent.n_kv_heads; g++) {
			job->begin[kv_head_number(job, i, g)] = at;
			if (cut && g < segment->n_kv_heads)
				at += kv_ranked(job, kvmod_head_at(segment, g)->n);
		}
	}
	job->begin[kv_head_number(job, job->request->n_segments, 0)] = at;
}

/* Segments first .. end-1: their scores, and how many of these they may keep together. */
struct pot {
	uint32_t first, end;
	size_t n;
	uint64_t budget;
};

static size_t n_scores(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	size_t head = kv_head_number(job, i, g);

	return job->begin[head + 1] - job->begin[head];
}

static const float *scores_of(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	return job->scores + job->begin[kv_head_number(job, i, g)];
}

static struct pot pot_of(const struct kv_scorer_job *job, uint32_t first, uint32_t end)
{
	struct pot pot = { .first = first, .end = end };

	for (uint32_t i = first; i < end; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);

		if (!kv_is_cut(kvmod_keep_at(job->plan, i)))
			continue;
		pot.budget += segment->n_kv_heads * kv_own_budget(job, segment);
		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			pot.n += n_scores(job, i, g);
	}
	return pot;
}

static void count_all(const struct kv_scorer_job *job, const struct pot *pot)
{
	for (uint32_t i = pot->first; i < pot->end; i++)
		for (uint32_t g = 0; g < kvmod_segment_at(job->request, i)->n_kv_heads; g++)
			kvmod_keep_at(job->plan, i)->counts[g] = (uint32_t)n_scores(job, i, g);
}

/* A segment that failed takes no part in the selection. */
static void leave_out_failed(const struct kv_scorer_job *job, const struct pot *pot)
{
	for (uint32_t i = pot->first; i < pot->end; i++) {
		size_t end = job->begin[kv_head_number(job, i + 1, 0)];

		if (kvmod_keep_at(job->plan, i)->status == 0)
			continue;
		for (size_t k = job->begin[kv_head_number(job, i, 0)]; k < end; k++)
			job->scores[k] = -INFINITY;
	}
}

static uint32_t count_above(const float *scores, size_t n, uint32_t key)
{
	uint32_t count = 0;

	for (size_t k = 0; k < n; k++)
		count += kv_order(scores[k]) > key;
	return count;
}

/* Of equal scores the older position comes first, of equal positions that of the first head. */
static void count_ties(const struct kv_scorer_job *job, const struct pot *pot,
		       struct kv_selection selection)
{
	for (uint32_t at = 0; at < job->extent.n && selection.ties; at++)
		for (uint32_t i = pot->first; i < pot->end; i++) {
			struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);
			uint32_t n_heads = kvmod_segment_at(job->request, i)->n_kv_heads;

			for (uint32_t g = 0; g < n_heads && selection.ties; g++) {
				if (at >= n_scores(job, i, g) ||
				    kv_order(scores_of(job, i, g)[at]) != selection.key)
					continue;
				keep->counts[g]++;
				selection.ties--;
			}
		}
}

/* How many of the pot's heaviest positions each head has. */
static void count_heaviest(const struct kv_scorer_job *job, const struct pot *pot)
{
	const float *scores = scores_of(job, pot->first, 0);
	size_t n = job->begin[kv_head_number(job, pot->end, 0)] -
		   job->begin[kv_head_number(job, pot->first, 0)];
	struct kv_selection selection;

	leave_out_failed(job, pot);
	selection = kv_heaviest(scores, n, pot->budget);
	for (uint32_t i = pot->first; i < pot->end; i++)
		for (uint32_t g = 0; g < kvmod_segment_at(job->request, i)->n_kv_heads; g++)
			kvmod_keep_at(job->plan, i)->counts[g] =
				count_above(scores_of(job, i, g), n_scores(job, i, g), selection.key);
	count_ties(job, pot, selection);
}

void kv_share_request(const struct kv_scorer_job *job)
{
	struct pot pot = pot_of(job, 0, job->request->n_segments);

	if (pot.budget < pot.n)
		count_heaviest(job, &pot);
	else
		count_all(job, &pot);
}

/*
 * Heads that have fewer positions than their share give the rest to those that have
 * more: in equal parts, and the remainder to the first of them.
 */
static void hand_on(const struct kv_scorer_job *job, uint32_t i, uint64_t excess, uint32_t *counts)
{
	uint32_t n_heads = kvmod_segment_at(job->request, i)->n_kv_heads;

	while (excess > 0) {
		uint32_t n_open = 0;
		uint64_t each;

		for (uint32_t g = 0; g < n_heads; g++)
			n_open += counts[g] < n_scores(job, i, g);
		if (n_open == 0)
			return;
		each = excess > n_open ? excess / n_open : 1;
		for (uint32_t g = 0; g < n_heads && excess > 0; g++) {
			uint64_t room = n_scores(job, i, g) - counts[g];
			uint64_t more = room < each ? room : each;

			counts[g] += (uint32_t)more;
			excess -= more;
		}
	}
}

/* The author's own share(); what it gives to heads that have less goes to the others. */
static void reshare(const struct kv_scorer_job *job, uint32_t i, uint32_t *counts)
{
	const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);
	uint64_t excess = 0;

	job->ops->share(job->self, kv_own_budget(job, segment), segment->n_kv_heads, counts);
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		uint32_t most = (uint32_t)n_scores(job, i, g);

		if (counts[g] <= most)
			continue;
		excess += counts[g] - most;
		counts[g] = most;
	}
	hand_on(job, i, excess, counts);
}

void kv_share_layers(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);
		struct pot pot = pot_of(job, i, i + 1);

		if (!kv_is_cut(keep))
			continue;
		if (pot.budget >= pot.n) {
			count_all(job, &pot);
			continue;
		}
		count_heaviest(job, &pot);
		if (job->ops->share)
			reshare(job, i, keep->counts);
	}
}
