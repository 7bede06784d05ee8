/* SPDX-License-Identifier: Apache-2.0 */
/* Loads, stores and fences that say what the caches are to keep. */
#ifndef KV_KERNELS_CUDA_BASE_MEMORY_CUH
#define KV_KERNELS_CUDA_BASE_MEMORY_CUH

#include <stdint.h>

/* --- keys: read once -------------------------------------------------------------- */

/* Keys that are read only once must not push out of L2 what is read again. */
static __device__ __forceinline__ uint64_t kv_read_once(void)
{
	uint64_t policy;

	asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
	return policy;
}

template <bool ONCE> static __device__ __forceinline__ uint4 kv_load_keys(const char *p)
{
	uint4 v;

	if (ONCE)
		asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
			     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p), "l"(kv_read_once()));
	else
		asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
			     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
	return v;
}

template <bool ONCE> static __device__ __forceinline__ uint32_t kv_load_word(const char *p)
{
	uint32_t v;

	if (ONCE)
		asm volatile("ld.global.nc.L2::cache_hint.L2::256B.u32 %0, [%1], %2;"
			     : "=r"(v) : "l"(p), "l"(kv_read_once()));
	else
		asm volatile("ld.global.nc.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(p));
	return v;
}

static __device__ __forceinline__ void kv_prefetch(const void *p)
{
	asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
}

/* --- results: read again soon ----------------------------------------------------- */

/* What is read again soon must stay in L2 while keys go through it. */
static __device__ __forceinline__ uint64_t kv_keep(void)
{
	uint64_t policy;

	asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
	return policy;
}

static __device__ __forceinline__ void kv_store_kept(float *p, float x)
{
	asm volatile("st.global.L2::cache_hint.f32 [%0], %1, %2;" :: "l"(p), "f"(x), "l"(kv_keep()) : "memory");
}

static __device__ __forceinline__ void kv_store_kept(float4 *p, float4 x)
{
	asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1,%2,%3,%4}, %5;"
		     :: "l"(p), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w), "l"(kv_keep()) : "memory");
}

/* --- shared memory, and other blocks ---------------------------------------------- */

/* Volatile: queries are read again for each batch of keys and do not occupy registers. */
static __device__ __forceinline__ uint4 kv_load_shared(const uint4 *p)
{
	uint4 v;

	asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
		     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
		     : "r"((uint32_t)__cvta_generic_to_shared(p)));
	return v;
}

/* Queues a copy of 16 bytes to shared memory; of zeros, and nothing is read, unless they are there. */
static __device__ __forceinline__ void kv_copy_to_shared(uint4 *to, const void *from, bool there)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}

/* Ends a group of this thread's copies. */
static __device__ __forceinline__ void kv_end_copies(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits for this thread's copies, except those of the newest GROUPS groups. */
template <int GROUPS> static __device__ __forceinline__ void kv_await_copies(void)
{
	asm volatile("cp.async.wait_group %0;" :: "n"(GROUPS) : "memory");
}

/* Orders this thread's earlier writes before its later ones, as other blocks see them. */
static __device__ __forceinline__ void kv_fence(void)
{
	asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

#endif
