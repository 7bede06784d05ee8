/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cuda": memory, copies, gathers and timing of one GPU. */
#include "plugins/cuda/device.h"

#include <stdio.h>
#include <string.h>

#include "config.h"
#include "kernels/cuda/base/error.h"
#include "kernels/cuda/gather/gather.h"
#include "kernels/cuda/read/read.h"
#include "plugins/cuda/attention.h"

static const struct kvmod_host *host_of(void *self)
{
	return ((struct kv_cuda_device *)self)->instance.host;
}

static struct kv_cuda_tables *tables_of(void *self)
{
	return &((struct kv_cuda_device *)self)->tables;
}

/* --- opening ----------------------------------------------------------------------- */

/* Reports a missing driver, a missing GPU, or a GPU that the module has no code for. */
static int32_t check_gpu(const struct kvmod_host *host)
{
	int n = 0, major = 0, minor = 0;
	cudaError_t error = cudaGetDeviceCount(&n);

	if (error == cudaErrorInsufficientDriver)
		return host->fail(host->ctx, KVMOD_ENOENT,
				  "no NVIDIA driver, or one too old for %s", CUDA_TOOLKIT);
	if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0))
		return host->fail(host->ctx, KVMOD_ENOENT, "no GPU that CUDA_VISIBLE_DEVICES shows");
	if (error != cudaSuccess)
		return kv_cuda_say(host, error, "the GPUs cannot be counted");
	if (kv_cuda_runs_here())
		return 0;
	error = cudaGetLastError();
	if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
	    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess)
		return host->fail(host->ctx, KVMOD_ENOTSUP, "the GPU is an sm_%d%d, but this module holds code for %s",
				  major, minor, CUDA_BUILT_FOR);
	return kv_cuda_say(host, error, "the GPU cannot be used");
}

static int32_t cuda_open(void *self_)
{
	struct kv_cuda_device *self = self_;
	const struct kvmod_host *host = self->instance.host;
	int32_t err = check_gpu(host);

	if (err)
		return err;
	return kv_cuda_say(host, cudaMalloc((void **)&self->sink, sizeof(*self->sink)),
			   "cannot allocate memory on the GPU");
}

static void cuda_close(void *self_)
{
	struct kv_cuda_device *self = self_;

	cudaFree(self->sink);
	kv_cuda_free_tables(&self->tables);
}

/* --- memory -------------------------------------------------------------------------- */

static int32_t cuda_alloc(void *self, uint64_t bytes, void **memory)
{
	char what[64];

	snprintf(what, sizeof(what), "cannot allocate %llu bytes on the GPU", (unsigned long long)bytes);
	return kv_cuda_say(host_of(self), cudaMalloc(memory, bytes), what);
}

static void cuda_free(void *self, void *memory)
{
	(void)self;
	cudaFree(memory);
}

/* Kernels can write to it at the same address, and copies run at full speed. */
static int32_t cuda_host_alloc(void *self, uint64_t bytes, void **memory)
{
	char what[64];

	snprintf(what, sizeof(what), "cannot allocate %llu bytes of pinned memory", (unsigned long long)bytes);
	return kv_cuda_say(host_of(self), cudaHostAlloc(memory, bytes, cudaHostAllocMapped), what);
}

static void cuda_host_free(void *self, void *memory)
{
	(void)self;
	cudaFreeHost(memory);
}

static int32_t cuda_to_host(void *self, void *stream, void *host, const void *device, uint64_t bytes)
{
	return kv_cuda_say(host_of(self), cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream),
			   "copying from the GPU");
}

/* CUDA copies pageable memory before it returns, but may still read pinned memory later. */
static int32_t cuda_from_host(void *self, void *stream, void *device, const void *host, uint64_t bytes)
{
	struct cudaPointerAttributes attributes;
	cudaError_t error = cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream);

	if (error == cudaSuccess)
		error = cudaPointerGetAttributes(&attributes, host);
	if (error == cudaSuccess && attributes.type != cudaMemoryTypeUnregistered)
		error = cudaStreamSynchronize(stream);
	return kv_cuda_say(host_of(self), error, "copying to the GPU");
}

static int32_t cuda_synchronize(void *self, void *stream)
{
	return kv_cuda_say(host_of(self), cudaStreamSynchronize(stream), "waiting for the GPU");
}

static int32_t cuda_memory(void *self, uint64_t *free_bytes, uint64_t *total_bytes)
{
	size_t available, total;
	cudaError_t error = cudaMemGetInfo(&available, &total);

	if (error != cudaSuccess)
		return kv_cuda_say(host_of(self), error, "asking how much memory the GPU has");
	*free_bytes = available;
	*total_bytes = total;
	return 0;
}

/* --- gathers ---------------------------------------------------------------------------- */

/*
 * A part is some of a call's gathers. Where lists are long, each part has a launch of its
 * own, so that the GPU moves rows while the host copies the next lists.
 */
#define PART_INDICES (1u << 18)
#define MOST_PARTS 64			/* the last one has all remaining gathers */
#define TABLE_ALIGN 64

struct part {
	const struct kvmod_gather *gathers;
	size_t at;			/* offset of its table */
	struct kv_gather_job job;
};

struct parts {
	uint32_t n, stride;
	size_t bytes;
	struct part part[MOST_PARTS];
};

static int32_t divide(const struct kvmod_gather *gathers, uint32_t n, uint32_t stride, struct parts *parts)
{
	uint32_t first = 0;
	int32_t err = 0;

	parts->n = 0;
	parts->bytes = 0;
	parts->stride = stride;
	while (first < n && !err) {
		struct part *p = &parts->part[parts->n++];
		uint64_t most = parts->n < MOST_PARTS ? PART_INDICES : UINT64_MAX;
		uint32_t count;

		p->gathers = KVMOD_AT(const struct kvmod_gather, gathers, stride, first);
		p->at = parts->bytes;
		count = kv_cuda_gather_part(p->gathers, n - first, stride, most);
		err = kv_cuda_gather_prepare(p->gathers, count, stride, &p->job);
		first += count;
		if (p->job.n_tiles == 0)
			parts->n--;	/* no row to move */
		else
			parts->bytes += (p->job.table_bytes + TABLE_ALIGN - 1) / TABLE_ALIGN * TABLE_ALIGN;
	}
	return err;
}

static cudaError_t launch_part(const struct part *p, uint32_t stride, const struct kv_cuda_table *table,
			       cudaStream_t stream)
{
	char *host = table->host + p->at, *device = table->device + p->at;
	cudaError_t error;

	kv_cuda_gather_table(&p->job, p->gathers, stride, host);
	error = cudaMemcpyAsync(device, host, p->job.table_bytes, cudaMemcpyHostToDevice, stream);
	return error == cudaSuccess ? kv_cuda_cause(kv_cuda_gather(&p->job, device, stream)) : error;
}

static cudaError_t launch_parts(const struct parts *parts, const struct kv_cuda_table *table, cudaStream_t stream)
{
	cudaError_t error = cudaSuccess;

	for (uint32_t i = 0; i < parts->n && error == cudaSuccess; i++)
		error = launch_part(&parts->part[i], parts->stride, table, stream);
	return kv_cuda_end_table(table, error, stream);
}

static int32_t cuda_gather(void *self, void *stream, const struct kvmod_gather *gathers,
			   uint32_t n_gathers, uint32_t gather_stride)
{
	const struct kvmod_host *host = host_of(self);
	struct kv_cuda_table *table;
	struct parts parts;
	cudaError_t error;
	int32_t err;

	err = divide(gathers, n_gathers, gather_stride, &parts);
	if (err)
		return host->fail(host->ctx, err, "cannot gather these rows: expected strides of at least a row "
				  "and, where source and target overlap, rows that move to the front");
	if (parts.n == 0)
		return 0;
	error = kv_cuda_take_table(tables_of(self), parts.bytes, &table);
	if (error != cudaSuccess)
		return kv_cuda_say(host, error, "cannot allocate the table of a gather");
	error = launch_parts(&parts, table, stream);
	kv_cuda_put_table(tables_of(self), table);
	return kv_cuda_say(host, error, "gathering on the GPU");
}

/* --- extensions: timing ---------------------------------------------------------------- */

static int32_t cuda_read(void *self_, void *stream, const void *memory, uint64_t bytes)
{
	struct kv_cuda_device *self = self_;
	int err = kv_cuda_read(memory, bytes, self->sink, stream);

	return kv_cuda_say(host_of(self), kv_cuda_cause(err), "reading on the GPU");
}

static int32_t cuda_mark_new(void *self, void **mark)
{
	return kv_cuda_say(host_of(self), cudaEventCreate((cudaEvent_t *)mark), "creating a CUDA event");
}

static void cuda_mark_free(void *self, void *mark)
{
	(void)self;
	cudaEventDestroy(mark);
}

static int32_t cuda_mark_set(void *self, void *stream, void *mark)
{
	return kv_cuda_say(host_of(self), cudaEventRecord(mark, stream), "recording a CUDA event");
}

static int32_t cuda_elapsed(void *self, void *begin, void *end, double *seconds)
{
	float ms = 0;
	cudaError_t error = cudaEventSynchronize(end);

	if (error == cudaSuccess)
		error = cudaEventElapsedTime(&ms, begin, end);
	*seconds = 1e-3 * (double)ms;
	return kv_cuda_say(host_of(self), error, "timing on the GPU");
}

static const void *cuda_get_extension(void *self, const char *name)
{
	static const struct kvmod_device_timing timing = {
		.size = sizeof(timing),
		.read = cuda_read,
		.mark_new = cuda_mark_new,
		.mark_free = cuda_mark_free,
		.mark_set = cuda_mark_set,
		.elapsed = cuda_elapsed,
	};

	(void)self;
	if (strcmp(name, KVMOD_DEVICE_ATTENTION) == 0)
		return &kv_cuda_device_attention;
	return strcmp(name, KVMOD_DEVICE_TIMING) == 0 ? &timing : NULL;
}

const struct kvmod_device_ops kv_cuda_device_ops = {
	.size = sizeof(kv_cuda_device_ops),
	.name = "cuda",
	.description = "an NVIDIA GPU",
	.instance_size = sizeof(struct kv_cuda_device),
	.open = cuda_open,
	.close = cuda_close,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.to_host = cuda_to_host,
	.from_host = cuda_from_host,
	.synchronize = cuda_synchronize,
	.gather = cuda_gather,
	.memory = cuda_memory,
	.host_alloc = cuda_host_alloc,
	.host_free = cuda_host_free,
	.get_extension = cuda_get_extension,
};
