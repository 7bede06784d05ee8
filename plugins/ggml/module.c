/* SPDX-License-Identifier: Apache-2.0 */
/* The module "ggml": its descriptor, which registers the engine. */
#include "runtime.h"

static int32_t init(const struct kvmod_host *host)
{
	return host->register_engine(host->ctx, &gg_engine_ops);
}

/* Resident: ggml's worker threads outlive the last engine. */
KVMOD_MODULE("ggml", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "runs GGUF models through ggml, each KV head with a cache of its own length",
	     KVMOD_MODULE_RESIDENT, init, NULL);
