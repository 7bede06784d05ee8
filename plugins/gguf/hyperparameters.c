/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a model's hyperparameters from the header: sizes and constants. A key that libllama
 * applies to these families is either used or refused by name, and never ignored.
 */
#include "engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_LAYERS 512		/* libllama's too */
#define MAX_HEADS 1024
#define MAX_HEAD_DIM 1024
#define MAX_WIDTH (1 << 20)

/* --- keys of the architecture ("llama.block_count") -------------------------------------- */

static const struct gg_pair *find_key(const struct gg_model *model, const char *key)
{
	char name[128];

	snprintf(name, sizeof(name), "%s.%s", model->family->architecture, key);
	return gg_file_find(&model->file, name);
}

int32_t gg_refuse_kind(struct gg_engine *engine, const struct gg_pair *pair, const char *expected)
{
	char kind[GG_KIND], shown[GG_SHOWN];

	return gg_fail(engine, KVMOD_EFORMAT, "%s: %s is %s, expected %s", engine->model,
		       gg_show(pair->key, shown), gg_pair_kind(pair, kind), expected);
}

/* Element i as a number; false: it is not an integer, or not from 0 to UINT32_MAX. */
static bool integer_at(const struct gg_pair *pair, uint64_t i, uint32_t *value)
{
	union {
		uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32;
		uint64_t u64; int64_t i64;
	} raw;
	int64_t wide;

#define READ(type, member) \
	case GGUF_TYPE_##type: \
		memcpy(&raw, pair->values + i * sizeof(raw.member), sizeof(raw.member)); \
		wide = (int64_t)raw.member; \
		break
	switch (pair->type) {
	READ(UINT8, u8);
	READ(INT8, i8);
	READ(UINT16, u16);
	READ(INT16, i16);
	READ(UINT32, u32);
	READ(INT32, i32);
	READ(UINT64, u64);
	READ(INT64, i64);
	default:
		return false;
	}
#undef READ
	*value = (uint32_t)wide;
	return wide >= 0 && wide <= UINT32_MAX;
}

/* These readers leave *value as it is where the key is absent. */
static int32_t read_u32(struct gg_engine *engine, const char *key, uint32_t *value)
{
	const struct gg_pair *pair = find_key(&engine->net, key);

	if (!pair || (!pair->is_array && integer_at(pair, 0, value)))
		return KVMOD_OK;
	return gg_refuse_kind(engine, pair, "a number from 0 to 4294967295");
}

/* The same, or an array with one number for each layer, all of them equal. */
static int32_t read_u32_of_layers(struct gg_engine *engine, const char *key, uint32_t *value)
{
	const struct gg_pair *pair = find_key(&engine->net, key);
	uint32_t other;

	if (!pair || !pair->is_array)
		return read_u32(engine, key, value);
	if (pair->n != engine->net.n_layers)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: %s.%s has %llu elements for %u layers",
			       engine->model, engine->net.family->architecture, key,
			       (unsigned long long)pair->n, engine->net.n_layers);
	for (uint64_t i = 0; i < pair->n; i++) {
		if (!integer_at(pair, i, i ? &other : value))
			return gg_refuse_kind(engine, pair, "numbers from 0 to 4294967295");
		if (i && other != *value)
			return gg_fail(engine, KVMOD_ENOTSUP,
				       "%s: %s.%s is %u in layer 0 and %u in layer %llu: only models whose layers are equal are supported",
				       engine->model, engine->net.family->architecture, key, *value,
				       other, (unsigned long long)i);
	}
	return KVMOD_OK;
}

static int32_t read_f32(struct gg_engine *engine, const char *key, float *value)
{
	const struct gg_pair *pair = find_key(&engine->net, key);
	double wide;

	if (!pair)
		return KVMOD_OK;
	if (pair->is_array || (pair->type != GGUF_TYPE_FLOAT32 && pair->type != GGUF_TYPE_FLOAT64))
		return gg_refuse_kind(engine, pair, "f32");
	if (pair->type == GGUF_TYPE_FLOAT32) {
		memcpy(value, pair->values, sizeof(*value));
		return KVMOD_OK;
	}
	memcpy(&wide, pair->values, sizeof(wide));
	*value = (float)wide;
	if (isfinite(*value))
		return KVMOD_OK;
	return gg_fail(engine, KVMOD_EFORMAT, "%s: %s.%s is %g, expected a number in the range of f32",
		       engine->model, engine->net.family->architecture, key, wide);
}

static int32_t read_bool(struct gg_engine *engine, const char *key, bool *value)
{
	const struct gg_pair *pair = find_key(&engine->net, key);

	if (!pair)
		return KVMOD_OK;
	if (pair->is_array || pair->type != GGUF_TYPE_BOOL)
		return gg_refuse_kind(engine, pair, "bool");
	*value = *pair->values;
	return KVMOD_OK;
}

static int32_t read_text(struct gg_engine *engine, const struct gg_pair *pair, struct gg_text_at *value)
{
	const char *at;

	if (!pair)
		return KVMOD_OK;
	if (pair->is_array || pair->type != GGUF_TYPE_STRING)
		return gg_refuse_kind(engine, pair, "str");
	at = pair->values;
	*value = gg_pair_next_text(&at);
	return KVMOD_OK;
}

/* --- unsupported variants ------------------------------------------------------------------- */

static int32_t find_family(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct gg_text_at name = { "", 0 };
	char known[128], shown[GG_SHOWN];
	int32_t code = read_text(engine, gg_file_find(&model->file, "general.architecture"), &name);

	if (code)
		return code;
	if (!name.n)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: no general.architecture in the header",
			       engine->model);
	model->family = gg_family_find(gg_show(name, shown));
	if (!model->family)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: architecture \"%s\" is not supported; supported are %s",
			       engine->model, shown, gg_family_names(known, sizeof(known)));
	return KVMOD_OK;
}

/* Constants that the graph would ignore. */
static int32_t refuse_constants(struct gg_engine *engine)
{
	static const char *const keys[] = {
		"attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
		"residual_scale", "embedding_scale", "attention.clamp_kqv",
		"attention.max_alibi_bias",
	};
	struct gg_model *model = &engine->net;
	bool causal = true;
	int32_t code = read_bool(engine, "attention.causal", &causal);

	if (!code && !causal)
		return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s.attention.causal = false is not supported",
			       engine->model, model->family->architecture);
	for (size_t i = 0; !code && i < sizeof(keys) / sizeof(*keys); i++) {
		float value = 0;

		code = read_f32(engine, keys[i], &value);
		if (!code && value != 0 && value != 1)
			return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s.%s = %g is not supported",
				       engine->model, model->family->architecture, keys[i],
				       (double)value);
	}
	return code;
}

/* Counts of parts that no supported model has. */
static int32_t refuse_counts(struct gg_engine *engine)
{
	static const char *const keys[] = {
		"expert_used_count", "expert_shared_count", "expert_group_count",
		"nextn_predict_layers",
	};
	int32_t code = KVMOD_OK;

	for (size_t i = 0; !code && i < sizeof(keys) / sizeof(*keys); i++) {
		uint32_t n = 0;

		code = read_u32(engine, keys[i], &n);
		if (!code && n)
			return gg_fail(engine, KVMOD_ENOTSUP, "%s: %s.%s = %u is not supported",
				       engine->model, engine->net.family->architecture, keys[i], n);
	}
	return code;
}

/* Variants of a family that this engine does not build. */
static int32_t refuse_variants(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const struct gg_pair *split = gg_file_find(&model->file, "split.count");
	uint32_t n = 0, n_files = 1;
	int32_t code = read_u32(engine, "expert_count", &n);

	if (code)
		return code;
	if (n)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: the model is a mixture of %u experts; only dense models are supported",
			       engine->model, n);
	if (split && (split->is_array || !integer_at(split, 0, &n_files)))
		return gg_refuse_kind(engine, split, "u16");
	if (n_files > 1)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: the model is split into several files; join them with llama-gguf-split --merge",
			       engine->model);
	code = refuse_counts(engine);
	return code ? code : refuse_constants(engine);
}

/* --- sizes ---------------------------------------------------------------------------------- */

/* Within the window, full attention is the model's own. RoPE depends on the trained context. */
static int32_t limit_to_window(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	uint32_t window = 0;
	int32_t code = read_u32_of_layers(engine, "attention.sliding_window", &window);

	if (code || !window || window >= model->context)
		return code;
	gg_log(engine, KVMOD_NOTE, "%s: the context is the sliding window of %u tokens, not the trained %llu",
	       engine->model, window, (unsigned long long)model->context);
	model->context = window;
	model->context_is = "the model's sliding window";
	return KVMOD_OK;
}

/* A size that the header must have, within bounds. */
static int32_t read_size(struct gg_engine *engine, const char *key, uint32_t max, uint32_t *value)
{
	struct gg_model *model = &engine->net;
	int32_t code = read_u32_of_layers(engine, key, value);

	if (code)
		return code;
	if (!find_key(model, key))
		return gg_fail(engine, KVMOD_EFORMAT, "%s: no %s.%s in the header",
			       engine->model, model->family->architecture, key);
	if (!*value || *value > max)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: %s.%s is %u, expected 1 to %u",
			       engine->model, model->family->architecture, key, *value, max);
	return KVMOD_OK;
}

static int32_t read_heads(struct gg_engine *engine, uint32_t width)
{
	struct gg_model *model = &engine->net;
	uint32_t v_length;
	int32_t code;

	model->n_kv_heads = model->n_q_heads;
	model->head_dim = width / model->n_q_heads;
	if ((code = read_u32_of_layers(engine, "attention.head_count_kv", &model->n_kv_heads)) ||
	    (code = read_u32(engine, "attention.key_length", &model->head_dim)))
		return code;
	v_length = model->head_dim;
	if ((code = read_u32(engine, "attention.value_length", &v_length)))
		return code;
	if (!model->n_kv_heads || model->n_q_heads % model->n_kv_heads)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: %u query heads cannot share %u KV heads",
			       engine->model, model->n_q_heads, model->n_kv_heads);
	if (!model->head_dim || model->head_dim % 2 || model->head_dim > MAX_HEAD_DIM)
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: the head dimension is %u, expected an even number up to %u",
			       engine->model, model->head_dim, MAX_HEAD_DIM);
	if (v_length != model->head_dim)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: keys have %u dimensions and values %u, expected equal numbers",
			       engine->model, model->head_dim, v_length);
	return KVMOD_OK;
}

static int32_t read_sizes(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	uint32_t context = 0, width = 0, ffn = 0;
	int32_t code;

	if ((code = read_size(engine, "block_count", MAX_LAYERS, &model->n_layers)) ||
	    (code = read_size(engine, "embedding_length", MAX_WIDTH, &width)) ||
	    (code = read_size(engine, "feed_forward_length", MAX_WIDTH * 8, &ffn)) ||
	    (code = read_size(engine, "attention.head_count", MAX_HEADS, &model->n_q_heads)) ||
	    (code = read_size(engine, "context_length", INT32_MAX, &context)) ||
	    (code = read_heads(engine, width)))
		return code;
	model->context = context;
	model->context_is = "the model's context";
	model->dims[GG_ONE] = 1;
	model->dims[GG_WIDTH] = width;
	model->dims[GG_FFN] = ffn;
	model->dims[GG_HEAD] = model->head_dim;
	model->dims[GG_Q_ROWS] = (int64_t)model->head_dim * model->n_q_heads;
	model->dims[GG_KV_ROWS] = (int64_t)model->head_dim * model->n_kv_heads;
	return KVMOD_OK;
}

/* --- constants --------------------------------------------------------------------------------- */

/* The factor that stretches RoPE; 0: the file has none. */
static int32_t read_rope_factor(struct gg_engine *engine, float *factor)
{
	int32_t code = read_f32(engine, "rope.scaling.factor", factor);

	if (code || find_key(&engine->net, "rope.scaling.factor"))
		return code;
	return read_f32(engine, "rope.scale_linear", factor);
}

static int32_t read_rope_scaling(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct gg_rope *rope = &model->rope;
	struct gg_text_at type = { "linear", 6 };
	float factor = 0, log_multiplier = 0;
	uint32_t n_context = (uint32_t)rope->n_context;
	char shown[GG_SHOWN];
	int32_t code;

	if ((code = read_text(engine, find_key(model, "rope.scaling.type"), &type)) ||
	    (code = read_rope_factor(engine, &factor)) ||
	    (code = read_f32(engine, "rope.scaling.attn_factor", &rope->attn_factor)) ||
	    (code = read_f32(engine, "rope.scaling.yarn_log_multiplier", &log_multiplier)) ||
	    (code = read_u32(engine, "rope.scaling.original_context_length", &n_context)))
		return code;
	if (factor < 0 || (factor > 0 && !isfinite(1.0f / factor)) || log_multiplier != 0)
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: RoPE scaling by %g with a log multiplier of %g is not supported",
			       engine->model, (double)factor, (double)log_multiplier);
	if (!n_context || n_context > INT32_MAX)
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: %s.rope.scaling.original_context_length is %u, expected 1 to %d",
			       engine->model, model->family->architecture, n_context, INT32_MAX);
	rope->n_context = (int)n_context;
	if (gg_text_is(type, "none"))
		return KVMOD_OK;
	if (factor > 0)
		rope->scale = 1.0f / factor;
	if (gg_text_is(type, "linear"))
		return KVMOD_OK;
	if (!gg_text_is(type, "yarn"))
		return gg_fail(engine, KVMOD_ENOTSUP,
			       "%s: RoPE scaling \"%s\" is not supported; supported are none, linear, yarn",
			       engine->model, gg_show(type, shown));
	rope->ext_factor = 1.0f;
	return KVMOD_OK;
}

static int32_t read_constants(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	struct gg_rope *rope = &model->rope;
	uint32_t n_rot = model->head_dim;
	int32_t code;

	model->eps = 1e-5f;
	model->scale = 0;
	*rope = (struct gg_rope){
		.type = model->family->rope_type,
		.n_context = (int)model->context,
		.base = 10000,
		.scale = 1,
		.attn_factor = 1,
		.beta_fast = 32,
		.beta_slow = 1,
	};
	if ((code = read_f32(engine, "attention.layer_norm_rms_epsilon", &model->eps)) ||
	    (code = read_f32(engine, "attention.scale", &model->scale)) ||
	    (code = read_u32(engine, "rope.dimension_count", &n_rot)) ||
	    (code = read_f32(engine, "rope.freq_base", &rope->base)))
		return code;
	if (model->scale == 0)
		model->scale = 1.0f / sqrtf((float)model->head_dim);
	rope->n_dims = (int)n_rot;
	if (!n_rot || n_rot > model->head_dim || n_rot % 2 || rope->base <= 0 || model->eps < 0)
		return gg_fail(engine, KVMOD_EFORMAT,
			       "%s: RoPE over %u of %u dimensions with base %g, epsilon %g: out of range",
			       engine->model, n_rot, model->head_dim, (double)rope->base,
			       (double)model->eps);
	model->dims[GG_HALF_ROT] = n_rot / 2;
	return read_rope_scaling(engine);
}

/* "general.name", or the name of the file. */
static int32_t read_name(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const char *slash = strrchr(engine->model, '/'), *own = slash ? slash + 1 : engine->model;
	struct gg_text_at name = { "", 0 };
	int32_t code = read_text(engine, gg_file_find(&model->file, "general.name"), &name);

	if (code)
		return code;
	model->name = name.n ? strndup(name.at, name.n) : strdup(own);
	if (!model->name)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model's name");
	gg_repair_text(model->name);
	return KVMOD_OK;
}

int32_t gg_model_read_header(struct gg_engine *engine)
{
	int32_t code;

	if ((code = find_family(engine)) || (code = refuse_variants(engine)) ||
	    (code = read_sizes(engine)) || (code = read_constants(engine)) ||
	    (code = limit_to_window(engine)))
		return code;
	return read_name(engine);
}
