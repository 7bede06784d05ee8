/* SPDX-License-Identifier: Apache-2.0 */
/* The steps around a decision, each in a file of its own. */
#ifndef KV_CORE_RUN_DECIDE_H
#define KV_CORE_RUN_DECIDE_H

#include "core/run/policy.h"

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
/* After a failure, err: the whole plan becomes whole, with a line. Returns err (settle.c). */
int kv_refuse(struct kvmod_policy *policy, struct kvmod_plan *plan, int err);

#endif
