/* SPDX-License-Identifier: Apache-2.0 */
/* KL(whole || cut) of two runs' logits, computed on the side that they are on. */
#ifndef KV_PLUGINS_GGML_DIVERGENCE_H
#define KV_PLUGINS_GGML_DIVERGENCE_H

#include "memory.h"
#include "small_graph.h"

/* What the graph hands to the host, for each row. */
enum gg_divergence_output {
	GG_MOVED,			/* the mean of whole - cut, as the whole weighs it */
	GG_WHOLE_LOGIT, GG_WHOLE_PROB,	/* of the whole's most probable token, */
	GG_CUT_LOGIT, GG_CUT_PROB,	/* and of the cut's */
	GG_N_DIVERGENCE_OUTPUTS
};

struct gg_divergence {
	uint32_t n_rows;
	uint32_t block;			/* rows that the nodes take at a time */
	struct gg_memory whole, cut;	/* logits, [n_rows][n_vocab], on the side of the output */
	struct gg_small_graph graph;
	struct ggml_tensor *(*outputs)[GG_N_DIVERGENCE_OUTPUTS];	/* of each block */
	float *fetched;			/* [GG_N_DIVERGENCE_OUTPUTS][block] */
};

/* Overwrites *d. False: not enough memory, and nothing is kept. */
bool gg_divergence_new(struct gg_divergence *d, struct gg_engine *engine, uint32_t n_rows);
/* The mean over the rows, in nats, of the logits that are in whole and cut now. */
int32_t gg_divergence_run(struct gg_divergence *d, double *mean);
/* *d may be all zero, and is then. */
void gg_divergence_free(struct gg_divergence *d);

#endif
