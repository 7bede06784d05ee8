/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times the gather and, in the same run, a device copy of the bytes that it keeps: 32
 * layers of 32k positions, 8 KV heads of 128 in bf16, K and V, half of them kept.
 */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/gather/gather.h"

#define CUDA(call) check((call), #call, __LINE__)
#define HEADS (32 * 8)
#define ROWS 32768u
#define ROW 256u
#define RUNS 21

static void check(cudaError_t error, const char *what, int line)
{
	if (error != cudaSuccess) {
		fprintf(stderr, "%d: %s: %s\n", line, what, cudaGetErrorString(error));
		exit(1);
	}
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

struct bench {
	char *src, *dst;
	size_t kept;
	struct kvmod_gather *g;
	struct kv_gather_job job;
	void *table;
};

static float median(struct bench *b, bool copy)
{
	cudaEvent_t begin, end;
	float us[RUNS];

	CUDA(cudaEventCreate(&begin));
	CUDA(cudaEventCreate(&end));
	for (int i = -2; i < RUNS; i++) {
		CUDA(cudaEventRecord(begin));
		if (copy)
			CUDA(cudaMemcpyAsync(b->dst, b->src, b->kept, cudaMemcpyDeviceToDevice));
		else if (kv_cuda_gather(&b->job, b->table, NULL))
			exit(1);
		CUDA(cudaEventRecord(end));
		CUDA(cudaEventSynchronize(end));
		if (i >= 0)
			CUDA(cudaEventElapsedTime(&us[i], begin, end));
	}
	qsort(us, RUNS, sizeof(*us), ascending);
	return us[RUNS / 2] * 1000;
}

static void bench(struct bench *b, const char *name)
{
	void *table;
	float gather, copy;

	if (kv_cuda_gather_prepare(b->g, 2 * HEADS, sizeof(*b->g), &b->job))
		exit(1);
	table = malloc(b->job.table_bytes);
	kv_cuda_gather_table(&b->job, b->g, sizeof(*b->g), table);
	CUDA(cudaMalloc(&b->table, b->job.table_bytes));
	CUDA(cudaMemcpy(b->table, table, b->job.table_bytes, cudaMemcpyHostToDevice));
	gather = median(b, false);
	copy = median(b, true);
	printf("%s: %8.1f us, copy of %zu bytes %8.1f us (%.0f GB/s read + written): %.1f%% of its bandwidth\n", name, gather,
	       b->kept, copy, 2 * b->kept / copy / 1e3, 100 * copy / gather);
	CUDA(cudaFree(b->table));
	free(table);
}

int main(void)
{
	struct bench b = {};
	size_t head = (size_t)ROWS * ROW;
	struct kvmod_span spans[2] = { { 0, 4 }, { ROWS / 2 + 4, ROWS } };
	uint32_t *indices = (uint32_t *)malloc((size_t)HEADS * ROWS / 2 * sizeof(*indices));

	b.kept = 2 * HEADS * head / 2;
	CUDA(cudaMalloc(&b.src, 2 * HEADS * head));
	CUDA(cudaMalloc(&b.dst, b.kept));
	CUDA(cudaMemset(b.src, 1, 2 * HEADS * head));
	b.g = (struct kvmod_gather *)calloc(2 * HEADS, sizeof(*b.g));
	for (uint32_t i = 0; i < 2 * HEADS; i++) {
		b.g[i].size = sizeof(*b.g);
		b.g[i].n_spans = 2;
		b.g[i].spans = spans;
		b.g[i].row_bytes = ROW;
		b.g[i].src_stride = b.g[i].dst_stride = ROW;
		b.g[i].src = b.src + i * head;
		b.g[i].dst = b.dst + i * head / 2;
	}
	bench(&b, "spans    ");
	for (uint32_t i = 0; i < 2 * HEADS; i++) {
		uint32_t *list = indices + (size_t)(i / 2) * (ROWS / 2);

		/* one of each two rows, at random */
		for (uint32_t r = 0; r < ROWS / 2; r++)
			list[r] = 2 * r + (rand() >> 5 & 1);
		b.g[i].spans = NULL;
		b.g[i].n_spans = 0;
		b.g[i].indices = list;
		b.g[i].n_indices = ROWS / 2;
	}
	bench(&b, "positions");
	return 0;
}
