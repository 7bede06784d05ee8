/* SPDX-License-Identifier: Apache-2.0 */
/* Small models with random weights, one per family and variant, as GGUF files. */
#ifndef KV_TESTS_TINY_MODEL_H
#define KV_TESTS_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

struct tiny_model {
	const char *name;
	const char *architecture;
	uint32_t n_layers, width, n_q_heads, n_kv_heads, head_dim, ffn, n_vocab, context;
	bool tied;			/* no output matrix of its own */
	bool rope_factors, qkv_biases, other_biases, qk_norms;
	const char *rope_scaling;	/* NULL: none; by a factor of 4 */
	uint32_t rope_dims;		/* of a head; 0: all, which libllama insists on */
};

#define TINY_VOCAB	300
#define TINY_LAYERS	3
#define TINY_CONTEXT	1024

extern const struct tiny_model tiny_models[];
extern const unsigned n_tiny_models;

/* What can be wrong with a file: each is one change to a good one. */
enum tiny_fault {
	TINY_GOOD, TINY_NO_WEIGHT, TINY_WRONG_SHAPE, TINY_EXTRA_WEIGHT, TINY_UNKNOWN_ARCH,
	TINY_NO_SIZES, TINY_ODD_HEADS, TINY_EXPERTS, TINY_NO_LAYERS, TINY_F16_NORM,
	TINY_SOFTCAP, TINY_NOT_CAUSAL, TINY_WINDOW, TINY_BAD_NAME, TINY_DEEP_WEIGHT,
	TINY_F16_VALUES,		/* and this one is good as well, */
	TINY_F16_OUT, TINY_Q8_0_OUT, TINY_Q4_K_OUT	/* and so are these: attn_output.weight */
};

/* Writes a model to a new file and gives its name, which the caller frees. */
char *tiny_model_write(const struct tiny_model *spec, enum tiny_fault fault);
/* Random tokens, the same ones for a seed. */
void tiny_tokens(int32_t *tokens, uint32_t n, uint32_t seed);

#endif
