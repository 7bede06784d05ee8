/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies that run on a GPU. Each has the name and the parameters of its version
 * for the CPU, and makes the same decisions; `device` in the configuration chooses.
 */
#ifndef KV_POLICIES_CUDA_POLICIES_H
#define KV_POLICIES_CUDA_POLICIES_H

#include <kvmod/policy.h>

/* The types of K that the kernels on a GPU read. */
#define KV_CUDA_TYPES (KVMOD_TYPE_BIT(KVMOD_F32) | KVMOD_TYPE_BIT(KVMOD_F16) | \
		       KVMOD_TYPE_BIT(KVMOD_BF16) | KVMOD_TYPE_BIT(KVMOD_Q8_0))

/* Defines needs() of a policy on a GPU: those of its version for the CPU, of these types. */
#define KV_CUDA_NEEDS(name, needs_on_cpu) \
	static int32_t name(void *self, struct kvmod_needs *needs) \
	{ \
		needs->types = KV_CUDA_TYPES; \
		return needs_on_cpu(self, needs); \
	}

extern const struct kvmod_policy_ops kv_cuda_adakv_ops;
extern const struct kvmod_policy_ops kv_cuda_refreekv_ops;
extern const struct kvmod_policy_ops kv_cuda_snapkv_ops;
extern const struct kvmod_policy_ops kv_cuda_topp_ops;

#endif
