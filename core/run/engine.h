/* SPDX-License-Identifier: Apache-2.0 */
/* Open engines (engine.c). */
#ifndef KV_CORE_RUN_ENGINE_H
#define KV_CORE_RUN_ENGINE_H

#include "core/modules/registry.h"

struct kvmod_ctx *kv_engine_ctx(const struct kvmod_engine *engine);
/*
 * Like kvmod_engine_open(), but the engine need not load weights: the caller may ask only
 * for its model and what it serves. Close it with kvmod_engine_close().
 */
int kv_engine_check(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **engine);
/* Refuses a policy that would cut, if the engine cuts nothing. policy may be NULL. */
int kv_engine_can_cut(struct kvmod_engine *engine, struct kvmod_policy *policy);
/* Refuses a policy if the engine can neither cut for it nor supply what it needs. */
int kv_engine_serves(struct kvmod_engine *engine, struct kvmod_policy *policy);

#endif
