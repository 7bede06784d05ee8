/* SPDX-License-Identifier: Apache-2.0 */
/* Policies that decide over layers, and CriticalKV, in double precision with plain loops. */
#include "tests/layers_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/refreekv_reference.h"

struct head {
	uint32_t n, m;			/* cached; before the window */
	double *score, *mean;		/* [m] */
	double recent;			/* of the w before the window: summed over heads and rows */
	double entropy, variance;
};

struct work {
	const struct kvmod_request *r;
	const struct layers_params *p;
	struct layers_answer *out;
	struct head *heads;		/* [n_segments][n_heads] */
	double *row, *pooled;		/* [stride] */
};

static const struct kvmod_segment *segment(const struct work *w, uint32_t i)
{
	return kvmod_segment_at(w->r, i);
}

static struct head *head(const struct work *w, uint32_t i, uint32_t g)
{
	return &w->heads[(size_t)i * w->out->n_heads + g];
}

static unsigned char *kept(const struct work *w, uint32_t i, uint32_t g)
{
	return w->out->kept + ((size_t)i * w->out->n_heads + g) * w->out->stride;
}

static uint32_t group_of(const struct kvmod_segment *s)
{
	return s->n_q_heads / s->n_kv_heads;
}

static uint64_t budget_of(const struct work *w, const struct kvmod_segment *s)
{
	uint64_t c = w->p->count ? w->p->count : s->logical * w->p->permille / 1000;

	return c > w->p->window ? c : w->p->window;
}

/* x was told from y, which it would be in no doubt if they were far apart. */
static void note(const struct work *w, double x, double y)
{
	double scale = fmax(fabs(x), fabs(y));

	if (x != y)
		w->out->tie = fmin(w->out->tie, fabs(x - y) / scale);
}

/* --- scores ------------------------------------------------------------------------------- */

static void pool(const struct work *w, const double *x, uint32_t m, bool max, double *out)
{
	int64_t half = w->p->pool / 2;

	for (int64_t i = 0; i < m; i++) {
		double sum = 0, most = 0;

		for (int64_t j = i - half; j <= i + half; j++) {
			sum += j >= 0 && j < m ? x[j] : 0;
			most = j >= 0 && j < m ? fmax(most, x[j]) : most;
		}
		out[i] = max ? most : sum / w->p->pool;
	}
}

static double sum_of(const double *x, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += x[i];
	return sum;
}

static double norm_at(const struct kvmod_segment *s, uint32_t g, uint32_t i)
{
	double sum = 0;

	for (uint32_t h = g * group_of(s); h < (g + 1) * group_of(s); h++)
		sum += *(const float *)(const void *)((const char *)s->wo_norm.data +
						      h * s->wo_norm.head_stride +
						      i * sizeof(float));
	return sum / group_of(s);
}

/* As above, for a position of the sequence; 0 if the head does not cache it. */
static double norm_of(const struct kvmod_segment *s, uint32_t g, int64_t position)
{
	const struct kvmod_head *h = kvmod_head_at(s, g);

	for (uint32_t i = 0; i < h->n; i++)
		if ((h->positions ? h->positions[i] : (int64_t)i) == position)
			return norm_at(s, g, i);
	return 0;
}

/* Rows first .. n_rows-1 of Q. */
static uint32_t first_row(const struct work *w, const struct kvmod_segment *s)
{
	return s->n_rows > w->p->window ? s->n_rows - w->p->window : 0;
}

/* Mean over rows and group; defensivekv's worst case is what is scored so far. */
static void see_row(struct work *w, const struct kvmod_segment *s, struct head *h)
{
	uint32_t m = h->m, from = m > w->p->window ? m - w->p->window : 0;
	double share = 1.0 / (s->n_rows - first_row(w, s)) / group_of(s), scale;

	for (uint32_t i = 0; i < m; i++)
		h->mean[i] += w->row[i] * share;
	h->recent += sum_of(w->row + from, m - from);
	if (w->p->rule != RULE_DEFENSIVEKV)
		return;
	pool(w, w->row, m, false, w->pooled);
	scale = sum_of(w->row, m) / sum_of(w->pooled, m);
	for (uint32_t i = 0; i < m; i++)
		h->score[i] = fmax(h->score[i], w->pooled[i] * scale);
}

/* Of one query head: its rows once for the mean, and once more for the variance. */
static void score_cake(struct work *w, const struct kvmod_segment *s, uint32_t q, struct head *h)
{
	uint32_t first = first_row(w, s), n = s->n_rows - first, m = h->m;
	double *mean = calloc(2 * (size_t)m + 1, sizeof(*mean)), *variance = mean + m;

	for (uint32_t row = first; mean && row < s->n_rows; row++) {
		reference_attention(s, row, q, w->row);
		for (uint32_t i = 0; i < m; i++) {
			mean[i] += w->row[i] / n;
			h->entropy -= w->row[i] * log(w->row[i] + 1e-10);
		}
	}
	for (uint32_t row = first; mean && row < s->n_rows && n > 1; row++) {
		reference_attention(s, row, q, w->row);
		for (uint32_t i = 0; i < m; i++)
			variance[i] += (w->row[i] - mean[i]) * (w->row[i] - mean[i]) / (n - 1);
	}
	for (uint32_t i = 0; mean && i < m; i++) {
		h->variance += variance[i];
		w->row[i] = mean[i] + w->p->gamma * variance[i];
	}
	pool(w, w->row, m, false, w->pooled);
	for (uint32_t i = 0; i < m; i++)
		h->score[i] += w->pooled[i] / group_of(s);
	free(mean);
}

static void weigh_defensive(const struct kvmod_segment *s, uint32_t g, struct head *h)
{
	const struct kvmod_head *cached = kvmod_head_at(s, g);
	double mean = sum_of(h->score, h->m) / h->m;

	for (uint32_t i = 0; i < h->m; i++) {
		double all = 0;

		for (uint32_t other = 0; other < s->n_kv_heads; other++)
			all += norm_of(s, other,
				       cached->positions ? cached->positions[i] : (int64_t)i);
		h->score[i] = fmax(h->score[i], mean) * (norm_at(s, g, i) / all);
	}
}

static void score_head(struct work *w, uint32_t i, uint32_t g)
{
	const struct kvmod_segment *s = segment(w, i);
	struct head *h = head(w, i, g);

	for (uint32_t q = g * group_of(s); q < (g + 1) * group_of(s); q++) {
		for (uint32_t row = first_row(w, s); row < s->n_rows; row++) {
			reference_attention(s, row, q, w->row);
			for (uint32_t k = 0; k < h->m; k++)
				w->out->failed[i] = w->out->failed[i] || !isfinite(w->row[k]);
			see_row(w, s, h);
		}
		if (w->p->rule == RULE_CAKE)
			score_cake(w, s, q, h);
	}
	if (w->p->rule == RULE_DEFENSIVEKV)
		weigh_defensive(s, g, h);
	if (w->p->rule == RULE_PYRAMIDKV || w->p->rule == RULE_CRITICALKV)
		pool(w, h->mean, h->m, w->p->pool_max, h->score);
}

/* --- sets ----------------------------------------------------------------------------------- */

/* The heaviest of the first m that is not taken, the older of equals; m: none. */
static uint32_t heaviest(const double *x, uint32_t m, const unsigned char *taken)
{
	uint32_t best = m;

	for (uint32_t i = 0; i < m; i++)
		if (!taken[i] && (best == m || x[i] > x[best]))
			best = i;
	return best;
}

/* Takes the `count` heaviest of those that are not taken. */
static void take(const struct work *w, const double *x, uint32_t m, uint64_t count,
		 unsigned char *taken)
{
	uint32_t last = m, at;

	for (; count > 0 && (at = heaviest(x, m, taken)) < m; count--) {
		taken[at] = 1;
		last = at;
	}
	at = heaviest(x, m, taken);
	if (last < m && at < m)
		note(w, x[last], x[at]);
}

static void keep_all(const struct work *w, uint32_t i)
{
	for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++)
		memset(kept(w, i, g), 1, head(w, i, g)->n);
}

static void keep_window(const struct work *w, uint32_t i, uint32_t g)
{
	memset(kept(w, i, g) + head(w, i, g)->m, 1, head(w, i, g)->n - head(w, i, g)->m);
}

/* --- each head by itself ------------------------------------------------------------------ */

/* Which of its sequence's layers a segment is, and how many there are. */
static uint32_t layer_of(const struct work *w, uint32_t i, uint32_t *n_layers)
{
	uint32_t below = 0;

	*n_layers = 0;
	for (uint32_t k = 0; k < w->r->n_segments; k++) {
		*n_layers += segment(w, k)->sequence == segment(w, i)->sequence;
		below += segment(w, k)->sequence == segment(w, i)->sequence &&
			 segment(w, k)->layer < segment(w, i)->layer;
	}
	return below;
}

static uint64_t budget_of_pyramid(const struct work *w, uint32_t i)
{
	int64_t c = (int64_t)budget_of(w, segment(w, i)), b = c - w->p->window;
	int64_t seen = (int64_t)segment(w, i)->logical, m = seen - w->p->window;
	int64_t low = b / w->p->beta, high = 2 * b - low;
	uint32_t n_layers, layer = layer_of(w, i, &n_layers);

	if (seen <= c || seen < 2 * b || n_layers == 1)
		return (uint64_t)c;
	if (high >= m) {
		high = m;
		low = 2 * b - high;
	}
	return (uint64_t)(w->p->window + high - layer * ((high - low) / (n_layers - 1)));
}

static void decide_pyramid(struct work *w, uint32_t i)
{
	uint64_t c = budget_of_pyramid(w, i);

	for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++) {
		struct head *h = head(w, i, g);

		keep_window(w, i, g);
		take(w, h->score, h->m, h->n <= c ? h->m : c - w->p->window, kept(w, i, g));
	}
}

static void decide_critical(struct work *w, uint32_t i)
{
	uint64_t c = budget_of(w, segment(w, i)), first = (uint64_t)(w->p->first * (double)c + 1e-6);

	for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++) {
		struct head *h = head(w, i, g);

		keep_window(w, i, g);
		if (h->n <= c) {
			memset(kept(w, i, g), 1, h->n);
			continue;
		}
		first = first > w->p->window ? first : w->p->window;
		take(w, h->score, h->m, first - w->p->window, kept(w, i, g));
		for (uint32_t k = 0; k < h->m; k++)
			w->row[k] = (h->score[k] + w->p->epsilon) * norm_at(segment(w, i), g, k);
		take(w, w->row, h->m, c - first, kept(w, i, g));
	}
}

/* --- all layers of a sequence -------------------------------------------------------------- */

/* The segments of a sequence that did not fail, from the first layer on. */
struct sequence {
	uint32_t n, i[64];
	uint64_t budget, cached, scored;	/* of all heads; budget: B of each */
};

static struct sequence sequence_of(const struct work *w, uint64_t number)
{
	struct sequence q = { 0 };

	for (uint32_t layer = 0; layer < w->r->n_layers; layer++)
		for (uint32_t i = 0; i < w->r->n_segments; i++)
			if (segment(w, i)->sequence == number && segment(w, i)->layer == layer &&
			    !w->out->failed[i] && q.n < 64)
				q.i[q.n++] = i;
	for (uint32_t k = 0; k < q.n; k++)
		for (uint32_t g = 0; g < segment(w, q.i[k])->n_kv_heads; g++) {
			q.budget += budget_of(w, segment(w, q.i[k])) - w->p->window;
			q.cached += head(w, q.i[k], g)->n;
			q.scored += head(w, q.i[k], g)->m;
		}
	return q;
}

/* All of it, where its budgets buy that much; `wanted` counts layers that failed, too. */
static bool is_within(const struct work *w, const struct sequence *q, uint64_t number)
{
	uint64_t wanted = 0, cached = 0;

	for (uint32_t i = 0; i < w->r->n_segments; i++)
		for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++) {
			if (segment(w, i)->sequence != number)
				continue;
			wanted += budget_of(w, segment(w, i));
			cached += head(w, i, g)->n;
		}
	return cached <= wanted || q->scored <= q->budget;
}

static void spread_evenly(const uint32_t *most, uint32_t n, uint64_t what, uint64_t *counts)
{
	uint64_t open = 0, nth = 0;

	for (uint32_t k = 0; k < n; k++)
		open += counts[k] < most[k];
	for (uint32_t k = 0; k < n && open; k++)
		if (counts[k] < most[k])
			counts[k] += what / open + (nth++ < what % open ? 1 : 0);
}

static void decide_cake(struct work *w, const struct sequence *q)
{
	double p[64], all = 0;
	uint64_t counts[64], budget = 0, excess = 0, given = 0;
	uint32_t most[64] = { 0 };

	for (uint32_t k = 0; k < q->n; k++) {
		double entropy = 0, variance = 0;

		for (uint32_t g = 0; g < segment(w, q->i[k])->n_kv_heads; g++) {
			entropy += head(w, q->i[k], g)->entropy;
			variance += head(w, q->i[k], g)->variance;
			if (head(w, q->i[k], g)->m > most[k])
				most[k] = head(w, q->i[k], g)->m;
		}
		p[k] = pow(entropy, 1 / w->p->tau1) * pow(variance, 1 / w->p->tau2);
		all += p[k];
		budget += budget_of(w, segment(w, q->i[k])) - w->p->window;
	}
	for (uint32_t k = 0; k < q->n; k++) {
		double share = all > 0 ? p[k] / all * (double)budget : 0;

		note(w, share, rint(share));
		counts[k] = (uint64_t)share;
		excess += counts[k] > most[k] ? counts[k] - most[k] : 0;
		counts[k] = counts[k] > most[k] ? most[k] : counts[k];
	}
	spread_evenly(most, q->n, excess, counts);
	for (uint32_t k = 0; k < q->n; k++)
		given += counts[k];
	spread_evenly(most, q->n, budget - given, counts);
	for (uint32_t k = 0; k < q->n; k++)
		for (uint32_t g = 0; g < segment(w, q->i[k])->n_kv_heads; g++) {
			struct head *h = head(w, q->i[k], g);

			keep_window(w, q->i[k], g);
			take(w, h->score, h->m, counts[k], kept(w, q->i[k], g));
		}
}

/* b of a layer: over its query heads and rows. */
static double recent_of(const struct work *w, uint32_t i)
{
	const struct kvmod_segment *s = segment(w, i);
	double sum = 0;

	for (uint32_t g = 0; g < s->n_kv_heads; g++)
		sum += head(w, i, g)->recent;
	return sum / s->n_q_heads / (s->n_rows - first_row(w, s));
}

/* Returns how many come first. */
static uint64_t take_first(struct work *w, uint32_t i, uint32_t g)
{
	struct head *h = head(w, i, g);
	double limit = w->p->first - recent_of(w, i), all = sum_of(h->mean, h->m), sum = 0;
	uint64_t n = 0, most = budget_of(w, segment(w, i)) - w->p->window;

	for (; n < most; n++) {
		uint32_t at = heaviest(h->mean, h->m, kept(w, i, g)), next;

		if (at == h->m)
			return n;
		sum += h->mean[at] / all;
		note(w, sum, limit);
		if (sum >= limit)
			return n;
		kept(w, i, g)[at] = 1;
		next = heaviest(h->mean, h->m, kept(w, i, g));
		if (next < h->m)
			note(w, h->mean[at], h->mean[next]);
	}
	return n;
}

static void decide_defensive(struct work *w, const struct sequence *q)
{
	uint64_t left = q->budget;
	double last = 0;

	for (uint32_t k = 0; k < q->n; k++)
		for (uint32_t g = 0; g < segment(w, q->i[k])->n_kv_heads; g++) {
			keep_window(w, q->i[k], g);
			left -= take_first(w, q->i[k], g);
		}
	/* One more than there is room for, to see how near it was. */
	for (uint64_t turn = 0; turn <= left; turn++) {
		uint32_t best_i = 0, best_g = 0, best = UINT32_MAX;
		double most = -1;

		for (uint32_t k = 0; k < q->n; k++)
			for (uint32_t g = 0; g < segment(w, q->i[k])->n_kv_heads; g++) {
				struct head *h = head(w, q->i[k], g);
				uint32_t at = heaviest(h->score, h->m, kept(w, q->i[k], g));

				if (at == h->m || h->score[at] < most ||
				    (h->score[at] == most && at >= best))
					continue;
				most = h->score[at];
				best_i = q->i[k];
				best_g = g;
				best = at;
			}
		if (best == UINT32_MAX)
			return;
		if (turn < left)
			kept(w, best_i, best_g)[best] = 1;
		else if (turn > 0)
			note(w, last, most);
		last = most;
	}
}

static void decide_sequence(struct work *w, uint64_t number)
{
	struct sequence q = sequence_of(w, number);

	if (is_within(w, &q, number)) {
		for (uint32_t k = 0; k < q.n; k++)
			keep_all(w, q.i[k]);
		return;
	}
	if (w->p->rule == RULE_CAKE)
		decide_cake(w, &q);
	else
		decide_defensive(w, &q);
}

/*
 * Where the pooling is wider than what is scored, several positions get the same numbers,
 * added up in another order for each: which of them goes is a matter of rounding.
 */
static void doubt_short_heads(struct work *w)
{
	for (uint32_t i = 0; i < w->r->n_segments; i++)
		for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++)
			if (head(w, i, g)->m < w->p->pool &&
			    memchr(kept(w, i, g), 0, head(w, i, g)->m))
				w->out->tie = 0;
}

static void decide(struct work *w)
{
	bool together = w->p->rule == RULE_CAKE || w->p->rule == RULE_DEFENSIVEKV;

	for (uint32_t i = 0; i < w->r->n_segments; i++)
		for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++)
			score_head(w, i, g);
	for (uint32_t i = 0; i < w->r->n_segments; i++) {
		uint32_t n_layers;

		if (w->out->failed[i])
			keep_all(w, i);
		else if (w->p->rule == RULE_PYRAMIDKV)
			decide_pyramid(w, i);
		else if (w->p->rule == RULE_CRITICALKV)
			decide_critical(w, i);
		/* Once for each sequence. */
		if (together && layer_of(w, i, &n_layers) == 0)
			decide_sequence(w, segment(w, i)->sequence);
	}
	doubt_short_heads(w);
}

/* --- memory ------------------------------------------------------------------------------- */

static bool make_heads(struct work *w)
{
	for (uint32_t i = 0; i < w->r->n_segments; i++)
		for (uint32_t g = 0; g < segment(w, i)->n_kv_heads; g++) {
			struct head *h = head(w, i, g);

			h->n = kvmod_head_at(segment(w, i), g)->n;
			h->m = h->n > w->p->window ? h->n - w->p->window : 0;
			h->score = calloc(h->n, sizeof(*h->score));
			h->mean = calloc(h->n, sizeof(*h->mean));
			if (!h->score || !h->mean)
				return false;
		}
	return true;
}

int layers_decide(const struct kvmod_request *r, const struct layers_params *p,
		  struct layers_answer *out)
{
	struct work w = { .r = r, .p = p, .out = out };
	size_t all;
	int error = KVMOD_ENOMEM;

	*out = (struct layers_answer){ .tie = 1 };
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = segment(&w, i);
		uint32_t n = kvmod_longest_head(s);

		out->n_heads = s->n_kv_heads > out->n_heads ? s->n_kv_heads : out->n_heads;
		out->stride = n > out->stride ? n : out->stride;
	}
	all = (size_t)r->n_segments * out->n_heads;
	out->failed = calloc(r->n_segments, sizeof(*out->failed));
	out->kept = calloc(all, out->stride);
	w.heads = calloc(all, sizeof(*w.heads));
	w.row = calloc(out->stride, sizeof(*w.row));
	w.pooled = calloc(out->stride, sizeof(*w.pooled));
	if (out->failed && out->kept && w.heads && w.row && w.pooled && make_heads(&w)) {
		decide(&w);
		error = 0;
	}
	for (size_t i = 0; w.heads && i < all; i++) {
		free(w.heads[i].score);
		free(w.heads[i].mean);
	}
	free(w.heads);
	free(w.row);
	free(w.pooled);
	return error;
}

void layers_free(struct layers_answer *answer)
{
	free(answer->failed);
	free(answer->kept);
}
