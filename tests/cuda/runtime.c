/* SPDX-License-Identifier: Apache-2.0 */
/* A made-up CUDA runtime: queued copies and launches, made-up kernels, and calls that fail on demand. */
#include "tests/cuda/runtime.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/logits.h"
#include "kernels/cuda/attend/attend.h"
#include "kernels/cuda/columns/table.h"
#include "kernels/cuda/gather/table.h"
#include "kernels/cuda/norms/table.h"
#include "kernels/cuda/read/read.h"
#include "kernels/cuda/refreekv/by_attention.h"
#include "kernels/cuda/refreekv/refreekv.h"

struct runtime runtime;

static cudaError_t last_error;

/* Begins a call. Is it the one that must fail? */
static bool fails(void)
{
	if (runtime.early)
		runtime_run();
	if (++runtime.n_calls != runtime.fail_call)
		return false;
	last_error = cudaErrorUnknown;
	return true;
}

/* --- memory ------------------------------------------------------------------------ */

#define MOST_BLOCKS 64

static struct block {
	char *memory;
	size_t bytes;
	bool pinned;
} blocks[MOST_BLOCKS];

static struct block *block_of(const void *p)
{
	for (unsigned i = 0; i < MOST_BLOCKS; i++)
		if (blocks[i].memory && (const char *)p >= blocks[i].memory &&
		    (const char *)p < blocks[i].memory + blocks[i].bytes)
			return &blocks[i];
	return NULL;
}

static cudaError_t get(void **p, size_t bytes, bool pinned)
{
	struct block *b = blocks;

	if (fails())
		return cudaErrorMemoryAllocation;
	while (b < blocks + MOST_BLOCKS && b->memory)
		b++;
	if (b == blocks + MOST_BLOCKS)
		abort();
	*b = (struct block){ aligned_alloc(256, (bytes + 255) / 256 * 256), bytes, pinned };
	if (!b->memory)
		return cudaErrorMemoryAllocation;
	memset(b->memory, 0xee, bytes);
	*(pinned ? &runtime.n_pinned : &runtime.n_device) += 1;
	*p = b->memory;
	return cudaSuccess;
}

static void give_back(void *p)
{
	struct block *b = block_of(p);

	if (!p)
		return;
	if (!b || b->memory != p)
		abort();
	*(b->pinned ? &runtime.n_pinned : &runtime.n_device) -= 1;
	free(b->memory);
	*b = (struct block){ 0 };
}

/* --- queued work --------------------------------------------------------------------- */

struct work {
	struct work *next;
	void (*fn)(struct work *work);
	void *to;
	const void *from;
	size_t bytes;
	struct kv_gather_job job;
	struct kv_attention_job attend;
	struct kv_attention_output output;
	struct kv_columns_job columns;
	struct kv_norms_job norms;
	char data[];			/* a copy of pageable memory */
};

static struct work *queue;

static struct work *enqueue(void (*fn)(struct work *work), void *to, const void *from, size_t bytes,
			    size_t copied)
{
	struct work *w = calloc(1, sizeof(*w) + copied), **end = &queue;

	if (!w)
		abort();
	w->fn = fn;
	w->to = to;
	w->from = from;
	w->bytes = bytes;
	if (copied) {
		memcpy(w->data, from, copied);
		w->from = w->data;
	}
	while (*end)
		end = &(*end)->next;
	*end = w;
	return w;
}

static void run_one(void)
{
	struct work *w = queue;

	queue = w->next;
	w->fn(w);
	free(w);
}

void runtime_run(void)
{
	while (queue)
		run_one();
}

static bool is_used(const struct block *b)
{
	for (const struct work *w = queue; w; w = w->next)
		if (b && (block_of(w->from) == b || block_of(w->to) == b))
			return true;
	return false;
}

/* CUDA would wait for queued work, but code that relies on that waits needlessly. */
static void free_at_once(void *p)
{
	runtime.n_early += is_used(block_of(p));
	runtime_run();
	give_back(p);
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
	return get(p, bytes, false);
}

cudaError_t cudaFree(void *p)
{
	free_at_once(p);
	return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
	(void)flags;
	return get(p, bytes, true);
}

cudaError_t cudaFreeHost(void *p)
{
	free_at_once(p);
	return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
	const struct block *b = block_of(p);

	memset(a, 0, sizeof(*a));
	if (fails())
		return cudaErrorUnknown;
	a->type = !b ? cudaMemoryTypeUnregistered : b->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
	a->devicePointer = b ? (void *)(uintptr_t)p : NULL;
	return cudaSuccess;
}

static void run_copy(struct work *w)
{
	memcpy(w->to, w->from, w->bytes);
}

/* Pageable memory is copied at once. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
			    cudaStream_t stream)
{
	(void)kind, (void)stream;
	if (fails())
		return cudaErrorUnknown;
	enqueue(run_copy, to, from, bytes, block_of(from) ? 0 : bytes);
	return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
			      size_t height, enum cudaMemcpyKind kind, cudaStream_t stream)
{
	cudaError_t error = cudaSuccess;

	for (size_t i = 0; i < height && error == cudaSuccess; i++)
		error = cudaMemcpyAsync((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width,
					kind, stream);
	return error;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
	*available = *total = 1;
	return cudaSuccess;
}

/* --- waiting ----------------------------------------------------------------------------- */

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	(void)stream;
	runtime_run();
	return fails() ? cudaErrorUnknown : cudaSuccess;
}

struct event {
	unsigned n_ahead;		/* recorded and not yet reached */
};

static void reach(struct work *w)
{
	((struct event *)w->to)->n_ahead--;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
	(void)flags;
	if (fails())
		return cudaErrorUnknown;
	*event = calloc(1, sizeof(struct event));
	runtime.n_events++;
	return *event ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
	return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	while (((struct event *)event)->n_ahead)
		run_one();
	return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
	if (!((struct event *)event)->n_ahead)
		return cudaSuccess;
	last_error = cudaErrorNotReady;
	return cudaErrorNotReady;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	cudaEventSynchronize(event);
	free(event);
	runtime.n_events--;
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	(void)stream;
	if (fails())
		return cudaErrorUnknown;
	((struct event *)event)->n_ahead++;
	enqueue(reach, event, NULL, 0, 0);
	return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
	(void)begin, (void)end;
	*ms = 1;
	return cudaSuccess;
}

/* --- the rest ---------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *n)
{
	*n = 1;
	return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
	(void)attribute, (void)device;
	*value = 9;
	return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
	cudaError_t error = last_error;

	last_error = cudaSuccess;
	return error;
}

const char *cudaGetErrorString(cudaError_t error)
{
	return error == cudaErrorMemoryAllocation ? "out of memory" : "made up";
}

const char *cudaGetErrorName(cudaError_t error)
{
	return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorOther";
}

/* --- kernels ------------------------------------------------------------------------------- */

int kv_cuda_runs_here(void)
{
	return 1;
}

int kv_cuda_read(const void *memory, uint64_t bytes, uint32_t *sink, void *stream)
{
	(void)memory, (void)bytes, (void)sink, (void)stream;
	return 0;
}

/* The source of row i, read from the table as the kernel does. */
static uint64_t row_of(const struct kv_gather_entry *e, const struct kv_gather_span *spans,
		       const uint32_t *indices, uint32_t i)
{
	uint32_t s = e->first_span;

	if (e->n_spans == 0)
		return indices[e->first_index + i];
	while (s + 1 < e->first_span + e->n_spans && spans[s + 1].target <= i)
		s++;
	return spans[s].begin + (i - spans[s].target);
}

static void run_gather(struct work *w)
{
	struct kv_gather_layout l = kv_gather_layout(&w->job);
	const char *table = w->from;
	const struct kv_gather_entry *e = (const void *)(table + l.entries);

	for (uint32_t g = 0; g < w->job.n_gathers; g++, e++)
		for (uint32_t i = 0; i < e->n_rows; i++)
			memmove(e->dst + i * e->dst_stride,
				e->src + (int64_t)row_of(e, (const void *)(table + l.spans),
							 (const void *)(table + l.indices), i) * e->src_stride,
				e->row_bytes);
}

int kv_cuda_gather(const struct kv_gather_job *job, void *table, void *stream)
{
	(void)stream;
	if (fails() || last_error)
		return KVMOD_EDEVICE;
	runtime.n_gathers++;
	enqueue(run_gather, NULL, table, 0, 0)->job = *job;
	return 0;
}

static void run_decision(struct work *w)
{
	struct kv_refreekv_result *results = w->to;

	for (size_t i = 0; i < w->bytes; i++)
		results[i] = (struct kv_refreekv_result){ .first = RUNTIME_FIRST, .loss = 0.001 };
}

int kv_cuda_refreekv(const struct kv_refreekv_job *job, void *table, void *scratch,
		     struct kv_refreekv_result *results, void *stream)
{
	(void)scratch, (void)stream;
	if (fails())
		return KVMOD_EDEVICE;
	enqueue(run_decision, results, table, job->n_segments, 0);
	return 0;
}

/* All heads are equally long. */
static void run_attend(struct work *w)
{
	uint32_t n_segments = w->attend.n_segments, n_heads = w->attend.n_kv_heads;
	uint64_t stride = w->attend.n_indices / (n_segments * n_heads);

	for (uint32_t s = 0; s < n_segments; s++) {
		w->output.results[s] = (struct kv_attention_result){ .loss = 0.001 };
		for (uint32_t g = 0; g < n_heads; g++) {
			uint32_t list = s * n_heads + g;

			w->output.counts[list] = RUNTIME_COUNT(s, g);
			for (uint32_t k = 0; k < RUNTIME_COUNT(s, g); k++)
				w->output.indices[list * stride + k] = RUNTIME_INDEX(s, g, k);
		}
	}
}

int kv_cuda_attend(const struct kv_attention_job *job, const void *table, void *scratch,
		   const struct kv_attention_output *output, void *stream)
{
	struct work *w;

	(void)scratch, (void)stream;
	if (fails())
		return KVMOD_EDEVICE;
	w = enqueue(run_attend, output->results, table, 0, 0);
	w->attend = *job;
	w->output = *output;
	return 0;
}

int kv_cuda_refreekv_by_attention(const struct kv_attention_job *job, const void *table, void *scratch,
				  const struct kv_attention_output *output, void *stream)
{
	return kv_cuda_attend(job, table, scratch, output, stream);
}

/* --- reductions of attention, read from the table as the kernels do --------------------------- */

static double product(const float *q, uint32_t type, const void *row, uint32_t dim)
{
	float x[KV_MAX_DIM];
	double sum = 0;

	kv_cpu_to_f32(type, row, dim, x);
	for (uint32_t d = 0; d < dim; d++)
		sum += (double)q[d] * (double)x[d];
	return sum;
}

static void add_row(const struct kv_columns_job *job, const struct kv_columns_entry *e, uint32_t h, uint32_t row,
		    double *x)
{
	const float *q = (const float *)(e->q + row * e->q_stride + h * e->q_head_stride);
	double sum = 0;

	for (uint32_t i = 0; i < e->m; i++) {
		uint32_t at = kv_columns_position(e, i);

		x[i] = 0;
		if (row < kv_columns_first_row(e->n_seen, at))
			continue;
		x[i] = product(q, job->k_type, e->k + at * e->k_stride, job->head_dim) * (double)job->scale;
		x[i] = exp(job->softcap > 0 ? (double)job->softcap * tanh(x[i] / (double)job->softcap) : x[i]);
		sum += x[i];
	}
	for (uint32_t i = 0; i < e->m; i++) {
		float *to = e->out + kv_columns_position(e, i);

		if (e->reduce == KVMOD_COLUMNS_SUM)
			to[h * e->out_stride] += sum > 0 ? (float)(x[i] / sum) : 0;
		else
			*to = fmaxf(*to, sum > 0 ? (float)(x[i] / sum) : 0);
	}
}

static void run_columns(struct work *w)
{
	const struct kv_columns_entry *e = w->from;

	for (uint32_t k = 0; k < w->columns.n_entries; k++, e++) {
		double *x = malloc(e->m * sizeof(*x));

		if (!x)
			abort();
		for (uint32_t i = 0; i < e->group * e->n_rows; i++)
			add_row(&w->columns, e, i / e->n_rows, i % e->n_rows, x);
		free(x);
	}
	memset(w->to, 0xee, w->columns.scratch_bytes);
}

int kv_cuda_columns(const struct kv_columns_job *job, const void *table, void *scratch, void *stream)
{
	(void)stream;
	if (job->n_items == 0)
		return 0;
	if (fails())
		return KVMOD_EDEVICE;
	runtime.n_reductions++;
	enqueue(run_columns, scratch, table, 0, 0)->columns = *job;
	return 0;
}

static void run_norms(struct work *w)
{
	const struct kv_norms_entry *n = w->from;

	for (uint32_t k = 0; k < w->norms.n_entries; k++, n++)
		for (uint32_t i = 0; i < n->n * n->group; i++) {
			const char *v = n->v + i % n->n * n->v_stride;
			float wo[KV_MAX_DIM];
			double sum = 0;

			for (uint32_t e = 0; e < n->n_out; e++) {
				kv_cpu_to_f32(KVMOD_F16, n->wo + e * n->wo_stride + i / n->n * n->dim * 2, n->dim, wo);
				sum += fabs(product(wo, n->v_type, v, n->dim));
			}
			n->out[i / n->n * n->out_stride + i % n->n] = (float)sum;
		}
}

int kv_cuda_norms(const struct kv_norms_job *job, const void *table, void *stream)
{
	(void)stream;
	if (fails())
		return KVMOD_EDEVICE;
	runtime.n_reductions++;
	enqueue(run_norms, NULL, table, 0, 0)->norms = *job;
	return 0;
}
