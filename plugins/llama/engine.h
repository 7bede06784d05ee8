/* SPDX-License-Identifier: Apache-2.0 */
/* The engine "llama": its instance, and the table of its calls. */
#ifndef KV_PLUGINS_LLAMA_ENGINE_H
#define KV_PLUGINS_LLAMA_ENGINE_H

#include "plugins/gguf/engine.h"

struct ll_engine {
	struct gg_engine gg;		/* first: the checked file, threads, and text */
	struct llama_model *model;
	char architecture[64], name[128];
};

extern const struct kvmod_engine_ops ll_engine_ops;

#endif
