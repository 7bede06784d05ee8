/* SPDX-License-Identifier: Apache-2.0 */
/* As which types a session has kept rows stored (stores.c). */
#ifndef KV_CORE_RUN_STORES_H
#define KV_CORE_RUN_STORES_H

#include "core/run/engine.h"

struct kv_stores {
	uint32_t k, v;			/* of plans that do not choose, as set in [kvmod] */
	bool said;			/* warned that the engine leaves rows unchanged */
};

/* What the configuration asks for, if this engine and model can have it. */
struct kv_stores kv_stores_of(struct kvmod_engine *engine);
/* Fills in a plan that the policy has yet to see. */
void kv_stores_offer(const struct kv_stores *stores, struct kvmod_plan *plan);
/* Resets what the policy chose, if the engine cannot convert rows. */
void kv_stores_drop(struct kv_stores *stores, struct kvmod_engine *engine,
		    struct kvmod_policy *policy, struct kvmod_plan *plan);

/* Are the rows of this segment to be stored as another type? */
static inline bool kv_keep_converts(const struct kvmod_keep *keep)
{
	return keep->k_store != KVMOD_STORE_SAME || keep->v_store != KVMOD_STORE_SAME;
}

#endif
