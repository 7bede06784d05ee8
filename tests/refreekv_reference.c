/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV in double precision: attention, norms, and the shortest suffix that holds them. */
#include "tests/refreekv_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ops.h"

/* Elements are read by the plain conversions, which test_kernels proves. */
static double element(const struct kvmod_view *v, int64_t row, int64_t head, uint32_t d)
{
	return (double)kv_element(v->type, (const char *)v->data + row * v->stride +
				  head * v->head_stride, d);
}

static int64_t position(const struct kvmod_head *head, uint32_t i)
{
	return head->positions ? head->positions[i] : (int64_t)i;
}

static int64_t row_position(const struct kvmod_segment *s, uint32_t row)
{
	return s->row_positions ? s->row_positions[row] : (int64_t)s->logical - s->n_rows + row;
}

void reference_attention(const struct kvmod_segment *s, uint32_t row, uint32_t h, double *a)
{
	const struct kvmod_head *head = kvmod_head_at(s, h / (s->n_q_heads / s->n_kv_heads));
	double max = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < head->n; i++) {
		double dot = 0;

		for (uint32_t d = 0; d < s->head_dim; d++)
			dot += element(&s->q, row, h, d) * element(&head->k, i, 0, d);
		a[i] = dot * s->scale;
		if (s->softcap > 0)
			a[i] = s->softcap * tanh(a[i] / s->softcap);
		if (position(head, i) > row_position(s, row))
			a[i] = -INFINITY;
		max = fmax(max, a[i]);
	}
	if (s->sink_logits) {
		max = fmax(max, (double)s->sink_logits[h]);
		sum = exp((double)s->sink_logits[h] - max);
	}
	for (uint32_t i = 0; i < head->n; i++)
		sum += a[i] = exp(a[i] - max);
	for (uint32_t i = 0; i < head->n; i++)
		a[i] /= sum;
}

struct work {
	const struct kvmod_segment *s;
	const struct reference_params *p;
	uint32_t n, group, sinks, tail, m;
	double *a;		/* [n_q_heads][n]: Eq. 2 */
	double *score;		/* [n_kv_heads][n]: by the window */
	uint32_t *order;	/* [n_kv_heads][n]: ranked positions that take part in the norm */
	uint32_t n_order;
};

static void collect(struct work *w, uint32_t h, double *row_attention)
{
	const struct kvmod_segment *s = w->s;
	const struct kvmod_head *head = kvmod_head_at(s, h / w->group);
	double *a = w->a + (size_t)h * w->n, *score = w->score + (size_t)(h / w->group) * w->n;

	for (uint32_t row = 0; row < s->n_rows; row++) {
		bool in_norm = row + w->p->rows >= s->n_rows;
		bool in_window = row + w->p->window >= s->n_rows;

		reference_attention(s, row, h, row_attention);
		for (uint32_t i = 0; i < w->n; i++) {
			a[i] += in_norm ? row_attention[i] : 0;
			score[i] += in_window ? row_attention[i] : 0;
		}
	}
	for (uint32_t i = 0; i < w->n; i++) {
		uint32_t seen_by = 0;

		for (uint32_t row = 0; row < s->n_rows; row++)
			seen_by += row + w->p->rows >= s->n_rows &&
				row_position(s, row) >= position(head, i);
		if (seen_by)
			a[i] /= seen_by;
	}
}

static void rank(struct work *w, uint32_t g)
{
	uint32_t *order = w->order + (size_t)g * w->n, n = 0;
	const double *score = w->score + (size_t)g * w->n;

	if (w->p->by_attention) {
		for (uint32_t i = w->sinks; i < w->n - w->tail; i++) {
			uint32_t at = n++;

			for (; at > 0 && score[order[at - 1]] < score[i]; at--)
				order[at] = order[at - 1];
			order[at] = i;
		}
	} else {
		for (uint32_t i = 0; w->p->norm_all && i < w->sinks; i++)
			order[n++] = i;
		for (uint32_t i = w->n; i > w->sinks; i--)
			order[n++] = i - 1;
	}
	w->n_order = n;
}

/* mean over heads of the norm of the first `count` ranked positions */
static double norm(const struct work *w, uint32_t count)
{
	double mean = 0;

	for (uint32_t h = 0; h < w->s->n_q_heads; h++) {
		const uint32_t *order = w->order + (size_t)(h / w->group) * w->n;
		double sum = 0;

		for (uint32_t i = 0; i < count; i++)
			sum += w->a[(size_t)h * w->n + order[i]] * w->a[(size_t)h * w->n + order[i]];
		mean += sqrt(sum) / w->s->n_q_heads;
	}
	return mean;
}

static void keep(const struct work *w, uint32_t count, struct reference *out)
{
	memset(out->kept, 0, (size_t)w->s->n_kv_heads * w->n);
	for (uint32_t g = 0; g < w->s->n_kv_heads; g++) {
		unsigned char *kept = out->kept + (size_t)g * w->n;
		const uint32_t *order = w->order + (size_t)g * w->n;

		for (uint32_t i = 0; i < w->n; i++)
			kept[i] = i < w->sinks || i >= w->n - w->tail;
		for (uint32_t i = 0; i < count; i++)
			kept[order[i]] = 1;
		out->count = 0;
		for (uint32_t i = 0; i < w->n; i++)
			out->count += kept[i];
		if (w->p->by_attention && count > 0 && count < w->n_order) {
			const double *score = w->score + (size_t)g * w->n;
			double in = score[order[count - 1]], next = score[order[count]];

			out->tie = fmin(out->tie, (in - next) / in);
		}
	}
}

static void decide(struct work *w, struct reference *out)
{
	double full = norm(w, w->n_order), before = 1;
	uint32_t count = 0;

	out->margin = out->tie = 1;
	if (w->n <= w->sinks + w->tail || !(full > 0) || w->p->threshold == 0) {
		keep(w, w->n_order, out);
		memset(out->kept, 1, (size_t)w->s->n_kv_heads * w->n);
		out->count = w->n;
		out->loss = 0;
		return;
	}
	while ((out->loss = (full - norm(w, count)) / full) > w->p->threshold) {
		before = out->loss;
		count++;
	}
	out->margin = fmin(w->p->threshold - out->loss, count ? before - w->p->threshold : 1);
	keep(w, count, out);
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

int reference_decide(const struct kvmod_segment *s, const struct reference_params *p,
		     struct reference *out)
{
	uint32_t n = kvmod_head_at(s, 0)->n;
	struct work w = {
		.s = s, .p = p, .n = n,
		.group = s->n_q_heads / s->n_kv_heads,
		.sinks = smaller(p->sinks, n),
	};
	double *row = calloc(n, sizeof(*row));
	int error = KVMOD_ENOMEM;

	w.tail = smaller(p->by_attention && p->recent < p->window ? p->window : p->recent, n);
	w.a = calloc((size_t)n * s->n_q_heads, sizeof(*w.a));
	w.score = calloc((size_t)n * s->n_kv_heads, sizeof(*w.score));
	w.order = calloc((size_t)n * s->n_kv_heads, sizeof(*w.order));
	out->kept = calloc(n, s->n_kv_heads);
	if (row && w.a && w.score && w.order && out->kept) {
		out->finite = true;
		for (uint32_t h = 0; h < s->n_q_heads; h++)
			collect(&w, h, row);
		for (size_t i = 0; i < (size_t)n * s->n_q_heads; i++)
			out->finite = out->finite && isfinite(w.a[i]);
		if (w.sinks + w.tail < n)
			for (uint32_t g = 0; g < s->n_kv_heads; g++)
				rank(&w, g);
		decide(&w, out);
		error = 0;
	}
	free(row);
	free(w.a);
	free(w.score);
	free(w.order);
	return error;
}
