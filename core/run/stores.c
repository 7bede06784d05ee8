/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As which types kept rows are stored: what the configuration asks for, where the policy does
 * not choose, and nothing that the engine cannot do.
 */
#include "core/run/stores.h"

static bool can_convert(struct kvmod_engine *engine)
{
	return kvmod_engine_ops(engine)->flags & KVMOD_ENGINE_STORES;
}

static void set(struct kvmod_keep *keep, uint32_t k, uint32_t v)
{
	keep->k_store = k;
	keep->v_store = v;
}

struct kv_stores kv_stores_of(struct kvmod_engine *engine)
{
	const struct kvmod_model *model = kvmod_engine_model(engine);
	struct kvmod_ctx *ctx = kv_engine_ctx(engine);
	const char *asked = kvmod_config_get(ctx, "kvmod", "store");
	struct kv_stores stores = { 0 };
	uint32_t block;

	kvmod_stores_of(kv_store(ctx), &stores.k, &stores.v);
	if (stores.k == KVMOD_STORE_SAME)
		return stores;
	block = kvmod_block_size(stores.k);
	if (can_convert(engine) && model->head_dim % block == 0)
		return stores;
	if (can_convert(engine))
		kv_log(ctx, KVMOD_WARN, "[kvmod] store = %s: its blocks of %u do not divide the head "
		       "dimension of %s, %u: rows stay as they are", asked, block, model->name,
		       model->head_dim);
	else
		kv_log(ctx, KVMOD_WARN, "[kvmod] store = %s: engine %s cannot store rows as another "
		       "type: they stay as they are", asked, kvmod_engine_ops(engine)->name);
	stores.k = stores.v = KVMOD_STORE_SAME;
	return stores;
}

void kv_stores_offer(const struct kv_stores *stores, struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		set(kvmod_keep_at(plan, i), stores->k, stores->v);
}

void kv_stores_drop(struct kv_stores *stores, struct kvmod_engine *engine,
		    struct kvmod_policy *policy, struct kvmod_plan *plan)
{
	bool wanted = false;

	if (can_convert(engine))
		return;
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		wanted |= kv_keep_converts(keep);
		set(keep, KVMOD_STORE_SAME, KVMOD_STORE_SAME);
	}
	if (wanted && !stores->said)
		kv_log(kv_engine_ctx(engine), KVMOD_WARN,
		       "policy %s asks to store rows as another type, but engine %s cannot: "
		       "the rows stay unchanged",
		       kvmod_policy_ops(policy)->name, kvmod_engine_ops(engine)->name);
	stores->said |= wanted;
}
