/* SPDX-License-Identifier: Apache-2.0 */
/* golden/e2e-*.jsonl: prompts, and what an independent program did with them. */
#ifndef KV_TESTS_E2E_H
#define KV_TESTS_E2E_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* The lines of e2e-smollm2.jsonl; the caller frees them all with json_decref. */
json_t *e2e_load(void);
/* Those of e2e-kvzip-smollm2.jsonl: contexts, and a question for each. */
json_t *e2e_load_kvzip(void);
/* prompt[key] as numbers; the caller frees them. */
int32_t *e2e_ints(const json_t *prompt, const char *key, size_t *n);
const char *e2e_string(const json_t *prompt, const char *key);
double e2e_number(const json_t *object, const char *key);

#endif
