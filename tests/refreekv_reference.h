/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV in double precision, as its definition says it, one step after the other. */
#ifndef KV_TESTS_REFREEKV_REFERENCE_H
#define KV_TESTS_REFREEKV_REFERENCE_H

#include <stdbool.h>

#include <kvmod/types.h>

struct reference_params {
	double threshold;
	uint32_t sinks, recent, rows, window;
	bool by_attention, norm_all;
};

struct reference {
	bool finite;		/* is all attention finite? */
	uint32_t count;		/* positions kept of each KV head */
	double loss;
	/* how near another count was: |loss - threshold| there and one below */
	double margin;
	/* how near a position of the set was to the next: relative, by attention */
	double tie;
	unsigned char *kept;	/* [n_kv_heads][n] */
};

/*
 * The attention that row `row` of Q and query head h pay, softmax over all cached
 * positions that the row sees: [n] of its KV head, 0 where it sees nothing.
 */
void reference_attention(const struct kvmod_segment *segment, uint32_t row, uint32_t h, double *a);

/* 0 or KVMOD_ENOMEM. Free kept. */
int reference_decide(const struct kvmod_segment *segment, const struct reference_params *params,
		     struct reference *out);

#endif
