/* SPDX-License-Identifier: Apache-2.0 */
/* Queries before RoPE and their statistics in double precision, made without the engine's graph. */
#ifndef KV_TESTS_QUERY_REFERENCE_H
#define KV_TESTS_QUERY_REFERENCE_H

#include "tests/engine_host.h"

/* Tokens that the statistics are of: any of 0 .. n - 1. */
struct query_set {
	const double *q;		/* [n][n_q_heads * head_dim] */
	const bool *in;			/* [n]; NULL: all */
	uint32_t n;
};

/* Queries of the first layer before RoPE, from the model's weights, which are F32. */
void query_reference_first(const struct gg_engine *engine, const int32_t *tokens, uint32_t n,
			   double *q);
/* Takes back the rotation of queries after RoPE, row i of which has position i. Not for YaRN. */
void query_reference_unturn(const struct gg_engine *engine, const float *turned, uint32_t n,
			    double *q);
/* Does a segment have the statistics of these queries? `near`: of a head's largest number. */
void query_reference_check(const struct kvmod_segment *segment, const struct query_set *set,
			   double near);

#endif
