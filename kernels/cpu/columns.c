/* SPDX-License-Identifier: Apache-2.0 */
/* Attention reduced over rows of queries: blocks of rows, tiles of positions, slices. */
#include "kernels/cpu/columns.h"

#include <stdatomic.h>

#include "kernels/cpu/ops.h"

#define TILE		64u	/* positions whose logits are made at a time */
#define MOST_LANES	48u	/* rows of a block */
#define NEAR_BYTES	(4u << 20)
/* Slices of all heads together: enough for threads to share them evenly. */
#define SLICES		64u

/* --- shapes ------------------------------------------------------------------------- */

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static const struct kvmod_columns *job_at(const struct kvmod_columns *jobs, uint32_t stride, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_columns, jobs, stride, i);
}

static uint32_t n_spans(const struct kvmod_columns *job)
{
	return job->n_spans ? job->n_spans : 1;
}

/* Span i, as far as the newest row sees it. */
static struct kvmod_span span_of(const struct kvmod_columns *job, uint32_t i, uint32_t sees)
{
	struct kvmod_span span = { .begin = 0, .end = job->n };

	if (job->n_spans)
		span = job->spans[i];
	span.end = smaller(span.end, sees);
	return span;
}

static uint32_t n_tiles(const struct kvmod_columns *job)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_spans(job); i++) {
		struct kvmod_span span = span_of(job, i, job->n);

		n += span.end > span.begin ? (span.end - span.begin + TILE - 1) / TILE : 0;
	}
	return n;
}

/* Rows of a block: the more the better, as long as their logits stay in a near cache. */
static uint32_t lanes_of(const struct kvmod_columns *job)
{
	size_t room = NEAR_BYTES / (n_tiles(job) * TILE * sizeof(float) + 1) / KV_PAD * KV_PAD;

	return room < KV_PAD ? KV_PAD : smaller((uint32_t)room, MOST_LANES);
}

static uint32_t n_blocks(const struct kvmod_columns *job)
{
	uint32_t lanes = lanes_of(job);

	return (job->n_rows + lanes - 1) / lanes;
}

static uint32_t sees(const struct kvmod_columns *job, uint32_t row)
{
	uint64_t n = (uint64_t)job->n_seen + row;

	return n < job->n ? (uint32_t)n : job->n;
}

/* --- memory -------------------------------------------------------------------------- */

/* A thread's own. */
struct work {
	float *q;		/* [head_dim][lanes] */
	float *k;		/* [TILE][head_dim] */
	float *x;		/* [tiles][TILE][lanes]: logits, then their exponentials */
	float *max, *sum;	/* [tiles][lanes]; weights take the place of max */
};

static float *take(char **at, size_t n)
{
	float *memory = (float *)(void *)*at;

	*at += (n * sizeof(float) + 63) / 64 * 64;
	return memory;
}

/* Points the arrays into memory; returns the bytes that they take. */
static size_t lay_out(const struct kvmod_columns *job, struct work *work, char *memory)
{
	size_t lanes = lanes_of(job), tiles = n_tiles(job);
	char *at = memory;

	work->q = take(&at, lanes * job->head_dim);
	work->k = take(&at, (size_t)TILE * job->head_dim);
	work->x = take(&at, tiles * TILE * lanes);
	work->max = take(&at, tiles * lanes);
	work->sum = take(&at, tiles * lanes);
	return (size_t)(at - memory);
}

/* --- a block of rows -------------------------------------------------------------------- */

struct block {
	const struct kvmod_columns *job;
	struct work work;
	uint32_t h;			/* query head of the group */
	uint32_t row, n_rows, lanes;
	uint32_t sees;			/* by the newest row */
};

/* The rows side by side, scaled; lanes without a row are 0. */
static void load_queries(const struct block *b)
{
	const struct kvmod_view *q = &b->job->q;
	const char *head = (const char *)q->data + b->h * q->head_stride;
	uint32_t dim = b->job->head_dim;

	memset(b->work.q, 0, (size_t)dim * b->lanes * sizeof(float));
	for (uint32_t r = 0; r < b->n_rows; r++) {
		const float *row = (const float *)(const void *)(head + (b->row + r) * q->stride);

		for (uint32_t d = 0; d < dim; d++)
			b->work.q[(size_t)d * b->lanes + r] = row[d] * b->job->scale;
	}
}

/* Exponentials of a tile's logits, and of each lane the largest and the sum. */
static void fill_tile(const struct block *b, uint32_t begin, uint32_t end, uint32_t tile)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	const struct kvmod_columns *job = b->job;
	float *x = b->work.x + (size_t)tile * TILE * b->lanes, limits[MOST_LANES];
	uint32_t n = end - begin;
	bool whole = sees(job, b->row) >= end;

	ops->rows(job->k.type, kv_row_at(&job->k, begin), job->k.stride, job->head_dim, n, b->work.k,
		  job->head_dim);
	memset(b->work.k + (size_t)n * job->head_dim, 0,
	       (size_t)(TILE - n) * job->head_dim * sizeof(float));
	ops->lane_logits(b->work.k, job->head_dim, n, b->work.q, b->lanes, x);
	if (job->softcap != 0)
		ops->scale(x, (size_t)n * b->lanes, 1, job->softcap);
	for (uint32_t r = 0; !whole && r < b->lanes; r++)
		limits[r] = (float)sees(job, b->row + r) - (float)begin;
	ops->lane_softmax(x, n, b->lanes, whole ? NULL : limits, b->work.max + (size_t)tile * b->lanes,
			  b->work.sum + (size_t)tile * b->lanes);
}

/* Lanes without a row, and rows that see none of the positions, pay nothing. */
static void clear_weights(const struct block *b, uint32_t n)
{
	uint32_t first = span_of(b->job, 0, b->job->n).begin;

	for (uint32_t r = 0; r < b->lanes; r++) {
		if (r < b->n_rows && sees(b->job, b->row + r) > first)
			continue;
		for (uint32_t i = 0; i < n; i++)
			b->work.max[(size_t)i * b->lanes + r] = 0;
	}
}

/* Calls fn for each tile that the newest row sees; returns their number. */
static uint32_t each_tile(const struct block *b, float *out,
			  void (*fn)(const struct block *b, uint32_t begin, uint32_t n, uint32_t tile,
				     float *out))
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_spans(b->job); i++) {
		struct kvmod_span span = span_of(b->job, i, b->sees);

		for (uint32_t at = span.begin; at < span.end; at += TILE)
			fn(b, at, smaller(at + TILE, span.end), n++, out);
	}
	return n;
}

static void fill(const struct block *b, uint32_t begin, uint32_t end, uint32_t tile, float *out)
{
	(void)out;
	fill_tile(b, begin, end, tile);
}

static void reduce(const struct block *b, uint32_t begin, uint32_t end, uint32_t tile, float *out)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	const float *x = b->work.x + (size_t)tile * TILE * b->lanes;
	const float *weights = b->work.max + (size_t)tile * b->lanes;

	if (b->job->reduce == KVMOD_COLUMNS_SUM)
		ops->lane_sum(x, end - begin, b->lanes, weights, out + begin);
	else
		ops->lane_max(x, end - begin, b->lanes, weights, out + begin);
}

static void run_block(const struct kvmod_columns *job, uint32_t h, uint32_t number, char *memory,
		      float *out)
{
	uint32_t lanes = lanes_of(job);
	struct block b = { .job = job, .h = h, .row = number * lanes };
	uint32_t n;

	lay_out(job, &b.work, memory);
	b.n_rows = smaller(job->n_rows - b.row, lanes);
	b.lanes = (b.n_rows + KV_PAD - 1) / KV_PAD * KV_PAD;
	b.sees = sees(job, b.row + b.n_rows - 1);
	load_queries(&b);
	n = each_tile(&b, NULL, fill);
	kv_cpu_ops()->lane_weights(b.work.max, b.work.sum, n, b.lanes);
	clear_weights(&b, n);
	each_tile(&b, out, reduce);
}

/* --- slices, and threads that take them -------------------------------------------------- */

/*
 * Task slice * group + h of a job takes every n_slices-th block of query head h. The first
 * tasks write to `out`, each other one to a piece of its own; pieces are added to `out` in order.
 */
struct all {
	const struct kvmod_columns *jobs;
	uint32_t n_jobs, stride;
	uint32_t n_heads;		/* query heads of all jobs */
	char *pieces, *work;
	size_t work_bytes;		/* of a thread */
	atomic_uint next;
};

static uint32_t n_slices(const struct all *all, const struct kvmod_columns *job)
{
	return smaller(n_blocks(job), (SLICES + all->n_heads - 1) / all->n_heads);
}

static uint32_t n_tasks(const struct all *all, const struct kvmod_columns *job)
{
	return job->group * n_slices(all, job);
}

/* Tasks that write to `out`, each to a part of its own: one for each row of it. */
static uint32_t n_outs(const struct kvmod_columns *job)
{
	return job->reduce == KVMOD_COLUMNS_SUM ? job->group : 1;
}

static size_t piece_bytes(const struct kvmod_columns *job)
{
	return ((size_t)job->n * sizeof(float) + 63) / 64 * 64;
}

static size_t pieces_bytes(const struct all *all, const struct kvmod_columns *job)
{
	uint32_t n = n_tasks(all, job);

	return n ? (n - n_outs(job)) * piece_bytes(job) : 0;
}

static struct all all_of(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride, char *memory)
{
	struct all all = { .jobs = jobs, .n_jobs = n_jobs, .stride = stride, .pieces = memory };
	struct work unused;

	for (uint32_t i = 0; i < n_jobs; i++) {
		const struct kvmod_columns *job = job_at(jobs, stride, i);
		size_t bytes = lay_out(job, &unused, NULL);

		all.n_heads += job->group;
		all.work_bytes = bytes > all.work_bytes ? bytes : all.work_bytes;
	}
	for (uint32_t i = 0; i < n_jobs; i++)
		memory += pieces_bytes(&all, job_at(jobs, stride, i));
	all.work = memory;
	return all;
}

/* Task `number` of all jobs' tasks, of which each job has count(); *pieces: the job's. */
static const struct kvmod_columns *find_task(const struct all *all, uint32_t *number, char **pieces,
					     uint32_t (*count)(const struct all *all,
							       const struct kvmod_columns *job))
{
	*pieces = all->pieces;
	for (uint32_t i = 0; i < all->n_jobs; i++) {
		const struct kvmod_columns *job = job_at(all->jobs, all->stride, i);

		if (*number < count(all, job))
			return job;
		*number -= count(all, job);
		*pieces += pieces_bytes(all, job);
	}
	return NULL;
}

static void run_task(const struct all *all, uint32_t task, char *memory)
{
	char *pieces;
	const struct kvmod_columns *job = find_task(all, &task, &pieces, n_tasks);
	uint32_t h = task % job->group, n = n_blocks(job), slices = n_slices(all, job);
	float *out = job->out + h * (job->reduce == KVMOD_COLUMNS_SUM ? job->out_stride : 0);

	if (task >= n_outs(job)) {
		out = (float *)(void *)(pieces + (task - n_outs(job)) * piece_bytes(job));
		memset(out, 0, job->n * sizeof(*out));
	}
	for (uint32_t i = task / job->group; i < n; i += slices)
		run_block(job, h, i, memory, out);
}

static void run_thread(void *arg, uint32_t thread)
{
	struct all *all = arg;
	uint32_t n = 0, task;

	for (uint32_t i = 0; i < all->n_jobs; i++)
		n += n_tasks(all, job_at(all->jobs, all->stride, i));
	while ((task = atomic_fetch_add(&all->next, 1)) < n)
		run_task(all, task, all->work + thread * all->work_bytes);
}

static uint32_t outs_of(const struct all *all, const struct kvmod_columns *job)
{
	(void)all;
	return n_outs(job);
}

/* Adds the pieces of one row of a job's out to it. */
static void merge(void *arg, uint32_t h)
{
	const struct all *all = arg;
	char *pieces;
	const struct kvmod_columns *job = find_task(all, &h, &pieces, outs_of);
	uint32_t n = n_tasks(all, job);
	float *out = job->out + (int64_t)h * job->out_stride;

	for (uint32_t task = h + n_outs(job); task < n; task += n_outs(job)) {
		const char *at = pieces + (task - n_outs(job)) * piece_bytes(job);
		const float *piece = (const float *)(const void *)at;

		for (uint32_t i = 0; i < job->n; i++) {
			if (job->reduce == KVMOD_COLUMNS_SUM)
				out[i] += piece[i];
			else
				out[i] = piece[i] > out[i] ? piece[i] : out[i];
		}
	}
}

static void parallel(const struct kvmod_host *host, uint32_t n, void (*fn)(void *arg, uint32_t i),
		     void *arg)
{
	if (host && n > 1) {
		host->parallel(host->ctx, n, fn, arg);
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		fn(arg, i);
}

size_t kv_columns_scratch(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
			  uint32_t n_threads)
{
	struct all all = all_of(jobs, n_jobs, stride, NULL);

	return (size_t)(all.work - all.pieces) + n_threads * all.work_bytes;
}

static int32_t check(const struct kvmod_columns *job)
{
	uint32_t block = kvmod_block_size(job->k.type), end = 0;

	if (job->k.rotation || job->q.rotation)
		return KVMOD_ENOTSUP;
	if (!block || job->head_dim % block || job->q.type != KVMOD_F32 || !job->n || !job->n_rows ||
	    !job->n_seen || job->reduce > KVMOD_COLUMNS_MAX || job->n_spans > 4)
		return KVMOD_EINVAL;
	for (uint32_t i = 0; i < job->n_spans; end = job->spans[i++].end)
		if (job->spans[i].begin < end || job->spans[i].end <= job->spans[i].begin ||
		    job->spans[i].end > job->n)
			return KVMOD_EINVAL;
	return KVMOD_OK;
}

int32_t kv_columns(const struct kvmod_host *host, const struct kvmod_columns *jobs, uint32_t n_jobs,
		   uint32_t stride, uint32_t n_threads, void *scratch)
{
	struct all all;
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_jobs; i++) {
		int32_t code = check(job_at(jobs, stride, i));

		if (code)
			return code;
		n += n_outs(job_at(jobs, stride, i));
	}
	all = all_of(jobs, n_jobs, stride, scratch);
	parallel(host, n_threads, run_thread, &all);
	parallel(host, n, merge, &all);
	return KVMOD_OK;
}
