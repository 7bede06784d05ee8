/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up caches on a GPU for tests, and ReFreeKV's decision on them in double arithmetic. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/logits.h"
#include "tests/cuda/gpu.h"

void cuda_check(int error, const char *what, const char *file, int line)
{
	if (error == cudaSuccess)
		return;
	fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, cudaGetErrorString((cudaError_t)error));
	exit(1);
}

bool gpu_there(void)
{
	int n;

	if (cudaGetDeviceCount(&n) == cudaSuccess && n > 0)
		return true;
	printf("SKIP: no GPU: %s\n", cudaGetErrorString(cudaGetLastError()));
	return false;
}

static void *allocate(size_t bytes)
{
	void *p = malloc(bytes + 1);

	if (!p) {
		fprintf(stderr, "out of memory\n");
		exit(1);
	}
	return p;
}

static void *to_device(const void *host, size_t bytes)
{
	void *p;

	CUDA(cudaMalloc(&p, bytes));
	CUDA(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
	return p;
}

static float *values(struct kv_random *r, const float *given, size_t n, float spread)
{
	float *x = allocate(n * sizeof(*x));
	size_t i;

	for (i = 0; i < n; i++)
		x[i] = given ? given[i] : spread * kv_random_normal(r);
	return x;
}

/* Encodes x into memory, and rounds x to the values that memory now has. */
static void encode(uint32_t type, float *x, size_t n, char *memory)
{
	kv_encode(type, x, n, memory);
	kv_cpu_to_f32(type, memory, n, x);
}

static void make_keys(struct cache *c, struct kv_random *r, const struct shape *s, uint32_t n, const float *k)
{
	size_t row = kvmod_row_bytes(s->k_type, s->dim) + s->gap, g, i;
	size_t stride = s->interleaved ? row * s->n_kv_heads : row;
	size_t head = s->interleaved ? row : row * n;

	c->k_bytes = s->offset + row * n * s->n_kv_heads;
	c->host_k = allocate(c->k_bytes);
	memset(c->host_k, 0xff, c->k_bytes);
	c->k = values(r, k, (size_t)n * s->n_kv_heads * s->dim, 1);
	for (g = 0; g < s->n_kv_heads; g++)
		for (i = 0; i < n; i++)
			encode(s->k_type, c->k + (g * n + i) * s->dim, s->dim,
			       c->host_k + s->offset + g * head + i * stride);
	c->device_k = to_device(c->host_k, c->k_bytes);
	c->heads = allocate(s->n_kv_heads * sizeof(*c->heads));
	c->head_list = allocate(s->n_kv_heads * sizeof(*c->head_list));
	kvmod_list_heads(c->head_list, c->heads, s->n_kv_heads);
	for (g = 0; g < s->n_kv_heads; g++)
		c->heads[g] = (struct kvmod_head){ .size = sizeof(*c->heads), .n = n,
			.k = { .type = s->k_type, .data = (char *)c->device_k + s->offset + g * head,
			       .stride = (int64_t)stride } };
}

void cache_make(struct cache *c, struct kv_random *r, const struct shape *s, uint32_t n,
		const float *k, const float *q)
{
	size_t row = (size_t)s->n_q_heads * s->dim, bytes = kvmod_row_bytes(s->q_type, row);
	char *memory = allocate(bytes * s->rows);
	uint32_t j;

	make_keys(c, r, s, n, k);
	c->q = values(r, q, row * s->rows, s->spread);
	for (j = 0; j < s->rows; j++)
		encode(s->q_type, c->q + j * row, row, memory + j * bytes);
	c->device_q = to_device(memory, bytes * s->rows);
	free(memory);
	c->segment = (struct kvmod_segment){ .size = sizeof(c->segment), .logical = n,
		.n_q_heads = s->n_q_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->dim,
		.total_heads = s->n_kv_heads, .scale = s->scale, .softcap = s->softcap,
		.heads = c->head_list, .n_rows = s->rows,
		.q = { .type = s->q_type, .data = c->device_q, .stride = (int64_t)bytes,
		       .head_stride = (int64_t)kvmod_row_bytes(s->q_type, s->dim) } };
}

void cache_free(struct cache *c)
{
	CUDA(cudaFree(c->device_k));
	CUDA(cudaFree(c->device_q));
	free(c->heads);
	free(c->head_list);
	free(c->host_k);
	free(c->k);
	free(c->q);
}

/* a[i] += the softmax of one row of one head, over positions before limit */
static void add_row(const struct cache *c, uint32_t h, uint32_t j, uint32_t limit, double *a, double *x)
{
	const struct kvmod_segment *s = &c->segment;
	uint32_t n = c->heads[0].n, g = h / (s->n_q_heads / s->n_kv_heads), i, d;
	const float *q = c->q + ((size_t)j * s->n_q_heads + h) * s->head_dim;
	double max = -INFINITY, sum = 0;

	for (i = 0; i < limit; i++) {
		const float *k = c->k + ((size_t)g * n + i) * s->head_dim;

		for (x[i] = 0, d = 0; d < s->head_dim; d++)
			x[i] += (double)q[d] * k[d];
		x[i] *= s->scale;
		if (s->softcap > 0)
			x[i] = s->softcap * tanh(x[i] / s->softcap);
		max = x[i] > max || isnan(x[i]) ? x[i] : max;
	}
	for (i = 0; i < limit; i++)
		sum += exp(x[i] - max);
	for (i = 0; i < limit; i++)
		a[i] += exp(x[i] - max) / sum + 0 * x[i];
}

/*
 * Adds a head's norm of what is kept: to kept[first] for the suffix from `first` on, to
 * sinks[i] where only the i + 1 oldest positions are kept.
 */
static void add_head(const struct cache *c, const struct kv_refreekv_params *p, uint32_t h,
		     double *kept, double *sinks, double *a, double *x)
{
	uint32_t n = c->heads[0].n, given = c->segment.n_rows;
	uint32_t rows = given < p->rows ? given : p->rows, j, i;
	double sum = 0;

	memset(a, 0, n * sizeof(*a));
	for (j = 0; j < rows; j++)
		add_row(c, h, given - rows + j, n - rows + j + 1, a, x);
	for (i = 0; i < n; i++)
		a[i] /= i + rows > n ? n - i : rows;
	for (i = 0; p->norm_all && i < p->sinks && i < n; i++) {
		sum += a[i] * a[i];
		sinks[i] += sqrt(sum);
	}
	kept[n] += sqrt(sum);
	for (i = n; i-- > 0;) {
		if (i >= p->sinks)
			sum += a[i] * a[i];
		kept[i] += sqrt(sum);
	}
}

static uint32_t find_stop(struct answer *a, const struct kv_refreekv_params *p, uint32_t n, const double *sinks)
{
	uint32_t i;

	for (i = 0; p->norm_all && i < p->sinks; i++)
		if (sinks[i] <= p->threshold) {
			a->at_stop = sinks[i];
			return n;
		}
	for (i = n - 1; i > p->sinks && a->loss[i] > p->threshold; i--)
		;
	a->at_stop = a->loss[i];
	return i;
}

void answer_of(const struct cache *c, const struct kv_refreekv_params *p, struct answer *a)
{
	uint32_t n = c->heads[0].n, h, i;
	double *attention = allocate(n * sizeof(double)), *x = allocate(n * sizeof(double)), full;
	double *sinks = calloc(n, sizeof(double));

	a->loss = calloc(n + 1, sizeof(double));
	for (h = 0; h < c->segment.n_q_heads; h++)
		add_head(c, p, h, a->loss, sinks, attention, x);
	full = a->loss[0];
	for (i = 0; i <= n; i++)
		a->loss[i] = (full - a->loss[i]) / full;
	for (i = 0; i < n; i++)
		sinks[i] = (full - sinks[i]) / full;
	a->first = a->status = 0;
	a->kept = n;
	a->at_stop = 0;
	if (n > p->sinks + p->recent && p->threshold > 0) {
		a->status = !isfinite(full) ? KVMOD_ENUMERIC : full == 0 ? KV_REFREEKV_FLAT : 0;
		if (a->status == 0) {
			i = find_stop(a, p, n, sinks);
			a->first = i > n - p->recent ? n - p->recent : i;
			a->kept = n - a->first + p->sinks;
		}
	}
	free(sinks);
	free(attention);
	free(x);
}

void launch_make(struct launch *l, const struct kv_refreekv_params *p, struct cache *caches, uint32_t n)
{
	const struct kvmod_segment **segments = allocate(n * sizeof(*segments));
	void *table;
	uint32_t i;
	int err;

	for (i = 0; i < n; i++)
		segments[i] = &caches[i].segment;
	err = kv_cuda_refreekv_prepare(p, segments, n, &l->job);
	if (err) {
		fprintf(stderr, "prepare: error %d\n", err);
		exit(1);
	}
	table = allocate(l->job.table_bytes);
	kv_cuda_refreekv_table(&l->job, segments, table);
	l->caches = caches;
	l->table = to_device(table, l->job.table_bytes);
	CUDA(cudaMalloc(&l->scratch, l->job.scratch_bytes));
	CUDA(cudaMemset(l->scratch, 0xff, l->job.scratch_bytes));
	CUDA(cudaMalloc((void **)&l->results, n * sizeof(*l->results)));
	l->host = allocate(n * sizeof(*l->host));
	free(table);
	free(segments);
}

void launch_queue(struct launch *l, void *stream)
{
	if (kv_cuda_refreekv(&l->job, l->table, l->scratch, l->results, stream)) {
		fprintf(stderr, "launch failed\n");
		exit(1);
	}
}

void launch_fetch(struct launch *l)
{
	CUDA(cudaDeviceSynchronize());
	CUDA(cudaMemcpy(l->host, l->results, l->job.n_segments * sizeof(*l->host), cudaMemcpyDeviceToHost));
}

void launch_free(struct launch *l)
{
	CUDA(cudaFree(l->table));
	CUDA(cudaFree(l->scratch));
	CUDA(cudaFree(l->results));
	free(l->host);
}
