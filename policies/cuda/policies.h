/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies that run on a GPU. Each has the name and the parameters of its version
 * for the CPU, and makes the same decisions; `device` in the configuration chooses.
 */
#ifndef KV_POLICIES_CUDA_H
#define KV_POLICIES_CUDA_H

#include <kvmod/policy.h>

extern const struct kvmod_policy_ops kv_cuda_adakv_ops;
extern const struct kvmod_policy_ops kv_cuda_refreekv_ops;
extern const struct kvmod_policy_ops kv_cuda_snapkv_ops;
extern const struct kvmod_policy_ops kv_cuda_topp_ops;

#endif
