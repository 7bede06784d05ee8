/* SPDX-License-Identifier: Apache-2.0 */
/* What the core itself provides: the policy fullkv, and the host as a device. */
#ifndef KV_CORE_RUN_BUILTIN_H
#define KV_CORE_RUN_BUILTIN_H

#include <kvmod/kvmod.h>

extern const struct kvmod_policy_ops kv_fullkv_ops;
extern const struct kvmod_device_ops kv_cpu_device_ops;

/* How "cpu" allocates memory, aligned well enough for any use. */
int32_t kv_host_alloc(void *self, uint64_t bytes, void **memory);
void kv_host_free(void *self, void *memory);

#endif
