/* SPDX-License-Identifier: Apache-2.0 */
/* The module "llama": its descriptor, which registers the engine. */
#include "engine.h"

static int32_t init(const struct kvmod_host *host)
{
	return host->register_engine(host->ctx, &ll_engine_ops);
}

/* Resident: ggml's worker threads outlive the last engine. */
KVMOD_MODULE("llama", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "runs GGUF models through libllama, to compare other engines with",
	     KVMOD_MODULE_RESIDENT, init, NULL);
