/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of a GGUF file: sizes and constants. Nothing that it says is
 * believed before it has been checked: ggml's answer to a bad size is abort().
 */
#include "engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_LAYERS 1024
#define MAX_HEADS 1024
#define MAX_HEAD_DIM 1024
#define MAX_WIDTH (1 << 20)

static int64_t find_key(const struct gg_model *model, const char *key)
{
	char name[128];

	snprintf(name, sizeof(name), "%s.%s", model->family->architecture, key);
	return gguf_find_key(model->gguf, name);
}

/* Values of the architecture's own keys ("llama.block_count"); false: absent. */
static bool meta_u32(const struct gg_model *model, const char *key, uint32_t *value)
{
	int64_t id = find_key(model, key);
	int64_t wide;

	if (id < 0)
		return false;
	switch (gguf_get_kv_type(model->gguf, id)) {
	case GGUF_TYPE_UINT32:
		wide = gguf_get_val_u32(model->gguf, id);
		break;
	case GGUF_TYPE_INT32:
		wide = gguf_get_val_i32(model->gguf, id);
		break;
	case GGUF_TYPE_UINT64:
		wide = (int64_t)gguf_get_val_u64(model->gguf, id);
		break;
	case GGUF_TYPE_UINT16:
		wide = gguf_get_val_u16(model->gguf, id);
		break;
	default:
		return false;
	}
	if (wide < 0 || wide > UINT32_MAX)
		return false;
	*value = (uint32_t)wide;
	return true;
}

static bool meta_f32(const struct gg_model *model, const char *key, float *value)
{
	int64_t id = find_key(model, key);

	if (id < 0)
		return false;
	switch (gguf_get_kv_type(model->gguf, id)) {
	case GGUF_TYPE_FLOAT32:
		*value = gguf_get_val_f32(model->gguf, id);
		break;
	case GGUF_TYPE_FLOAT64:
		*value = (float)gguf_get_val_f64(model->gguf, id);
		break;
	default:
		return false;
	}
	return isfinite(*value);
}

static bool meta_bool(const struct gg_model *model, const char *key, bool *value)
{
	int64_t id = find_key(model, key);

	if (id < 0 || gguf_get_kv_type(model->gguf, id) != GGUF_TYPE_BOOL)
		return false;
	*value = gguf_get_val_bool(model->gguf, id);
	return true;
}

static const char *string_at(const struct gg_model *model, int64_t id)
{
	if (id < 0 || gguf_get_kv_type(model->gguf, id) != GGUF_TYPE_STRING)
		return NULL;
	return gguf_get_val_str(model->gguf, id);
}

static const char *meta_string(const struct gg_model *model, const char *key)
{
	return string_at(model, find_key(model, key));
}

static int32_t find_family(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const char *name = string_at(model, gguf_find_key(model->gguf, "general.architecture"));
	char known[128];

	if (!name)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: no general.architecture in its header",
			       engine->model);
	model->family = gg_family_find(name);
	if (!model->family)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: architecture \"%s\" is not supported; supported are %s",
			       engine->model, name, gg_family_names(known, sizeof(known)));
	return KVMOD_OK;
}

/* What a header may say that the graph would pass over. */
static int32_t refuse_constants(struct gg_engine *engine)
{
	static const char *const keys[] = {
		"attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
		"residual_scale", "embedding_scale", "attention.clamp_kqv",
		"attention.max_alibi_bias",
	};
	struct gg_model *model = &engine->net;
	bool causal;

	if (meta_bool(model, "attention.causal", &causal) && !causal)
		return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s.attention.causal = false is not supported",
			       engine->model, model->family->architecture);
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		float value = 0;

		if (meta_f32(model, keys[i], &value) && value != 0 && value != 1)
			return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s.%s = %g is not supported",
				       engine->model, model->family->architecture, keys[i],
				       (double)value);
	}
	return KVMOD_OK;
}

/* Within the window, attention is what this engine computes. RoPE goes by the trained context. */
static void limit_to_window(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	uint32_t window = 0;

	if (!meta_u32(model, "attention.sliding_window", &window) || !window ||
	    window >= model->context)
		return;
	gg_log(engine, KVMOD_NOTE, "%s: the context is its sliding window of %u tokens, not %llu",
	       engine->model, window, (unsigned long long)model->context);
	model->context = window;
}

/* Parts of a family that this engine does not build. */
static int32_t refuse_variants(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	int64_t split = gguf_find_key(model->gguf, "split.count");
	uint32_t n;

	if (meta_u32(model, "expert_count", &n) && n)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: a mixture of %u experts; only dense models are supported",
			       engine->model, n);
	if (split >= 0 && gguf_get_kv_type(model->gguf, split) == GGUF_TYPE_UINT16 &&
	    gguf_get_val_u16(model->gguf, split) > 1)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: one of several files; join them with llama-gguf-split --merge",
			       engine->model);
	return refuse_constants(engine);
}

/* A size that must be there and within bounds. */
static int32_t read_size(struct gg_engine *engine, const char *key, uint32_t max, uint32_t *value)
{
	struct gg_model *model = &engine->net;

	if (!meta_u32(model, key, value))
		return gg_fail(engine, KVMOD_EFORMAT, "%s: its header has no number %s.%s",
			       engine->model, model->family->architecture, key);
	if (!*value || *value > max)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: %s.%s is %u, expected 1 to %u",
			       engine->model, model->family->architecture, key, *value, max);
	return KVMOD_OK;
}

static int32_t read_sizes(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	uint32_t context, width, ffn, v_length;
	int32_t code;

	if ((code = read_size(engine, "block_count", MAX_LAYERS, &model->n_layers)) ||
	    (code = read_size(engine, "embedding_length", MAX_WIDTH, &width)) ||
	    (code = read_size(engine, "feed_forward_length", MAX_WIDTH * 8, &ffn)) ||
	    (code = read_size(engine, "attention.head_count", MAX_HEADS, &model->n_q_heads)) ||
	    (code = read_size(engine, "context_length", INT32_MAX, &context)))
		return code;
	model->n_kv_heads = model->n_q_heads;
	meta_u32(model, "attention.head_count_kv", &model->n_kv_heads);
	model->head_dim = width / model->n_q_heads;
	meta_u32(model, "attention.key_length", &model->head_dim);
	v_length = model->head_dim;
	meta_u32(model, "attention.value_length", &v_length);
	if (!model->n_kv_heads || model->n_q_heads % model->n_kv_heads)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: %u query heads cannot share %u KV heads",
			       engine->model, model->n_q_heads, model->n_kv_heads);
	if (!model->head_dim || model->head_dim % 2 || model->head_dim > MAX_HEAD_DIM)
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: a head dimension of %u, expected an even number up to %u",
			       engine->model, model->head_dim, MAX_HEAD_DIM);
	if (v_length != model->head_dim)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: keys of %u and values of %u dimensions; they must be equal",
			       engine->model, model->head_dim, v_length);
	model->context = context;
	model->dims[GG_ONE] = 1;
	model->dims[GG_WIDTH] = width;
	model->dims[GG_FFN] = ffn;
	model->dims[GG_HEAD] = model->head_dim;
	model->dims[GG_Q_ROWS] = (int64_t)model->head_dim * model->n_q_heads;
	model->dims[GG_KV_ROWS] = (int64_t)model->head_dim * model->n_kv_heads;
	return KVMOD_OK;
}

static int32_t read_rope_scaling(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct gg_rope *rope = &model->rope;
	const char *type = meta_string(model, "rope.scaling.type");
	float factor = 0, log_multiplier = 0;
	uint32_t n_context;

	if (!meta_f32(model, "rope.scaling.factor", &factor))
		meta_f32(model, "rope.scale_linear", &factor);
	meta_f32(model, "rope.scaling.attn_factor", &rope->attn_factor);
	meta_f32(model, "rope.scaling.yarn_log_multiplier", &log_multiplier);
	if (meta_u32(model, "rope.scaling.original_context_length", &n_context) && n_context <= INT32_MAX)
		rope->n_context = (int)n_context;
	if (factor < 0 || log_multiplier != 0)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: RoPE scaling by %g with a log multiplier of %g is not supported",
			       engine->model, (double)factor, (double)log_multiplier);
	if (type && !strcmp(type, "none"))
		return KVMOD_OK;
	if (factor > 0)
		rope->scale = 1.0f / factor;
	if (!type || !strcmp(type, "linear"))
		return KVMOD_OK;
	if (strcmp(type, "yarn"))
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: RoPE scaling \"%s\" is not supported; supported are none, linear, yarn",
			       engine->model, type);
	rope->ext_factor = 1.0f;
	return KVMOD_OK;
}

static int32_t read_constants(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct gg_rope *rope = &model->rope;
	uint32_t n_rot = model->head_dim;

	model->eps = 1e-5f;
	meta_f32(model, "attention.layer_norm_rms_epsilon", &model->eps);
	model->scale = 0;
	meta_f32(model, "attention.scale", &model->scale);
	if (model->scale == 0)
		model->scale = 1.0f / sqrtf((float)model->head_dim);
	meta_u32(model, "rope.dimension_count", &n_rot);
	*rope = (struct gg_rope){
		.type = model->family->rope_type,
		.n_dims = (int)n_rot,
		.n_context = (int)model->context,
		.base = 10000,
		.scale = 1,
		.attn_factor = 1,
		.beta_fast = 32,
		.beta_slow = 1,
	};
	meta_f32(model, "rope.freq_base", &rope->base);
	if (!n_rot || n_rot > model->head_dim || n_rot % 2 || rope->base <= 0 || model->eps < 0)
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: RoPE over %u of %u dimensions with base %g, epsilon %g: out of range",
			       engine->model, n_rot, model->head_dim, (double)rope->base,
			       (double)model->eps);
	model->dims[GG_HALF_ROT] = n_rot / 2;
	return read_rope_scaling(engine);
}

/* "general.name", or the file's own name. */
static int32_t read_name(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const char *name = string_at(model, gguf_find_key(model->gguf, "general.name"));
	const char *slash = strrchr(engine->model, '/');

	if (!name || !*name)
		name = slash ? slash + 1 : engine->model;
	model->name = strdup(name);
	if (!model->name)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model's name");
	gg_mend_text(model->name);
	return KVMOD_OK;
}

int32_t gg_model_read_header(struct gg_engine *engine)
{
	int32_t code;

	if ((code = find_family(engine)) || (code = refuse_variants(engine)) ||
	    (code = read_sizes(engine)) || (code = read_constants(engine)))
		return code;
	limit_to_window(engine);
	return read_name(engine);
}
