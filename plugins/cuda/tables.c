/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the tables of launches, used again after these are done. */
#include "plugins/cuda/tables.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

static void free_table(struct kv_cuda_table *t)
{
	if (!t)
		return;
	if (t->done) {
		cudaEventSynchronize(t->done);
		cudaEventDestroy(t->done);
	}
	if (t->device)
		cudaFree(t->device);
	if (t->host)
		cudaFreeHost(t->host);
	free(t);
}

void kv_cuda_free_tables(struct kv_cuda_tables *tables)
{
	for (int i = 0; i < KV_CUDA_TABLES; i++)
		free_table(atomic_load(&tables->kept[i]));
}

/* Lists grow turn by turn, so a table has some room to spare. */
static cudaError_t new_table(size_t bytes, struct kv_cuda_table **out)
{
	struct kv_cuda_table *t = calloc(1, sizeof(*t));
	cudaError_t error;

	if (!t)
		return cudaErrorMemoryAllocation;
	t->room = bytes + bytes / 8;
	error = cudaHostAlloc((void **)&t->host, t->room, cudaHostAllocDefault);
	if (error == cudaSuccess)
		error = cudaMalloc((void **)&t->device, t->room);
	if (error == cudaSuccess)
		error = cudaEventCreateWithFlags(&t->done, cudaEventDisableTiming);
	if (error == cudaSuccess)
		*out = t;
	else
		free_table(t);
	return error;
}

void kv_cuda_put_table(struct kv_cuda_tables *tables, struct kv_cuda_table *t)
{
	for (int i = 0; i < KV_CUDA_TABLES; i++) {
		struct kv_cuda_table *none = NULL;

		if (atomic_compare_exchange_strong(&tables->kept[i], &none, t))
			return;
	}
	free_table(t);
}

static bool is_done(const struct kv_cuda_table *t)
{
	bool done = cudaEventQuery(t->done) == cudaSuccess;

	cudaGetLastError();	/* "not ready" is not an error here */
	return done;
}

/*
 * A kept table that is large enough, and free unless the caller will wait. NULL: *full if all
 * are in use.
 */
static struct kv_cuda_table *find_table(struct kv_cuda_tables *tables, size_t bytes, bool wait,
					bool *full)
{
	*full = true;
	for (int i = 0; i < KV_CUDA_TABLES; i++) {
		struct kv_cuda_table *t = atomic_exchange(&tables->kept[i], NULL);

		if (t && t->room >= bytes && (wait || is_done(t)))
			return t;
		*full &= t && t->room >= bytes;
		if (t && t->room < bytes && is_done(t))
			free_table(t);
		else if (t)
			kv_cuda_put_table(tables, t);
	}
	return NULL;
}

cudaError_t kv_cuda_take_table(struct kv_cuda_tables *tables, size_t bytes,
			       struct kv_cuda_table **out)
{
	cudaError_t error;
	bool full;

	*out = find_table(tables, bytes, false, &full);
	if (!*out && full)
		*out = find_table(tables, bytes, true, &full);
	if (!*out)
		return new_table(bytes, out);
	error = cudaEventSynchronize((*out)->done);
	if (error != cudaSuccess)
		free_table(*out);
	return error;
}

cudaError_t kv_cuda_end_table(const struct kv_cuda_table *table, cudaError_t error,
			      cudaStream_t stream)
{
	if (error == cudaSuccess)
		error = cudaEventRecord(table->done, stream);
	/* Launches under way may still read the table, and no event will tell when they end. */
	if (error != cudaSuccess)
		cudaStreamSynchronize(stream);
	return error;
}
