/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up jobs of the extension KVMOD_DEVICE_ATTENTION, and what must come of them. */
#include "tests/cuda/reductions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/logits.h"
#include "plugins/cuda/device.h"

static const struct kvmod_device_ops *const ops = &kv_cuda_device_ops;

/* The numbers after each row of `out`, which must stay as they are. */
#define OUT_GAP 5u
#define UNTOUCHED 1234.5f

struct kvmod_instance *reductions_open(const struct kvmod_host *host)
{
	struct kvmod_instance *device = calloc(1, ops->instance_size);

	if (!device)
		abort();
	device->host = host;
	if (!ops->open(device))
		return device;
	free(device);
	return NULL;
}

void reductions_close(struct kvmod_instance *device)
{
	ops->close(device);
	free(device);
}

const struct kvmod_device_attention *reductions_calls(struct kvmod_instance *device)
{
	return ops->get_extension(device, KVMOD_DEVICE_ATTENTION);
}

/* --- memory ---------------------------------------------------------------------------- */

static void *allocate(size_t bytes)
{
	void *p = malloc(bytes + 1);

	if (!p)
		abort();
	return p;
}

static void give_up(const char *what)
{
	fprintf(stderr, "%s failed\n", what);
	exit(1);
}

static void to_device(struct kvmod_instance *device, void *to, const void *host, size_t bytes)
{
	if (ops->from_host(device, NULL, to, host, bytes) || ops->synchronize(device, NULL))
		give_up("a copy to the GPU");
}

static void *on_device(struct kvmod_instance *device, const void *host, size_t bytes)
{
	void *p;

	if (ops->alloc(device, bytes, &p))
		give_up("an allocation on the GPU");
	to_device(device, p, host, bytes);
	return p;
}

static void from_device(struct kvmod_instance *device, void *host, const void *from, size_t bytes)
{
	if (ops->to_host(device, NULL, host, from, bytes) || ops->synchronize(device, NULL))
		give_up("the GPU's work");
}

/* n rows of `dim` elements, encoded after `offset` bytes, `gap` bytes between them; and decoded in x. */
static void *make_rows(struct kvmod_instance *device, struct kv_random *r, uint32_t type, size_t n,
		       uint32_t dim, uint32_t offset, uint32_t gap, float bias, float *x,
		       struct kvmod_view *view)
{
	size_t row = kvmod_row_bytes(type, dim), stride = row + gap, bytes = offset + n * stride;
	char *memory = allocate(bytes);
	void *there;

	memset(memory, 0xff, bytes);	/* NaN where nobody may read */
	for (size_t i = 0; i < n; i++) {
		for (size_t d = 0; d < dim; d++)
			x[i * dim + d] = kv_random_normal(r) + (d == 3 ? bias : 0);
		kv_encode(type, x + i * dim, dim, memory + offset + i * stride);
		kv_cpu_to_f32(type, memory + offset + i * stride, dim, x + i * dim);
	}
	there = on_device(device, memory, bytes);
	*view = (struct kvmod_view){ .type = type, .data = (char *)there + offset, .stride = (int64_t)stride };
	free(memory);
	return there;
}

/* --- columns ------------------------------------------------------------------------------ */

static void make_queries(struct columns *c, struct kvmod_instance *device, struct kv_random *r,
			 const struct columns_shape *s)
{
	size_t size = s->dim + s->q_gap, n = (size_t)s->n_rows * s->group;
	size_t row = s->heads_first ? size : size * s->group, head = s->heads_first ? size * s->n_rows : size;
	float *memory = allocate(n * size * sizeof(float));

	memset(memory, 0xff, n * size * sizeof(float));
	c->q = allocate(n * s->dim * sizeof(float));
	for (size_t i = 0; i < n; i++)
		for (size_t d = 0; d < s->dim; d++)
			memory[i / s->group * row + i % s->group * head + d] = c->q[i * s->dim + d] =
				s->spread * kv_random_normal(r);
	c->memory[1] = on_device(device, memory, n * size * sizeof(float));
	c->job.q = (struct kvmod_view){ .type = KVMOD_F32, .data = c->memory[1], .stride = (int64_t)(4 * row),
		.head_stride = (int64_t)(4 * head) };
	free(memory);
}

void columns_make(struct columns *c, struct kvmod_instance *device, struct kv_random *r,
		  const struct columns_shape *s)
{
	uint32_t heads = s->reduce == KVMOD_COLUMNS_SUM ? s->group : 1, stride = s->n + OUT_GAP;

	memset(c, 0, sizeof(*c));
	c->job = (struct kvmod_columns){ .size = sizeof(c->job), .reduce = s->reduce, .n = s->n,
		.n_rows = s->n_rows, .group = s->group, .head_dim = s->dim, .n_seen = s->n_seen,
		.n_spans = s->n_spans, .scale = s->scale, .softcap = s->softcap, .out_stride = stride };
	memcpy(c->job.spans, s->spans, sizeof(s->spans));
	c->k = allocate((size_t)s->n * s->dim * sizeof(float));
	c->memory[0] = make_rows(device, r, s->k_type, s->n, s->dim, s->offset, s->gap, s->bias, c->k,
				 &c->job.k);
	make_queries(c, device, r, s);
	c->n_out = (size_t)heads * stride;
	c->before = allocate(c->n_out * sizeof(float));
	c->after = allocate(c->n_out * sizeof(float));
	for (size_t i = 0; i < c->n_out; i++)
		c->before[i] = i % stride >= s->n ? UNTOUCHED : s->fresh ? 0 : fabsf(kv_random_normal(r)) / 8;
	c->memory[2] = on_device(device, c->before, c->n_out * sizeof(float));
	c->job.out = c->memory[2];
}

void columns_fetch(struct columns *c, struct kvmod_instance *device)
{
	from_device(device, c->after, c->memory[2], c->n_out * sizeof(float));
}

void columns_reset(struct columns *c, struct kvmod_instance *device)
{
	to_device(device, c->memory[2], c->before, c->n_out * sizeof(float));
}

void columns_free(struct columns *c, struct kvmod_instance *device)
{
	for (int i = 0; i < 3; i++)
		ops->free(device, c->memory[i]);
	free(c->k);
	free(c->q);
	free(c->before);
	free(c->after);
}

/* Is position i one that the spans name? */
static bool is_named(const struct kvmod_columns *j, uint32_t i)
{
	bool named = j->n_spans == 0;

	for (uint32_t s = 0; s < j->n_spans; s++)
		named |= i >= j->spans[s].begin && i < j->spans[s].end;
	return named;
}

/* What a row of a query head pays: x[i], 0 for positions that it does not see. */
static void softmax_of(const struct columns *c, uint32_t row, uint32_t h, double *x)
{
	const struct kvmod_columns *j = &c->job;
	const float *q = c->q + ((size_t)row * j->group + h) * j->head_dim;
	double max = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < j->n; i++) {
		double dot = 0;

		x[i] = -INFINITY;
		if (i >= (uint64_t)j->n_seen + row || !is_named(j, i))
			continue;
		for (uint32_t d = 0; d < j->head_dim; d++)
			dot += (double)q[d] * (double)c->k[(size_t)i * j->head_dim + d];
		x[i] = dot * (double)j->scale;
		if (j->softcap > 0)
			x[i] = (double)j->softcap * tanh(x[i] / (double)j->softcap);
		max = fmax(max, x[i]);
	}
	for (uint32_t i = 0; i < j->n; i++) {
		x[i] = x[i] > -INFINITY ? exp(x[i] - max) : 0;
		sum += x[i];
	}
	for (uint32_t i = 0; i < j->n && sum > 0; i++)
		x[i] /= sum;
}

/* What is added to each number of `out`, or what it is raised to. */
static double *reduce(const struct columns *c)
{
	const struct kvmod_columns *j = &c->job;
	double *all = calloc(c->n_out, sizeof(*all)), *x = allocate(j->n * sizeof(*x));

	if (!all)
		abort();
	for (uint32_t h = 0; h < j->group; h++)
		for (uint32_t r = 0; r < j->n_rows; r++) {
			double *to = all + (j->reduce == KVMOD_COLUMNS_SUM ? h * (size_t)j->out_stride : 0);

			softmax_of(c, r, h, x);
			for (uint32_t i = 0; i < j->n; i++)
				to[i] = j->reduce == KVMOD_COLUMNS_SUM ? to[i] + x[i] : fmax(to[i], x[i]);
		}
	free(x);
	return all;
}

bool columns_are_right(const struct columns *c, double *worst, char *why, size_t room)
{
	const struct kvmod_columns *j = &c->job;
	double *all = reduce(c);
	bool right = true;

	for (size_t k = 0; k < c->n_out && right; k++) {
		uint32_t i = (uint32_t)(k % (size_t)j->out_stride);
		double before = (double)c->before[k], after = (double)c->after[k], expected, error;

		if (i >= j->n || !is_named(j, i) || all[k] == 0) {
			right = memcmp(&c->before[k], &c->after[k], sizeof(float)) == 0;
			if (!right)
				snprintf(why, room, "number %zu was %g and is %g", k, before, after);
			continue;
		}
		expected = j->reduce == KVMOD_COLUMNS_SUM ? before + all[k] : fmax(before, all[k]);
		/* what a sum of floats rounds, and numbers that are no normal floats */
		error = fabs(after - expected) - 1e-7 * (before + all[k]) - 1e-37;
		*worst = fmax(*worst, error / all[k]);
		right = error <= 1e-4 * all[k];
		if (!right)
			snprintf(why, room, "head %zu, position %u: %.9g, expected %.9g, before %.9g",
				 k / (size_t)j->out_stride, i, after, expected, before);
	}
	free(all);
	return right;
}

/* --- norms ----------------------------------------------------------------------------------- */

void norms_make(struct norms *c, struct kvmod_instance *device, struct kv_random *r,
		const struct norms_shape *s)
{
	uint32_t row = s->group * s->dim, stride = s->n + OUT_GAP;

	memset(c, 0, sizeof(*c));
	c->job = (struct kvmod_norms){ .size = sizeof(c->job), .n = s->n, .group = s->group, .head_dim = s->dim,
		.n_out = s->n_out, .out_stride = stride };
	c->v = allocate((size_t)s->n * s->dim * sizeof(float));
	c->memory[0] = make_rows(device, r, s->v_type, s->n, s->dim, s->offset, s->gap, 0, c->v, &c->job.v);
	c->wo = allocate((size_t)s->n_out * row * sizeof(float));
	c->memory[1] = make_rows(device, r, KVMOD_F16, s->n_out, row, 2 * s->wo_offset, 2 * s->wo_gap, 0, c->wo,
				 &c->job.wo);
	c->n_numbers = (size_t)s->group * stride;
	c->after = allocate(c->n_numbers * sizeof(float));
	for (size_t i = 0; i < c->n_numbers; i++)
		c->after[i] = UNTOUCHED;
	c->memory[2] = on_device(device, c->after, c->n_numbers * sizeof(float));
	c->job.out = c->memory[2];
}

void norms_fetch(struct norms *c, struct kvmod_instance *device)
{
	from_device(device, c->after, c->memory[2], c->n_numbers * sizeof(float));
}

void norms_free(struct norms *c, struct kvmod_instance *device)
{
	for (int i = 0; i < 3; i++)
		ops->free(device, c->memory[i]);
	free(c->v);
	free(c->wo);
	free(c->after);
}

static double norm_of(const struct norms *c, uint32_t h, uint32_t i)
{
	const struct kvmod_norms *j = &c->job;
	double sum = 0;

	for (uint32_t e = 0; e < j->n_out; e++) {
		const float *wo = c->wo + ((size_t)e * j->group + h) * j->head_dim;
		double dot = 0;

		for (uint32_t d = 0; d < j->head_dim; d++)
			dot += (double)wo[d] * (double)c->v[(size_t)i * j->head_dim + d];
		sum += fabs(dot);
	}
	return sum;
}

bool norms_are_right(const struct norms *c, double *worst, char *why, size_t room)
{
	const struct kvmod_norms *j = &c->job;

	for (size_t k = 0; k < c->n_numbers; k++) {
		uint32_t h = (uint32_t)(k / (size_t)j->out_stride), i = (uint32_t)(k % (size_t)j->out_stride);
		double expected = i < j->n ? norm_of(c, h, i) : (double)UNTOUCHED, after = (double)c->after[k];
		/* values of a long type are rounded to f16 */
		double error = fabs(after - expected) / fmax(expected, 1e-30);

		if (i < j->n)
			*worst = fmax(*worst, error);
		if (error <= (i < j->n ? 5e-4 : 0))
			continue;
		snprintf(why, room, "head %u, position %u: %.9g, expected %.9g", h, i, after, expected);
		return false;
	}
	return true;
}
