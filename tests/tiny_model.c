/* SPDX-License-Identifier: Apache-2.0 */
/* Writes small models with random weights, one for each family and variant. */
#include <config.h>

#include "tests/tiny_model.h"
#include "core/testkit/random.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ggml.h>
#include <gguf.h>

#define COMMON_BUT_WIDTH .n_layers = TINY_LAYERS, .ffn = 96, .n_vocab = TINY_VOCAB, .context = TINY_CONTEXT
#define COMMON	COMMON_BUT_WIDTH, .width = 64

const struct tiny_model tiny_models[] = {
	{ .name = "llama, grouped heads", .architecture = "llama", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 32 },
	{ .name = "llama, RoPE factors, tied", .architecture = "llama", COMMON,
	  .n_q_heads = 6, .n_kv_heads = 2, .head_dim = 32, .rope_factors = true, .tied = true },
	{ .name = "llama, biases, one KV head each", .architecture = "llama", COMMON,
	  .n_q_heads = 2, .n_kv_heads = 2, .head_dim = 32, .qkv_biases = true, .other_biases = true },
	{ .name = "mistral: a head dimension of its own", .architecture = "llama", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 1, .head_dim = 64 },
	{ .name = "llama, RoPE stretched", .architecture = "llama", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 32, .rope_scaling = "linear" },
	{ .name = "qwen2", .architecture = "qwen2", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 16, .qkv_biases = true, .tied = true },
	{ .name = "qwen2, yarn", .architecture = "qwen2", COMMON,
	  .n_q_heads = 2, .n_kv_heads = 1, .head_dim = 32, .qkv_biases = true, .rope_scaling = "yarn" },
	{ .name = "qwen3", .architecture = "qwen3", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 32, .qk_norms = true },
	/* Heads that CUDA's attention takes. */
	{ .name = "llama, heads of 64, RoPE factors, tied", .architecture = "llama", COMMON,
	  .n_q_heads = 8, .n_kv_heads = 2, .head_dim = 64, .rope_factors = true, .tied = true },
	{ .name = "qwen3, heads of 128", .architecture = "qwen3", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 128, .qk_norms = true },
	{ .name = "llama, heads of 64, biases", .architecture = "llama", COMMON,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 64, .qkv_biases = true },
	{ .name = "qwen2, heads of 64", .architecture = "qwen2", COMMON_BUT_WIDTH, .width = 256,
	  .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 64, .qkv_biases = true, .tied = true },
};
const unsigned n_tiny_models = sizeof(tiny_models) / sizeof(tiny_models[0]);

struct writer {
	const struct tiny_model *spec;
	enum tiny_fault fault;
	struct ggml_context *context;
	struct gguf_context *gguf;
	struct kv_random random;
};

void tiny_tokens(int32_t *tokens, uint32_t n, uint32_t seed)
{
	struct kv_random random = { seed };

	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)kv_random_range(&random, 0, TINY_VOCAB - 1);
}

static enum ggml_type type_of(const struct writer *w, const char *name)
{
	if ((w->fault == TINY_F16_NORM && !strcmp(name, "blk.1.ffn_norm.weight")) ||
	    (w->fault == TINY_F16_VALUES && strstr(name, "attn_v.weight")))
		return GGML_TYPE_F16;
	if (!strstr(name, "attn_output.weight"))
		return GGML_TYPE_F32;
	switch (w->fault) {
	case TINY_F16_OUT:
		return GGML_TYPE_F16;
	case TINY_Q8_0_OUT:
		return GGML_TYPE_Q8_0;
	case TINY_Q4_K_OUT:
		return GGML_TYPE_Q4_K;
	default:
		return GGML_TYPE_F32;
	}
}

static void put(struct writer *w, const char *name, int64_t columns, int64_t rows, float middle,
		float width)
{
	enum ggml_type type = type_of(w, name);
	struct ggml_tensor *tensor;
	float *values;

	if (w->fault == TINY_NO_WEIGHT && !strcmp(name, "blk.1.ffn_up.weight"))
		return;
	if (w->fault == TINY_WRONG_SHAPE && !strcmp(name, "blk.1.attn_k.weight"))
		rows *= 2;
	if (w->fault == TINY_DEEP_WEIGHT && !strcmp(name, "blk.1.attn_q.weight"))
		tensor = ggml_new_tensor_3d(w->context, type, columns, rows, 2);
	else
		tensor = rows ? ggml_new_tensor_2d(w->context, type, columns, rows) :
				ggml_new_tensor_1d(w->context, type, columns);
	ggml_set_name(tensor, name);
	values = malloc((size_t)ggml_nelements(tensor) * sizeof(*values));
	ck_assert_ptr_nonnull(values);
	for (int64_t i = 0; i < ggml_nelements(tensor); i++)
		values[i] = middle + width * kv_random_normal(&w->random);
	ggml_quantize_chunk(type, values, tensor->data, 0, ggml_nelements(tensor) / columns, columns,
			    NULL);
	free(values);
	gguf_add_tensor(w->gguf, tensor);
}

static void put_in_layer(struct writer *w, uint32_t layer, const char *name, int64_t columns,
			 int64_t rows, float middle, float width)
{
	char full[GGML_MAX_NAME];

	snprintf(full, sizeof(full), "blk.%u.%s", layer, name);
	put(w, full, columns, rows, middle, width);
}

static void put_layer(struct writer *w, uint32_t i)
{
	const struct tiny_model *m = w->spec;
	int64_t width = m->width, q = m->n_q_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;

	put_in_layer(w, i, "attn_norm.weight", width, 0, 1, 0.1f);
	put_in_layer(w, i, "attn_q.weight", width, q, 0, 0.25f);
	put_in_layer(w, i, "attn_k.weight", width, kv, 0, 0.25f);
	put_in_layer(w, i, "attn_v.weight", width, kv, 0, 0.12f);
	put_in_layer(w, i, "attn_output.weight", q, width, 0, 0.12f);
	put_in_layer(w, i, "ffn_norm.weight", width, 0, 1, 0.1f);
	put_in_layer(w, i, "ffn_gate.weight", width, m->ffn, 0, 0.12f);
	put_in_layer(w, i, "ffn_up.weight", width, m->ffn, 0, 0.12f);
	put_in_layer(w, i, "ffn_down.weight", m->ffn, width, 0, 0.1f);
	if (m->qkv_biases) {
		put_in_layer(w, i, "attn_q.bias", q, 0, 0, 0.3f);
		put_in_layer(w, i, "attn_k.bias", kv, 0, 0, 0.3f);
		put_in_layer(w, i, "attn_v.bias", kv, 0, 0, 0.3f);
	}
	if (m->other_biases) {
		put_in_layer(w, i, "attn_output.bias", width, 0, 0, 0.2f);
		put_in_layer(w, i, "ffn_gate.bias", m->ffn, 0, 0, 0.2f);
		put_in_layer(w, i, "ffn_up.bias", m->ffn, 0, 0, 0.2f);
		put_in_layer(w, i, "ffn_down.bias", width, 0, 0, 0.2f);
	}
	if (m->qk_norms) {
		put_in_layer(w, i, "attn_q_norm.weight", m->head_dim, 0, 1, 0.1f);
		put_in_layer(w, i, "attn_k_norm.weight", m->head_dim, 0, 1, 0.1f);
	}
	if (w->fault == TINY_EXTRA_WEIGHT && i == 1)
		put_in_layer(w, i, "attn_sinks.weight", m->n_q_heads, 0, 0, 1);
}

static uint32_t rope_dims(const struct tiny_model *m)
{
	return m->rope_dims ? m->rope_dims : m->head_dim;
}

static void put_weights(struct writer *w)
{
	const struct tiny_model *m = w->spec;

	put(w, "token_embd.weight", m->width, m->n_vocab, 0, 0.5f);
	put(w, "output_norm.weight", m->width, 0, 1, 0.1f);
	if (!m->tied)
		put(w, "output.weight", m->width, m->n_vocab, 0, 0.5f);
	if (m->rope_factors) {
		int64_t half = rope_dims(m) / 2;
		struct ggml_tensor *factors = ggml_new_tensor_1d(w->context, GGML_TYPE_F32, half);

		ggml_set_name(factors, "rope_freqs.weight");
		for (int64_t i = 0; i < half; i++)
			((float *)factors->data)[i] = 1.0f + 0.5f * (float)i;
		gguf_add_tensor(w->gguf, factors);
	}
	for (uint32_t i = 0; i < m->n_layers; i++)
		put_layer(w, i);
}

static void set_u32(struct writer *w, const char *key, uint32_t value)
{
	char name[96];

	snprintf(name, sizeof(name), "%s.%s", w->spec->architecture, key);
	gguf_set_val_u32(w->gguf, name, value);
}

static void set_f32(struct writer *w, const char *key, float value)
{
	char name[96];

	snprintf(name, sizeof(name), "%s.%s", w->spec->architecture, key);
	gguf_set_val_f32(w->gguf, name, value);
}

/* What other models of the family may state. */
static void set_variant(struct writer *w)
{
	char name[96];

	if (w->fault == TINY_EXPERTS)
		set_u32(w, "expert_count", 8);
	if (w->fault == TINY_SOFTCAP)
		set_f32(w, "final_logit_softcapping", 30);
	if (w->fault == TINY_WINDOW)
		set_u32(w, "attention.sliding_window", w->spec->context / 8);
	if (w->fault != TINY_NOT_CAUSAL)
		return;
	snprintf(name, sizeof(name), "%s.attention.causal", w->spec->architecture);
	gguf_set_val_bool(w->gguf, name, false);
}

static void set_rope_scaling(struct writer *w)
{
	char name[96];

	if (!w->spec->rope_scaling)
		return;
	snprintf(name, sizeof(name), "%s.rope.scaling.type", w->spec->architecture);
	gguf_set_val_str(w->gguf, name, w->spec->rope_scaling);
	set_f32(w, "rope.scaling.factor", 4);
	set_u32(w, "rope.scaling.original_context_length", w->spec->context / 4);
}

static void set_header(struct writer *w)
{
	const struct tiny_model *m = w->spec;

	gguf_set_val_str(w->gguf, "general.architecture",
			 w->fault == TINY_UNKNOWN_ARCH ? "mamba" : m->architecture);
	gguf_set_val_str(w->gguf, "general.name",
			 w->fault == TINY_BAD_NAME ? "caf\xe9 \xe2\x82\xac \xe2\x82" : m->name);
	gguf_set_val_str(w->gguf, "tokenizer.ggml.model", "no_vocab");
	if (w->fault == TINY_NO_SIZES)
		return;
	set_u32(w, "vocab_size", m->n_vocab);
	set_u32(w, "context_length", m->context);
	set_u32(w, "block_count", w->fault == TINY_NO_LAYERS ? 0 : m->n_layers);
	set_u32(w, "embedding_length", m->width);
	set_u32(w, "feed_forward_length", m->ffn);
	set_u32(w, "attention.head_count", m->n_q_heads);
	set_u32(w, "attention.head_count_kv", w->fault == TINY_ODD_HEADS ? 3 : m->n_kv_heads);
	set_u32(w, "attention.key_length", m->head_dim);
	set_u32(w, "attention.value_length", m->head_dim);
	set_u32(w, "rope.dimension_count", rope_dims(m));
	set_f32(w, "attention.layer_norm_rms_epsilon", 1e-5f);
	set_f32(w, "rope.freq_base", 10000);
	set_rope_scaling(w);
	set_variant(w);
}

char *tiny_model_write(const struct tiny_model *spec, enum tiny_fault fault)
{
	const char *folder = getenv("TMPDIR");
	struct writer w = { .spec = spec, .fault = fault, .random = { 1 } };
	char *path;
	int fd;

	ck_assert_int_gt(asprintf(&path, "%s/kvmod-tiny-XXXXXX", folder ? folder : "/tmp"), 0);
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	close(fd);
	w.context = ggml_init((struct ggml_init_params){ .mem_size = 16 << 20 });
	w.gguf = gguf_init_empty();
	set_header(&w);
	put_weights(&w);
	ck_assert(gguf_write_to_file(w.gguf, path, false));
	gguf_free(w.gguf);
	ggml_free(w.context);
	return path;
}
