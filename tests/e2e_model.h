/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole prompts on the default model with its weights as F32, as the programs computed that
 * made golden/e2e-*.jsonl; what a cut does to its predictions.
 */
#ifndef KV_TESTS_E2E_MODEL_H
#define KV_TESTS_E2E_MODEL_H

#include "tests/e2e.h"
#include "tests/engine_host.h"

/* The likeliest of n tokens, the first of several. */
size_t e2e_best(const float *logits, size_t n);
/* KL(a || b) in nats. */
double e2e_divergence(const float *a, const float *b, size_t n);

/*
 * Writes the model's weights as F32 to a temporary file, *f32, while the suite's tests run.
 * The exit status of main.
 */
int e2e_main(const char *suite, const char *model, char **f32, void (*add)(TCase *tc));

#endif
