/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One launch for a decision on rows: blocks that all run at once, and meet where
 * one step needs what all blocks did in the one before.
 */
#include <cooperative_groups.h>

#include "kernels/cuda/attend_norm.cuh"
#include "kernels/cuda/attend_rows.cuh"
#include "kernels/cuda/attend_select.cuh"

template <class P> union kv_attend_memory {
	struct kv_rows_memory<P> rows;
	struct kv_select_memory select;
	struct kv_norm_memory norm;
};

static __device__ __forceinline__ bool kv_is_cut(const struct kv_attend &p, uint32_t task)
{
	return p.tasks[task].n_tiles && kv_status_of(p, task) == 0;
}

/* --- the rules: each head by one block, and a meeting where heads depend on each other --- */

static __device__ void kv_decide_top(const struct kv_attend &p, struct kv_select_memory &s)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x) {
		bool cut = kv_is_cut(p, i);

		if (cut) {
			kv_pool_task(p, p.tasks[i]);
			kv_select_task(p, s, i, p.tasks[i].budget);
		}
		kv_list_task(p, s, i, cut ? p.pooled + p.tasks[i].positions : NULL, 1);
	}
}

static __device__ void kv_decide_shared(const struct kv_attend &p, struct kv_select_memory &s,
					const cooperative_groups::grid_group &grid)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
		if (kv_is_cut(p, i))
			kv_pool_task(p, p.tasks[i]);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_segments; i += gridDim.x)
		if (p.out.results[i].status == 0)
			kv_share_segment(p, s, i);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x) {
		bool cut = kv_is_cut(p, i);

		if (cut)
			kv_select_task(p, s, i, p.out.counts[i]);
		kv_list_task(p, s, i, cut ? p.pooled + p.tasks[i].positions : NULL, 1);
	}
}

static __device__ void kv_decide_mass(const struct kv_attend &p, struct kv_select_memory &s,
				      const cooperative_groups::grid_group &grid)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks * p.group; i += gridDim.x)
		if (kv_is_cut(p, i / p.group))
			kv_select_mass(p, s, i / p.group, i % p.group);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
		kv_list_task(p, s, i, kv_is_cut(p, i) ? p.attention + p.group * p.tasks[i].positions : NULL, p.group);
}

static __device__ void kv_decide_norm(const struct kv_attend &p, struct kv_norm_memory &s,
				      struct kv_select_memory &select, const cooperative_groups::grid_group &grid)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
		if (kv_is_cut(p, i))
			kv_rank_task(p, s, i);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_segments; i += gridDim.x)
		if (kv_is_cut(p, i * p.n_kv_heads))
			kv_cut_segment(p, s, i);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
		kv_list_task(p, select, i, kv_is_cut(p, i) ? p.score + p.tasks[i].positions : NULL, 1);
}

template <class P>
__global__ __launch_bounds__(KV_THREADS, kv_room<P>::BLOCKS) void kv_decide_rows_kernel(const __grid_constant__ struct kv_attend p)
{
	extern __shared__ uint4 memory[];
	union kv_attend_memory<P> &s = *(union kv_attend_memory<P> *)memory;
	cooperative_groups::grid_group grid = cooperative_groups::this_grid();

	for (uint32_t i = blockIdx.x * KV_THREADS + threadIdx.x; i < p.n_segments; i += gridDim.x * KV_THREADS)
		p.out.results[i] = kv_attend_result{ 0, 0, 0 };
	kv_read(p, s.rows, false);
	grid.sync();
	kv_totals(p);
	grid.sync();
	kv_read(p, s.rows, true);
	grid.sync();
	switch (p.params.rule) {
	case KV_ATTEND_TOP:
		return kv_decide_top(p, s.select);
	case KV_ATTEND_SHARED:
		return kv_decide_shared(p, s.select, grid);
	case KV_ATTEND_MASS:
		return kv_decide_mass(p, s.select, grid);
	default:
		return kv_decide_norm(p, s.norm, s.select, grid);
	}
}

/* --- host ----------------------------------------------------------------------- */

static void kv_set_scratch(struct kv_attend *p, const struct kv_attend_job *job, char *scratch)
{
	struct kv_attend_scratch s = kv_attend_scratch(job);

	p->last = (uint64_t *)(scratch + s.last);
	p->order = (uint64_t *)(scratch + s.order);
	p->spare = (uint64_t *)(scratch + s.spare);
	p->sums = (double *)(scratch + s.sums);
	p->stats = (float2 *)(scratch + s.stats);
	p->row_max = (float *)(scratch + s.row_max);
	p->row_weight = (float *)(scratch + s.row_weight);
	p->score = (float *)(scratch + s.score);
	p->pooled = job->params.pool > 1 ? (float *)(scratch + s.pooled) : p->score;
	p->attention = job->params.rule >= KV_ATTEND_MASS ? (float *)(scratch + s.attention) : NULL;
}

static struct kv_attend kv_attend_of(const struct kv_attend_job *job, const char *table, char *scratch,
				     const struct kv_attend_output *output)
{
	struct kv_attend p = {};

	kv_set_scratch(&p, job, scratch);
	p.tasks = (const struct kv_attend_task *)table;
	p.limits = (const uint32_t *)(table + kv_attend_limits_at(job));
	p.out = *output;
	p.params = job->params;
	p.softcap = job->softcap;
	p.scale = job->softcap > 0 ? job->scale : job->scale * 1.44269504f;
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

/* As many units of queries as have room, and what shared memory all takes then. */
template <class P> static cudaError_t kv_size_attend(uint32_t *units, size_t *shared)
{
	const size_t before = offsetof(struct kv_rows_memory<P>, stages), each = sizeof(typename P::Stage);
	const size_t least = sizeof(kv_select_memory) > sizeof(kv_norm_memory) ? sizeof(kv_select_memory) :
										  sizeof(kv_norm_memory);
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
template <class P> static cudaError_t kv_launch_rows_kernel(struct kv_attend p, cudaStream_t stream)
{
	void *arguments[] = { &p };
	int device, processors, each;
	uint32_t blocks;
	size_t shared;
	cudaError_t err = kv_size_attend<P>(&p.units, &shared);

	if (err == cudaSuccess)
		err = kv_allow_shared((const void *)kv_decide_rows_kernel<P>, shared,
				      sizeof(union kv_attend_memory<P>));
	if (err == cudaSuccess)
		err = cudaGetDevice(&device);
	if (err == cudaSuccess)
		err = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
	if (err == cudaSuccess)
		err = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kv_decide_rows_kernel<P>, KV_THREADS, shared);
	if (err != cudaSuccess)
		return err;
	blocks = p.n_items > p.n_tasks * p.group ? p.n_items : p.n_tasks * p.group;
	if (blocks > (uint32_t)(processors * each))
		blocks = processors * each;
	return cudaLaunchCooperativeKernel((const void *)kv_decide_rows_kernel<P>, dim3(blocks), dim3(KV_THREADS),
					   arguments, shared, stream);
}

int kv_cuda_attend(const struct kv_attend_job *job, const void *table, void *scratch,
		   const struct kv_attend_output *output, void *stream)
{
	struct kv_attend p = kv_attend_of(job, (const char *)table, (char *)scratch, output);
	cudaError_t err = kv_with_path(job->k_type, job->aligned, job->head_dim, [&](auto path) {
		return kv_launch_rows_kernel<typename decltype(path)::type>(p, (cudaStream_t)stream);
	});

	return err == cudaSuccess ? 0 : KVMOD_EDEVICE;
}
