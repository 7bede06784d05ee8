/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel of a gather: each block moves a tile of rows. */
#include <cuda_runtime.h>

#include "kernels/cuda/base/warp.cuh"
#include "kernels/cuda/gather/table.h"

#define KV_GATHER_THREADS 256
#define KV_GATHER_LOADS 8		/* loads that a thread has under way */

struct kv_gather_launch {
	struct kv_gather_entry *entries;
	const struct kv_gather_span *spans;
	const uint32_t *first_tiles, *indices;
	uint32_t *queue;		/* hands out tiles in order; NULL: the order does not matter */
	uint32_t n_gathers, n_tiles;
};

/* The source of a row of the target. *span is the span of the row before, and becomes this row's. */
static __device__ __forceinline__ const char *kv_source_row(const struct kv_gather_launch &p,
							    const struct kv_gather_entry &e, uint32_t row,
							    uint32_t *span)
{
	const struct kv_gather_span *s = p.spans + e.first_span;

	if (e.n_spans == 0)
		return e.src + p.indices[e.first_index + row] * e.src_stride;
	while (*span + 1 < e.n_spans && s[*span + 1].target <= row)
		++*span;
	return e.src + (s[*span].begin + (row - s[*span].target)) * e.src_stride;
}

/* Waits until the tiles before this one have read the rows that this one overwrites. */
static __device__ void kv_await_turn(uint32_t *done, uint32_t tile)
{
	__syncthreads();
	if (threadIdx.x == 0)
		while (atomicAdd(done, 0) != tile)
			__nanosleep(50);
	__syncthreads();
}

static __device__ void kv_pass_turn(uint32_t *done, uint32_t next)
{
	if (threadIdx.x == 0) {
		__threadfence();
		atomicExch(done, next);
	}
}

/* Moves rows first ... first + n - 1 of the target, in units of U. */
template <class U>
static __device__ __forceinline__ void kv_move_rows(const struct kv_gather_launch &p, const struct kv_gather_entry &e,
						    uint32_t *done, uint32_t tile, uint32_t first, uint32_t n)
{
	uint32_t per_row = e.row_bytes / sizeof(U), span = 0;
	uint64_t units = (uint64_t)n * per_row;
	U unit[KV_GATHER_LOADS];

	if (e.n_spans)
		span = kv_last_below(&p.spans[e.first_span].target, 2, e.n_spans, first);
	for (uint64_t base = 0; base < units; base += KV_GATHER_THREADS * KV_GATHER_LOADS) {
		uint64_t at = base + threadIdx.x;
		uint32_t row = (uint32_t)(at / per_row), column = (uint32_t)(at % per_row);
		U *to[KV_GATHER_LOADS];

#pragma unroll
		for (int i = 0; i < KV_GATHER_LOADS; i++) {
			to[i] = NULL;
			if (row < n) {
				const U *from = (const U *)kv_source_row(p, e, first + row, &span);

				to[i] = (U *)(e.dst + (first + row) * e.dst_stride) + column;
				unit[i] = __ldcs(from + column);
			}
			column += KV_GATHER_THREADS % per_row;
			row += KV_GATHER_THREADS / per_row + (column >= per_row);
			column -= column >= per_row ? per_row : 0;
		}
		if (e.in_place) {
			if (base == 0)
				kv_await_turn(done, tile);
			__syncthreads();
			if (base + KV_GATHER_THREADS * KV_GATHER_LOADS >= units)
				kv_pass_turn(done, first + n == e.n_rows ? 0 : tile + 1);
		}
#pragma unroll
		for (int i = 0; i < KV_GATHER_LOADS; i++)
			if (to[i])
				__stcs(to[i], unit[i]);
	}
}

__global__ __launch_bounds__(KV_GATHER_THREADS, 4) void kv_gather_rows(const __grid_constant__ struct kv_gather_launch p)
{
	__shared__ uint32_t number;
	uint32_t tile = blockIdx.x, i, first;
	struct kv_gather_entry e;

	if (p.queue) {
		if (threadIdx.x == 0)
			number = atomicInc(p.queue, p.n_tiles - 1);
		__syncthreads();
		tile = number;
	}
	i = kv_last_below(p.first_tiles, 1, p.n_gathers, tile);
	e = p.entries[i];
	tile -= p.first_tiles[i];
	first = tile * e.tile_rows;
	if (e.aligned == 16)
		kv_move_rows<uint4>(p, e, &p.entries[i].done, tile, first, min(e.tile_rows, e.n_rows - first));
	else if (e.aligned == 4)
		kv_move_rows<uint32_t>(p, e, &p.entries[i].done, tile, first, min(e.tile_rows, e.n_rows - first));
	else
		kv_move_rows<uint8_t>(p, e, &p.entries[i].done, tile, first, min(e.tile_rows, e.n_rows - first));
}

int kv_cuda_gather(const struct kv_gather_job *job, void *table, void *stream)
{
	struct kv_gather_layout l = kv_gather_layout(job);
	struct kv_gather_launch p = {};
	char *t = (char *)table;

	if (job->n_tiles == 0)
		return 0;
	p.entries = (struct kv_gather_entry *)(t + l.entries);
	p.spans = (const struct kv_gather_span *)(t + l.spans);
	p.first_tiles = (const uint32_t *)(t + l.first_tiles);
	p.indices = (const uint32_t *)(t + l.indices);
	p.queue = job->in_place ? (uint32_t *)(t + l.queue) : NULL;
	p.n_gathers = job->n_gathers;
	p.n_tiles = job->n_tiles;
	kv_gather_rows<<<p.n_tiles, KV_GATHER_THREADS, 0, (cudaStream_t)stream>>>(p);
	return cudaPeekAtLastError() == cudaSuccess ? 0 : KVMOD_EDEVICE;
}
