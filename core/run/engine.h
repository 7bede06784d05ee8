/* SPDX-License-Identifier: Apache-2.0 */
/* An engine that is open (engine.c). */
#ifndef KV_CORE_RUN_ENGINE_H
#define KV_CORE_RUN_ENGINE_H

#include "core/modules/registry.h"

struct kvmod_ctx *kv_engine_ctx(const struct kvmod_engine *engine);
/*
 * As kvmod_engine_open(), but weights need not be loaded: only its model, and what
 * it serves, may be asked for. Closed with kvmod_engine_close().
 */
int kv_engine_check(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **engine);
/* Refuses a policy that would cut, if the engine cuts nothing. policy may be NULL. */
int kv_engine_cuts(struct kvmod_engine *engine, struct kvmod_policy *policy);
/* Can it cut as a policy may ask, and show what it needs, as far as it can say? */
int kv_engine_serves(struct kvmod_engine *engine, struct kvmod_policy *policy);

#endif
