/* SPDX-License-Identifier: Apache-2.0 */
/* Runs golden vectors through libkvmod, as any host would. */
#include "core/testkit/vectors.h"

#include <stdlib.h>
#include <string.h>

/* Copies the message of a failed call, or the name of its code. */
static int said(int err, char *why, size_t room)
{
	if (err)
		snprintf(why, room, "%s", *kvmod_error() ? kvmod_error() : kvmod_strerror(err));
	return err;
}

/* The case's parameters come after the given overrides, and so count. */
static int configure(struct kvmod_ctx *ctx, const char *config, const char *const *overrides,
		     size_t n_overrides, const struct vectors_case *c)
{
	const char **all = calloc(n_overrides + VECTORS_MAX_PARAMS, sizeof(*all));
	char *own[VECTORS_MAX_PARAMS];
	size_t n = vectors_overrides(c, own);
	int err = KVMOD_ENOMEM;

	if (all) {
		memcpy(all, overrides, n_overrides * sizeof(*all));
		memcpy(all + n_overrides, own, n * sizeof(*all));
		err = kvmod_configure(ctx, config, all, n_overrides + n);
	}
	while (n)
		free(own[--n]);
	free(all);
	return err;
}

static int decide(struct kvmod_policy *policy, const struct vectors_case *c,
		  const struct kvmod_request *request, char *why, size_t room)
{
	struct kvmod_plan *plan;
	int err = kvmod_plan_new(request, &plan);

	if (err)
		return said(err, why, room);
	err = kvmod_decide(policy, request, plan);
	for (uint32_t i = 0; err == 0 && i < plan->n_keeps; i++)
		err = kvmod_keep_at(plan, i)->status;
	if (err)
		said(err, why, room);
	else
		err = !vectors_match(c, request, plan, why, room);
	kvmod_plan_free(plan);
	return err;
}

int vectors_run(struct kvmod_ctx *ctx, const char *config, const char *const *overrides,
		size_t n_overrides, const struct vectors_case *c, uint32_t type,
		const char *device, char *why, size_t room)
{
	struct kvmod_model model = vectors_model(c);
	struct vectors_request request;
	struct kvmod_policy *policy;
	int err = said(configure(ctx, config, overrides, n_overrides, c), why, room);

	if (err)
		return err;
	err = said(kvmod_policy_open(ctx, c->policy, device, &model, &policy), why, room);
	if (err)
		return err;
	err = vectors_request(c, type, &request);
	if (err) {
		snprintf(why, room, "out of memory");
	} else {
		/* A policy that is asked while decoding may cut only then. */
		if (kvmod_policy_needs(policy)->decode_every)
			request.d.request.phase = KVMOD_DECODE;
		err = decide(policy, c, &request.d.request, why, room);
		vectors_request_free(&request);
	}
	kvmod_policy_close(policy);
	return err;
}
