/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How well a model foretells a long text that it streams: the loss of each token, with
 * a cache that streamingllm bounds, and with one that libllama shifts just so.
 */
#ifndef KV_TESTS_STREAMING_H
#define KV_TESTS_STREAMING_H

#include <stdint.h>

#include <kvmod/kvmod.h>

struct streaming {
	const char *model;
	uint32_t budget, sinks, every;	/* a pass, then a cut, every so many tokens */
	uint32_t context;		/* 0: the model's */
	uint32_t gpu_layers;		/* of the engine; libllama runs on the CPU */
	const int32_t *tokens;
	uint32_t n;
};

/* Opens the engine "ggml" and the policy, configured so. Both must not fail. */
void streaming_open(const struct streaming *s, struct kvmod_ctx **ctx, struct kvmod_engine **engine,
		    struct kvmod_policy **policy);
/* Loss in nats of each token, given those before it; [n], of the first one 0. 0, or a failure's code. */
int streaming_ours(const struct streaming *s, struct kvmod_engine *engine, struct kvmod_policy *policy,
		   double *loss);
int streaming_libllama(const struct streaming *s, double *loss);

#endif
