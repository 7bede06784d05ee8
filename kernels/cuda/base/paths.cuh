/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of a path by element type, alignment and dimension of the keys (see keys.cuh). */
#ifndef KV_KERNELS_CUDA_BASE_PATHS_CUH
#define KV_KERNELS_CUDA_BASE_PATHS_CUH

#include "kernels/cuda/base/fma.cuh"
#include "kernels/cuda/base/mma.cuh"
#include "kernels/cuda/base/q8.cuh"

/* A path as an argument of a generic lambda. */
template <class P> struct kv_path {
	typedef P type;
};

template <class T, uint32_t TYPE, class Launch>
static cudaError_t kv_with_half(bool aligned, uint32_t dim, const Launch &launch)
{
	if (!aligned)
		return launch(kv_path<kv_fma<TYPE, false>>());
	if (dim <= 64)
		return launch(kv_path<kv_mma<T, 2>>());
	if (dim <= 128)
		return launch(kv_path<kv_mma<T, 4>>());
	return launch(kv_path<kv_mma<T, 8>>());
}

template <class Launch> static cudaError_t kv_with_q8(bool aligned, uint32_t dim, const Launch &launch)
{
	if (!aligned || dim % 64)
		return launch(kv_path<kv_fma<KVMOD_Q8_0, false>>());
	if (dim <= 64)
		return launch(kv_path<kv_q8<2>>());
	if (dim <= 128)
		return launch(kv_path<kv_q8<4>>());
	return launch(kv_path<kv_q8<8>>());
}

/* Calls launch(kv_path<P>()). aligned: does every key begin at a multiple of kv_key_alignment()? */
template <class Launch>
static cudaError_t kv_with_path(uint32_t type, bool aligned, uint32_t dim, const Launch &launch)
{
	switch (type) {
	case KVMOD_BF16:
		return kv_with_half<__nv_bfloat16, KVMOD_BF16>(aligned, dim, launch);
	case KVMOD_F16:
		return kv_with_half<__half, KVMOD_F16>(aligned, dim, launch);
	case KVMOD_Q8_0:
		return kv_with_q8(aligned, dim, launch);
	default:
		if (aligned)
			return launch(kv_path<kv_fma<KVMOD_F32, true>>());
		return launch(kv_path<kv_fma<KVMOD_F32, false>>());
	}
}

#endif
