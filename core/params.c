/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of parameters filled from a section, and instances that hold them. */
#include "core/parts.h"

#include <stdlib.h>
#include <string.h>

#define INSTANCE_ALIGN 64

static int fill_one(const struct kv_config *config, const char *kind, const char *name,
		    const struct kvmod_param *param, struct kv_pile *pile, void *field)
{
	const struct kv_entry *entry = kv_config_find(config, kind, name, param->name);
	int err;

	if (!entry) {
		err = kv_param_parse(param, param->def, NULL, pile, field);
		return err ? kv_fail_in(err, "the default of `%s`", param->name) : err;
	}
	err = kv_param_parse(param, entry->value, entry->source->dir, pile, field);
	return err ? kv_entry_fail(err, entry, "%s", kvmod_error()) : err;
}

int kv_params_fill(const struct kv_config *config, const char *kind, const char *name,
		   const struct kvmod_param *params, uint32_t n, struct kv_pile *pile, void *base)
{
	int err = KVMOD_OK;

	for (uint32_t i = 0; i < n && err == KVMOD_OK; i++)
		err = fill_one(config, kind, name, &params[i], pile,
			       (char *)base + params[i].offset);
	return err;
}

int kv_entry_check(const struct kv_entry *entry, const struct kvmod_param *param)
{
	struct kv_pile pile = { 0 };
	max_align_t field[2];		/* as big as the biggest */
	int err = kv_param_parse(param, entry->value, entry->source->dir, &pile, field);

	kv_pile_free(&pile);
	return err ? kv_entry_fail(err, entry, "%s", kvmod_error()) : err;
}

/* --- instances -------------------------------------------------------------------- */

/* In front of the instance, which the module sees. */
struct before {
	_Alignas(INSTANCE_ALIGN) struct kv_pile pile;
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
	case KV_COLLECTIVE:
		break;
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
			     params, n, &before->pile, instance);
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
	kv_pile_free(&before->pile);
	free(before);
}
