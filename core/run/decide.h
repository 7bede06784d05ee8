/* SPDX-License-Identifier: Apache-2.0 */
/* A decision, and the steps around it; each has its own file. */
#ifndef KV_CORE_RUN_DECIDE_H
#define KV_CORE_RUN_DECIDE_H

#include "core/run/policy.h"

/*
 * kvmod_decide() for an engine with these flags: the plans that the policy tries out are
 * ones that the engine can apply.
 */
int kv_decide(struct kvmod_policy *policy, const struct kvmod_request *request,
	      struct kvmod_plan *plan, uint32_t engine_flags);

/*
 * After staging: converts rotated rows that the policy asked for to plain floats.
 * KVMOD_ENOTSUP for a policy that does not run on the CPU (rotation.c).
 */
int kv_unrotate(struct kvmod_policy *policy);

/* Scratch for compress(), as the policy's workspace() asks, into *r (workspace.c). */
int kv_give_workspace(struct kvmod_policy *policy, struct kvmod_request *r);

/* The flags of a checked plan, made by a policy with these flags (gaps.c). */
uint32_t kv_plan_flags(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t flags);

/*
 * After compress(): copies the answer into the plan, checks every keep, and updates the
 * counters. A segment whose keep is refused is kept whole; one log line covers all of
 * these (settle.c).
 */
void kv_settle(struct kvmod_policy *policy, const struct kvmod_request *r, struct kvmod_plan *plan);
/* The keep gets that status and keeps all rows, unchanged (settle.c). */
void kv_leave_whole(struct kvmod_keep *keep, int status);
/*
 * After the failure err: keeps every segment whole and logs why. The plan may be one that
 * was refused, without keeps. Returns err (settle.c).
 */
int kv_refuse(struct kvmod_policy *policy, struct kvmod_plan *plan, int err);

#endif
