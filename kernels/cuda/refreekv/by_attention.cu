/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel of ReFreeKV's decision where positions are ranked by attention. */
#include "kernels/cuda/attention/kernel.cuh"
#include "kernels/cuda/attention/list.cuh"
#include "kernels/cuda/refreekv/by_attention.h"
#include "kernels/cuda/refreekv/norm.cuh"

struct kv_norm_rule {
	struct Memory {
		struct kv_norm_memory norm;
		struct kv_list_memory list;
	};

	/* One block ranks each head; then one block cuts all heads of each segment. */
	static __device__ void decide(const struct kv_attention &p, Memory &s,
				      const cooperative_groups::grid_group &grid)
	{
		for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
			if (kv_is_cut(p, i))
				kv_rank_task(p, s.norm, i);
		grid.sync();
		for (uint32_t i = blockIdx.x; i < p.n_segments; i += gridDim.x)
			if (kv_is_cut(p, i * p.n_kv_heads))
				kv_cut_segment(p, s.norm, i);
		grid.sync();
		for (uint32_t i = blockIdx.x; i < p.n_tasks; i += gridDim.x)
			kv_list_task(p, s.list, i, kv_is_cut(p, i) ? p.score + p.tasks[i].positions : NULL, 1);
	}
};

int kv_cuda_refreekv_by_attention(const struct kv_attention_job *job, const void *table, void *scratch,
				  const struct kv_attention_output *output, void *stream)
{
	return kv_launch_attention<kv_norm_rule>(job, table, scratch, output, stream);
}
