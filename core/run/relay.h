/* SPDX-License-Identifier: Apache-2.0 */
/* The relay between a policy and the services of an engine: replay and reread (relay.c). */
#ifndef KV_CORE_RUN_RELAY_H
#define KV_CORE_RUN_RELAY_H

#include "core/run/policy.h"

struct kv_relay {
	struct kvmod_policy *policy;
	const struct kvmod_request *request;	/* as the engine made it */
	const struct kvmod_plan *plan;		/* the core's own */
	uint32_t engine_flags;			/* KVMOD_ENGINE_... */
	void *stream;				/* on which the policy works */
	const struct kv_relay *before;
};

/* Replaces the services that the request offers by the relay. */
void kv_relay_offer(struct kvmod_request *handed);
/* Called before and after compress(): which policy the services of this thread serve. */
void kv_relay_begin(struct kv_relay *relay);
void kv_relay_end(const struct kv_relay *relay);

#endif
