/* SPDX-License-Identifier: Apache-2.0 */
/* Checks requests, needs and models before the core uses them (request.c). */
#ifndef KV_CORE_RUN_REQUEST_H
#define KV_CORE_RUN_REQUEST_H

#include "core/base/log.h"

/*
 * Checks the sizes, counts, lengths and strides of a request; everything else in
 * core/run relies on this check. Row data and pointers other than NULL are trusted. Of
 * positions only the first and the last are checked: reading all of them would take
 * longer than the decision of a policy that uses only lengths.
 */
int kv_request_check(const struct kvmod_request *request);
/* Does a checked request contain what the policy needs? */
int kv_request_serves(const struct kvmod_request *request, const struct kvmod_needs *needs);
/* Are these needs that an engine could serve? */
int kv_needs_check(const struct kvmod_needs *needs);
/* Checks the numbers of a model, for sessions and policies. */
int kv_model_check(const struct kvmod_model *model);

#endif
