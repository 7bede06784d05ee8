/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cuda": memory, copies, gathers and clocks of one GPU. */
#include "plugins/cuda/cuda.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "config.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/read.h"

/* Pinned memory for a gather's table. */
struct table {
	size_t room;
	cudaEvent_t copied;		/* the GPU has it: the memory can be used again */
	char *bytes;
};

struct cuda_device {
	struct kvmod_instance instance;
	uint32_t *sink;			/* what reads may write to */
	_Atomic(struct table *) spare;	/* of the last gather; NULL: one is using it */
};

static const struct kvmod_host *host_of(void *self)
{
	return ((struct cuda_device *)self)->instance.host;
}

int32_t kv_cuda_say(const struct kvmod_host *host, cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return 0;
	/* An error that does not last would be found again by the next call. */
	cudaGetLastError();
	return host->fail(host->ctx,
			  error == cudaErrorMemoryAllocation ? KVMOD_ENOMEM : KVMOD_EDEVICE,
			  "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

/* --- opening ----------------------------------------------------------------------- */

/* No driver, no GPU, or one that the module has no code for: each in words. */
static int32_t check_gpu(const struct kvmod_host *host)
{
	int n = 0, major = 0, minor = 0;
	cudaError_t error = cudaGetDeviceCount(&n);

	if (error == cudaErrorInsufficientDriver)
		return host->fail(host->ctx, KVMOD_ENOENT,
				  "no NVIDIA driver here, or one older than %s needs", CUDA_TOOLKIT);
	if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0))
		return host->fail(host->ctx, KVMOD_ENOENT, "no GPU here that CUDA_VISIBLE_DEVICES shows");
	if (error != cudaSuccess)
		return kv_cuda_say(host, error, "no GPU can be used");
	if (kv_cuda_runs_here())
		return 0;
	error = cudaGetLastError();
	if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
	    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess)
		return host->fail(host->ctx, KVMOD_ENOTSUP, "the GPU is an sm_%d%d, this module is for %s",
				  major, minor, CUDA_BUILT_FOR);
	return kv_cuda_say(host, error, "the GPU cannot be used");
}

static void free_table(struct table *t)
{
	if (!t)
		return;
	if (t->copied) {
		cudaEventSynchronize(t->copied);
		cudaEventDestroy(t->copied);
	}
	if (t->bytes)
		cudaFreeHost(t->bytes);
	free(t);
}

static int32_t cuda_open(void *self_)
{
	struct cuda_device *self = self_;
	const struct kvmod_host *host = self->instance.host;
	int32_t err = check_gpu(host);

	if (err)
		return err;
	return kv_cuda_say(host, cudaMalloc((void **)&self->sink, sizeof(*self->sink)),
			   "no memory on the GPU");
}

static void cuda_close(void *self_)
{
	struct cuda_device *self = self_;

	cudaFree(self->sink);
	free_table(atomic_load(&self->spare));
}

/* --- memory -------------------------------------------------------------------------- */

static int32_t cuda_alloc(void *self, uint64_t bytes, void **memory)
{
	char what[64];

	snprintf(what, sizeof(what), "no %llu bytes on the GPU", (unsigned long long)bytes);
	return kv_cuda_say(host_of(self), cudaMalloc(memory, bytes), what);
}

static void cuda_free(void *self, void *memory)
{
	(void)self;
	cudaFree(memory);
}

/* Kernels write there, at the same address, and it is copied at full speed. */
static int32_t cuda_host_alloc(void *self, uint64_t bytes, void **memory)
{
	char what[64];

	snprintf(what, sizeof(what), "no %llu bytes of pinned memory", (unsigned long long)bytes);
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

/* Of pageable memory CUDA takes a copy of its own before it returns; of pinned it does not. */
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
		return kv_cuda_say(host_of(self), error, "asking for the GPU's memory");
	*free_bytes = available;
	*total_bytes = total;
	return 0;
}

/* --- gathers ---------------------------------------------------------------------------- */

/* Lists grow turn by turn: a table has room for some of that. */
static cudaError_t new_table(size_t bytes, struct table **out)
{
	struct table *t = calloc(1, sizeof(*t));
	cudaError_t error;

	if (!t)
		return cudaErrorMemoryAllocation;
	t->room = bytes + bytes / 8;
	error = cudaHostAlloc((void **)&t->bytes, t->room, cudaHostAllocDefault);
	if (error == cudaSuccess)
		error = cudaEventCreateWithFlags(&t->copied, cudaEventDisableTiming);
	if (error == cudaSuccess)
		*out = t;
	else
		free_table(t);
	return error;
}

/*
 * With long lists a table is large, and to pin pages for it takes longer than the
 * gather: so the last one is used again, when the GPU has its copy.
 */
static cudaError_t take_table(struct cuda_device *self, size_t bytes, struct table **out)
{
	struct table *t = atomic_exchange(&self->spare, NULL);

	if (!t || t->room < bytes) {
		free_table(t);
		return new_table(bytes, out);
	}
	*out = t;
	return cudaEventSynchronize(t->copied);
}

static void put_table(struct cuda_device *self, struct table *t)
{
	free_table(atomic_exchange(&self->spare, t));
}

/* The table's memory on the GPU comes from the stream's own pool: it may go while the gather runs. */
static int32_t launch_gather(const struct kvmod_host *host, const struct kv_gather_job *job,
			     const struct table *table, void *stream)
{
	cudaError_t error;
	void *memory;

	error = cudaMallocAsync(&memory, job->table_bytes, stream);
	if (error != cudaSuccess)
		return kv_cuda_say(host, error, "no memory on the GPU for a gather");
	error = cudaMemcpyAsync(memory, table->bytes, job->table_bytes, cudaMemcpyHostToDevice, stream);
	if (error == cudaSuccess)
		error = cudaEventRecord(table->copied, stream);
	if (error == cudaSuccess)
		error = kv_cuda_cause(kv_cuda_gather(job, memory, stream));
	cudaFreeAsync(memory, stream);
	/* What is queued may still read the table, and nothing may tell when it has. */
	if (error != cudaSuccess)
		cudaStreamSynchronize(stream);
	return kv_cuda_say(host, error, "gathering on the GPU");
}

static int32_t cuda_gather(void *self, void *stream, const struct kvmod_gather *gathers,
			   uint32_t n_gathers, uint32_t gather_stride)
{
	const struct kvmod_host *host = host_of(self);
	struct kv_gather_job job;
	struct table *table = NULL;
	cudaError_t error;
	int32_t err;

	err = kv_cuda_gather_prepare(gathers, n_gathers, gather_stride, &job);
	if (err)
		return host->fail(host->ctx, err, "these rows cannot be gathered: expected strides of a row or "
				  "more, and where source and target overlap, rows that move to the front");
	if (job.n_tiles == 0)
		return 0;
	error = take_table(self, job.table_bytes, &table);
	if (error != cudaSuccess) {
		free_table(table);
		return kv_cuda_say(host, error, "no pinned memory for a gather");
	}
	kv_cuda_gather_table(&job, gathers, gather_stride, table->bytes);
	err = launch_gather(host, &job, table, stream);
	put_table(self, table);
	return err;
}

/* --- measuring ------------------------------------------------------------------------------ */

static int32_t cuda_read(void *self_, void *stream, const void *memory, uint64_t bytes)
{
	struct cuda_device *self = self_;
	int err = kv_cuda_read(memory, bytes, self->sink, stream);

	return kv_cuda_say(host_of(self), kv_cuda_cause(err), "reading on the GPU");
}

static int32_t cuda_mark_new(void *self, void **mark)
{
	return kv_cuda_say(host_of(self), cudaEventCreate((cudaEvent_t *)mark), "no CUDA event");
}

static void cuda_mark_free(void *self, void *mark)
{
	(void)self;
	cudaEventDestroy(mark);
}

static int32_t cuda_mark_set(void *self, void *stream, void *mark)
{
	return kv_cuda_say(host_of(self), cudaEventRecord(mark, stream), "no CUDA event");
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

const struct kvmod_device_ops kv_cuda_device_ops = {
	.size = sizeof(kv_cuda_device_ops),
	.on = KVMOD_ON_CUDA,
	.name = "cuda",
	.description = "an NVIDIA GPU",
	.instance_size = sizeof(struct cuda_device),
	.open = cuda_open,
	.close = cuda_close,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.to_host = cuda_to_host,
	.from_host = cuda_from_host,
	.synchronize = cuda_synchronize,
	.gather = cuda_gather,
	.memory = cuda_memory,
	.read = cuda_read,
	.mark_new = cuda_mark_new,
	.mark_free = cuda_mark_free,
	.mark_set = cuda_mark_set,
	.elapsed = cuda_elapsed,
	.host_alloc = cuda_host_alloc,
	.host_free = cuda_host_free,
};
