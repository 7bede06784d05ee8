/* SPDX-License-Identifier: Apache-2.0 */
/* Divides a budget that KV heads share, by the scores in each head. */
#include "core/toolkit/scorer.h"

#include <math.h>

static const struct kvmod_segment *segment_at(const struct kv_scorer_job *job, uint32_t k)
{
	return kvmod_segment_at(job->request, job->order[k]);
}

static struct kvmod_keep *keep_at(const struct kv_scorer_job *job, uint32_t k)
{
	return kvmod_keep_at(job->plan, job->order[k]);
}

/* --- what competes -------------------------------------------------------------------- */

/* Places first .. end-1 of job->order: the segments whose heads share. */
struct pot {
	uint32_t first, end;
	size_t n;			/* scored positions */
	uint64_t budget;		/* how many of these may be kept */
};

/* Scored positions that compete: not the sinks, and none of a segment that stays whole. */
static uint32_t n_ranked(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	return kvmod_keep_at(job->plan, i)->kind == KVMOD_KEEP_HEADS ?
	       kv_ranked(job, kvmod_head_at(kvmod_segment_at(job->request, i), g)->n) : 0;
}

/* Scores that are stored, the sinks' too. */
static uint32_t n_scores(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	uint32_t n = n_ranked(job, i, g);

	return n ? job->sinks + n : 0;
}

static const float *scores_of(const struct kv_scorer_job *job, uint32_t i, uint32_t g)
{
	return job->scores + job->begin[kv_head_number(job, i, g)];
}

static uint32_t end_of_pot(const struct kv_scorer_job *job, uint32_t first)
{
	uint32_t end = first + 1, n = job->request->n_segments;

	if (job->ops->select == KVMOD_PER_LAYER)
		return end;
	if (job->ops->select == KVMOD_PER_REQUEST)
		return n;
	while (end < n && segment_at(job, end)->sequence == segment_at(job, first)->sequence)
		end++;
	return end;
}

/* What the marked segments may keep together, sinks and windows included. */
static uint64_t bought(const struct kv_scorer_job *job, uint32_t first, uint32_t end)
{
	const struct kvmod_amount *amount = &job->self->budget;
	uint64_t sum = 0, seen = 0, together;

	for (uint32_t k = first; k < end; k++) {
		const struct kvmod_segment *segment = segment_at(job, k);

		if (!kv_is_cut(keep_at(job, k)))
			continue;
		sum += segment->n_kv_heads * kv_scorer_budget(job, segment);
		seen += segment->n_kv_heads * kvmod_tokens_seen(segment);
	}
	if (job->ops->select != KVMOD_PER_REQUEST || job->ops->budget || amount->is_count)
		return sum;
	/* Rounded down once, not for each head. */
	together = kvmod_amount_of(amount, seen);
	return together > sum ? together : sum;
}

static struct pot pot_at(const struct kv_scorer_job *job, uint32_t first)
{
	struct pot pot = { .first = first, .end = end_of_pot(job, first) };

	pot.budget = bought(job, first, pot.end);
	for (uint32_t k = first; k < pot.end; k++) {
		const struct kvmod_segment *segment = segment_at(job, k);

		if (!kv_is_cut(keep_at(job, k)))
			continue;
		pot.budget -= segment->n_kv_heads * (job->sinks + job->window);
		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			pot.n += n_ranked(job, job->order[k], g);
	}
	return pot;
}

/* --- before there are scores ---------------------------------------------------------- */

static bool comes_after(const struct kvmod_segment *a, const struct kvmod_segment *b)
{
	return a->sequence > b->sequence || (a->sequence == b->sequence && a->layer > b->layer);
}

/* Hosts name segments in this order or nearly so. */
static void sort_segments(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);
		uint32_t k = i;

		for (; k > 0 && comes_after(segment_at(job, k - 1), segment); k--)
			job->order[k] = job->order[k - 1];
		job->order[k] = i;
	}
}

/* Do the marked segments together cache more than their budgets buy? */
static bool is_over(const struct kv_scorer_job *job, const struct pot *pot)
{
	uint64_t n = 0;

	for (uint32_t k = pot->first; k < pot->end; k++) {
		const struct kvmod_segment *segment = segment_at(job, k);

		for (uint32_t g = 0; g < segment->n_kv_heads && kv_is_cut(keep_at(job, k)); g++)
			n += kvmod_head_at(segment, g)->n;
	}
	return n > bought(job, pot->first, pot->end);
}

static void leave_whole_if_within(const struct kv_scorer_job *job, const struct pot *pot)
{
	if (job->ops->select == KVMOD_PER_LAYER || job->ops->select == KVMOD_BY_LOSS || is_over(job, pot))
		return;
	for (uint32_t k = pot->first; k < pot->end; k++)
		keep_at(job, k)->kind = KVMOD_KEEP_ALL;
}

void kv_share_lay_out(const struct kv_scorer_job *job)
{
	uint32_t n_heads = job->request->n_segments * job->extent.n_kv_heads;
	size_t at = 0;
	struct pot pot;

	memset(job->sums, 0, (size_t)n_heads * job->ops->n_sums * sizeof(*job->sums));
	sort_segments(job);
	for (uint32_t k = 0; k < job->request->n_segments; k = pot.end) {
		pot = pot_at(job, k);
		leave_whole_if_within(job, &pot);
	}
	for (uint32_t k = 0; k < job->request->n_segments; k++)
		for (uint32_t g = 0; g < segment_at(job, k)->n_kv_heads; g++) {
			job->begin[kv_head_number(job, job->order[k], g)] = at;
			at += n_scores(job, job->order[k], g);
		}
}

/* --- competition ------------------------------------------------------------------------ */

static void count_all(const struct kv_scorer_job *job, const struct pot *pot)
{
	for (uint32_t k = pot->first; k < pot->end; k++)
		for (uint32_t g = 0; g < segment_at(job, k)->n_kv_heads; g++)
			keep_at(job, k)->counts[g] = n_ranked(job, job->order[k], g);
}

/* A segment that failed takes no part. Returns how many scores are stored for the pot. */
static size_t leave_out_failed(const struct kv_scorer_job *job, const struct pot *pot)
{
	size_t all = 0;

	for (uint32_t k = pot->first; k < pot->end; k++) {
		uint32_t i = job->order[k];
		size_t begin = job->begin[kv_head_number(job, i, 0)], n = 0;

		for (uint32_t g = 0; g < segment_at(job, k)->n_kv_heads; g++)
			n += n_scores(job, i, g);
		for (size_t at = 0; at < n && keep_at(job, k)->status; at++)
			job->scores[begin + at] = -INFINITY;
		all += n;
	}
	return all;
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
		for (uint32_t k = pot->first; k < pot->end; k++) {
			uint32_t i = job->order[k], n_heads = segment_at(job, k)->n_kv_heads;

			for (uint32_t g = 0; g < n_heads && selection.ties; g++) {
				if (at >= n_scores(job, i, g) ||
				    kv_order(scores_of(job, i, g)[at]) != selection.key)
					continue;
				keep_at(job, k)->counts[g]++;
				selection.ties--;
			}
		}
}

/* How many of the pot's heaviest positions each head has. */
static void count_heaviest(const struct kv_scorer_job *job, const struct pot *pot)
{
	size_t n = leave_out_failed(job, pot);
	struct kv_selection selection =
		kv_heaviest(scores_of(job, job->order[pot->first], 0), n, pot->budget);

	for (uint32_t k = pot->first; k < pot->end; k++)
		for (uint32_t g = 0; g < segment_at(job, k)->n_kv_heads; g++)
			keep_at(job, k)->counts[g] = count_above(scores_of(job, job->order[k], g),
								 n_scores(job, job->order[k], g),
								 selection.key);
	count_ties(job, pot, selection);
}

/* --- the author's own ways ---------------------------------------------------------------- */

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
			n_open += counts[g] < n_ranked(job, i, g);
		if (n_open == 0)
			return;
		each = excess > n_open ? excess / n_open : 1;
		for (uint32_t g = 0; g < n_heads && excess > 0; g++) {
			uint64_t room = n_ranked(job, i, g) - counts[g];
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
		uint32_t most = n_ranked(job, i, g);

		if (counts[g] <= most)
			continue;
		excess += counts[g] - most;
		counts[g] = most;
	}
	hand_on(job, i, excess, counts);
}

/* The layers of a pot that are cut, as spread() gets them. */
static struct kvmod_layers layers_of(const struct kv_scorer_job *job, const struct pot *pot)
{
	const struct kv_spread *spread = &job->spread;
	uint32_t n = 0, n_sums = job->ops->n_sums;
	struct kvmod_layers layers = {
		.size = sizeof(layers), .segments = spread->segments, .n_scored = spread->n_scored,
		.sums = spread->sums,
	};

	for (uint32_t k = pot->first; k < pot->end; k++) {
		if (!kv_is_cut(keep_at(job, k)))
			continue;
		spread->segments[n] = segment_at(job, k);
		spread->n_scored[n] = kv_ranked(job, kvmod_longest_head(segment_at(job, k)));
		spread->counts[n] = 0;
		for (uint32_t s = 0; s < n_sums; s++)
			spread->sums[n * n_sums + s] = kv_sums_of(job, job->order[k], 0)[s];
		layers.budget += kv_own_budget(job, segment_at(job, k));
		n++;
	}
	layers.n_layers = n;
	return layers;
}

static void spread(const struct kv_scorer_job *job, const struct pot *pot)
{
	struct kvmod_layers layers = layers_of(job, pot);
	uint32_t n = 0;

	if (layers.n_layers)
		job->ops->spread(job->self, &layers, job->spread.counts);
	for (uint32_t k = pot->first; k < pot->end; k++) {
		if (!kv_is_cut(keep_at(job, k)))
			continue;
		for (uint32_t g = 0; g < segment_at(job, k)->n_kv_heads; g++) {
			uint32_t has = n_ranked(job, job->order[k], g);
			uint32_t count = job->spread.counts[n];

			keep_at(job, k)->counts[g] = count < has ? count : has;
		}
		n++;
	}
}

static void share(const struct kv_scorer_job *job, const struct pot *pot)
{
	if (pot->budget >= pot->n) {
		count_all(job, pot);
	} else if (job->ops->spread) {
		spread(job, pot);
	} else {
		count_heaviest(job, pot);
		if (job->ops->share)
			reshare(job, job->order[pot->first], keep_at(job, pot->first)->counts);
	}
}

void kv_share(const struct kv_scorer_job *job)
{
	struct pot pot;

	for (uint32_t k = 0; k < job->request->n_segments; k = pot.end) {
		pot = pot_at(job, k);
		share(job, &pot);
	}
}
