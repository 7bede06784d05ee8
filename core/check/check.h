/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of a configuration: everything that it names is tried in a child process (check.c, trial.c, probe.c). */
#ifndef KV_CORE_CHECK_CHECK_H
#define KV_CORE_CHECK_CHECK_H

#include "core/modules/catalog.h"

/* Called before each step, with its name. */
typedef void kv_step_fn(void *arg, const char *what);

/* Tries everything that a configuration, which was read already, names. */
int kv_check_config(struct kvmod_ctx *ctx, struct kv_config *config, uint32_t limit_ms,
		    kvmod_finding_fn *fn, void *arg);

/*
 * Loads what the context's configuration names, and uses it once. An engine that is
 * in use is tried with the policy in use, unless that is known to fail.
 */
int kv_try(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name, bool policy_failed,
	   kv_step_fn *step, void *arg);
/*
 * Opens the policy on a made-up model, where kvmod_policy_open() would with this
 * device, and runs one request.
 */
int kv_probe_policy(struct kvmod_ctx *ctx, const char *name, const char *device,
		    kv_step_fn *step, void *arg);
/*
 * Does what a session does before the first prompt, without the weights: opens the
 * engine, opens the policy (NULL: none) for its model, and asks whether the engine
 * serves what the policy needs.
 */
int kv_probe_engine(struct kvmod_ctx *ctx, const char *name, const char *policy,
		    kv_step_fn *step, void *arg);

#endif
