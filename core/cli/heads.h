/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `kvmod heads` share. */
#ifndef KV_CORE_CLI_HEADS_H
#define KV_CORE_CLI_HEADS_H

#include "core/cli/run.h"

/* --- texts (heads_text.c) ---------------------------------------------------------- */

/*
 * A text of so many filler sentences with passkeys between them, which asks for the passkeys,
 * and the answer, which recites them. The same seed gives the same text. CLI_FAILED after the
 * reason was printed.
 */
int cli_heads_text(uint64_t seed, uint32_t n_sentences, struct cli_text *text,
		       struct cli_text *answer);

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

/* Can cli_heads_write() write there? CLI_FAILED after the reason was printed. */
int cli_heads_check_output(const char *path);
/* Writes the table to the file, all or nothing; path NULL: to stdout. */
int cli_heads_write(const struct cli_heads_measured *m, const char *path);
int cli_heads_print_json(const struct cli_heads_measured *m);

#endif
