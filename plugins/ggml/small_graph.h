/* SPDX-License-Identifier: Apache-2.0 */
/* A graph of a few nodes on one side: built, run, perhaps again, and freed. */
#ifndef KV_PLUGINS_GGML_SMALL_GRAPH_H
#define KV_PLUGINS_GGML_SMALL_GRAPH_H

#include "plugins/gguf/engine.h"

struct gg_small_graph {
	struct gg_engine *engine;
	enum gg_side side;
	struct ggml_context *context;
	struct ggml_cgraph *nodes;
	ggml_gallocr_t memory;
};

/* For at most n tensors. False: not enough memory; free it even so. */
bool gg_small_graph_new(struct gg_small_graph *graph, struct gg_engine *engine, enum gg_side side, size_t n);
/* All nodes are there: gives them, and inputs, their memory. False: not enough. */
bool gg_small_graph_plan(struct gg_small_graph *graph);
/* Runs it to its end: cancelling does not stop it. */
int32_t gg_small_graph_run(struct gg_small_graph *graph);
void gg_small_graph_free(struct gg_small_graph *graph);

#endif
