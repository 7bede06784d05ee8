/* SPDX-License-Identifier: Apache-2.0 */
/* From the dot of a query and a key to a logit, in units of log 2. */
#ifndef KV_KERNELS_CUDA_BASE_LOGIT_CUH
#define KV_KERNELS_CUDA_BASE_LOGIT_CUH

#define KV_LOG2_E 1.44269504f

/* A kernel's scale: without a soft cap, the change of units is part of it. */
static inline float kv_logit_scale(float scale, float softcap)
{
	return softcap > 0 ? scale : scale * KV_LOG2_E;
}

/* Rare and long, so not inlined between the other instructions. */
static __device__ __noinline__ float kv_soften(float x, float cap)
{
	return cap * tanhf(x / cap) * KV_LOG2_E;
}

/* Of any launch `p` with a softcap and with a scale as above. */
template <class Launch> static __device__ __forceinline__ float kv_logit(const Launch &p, float dot)
{
	return p.softcap > 0 ? kv_soften(dot * p.scale, p.softcap) : dot * p.scale;
}

#endif
