/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times decisions by attention, in us and relative to a plain read of the same keys:
 * medians by device events. Except with one layer, the keys do not fit in L2.
 */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/attend/attend.h"
#include "kernels/cuda/refreekv/by_attention.h"
#include "kernels/cuda/read/read.h"

#define CUDA(call) check((call), #call, __LINE__)
#define RUNS 15

static void check(cudaError_t error, const char *what, int line)
{
	if (error != cudaSuccess) {
		fprintf(stderr, "%d: %s: %s\n", line, what, cudaGetErrorString(error));
		exit(1);
	}
}

static __device__ float noise(size_t i, uint32_t seed)
{
	uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)(i >> 32) * 97 + seed;

	x = (x ^ x >> 16) * 0x85ebca6b;
	x = (x ^ x >> 13) * 0xc2b2ae35;
	return (float)((x ^ x >> 16) & 0xffff) / 32768 - 1;
}

/* f16 and bf16 by their upper byte alone; q8_0 with scales of 1/128. */
static __global__ void fill(void *p, size_t n, uint32_t type, uint32_t seed, float scale)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	float x = i < n ? noise(i, seed) * scale : 0;

	if (i >= n)
		return;
	if (type == KVMOD_F32)
		((float *)p)[i] = x;
	else if (type == KVMOD_Q8_0)
		((signed char *)p)[i] = i % 34 > 1 ? (signed char)(x * 127) : i % 34 ? 0x20 : 0;
	else if (type == KVMOD_F16)
		((uint16_t *)p)[i] = (uint16_t)(x < 0 ? 0x8000 : 0) | (uint16_t)(0x3400 + (int)(fabsf(x) * 0x7ff));
	else
		((uint16_t *)p)[i] = (uint16_t)(__float_as_uint(x) >> 16);
}

struct size {
	uint32_t layers, n, n_q_heads, n_kv_heads, dim, type;
};

/* Everything of one size and rule. */
struct bench {
	struct kvmod_segment *segments;
	const struct kvmod_segment **list;
	struct kvmod_head *heads;
	const struct kvmod_head **head_list;	/* of these */
	uint32_t *amounts;
	char *k;
	float *q;
	size_t bytes;
};

#define ROWS 32

static void describe(const struct size *s, struct bench *b)
{
	size_t row = kvmod_row_bytes(s->type, s->dim);

	kvmod_list_heads(b->head_list, b->heads, s->layers * s->n_kv_heads);
	for (uint32_t i = 0; i < s->layers * s->n_kv_heads; i++) {
		b->heads[i].n = s->n;
		b->heads[i].k.type = s->type;
		b->heads[i].k.data = b->k + i * row * s->n;
		b->heads[i].k.stride = (int64_t)row;
	}
	for (uint32_t l = 0; l < s->layers; l++) {
		struct kvmod_segment *g = &b->segments[l];

		b->list[l] = g;
		g->logical = s->n;
		g->n_q_heads = s->n_q_heads;
		g->n_kv_heads = s->n_kv_heads;
		g->head_dim = s->dim;
		g->scale = 0.08838834764f;
		g->heads = b->head_list + l * s->n_kv_heads;
		g->n_rows = ROWS;
		g->q.type = KVMOD_F32;
		g->q.data = b->q + (size_t)l * ROWS * s->n_q_heads * s->dim;
		g->q.stride = (int64_t)s->n_q_heads * s->dim * 4;
		g->q.head_stride = (int64_t)s->dim * 4;
	}
}

static void make(const struct size *s, struct bench *b)
{
	size_t keys = (size_t)s->layers * s->n_kv_heads * s->n, queries = (size_t)s->layers * ROWS * s->n_q_heads * s->dim;
	size_t elements = s->type == KVMOD_Q8_0 ? keys * kvmod_row_bytes(s->type, s->dim) : keys * s->dim;

	b->segments = (struct kvmod_segment *)calloc(s->layers, sizeof(*b->segments));
	b->list = (const struct kvmod_segment **)calloc(s->layers, sizeof(*b->list));
	b->heads = (struct kvmod_head *)calloc(s->layers * s->n_kv_heads, sizeof(*b->heads));
	b->head_list = (const struct kvmod_head **)calloc(s->layers * s->n_kv_heads, sizeof(*b->head_list));
	b->amounts = (uint32_t *)calloc(s->layers * s->n_kv_heads, sizeof(*b->amounts));
	b->bytes = keys * kvmod_row_bytes(s->type, s->dim);
	CUDA(cudaMalloc(&b->k, b->bytes));
	CUDA(cudaMalloc(&b->q, queries * sizeof(float)));
	fill<<<(unsigned)((elements + 255) / 256), 256>>>(b->k, elements, s->type, 1, 1);
	fill<<<(unsigned)((queries + 255) / 256), 256>>>(b->q, queries, KVMOD_F32, 2, 3);
	describe(s, b);
}

static void done(struct bench *b)
{
	CUDA(cudaFree(b->k));
	CUDA(cudaFree(b->q));
	free(b->segments);
	free(b->list);
	free(b->heads);
	free(b->head_list);
	free(b->amounts);
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

template <class F> static float median(F once)
{
	cudaEvent_t begin, end;
	float us[RUNS];

	CUDA(cudaEventCreate(&begin));
	CUDA(cudaEventCreate(&end));
	for (int i = -2; i < RUNS; i++) {
		CUDA(cudaEventRecord(begin));
		if (once()) {
			fprintf(stderr, "launch failed: %s\n", cudaGetErrorString(cudaGetLastError()));
			exit(1);
		}
		CUDA(cudaEventRecord(end));
		CUDA(cudaEventSynchronize(end));
		if (i >= 0)
			CUDA(cudaEventElapsedTime(&us[i], begin, end));
	}
	CUDA(cudaEventDestroy(begin));
	CUDA(cudaEventDestroy(end));
	qsort(us, RUNS, sizeof(*us), ascending);
	return us[RUNS / 2] * 1000;
}

static float time_rule(const struct bench *b, uint32_t layers, const struct kv_attention_params *p, uint32_t *kept)
{
	uint32_t amount = p->rule == &kv_refreekv_by_attention ? 1 : b->heads[0].n / 4;
	struct kv_attention_output out;
	struct kv_attention_job job;
	void *table, *device, *scratch;
	float us;

	for (uint32_t i = 0; i < layers * b->list[0]->n_kv_heads; i++)
		b->amounts[i] = amount;
	if (kv_cuda_attention_prepare(p, b->list, layers, b->amounts, &job)) {
		fprintf(stderr, "prepare failed\n");
		exit(1);
	}
	table = malloc(job.table_bytes);
	kv_cuda_attention_table(&job, b->list, b->amounts, table);
	CUDA(cudaMalloc(&device, job.table_bytes));
	CUDA(cudaMalloc(&scratch, job.scratch_bytes));
	CUDA(cudaMalloc(&out.results, layers * sizeof(*out.results)));
	CUDA(cudaMalloc(&out.counts, layers * job.n_kv_heads * sizeof(uint32_t)));
	CUDA(cudaMalloc(&out.indices, job.n_indices * sizeof(uint32_t)));
	CUDA(cudaMemcpy(device, table, job.table_bytes, cudaMemcpyHostToDevice));
	us = median([&] { return kv_cuda_attention(&job, device, scratch, &out, NULL); });
	CUDA(cudaMemcpy(kept, out.counts, sizeof(*kept), cudaMemcpyDeviceToHost));
	CUDA(cudaFree(device));
	CUDA(cudaFree(scratch));
	CUDA(cudaFree(out.results));
	CUDA(cudaFree(out.counts));
	CUDA(cudaFree(out.indices));
	free(table);
	return us;
}

static void bench(uint32_t layers, uint32_t n, uint32_t h, uint32_t g, uint32_t dim, uint32_t type)
{
	static const char *const types[] = { "", "f32", "f16", "bf16", "q8_0" };
	static const char *const names[] = { "top 32 rows", "shared 32 rows", "mass 1 row", "norm 8 rows" };
	static const struct kv_attention_params params[] = {
		{ &kv_attend_top, 0, 32, 32, 5, 0, 0 },
		{ &kv_attend_shared, 0, 32, 32, 7, 1, 0.2 },
		{ &kv_attend_mass, 0, 0, 0, 1, 0, 0.95 },
		{ &kv_refreekv_by_attention, 4, 8, 8, 1, 0, 0.01 },
	};
	struct size s = { layers, n, h, g, dim, type };
	struct bench b;
	uint32_t *sum;
	float read;

	make(&s, &b);
	CUDA(cudaMalloc(&sum, sizeof(*sum)));
	read = median([&] { return kv_cuda_read(b.k, b.bytes, sum, NULL); });
	printf("%2u layers %7u %u/%u %3u %s: read %7.1f us", layers, n, h, g, dim, types[type], read);
	for (int i = 0; i < 4; i++) {
		uint32_t kept;
		float us = time_rule(&b, layers, &params[i], &kept);

		printf("; %s %8.1f us, %.1fx (keeps %u)", names[i], us, us / read, kept);
	}
	printf("\n");
	fflush(stdout);
	CUDA(cudaFree(sum));
	done(&b);
}

int main(void)
{
	cudaDeviceProp prop;

	CUDA(cudaGetDeviceProperties(&prop, 0));
	printf("%s, %d multiprocessors\n", prop.name, prop.multiProcessorCount);
	bench(32, 2048, 32, 8, 128, KVMOD_BF16);
	bench(32, 8192, 32, 8, 128, KVMOD_BF16);
	bench(32, 32768, 32, 8, 128, KVMOD_BF16);
	bench(1, 8192, 32, 8, 128, KVMOD_BF16);
	bench(1, 1048576, 32, 8, 128, KVMOD_BF16);
	bench(32, 8192, 32, 8, 128, KVMOD_F16);
	bench(32, 8192, 32, 8, 128, KVMOD_F32);
	bench(32, 8192, 32, 8, 128, KVMOD_Q8_0);
	bench(32, 8192, 32, 8, 64, KVMOD_BF16);
	bench(32, 8192, 32, 8, 256, KVMOD_BF16);
	bench(32, 8192, 64, 4, 128, KVMOD_BF16);
	return 0;
}
