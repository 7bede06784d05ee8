/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions by attention for tests: a launch with its memory, and a check by double arithmetic. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/attention.h"

/* Rounding errors of fp32 that are allowed in a score, and in a share of a whole. */
#define SCORE_ERROR 3e-5
#define SHARE_ERROR 3e-6
#define MAX_HEADS 128

static void *allocate(size_t n, size_t size)
{
	void *p = calloc(n + 1, size);

	if (!p) {
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	return p;
}

/* --- a launch ---------------------------------------------------------------------- */

static void lay_out_output(const struct kv_attention_job *job, struct kv_attention_output *o, void *memory)
{
	o->results = memory;
	o->counts = (uint32_t *)(o->results + job->n_segments);
	o->indices = o->counts + (size_t)job->n_segments * job->n_kv_heads;
}

void attend_make(struct attend *a, const struct kv_attention_params *p, struct cache *caches, uint32_t n, uint32_t amount)
{
	const struct kvmod_segment **segments = allocate(n, sizeof(*segments));
	uint32_t n_heads = n * caches[0].segment.n_kv_heads, i;
	void *table, *output;
	int err;

	a->caches = caches;
	a->amounts = allocate(n_heads, sizeof(*a->amounts));
	for (i = 0; i < n_heads; i++)
		a->amounts[i] = amount;
	for (i = 0; i < n; i++)
		segments[i] = &caches[i].segment;
	err = kv_cuda_attention_prepare(p, segments, n, a->amounts, &a->job);
	if (err) {
		fprintf(stderr, "prepare: error %d\n", err);
		exit(1);
	}
	table = allocate(a->job.table_bytes, 1);
	kv_cuda_attention_table(&a->job, segments, a->amounts, table);
	CUDA(cudaMalloc(&a->table, a->job.table_bytes));
	CUDA(cudaMemcpy(a->table, table, a->job.table_bytes, cudaMemcpyHostToDevice));
	CUDA(cudaMalloc(&a->scratch, a->job.scratch_bytes));
	CUDA(cudaMemset(a->scratch, 0xff, a->job.scratch_bytes));
	a->output_bytes = n * sizeof(struct kv_attention_result) + (n_heads + a->job.n_indices) * sizeof(uint32_t);
	CUDA(cudaMalloc(&output, a->output_bytes));
	CUDA(cudaMemset(output, 0xff, a->output_bytes));
	lay_out_output(&a->job, &a->device, output);
	lay_out_output(&a->job, &a->host, allocate(a->output_bytes, 1));
	free(table);
	free(segments);
}

void attend_queue(struct attend *a, void *stream)
{
	if (kv_cuda_attention(&a->job, a->table, a->scratch, &a->device, stream)) {
		fprintf(stderr, "launch failed: %s\n", cudaGetErrorString(cudaGetLastError()));
		exit(1);
	}
}

void attend_fetch(struct attend *a)
{
	CUDA(cudaDeviceSynchronize());
	CUDA(cudaMemcpy(a->host.results, a->device.results, a->output_bytes, cudaMemcpyDeviceToHost));
}

void attend_free(struct attend *a)
{
	CUDA(cudaFree(a->table));
	CUDA(cudaFree(a->scratch));
	CUDA(cudaFree(a->device.results));
	free(a->host.results);
	free(a->amounts);
}

const uint32_t *attend_indices(const struct attend *a, uint32_t i, uint32_t g)
{
	const uint32_t *first = a->host.indices;
	uint32_t j;

	for (j = 0; j < i; j++)
		first += (size_t)a->job.n_kv_heads * kvmod_longest_head(&a->caches[j].segment);
	return first + (size_t)g * kvmod_longest_head(&a->caches[i].segment);
}

/* --- double arithmetic --------------------------------------------------------------- */

/* One segment, and the attention that its rows pay. */
struct truth {
	const struct cache *c;
	const struct kvmod_segment *s;
	const struct kv_attention_params *p;
	const uint32_t *amounts;
	uint32_t group, rows, norm_rows, stride;
	bool finite;
	double *score, *a;		/* [n_kv_heads][stride], [n_q_heads][stride] */
	unsigned char *kept;		/* [n_kv_heads][stride]: by the GPU */
	uint32_t *counts;		/* kept positions that have a rank */
};

static uint32_t n_of(const struct truth *t, uint32_t g)
{
	return t->s->heads[g]->n;
}

static uint32_t begin_of(const struct truth *t, uint32_t g)
{
	return t->p->sinks < n_of(t, g) ? t->p->sinks : n_of(t, g);
}

static uint32_t m_of(const struct truth *t, uint32_t g)
{
	uint32_t n = n_of(t, g) - begin_of(t, g);

	return n > t->p->tail ? n - t->p->tail : 0;
}

static bool sees(const struct truth *t, uint32_t g, uint32_t row, uint32_t i)
{
	const struct kvmod_segment *s = t->s;
	int64_t at = s->row_positions ? s->row_positions[row] : (int64_t)s->logical - s->n_rows + row;

	return (s->heads[g]->positions ? s->heads[g]->positions[i] : (int64_t)i) <= at;
}

/* The softmax of one row and head, in x; false if it is not finite. */
static bool softmax(const struct truth *t, uint32_t h, uint32_t row, double *x)
{
	const struct kvmod_segment *s = t->s;
	uint32_t g = h / t->group, dim = s->head_dim, i, d;
	const float *q = t->c->q + ((size_t)row * s->n_q_heads + h) * dim;
	double max = -INFINITY, sum = 0;
	bool finite = true;

	for (i = 0; i < n_of(t, g); i++) {
		const float *k = t->c->k + ((size_t)g * s->logical + i) * dim;

		for (x[i] = 0, d = 0; d < dim; d++)
			x[i] += (double)q[d] * k[d];
		x[i] *= s->scale;
		if (s->softcap > 0)
			x[i] = s->softcap * tanh(x[i] / s->softcap);
		if (!sees(t, g, row, i))
			x[i] = -INFINITY;
		else if (!isfinite(x[i]))
			finite = false;
		max = fmax(max, x[i]);
	}
	for (i = 0; i < n_of(t, g); i++)
		sum += x[i] = x[i] > -INFINITY ? exp(x[i] - max) : 0;
	for (i = 0; i < n_of(t, g) && sum > 0; i++)
		x[i] /= sum;
	return finite;
}

static void add_head(struct truth *t, uint32_t h, double *x)
{
	const struct kvmod_segment *s = t->s;
	uint32_t g = h / t->group, row, i, n_seen;
	double *score = t->score + (size_t)g * t->stride, *a = t->a + (size_t)h * t->stride;

	for (row = s->n_rows - t->rows; row < s->n_rows; row++) {
		t->finite = softmax(t, h, row, x) && t->finite;
		for (i = 0; i < n_of(t, g); i++) {
			score[i] += row + t->p->window >= s->n_rows ? x[i] : 0;
			a[i] += row + t->norm_rows >= s->n_rows ? x[i] : 0;
		}
	}
	for (i = 0; i < n_of(t, g); i++) {
		for (n_seen = 0, row = s->n_rows - t->rows; row < s->n_rows; row++)
			n_seen += row + t->norm_rows >= s->n_rows && sees(t, g, row, i);
		if (n_seen)
			a[i] /= n_seen;
	}
}

static void pool(struct truth *t, uint32_t g, double *x)
{
	double *score = t->score + (size_t)g * t->stride + begin_of(t, g);
	int64_t m = m_of(t, g), half = t->p->pool / 2, i, j;

	memcpy(x, score, m * sizeof(*x));
	for (i = 0; i < m; i++) {
		score[i] = 0;
		for (j = i < half ? 0 : i - half; j <= i + half && j < m; j++)
			score[i] = t->p->pool_max ? fmax(score[i], x[j]) : score[i] + x[j];
	}
}

static int descending(const void *a_, const void *b_)
{
	double a = *(const double *)a_, b = *(const double *)b_;

	return (a < b) - (a > b);
}

/* --- the checks -------------------------------------------------------------------------- */

struct verdict {
	char *why;
	size_t room;
	bool right;
};

static void wrong(struct verdict *v, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void wrong(struct verdict *v, const char *format, ...)
{
	va_list args;

	if (!v->right)
		return;
	v->right = false;
	va_start(args, format);
	vsnprintf(v->why, v->room, format, args);
	va_end(args);
}

/* Marks what the lists keep; checks that they ascend and have all positions without a rank. */
static void take_lists(struct truth *t, const struct attend *a, uint32_t i, struct verdict *v)
{
	for (uint32_t g = 0; g < t->s->n_kv_heads; g++) {
		const uint32_t *list = attend_indices(a, i, g), n = n_of(t, g);
		uint32_t count = a->host.counts[i * t->s->n_kv_heads + g], j;
		unsigned char *kept = t->kept + (size_t)g * t->stride;

		if (count > n) {
			wrong(v, "head %u: %u of %u kept", g, count, n);
			return;
		}
		for (j = 0; j < count; j++) {
			if (list[j] >= n || (j && list[j] <= list[j - 1])) {
				wrong(v, "head %u: index %u of the list is %u", g, j, list[j]);
				return;
			}
			kept[list[j]] = 1;
		}
		t->counts[g] = count - (n - m_of(t, g));
		for (j = 0; j < n; j++)
			if ((j < begin_of(t, g) || j >= begin_of(t, g) + m_of(t, g)) && !kept[j])
				wrong(v, "head %u: position %u has no rank and is not kept", g, j);
	}
}

static void check_whole(const struct truth *t, struct verdict *v)
{
	for (uint32_t g = 0; g < t->s->n_kv_heads; g++)
		if (t->counts[g] != m_of(t, g))
			wrong(v, "head %u: %u of %u ranked kept, expected all", g, t->counts[g], m_of(t, g));
}

/* Does each head keep its heaviest positions? */
static void check_set(const struct truth *t, uint32_t g, struct verdict *v)
{
	const double *score = t->score + (size_t)g * t->stride;
	const unsigned char *kept = t->kept + (size_t)g * t->stride;
	double least = INFINITY, most = 0;

	for (uint32_t i = begin_of(t, g); i < begin_of(t, g) + m_of(t, g); i++) {
		if (kept[i])
			least = fmin(least, score[i]);
		else
			most = fmax(most, score[i]);
	}
	if (least < most * (1 - SCORE_ERROR))
		wrong(v, "head %u: %.9g is kept, %.9g is not", g, least, most);
}

static void check_top(const struct truth *t, struct verdict *v)
{
	for (uint32_t g = 0; g < t->s->n_kv_heads; g++) {
		uint32_t count = t->amounts[g] < m_of(t, g) ? t->amounts[g] : m_of(t, g);

		if (t->counts[g] != count)
			wrong(v, "head %u: %u kept, expected %u", g, t->counts[g], count);
		check_set(t, g, v);
	}
}

/* The value of the count-th heaviest of all heads. */
static double layer_cut(const struct truth *t, uint64_t count)
{
	double *all = allocate((size_t)t->s->n_kv_heads * t->stride, sizeof(*all)), cut;
	uint64_t n = 0;

	for (uint32_t g = 0; g < t->s->n_kv_heads; g++)
		for (uint32_t i = 0; i < m_of(t, g); i++)
			all[n++] = t->score[(size_t)g * t->stride + begin_of(t, g) + i];
	qsort(all, n, sizeof(*all), descending);
	cut = count ? all[count - 1] : INFINITY;
	free(all);
	return cut;
}

/*
 * Writes how many positions each head may keep to `counts`, from how many of the heaviest
 * it has. The excess of heads with fewer positions goes to the others one by one, from
 * the first on; returns the excess.
 */
static uint32_t share_out(const struct truth *t, uint32_t *counts)
{
	uint32_t excess = 0, left, taken = 1;

	for (uint32_t g = 0; g < t->s->n_kv_heads; g++) {
		double share = rint((1 - t->p->share) * counts[g] + floor(t->p->share * t->amounts[g]));

		counts[g] = share < m_of(t, g) ? (uint32_t)share : m_of(t, g);
		excess += (uint32_t)share - counts[g];
	}
	for (left = excess; left && taken;) {
		taken = 0;
		for (uint32_t g = 0; g < t->s->n_kv_heads && left; g++) {
			uint32_t more = counts[g] < m_of(t, g);

			counts[g] += more;
			taken += more;
			left -= more;
		}
	}
	return excess;
}

static void check_shared(const struct truth *t, struct verdict *v)
{
	uint32_t low[MAX_HEADS] = { 0 }, high[MAX_HEADS] = { 0 }, slack = 0, g, i;
	uint64_t n = 0, budget = 0;
	double cut;

	for (g = 0; g < t->s->n_kv_heads; g++) {
		n += m_of(t, g);
		budget += t->amounts[g];
	}
	if (budget >= n) {
		check_whole(t, v);
		return;
	}
	cut = layer_cut(t, budget);
	for (g = 0; g < t->s->n_kv_heads; g++) {
		const double *score = t->score + (size_t)g * t->stride + begin_of(t, g);

		for (i = 0; i < m_of(t, g); i++) {
			low[g] += score[i] > cut * (1 + SCORE_ERROR);
			high[g] += score[i] >= cut * (1 - SCORE_ERROR);
		}
		slack += high[g] - low[g] > 1;
	}
	/* If rounding decides which head has the last of the heaviest, it decides who gets the rest. */
	if (share_out(t, low) + share_out(t, high) == 0)
		slack = 0;
	for (g = 0; g < t->s->n_kv_heads; g++) {
		uint32_t least = low[g] < high[g] ? low[g] : high[g], most = low[g] + high[g] - least;

		if (t->counts[g] + slack < least || t->counts[g] > most + slack)
			wrong(v, "head %u: %u kept, expected %u to %u", g, t->counts[g], least, most);
		check_set(t, g, v);
	}
}

/* The least value among the heaviest that have this much of a head's attention. */
static double mass_cut(const struct truth *t, uint32_t h, double mass)
{
	uint32_t n = n_of(t, h / t->group), i;
	double *a = allocate(n, sizeof(*a)), sum = 0, cut = 0;

	memcpy(a, t->a + (size_t)h * t->stride, n * sizeof(*a));
	qsort(a, n, sizeof(*a), descending);
	for (i = 0; i < n && sum < mass; i++)
		sum += cut = a[i];
	if (sum < mass)
		cut = 0;
	free(a);
	return cut;
}

static void check_mass(const struct truth *t, struct verdict *v)
{
	double must[MAX_HEADS], may[MAX_HEADS];
	uint32_t g, h, i;

	for (h = 0; h < t->s->n_q_heads; h++) {
		must[h] = mass_cut(t, h, fmax(t->p->share - SHARE_ERROR, 1e-300)) * (1 + SCORE_ERROR);
		may[h] = mass_cut(t, h, t->p->share + SHARE_ERROR) * (1 - SCORE_ERROR);
	}
	for (g = 0; g < t->s->n_kv_heads; g++)
		for (i = 0; i < n_of(t, g); i++) {
			bool needed = false, allowed = false;

			for (h = g * t->group; h < (g + 1) * t->group; h++) {
				double a = t->a[(size_t)h * t->stride + i];

				needed |= a > must[h];
				allowed |= a >= may[h];
			}
			if (t->kept[(size_t)g * t->stride + i] ? !allowed : needed)
				wrong(v, "head %u: position %u is %s", g, i, needed ? "lost" : "kept");
		}
}

struct ranked {
	double score;
	uint32_t i;
};

static int by_score(const void *a_, const void *b_)
{
	const struct ranked *a = a_, *b = b_;

	return a->score != b->score ? (a->score < b->score) - (a->score > b->score) : (a->i > b->i) - (a->i < b->i);
}

/* norms[count] += a head's norm of its first `count` ranks */
static void add_norms(const struct truth *t, uint32_t h, const struct ranked *order, uint32_t m, double *norms)
{
	double sum = 0;

	for (uint32_t i = 0; i < m; i++) {
		double a = t->a[(size_t)h * t->stride + order[i].i];

		sum += a * a;
		norms[i + 1] += sqrt(sum);
	}
}

static void check_norm(const struct truth *t, double loss, struct verdict *v)
{
	uint32_t m = m_of(t, 0), count = t->counts[0], g, h, i;
	struct ranked *order = allocate(m, sizeof(*order));
	double *norms = allocate(m + 1, sizeof(*norms)), here, before;

	for (g = 0; g < t->s->n_kv_heads; g++) {
		for (i = 0; i < m; i++)
			order[i] = (struct ranked){ t->score[(size_t)g * t->stride + begin_of(t, g) + i],
						    begin_of(t, g) + i };
		qsort(order, m, sizeof(*order), by_score);
		for (h = g * t->group; h < (g + 1) * t->group; h++)
			add_norms(t, h, order, m, norms);
		if (t->counts[g] != count)
			wrong(v, "head %u: %u kept, head 0: %u", g, t->counts[g], count);
		check_set(t, g, v);
	}
	if (!v->right || norms[m] == 0) {
		check_whole(t, v);
	} else {
		here = (norms[m] - norms[count]) / norms[m];
		before = count ? (norms[m] - norms[count - 1]) / norms[m] : 1;
		if (here > t->p->share + SHARE_ERROR || (count && before < t->p->share - SHARE_ERROR))
			wrong(v, "%u kept at a loss of %.9g, one less is %.9g", count, here, before);
		if (fabs(loss - here) > 1e-4 * here + SHARE_ERROR)
			wrong(v, "loss %.9g, expected %.9g", loss, here);
	}
	free(order);
	free(norms);
}

/* --- all of it ------------------------------------------------------------------------------ */

static bool is_read(const struct truth *t, uint32_t g)
{
	if (t->p->rule == &kv_attend_top)
		return m_of(t, g) > t->amounts[g];
	return t->p->rule != &kv_refreekv_by_attention || (m_of(t, g) > 0 && t->p->share > 0);
}

static void compute(struct truth *t)
{
	double *x = allocate(t->stride, sizeof(*x));

	for (uint32_t h = 0; h < t->s->n_q_heads; h++)
		if (is_read(t, h / t->group))
			add_head(t, h, x);
	for (uint32_t g = 0; g < t->s->n_kv_heads; g++)
		pool(t, g, x);
	free(x);
}

static void check(const struct truth *t, double loss, struct verdict *v)
{
	const struct kv_attention_rule *rule = t->p->rule;

	if (rule == &kv_attend_top)
		check_top(t, v);
	else if (rule == &kv_attend_shared)
		check_shared(t, v);
	else if (rule == &kv_attend_mass)
		check_mass(t, v);
	else if (is_read(t, 0))
		check_norm(t, loss, v);
	else
		check_whole(t, v);
}

bool attend_is_right(const struct attend *a, uint32_t i, char *why, size_t room)
{
	const struct kvmod_segment *s = &a->caches[i].segment;
	const struct kv_attention_params *p = &a->job.params;
	uint32_t amount = a->amounts[(size_t)i * s->n_kv_heads], stride = kvmod_longest_head(s) + 1;
	uint32_t norm_rows = p->rule == &kv_refreekv_by_attention ? amount : p->rule == &kv_attend_mass;
	uint32_t rows = norm_rows > p->window ? norm_rows : p->window;
	struct truth t = { .c = &a->caches[i], .s = s, .p = p, .amounts = a->amounts + (size_t)i * s->n_kv_heads,
		.group = s->n_q_heads / s->n_kv_heads, .rows = rows < s->n_rows ? rows : s->n_rows,
		.norm_rows = norm_rows,
		.stride = stride, .finite = true };
	struct verdict v = { why, room, true };
	int32_t status;

	t.score = allocate((size_t)s->n_kv_heads * stride, sizeof(*t.score));
	t.a = allocate((size_t)s->n_q_heads * stride, sizeof(*t.a));
	t.kept = allocate((size_t)s->n_kv_heads * stride, 1);
	t.counts = allocate(s->n_kv_heads, sizeof(*t.counts));
	compute(&t);
	status = t.finite ? 0 : KVMOD_ENUMERIC;
	if (a->host.results[i].status != status)
		wrong(&v, "status %d, expected %d", a->host.results[i].status, status);
	take_lists(&t, a, i, &v);
	if (status)
		check_whole(&t, &v);
	else
		check(&t, a->host.results[i].loss, &v);
	free(t.score);
	free(t.a);
	free(t.kept);
	free(t.counts);
	return v.right;
}
