/* SPDX-License-Identifier: Apache-2.0 */
/* The table of norms of Wo v, which the host writes and the kernel reads. */
#ifndef KV_KERNELS_CUDA_NORMS_TABLE_H
#define KV_KERNELS_CUDA_NORMS_TABLE_H

#include "kernels/cuda/base/rows.h"
#include "kernels/cuda/norms/norms.h"

/* One KV head. An item is a tile of its values with one query head. */
struct kv_norms_entry {
	const char *v, *wo;
	float *out;
	int64_t v_stride, wo_stride, out_stride;
	uint32_t n, n_out, dim, v_type;
	uint32_t first_item, n_tiles, group;
	uint32_t wide_v, wide_wo;	/* 16-byte aligned */
	uint32_t reserved;
};

#endif
