/* SPDX-License-Identifier: Apache-2.0 */
/* The extension KVMOD_DEVICE_ATTENTION of the device "cuda". */
#include "plugins/cuda/attention.h"

#include "kernels/cuda/base/error.h"
#include "kernels/cuda/columns/columns.h"
#include "kernels/cuda/norms/norms.h"

#define WHY 160			/* bytes of a reason */

static const struct kvmod_host *host_of(void *self)
{
	return ((struct kv_cuda_device *)self)->instance.host;
}

static struct kv_cuda_tables *tables_of(void *self)
{
	return &((struct kv_cuda_device *)self)->tables;
}

/* Queues the copy of a part of a table to the GPU. */
static cudaError_t send(const struct kv_cuda_table *table, size_t at, size_t bytes, cudaStream_t stream)
{
	return cudaMemcpyAsync(table->device + at, table->host + at, bytes, cudaMemcpyHostToDevice, stream);
}

/* --- columns -------------------------------------------------------------------------- */

static const struct kvmod_columns *columns_at(const struct kvmod_columns *jobs, uint32_t stride,
					      uint32_t i)
{
	return KVMOD_AT(const struct kvmod_columns, jobs, stride, i);
}

/* What all launches of a call need: the tables one after the other, the scratch memory shared. */
static void measure(const struct kvmod_columns *jobs, uint32_t n, uint32_t stride, size_t *table,
		    uint64_t *scratch)
{
	*table = *scratch = 0;
	for (uint32_t i = 0; i < n;) {
		struct kv_columns_job job;

		i += kv_cuda_columns_prepare(columns_at(jobs, stride, i), n - i, stride, &job);
		*table += job.table_bytes;
		*scratch = job.scratch_bytes > *scratch ? job.scratch_bytes : *scratch;
	}
}

static uint64_t cuda_columns_scratch(void *self, const struct kvmod_columns *jobs, uint32_t n_jobs,
				     uint32_t stride)
{
	uint64_t scratch;
	char why[WHY];
	size_t table;

	(void)self;
	if (kv_cuda_columns_check(jobs, n_jobs, stride, why, sizeof(why)))
		return 0;
	measure(jobs, n_jobs, stride, &table, &scratch);
	return scratch;
}

static cudaError_t launch_columns(const struct kvmod_columns *jobs, uint32_t n, uint32_t stride,
				  const struct kv_cuda_table *table, void *scratch, cudaStream_t stream)
{
	cudaError_t error = cudaSuccess;
	size_t at = 0;

	for (uint32_t i = 0; i < n && error == cudaSuccess;) {
		const struct kvmod_columns *first = columns_at(jobs, stride, i);
		struct kv_columns_job job;
		uint32_t taken = kv_cuda_columns_prepare(first, n - i, stride, &job);

		kv_cuda_columns_table(&job, first, taken, stride, table->host + at);
		if (job.n_items)
			error = send(table, at, job.table_bytes, stream);
		if (error == cudaSuccess)
			error = kv_cuda_cause(kv_cuda_columns(&job, table->device + at, scratch,
							      stream));
		at += job.table_bytes;
		i += taken;
	}
	return kv_cuda_end_table(table, error, stream);
}

static int32_t cuda_columns(void *self, void *stream, const struct kvmod_columns *jobs,
			    uint32_t n_jobs, uint32_t stride, void *scratch)
{
	const struct kvmod_host *host = host_of(self);
	struct kv_cuda_table *table;
	uint64_t scratch_bytes;
	cudaError_t error;
	char why[WHY];
	size_t bytes;
	int32_t err;

	err = kv_cuda_columns_check(jobs, n_jobs, stride, why, sizeof(why));
	if (err)
		return host->fail(host->ctx, err, "columns of attention, %s", why);
	measure(jobs, n_jobs, stride, &bytes, &scratch_bytes);
	if (bytes == 0)
		return 0;
	if (!scratch || (uintptr_t)scratch % 16)
		return host->fail(host->ctx, KVMOD_EINVAL, "columns of attention, scratch: expected "
				  "memory on the device, 16-byte aligned");
	error = kv_cuda_take_table(tables_of(self), bytes, &table);
	if (error != cudaSuccess)
		return kv_cuda_say(host, error, "cannot allocate the table of columns of attention");
	error = launch_columns(jobs, n_jobs, stride, table, scratch, stream);
	kv_cuda_put_table(tables_of(self), table);
	return kv_cuda_say(host, error, "reducing attention on the GPU");
}

/* --- norms ---------------------------------------------------------------------------- */

static const struct kvmod_norms *norms_at(const struct kvmod_norms *jobs, uint32_t stride, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_norms, jobs, stride, i);
}

static cudaError_t launch_norms(const struct kvmod_norms *jobs, uint32_t n, uint32_t stride,
				const struct kv_cuda_table *table, cudaStream_t stream)
{
	cudaError_t error = cudaSuccess;
	size_t at = 0;

	for (uint32_t i = 0; i < n && error == cudaSuccess;) {
		const struct kvmod_norms *first = norms_at(jobs, stride, i);
		struct kv_norms_job job;

		i += kv_cuda_norms_prepare(first, n - i, stride, &job);
		kv_cuda_norms_table(&job, first, stride, table->host + at);
		error = send(table, at, job.table_bytes, stream);
		if (error == cudaSuccess)
			error = kv_cuda_cause(kv_cuda_norms(&job, table->device + at, stream));
		at += job.table_bytes;
	}
	return kv_cuda_end_table(table, error, stream);
}

static int32_t cuda_norms(void *self, void *stream, const struct kvmod_norms *jobs, uint32_t n_jobs,
			  uint32_t stride)
{
	const struct kvmod_host *host = host_of(self);
	struct kv_cuda_table *table;
	struct kv_norms_job job;
	cudaError_t error;
	size_t bytes = 0;
	char why[WHY];
	int32_t err;

	err = kv_cuda_norms_check(jobs, n_jobs, stride, why, sizeof(why));
	if (err)
		return host->fail(host->ctx, err, "norms of Wo v, %s", why);
	for (uint32_t i = 0; i < n_jobs; bytes += job.table_bytes)
		i += kv_cuda_norms_prepare(norms_at(jobs, stride, i), n_jobs - i, stride, &job);
	if (bytes == 0)
		return 0;
	error = kv_cuda_take_table(tables_of(self), bytes, &table);
	if (error != cudaSuccess)
		return kv_cuda_say(host, error, "cannot allocate the table of norms");
	error = launch_norms(jobs, n_jobs, stride, table, stream);
	kv_cuda_put_table(tables_of(self), table);
	return kv_cuda_say(host, error, "norms of Wo v on the GPU");
}

const struct kvmod_device_attention kv_cuda_device_attention = {
	.size = sizeof(kv_cuda_device_attention),
	.columns_scratch = cuda_columns_scratch,
	.columns = cuda_columns,
	.norms = cuda_norms,
};
