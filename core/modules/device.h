/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that are open. The lock is held for the calls with kv_module and kv_device_take (device.c). */
#ifndef KVMOD_MODULES_DEVICE_H
#define KVMOD_MODULES_DEVICE_H

#include "core/modules/registry.h"

/* As kvmod_device_open() and kvmod_device_close(), but the context is not held. */
int kv_device_take(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out);
void kv_device_drop(struct kvmod_device *device);
/* The module's own, opened the first time that it asks. */
int kv_module_device(struct kv_module *module, const char *name, struct kvmod_device **out);
void kv_module_drop_devices(struct kv_module *module);
/* Is one open other than the host's own? */
bool kv_accelerator_is_open(const struct kvmod_ctx *ctx);
/* Is the device open, and for nobody but this module? */
bool kv_device_is_own(const struct kv_module *module, const struct kv_provider *provider);

/* KVMOD_ON_... of a device's name; 0: unknown. */
uint32_t kv_device_bit(const char *name);
uint32_t kv_devices_known(void);		/* all of them */
const char *kv_device_name(uint32_t on);	/* of the lowest bit; NULL: none */

struct kvmod_device {
	struct kvmod_device *next;
	struct kvmod_ctx *ctx;
	struct kv_provider *provider;
	const struct kvmod_device_ops *ops;
	void *instance;
	unsigned refs;
};

#endif
