/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of what core is told before it uses any of it: requests, needs, models (request.c). */
#ifndef KV_CORE_RUN_REQUEST_H
#define KV_CORE_RUN_REQUEST_H

#include "core/base/log.h"

/*
 * Is the request one that the core can read: sizes, counts, lengths, strides? All
 * else in core/run relies on that. Row data and pointers other than NULL are the
 * host's word. Of positions only the first and the last are looked at: to read all
 * of them would cost a policy that goes by lengths alone more than its decision.
 */
int kv_request_check(const struct kvmod_request *request);
/* Does a request that passed bring what the policy asks for? */
int kv_request_serves(const struct kvmod_request *request, const struct kvmod_needs *needs);
/* Can anybody serve these needs? */
int kv_needs_check(const struct kvmod_needs *needs);
/* Is the model one that a session and policies can count with? */
int kv_model_check(const struct kvmod_model *model);

#endif
