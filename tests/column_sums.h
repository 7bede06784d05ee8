/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The column sums that a sequence must show, in double precision, from what its requests show:
 * its keys, and the queries of the tokens that were run since the last look.
 */
#ifndef KV_TESTS_COLUMN_SUMS_H
#define KV_TESTS_COLUMN_SUMS_H

#include "tests/engine_host.h"
#include "tests/tiny_model.h"

#define SUMS_HEADS	8	/* query heads, at most */
#define SUMS_ROWS	1500	/* cached rows, at most */

struct column_sums {
	double of[TINY_LAYERS][SUMS_HEADS][SUMS_ROWS];
	uint64_t seen;		/* tokens that are added */
};

/* Needs that collect sums, and the queries of all tokens, so that sums_look() can see them. */
extern const struct kvmod_needs sums_needs;

/* Adds what the tokens since the last look pay. The request must show their queries. */
void sums_look(struct column_sums *sums, struct kvmod_seq *seq);
/* The sequence will be cut as this plan says. */
void sums_cut(struct column_sums *sums, struct kvmod_seq *seq, const struct kvmod_plan *plan);
/* Does the sequence show these sums? */
void sums_check(const struct column_sums *sums, struct kvmod_seq *seq);
/* Does it show any? */
bool sums_shown(struct kvmod_seq *seq);

#endif
