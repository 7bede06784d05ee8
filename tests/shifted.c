/* SPDX-License-Identifier: Apache-2.0 */
/* Streams a text through libllama, which drops old tokens and shifts the newer ones. */
#include "tests/shifted.h"

#include <stdlib.h>
#include <string.h>

#include <llama.h>

struct shifted {
	struct llama_model *model;
	struct llama_context *context;
	uint32_t n;		/* tokens in the cache: the next position */
};

static void silent(enum ggml_log_level level, const char *text, void *arg)
{
	(void)level, (void)text, (void)arg;
}

static struct llama_context *new_context(struct llama_model *model, enum ggml_type type,
					 uint32_t n, int flash)
{
	struct llama_context_params params = llama_context_default_params();

	params.n_ctx = params.n_batch = params.n_ubatch = n;
	params.n_threads = params.n_threads_batch = 1;
	params.type_k = params.type_v = type;
	params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
	return llama_init_from_model(model, params);
}

struct shifted *shifted_open(const char *model, enum ggml_type type, uint32_t context, int flash)
{
	struct llama_model_params params = llama_model_default_params();
	ggml_backend_dev_t no_devices[] = { NULL };
	struct shifted *s = calloc(1, sizeof(*s));

	llama_log_set(silent, NULL);
	params.devices = no_devices;
	if (s)
		s->model = llama_model_load_from_file(model, params);
	if (s && s->model)
		s->context = new_context(s->model, type, context, flash);
	if (s && s->context)
		return s;
	shifted_close(s);
	return NULL;
}

void shifted_close(struct shifted *s)
{
	if (!s)
		return;
	if (s->context)
		llama_free(s->context);
	if (s->model)
		llama_model_free(s->model);
	free(s);
}

int shifted_run(struct shifted *s, const int32_t *tokens, uint32_t n, float *logits)
{
	struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
	size_t row = shifted_n_vocab(s) * sizeof(*logits);
	int err;

	batch.n_tokens = (int32_t)n;
	for (uint32_t i = 0; i < n; i++) {
		batch.token[i] = tokens[i];
		batch.pos[i] = (llama_pos)(s->n + i);
		batch.n_seq_id[i] = 1;
		batch.seq_id[i][0] = 0;
		batch.logits[i] = 1;
	}
	err = llama_decode(s->context, batch);
	for (uint32_t i = 0; i < n && !err; i++)
		memcpy((char *)logits + i * row, llama_get_logits_ith(s->context, (int32_t)i), row);
	llama_batch_free(batch);
	s->n += err ? 0 : n;
	return err;
}

void shifted_cut(struct shifted *s, uint32_t sinks, uint32_t newest)
{
	llama_memory_t memory = llama_get_memory(s->context);
	llama_pos first = (llama_pos)sinks, last = (llama_pos)s->n - (llama_pos)newest;

	if (last <= first)
		return;
	llama_memory_seq_rm(memory, 0, first, last);
	llama_memory_seq_add(memory, 0, last, -1, first - last);
	s->n = sinks + newest;
}

void shifted_forget(struct shifted *s, uint32_t n)
{
	s->n -= n;
	llama_memory_seq_rm(llama_get_memory(s->context), 0, (llama_pos)s->n, -1);
}

uint32_t shifted_n_vocab(const struct shifted *s)
{
	return (uint32_t)llama_vocab_n_tokens(llama_model_get_vocab(s->model));
}
