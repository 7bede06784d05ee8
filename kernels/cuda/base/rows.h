/* SPDX-License-Identifier: Apache-2.0 */
/* How many rows a block of rows.cuh holds, as tables count them; and the checks of such rows. */
#ifndef KV_KERNELS_CUDA_BASE_ROWS_H
#define KV_KERNELS_CUDA_BASE_ROWS_H

#include <stdbool.h>
#include <stddef.h>

#include <kvmod/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KV_ROW_WARPS 4			/* of a block; two blocks run on a multiprocessor */
#define KV_ROW_THREADS (32 * KV_ROW_WARPS)
#define KV_ROW_BLOCKS 2

/* With so many blocks, a GPU has enough to do. */
#define KV_FEW_BLOCKS 256u

/* Batches of sixteen rows that a warp's registers have room for; more than 4 gain nothing. */
#define KV_MOST_BATCHES(chunks, parts) \
	(16 / ((chunks) * (parts)) < 4 ? 16 / ((chunks) * (parts)) : 4)

/* The chunks of 32 elements that there are kernels for. */
static inline uint32_t kv_row_chunks(uint32_t dim)
{
	return dim <= 64 ? 2 : dim <= 128 ? 4 : 8;
}

/* The rows of a block whose warps hold `batches` batches. */
static inline uint32_t kv_block_rows(uint32_t batches)
{
	return 16 * KV_ROW_WARPS * batches;
}

/*
 * Can kernels read these n rows of `dim` elements? 0; or KVMOD_EINVAL or KVMOD_ENOTSUP,
 * and what is wrong.
 */
int32_t kv_check_rows(const struct kvmod_view *rows, uint64_t n, uint32_t dim, const char **why);

/* Are rows and strides multiples of 16 bytes? */
bool kv_rows_are_wide(const struct kvmod_view *rows);

#ifdef __cplusplus
}
#endif
#endif
