/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that `kvmod eval` appends its results to, and resumes from: JSON Lines, the first of
 * which has the settings. A line that a kill has left half written is dropped.
 */
#ifndef KV_CORE_EVAL_RESULTS_H
#define KV_CORE_EVAL_RESULTS_H

#include "core/cli/cli.h"

struct eval_results {
	const char *path;		/* NULL: results are kept in memory alone */
	FILE *file;
	json_t *rows;			/* by prompt and case */
};

/*
 * path may be NULL. settings: an object that the first line has as "settings"; its reference is
 * taken. A file of other settings is left alone. CLI_FAILED after the reason was printed.
 */
int eval_results_open(struct eval_results *results, const char *path, json_t *settings);
void eval_results_close(struct eval_results *results);

/* The row of a prompt and a case, or NULL. Borrowed. */
json_t *eval_results_find(const struct eval_results *results, const char *id, const char *name);
/* Is that row one of a prompt with this digest? CLI_FAILED after the reason was printed. */
int eval_results_check(const struct eval_results *results, const char *id, const char *name,
		       const char *digest);
/*
 * Appends a row, whose "id" and "case" name it; its reference is taken. On disk when it returns
 * CLI_OK. CLI_FAILED after the reason was printed; what the file had before is intact.
 */
int eval_results_add(struct eval_results *results, json_t *row);

#endif
