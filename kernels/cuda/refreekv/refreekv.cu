/* SPDX-License-Identifier: Apache-2.0 */
/* The launch of a decision: the choice of the kernel, its parameters and its blocks. */
#include "kernels/cuda/base/launch.cuh"
#include "kernels/cuda/base/logit.cuh"
#include "kernels/cuda/base/paths.cuh"
#include "kernels/cuda/refreekv/many_rows.cuh"
#include "kernels/cuda/refreekv/one_row.cuh"

/* The least number of blocks that finish segments. */
#define KV_FINISHERS 16

static struct kv_launch kv_launch_of(const struct kv_refreekv_job *job, char *table, char *scratch,
				     struct kv_refreekv_result *results)
{
	struct kv_table_layout t = kv_table_layout(job);
	struct kv_scratch_layout s = kv_scratch_layout(job);
	struct kv_launch p = {};

	p.segments = (struct kv_segment_entry *)(table + t.segments);
	p.heads = (struct kv_head_entry *)(table + t.heads);
	p.first_tiles = (uint32_t *)(table + t.first_tiles);
	p.limits = (uint32_t *)(table + t.limits);
	p.counters = (struct kv_counters *)(table + t.counters);
	p.queue = (uint32_t *)(table + t.queue);
	p.stages = scratch + s.stages;
	p.stage_bytes = kv_stage_bytes(job->head_dim);
	p.cells = (struct kv_cell *)(scratch + s.cells);
	p.parts = (float *)(scratch + s.parts);
	p.stats_max = (float *)(scratch + s.stats_max);
	p.stats_sum = (float *)(scratch + s.stats_sum);
	p.row_references = (float *)(scratch + s.row_references);
	p.results = results;
	p.params = job->params;
	p.softcap = job->softcap;
	p.scale = kv_logit_scale(job->scale, job->softcap);
	p.n_segments = job->n_segments;
	p.n_tiles = job->n_tiles;
	p.n_q_heads = job->n_q_heads;
	p.n_kv_heads = job->n_kv_heads;
	p.ratio = job->n_q_heads / job->n_kv_heads;
	p.groups = kv_groups(job);
	p.n_items = job->n_tiles * job->n_kv_heads * p.groups;
	p.spare_cell = job->n_cells;
	p.dim = job->head_dim;
	p.q_type = job->q_type;
	p.interleaved = job->interleaved;
	p.sinks = job->params.sinks;
	p.recent = job->params.recent;
	p.norm_all = job->params.norm_all;
	return p;
}

/*
 * How many blocks finish segments, so that they keep up with those that read: a finish
 * takes about as long as an item.
 */
static uint32_t kv_finishers(const struct kv_launch &p)
{
	uint32_t n = (uint64_t)p.blocks * p.n_segments / (p.n_segments + p.n_items);

	n = n < KV_FINISHERS ? KV_FINISHERS : n;
	n = n < p.blocks / 2 ? n : p.blocks / 2;
	return n < p.n_segments ? n : p.n_segments;
}

template <class P>
static cudaError_t kv_launch_last(struct kv_launch p, cudaStream_t stream)
{
	uint32_t finishers = kv_finishers(p), room = p.blocks - finishers;
	const size_t shared = kv_size_shared<P>(&p);
	cudaError_t err = kv_allow_shared((const void *)kv_decide_last<P>, shared, KV_SHARED_MOST);

	if (err != cudaSuccess)
		return err;
	p.workers = p.n_items < room ? p.n_items : room;
	kv_decide_last<P><<<p.workers + finishers, 32 * KV_WARPS, shared, stream>>>(p);
	return cudaPeekAtLastError();
}

/*
 * A group has all rows of its query heads, so that one block forms the mean of a
 * position. A block holds up to three steps besides the current one: with as many steps
 * of each block between a segment's two readings, the first is done when the second
 * begins.
 */
static void kv_order_rows(struct kv_launch *p, uint32_t rows)
{
	uint32_t each = (rows + 7) / 8;
	uint64_t steps, held = 3 * p->blocks;

	p->row_heads = each < KV_ROW_GROUPS ? KV_ROW_GROUPS / each : 1;
	p->groups = (p->ratio + p->row_heads - 1) / p->row_heads;
	steps = (uint64_t)p->n_tiles * p->n_kv_heads * p->groups;
	p->n_items = 2 * steps;
	p->lag = steps ? (held * p->n_segments + steps) / (2 * steps) : 0;
	p->lag = p->lag ? p->lag : 1;
}

template <class P> static cudaError_t kv_launch_rows(struct kv_launch p, uint32_t rows, cudaStream_t stream)
{
	cudaError_t err;
	size_t shared;

	p.blocks = p.blocks / 2 * kv_room<P>::BLOCKS;
	kv_order_rows(&p, rows);
	shared = kv_size_rows<P>(p.n_q_heads);
	err = kv_allow_shared((const void *)kv_decide_rows<P>, shared, kv_size_rows<P>(KV_MAX_HEADS));
	if (err != cudaSuccess)
		return err;
	kv_decide_rows<P><<<p.blocks, 32 * KV_WARPS, shared, stream>>>(p);
	return cudaPeekAtLastError();
}

int kv_cuda_refreekv(const struct kv_refreekv_job *job, void *table, void *scratch,
		     struct kv_refreekv_result *results, void *stream)
{
	struct kv_launch p = kv_launch_of(job, (char *)table, (char *)scratch, results);
	int processors;
	cudaError_t err = kv_multiprocessors(&processors);

	if (err != cudaSuccess)
		return KVMOD_EDEVICE;
	p.blocks = 2 * processors;
	err = kv_with_path(job->k_type, job->aligned, job->head_dim, [&](auto path) {
		typedef typename decltype(path)::type P;

		return job->rows > 1 ? kv_launch_rows<P>(p, job->rows, (cudaStream_t)stream) :
				       kv_launch_last<P>(p, (cudaStream_t)stream);
	});
	return err == cudaSuccess ? 0 : KVMOD_EDEVICE;
}
