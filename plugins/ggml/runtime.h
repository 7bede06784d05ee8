/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine "ggml": runs GGUF models through ggml's public API, each layer and KV head
 * with a cache length of its own. This is its instance.
 */
#ifndef KV_PLUGINS_GGML_RUNTIME_H
#define KV_PLUGINS_GGML_RUNTIME_H

#include "graph.h"
#include "thread_tuning.h"

/* An opened model, and what this engine needs to run it. */
struct gg_runtime {
	struct gg_engine engine;	/* first: the two have one address */
	int32_t context_override;	/* a parameter */
	uint64_t last_id, last_version;	/* of sequences */
	bool warned_unrotated;		/* there was no memory to rotate keys back */
	bool warned_hidden_keys;	/* a request shows no keys: see request.c */
	bool warned_lost_statistics;	/* a request shows none: see request.c */
	bool warned_past_context;	/* a sequence went past the model's context */
	struct gg_tuning tuning;
	struct gg_graph graph;
	struct gg_memory scratch[GG_N_SIDES];	/* of columns.c */
};

static inline struct gg_runtime *gg_runtime_of(struct gg_engine *engine)
{
	return (struct gg_runtime *)engine;
}

extern const struct kvmod_engine_ops gg_engine_ops;

#endif
