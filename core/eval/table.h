/* SPDX-License-Identifier: Apache-2.0 */
/* The table that `kvmod eval` prints: for people, as CSV, and as JSON. */
#ifndef KV_CORE_EVAL_TABLE_H
#define KV_CORE_EVAL_TABLE_H

#include "core/cli/cli.h"
#include "core/eval/cases.h"

/*
 * All rows in prompt order: rows[prompt * cases->n + case], NULL where there is none. tasks:
 * the task of each prompt. Sums go in that order, so a resumed run prints the same numbers.
 */
struct eval_table {
	const struct eval_cases *cases;
	const char *const *tasks;	/* [n_prompts] */
	json_t *const *rows;
	size_t n_prompts;
};

void eval_table_print(const struct eval_table *table);
void eval_table_csv(const struct eval_table *table);
/* An array; NULL if memory ran out. */
json_t *eval_table_json(const struct eval_table *table);

#endif
