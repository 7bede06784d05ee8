/* SPDX-License-Identifier: Apache-2.0 */
/* The GPU that layers run on: ggml computes there, and kvmod's device moves its memory. */
#ifndef KV_PLUGINS_GGUF_GPU_H
#define KV_PLUGINS_GGUF_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include <ggml-backend.h>

#include <kvmod/device.h>

struct gg_engine;

/* Flash attention wants the length of K in whole blocks of this many rows. */
#define GG_PAD		256u

static inline uint32_t gg_padded(uint64_t n)
{
	return (uint32_t)((n + GG_PAD - 1) / GG_PAD * GG_PAD);
}

/* The memory that holds a layer: its weights, its cache, its collected queries. */
enum gg_side { GG_HOST, GG_GPU, GG_N_SIDES };

struct gg_gpu {
	ggml_backend_dev_t device;
	ggml_backend_t handle;		/* NULL: everything runs on the host */
	const struct kvmod_device_ops *ops;
	void *self;
	uint32_t n_layers;		/* on the GPU: the last ones of the model */
	bool output;			/* the output matrix is on the GPU too */
	size_t padding;			/* bytes that ggml wants behind the rows of K or V */
};

/*
 * Finds the GPU that gpu_layers asks for. gpu->device stays NULL where gpu_layers is 0,
 * or is -1 and no GPU can be used. Fails only where gpu_layers names a number.
 */
int32_t gg_gpu_find(struct gg_engine *engine);
/* Starts the GPU that was found. The model's header must have been read. */
int32_t gg_gpu_open(struct gg_engine *engine);
void gg_gpu_close(struct gg_engine *engine);
enum gg_side gg_side_of(const struct gg_engine *engine, uint32_t layer);
enum gg_side gg_output_side(const struct gg_engine *engine);
/* Waits until the GPU, if there is one, has done all that ggml began there. */
void gg_gpu_wait(const struct gg_engine *engine);
/* What the device computes for policies (KVMOD_DEVICE_ATTENTION); NULL: nothing. */
const struct kvmod_device_attention *gg_gpu_attention(const struct gg_engine *engine);
/* Moves rows of the GPU's memory, and waits until they are moved. */
int32_t gg_gpu_gather(struct gg_engine *engine, const struct kvmod_gather *gathers, uint32_t n);

#endif
