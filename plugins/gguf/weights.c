/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places weights in memory. Weights of the GPU's layers are copied to the GPU. The others
 * are used in the mapped file, except matrices that the CPU multiplies faster in a layout of
 * its own (its extra buffer types): these are copied once. Copies are read from the file, not
 * from the map, because a map ends the process where the file has been truncated.
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Can the device use a weight of this type and shape, in such a buffer, in this way? */
static bool is_supported(ggml_backend_dev_t device, struct ggml_tensor *weight, enum gg_use use,
			 ggml_backend_buffer_type_t type)
{
	ggml_backend_buffer_t buffer = weight->buffer;
	struct ggml_context *context;
	struct ggml_tensor *op;
	bool yes = false;

	if (use != GG_MATRIX)
		return true;
	context = gg_tensors_only(4);
	if (!context)
		return false;
	op = ggml_mul_mat(context, weight,
			  ggml_new_tensor_2d(context, GGML_TYPE_F32, weight->ne[0], 512));
	weight->buffer = ggml_backend_buft_alloc_buffer(type, 0);
	if (weight->buffer) {
		yes = ggml_backend_dev_supports_op(device, op);
		ggml_backend_buffer_free(weight->buffer);
	}
	weight->buffer = buffer;
	ggml_free(context);
	return yes;
}

/* The CPU's own layout for this matrix; NULL: it has none. */
static ggml_backend_buffer_type_t extra_type(const struct gg_engine *engine, struct ggml_tensor *weight)
{
	ggml_backend_dev_t device = engine->backend.device;
	ggml_backend_dev_get_extra_bufts_t get =
		ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device),
						  "ggml_backend_dev_get_extra_bufts");
	ggml_backend_buffer_type_t *types = get ? get(device) : NULL;

	for (; types && *types; types++) {
		if (is_supported(device, weight, GG_MATRIX, *types))
			return *types;
	}
	return NULL;
}

int32_t gg_weight_buffer(struct gg_engine *engine, const struct ggml_tensor *weight,
			  ggml_backend_buffer_type_t type, ggml_backend_buffer_t *out)
{
	struct gg_model *model = &engine->net;

	*out = ggml_backend_buft_alloc_buffer(type, ggml_backend_buft_get_alloc_size(type, weight));
	if (!*out)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory%s for weight %s%s",
			       ggml_backend_buft_is_host(type) || !engine->gpu.handle ? "" : " on the GPU",
			       weight->name,
			       engine->gpu.handle ? ": set a smaller gpu_layers" : "");
	model->buffers[model->n_buffers++] = *out;
	ggml_backend_buffer_set_usage(*out, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
	return KVMOD_OK;
}

int32_t gg_weight_put(struct gg_engine *engine, struct ggml_tensor *weight,
		      ggml_backend_buffer_t buffer, size_t offset)
{
	char *base = ggml_backend_buffer_get_base(buffer);

	if (ggml_backend_tensor_alloc(buffer, weight, base + offset) != GGML_STATUS_SUCCESS)
		return gg_fail(engine, KVMOD_EDEVICE, "ggml refuses weight %s", weight->name);
	return KVMOD_OK;
}

/* Reads a weight's bytes from the file to the staging memory. */
static int32_t read_weight(struct gg_engine *engine, const struct gg_tensor_info *info)
{
	struct gg_staging *staging = &engine->net.staging;

	if (staging->room < info->size) {
		free(staging->bytes);
		staging->bytes = malloc(info->size);
		staging->room = staging->bytes ? info->size : 0;
	}
	if (staging->room < info->size)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to read a weight of %zu bytes", info->size);
	return gg_file_read(engine, info->offset, staging->bytes, info->size);
}

/* Fills a weight, after giving it memory unless it has some. */
static int32_t copy_to(struct gg_engine *engine, struct ggml_tensor *weight,
		       ggml_backend_buffer_type_t type, const struct gg_tensor_info *info)
{
	ggml_backend_buffer_t buffer;
	int32_t code = KVMOD_OK;

	if (!weight->buffer) {
		code = gg_weight_buffer(engine, weight, type, &buffer);
		if (!code)
			code = gg_weight_put(engine, weight, buffer, 0);
	}
	if (!code)
		code = read_weight(engine, info);
	if (!code)
		ggml_backend_tensor_set(weight, engine->net.staging.bytes, 0, info->size);
	return code;
}

static int32_t refuse_type(struct gg_engine *engine, const struct ggml_tensor *weight, const char *where)
{
	return gg_fail(engine, KVMOD_ENOTSUP, "%s: ggml cannot compute with %s, which is %s%s",
		       engine->model, weight->name, ggml_type_name(weight->type), where);
}

int32_t gg_weight_check(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use)
{
	if (use == GG_VECTOR && weight->type != GGML_TYPE_F32)
		return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s is %s, expected f32", engine->model,
			       weight->name, ggml_type_name(weight->type));
	/* ggml accepts a matrix of integers until it multiplies it. */
	if (weight->type == GGML_TYPE_F32 || ggml_get_type_traits(weight->type)->to_float)
		return KVMOD_OK;
	return refuse_type(engine, weight, "");
}

int32_t gg_weight_place(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use,
			enum gg_side side, const struct gg_tensor_info *info,
			const struct ggml_tensor *twin)
{
	ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type(), extra = NULL;

	if (side == GG_GPU) {
		type = ggml_backend_dev_buffer_type(engine->gpu.device);
		if (!is_supported(engine->gpu.device, weight, use, type))
			return refuse_type(engine, weight, ", on the GPU: set a smaller gpu_layers");
		if (!engine->check_only)
			return copy_to(engine, weight, type, info);
	} else if (!is_supported(engine->backend.device, weight, use, type)) {
		return refuse_type(engine, weight, "");
	}
	if (use == GG_MATRIX && !engine->check_only)
		extra = extra_type(engine, weight);
	/* A twin on the host has a buffer of its own, and begins at the buffer's start. */
	if (!extra && !engine->net.map && twin)
		return gg_weight_put(engine, weight, twin->buffer, 0);
	if (extra || !engine->net.map)
		return copy_to(engine, weight, extra ? extra : type, info);
	return gg_weight_put(engine, weight, engine->net.map_buffer, info->offset);
}

/* --- the map -------------------------------------------------------------------------------- */

int32_t gg_weights_map(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	size_t size = (size_t)model->file.st.st_size;
	int flags = engine->check_only ? MAP_SHARED : MAP_SHARED | MAP_POPULATE;
	void *map = mmap(NULL, size, PROT_READ, flags, model->file.fd, 0);

	if (map == MAP_FAILED)
		return gg_fail(engine, KVMOD_EIO, "%s: cannot map the file: %s", engine->model,
			       strerror(errno));
	model->map = map;
	model->map_buffer = ggml_backend_cpu_buffer_from_ptr(map, size);
	if (!model->map_buffer)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	ggml_backend_buffer_set_usage(model->map_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
	return KVMOD_OK;
}

void gg_weights_free(struct gg_model *model)
{
	for (size_t i = 0; i < model->n_buffers; i++)
		ggml_backend_buffer_free(model->buffers[i]);
	if (model->map_buffer)
		ggml_backend_buffer_free(model->map_buffer);
	if (model->map)
		munmap(model->map, (size_t)model->file.st.st_size);
	free(model->buffers);
	free(model->staging.bytes);
}
