/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up jobs of the extension KVMOD_DEVICE_ATTENTION, in memory of the device "cuda", and
 * what must come of them in double arithmetic.
 */
#ifndef KV_TESTS_CUDA_REDUCTIONS_H
#define KV_TESTS_CUDA_REDUCTIONS_H

#include <stdbool.h>

#include <kvmod/device.h>
#include <kvmod/policy.h>

#include "core/testkit/random.h"

/* The device, open, and its extension. NULL, with a reason on stdout, if there is none. */
struct kvmod_instance *reductions_open(const struct kvmod_host *host);
void reductions_close(struct kvmod_instance *device);
const struct kvmod_device_attention *reductions_calls(struct kvmod_instance *device);

struct columns_shape {
	uint32_t n, n_rows, group, dim, n_seen;
	uint32_t k_type, reduce;
	float scale, softcap;
	float spread;			/* standard deviation of the elements of a query */
	uint32_t n_spans;
	struct kvmod_span spans[4];
	uint32_t offset, gap;		/* bytes before the first key and after each */
	uint32_t q_gap;			/* floats after each query */
	float bias;			/* added to one element of all keys */
	bool heads_first;		/* the rows of a query head lie side by side */
	bool fresh;			/* out is zero before */
};

struct columns {
	struct kvmod_columns job;	/* addresses on the device */
	float *k, *q;			/* [n][dim]; [n_rows][group][dim] */
	float *before, *after;		/* all of `out`, with memory that must stay as it is */
	size_t n_out;
	void *memory[3];		/* on the device: K, Q, out */
};

void columns_make(struct columns *c, struct kvmod_instance *device, struct kv_random *r,
		  const struct columns_shape *s);
/* Copies `out` from the device. */
void columns_fetch(struct columns *c, struct kvmod_instance *device);
/* Writes `out` on the device as it was before. */
void columns_reset(struct columns *c, struct kvmod_instance *device);
/* Are all numbers right, or unchanged? *worst: the largest relative error so far. */
bool columns_are_right(const struct columns *c, double *worst, char *why, size_t room);
void columns_free(struct columns *c, struct kvmod_instance *device);

struct norms_shape {
	uint32_t n, group, dim, n_out, v_type;
	uint32_t offset, gap;		/* bytes before the first value and after each */
	uint32_t wo_offset, wo_gap;	/* elements before the first row of Wo and after each */
};

struct norms {
	struct kvmod_norms job;		/* addresses on the device */
	float *v, *wo;			/* [n][dim]; [n_out][group][dim] */
	float *after;
	size_t n_numbers;
	void *memory[3];		/* on the device: V, Wo, out */
};

void norms_make(struct norms *c, struct kvmod_instance *device, struct kv_random *r,
		const struct norms_shape *s);
void norms_fetch(struct norms *c, struct kvmod_instance *device);
bool norms_are_right(const struct norms *c, double *worst, char *why, size_t room);
void norms_free(struct norms *c, struct kvmod_instance *device);

#endif
