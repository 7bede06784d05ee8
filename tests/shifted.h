/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libllama's own way to stream: it drops tokens from its cache and moves the newer
 * ones, their keys turned back, into the gap. The engine's way must say the same.
 */
#ifndef KV_TESTS_SHIFTED_H
#define KV_TESTS_SHIFTED_H

#include <stdint.h>

#include <ggml.h>

struct shifted;

/* flash: its flash attention, which rounds an F32 cache to F16. NULL: it cannot be opened. */
struct shifted *shifted_open(const char *model, enum ggml_type type, uint32_t context, int flash);
void shifted_close(struct shifted *s);
/* Runs n tokens in one pass; logits of all of them, [n][n_vocab]. 0, or libllama's code. */
int shifted_run(struct shifted *s, const int32_t *tokens, uint32_t n, float *logits);
/* Leaves the first `sinks` of what is cached and the newest `newest`. */
void shifted_cut(struct shifted *s, uint32_t sinks, uint32_t newest);
/* Forgets the newest n. */
void shifted_forget(struct shifted *s, uint32_t n);
uint32_t shifted_n_vocab(const struct shifted *s);

#endif
