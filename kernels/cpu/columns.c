/* SPDX-License-Identifier: Apache-2.0 */
/* Attention reduced over rows of queries: blocks of rows, tiles of positions, slices. */
#include "kernels/cpu/columns.h"

#include <stdatomic.h>

#include "kernels/cpu/arena.h"
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

/* Points the arrays into memory; returns the bytes that they take. */
static size_t lay_out(const struct kvmod_columns *job, struct work *work, char *memory)
{
	size_t lanes = lanes_of(job), tiles = n_tiles(job);
	struct kv_arena arena = { memory, 0 };

	work->q = kv_take(&arena, lanes * job->head_dim, sizeof(float));
	work->k = kv_take(&arena, (size_t)TILE * job->head_dim, sizeof(float));
	work->x = kv_take(&arena, tiles * TILE * lanes, sizeof(float));
	work->max = kv_take(&arena, tiles * lanes, sizeof(float));
	work->sum = kv_take(&arena, tiles * lanes, sizeof(float));
	return arena.used;
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

/* What is done with positions begin .. end-1, the block's tile of that number. */
typedef void tile_fn(const struct block *b, uint32_t begin, uint32_t end, uint32_t tile, float *out);

/* Exponentials of the tile's logits, and of each lane the largest logit and the sum. */
static void fill(const struct block *b, uint32_t begin, uint32_t end, uint32_t tile, float *out)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	const struct kvmod_columns *job = b->job;
	float *x = b->work.x + (size_t)tile * TILE * b->lanes, limits[MOST_LANES];
	uint32_t n = end - begin;
	bool whole = sees(job, b->row) >= end;

	(void)out;
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
static uint32_t each_tile(const struct block *b, tile_fn *fn, float *out)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_spans(b->job); i++) {
		struct kvmod_span span = span_of(b->job, i, b->sees);

		for (uint32_t at = span.begin; at < span.end; at += TILE)
			fn(b, at, smaller(at + TILE, span.end), n++, out);
	}
	return n;
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
	n = each_tile(&b, fill, NULL);
	kv_cpu_ops()->lane_weights(b.work.max, b.work.sum, n, b.lanes);
	clear_weights(&b, n);
	each_tile(&b, reduce, out);
}

/* --- slices, and threads that take them -------------------------------------------------- */

/*
 * Task slice * group + h of a job takes every n_slices-th block of query head h. The first
 * tasks write to `out`, each other one to a piece of its own; pieces are added to `out` in order.
 */
struct share {
	uint32_t first_task, first_out;	/* of this job; the next one has the ends */
	uint32_t n_slices;
	size_t pieces;			/* where they begin, in bytes */
};

struct all {
	const struct kvmod_columns *jobs;
	uint32_t n_jobs, stride;
	struct share *shares;		/* [n_jobs + 1] */
	char *pieces, *work;
	size_t work_bytes;		/* of a thread */
	atomic_uint next;
};

/* Tasks that write to `out`, each to a part of its own: one for each row of it. */
static uint32_t n_outs(const struct kvmod_columns *job)
{
	return job->reduce == KVMOD_COLUMNS_SUM ? job->group : 1;
}

static size_t piece_bytes(const struct kvmod_columns *job)
{
	return kv_line_bytes((size_t)job->n * sizeof(float));
}

/* What the job after this one begins with. */
static struct share after(const struct share *share, const struct kvmod_columns *job)
{
	uint32_t n_tasks = job->group * share->n_slices;

	return (struct share){
		.first_task = share->first_task + n_tasks, .first_out = share->first_out + n_outs(job),
		.pieces = share->pieces + (n_tasks - n_outs(job)) * piece_bytes(job),
	};
}

static size_t shares_bytes(uint32_t n_jobs)
{
	return kv_line_bytes((n_jobs + 1) * sizeof(struct share));
}

/* Divides the jobs and the memory; memory NULL: only counts. *end: what comes after all. */
static struct all all_of(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride, char *memory,
			 struct share *end)
{
	struct all all = { .jobs = jobs, .n_jobs = n_jobs, .stride = stride };
	struct share at = { .first_task = 0 };
	uint32_t n_heads = 0;
	struct work unused;

	all.shares = (struct share *)(void *)memory;
	all.pieces = memory + (memory ? shares_bytes(n_jobs) : 0);
	for (uint32_t i = 0; i < n_jobs; i++)
		n_heads += job_at(jobs, stride, i)->group;
	for (uint32_t i = 0; i < n_jobs; i++) {
		const struct kvmod_columns *job = job_at(jobs, stride, i);
		size_t bytes = lay_out(job, &unused, NULL);

		at.n_slices = smaller(n_blocks(job), (SLICES + n_heads - 1) / n_heads);
		if (memory)
			all.shares[i] = at;
		at = after(&at, job);
		all.work_bytes = bytes > all.work_bytes ? bytes : all.work_bytes;
	}
	if (memory)
		all.shares[n_jobs] = at;
	all.work = all.pieces + (memory ? at.pieces : 0);
	*end = at;
	return all;
}

static float *piece_at(const struct all *all, uint32_t i, uint32_t task)
{
	const struct kvmod_columns *job = job_at(all->jobs, all->stride, i);
	char *pieces = all->pieces + all->shares[i].pieces;

	return (float *)(void *)(pieces + (task - n_outs(job)) * piece_bytes(job));
}

/* Task `task` of job i. */
static void run_task(const struct all *all, uint32_t i, uint32_t task, char *memory)
{
	const struct kvmod_columns *job = job_at(all->jobs, all->stride, i);
	uint32_t h = task % job->group, n = n_blocks(job);
	float *out = job->out + (task < n_outs(job) ? h * job->out_stride : 0);

	if (task >= n_outs(job)) {
		out = piece_at(all, i, task);
		memset(out, 0, job->n * sizeof(*out));
	}
	for (uint32_t block = task / job->group; block < n; block += all->shares[i].n_slices)
		run_block(job, h, block, memory, out);
}

static void run_thread(void *arg, uint32_t thread)
{
	struct all *all = arg;
	uint32_t i = 0, task;

	while ((task = atomic_fetch_add(&all->next, 1)) < all->shares[all->n_jobs].first_task) {
		while (task >= all->shares[i + 1].first_task)
			i++;
		run_task(all, i, task - all->shares[i].first_task,
			 all->work + thread * all->work_bytes);
	}
}

/* Adds the pieces of row `row` of all outs to it. */
static void merge(void *arg, uint32_t row)
{
	const struct all *all = arg;
	const struct kvmod_columns *job;
	uint32_t i = 0, n;
	float *out;

	while (row >= all->shares[i + 1].first_out)
		i++;
	row -= all->shares[i].first_out;
	job = job_at(all->jobs, all->stride, i);
	n = job->group * all->shares[i].n_slices;
	out = job->out + (int64_t)row * job->out_stride;
	for (uint32_t task = row + n_outs(job); task < n; task += n_outs(job)) {
		const float *piece = piece_at(all, i, task);

		for (uint32_t k = 0; k < job->n; k++) {
			if (job->reduce == KVMOD_COLUMNS_SUM)
				out[k] += piece[k];
			else
				out[k] = piece[k] > out[k] ? piece[k] : out[k];
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

static int32_t check_one(const struct kvmod_columns *job)
{
	uint32_t block = kvmod_block_size(job->k.type), end = 0;

	if (job->k.rotation || job->q.rotation)
		return KVMOD_ENOTSUP;
	if (!block || job->head_dim % block || job->q.type != KVMOD_F32 || !job->n || !job->n_rows ||
	    !job->n_seen || !job->group || job->reduce > KVMOD_COLUMNS_MAX || job->n_spans > 4)
		return KVMOD_EINVAL;
	for (uint32_t i = 0; i < job->n_spans; end = job->spans[i++].end)
		if (job->spans[i].begin < end || job->spans[i].end <= job->spans[i].begin ||
		    job->spans[i].end > job->n)
			return KVMOD_EINVAL;
	return KVMOD_OK;
}

static int32_t check(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride)
{
	int32_t code = KVMOD_OK;

	for (uint32_t i = 0; i < n_jobs && !code; i++)
		code = check_one(job_at(jobs, stride, i));
	return code;
}

size_t kv_columns_scratch(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
			  uint32_t n_threads)
{
	struct share end;
	struct all all;

	if (check(jobs, n_jobs, stride))
		return 0;
	all = all_of(jobs, n_jobs, stride, NULL, &end);
	return shares_bytes(n_jobs) + end.pieces + n_threads * all.work_bytes;
}

int32_t kv_columns(const struct kvmod_host *host, const struct kvmod_columns *jobs, uint32_t n_jobs,
		   uint32_t stride, uint32_t n_threads, void *scratch)
{
	int32_t code = check(jobs, n_jobs, stride);
	struct share end;
	struct all all;

	if (code)
		return code;
	all = all_of(jobs, n_jobs, stride, scratch, &end);
	parallel(host, n_threads, run_thread, &all);
	if (end.pieces)
		parallel(host, end.first_out, merge, &all);
	return KVMOD_OK;
}
