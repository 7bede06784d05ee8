/* SPDX-License-Identifier: Apache-2.0 */
/* The module file around the engines: its descriptor. */
#include "engine.h"

static int32_t init(const struct kvmod_host *host)
{
	int32_t code = host->register_engine(host->ctx, &gg_engine_ops);

	return code ? code : host->register_engine(host->ctx, &gg_llama_ops);
}

/* Resident: ggml's worker threads outlive the last engine. */
KVMOD_MODULE("ggml", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "runs GGUF models through ggml, each KV head with a cache of its own length",
	     KVMOD_MODULE_RESIDENT, init, NULL);
