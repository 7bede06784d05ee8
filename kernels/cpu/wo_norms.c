/* SPDX-License-Identifier: Apache-2.0 */
/* |Wo v|_1: blocks of positions, tiles of Wo's rows. */
#include "kernels/cpu/wo_norms.h"

#include <stdatomic.h>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/ops.h"

#define LANES	48u	/* positions of a block */
#define TILE	64u	/* rows of Wo that are turned into floats at a time */

struct all {
	const struct kvmod_norms *jobs;
	uint32_t n_jobs, stride;
	char *work;
	size_t work_bytes;	/* of a thread */
	atomic_uint next;	/* block of positions, over all jobs */
};

static const struct kvmod_norms *job_at(const struct all *all, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_norms, all->jobs, all->stride, i);
}

static uint32_t n_blocks(const struct kvmod_norms *job)
{
	return (job->n + LANES - 1) / LANES;
}

/* --- a block of positions ------------------------------------------------------------- */

/* A thread's own memory. */
struct work {
	float *rows;		/* [LANES][head_dim]: values as they come */
	float *v;		/* [head_dim][lanes] */
	float *w;		/* [TILE][head_dim] */
	float *x;		/* [TILE][lanes]: w times v */
};

static size_t lay_out(uint32_t dim, struct work *work, char *memory)
{
	struct kv_arena arena = { memory, 0 };

	work->rows = kv_take(&arena, (size_t)LANES * dim, sizeof(float));
	work->v = kv_take(&arena, (size_t)LANES * dim, sizeof(float));
	work->w = kv_take(&arena, (size_t)TILE * dim, sizeof(float));
	work->x = kv_take(&arena, (size_t)TILE * LANES, sizeof(float));
	return arena.used;
}

/* Values side by side; lanes without a position are 0. */
static void load_values(const struct kvmod_norms *job, const struct work *work, uint32_t begin,
			uint32_t n, uint32_t lanes)
{
	uint32_t dim = job->head_dim;

	kv_cpu_ops()->rows(job->v.type, kv_row_at(&job->v, begin), job->v.stride, dim, n,
			   work->rows, dim);
	memset(work->v, 0, (size_t)dim * lanes * sizeof(*work->v));
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t d = 0; d < dim; d++)
			work->v[(size_t)d * lanes + i] = work->rows[(size_t)i * dim + d];
}

static void norms_of_head(const struct kvmod_norms *job, const struct work *work, uint32_t h,
			  uint32_t lanes, float *sums)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	uint32_t dim = job->head_dim, n;

	for (uint32_t e = 0; e < job->n_out; e += n) {
		const char *w = kv_row_at(&job->wo, e) + h * job->wo.head_stride;

		n = job->n_out - e < TILE ? job->n_out - e : TILE;
		ops->rows(job->wo.type, w, job->wo.stride, dim, n, work->w, dim);
		if (n < TILE)
			memset(work->w + (size_t)n * dim, 0,
			       (size_t)(TILE - n) * dim * sizeof(*work->w));
		ops->lane_logits(work->w, dim, n, work->v, lanes, work->x);
		ops->lane_sizes(work->x, n, lanes, sums);
	}
}

static void run_block(const struct kvmod_norms *job, uint32_t number, char *memory)
{
	uint32_t begin = number * LANES, n = job->n - begin < LANES ? job->n - begin : LANES;
	uint32_t lanes = (n + KV_PAD - 1) / KV_PAD * KV_PAD;
	struct work work;

	lay_out(job->head_dim, &work, memory);
	load_values(job, &work, begin, n, lanes);
	for (uint32_t h = 0; h < job->group; h++) {
		float sums[LANES] = { 0 };

		norms_of_head(job, &work, h, lanes, sums);
		memcpy(job->out + (int64_t)h * job->out_stride + begin, sums, n * sizeof(*sums));
	}
}

/* --- jobs, and threads that take blocks of them ------------------------------------------ */

static const struct kvmod_norms *find_block(const struct all *all, uint32_t *number)
{
	for (uint32_t i = 0; i < all->n_jobs; i++) {
		uint32_t n = n_blocks(job_at(all, i));

		if (*number < n)
			return job_at(all, i);
		*number -= n;
	}
	return NULL;
}

static void run_thread(void *arg, uint32_t thread)
{
	struct all *all = arg;
	char *memory = all->work + thread * all->work_bytes;
	const struct kvmod_norms *job;
	uint32_t number;

	for (;;) {
		number = atomic_fetch_add(&all->next, 1);
		job = find_block(all, &number);
		if (!job)
			return;
		run_block(job, number, memory);
	}
}

static struct all all_of(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			 void *memory)
{
	struct all all = { .jobs = jobs, .n_jobs = n_jobs, .stride = stride, .work = memory };
	struct work unused;

	for (uint32_t i = 0; i < n_jobs; i++) {
		size_t bytes = lay_out(job_at(&all, i)->head_dim, &unused, NULL);

		all.work_bytes = bytes > all.work_bytes ? bytes : all.work_bytes;
	}
	return all;
}

size_t kv_wo_norms_scratch(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			   uint32_t n_threads)
{
	return n_threads * all_of(jobs, n_jobs, stride, NULL).work_bytes;
}

static int32_t check(const struct kvmod_norms *job)
{
	uint32_t block = kvmod_block_size(job->v.type);

	if (job->v.rotation || job->wo.rotation)
		return KVMOD_ENOTSUP;
	return !block || !job->head_dim || job->head_dim % block || job->wo.type != KVMOD_F16 ?
		       KVMOD_EINVAL : KVMOD_OK;
}

int32_t kv_wo_norms(const struct kvmod_host *host, const struct kvmod_norms *jobs, uint32_t n_jobs,
		    uint32_t stride, uint32_t n_threads, void *scratch)
{
	struct all all = all_of(jobs, n_jobs, stride, scratch);

	for (uint32_t i = 0; i < n_jobs; i++) {
		int32_t code = check(job_at(&all, i));

		if (code)
			return code;
	}
	if (host && n_threads > 1)
		host->parallel(host->ctx, n_threads, run_thread, &all);
	else
		run_thread(&all, 0);
	return KVMOD_OK;
}
