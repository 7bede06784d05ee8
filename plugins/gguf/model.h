/* SPDX-License-Identifier: Apache-2.0 */
/* A model: its family, its hyperparameters, and its weights in memory. */
#ifndef KV_PLUGINS_GGUF_MODEL_H
#define KV_PLUGINS_GGUF_MODEL_H

#include "file.h"
#include "gpu.h"

/* --- families of models (families.c) ---------------------------------------------- */

/* The weights of a layer. */
enum gg_weight {
	GG_ATTN_NORM, GG_Q, GG_K, GG_V, GG_Q_BIAS, GG_K_BIAS, GG_V_BIAS,
	GG_Q_NORM, GG_K_NORM, GG_ATTN_OUT, GG_ATTN_OUT_BIAS,
	GG_FFN_NORM, GG_FFN_GATE, GG_FFN_UP, GG_FFN_DOWN,
	GG_FFN_GATE_BIAS, GG_FFN_UP_BIAS, GG_FFN_DOWN_BIAS,
	GG_N_WEIGHTS
};

/* The sizes that shapes of weights are made of. */
enum gg_dim {
	GG_ONE, GG_WIDTH, GG_Q_ROWS, GG_KV_ROWS, GG_HEAD, GG_FFN, GG_VOCAB, GG_HALF_ROT,
	GG_N_DIMS
};

struct gg_weight_info {
	const char *name;		/* in the file: "blk.N.<name>" */
	enum gg_dim columns, rows;	/* rows GG_ONE: a vector */
};

struct gg_family {
	const char *architecture;	/* "general.architecture" in the file */
	int rope_type;			/* which dimensions RoPE pairs */
	uint32_t required, optional;	/* bits of enum gg_weight */
	bool rope_factors;		/* may have rope_freqs.weight */
};

extern const struct gg_weight_info gg_weight_infos[GG_N_WEIGHTS];
/* NULL: the architecture is not supported. */
const struct gg_family *gg_family_find(const char *architecture);
/* "llama, qwen2, ...": the supported architectures, for messages. */
const char *gg_family_names(char *text, size_t size);

/* --- a model (hyperparameters.c, model.c) ------------------------------------------ */

struct gg_rope {
	int type, n_dims, n_context;
	float base, scale, ext_factor, attn_factor, beta_fast, beta_slow;
};

struct gg_layer {
	struct ggml_tensor *w[GG_N_WEIGHTS];	/* NULL: not in this model */
	/* Q, K and V, and their biases, as one tensor each. NULL: they do not lie together. */
	struct ggml_tensor *qkv, *qkv_bias;
	size_t attn_out_offset;			/* of w[GG_ATTN_OUT] in the file */
};

/* A weight's bytes between the file and the weight's own memory. */
struct gg_staging {
	char *bytes;
	size_t room;
};

struct gg_model {
	const struct gg_family *family;
	uint32_t n_layers, n_q_heads, n_kv_heads, head_dim;
	int64_t dims[GG_N_DIMS];
	uint64_t context;		/* trained length, or a sliding window that is less */
	const char *context_is;		/* which of the two, for messages */
	float eps, scale;
	struct gg_rope rope;
	char *name;

	struct ggml_tensor *embed, *out_norm, *out;
	struct ggml_tensor *rope_factors[GG_N_SIDES];
	float *rope_freqs;		/* [rope.n_dims / 2]: radians a position */
	struct gg_layer *layers;

	struct gg_file file;
	struct ggml_context *tensors;	/* as the file lists them */
	struct ggml_context *extra;	/* second tensors of weights with two uses or two sides */
	char *map;			/* the mapped file; NULL: its weights were read */
	ggml_backend_buffer_t map_buffer;
	ggml_backend_buffer_t *buffers;	/* memory of the weights that are not used in the map */
	size_t n_buffers;
	struct gg_staging staging;
	bool dry;			/* check the weights, do not load them */
};

/* Opens the file and reads its header. */
int32_t gg_model_read(struct gg_engine *engine);
/* Reads the hyperparameters from the header. */
int32_t gg_model_read_header(struct gg_engine *engine);
/* Refuses a key whose value is not of the `expected` kind. */
int32_t gg_refuse_kind(struct gg_engine *engine, const struct gg_pair *pair, const char *expected);
/* Checks that the weights are those of the family. */
int32_t gg_model_check(struct gg_engine *engine);
/* Loads the weights; which layers run on the GPU must be known. */
int32_t gg_model_load(struct gg_engine *engine);
void gg_model_close(struct gg_engine *engine);

/* --- RoPE (rope.c) ------------------------------------------------------------------ */

/* What YaRN multiplies queries and keys by, besides attn_factor. */
float gg_rope_magnitude(const struct gg_rope *rope);
/* Sets model->rope_freqs; the weights are loaded. */
int32_t gg_rope_read(struct gg_engine *engine);

/* --- memory of weights (weights.c) ------------------------------------------------ */

/* What a weight is used for. */
enum gg_use { GG_LOOKUP, GG_MATRIX, GG_VECTOR };

/* Refuses a weight whose element type ggml cannot use that way. */
int32_t gg_weight_check(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use);
/*
 * Gives a weight its memory, unless it has some, and fills it. twin: NULL, or another
 * tensor of the same weight that already has memory on the host.
 */
int32_t gg_weight_place(struct gg_engine *engine, struct ggml_tensor *weight, enum gg_use use,
			enum gg_side side, const struct gg_tensor_info *info,
			const struct ggml_tensor *twin);
/* Allocates memory of that type for a weight; the model owns the memory. */
int32_t gg_weight_buffer(struct gg_engine *engine, const struct ggml_tensor *weight,
			 ggml_backend_buffer_type_t type, ggml_backend_buffer_t *out);
int32_t gg_weight_put(struct gg_engine *engine, struct ggml_tensor *weight,
		      ggml_backend_buffer_t buffer, size_t offset);
/* Maps the file, so that weights can be used in it without a copy. */
int32_t gg_weights_map(struct gg_engine *engine);
void gg_weights_free(struct gg_model *model);

#endif
