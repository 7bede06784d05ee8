/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that are open (device.c). The lock is held, but for kv_device_is_host(). */
#ifndef KV_CORE_MODULES_DEVICE_H
#define KV_CORE_MODULES_DEVICE_H

#include "core/modules/registry.h"

/* As kvmod_device_open() and kvmod_device_close(), but the context is not referenced. */
int kv_device_open_locked(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out);
void kv_device_close_locked(struct kvmod_device *device);
/* For host->device(): opened at the module's first call, closed with the module. */
int kv_module_device(struct kv_module *module, const char *name, struct kvmod_device **out);
void kv_module_close_devices(struct kv_module *module);
/* Is it the host's own, "cpu"? */
bool kv_device_is_host(const struct kvmod_device *device);
/* Is a device open other than the host's own? */
bool kv_accelerator_is_open(const struct kvmod_ctx *ctx);
/* Is the device open, with this module as its only holder? */
bool kv_device_is_own(const struct kv_module *module, const struct kv_provider *provider);

struct kvmod_device {
	struct kvmod_device *next;
	struct kvmod_ctx *ctx;
	struct kv_provider *provider;
	const struct kvmod_device_ops *ops;
	void *instance;
	unsigned refs;
};

#endif
