/* SPDX-License-Identifier: Apache-2.0 */
/* The sizes that host code and kernels agree on. */
#ifndef KV_KERNELS_CUDA_BASE_LIMITS_H
#define KV_KERNELS_CUDA_BASE_LIMITS_H

#define KV_MAX_DIM 256		/* elements of a key */
#define KV_MAX_HEADS 128	/* query heads of a layer */
#define KV_WARPS 8		/* of a block that computes attention */
#define KV_THREADS (32 * KV_WARPS)

/* A function that tables are written with on the host and read with on the device. */
#ifdef __CUDACC__
#define KV_BOTH __host__ __device__
#else
#define KV_BOTH
#endif

#endif
