/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cuda": the first GPU that CUDA_VISIBLE_DEVICES shows. */
#ifndef KV_PLUGINS_CUDA_DEVICE_H
#define KV_PLUGINS_CUDA_DEVICE_H

#include <kvmod/device.h>

extern const struct kvmod_device_ops kv_cuda_device_ops;

#endif
