/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times column reductions of attention and norms of Wo v: medians by device events, and
 * the arithmetic of their products as a share of what mma.sync gives without any memory.
 * tests/cuda/flash.py times PyTorch's attention for the same shapes.
 *	bench_reductions [NUMBER]	that one of the column reductions alone
 */
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/base/mma.cuh"
#include "kernels/cuda/columns/columns.h"
#include "kernels/cuda/norms/norms.h"
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

/* --- numbers ----------------------------------------------------------------------------- */

static __device__ float noise(size_t i, uint32_t seed)
{
	uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)(i >> 32) * 97 + seed;

	x = (x ^ x >> 16) * 0x85ebca6b;
	x = (x ^ x >> 13) * 0xc2b2ae35;
	return (float)((x ^ x >> 16) & 0xffff) / 32768 - 1;
}

/* n elements; q8_0 and q4_0 as bytes, with small scales. */
static __global__ void fill(void *p, size_t n, uint32_t type, uint32_t seed, float scale)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, block = type == KVMOD_Q8_0 ? 34 : 18;
	float x = i < n ? noise(i, seed) * scale : 0;

	if (i >= n)
		return;
	if (type == KVMOD_F32)
		((float *)p)[i] = x;
	else if (type == KVMOD_F16)
		((__half *)p)[i] = __float2half(x);
	else if (type == KVMOD_BF16)
		((__nv_bfloat16 *)p)[i] = __float2bfloat16(x);
	else
		((signed char *)p)[i] = i % block > 1 ? (signed char)(x / scale * 127) : i % block ? 0x20 : 0;
}

static void *make(uint32_t type, size_t rows, uint32_t dim, uint32_t seed, float scale)
{
	size_t bytes = rows * kvmod_row_bytes(type, dim);
	size_t n = kvmod_block_size(type) > 1 ? bytes : rows * dim;
	void *p;

	CUDA(cudaMalloc(&p, bytes));
	fill<<<(unsigned)((n + 255) / 256), 256>>>(p, n, type, seed, scale);
	return p;
}

/* --- time ---------------------------------------------------------------------------------- */

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

/* --- the most that mma.sync gives ------------------------------------------------------------- */

#define PEAK_STEPS 4096

static __global__ __launch_bounds__(256) void multiply(float *sink)
{
	float acc[8][4] = {};
	uint32_t x = 0x3c003c00 + threadIdx.x;

	for (int i = 0; i < PEAK_STEPS; i++)
#pragma unroll
		for (int k = 0; k < 8; k++)
			kv_pair<__half>::mma(acc[k], x, x + 1, x + 2, x + 3, x + 4, x + k);
	for (int k = 0; k < 8; k++)
		if (acc[k][0] == 0.12345f)
			*sink = acc[k][1];
}

static double peak(void)
{
	cudaDeviceProp prop;
	float *sink, us;

	CUDA(cudaGetDeviceProperties(&prop, 0));
	CUDA(cudaMalloc(&sink, sizeof(*sink)));
	us = median([&] {
		multiply<<<2 * prop.multiProcessorCount, 256>>>(sink);
		return cudaPeekAtLastError() != cudaSuccess;
	});
	CUDA(cudaFree(sink));
	return 2.0 * prop.multiProcessorCount * 8 * PEAK_STEPS * 8 * 4096 / us / 1e6;
}

/* --- columns ------------------------------------------------------------------------------------ */

static const char *const types[] = { "", "f32", "f16", "bf16", "q8_0", "q4_0" };
static double most;			/* TFLOP/s of mma.sync */

struct size {
	uint32_t layers, n, n_rows, n_q_heads, n_kv_heads, dim, type, reduce;
};

static void columns(const struct size &s)
{
	uint32_t heads = s.layers * s.n_kv_heads, group = s.n_q_heads / s.n_kv_heads, launches = 0;
	size_t row = kvmod_row_bytes(s.type, s.dim);
	char *k = (char *)make(s.type, (size_t)heads * s.n, s.dim, 1, 1);
	float *q = (float *)make(KVMOD_F32, (size_t)s.layers * s.n_rows * s.n_q_heads, s.dim, 2, 3), *out;
	struct kvmod_columns *jobs = (struct kvmod_columns *)calloc(heads, sizeof(*jobs));
	struct kv_columns_job job[64];
	void *tables[64], *scratch;
	uint64_t bytes = 0;
	uint32_t *sink;
	double flops;
	float us, read;

	CUDA(cudaMalloc(&out, (size_t)s.layers * s.n_q_heads * s.n * sizeof(*out)));
	CUDA(cudaMemset(out, 0, (size_t)s.layers * s.n_q_heads * s.n * sizeof(*out)));
	CUDA(cudaMalloc(&sink, sizeof(*sink)));
	for (uint32_t i = 0; i < heads; i++) {
		struct kvmod_columns *c = &jobs[i];

		c->size = sizeof(*c);
		c->reduce = s.reduce;
		c->n = s.n;
		c->n_rows = s.n_rows;
		c->group = group;
		c->head_dim = s.dim;
		c->n_seen = s.n - s.n_rows + 1;
		c->k.type = s.type;
		c->k.data = k + (size_t)i * s.n * row;
		c->k.stride = (int64_t)row;
		c->q.type = KVMOD_F32;
		c->q.data = q + ((size_t)(i / s.n_kv_heads) * s.n_rows * s.n_q_heads + i % s.n_kv_heads * group) * s.dim;
		c->q.stride = (int64_t)s.n_q_heads * s.dim * 4;
		c->q.head_stride = (int64_t)s.dim * 4;
		c->scale = 1 / sqrtf((float)s.dim);
		c->out = out + (size_t)i * group * s.n;
		c->out_stride = s.n;
	}
	for (uint32_t i = 0; i < heads && launches < 64; launches++) {
		struct kv_columns_job *j = &job[launches];
		uint32_t taken = kv_cuda_columns_prepare(jobs + i, heads - i, sizeof(*jobs), j);
		void *table = malloc(j->table_bytes);

		kv_cuda_columns_table(j, jobs + i, taken, sizeof(*jobs), table);
		CUDA(cudaMalloc(&tables[launches], j->table_bytes));
		CUDA(cudaMemcpy(tables[launches], table, j->table_bytes, cudaMemcpyHostToDevice));
		bytes = j->scratch_bytes > bytes ? j->scratch_bytes : bytes;
		free(table);
		i += taken;
	}
	CUDA(cudaMalloc(&scratch, bytes));
	read = median([&] { return kv_cuda_read(k, row * s.n * heads, sink, NULL); });
	us = median([&] {
		int err = 0;

		for (uint32_t i = 0; i < launches && !err; i++)
			err = kv_cuda_columns(&job[i], tables[i], scratch, NULL);
		return err;
	});
	/* two readings, two parts of queries, one or two of keys */
	flops = 2.0 * s.layers * s.n_q_heads * s.n_rows * s.n * s.dim * 2 * (job[0].parts == 1 ? 2 : 3);
	printf("columns %s %2u layers %7u x %4u rows %u/%u %3u %s: %9.1f us, %5.1f TFLOP/s (%.0f%% of mma), read %7.1f us "
	       "(%.1fx), scratch %.1f MB\n", s.reduce ? "max" : "sum", s.layers, s.n, s.n_rows, s.n_q_heads, s.n_kv_heads,
	       s.dim, types[s.type], us, flops / us / 1e6, 100 * flops / us / 1e6 / most, read, us / read, bytes / 1e6);
	fflush(stdout);
	for (uint32_t i = 0; i < launches; i++)
		CUDA(cudaFree(tables[i]));
	CUDA(cudaFree(scratch));
	CUDA(cudaFree(sink));
	CUDA(cudaFree(out));
	CUDA(cudaFree(q));
	CUDA(cudaFree(k));
	free(jobs);
}

/* --- norms ----------------------------------------------------------------------------------------- */

static void norms(uint32_t n, uint32_t n_q_heads, uint32_t n_kv_heads, uint32_t dim, uint32_t n_out, uint32_t type)
{
	uint32_t group = n_q_heads / n_kv_heads;
	size_t row = kvmod_row_bytes(type, dim);
	char *v = (char *)make(type, (size_t)n_kv_heads * n, dim, 1, 1);
	char *wo = (char *)make(KVMOD_F16, (size_t)n_out * n_q_heads, dim, 2, 1);
	struct kvmod_norms *jobs = (struct kvmod_norms *)calloc(n_kv_heads, sizeof(*jobs));
	struct kv_norms_job job;
	void *table, *device;
	double flops = 2.0 * n * n_q_heads * dim * n_out;
	float *out, us;

	CUDA(cudaMalloc(&out, (size_t)n_q_heads * n * sizeof(*out)));
	for (uint32_t i = 0; i < n_kv_heads; i++) {
		struct kvmod_norms *c = &jobs[i];

		c->size = sizeof(*c);
		c->n = n;
		c->group = group;
		c->head_dim = dim;
		c->n_out = n_out;
		c->v.type = type;
		c->v.data = v + (size_t)i * n * row;
		c->v.stride = (int64_t)row;
		c->wo.type = KVMOD_F16;
		c->wo.data = wo + (size_t)i * group * dim * 2;
		c->wo.stride = (int64_t)n_q_heads * dim * 2;
		c->out = out + (size_t)i * group * n;
		c->out_stride = n;
	}
	kv_cuda_norms_prepare(jobs, n_kv_heads, sizeof(*jobs), &job);
	table = malloc(job.table_bytes);
	kv_cuda_norms_table(&job, jobs, sizeof(*jobs), table);
	CUDA(cudaMalloc(&device, job.table_bytes));
	CUDA(cudaMemcpy(device, table, job.table_bytes, cudaMemcpyHostToDevice));
	us = median([&] { return kv_cuda_norms(&job, device, NULL); });
	printf("norms %7u x %u, %u/%u %3u %s: %9.1f us, %5.1f TFLOP/s (%.0f%% of mma)\n", n, n_out, n_q_heads, n_kv_heads,
	       dim, types[type], us, flops / us / 1e6, 100 * flops / us / 1e6 / most);
	fflush(stdout);
	CUDA(cudaFree(device));
	CUDA(cudaFree(out));
	CUDA(cudaFree(wo));
	CUDA(cudaFree(v));
	free(table);
	free(jobs);
}

int main(int argc, char **argv)
{
	static const struct size sizes[] = {
		/* a pass of a prefill */
		{ 1, 2048, 512, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 8192, 512, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 32768, 512, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 131072, 512, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 8192, 512, 32, 8, 128, KVMOD_F16, 1 },
		{ 32, 8192, 512, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 512, 512, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 10000, 512, 32, 8, 128, KVMOD_F16, 0 },
		/* other keys */
		{ 1, 8192, 512, 32, 8, 128, KVMOD_BF16, 0 },
		{ 1, 8192, 512, 32, 8, 128, KVMOD_Q8_0, 0 },
		{ 1, 8192, 512, 32, 8, 128, KVMOD_F32, 0 },
		{ 1, 8192, 512, 14, 2, 64, KVMOD_F16, 0 },
		{ 1, 8192, 512, 16, 8, 256, KVMOD_F16, 0 },
		/* decoding */
		{ 1, 8192, 1, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 32768, 1, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 131072, 1, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 8192, 16, 32, 8, 128, KVMOD_F16, 0 },
		{ 1, 32768, 64, 32, 8, 128, KVMOD_F16, 0 },
		{ 32, 8192, 1, 32, 8, 128, KVMOD_F16, 0 },
		{ 32, 8192, 1, 32, 8, 128, KVMOD_Q8_0, 0 },
	};
	cudaDeviceProp prop;

	CUDA(cudaGetDeviceProperties(&prop, 0));
	most = peak();
	printf("%s, %d multiprocessors, mma.sync %.0f TFLOP/s\n", prop.name, prop.multiProcessorCount, most);
	if (argc > 1) {
		uint32_t i = (uint32_t)atoi(argv[1]);

		if (i < sizeof(sizes) / sizeof(*sizes))
			columns(sizes[i]);
		return 0;
	}
	for (const struct size &s : sizes)
		columns(s);
	norms(8192, 32, 8, 128, 4096, KVMOD_F16);
	norms(512, 32, 8, 128, 4096, KVMOD_F16);
	norms(1, 32, 8, 128, 4096, KVMOD_F16);
	norms(8192, 32, 8, 128, 4096, KVMOD_Q8_0);
	norms(8192, 14, 2, 64, 896, KVMOD_F16);
	norms(8192, 16, 8, 256, 3584, KVMOD_F16);
	return 0;
}
