/* SPDX-License-Identifier: Apache-2.0 */
/* What a block of a decision needs to know, and how blocks tell each other. */
#ifndef KV_CUDA_LAUNCH_CUH
#define KV_CUDA_LAUNCH_CUH

#include "kernels/cuda/keys.cuh"

/*
 * A tile of one query head: its largest logit x, the sum of 2^(y - x) over its
 * logits y, and the sums of the squares that are ranked and of the sinks'.
 */
struct __align__(16) kv_cell {
	float max, sum, sum2, sink2;
};

struct kv_launch {
	const struct kv_segment_entry *segments;
	const struct kv_head_entry *heads;
	const uint32_t *first_tiles, *limits;
	struct kv_counters *counters;
	uint32_t *queue;
	/* cells: [segment][query head][padded tile]; parts: a cell's; the rest by query head */
	char *stages;			/* [segment][KV head][group], stage_bytes each */
	size_t stage_bytes;
	struct kv_cell *cells;
	float *parts;
	float *stats_max, *stats_sum, *row_references;
	struct kv_refreekv_result *results;
	struct kv_refreekv_params params;
	float scale, softcap;		/* scale without softcap: times log2(e) */
	uint32_t n_segments, n_tiles;
	uint32_t n_q_heads, n_kv_heads, ratio, groups, dim, q_type;
	uint32_t n_items;		/* [segment][KV head][tile][group of query heads]; of several rows, see row_steps.cuh */
	uint32_t interleaved;		/* or [segment][tile][KV head][group]: as keys lie in memory */
	uint32_t blocks;		/* that run at once */
	uint32_t workers;		/* that read, the others finish: of one row's decision */
	uint32_t kept;			/* groups in the shared memory of a block that finishes */
	uint32_t spare_cell;		/* where a segment of one tile can be made up */
	uint32_t row_heads;		/* of several rows: query heads of one of `groups`; */
	uint32_t lag;			/* segments that are read between a segment's two readings */
	uint32_t sinks, recent, norm_all;	/* as in params */
};

/* A segment, as a block works on it. */
struct kv_place {
	struct kv_segment_entry s;
	uint32_t segment, n_tiles;
};

/* The last of `count` that begins at or before x; every lane gets it. */
template <class Begin>
static __device__ __forceinline__ uint32_t kv_find(uint32_t count, uint32_t x, const Begin &begin)
{
	uint32_t lane = threadIdx.x % 32, low = 0;

	while (count > 1) {
		uint32_t step = (count + 31) / 32, at = lane * step;
		bool before = at < count && begin(low + at) <= x;
		uint32_t k = __popc(__ballot_sync(KV_LANES, before)) - 1;

		low += k * step;
		count = min(step, count - k * step);
	}
	return low;
}

static __device__ __forceinline__ uint32_t kv_find_segment(const struct kv_launch &p, uint32_t tile)
{
	return kv_find(p.n_segments, tile, [&](uint32_t i) { return p.first_tiles[i]; });
}

static __device__ __forceinline__ void kv_place_of(const struct kv_launch &p, uint32_t segment,
						   struct kv_place *w)
{
	w->segment = segment;
	w->s = p.segments[segment];
	w->n_tiles = segment + 1 < p.n_segments ? p.first_tiles[segment + 1] : p.n_tiles;
	w->n_tiles -= w->s.first_tile;
}

static __device__ __forceinline__ struct kv_keys kv_keys_of(const struct kv_launch &p,
							   const struct kv_place &w, uint32_t g)
{
	struct kv_head_entry h = p.heads[w.segment * p.n_kv_heads + g];
	struct kv_keys k = { h.k, h.stride, w.s.n, p.dim };

	return k;
}

static __device__ __forceinline__ size_t kv_cell_at(const struct kv_launch &p, const struct kv_place &w,
						 uint32_t head, uint32_t tile)
{
	return (size_t)p.n_q_heads * w.s.first_cell + (size_t)head * kv_padded(w.n_tiles) + tile;
}

/* What will be read soon shall stay in L2 while keys go through it. */
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

static __device__ __forceinline__ void kv_prefetch(const void *p)
{
	asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
}

/* Rare, and long: not in the way of the rest. */
static __device__ __noinline__ float kv_soften(float x, float cap)
{
	return cap * tanhf(x / cap) * 1.44269504f;
}

/* A logit in units of log 2, from a dot. */
static __device__ __forceinline__ float kv_logit(const struct kv_launch &p, float dot)
{
	return p.softcap > 0 ? kv_soften(dot * p.scale, p.softcap) : dot * p.scale;
}

/*
 * The next item of the queue, by lane 0 of a warp: each block began with two of
 * its own. The counter is zero again when every block has drawn one too many.
 */
static __device__ __forceinline__ uint32_t kv_draw(const struct kv_launch &p)
{
	return threadIdx.x % 32 ? 0 : 2 * p.workers + atomicInc(p.queue, p.n_items - p.workers - 1);
}

/* What was written before it is there for whoever reads after its own. */
static __device__ __forceinline__ void kv_fence(void)
{
	asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/* An item of a segment is done, says lane 0 for all that its block has met with. */
static __device__ __forceinline__ void kv_say_done(const struct kv_launch &p, uint32_t segment)
{
	if (threadIdx.x % 32 == 0 && segment < p.n_segments)
		asm volatile("red.release.gpu.global.add.u32 [%0], 1;"
			     :: "l"(&p.counters[segment].done) : "memory");
}

/* By the block that finishes a segment: until all its items are. The counter is zero again. */
static __device__ __forceinline__ void kv_wait_done(const struct kv_launch &p, uint32_t segment, uint32_t total)
{
	uint32_t *done = &p.counters[segment].done, n = 0;

	if (threadIdx.x == 0) {
		for (;;) {
			asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(n) : "l"(done) : "memory");
			if (n == total)
				break;
			__nanosleep(40);
		}
		*done = 0;
	}
	__syncthreads();
}

/* Over the eight keys g of the lanes of one t. */
static __device__ __forceinline__ float kv_sum_keys(float x)
{
	x += __shfl_xor_sync(KV_LANES, x, 4);
	x += __shfl_xor_sync(KV_LANES, x, 8);
	return x + __shfl_xor_sync(KV_LANES, x, 16);
}

static __device__ __forceinline__ float kv_sum_warp(float x)
{
	x += __shfl_xor_sync(KV_LANES, x, 1);
	x += __shfl_xor_sync(KV_LANES, x, 2);
	return kv_sum_keys(x);
}

static __device__ __forceinline__ float kv_max_keys(float x)
{
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 4));
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 8));
	return fmaxf(x, __shfl_xor_sync(KV_LANES, x, 16));
}

static __device__ __forceinline__ float kv_max_warp(float x)
{
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 1));
	x = fmaxf(x, __shfl_xor_sync(KV_LANES, x, 2));
	return kv_max_keys(x);
}

#endif
