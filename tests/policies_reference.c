/* SPDX-License-Identifier: Apache-2.0 */
/* The policies in double precision, one plain loop after the other. */
#include "tests/policies_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/refreekv_reference.h"

struct work {
	const struct kvmod_segment *s;
	const struct policy_params *p;
	struct policy_answer *out;
	uint32_t group;
	uint64_t budget;		/* C */
	uint32_t window;
	double *score;			/* [n_kv_heads][stride]: of the first m */
	double *row;			/* [stride] */
	uint32_t *order;		/* [n_kv_heads][stride] */
};

static uint32_t n_of(const struct work *w, uint32_t g)
{
	return kvmod_head_at(w->s, g)->n;
}

/* Positions before the window. */
static uint32_t m_of(const struct work *w, uint32_t g)
{
	return n_of(w, g) > w->window ? n_of(w, g) - w->window : 0;
}

static unsigned char *kept_of(const struct work *w, uint32_t g)
{
	return w->out->kept + (size_t)g * w->out->stride;
}

/* --- the budget: of the tokens seen, but what is always kept fits in ------------------ */

static uint32_t window_of(const struct kvmod_segment *s, const struct policy_params *p)
{
	uint64_t recent = p->recent ? p->recent : s->logical * p->recent_permille / 1000;

	if (p->rule != RULE_H2O)
		return p->window;
	return recent ? (uint32_t)recent : 1;
}

static uint64_t budget_of(const struct kvmod_segment *s, const struct policy_params *p)
{
	uint64_t c = p->count ? p->count : s->logical * p->permille / 1000;
	uint64_t least = p->rule == RULE_STREAMINGLLM ? p->sinks + 1 : p->window;

	if (p->rule == RULE_H2O)
		return c + window_of(s, p);
	return c > least ? c : least;
}

/* --- scores ------------------------------------------------------------------------- */

/* mean over the window's rows and the group, of what is before the window */
static void score_head(struct work *w, uint32_t g)
{
	uint32_t rows = w->s->n_rows < w->p->window ? w->s->n_rows : w->p->window;
	double *score = w->score + (size_t)g * w->out->stride;

	for (uint32_t row = w->s->n_rows - rows; row < w->s->n_rows; row++)
		for (uint32_t h = g * w->group; h < (g + 1) * w->group; h++) {
			reference_attention(w->s, row, h, w->row);
			for (uint32_t i = 0; i < m_of(w, g); i++) {
				w->out->finite = w->out->finite && isfinite(w->row[i]);
				score[i] += w->row[i] / rows / w->group;
			}
		}
}

static void pool_head(struct work *w, uint32_t g)
{
	double *score = w->score + (size_t)g * w->out->stride;
	int64_t m = m_of(w, g), half = w->p->pool / 2;

	memcpy(w->row, score, (size_t)m * sizeof(*score));
	for (int64_t i = 0; i < m; i++) {
		double sum = 0, most = 0;

		for (int64_t j = i - half; j <= i + half; j++) {
			sum += j >= 0 && j < m ? w->row[j] : 0;
			most = j >= 0 && j < m ? fmax(most, w->row[j]) : most;
		}
		score[i] = w->p->pool_max ? most : sum / w->p->pool;
	}
}

/* From the heaviest to the lightest, the older first of equals. */
static void rank(const double *score, uint32_t m, uint32_t *order)
{
	for (uint32_t i = 0; i < m; i++) {
		uint32_t at = i;

		for (; at > 0 && score[order[at - 1]] < score[i]; at--)
			order[at] = order[at - 1];
		order[at] = i;
	}
}

/* How near is the first that goes to the last that stays? Exact ties are no doubt. */
static void note_tie(struct work *w, double last, double next)
{
	if (last > next)
		w->out->tie = fmin(w->out->tie, (last - next) / fmax(fabs(last), fabs(next)));
}

/* The `count` heaviest of the first m, and the rest. */
static void keep_heaviest(struct work *w, uint32_t g, uint32_t count)
{
	const double *score = w->score + (size_t)g * w->out->stride;
	const uint32_t *order = w->order + (size_t)g * w->out->stride;
	unsigned char *kept = kept_of(w, g);

	for (uint32_t i = 0; i < count; i++)
		kept[order[i]] = 1;
	for (uint32_t i = m_of(w, g); i < n_of(w, g); i++)
		kept[i] = 1;
	if (count > 0 && count < m_of(w, g))
		note_tie(w, score[order[count - 1]], score[order[count]]);
}

/* --- the rules ------------------------------------------------------------------------ */

static void decide_streamingllm(struct work *w, uint32_t g)
{
	uint32_t n = n_of(w, g);

	for (uint32_t i = 0; i < n; i++)
		kept_of(w, g)[i] = n <= w->budget || i < w->p->sinks ||
				   i >= n - (w->budget - w->p->sinks);
}

static void decide_heaviest(struct work *w, uint32_t g)
{
	uint32_t n = n_of(w, g);

	if (n <= w->budget)
		memset(kept_of(w, g), 1, n);
	else
		keep_heaviest(w, g, (uint32_t)w->budget - w->window);
}

/* The layer's heaviest, one after the other: how many are each head's. */
static void count_layer(struct work *w, uint64_t budget, uint32_t *counts)
{
	double last = INFINITY;

	for (uint64_t i = 0; i <= budget; i++) {
		double most = -1;
		uint32_t best = 0;

		for (uint32_t g = 0; g < w->s->n_kv_heads; g++) {
			size_t at = (size_t)g * w->out->stride;
			double next = counts[g] < m_of(w, g) ? w->score[at + w->order[at + counts[g]]] : -1;

			if (next > most || (next == most && next >= 0 &&
					    w->order[at + counts[g]] <
					    w->order[(size_t)best * w->out->stride + counts[best]])) {
				most = next;
				best = g;
			}
		}
		if (i == budget && most >= 0)
			note_tie(w, last, most);
		else
			counts[best]++;
		last = most;
	}
}

static void decide_adakv(struct work *w)
{
	uint32_t n_kv_heads = w->s->n_kv_heads, counts[128] = { 0 }, longest = 0;
	uint64_t b = w->budget - w->window, all = 0, excess = 0;

	for (uint32_t g = 0; g < n_kv_heads; g++) {
		longest = n_of(w, g) > longest ? n_of(w, g) : longest;
		all += m_of(w, g);
	}
	if (longest <= w->budget || b * n_kv_heads >= all) {
		for (uint32_t g = 0; g < n_kv_heads; g++)
			memset(kept_of(w, g), 1, n_of(w, g));
		return;
	}
	count_layer(w, b * n_kv_heads, counts);
	for (uint32_t g = 0; g < n_kv_heads; g++) {
		double share = rint((1 - w->p->alpha) * counts[g] + floor(w->p->alpha * (double)b));

		counts[g] = share < m_of(w, g) ? (uint32_t)share : m_of(w, g);
		excess += (uint64_t)share - counts[g];
	}
	/* What goes above what a head has: one by one, in turns that begin with the first. */
	for (uint64_t given = 1; excess && given;) {
		given = 0;
		for (uint32_t g = 0; g < n_kv_heads && excess; g++)
			if (counts[g] < m_of(w, g)) {
				counts[g]++;
				excess--;
				given++;
			}
	}
	for (uint32_t g = 0; g < n_kv_heads; g++)
		keep_heaviest(w, g, counts[g]);
}

static void decide_topp(struct work *w, uint32_t g)
{
	uint32_t n = n_of(w, g), *order = w->order, count;

	for (uint32_t h = g * w->group; h < (g + 1) * w->group; h++) {
		double sum = 0, before = 0, share = 0;

		reference_attention(w->s, w->s->n_rows - 1, h, w->row);
		for (uint32_t i = 0; i < n; i++) {
			w->out->finite = w->out->finite && isfinite(w->row[i]);
			share += w->p->p * w->row[i];
		}
		rank(w->row, n, order);
		for (count = 0; count < n && (count == 0 || sum < share); count++) {
			before = sum;
			sum += w->row[order[count]];
			kept_of(w, g)[order[count]] = 1;
		}
		w->out->tie = fmin(w->out->tie, fmin(fabs(sum - share), fabs(before - share)));
		if (count < n)
			note_tie(w, w->row[order[count - 1]], w->row[order[count]]);
	}
}

/* All KV heads of the layer score as one. */
static void add_heads(struct work *w)
{
	uint32_t m = m_of(w, 0);

	for (uint32_t i = 0; i < m; i++) {
		double sum = 0;

		for (uint32_t g = 0; g < w->s->n_kv_heads; g++)
			sum += w->score[(size_t)g * w->out->stride + i];
		for (uint32_t g = 0; g < w->s->n_kv_heads; g++)
			w->score[(size_t)g * w->out->stride + i] = sum;
	}
}

static bool pools(const struct work *w)
{
	return w->p->rule == RULE_SNAPKV || w->p->rule == RULE_ADAKV;
}

static void score_all(struct work *w)
{
	for (uint32_t g = 0; g < w->s->n_kv_heads; g++) {
		double *score = w->score + (size_t)g * w->out->stride;

		if (pools(w)) {
			score_head(w, g);
			pool_head(w, g);
		} else {
			policy_score(w->s, w->p, g, m_of(w, g), w->row, score, w->out);
		}
	}
	if (w->p->rule == RULE_TOVA)
		add_heads(w);
	for (uint32_t g = 0; g < w->s->n_kv_heads; g++)
		rank(w->score + (size_t)g * w->out->stride, m_of(w, g),
		     w->order + (size_t)g * w->out->stride);
}

static void decide(struct work *w)
{
	if (w->p->rule != RULE_STREAMINGLLM && w->p->rule != RULE_TOPP)
		score_all(w);
	if (w->p->rule == RULE_ADAKV) {
		decide_adakv(w);
		return;
	}
	for (uint32_t g = 0; g < w->s->n_kv_heads; g++) {
		if (w->p->rule == RULE_STREAMINGLLM)
			decide_streamingllm(w, g);
		else if (w->p->rule == RULE_TOPP)
			decide_topp(w, g);
		else
			decide_heaviest(w, g);
	}
}

int policy_decide(const struct kvmod_segment *s, const struct policy_params *p,
		  struct policy_answer *out)
{
	uint32_t stride = kvmod_longest_head(s);
	size_t all = (size_t)s->n_kv_heads * stride;
	struct work w = {
		.s = s, .p = p, .out = out, .group = s->n_q_heads / s->n_kv_heads,
		.budget = budget_of(s, p), .window = window_of(s, p),
		.score = calloc(all, sizeof(*w.score)),
		.row = calloc(stride, sizeof(*w.row)),
		.order = calloc(all, sizeof(*w.order)),
	};
	int error = KVMOD_ENOMEM;

	*out = (struct policy_answer){
		.finite = true, .tie = 1, .stride = stride, .kept = calloc(all, 1),
	};
	if (w.score && w.row && w.order && out->kept) {
		decide(&w);
		error = 0;
	}
	free(w.score);
	free(w.row);
	free(w.order);
	return error;
}
