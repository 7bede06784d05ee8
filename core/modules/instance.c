/* SPDX-License-Identifier: Apache-2.0 */
/* Instances of policies, engines and devices, with their parameters. */
#include "core/modules/registry.h"

#include <stdlib.h>
#include <string.h>

#define INSTANCE_ALIGN 64

/* Stands before the instance, which alone the module sees. */
struct before {
	_Alignas(INSTANCE_ALIGN) struct kv_arena arena;
};

static uint32_t instance_size(const struct kv_provider *provider)
{
	switch (provider->kind) {
	case KV_POLICY:
		return ((const struct kvmod_policy_ops *)provider->ops)->instance_size;
	case KV_ENGINE:
		return ((const struct kvmod_engine_ops *)provider->ops)->instance_size;
	case KV_DEVICE:
		return ((const struct kvmod_device_ops *)provider->ops)->instance_size;
	}
	return 0;
}

int kv_instance_new(struct kvmod_ctx *ctx, struct kv_provider *provider, void **out)
{
	size_t size = sizeof(struct before) + instance_size(provider);
	const struct kvmod_param *params;
	struct kvmod_instance *instance;
	struct before *before;
	uint32_t n;
	int err;

	size = (size + INSTANCE_ALIGN - 1) / INSTANCE_ALIGN * INSTANCE_ALIGN;
	before = aligned_alloc(INSTANCE_ALIGN, size);
	if (!before)
		return kv_no_memory();
	memset(before, 0, size);
	instance = (struct kvmod_instance *)(before + 1);
	instance->host = provider->module ? &provider->module->host : NULL;
	instance->ops = provider->ops;
	params = kv_provider_params(provider, &n);
	pthread_mutex_lock(&ctx->lock);
	err = kv_params_fill(ctx->config, kv_kind_name(provider->kind), provider->name,
			     params, n, &before->arena, instance);
	pthread_mutex_unlock(&ctx->lock);
	if (err)
		kv_instance_free(instance);
	else
		*out = instance;
	return err;
}

void kv_instance_free(void *instance)
{
	struct before *before;

	if (!instance)
		return;
	before = (struct before *)instance - 1;
	kv_arena_free(&before->arena);
	free(before);
}
