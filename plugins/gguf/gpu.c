/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds and starts the GPU, which ggml computes on and kvmod's device moves memory of. Both
 * use CUDA's runtime: the data of a ggml tensor on the GPU is a plain device pointer.
 */
#include "engine.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum gg_side gg_side_of(const struct gg_engine *engine, uint32_t layer)
{
	return layer + engine->gpu.n_layers >= engine->net.n_layers ? GG_GPU : GG_HOST;
}

enum gg_side gg_output_side(const struct gg_engine *engine)
{
	return engine->gpu.output ? GG_GPU : GG_HOST;
}

/* --- finding it ---------------------------------------------------------------------- */

static bool is_cuda(ggml_backend_dev_t device)
{
	return !strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)), "CUDA");
}

/* ggml's first CUDA device; NULL: none. *other: then a GPU of another backend, or NULL. */
static ggml_backend_dev_t find_device(ggml_backend_dev_t *other)
{
	*other = NULL;
	for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
		ggml_backend_dev_t device = ggml_backend_dev_get(i);

		if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_GPU)
			continue;
		if (is_cuda(device))
			return device;
		*other = device;
	}
	return NULL;
}

/* No GPU can be used: fails where gpu_layers names a number, else logs why. */
static int32_t no_gpu(struct gg_engine *engine, const char *why, const char *name)
{
	if (engine->gpu_layers > 0)
		return gg_fail(engine, KVMOD_ENOTSUP, "gpu_layers = %lld: %s%s; set gpu_layers = 0",
			       (long long)engine->gpu_layers, why, name);
	gg_log(engine, KVMOD_DEBUG, "all layers run on the CPU: %s%s", why, name);
	return KVMOD_OK;
}

static int32_t ask_host(struct gg_engine *engine, const struct kvmod_device_ops **ops, void **self)
{
	const struct kvmod_host *host = engine->base.host;

	if (host->size < offsetof(struct kvmod_host, device) + sizeof(host->device) || !host->device)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "gpu_layers = %lld: the host of this engine provides no devices",
			       (long long)engine->gpu_layers);
	return host->device(host->ctx, "cuda", ops, self);
}

/*
 * From Hopper on, ggml lets a kernel start before the last one has ended, and wait for it
 * (programmatic dependent launch). nvcc moves loads of attention before that wait (llama.cpp's
 * pull request 23825): with an F16 cache and NeoX's RoPE, a token then attends to keys that
 * are not written yet, more often the busier the GPU is. Only the environment turns it off;
 * ggml reads it at its first kernel.
 */
static void launch_in_order(void)
{
	setenv("GGML_CUDA_PDL", "0", 0);
}

int32_t gg_gpu_find(struct gg_engine *engine)
{
	const struct kvmod_device_ops *ops;
	ggml_backend_dev_t device, other;
	int32_t code;
	void *self;

	if (!engine->gpu_layers)
		return KVMOD_OK;
	launch_in_order();
	if (engine->gpu.device)
		return KVMOD_OK; /* tests bring a device of their own */
	device = find_device(&other);
	if (!device && other)
		return no_gpu(engine, "kvmod uses ggml's CUDA backend only, and this ggml has ",
			    ggml_backend_dev_name(other));
	if (!device)
		return no_gpu(engine,
			    ggml_backend_reg_by_name("CUDA") ? "ggml's CUDA backend finds no GPU" :
							       "this ggml was built without CUDA", "");
	code = ask_host(engine, &ops, &self);
	if (code && engine->gpu_layers > 0)
		return code; /* the device has said why */
	if (code)
		return no_gpu(engine, "kvmod's device \"cuda\" is not available", "");
	engine->gpu.device = device;
	engine->gpu.ops = ops;
	engine->gpu.self = self;
	return KVMOD_OK;
}

/* --- starting it --------------------------------------------------------------------- */

bool gg_gpu_attends(const struct gg_engine *engine, enum ggml_type k_type, enum ggml_type v_type)
{
	const struct gg_model *model = &engine->net;
	struct ggml_context *context = gg_tensors_only(8);
	struct ggml_tensor *q, *k, *v, *mask;
	bool yes;

	if (!context)
		return false;
	q = ggml_new_tensor_3d(context, GGML_TYPE_F32, model->head_dim, 1, model->n_q_heads);
	k = ggml_new_tensor_3d(context, k_type, model->head_dim, GG_PAD, model->n_kv_heads);
	v = ggml_new_tensor_3d(context, v_type, model->head_dim, GG_PAD, model->n_kv_heads);
	mask = ggml_new_tensor_2d(context, GGML_TYPE_F16, GG_PAD, 1);
	yes = ggml_backend_dev_supports_op(engine->gpu.device,
					   ggml_flash_attn_ext(context, q, k, v, mask, 1, 0, 0));
	ggml_free(context);
	return yes;
}

size_t gg_gpu_padding(const struct gg_engine *engine, enum ggml_type type)
{
	struct ggml_context *context = gg_tensors_only(1);
	struct ggml_tensor *row;
	size_t padding = 0;

	if (!context)
		return 0;
	row = ggml_new_tensor_1d(context, type, engine->net.head_dim);
	padding = ggml_backend_buft_get_alloc_size(ggml_backend_dev_buffer_type(engine->gpu.device), row) -
		  ggml_nbytes(row);
	ggml_free(context);
	return padding;
}

int32_t gg_gpu_open(struct gg_engine *engine)
{
	uint32_t n_layers = engine->net.n_layers;
	struct gg_gpu *gpu = &engine->gpu;
	char why[96];

	if (!gpu->device)
		return KVMOD_OK;
	if (!gg_gpu_attends(engine, engine->type, engine->type)) {
		snprintf(why, sizeof(why), "ggml on CUDA cannot attend to %s heads of %u dimensions",
			 ggml_type_name(engine->type), engine->net.head_dim);
		return no_gpu(engine, why, "");
	}
	gpu->handle = ggml_backend_dev_init(gpu->device, NULL);
	if (!gpu->handle)
		return gg_fail(engine, KVMOD_EDEVICE, "ggml cannot start %s",
			       ggml_backend_dev_description(gpu->device));
	gpu->output = engine->gpu_layers < 0 || engine->gpu_layers >= n_layers;
	gpu->n_layers = gpu->output ? n_layers : (uint32_t)engine->gpu_layers;
	gg_log(engine, KVMOD_INFO, "%u of %u layers run on %s, %s", gpu->n_layers, n_layers,
	       ggml_backend_dev_name(gpu->device), ggml_backend_dev_description(gpu->device));
	return KVMOD_OK;
}

void gg_gpu_close(struct gg_engine *engine)
{
	if (engine->gpu.handle)
		ggml_backend_free(engine->gpu.handle);
	memset(&engine->gpu, 0, sizeof(engine->gpu));
}

const struct kvmod_device_attention *gg_gpu_attention(const struct gg_engine *engine)
{
	const struct kvmod_device_ops *ops = engine->gpu.ops;

	if (!ops || !KVMOD_HAS(ops, get_extension) || !ops->get_extension)
		return NULL;
	return ops->get_extension(engine->gpu.self, KVMOD_DEVICE_ATTENTION);
}

/* --- moving its rows ------------------------------------------------------------------- */

void gg_gpu_wait(const struct gg_engine *engine)
{
	if (engine->gpu.handle)
		ggml_backend_synchronize(engine->gpu.handle);
}

/*
 * ggml's streams do not wait for the default stream: what ggml has queued must finish
 * before the gather, and the gather before ggml goes on.
 */
int32_t gg_gpu_gather(struct gg_engine *engine, const struct kvmod_gather *gathers, uint32_t n)
{
	const struct gg_gpu *gpu = &engine->gpu;
	int32_t code;

	if (!n)
		return KVMOD_OK;
	gg_gpu_wait(engine);
	code = gpu->ops->gather(gpu->self, NULL, gathers, n, sizeof(*gathers));
	return code ? code : gpu->ops->synchronize(gpu->self, NULL);
}
