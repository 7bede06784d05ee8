/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `kvmod heads` share. */
#ifndef KV_CORE_CLI_HEADS_H
#define KV_CORE_CLI_HEADS_H

#include "core/cli/run.h"

/* --- texts (heads_text.c) ---------------------------------------------------------- */

struct cli_heads_text {
	uint64_t seed;			/* the same seed gives the same text */
	uint64_t length;		/* in tokens, at most, unless that is too few for a text */
	bool raw;			/* without the chat template */
};

/*
 * Filler sentences with passkeys between them, a question for the passkeys, and, as the last
 * *n_answer tokens, the answer, which recites them. CLI_FAILED after the reason was printed.
 */
int cli_heads_passkeys(const struct cli_model *m, const struct cli_heads_text *how,
		       struct cli_tokens *tokens, size_t *n_answer);

/* --- the table (heads_table.c) -------------------------------------------------------- */

/* What a prediction loses if this share of the heads keeps everything. */
struct cli_heads_loss {
	double retrieval, nats;
};
#define CLI_HEADS_LOSSES 3

struct cli_heads_measured {
	const struct kvmod_model *model;
	double *scores;			/* [n_layers][n_kv_heads]; NaN: not measured */
	uint64_t n_texts, n_tokens, n_rows;	/* tokens and predictions of all texts together */
	uint64_t sinks, recent;
	struct cli_heads_loss losses[CLI_HEADS_LOSSES];
	double seconds;
};

/* As a head table. */
void cli_heads_print(const struct cli_heads_measured *m);
int cli_heads_print_json(const struct cli_heads_measured *m);

#endif
