/* SPDX-License-Identifier: Apache-2.0 */
/* The supported families of models, as a table: which weights a layer has, and of which shapes. */
#include "engine.h"

#include <stdio.h>
#include <string.h>

const struct gg_weight_info gg_weight_infos[GG_N_WEIGHTS] = {
	[GG_ATTN_NORM]		= { "attn_norm.weight",		GG_WIDTH,	GG_ONE },
	[GG_Q]			= { "attn_q.weight",		GG_WIDTH,	GG_Q_ROWS },
	[GG_K]			= { "attn_k.weight",		GG_WIDTH,	GG_KV_ROWS },
	[GG_V]			= { "attn_v.weight",		GG_WIDTH,	GG_KV_ROWS },
	[GG_Q_BIAS]		= { "attn_q.bias",		GG_Q_ROWS,	GG_ONE },
	[GG_K_BIAS]		= { "attn_k.bias",		GG_KV_ROWS,	GG_ONE },
	[GG_V_BIAS]		= { "attn_v.bias",		GG_KV_ROWS,	GG_ONE },
	[GG_Q_NORM]		= { "attn_q_norm.weight",	GG_HEAD,	GG_ONE },
	[GG_K_NORM]		= { "attn_k_norm.weight",	GG_HEAD,	GG_ONE },
	[GG_ATTN_OUT]		= { "attn_output.weight",	GG_Q_ROWS,	GG_WIDTH },
	[GG_ATTN_OUT_BIAS]	= { "attn_output.bias",		GG_WIDTH,	GG_ONE },
	[GG_FFN_NORM]		= { "ffn_norm.weight",		GG_WIDTH,	GG_ONE },
	[GG_FFN_GATE]		= { "ffn_gate.weight",		GG_WIDTH,	GG_FFN },
	[GG_FFN_UP]		= { "ffn_up.weight",		GG_WIDTH,	GG_FFN },
	[GG_FFN_DOWN]		= { "ffn_down.weight",		GG_FFN,		GG_WIDTH },
	[GG_FFN_GATE_BIAS]	= { "ffn_gate.bias",		GG_FFN,		GG_ONE },
	[GG_FFN_UP_BIAS]	= { "ffn_up.bias",		GG_FFN,		GG_ONE },
	[GG_FFN_DOWN_BIAS]	= { "ffn_down.bias",		GG_WIDTH,	GG_ONE },
};

#define BIT(weight)	(1u << (weight))
#define QKV_BIASES	(BIT(GG_Q_BIAS) | BIT(GG_K_BIAS) | BIT(GG_V_BIAS))
#define QK_NORMS	(BIT(GG_Q_NORM) | BIT(GG_K_NORM))
#define FFN_BIASES	(BIT(GG_FFN_GATE_BIAS) | BIT(GG_FFN_UP_BIAS) | BIT(GG_FFN_DOWN_BIAS))
#define ALL_HAVE	(BIT(GG_ATTN_NORM) | BIT(GG_Q) | BIT(GG_K) | BIT(GG_V) | \
			 BIT(GG_ATTN_OUT) | BIT(GG_FFN_NORM) | BIT(GG_FFN_GATE) | \
			 BIT(GG_FFN_UP) | BIT(GG_FFN_DOWN))

static const struct gg_family families[] = {
	/* Llama, Mistral, SmolLM2 */
	{ "llama", GGML_ROPE_TYPE_NORMAL, ALL_HAVE,
	  QKV_BIASES | BIT(GG_ATTN_OUT_BIAS) | FFN_BIASES, true },
	{ "qwen2", GGML_ROPE_TYPE_NEOX, ALL_HAVE | QKV_BIASES, 0, false },
	{ "qwen3", GGML_ROPE_TYPE_NEOX, ALL_HAVE | QK_NORMS, QKV_BIASES, false },
};
#define N_FAMILIES	(sizeof(families) / sizeof(families[0]))

const struct gg_family *gg_family_find(const char *architecture)
{
	for (size_t i = 0; i < N_FAMILIES; i++) {
		if (!strcmp(families[i].architecture, architecture))
			return &families[i];
	}
	return NULL;
}

const char *gg_family_names(char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < N_FAMILIES && used < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "",
					 families[i].architecture);
	return text;
}
