/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel of a decision by attention, generic in the rule: two readings of the keys,
 * then the rule. All blocks run at once, and meet where a step needs the results of all
 * blocks from the step before. A rule has
 *
 *	Memory		the shared memory of a block while it decides
 *	decide()	called by all blocks: fills in p.last, the results and the lists
 */
#ifndef KV_KERNELS_CUDA_ATTENTION_KERNEL_CUH
#define KV_KERNELS_CUDA_ATTENTION_KERNEL_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/attention/readings.cuh"
#include "kernels/cuda/base/launch.cuh"

template <class P, class Rule> union kv_attention_memory {
	struct kv_rows_memory<P> rows;
	typename Rule::Memory rule;
};

template <class P, class Rule>
__global__ __launch_bounds__(KV_THREADS, kv_room<P>::BLOCKS)
void kv_decide_by_attention(const __grid_constant__ struct kv_attention p)
{
	extern __shared__ uint4 memory[];
	union kv_attention_memory<P, Rule> &s = *(union kv_attention_memory<P, Rule> *)memory;
	cooperative_groups::grid_group grid = cooperative_groups::this_grid();

	for (uint32_t i = blockIdx.x * KV_THREADS + threadIdx.x; i < p.n_segments; i += gridDim.x * KV_THREADS)
		p.out.results[i] = kv_attention_result{ 0, 0, 0 };
	kv_read(p, s.rows, false);
	grid.sync();
	kv_totals(p);
	grid.sync();
	kv_read(p, s.rows, true);
	grid.sync();
	Rule::decide(p, s.rule, grid);
}

/* --- host ----------------------------------------------------------------------- */

static inline void kv_set_scratch(struct kv_attention *p, const struct kv_attention_job *job, char *scratch)
{
	struct kv_attention_scratch s = kv_attention_scratch(job);

	p->last = (uint64_t *)(scratch + s.last);
	p->order = (uint64_t *)(scratch + s.order);
	p->spare = (uint64_t *)(scratch + s.spare);
	p->sums = (double *)(scratch + s.sums);
	p->stats = (float2 *)(scratch + s.stats);
	p->row_max = (float *)(scratch + s.row_max);
	p->row_weight = (float *)(scratch + s.row_weight);
	p->score = (float *)(scratch + s.score);
	p->pooled = job->params.pool > 1 ? (float *)(scratch + s.pooled) : p->score;
	p->attention = job->params.rule->head_rows ? (float *)(scratch + s.attention) : NULL;
}

static inline struct kv_attention kv_attention_of(const struct kv_attention_job *job, const char *table,
						  char *scratch, const struct kv_attention_output *output)
{
	struct kv_attention p = {};

	kv_set_scratch(&p, job, scratch);
	p.tasks = (const struct kv_attention_task *)table;
	p.limits = (const uint32_t *)(table + kv_attention_limits_at(job));
	p.out = *output;
	p.params = job->params;
	p.rule = job->params.rule->number;
	p.averages = job->params.rule->averages;
	p.softcap = job->softcap;
	p.scale = kv_logit_scale(job->scale, job->softcap);
	p.n_segments = job->n_segments;
	p.n_tasks = job->n_segments * job->n_kv_heads;
	p.n_items = job->n_items;
	p.n_q_heads = job->n_q_heads;
	p.n_kv_heads = job->n_kv_heads;
	p.group = job->n_q_heads / job->n_kv_heads;
	p.dim = job->head_dim;
	p.q_type = job->q_type;
	p.tile = job->tile;
	p.rows = job->rows;
	p.units = job->units;
	return p;
}

/* As many units of queries as have room, and the shared memory of a block with them. */
template <class P, class Rule> static cudaError_t kv_size_attention(uint32_t *units, size_t *shared)
{
	const size_t before = offsetof(struct kv_rows_memory<P>, stages), each = sizeof(typename P::Stage);
	const size_t least = sizeof(typename Rule::Memory);
	size_t limit, rows;
	cudaError_t err = kv_shared_limit(&limit);

	if (err != cudaSuccess)
		return err;
	if (*units == 0 || *units > KV_UNITS)
		*units = KV_UNITS;
	while (*units > 1 && before + *units * each > limit)
		--*units;
	rows = before + *units * each;
	*shared = rows > least ? rows : least;
	return cudaSuccess;
}

/* As many blocks as there is work for, but no more than can run at once. */
template <class P, class Rule> static cudaError_t kv_launch_blocks(struct kv_attention p, cudaStream_t stream)
{
	const void *kernel = (const void *)kv_decide_by_attention<P, Rule>;
	void *arguments[] = { &p };
	int processors, each;
	uint32_t blocks;
	size_t shared;
	cudaError_t err = kv_size_attention<P, Rule>(&p.units, &shared);

	if (err == cudaSuccess)
		err = kv_allow_shared(kernel, shared, sizeof(union kv_attention_memory<P, Rule>));
	if (err == cudaSuccess)
		err = kv_multiprocessors(&processors);
	if (err == cudaSuccess)
		err = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, KV_THREADS, shared);
	if (err != cudaSuccess)
		return err;
	blocks = p.n_items > p.n_tasks * p.group ? p.n_items : p.n_tasks * p.group;
	if (blocks > (uint32_t)(processors * each))
		blocks = processors * each;
	return cudaLaunchCooperativeKernel(kernel, dim3(blocks), dim3(KV_THREADS), arguments, shared, stream);
}

template <class Rule>
static int kv_launch_attention(const struct kv_attention_job *job, const void *table, void *scratch,
			       const struct kv_attention_output *output, void *stream)
{
	struct kv_attention p = kv_attention_of(job, (const char *)table, (char *)scratch, output);
	cudaError_t err = kv_with_path(job->k_type, job->aligned, job->head_dim, [&](auto path) {
		return kv_launch_blocks<typename decltype(path)::type, Rule>(p, (cudaStream_t)stream);
	});

	return err == cudaSuccess ? 0 : KVMOD_EDEVICE;
}

#endif
