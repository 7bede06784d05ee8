/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libllama as an independent oracle: one pass over all tokens, its attention
 * logits overwritten with -inf where a cut has removed a position.
 */
#ifndef KV_TESTS_ORACLE_H
#define KV_TESTS_ORACLE_H

#include <stdint.h>

/*
 * gone[layer][KV head][position]: rows of positions >= that no longer see it
 * (UINT32_MAX: never). logits: [n][n_vocab].
 */
struct oracle {
	uint32_t n_layers, n_kv_heads, n;
	uint32_t *gone;
};

struct oracle *oracle_new(uint32_t n_layers, uint32_t n_kv_heads, uint32_t n);
void oracle_free(struct oracle *oracle);
uint32_t *oracle_gone(struct oracle *oracle, uint32_t layer, uint32_t head, uint32_t position);
void oracle_run(struct oracle *oracle, const char *model, const int32_t *tokens, float *logits);

#endif
