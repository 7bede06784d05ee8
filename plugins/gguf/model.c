/* SPDX-License-Identifier: Apache-2.0 */
/* Opens a model: checks that the file's weights are those of the family, and loads them. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* --- the file ------------------------------------------------------------------------ */

/* Makes the file's tensors, without memory yet. */
static int32_t new_tensors(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const struct gg_file *file = &model->file;
	size_t n = (size_t)file->n_tensors;

	model->tensors = ggml_init((struct ggml_init_params){
		.mem_size = (n + 1) * ggml_tensor_overhead(), .no_alloc = true });
	model->extra = ggml_init((struct ggml_init_params){
		.mem_size = (n + 4) * ggml_tensor_overhead(), .no_alloc = true });
	/* The output matrix and the RoPE factors may need second memory. */
	model->buffers = calloc(n + 2, sizeof(*model->buffers));
	if (!model->tensors || !model->extra || !model->buffers)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	for (size_t i = 0; i < n; i++) {
		const struct gg_tensor_info *info = &file->tensors[i];
		struct ggml_tensor *tensor = ggml_new_tensor(model->tensors, info->type,
							     info->n_dims, info->ne);

		snprintf(tensor->name, sizeof(tensor->name), "%.*s", (int)info->name.n, info->name.at);
	}
	return KVMOD_OK;
}

/* --- finding and checking weights ------------------------------------------------------------ */

static bool has_shape(const struct gg_model *model, const struct ggml_tensor *tensor, enum gg_dim columns,
		      enum gg_dim rows)
{
	return tensor->ne[0] == model->dims[columns] && tensor->ne[1] == model->dims[rows] &&
	       tensor->ne[2] == 1 && tensor->ne[3] == 1;
}

/* Uses a weight of that shape. *out is NULL if the file does not have it. */
static int32_t take(struct gg_engine *engine, const char *name, enum gg_dim columns,
		    enum gg_dim rows, enum gg_use use, enum gg_side side, struct ggml_tensor **out)
{
	struct gg_model *model = &engine->net;
	struct ggml_tensor *tensor = ggml_get_tensor(model->tensors, name);
	struct gg_tensor_info *info;
	int32_t code;

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
	code = gg_weight_check(engine, tensor, use);
	if (code)
		return code;
	info = gg_file_tensor(&model->file, name);
	info->taken = true;
	*out = tensor;
	return model->dry ? KVMOD_OK : gg_weight_place(engine, tensor, use, side, info, NULL);
}

static int32_t need(struct gg_engine *engine, const char *name, enum gg_dim columns,
		    enum gg_dim rows, enum gg_use use, enum gg_side side, struct ggml_tensor **out)
{
	int32_t code = take(engine, name, columns, rows, use, side, out);

	if (!code && !*out)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: weight %s is missing", engine->model, name);
	return code;
}

/* The weight's name in the file. */
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
 * Can the three weights from `first` on be one tensor, each beginning where the one before
 * ends? Wrong weights are refused later, when each is taken.
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
 * Places the three weights from `first` on side by side, with *all over the three: a GPU
 * multiplies all for a single token at once, where K and V alone are too small to be read at
 * full speed. Their contents are read later, as those of any weight.
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
	code = gg_weight_buffer(engine, sum, type, &buffer);
	if (!code)
		code = gg_weight_put(engine, sum, buffer, 0);
	for (int i = 0; !code && i < 3; offset += ggml_nbytes(parts[i++]))
		code = gg_weight_put(engine, parts[i], buffer, offset);
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
		enum gg_use use = info->rows == GG_ONE ? GG_VECTOR : GG_MATRIX;
		struct ggml_tensor **out = &layer->w[w];
		char name[GGML_MAX_NAME];

		name_weight(name, index, w);
		if (family->required & (1u << w))
			code = need(engine, name, info->columns, info->rows, use, side, out);
		else if (family->optional & (1u << w))
			code = take(engine, name, info->columns, info->rows, use, side, out);
		if (code)
			return code;
		if (w == GG_ATTN_OUT)
			layer->attn_out_offset = gg_file_tensor(&model->file, name)->offset;
	}
	return KVMOD_OK;
}

/* Makes a second tensor of a weight, for another use or another side. */
static int32_t duplicate(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use,
			 enum gg_side side, struct ggml_tensor **out)
{
	if (engine->net.dry)
		return KVMOD_OK;
	*out = ggml_dup_tensor(engine->net.extra, weight);
	ggml_set_name(*out, weight->name);
	return gg_weight_place(engine, *out, use, side, gg_file_tensor(&engine->net.file, weight->name),
			       weight);
}

/* Small models use one matrix for the input and the output. */
static int32_t take_output(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int32_t code = take(engine, "output.weight", GG_WIDTH, GG_VOCAB, GG_MATRIX,
			    gg_output_side(engine), &model->out);

	if (code || model->out)
		return code;
	return duplicate(engine, model->embed, GG_MATRIX, gg_output_side(engine), &model->out);
}

static int32_t take_rope_factors(struct gg_engine *engine)
{
	struct ggml_tensor **factors = engine->net.rope_factors;
	int32_t code;

	if (!engine->net.family->rope_factors)
		return KVMOD_OK;
	code = take(engine, "rope_freqs.weight", GG_HALF_ROT, GG_ONE, GG_VECTOR, GG_HOST,
		    &factors[GG_HOST]);
	if (code || !factors[GG_HOST] || !engine->gpu.n_layers)
		return code;
	return duplicate(engine, factors[GG_HOST], GG_VECTOR, GG_GPU, &factors[GG_GPU]);
}

/* A weight that nothing uses would silently be missing from the computation. */
static int32_t refuse_leftovers(struct gg_engine *engine)
{
	const struct gg_file *file = &engine->net.file;
	char shown[GG_SHOWN];

	for (uint64_t i = 0; i < file->n_tensors; i++) {
		if (!file->tensors[i].taken)
			return gg_fail(engine, KVMOD_ENOTSUP,
				       "%s: weight %s is not supported in the %s family",
				       engine->model, gg_show(file->tensors[i].name, shown),
				       engine->net.family->architecture);
	}
	return KVMOD_OK;
}

static int32_t take_all(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int32_t code;

	if ((code = need(engine, "token_embd.weight", GG_WIDTH, GG_VOCAB, GG_LOOKUP, GG_HOST,
			 &model->embed)) ||
	    (code = need(engine, "output_norm.weight", GG_WIDTH, GG_ONE, GG_VECTOR,
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

int32_t gg_model_check(struct gg_engine *engine)
{
	int32_t code;

	engine->net.dry = true;
	code = take_all(engine);
	engine->net.dry = false;
	return code;
}

int32_t gg_model_load(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int32_t code;

	if (((engine->mmap || engine->check_only) && (code = gg_weights_map(engine))) || (code = take_all(engine)))
		return code;
	free(model->staging.bytes);
	model->staging = (struct gg_staging){ 0 };
	code = gg_rope_read(engine);
	return code ? code : gg_file_check(engine);
}

/* The vocabulary has as many tokens as the matrix of embeddings has rows. */
static int32_t read_vocabulary_size(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const struct gg_tensor_info *embed = gg_file_tensor(&model->file, "token_embd.weight");

	if (!embed)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: weight token_embd.weight is missing",
			       engine->model);
	if (embed->ne[1] > INT32_MAX)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: the vocabulary has %lld tokens, expected at most %d",
			       engine->model, (long long)embed->ne[1], INT32_MAX);
	model->dims[GG_VOCAB] = embed->ne[1];
	return KVMOD_OK;
}

int32_t gg_model_read(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int32_t code;

	if ((code = gg_file_open(engine)) || (code = gg_model_read_header(engine)) ||
	    (code = read_vocabulary_size(engine)) || (code = gg_vocab_check(engine)) ||
	    (code = new_tensors(engine)))
		return code;
	model->layers = calloc(model->n_layers, sizeof(*model->layers));
	if (!model->layers)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	return KVMOD_OK;
}

void gg_model_close(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;

	gg_weights_free(model);
	if (model->extra)
		ggml_free(model->extra);
	if (model->tensors)
		ggml_free(model->tensors);
	free(model->layers);
	free(model->rope_freqs);
	free(model->name);
	gg_file_close(&model->file);
	memset(model, 0, sizeof(*model));
}
