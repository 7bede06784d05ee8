/* SPDX-License-Identifier: Apache-2.0 */
/* A decision, and the steps around it, each in a file of its own. */
#ifndef KV_CORE_RUN_DECIDE_H
#define KV_CORE_RUN_DECIDE_H

#include "core/run/policy.h"

/*
 * kvmod_decide() for an engine with these flags: plans that the policy tries out are
 * such as the engine can apply.
 */
int kv_decide(struct kvmod_policy *policy, const struct kvmod_request *request,
	      struct kvmod_plan *plan, uint32_t engine_flags);

/*
 * After staging: what the policy asked for and an engine stores rotated becomes plain
 * floats. KVMOD_ENOTSUP for a policy that does not run on the CPU (rotation.c).
 */
int kv_unrotate(struct kvmod_policy *policy);

/* Scratch for compress(), as the policy's workspace() asks, into *r (workspace.c). */
int kv_give_workspace(struct kvmod_policy *policy, struct kvmod_request *r);

/* The flags of a plan that was checked, by a policy with these flags (gaps.c). */
uint32_t kv_plan_flags(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t flags);

/*
 * After compress(): takes the answer over into the plan, checks every keep and counts.
 * A keep that is refused becomes whole; one line says so for all of them (settle.c).
 */
void kv_settle(struct kvmod_policy *policy, const struct kvmod_request *r, struct kvmod_plan *plan);
/* A keep with that status keeps all rows, as they are. */
void kv_leave_whole(struct kvmod_keep *keep, int status);
/*
 * After a failure, err: the whole plan becomes whole, with a line, even if it is no plan for
 * the request. Returns err (settle.c).
 */
int kv_refuse(struct kvmod_policy *policy, struct kvmod_plan *plan, int err);

#endif
