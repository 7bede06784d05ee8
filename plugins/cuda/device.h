/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cuda": the first GPU that CUDA_VISIBLE_DEVICES shows. */
#ifndef KV_PLUGINS_CUDA_DEVICE_H
#define KV_PLUGINS_CUDA_DEVICE_H

#include <kvmod/device.h>
#include <kvmod/policy.h>

#include "plugins/cuda/tables.h"

struct kv_cuda_device {
	struct kvmod_instance instance;
	uint32_t *sink;			/* see kv_cuda_read() */
	struct kv_cuda_tables tables;
};

extern const struct kvmod_device_ops kv_cuda_device_ops;

#endif
