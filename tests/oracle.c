/* SPDX-License-Identifier: Apache-2.0 */
/* Computes expected logits with libllama, masking evicted positions in every layer and head. */
#include "tests/oracle.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <llama.h>

struct oracle *oracle_new(uint32_t n_layers, uint32_t n_kv_heads, uint32_t n)
{
	struct oracle *oracle = calloc(1, sizeof(*oracle));
	size_t size = (size_t)n_layers * n_kv_heads * n * sizeof(*oracle->gone);

	*oracle = (struct oracle){ n_layers, n_kv_heads, n, malloc(size) };
	memset(oracle->gone, 0xff, size);
	return oracle;
}

void oracle_free(struct oracle *oracle)
{
	free(oracle->gone);
	free(oracle);
}

uint32_t *oracle_gone(struct oracle *oracle, uint32_t layer, uint32_t head, uint32_t position)
{
	return oracle->gone + ((size_t)layer * oracle->n_kv_heads + head) * oracle->n + position;
}

/* "kq-N": [n_kv][n_tokens][query heads] of layer N, before the softmax. */
static bool hide(struct ggml_tensor *tensor, bool ask, void *arg)
{
	struct oracle *oracle = arg;
	uint32_t layer, group;

	if (sscanf(tensor->name, "kq-%u", &layer) != 1 || strchr(tensor->name, ' '))
		return !ask;
	if (ask)
		return true;
	ck_assert_int_eq(tensor->type, GGML_TYPE_F32);
	ck_assert_int_eq(tensor->ne[1], oracle->n);
	group = (uint32_t)tensor->ne[2] / oracle->n_kv_heads;
	for (uint32_t h = 0; h < tensor->ne[2]; h++) {
		for (uint32_t t = 0; t < oracle->n; t++) {
			float *row = (float *)((char *)tensor->data + t * tensor->nb[1] +
					       h * tensor->nb[2]);

			for (uint32_t j = 0; j < oracle->n; j++) {
				if (t >= *oracle_gone(oracle, layer, h / group, j))
					row[j] = -INFINITY;
			}
		}
	}
	return true;
}

static void silent(enum ggml_log_level level, const char *text, void *arg)
{
	(void)level, (void)text, (void)arg;
}

void oracle_run(struct oracle *oracle, const char *path, const int32_t *tokens, float *logits)
{
	struct llama_model_params model_params = llama_model_default_params();
	struct llama_context_params params = llama_context_default_params();
	ggml_backend_dev_t no_devices[] = { NULL };
	struct llama_batch batch = llama_batch_init((int32_t)oracle->n, 0, 1);
	struct llama_context *context;
	struct llama_model *model;
	size_t n_vocab;

	llama_log_set(silent, NULL);
	model_params.devices = no_devices;
	model = llama_model_load_from_file(path, model_params);
	ck_assert_ptr_nonnull(model);
	params.n_ctx = params.n_batch = params.n_ubatch = oracle->n;
	params.n_threads = params.n_threads_batch = 1;
	params.type_k = params.type_v = GGML_TYPE_F32;
	params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
	params.cb_eval = hide;
	params.cb_eval_user_data = oracle;
	context = llama_init_from_model(model, params);
	ck_assert_ptr_nonnull(context);
	n_vocab = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(model));
	for (uint32_t i = 0; i < oracle->n; i++) {
		batch.token[i] = tokens[i];
		batch.pos[i] = (llama_pos)i;
		batch.n_seq_id[i] = 1;
		batch.seq_id[i][0] = 0;
		batch.logits[i] = 1;
	}
	batch.n_tokens = (int32_t)oracle->n;
	ck_assert_int_eq(llama_decode(context, batch), 0);
	for (uint32_t i = 0; i < oracle->n; i++)
		memcpy(logits + i * n_vocab, llama_get_logits_ith(context, (int32_t)i),
		       n_vocab * sizeof(float));
	llama_batch_free(batch);
	llama_free(context);
	llama_model_free(model);
}
