/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What engines of GGUF models have in common: the checked file, ggml's backends, and
 * text to tokens. An engine's own instance begins with struct gg_engine.
 */
#ifndef KV_PLUGINS_GGUF_ENGINE_H
#define KV_PLUGINS_GGUF_ENGINE_H

#include <kvmod/engine.h>

#include "backend.h"
#include "chat.h"
#include "gpu.h"
#include "model.h"
#include "text.h"

/* Keeps the reason of a failure for the caller; returns code. */
#define gg_fail(engine, code, ...) \
	((engine)->base.host->fail((engine)->base.host->ctx, code, __VA_ARGS__))
#define gg_log(engine, level, ...) \
	((engine)->base.host->log((engine)->base.host->ctx, level, __VA_ARGS__))

struct gg_engine {
	struct kvmod_instance base;

	/* Parameters; an engine that does not list one leaves it 0. */
	const char *model;
	int64_t context, threads, batch, gpu_layers;
	int32_t cache_type, chat_template, mmap;

	bool check_only;		/* check the model; copy no weights, start no threads */
	enum ggml_type type;		/* of K and V */
	uint64_t limit;			/* tokens from the oldest that is cached to the newest */
	struct kvmod_model public_model;
	struct gg_backend backend;
	struct gg_gpu gpu;
	struct gg_model net;
	struct gg_text text;
};

/* --- parameters that the engines share -------------------------------------------- */

#define GG_PARAM_MODEL(P, owner) \
	P(owner, struct gg_engine, model, PATH, "models/default.gguf", "", \
	  "the model, a GGUF file")
#define GG_PARAM_CONTEXT(P, owner) \
	P(owner, struct gg_engine, context, INT, "0", "0..", \
	  "longest sequence in tokens; 0: what the model was trained for")
#define GG_PARAM_BATCH(P, owner) \
	P(owner, struct gg_engine, batch, INT, "512", "1..16384", \
	  "most tokens in one pass")
#define GG_PARAM_GPU_LAYERS(P, owner) \
	P(owner, struct gg_engine, gpu_layers, INT, "-1", "-1..", \
	  "last layers of the model that run on a CUDA GPU; -1: all, if there is a GPU")
#define GG_PARAM_CACHE_TYPE(P, owner) \
	P(owner, struct gg_engine, cache_type, CHOICE, "f16", "f32|f16|q8_0", \
	  "element type of the cached K and V")
#define GG_PARAM_CHAT_TEMPLATE(P, owner) \
	P(owner, struct gg_engine, chat_template, CHOICE, "auto", GG_TEMPLATE_NAMES, \
	  "how a conversation is rendered; auto: as the model's file says")

/* The type that cache_type names. */
static inline enum ggml_type gg_cache_type(const struct gg_engine *engine)
{
	static const enum ggml_type types[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0 };

	return types[engine->cache_type];
}

#endif
