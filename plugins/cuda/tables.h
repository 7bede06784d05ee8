/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for the tables of launches, pinned on the host and on the GPU. Some tables are
 * large, and allocating one takes longer than its launch. So the tables of earlier
 * launches are used again, after these are done. [any thread, several at once]
 */
#ifndef KV_PLUGINS_CUDA_TABLES_H
#define KV_PLUGINS_CUDA_TABLES_H

#include <stddef.h>

#include <cuda_runtime_api.h>

struct kv_cuda_table {
	size_t room;
	cudaEvent_t done;		/* after the launches: both can be used again */
	char *host, *device;
};

#define KV_CUDA_TABLES 4		/* in use at once; who wants a fifth waits */

struct kv_cuda_tables {
	/* NULL: none, or in use by a call */
	_Atomic(struct kv_cuda_table *) kept[KV_CUDA_TABLES];
};

/* A table with room for `bytes` bytes that no launch uses any more. */
cudaError_t kv_cuda_take_table(struct kv_cuda_tables *tables, size_t bytes,
			       struct kv_cuda_table **out);
/*
 * After the last launch that reads the table: returns `error`, that of a launch, or what
 * goes wrong here.
 */
cudaError_t kv_cuda_end_table(const struct kv_cuda_table *table, cudaError_t error,
			      cudaStream_t stream);
/* Keeps the table for later launches, or frees it if enough are kept. */
void kv_cuda_put_table(struct kv_cuda_tables *tables, struct kv_cuda_table *table);
void kv_cuda_free_tables(struct kv_cuda_tables *tables);

#endif
