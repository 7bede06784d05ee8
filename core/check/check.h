/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a configuration by trying everything it names in child processes (check.c, trial.c). */
#ifndef KV_CORE_CHECK_CHECK_H
#define KV_CORE_CHECK_CHECK_H

#include "core/modules/catalog.h"

/* Called before each step with the step's name. */
typedef void kv_step_fn(void *arg, const char *what);

/* Tries everything that a configuration names; the configuration has been read. */
int kv_check_config(struct kvmod_ctx *ctx, struct kv_config *config, uint32_t limit_ms,
		    kvmod_finding_fn *fn, void *arg);

/*
 * Loads one thing that the context's configuration names, and uses it once. The engine
 * in use is tried with the policy in use, unless that policy has failed already.
 */
int kv_try(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name, bool policy_failed,
	   kv_step_fn *step, void *arg);
/*
 * Opens the policy for a made-up model, on the device that kvmod_policy_open() would
 * choose, and lets it decide one request.
 */
int kv_probe_policy(struct kvmod_ctx *ctx, const char *name, const char *device,
		    kv_step_fn *step, void *arg);
/*
 * Does what a session does before its first prompt, but without weights: opens the
 * engine, opens the policy (NULL: none) for its model, and asks whether the engine
 * supplies what the policy needs.
 */
int kv_probe_engine(struct kvmod_ctx *ctx, const char *name, const char *policy,
		    kv_step_fn *step, void *arg);

#endif
