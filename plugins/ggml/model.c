/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's weights. Those of the GPU's layers are copied there. The others stay
 * where the mapped file has them, but for matrices that the CPU multiplies faster
 * in a layout of its own (its extra buffer types): those are copied once.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum use { USE_LOOKUP, USE_MATRIX, USE_VECTOR };

/* --- the file ------------------------------------------------------------------------ */

static int32_t map_file(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int fd = open(engine->model, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map;

	if (fd < 0)
		return gg_fail(engine, errno == ENOENT ? KVMOD_ENOENT : KVMOD_EIO, "%s: %s",
			       engine->model, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || !st.st_size) {
		close(fd);
		return gg_fail(engine, KVMOD_EFORMAT, "%s: not a GGUF file (%s)", engine->model,
			       S_ISREG(st.st_mode) ? "it is empty" : "not even a regular file");
	}
	map = mmap(NULL, (size_t)st.st_size, PROT_READ,
		   engine->check_only ? MAP_SHARED : MAP_SHARED | MAP_POPULATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return gg_fail(engine, KVMOD_EIO, "%s: cannot be mapped: %s", engine->model,
			       strerror(errno));
	model->file = map;
	model->file_size = (size_t)st.st_size;
	model->file_buffer = ggml_backend_cpu_buffer_from_ptr(map, model->file_size);
	if (!model->file_buffer)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	ggml_backend_buffer_set_usage(model->file_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
	return KVMOD_OK;
}

static int32_t parse_file(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct gguf_init_params params = { .no_alloc = true, .ctx = &model->tensors };
	const char *why;

	if (model->file_size < 4 || memcmp(model->file, GGUF_MAGIC, 4))
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: not a GGUF file: it does not begin with \"GGUF\"", engine->model);
	gg_log_begin(engine);
	model->gguf = gguf_init_from_file(engine->model, params);
	why = gg_log_end();
	if (!model->gguf)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: a truncated or damaged GGUF file (%s)",
			       engine->model, *why ? why : "its header cannot be read");
	model->extra = ggml_init((struct ggml_init_params){
		.mem_size = ((size_t)gguf_get_n_tensors(model->gguf) + 4) * ggml_tensor_overhead(),
		.no_alloc = true });
	/* Output matrix and RoPE factors may be there twice. */
	model->buffers = calloc((size_t)gguf_get_n_tensors(model->gguf) + 2, sizeof(*model->buffers));
	if (!model->extra || !model->buffers)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	return KVMOD_OK;
}

/* --- where a weight goes ----------------------------------------------------------------- */

/* Can that device use weights of this type and shape, in such a buffer, for that? */
static bool is_supported(ggml_backend_dev_t device, struct ggml_tensor *weight, enum use use,
			 ggml_backend_buffer_type_t type)
{
	struct ggml_init_params params = { .mem_size = 4 * ggml_tensor_overhead(), .no_alloc = true };
	ggml_backend_buffer_t buffer = weight->buffer;
	struct ggml_context *context;
	struct ggml_tensor *op;
	bool yes = false;

	/* Lookups are not left to ggml: a row is turned into floats. */
	if (use == USE_LOOKUP)
		return weight->type == GGML_TYPE_F32 || ggml_get_type_traits(weight->type)->to_float;
	if (use == USE_VECTOR)
		return true;
	context = ggml_init(params);
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

/* The layout of its own in which the backend wants this matrix; NULL: none. */
static ggml_backend_buffer_type_t extra_type(const struct gg_engine *engine, struct ggml_tensor *weight)
{
	ggml_backend_dev_t device = engine->backend.device;
	ggml_backend_dev_get_extra_bufts_t get =
		ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device),
						  "ggml_backend_dev_get_extra_bufts");
	ggml_backend_buffer_type_t *types = get ? get(device) : NULL;

	for (; types && *types; types++) {
		if (is_supported(device, weight, USE_MATRIX, *types))
			return *types;
	}
	return NULL;
}

/* Memory of that type for a weight, which the model then owns. */
static int32_t buffer_for(struct gg_engine *engine, const struct ggml_tensor *weight,
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

static int32_t put_at(struct gg_engine *engine, struct ggml_tensor *weight,
		      ggml_backend_buffer_t buffer, size_t offset)
{
	char *base = ggml_backend_buffer_get_base(buffer);

	if (ggml_backend_tensor_alloc(buffer, weight, base + offset) != GGML_STATUS_SUCCESS)
		return gg_fail(engine, KVMOD_EDEVICE, "ggml refuses weight %s", weight->name);
	return KVMOD_OK;
}

/* To memory of its own, unless it has its place. */
static int32_t copy_to(struct gg_engine *engine, struct ggml_tensor *weight,
		       ggml_backend_buffer_type_t type, const void *data)
{
	ggml_backend_buffer_t buffer;
	int32_t code = KVMOD_OK;

	if (!weight->buffer) {
		code = buffer_for(engine, weight, type, &buffer);
		if (!code)
			code = put_at(engine, weight, buffer, 0);
	}
	if (!code)
		ggml_backend_tensor_set(weight, data, 0, ggml_nbytes(weight));
	return code;
}

static int32_t refuse_type(struct gg_engine *engine, const struct ggml_tensor *weight, const char *where)
{
	return gg_fail(engine, KVMOD_ENOTSUP, "%s: ggml cannot compute with %s, which is %s%s",
		       engine->model, weight->name, ggml_type_name(weight->type), where);
}

static int32_t leave_in_file(struct gg_engine *engine, struct ggml_tensor *weight, const void *data)
{
	if (ggml_backend_tensor_alloc(engine->net.file_buffer, weight, (void *)(uintptr_t)data) !=
	    GGML_STATUS_SUCCESS)
		return gg_fail(engine, KVMOD_EDEVICE, "ggml refuses weight %s", weight->name);
	return KVMOD_OK;
}

static int32_t place_on_gpu(struct gg_engine *engine, struct ggml_tensor *weight, enum use use,
			    const void *data)
{
	ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(engine->gpu.device);

	if (!is_supported(engine->gpu.device, weight, use, type))
		return refuse_type(engine, weight, ", on the GPU: set a smaller gpu_layers");
	if (engine->check_only)
		return leave_in_file(engine, weight, data);
	return copy_to(engine, weight, type, data);
}

static int32_t place(struct gg_engine *engine, struct ggml_tensor *weight, enum use use,
		     enum gg_side side, const void *data)
{
	ggml_backend_buffer_type_t extra = NULL;

	if (side == GG_GPU)
		return place_on_gpu(engine, weight, use, data);
	if (!is_supported(engine->backend.device, weight, use, ggml_backend_cpu_buffer_type()))
		return refuse_type(engine, weight, "");
	if (use == USE_MATRIX && !engine->check_only)
		extra = extra_type(engine, weight);
	return extra ? copy_to(engine, weight, extra, data) : leave_in_file(engine, weight, data);
}

/* --- finding and checking weights ------------------------------------------------------------ */

/* The bytes of a tensor in the file; NULL, and a message, if they are not all there. */
static const void *find_data(struct gg_engine *engine, const struct ggml_tensor *tensor)
{
	struct gg_model *model = &engine->net;
	int64_t id = gguf_find_tensor(model->gguf, tensor->name);
	size_t begin = gguf_get_data_offset(model->gguf), offset, size = ggml_nbytes(tensor);

	offset = gguf_get_tensor_offset(model->gguf, id);
	if (begin > model->file_size || offset > model->file_size - begin ||
	    size > model->file_size - begin - offset) {
		gg_fail(engine, KVMOD_EFORMAT,
			"%s: truncated: %s needs %zu bytes at %zu, the file has %zu", engine->model,
			tensor->name, size, begin + offset, model->file_size);
		return NULL;
	}
	return model->file + begin + offset;
}

static bool has_shape(const struct gg_model *model, const struct ggml_tensor *tensor, enum gg_dim columns,
		      enum gg_dim rows)
{
	return tensor->ne[0] == model->dims[columns] && tensor->ne[1] == model->dims[rows] &&
	       tensor->ne[2] == 1 && tensor->ne[3] == 1;
}

/* Takes a weight of that shape from the file. *out is NULL if it is not there. */
static int32_t take(struct gg_engine *engine, const char *name, enum gg_dim columns,
		    enum gg_dim rows, enum use use, enum gg_side side, struct ggml_tensor **out)
{
	struct gg_model *model = &engine->net;
	struct ggml_tensor *tensor = ggml_get_tensor(model->tensors, name);
	const void *data;

	*out = NULL;
	if (!tensor)
		return KVMOD_OK;
	if (!has_shape(model, tensor, columns, rows))
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: %s is %lld x %lld x %lld x %lld, expected %lld x %lld",
			       engine->model, name, (long long)tensor->ne[0],
			       (long long)tensor->ne[1], (long long)tensor->ne[2],
			       (long long)tensor->ne[3], (long long)model->dims[columns],
			       (long long)model->dims[rows]);
	if (use == USE_VECTOR && tensor->type != GGML_TYPE_F32)
		return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s is %s, expected f32", engine->model,
			       name, ggml_type_name(tensor->type));
	data = find_data(engine, tensor);
	if (!data)
		return KVMOD_EFORMAT;
	*out = tensor;
	return place(engine, tensor, use, side, data);
}

static int32_t need(struct gg_engine *engine, const char *name, enum gg_dim columns,
		    enum gg_dim rows, enum use use, enum gg_side side, struct ggml_tensor **out)
{
	int32_t code = take(engine, name, columns, rows, use, side, out);

	if (!code && !*out)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: weight %s is missing", engine->model, name);
	return code;
}

/* As the file calls it. */
static void name_weight(char name[GGML_MAX_NAME], uint32_t layer, unsigned weight)
{
	snprintf(name, GGML_MAX_NAME, "blk.%u.%s", layer, gg_weight_infos[weight].name);
}

/* --- Q, K and V as one --------------------------------------------------------------------------- */

static struct ggml_tensor *find_weight(struct gg_engine *engine, uint32_t layer, unsigned weight)
{
	char name[GGML_MAX_NAME];

	name_weight(name, layer, weight);
	return ggml_get_tensor(engine->net.tensors, name);
}

/*
 * Can three weights from `first` on be one tensor, each beginning where the one before
 * ends? What is wrong with them is said when they are taken.
 */
static bool go_together(const struct gg_engine *engine, unsigned first, struct ggml_tensor *const parts[3],
			ggml_backend_buffer_type_t type)
{
	const struct gg_family *family = engine->net.family;

	for (unsigned i = 0; i < 3; i++) {
		const struct gg_weight_info *info = &gg_weight_infos[first + i];
		size_t bytes;

		if (!parts[i] || !((family->required | family->optional) & (1u << (first + i))) ||
		    !has_shape(&engine->net, parts[i], info->columns, info->rows) ||
		    parts[i]->type != parts[0]->type)
			return false;
		bytes = ggml_nbytes(parts[i]);
		if (bytes % ggml_backend_buft_get_alignment(type) ||
		    ggml_backend_buft_get_alloc_size(type, parts[i]) != bytes)
			return false;
	}
	return true;
}

/*
 * Three weights from `first` on get their places side by side, and *all is the three
 * of them: a GPU multiplies them for a single token in one go, where K and V alone are
 * too small to be read at full speed. What is in them comes later, as for any weight.
 */
static int32_t place_together(struct gg_engine *engine, uint32_t layer, unsigned first,
			      struct ggml_tensor **all)
{
	ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(engine->gpu.device);
	int dim = gg_weight_infos[first].rows == GG_ONE ? 0 : 1;
	int64_t ne[2] = { 1, 1 };
	struct ggml_tensor *parts[3], *sum;
	ggml_backend_buffer_t buffer;
	size_t offset = 0;
	int32_t code;

	for (unsigned i = 0; i < 3; i++)
		parts[i] = find_weight(engine, layer, first + i);
	if (!go_together(engine, first, parts, type))
		return KVMOD_OK;
	ne[0] = parts[0]->ne[0];
	ne[dim] = parts[0]->ne[dim] + parts[1]->ne[dim] + parts[2]->ne[dim];
	sum = ggml_new_tensor_2d(engine->net.extra, parts[0]->type, ne[0], ne[1]);
	ggml_set_name(sum, parts[0]->name);
	code = buffer_for(engine, sum, type, &buffer);
	if (!code)
		code = put_at(engine, sum, buffer, 0);
	for (int i = 0; !code && i < 3; offset += ggml_nbytes(parts[i++]))
		code = put_at(engine, parts[i], buffer, offset);
	if (!code)
		*all = sum;
	return code;
}

static int32_t take_layer(struct gg_engine *engine, uint32_t index)
{
	struct gg_model *model = &engine->net;
	const struct gg_family *family = model->family;
	enum gg_side side = gg_side_of(engine, index);
	struct gg_layer *layer = &model->layers[index];
	int32_t code = KVMOD_OK;

	if (side == GG_GPU && !engine->check_only &&
	    ((code = place_together(engine, index, GG_Q, &layer->qkv)) ||
			       (code = place_together(engine, index, GG_Q_BIAS, &layer->qkv_bias))))
		return code;
	for (unsigned w = 0; w < GG_N_WEIGHTS; w++) {
		const struct gg_weight_info *info = &gg_weight_infos[w];
		enum use use = info->rows == GG_ONE ? USE_VECTOR : USE_MATRIX;
		struct ggml_tensor **out = &layer->w[w];
		char name[GGML_MAX_NAME];

		name_weight(name, index, w);
		if (family->required & (1u << w))
			code = need(engine, name, info->columns, info->rows, use, side, out);
		else if (family->optional & (1u << w))
			code = take(engine, name, info->columns, info->rows, use, side, out);
		if (code)
			return code;
	}
	return KVMOD_OK;
}

/* A second one of a weight that lies in the mapped file. */
static int32_t duplicate(struct gg_engine *engine, struct ggml_tensor *weight, enum use use,
			 enum gg_side side, struct ggml_tensor **out)
{
	*out = ggml_dup_tensor(engine->net.extra, weight);
	ggml_set_name(*out, weight->name);
	return place(engine, *out, use, side, weight->data);
}

/* Small models use one matrix for the input and the output. */
static int32_t take_output(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int32_t code = take(engine, "output.weight", GG_WIDTH, GG_VOCAB, USE_MATRIX,
			    gg_output_side(engine), &model->out);

	if (code || model->out)
		return code;
	return duplicate(engine, model->embed, USE_MATRIX, gg_output_side(engine), &model->out);
}

static int32_t take_rope_factors(struct gg_engine *engine)
{
	struct ggml_tensor **factors = engine->net.rope_factors;
	int32_t code;

	if (!engine->net.family->rope_factors)
		return KVMOD_OK;
	code = take(engine, "rope_freqs.weight", GG_HALF_ROT, GG_ONE, USE_VECTOR, GG_HOST,
		    &factors[GG_HOST]);
	if (code || !factors[GG_HOST] || !engine->gpu.n_layers)
		return code;
	return duplicate(engine, factors[GG_HOST], USE_VECTOR, GG_GPU, &factors[GG_GPU]);
}

/* A weight that nothing takes would be left out of the sum, silently. */
static int32_t refuse_leftovers(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct ggml_tensor *tensor = ggml_get_first_tensor(model->tensors);

	for (; tensor; tensor = ggml_get_next_tensor(model->tensors, tensor)) {
		if (!tensor->buffer)
			return gg_fail(engine, KVMOD_ENOTSUP,
				       "%s: weight %s is no part of the %s family as this engine knows it",
				       engine->model, tensor->name, model->family->architecture);
	}
	return KVMOD_OK;
}

int32_t gg_model_load(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct ggml_tensor *embed = ggml_get_tensor(model->tensors, "token_embd.weight");
	int32_t code;

	if (!embed)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: weight token_embd.weight is missing",
			       engine->model);
	if (embed->ne[1] > INT32_MAX)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: a vocabulary of %lld tokens",
			       engine->model, (long long)embed->ne[1]);
	model->dims[GG_VOCAB] = embed->ne[1];
	if ((code = need(engine, "token_embd.weight", GG_WIDTH, GG_VOCAB, USE_LOOKUP, GG_HOST,
			 &model->embed)) ||
	    (code = need(engine, "output_norm.weight", GG_WIDTH, GG_ONE, USE_VECTOR,
			 gg_output_side(engine), &model->out_norm)) ||
	    (code = take_output(engine)) || (code = take_rope_factors(engine)))
		return code;
	for (uint32_t i = 0; i < model->n_layers; i++) {
		code = take_layer(engine, i);
		if (code)
			return code;
	}
	return refuse_leftovers(engine);
}

int32_t gg_model_read(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int32_t code;

	if ((code = map_file(engine)) || (code = parse_file(engine)) ||
	    (code = gg_model_read_header(engine)))
		return code;
	model->layers = calloc(model->n_layers, sizeof(*model->layers));
	if (!model->layers)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	return KVMOD_OK;
}

void gg_model_close(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;

	for (size_t i = 0; i < model->n_buffers; i++)
		ggml_backend_buffer_free(model->buffers[i]);
	if (model->file_buffer)
		ggml_backend_buffer_free(model->file_buffer);
	if (model->file)
		munmap((void *)(uintptr_t)model->file, model->file_size);
	if (model->extra)
		ggml_free(model->extra);
	if (model->tensors)
		ggml_free(model->tensors);
	if (model->gguf)
		gguf_free(model->gguf);
	free(model->buffers);
	free(model->layers);
	free(model->name);
	memset(model, 0, sizeof(*model));
}
