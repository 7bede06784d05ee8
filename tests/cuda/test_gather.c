/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gather on a GPU is compared with the host's: random lists and spans, views of any
 * alignment, in place and not. Without a GPU, the test says so and exits with 77.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/gather.h"
#include "kernels/cuda/gather/gather.h"
#include "tests/cuda/checks.h"
#include "tests/cuda/gpu.h"

#define GATHERS 12

struct plan {
	struct kvmod_gather g[GATHERS];
	struct kvmod_span spans[GATHERS][4];
	uint32_t *indices[GATHERS];
};

static uint32_t *some_rows(struct kv_random *r, uint32_t n, uint64_t *count)
{
	uint32_t *rows = malloc((n + 1) * sizeof(*rows)), i, share = kv_random_range(r, 0, 4);

	for (*count = 0, i = 0; i < n; i++)
		if (kv_random_range(r, 1, 4) <= share)
			rows[(*count)++] = i;
	return rows;
}

static uint32_t some_spans(struct kv_random *r, uint32_t n, struct kvmod_span *spans)
{
	uint32_t count = 0, at = 0;

	while (count < 4 && at < n) {
		spans[count].begin = kv_random_range(r, at, n - 1);
		spans[count].end = kv_random_range(r, spans[count].begin, n);
		at = spans[count++].end;
	}
	return count;
}

/* Gathers of n rows each in `bytes` of memory; two neighbours share their list. */
static size_t make_plan(struct plan *p, struct kv_random *r, uint32_t n, uint32_t row, uint32_t gap, uint32_t offset,
			bool in_place)
{
	size_t at = offset, each = (size_t)(n + 1) * (row + gap);
	uint32_t i;

	for (i = 0; i < GATHERS; i++, at += each) {
		struct kvmod_gather *g = &p->g[i];

		memset(g, 0, sizeof(*g));
		g->size = sizeof(*g);
		g->row_bytes = row;
		g->src_stride = g->dst_stride = row + gap;
		g->src = (void *)at;
		g->dst = (void *)(in_place ? at : at + GATHERS * each);
		if (i % 2) {
			g->spans = p->g[i - 1].spans;
			g->n_spans = p->g[i - 1].n_spans;
			g->indices = p->g[i - 1].indices;
			g->n_indices = p->g[i - 1].n_indices;
			p->indices[i] = NULL;
		} else if (i % 4) {
			g->indices = p->indices[i] = some_rows(r, n, &g->n_indices);
		} else {
			p->indices[i] = NULL;
			g->n_spans = some_spans(r, n, p->spans[i]);
			g->spans = p->spans[i];
		}
	}
	return in_place ? at : at + GATHERS * each;
}

static void move_plan(struct plan *p, char *base)
{
	uint32_t i;

	for (i = 0; i < GATHERS; i++) {
		p->g[i].src = base + (uintptr_t)p->g[i].src;
		p->g[i].dst = base + (uintptr_t)p->g[i].dst;
	}
}

static void run(struct kv_random *r, uint32_t n, uint32_t row, uint32_t gap, uint32_t offset, bool in_place)
{
	struct plan plan, host;
	size_t bytes = make_plan(&plan, r, n, row, gap, offset, in_place), i;
	char *expected = malloc(bytes + 16), *got = malloc(bytes + 16), *device;
	struct kv_gather_job job;
	void *table, *device_table;
	int again;

	for (i = 0; i < bytes; i++)
		expected[i] = (char)kv_random_u32(r);
	CUDA(cudaMalloc((void **)&device, bytes));
	CUDA(cudaMemcpy(device, expected, bytes, cudaMemcpyHostToDevice));
	host = plan;
	move_plan(&host, expected);
	move_plan(&plan, device);
	for (i = 0; i < GATHERS; i++)
		kv_cpu_gather(&host.g[i]);
	if (kv_cuda_gather_prepare(plan.g, GATHERS, sizeof(plan.g[0]), &job)) {
		printf("FAIL prepare\n");
		exit(1);
	}
	table = malloc(job.table_bytes);
	kv_cuda_gather_table(&job, plan.g, sizeof(plan.g[0]), table);
	CUDA(cudaMalloc(&device_table, job.table_bytes));
	CUDA(cudaMemcpy(device_table, table, job.table_bytes, cudaMemcpyHostToDevice));
	/* a launch leaves the table as it was, so a second run that is not in place changes nothing */
	for (again = 0; again < (in_place ? 1 : 2); again++)
		if (kv_cuda_gather(&job, device_table, NULL))
			exit(1);
	CUDA(cudaDeviceSynchronize());
	CUDA(cudaMemcpy(got, device, bytes, cudaMemcpyDeviceToHost));
	CHECK(!memcmp(got, expected, bytes), "n=%u row=%u gap=%u offset=%u in place %d", n, row, gap,
	      offset, in_place);
	for (i = 0; i < GATHERS; i++)
		free(plan.indices[i]);
	CUDA(cudaFree(device));
	CUDA(cudaFree(device_table));
	free(table);
	free(expected);
	free(got);
}

int main(int argc, char **argv)
{
	static const uint32_t rows[] = { 16, 256, 136, 68, 34, 20, 1, 40000 };
	uint32_t rounds = argc > 1 && !strcmp(argv[1], "--quick") ? 1 : 12, i, j;
	struct kv_random r = { 42 };

	if (!gpu_there())
		return 77;
	for (i = 0; i < rounds; i++)
		for (j = 0; j < sizeof(rows) / sizeof(*rows); j++) {
			uint32_t n = kv_random_range(&r, 1, rows[j] > 1000 ? 40 : 3000);
			uint32_t gap = i % 3 ? kv_random_range(&r, 0, 3) * 16 : kv_random_range(&r, 0, 40);

			run(&r, n, rows[j], gap, i % 2 * 16, j % 2);
			run(&r, n, rows[j], gap, i % 4 * 3, !(j % 2));
		}
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
