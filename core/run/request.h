/* SPDX-License-Identifier: Apache-2.0 */
/* Checks requests, needs and models before the core uses them (request.c, needs.c). */
#ifndef KV_CORE_RUN_REQUEST_H
#define KV_CORE_RUN_REQUEST_H

#include "core/base/log.h"

#define MAX_POSITIONS	((uint32_t)INT32_MAX)	/* positions are int32_t */

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
/*
 * Makes `all`, which is no policy's own, contain what `more` asks for: an engine that collects
 * it has all that each of them needs (needs.c). KVMOD_ENOTSUP: it cannot.
 */
int kv_needs_add(struct kvmod_needs *all, const struct kvmod_needs *more);
/* Checks the numbers of a model, for sessions and policies. */
int kv_model_check(const struct kvmod_model *model);

#endif
