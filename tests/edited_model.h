/* SPDX-License-Identifier: Apache-2.0 */
/* A vocabulary of which the file says something else. */
#ifndef KV_TESTS_EDITED_MODEL_H
#define KV_TESTS_EDITED_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include <gguf.h>

/*
 * Writes a small model with the vocabulary of another of the llama family to a new
 * file, its header as edit() left it, and gives the name, which the caller frees.
 * Its weights are all zero.
 */
char *edited_model_write(const char *model, void (*edit)(struct gguf_context *gguf, const void *arg),
			 const void *arg);

/* For edit(): another type for n tokens, other texts. */
void edited_model_type(struct gguf_context *gguf, uint32_t first, uint32_t n, int32_t type);
void edited_model_tokens(struct gguf_context *gguf, uint32_t first, uint32_t n, const char *const *texts);
void edited_model_token(struct gguf_context *gguf, uint32_t token, const char *text);

#endif
