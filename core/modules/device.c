/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open devices: a context opens each device once, and closes it with its last holder.
 * The host's own, "cpu", is a device like any other.
 */
#include "core/modules/device.h"
#include "core/modules/call.h"

#include <stdlib.h>
#include <string.h>

/* --- opening ------------------------------------------------------------------------ */

static struct kvmod_device *find_open(struct kvmod_ctx *ctx, const struct kv_provider *provider)
{
	struct kvmod_device *d = ctx->devices;

	while (d && d->provider != provider)
		d = d->next;
	return d;
}

static int start(struct kvmod_device *d)
{
	int err = kv_instance_new(d->ctx, d->provider, &d->instance);

	if (err)
		return err;
	err = KV_CALL(d->ops, open, d->instance);
	if (err) {
		kv_failed(err, "device", d->ops->name);
		kv_instance_free(d->instance);
	}
	return err;
}

/* Its reference to the provider stays as long as it is open. NULL: *err says why. */
static struct kvmod_device *open_new(struct kvmod_ctx *ctx, struct kv_provider *provider, int *err)
{
	struct kvmod_device *d = calloc(1, sizeof(*d));

	if (!d) {
		*err = kv_no_memory();
		return NULL;
	}
	d->ctx = ctx;
	d->provider = provider;
	d->ops = provider->ops;
	*err = start(d);
	if (*err) {
		free(d);
		return NULL;
	}
	provider->refs++;
	d->next = ctx->devices;
	ctx->devices = d;
	return d;
}

int kv_device_open_locked(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out)
{
	struct kv_provider *provider;
	struct kvmod_device *d;
	int err = kv_provider_get_locked(ctx, KV_DEVICE, name, NULL, &provider);

	if (err)
		return err;
	d = find_open(ctx, provider);
	if (!d)
		d = open_new(ctx, provider, &err);
	provider->refs--;
	if (!d)
		return err;
	d->refs++;
	*out = d;
	return KVMOD_OK;
}

void kv_device_close_locked(struct kvmod_device *d)
{
	struct kvmod_device **link = &d->ctx->devices;

	if (--d->refs > 0)
		return;
	while (*link != d)
		link = &(*link)->next;
	*link = d->next;
	KV_CALL_VOID(d->ops->close(d->instance));
	kv_instance_free(d->instance);
	d->provider->refs--;
	free(d);
}

int kvmod_device_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_device_open_locked(ctx, name, out);
	if (err == KVMOD_OK)
		kvmod_ref(ctx);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}

void kvmod_device_close(struct kvmod_device *d)
{
	struct kvmod_ctx *ctx;

	if (!d)
		return;
	ctx = d->ctx;
	pthread_mutex_lock(&ctx->lock);
	kv_device_close_locked(d);
	pthread_mutex_unlock(&ctx->lock);
	kvmod_unref(ctx);
}

const struct kvmod_device_ops *kvmod_device_ops(const struct kvmod_device *d)
{
	return d->ops;
}

void *kvmod_device_instance(const struct kvmod_device *d)
{
	return d->instance;
}

/* --- held by modules ----------------------------------------------------------------- */

struct kv_held {
	struct kv_held *next;
	struct kvmod_device *device;
};

static struct kvmod_device *find_held(const struct kv_module *module, const char *name)
{
	for (const struct kv_held *h = module->held; h; h = h->next)
		if (kv_name_eq(h->device->ops->name, name))
			return h->device;
	return NULL;
}

int kv_module_device(struct kv_module *module, const char *name, struct kvmod_device **out)
{
	struct kv_held *held;
	int err;

	name = kv_config_alias(module->ctx->config, name);
	*out = find_held(module, name);
	if (*out)
		return KVMOD_OK;
	held = kv_arena_alloc(&module->arena, sizeof(*held));
	if (!held)
		return KVMOD_ENOMEM;
	err = kv_device_open_locked(module->ctx, name, out);
	if (err)
		return err;
	held->device = *out;
	held->next = module->held;
	module->held = held;
	return KVMOD_OK;
}

void kv_module_close_devices(struct kv_module *module)
{
	for (struct kv_held *h = module->held; h; h = h->next)
		kv_device_close_locked(h->device);
	module->held = NULL;
}

bool kv_device_is_host(const struct kvmod_device *device)
{
	return kv_name_eq(device->ops->name, KV_CPU);
}

bool kv_accelerator_is_open(const struct kvmod_ctx *ctx)
{
	for (const struct kvmod_device *d = ctx->devices; d; d = d->next)
		if (!kv_device_is_host(d))
			return true;
	return false;
}

bool kv_device_is_own(const struct kv_module *module, const struct kv_provider *provider)
{
	const struct kvmod_device *d = find_open(module->ctx, provider);

	return d && d->refs == 1 && find_held(module, d->ops->name) == d;
}
