/* SPDX-License-Identifier: Apache-2.0 */
/* The extension KVMOD_DEVICE_ATTENTION of the device "cuda". */
#ifndef KV_PLUGINS_CUDA_ATTENTION_H
#define KV_PLUGINS_CUDA_ATTENTION_H

#include "plugins/cuda/device.h"

extern const struct kvmod_device_attention kv_cuda_device_attention;

#endif
