/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel of the rules that select by attention. */
#include "kernels/cuda/attend/attend.h"
#include "kernels/cuda/attend/select.cuh"
#include "kernels/cuda/attention/kernel.cuh"
#include "kernels/cuda/attention/list.cuh"

struct kv_attend_memory {
	struct kv_select_memory select;
	struct kv_list_memory list;
};

/* --- the rules: one block works on each head; blocks meet where heads depend on each other --- */

static __device__ void kv_decide_top(const struct kv_attention &p, struct kv_attend_memory &s)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x) {
		bool cut = kv_is_cut(p, i);

		if (cut) {
			kv_pool_task(p, p.tasks[i]);
			kv_select_task(p, s.select, i, p.tasks[i].budget);
		}
		kv_list_task(p, s.list, i, cut ? p.pooled + p.tasks[i].positions : NULL, 1);
	}
}

static __device__ void kv_decide_shared(const struct kv_attention &p, struct kv_attend_memory &s,
					const cooperative_groups::grid_group &grid)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
		if (kv_is_cut(p, i))
			kv_pool_task(p, p.tasks[i]);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_segments; i += gridDim.x)
		if (p.out.results[i].status == 0)
			kv_share_segment(p, s.select, i);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x) {
		bool cut = kv_is_cut(p, i);

		if (cut)
			kv_select_task(p, s.select, i, p.out.counts[i]);
		kv_list_task(p, s.list, i, cut ? p.pooled + p.tasks[i].positions : NULL, 1);
	}
}

static __device__ void kv_decide_mass(const struct kv_attention &p, struct kv_attend_memory &s,
				      const cooperative_groups::grid_group &grid)
{
	for (uint32_t i = blockIdx.x; i < p.n_tasks * p.group; i += gridDim.x)
		if (kv_is_cut(p, i / p.group))
			kv_select_mass(p, s.select, i / p.group, i % p.group);
	grid.sync();
	for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
		kv_list_task(p, s.list, i, kv_is_cut(p, i) ? p.attention + p.group * p.tasks[i].positions : NULL, p.group);
}

struct kv_attend_rules {
	typedef struct kv_attend_memory Memory;

	static __device__ __forceinline__ void decide(const struct kv_attention &p, Memory &s,
						      const cooperative_groups::grid_group &grid)
	{
		switch (p.rule) {
		case KV_ATTEND_TOP:
			return kv_decide_top(p, s);
		case KV_ATTEND_SHARED:
			return kv_decide_shared(p, s, grid);
		default:
			return kv_decide_mass(p, s, grid);
		}
	}
};

int kv_cuda_attend(const struct kv_attention_job *job, const void *table, void *scratch,
		   const struct kv_attention_output *output, void *stream)
{
	return kv_launch_attention<kv_attend_rules>(job, table, scratch, output, stream);
}
