/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many ranks the norm of the attention needs (equation 2 of ReFreeKV), where each KV
 * head ranks its positions by attention: each head sorts its positions, then one count
 * is found for all heads of a segment. Squares are summed from the last rank on, in
 * chunks of KV_RANKS ranks, so their order is fixed.
 */
#ifndef KV_KERNELS_CUDA_REFREEKV_NORM_CUH
#define KV_KERNELS_CUDA_REFREEKV_NORM_CUH

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/base/warp.cuh"

#define KV_SORT_BITS 8
#define KV_SORT_DIGITS (1u << KV_SORT_BITS)	/* one for each thread */
#define KV_SORT_STEPS 8		/* of 32 keys, for each warp at a time */

struct kv_norm_memory {
	uint32_t first[KV_SORT_DIGITS];			/* the next place for a digit */
	uint32_t places[KV_WARPS][KV_SORT_DIGITS];	/* the same for each warp */
	uint32_t scan[KV_WARPS];
	double norm[KV_MAX_HEADS], room[KV_WARPS];
	uint32_t count;
	double loss;
};

/* --- sorting ---------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t kv_sort_digit(uint64_t key, uint32_t shift)
{
	return key >> shift & (KV_SORT_DIGITS - 1);
}

/* The place at which each digit begins. */
static __device__ void kv_sort_count(struct kv_norm_memory &s, const uint64_t *from, uint32_t n, uint32_t shift)
{
	uint32_t total;

	s.first[threadIdx.x] = 0;
	__syncthreads();
	for (uint32_t begin = threadIdx.x; begin < n; begin += KV_SORT_STEPS * KV_THREADS) {
		uint64_t key[KV_SORT_STEPS];

#pragma unroll
		for (uint32_t j = 0; j < KV_SORT_STEPS; j++)
			key[j] = begin + j * KV_THREADS < n ? from[begin + j * KV_THREADS] : 0;
#pragma unroll
		for (uint32_t j = 0; j < KV_SORT_STEPS; j++)
			if (begin + j * KV_THREADS < n)
				atomicAdd(&s.first[kv_sort_digit(key[j], shift)], 1);
	}
	__syncthreads();
	s.first[threadIdx.x] = kv_block_sum_before(s.first[threadIdx.x], s.scan, &total);
	__syncthreads();
}

/* A key's place among this warp's keys with its digit, in order. n_digit: how many so far. */
static __device__ __forceinline__ uint32_t kv_sort_place(uint32_t *n_digit, uint32_t digit, bool there)
{
	uint32_t lane = threadIdx.x % 32, same = __match_any_sync(KV_LANES, there ? digit : KV_SORT_DIGITS);
	uint32_t before = same & ((1u << lane) - 1), place = 0;

	if (!there)
		same = 0;
	if (same && before == 0) {
		place = n_digit[digit];
		n_digit[digit] = place + __popc(same);
	}
	place = __shfl_sync(KV_LANES, place, same ? __ffs(same) - 1 : 0);
	__syncwarp();
	return place + __popc(before);
}

/* Turns the warps' counts of digit `threadIdx.x` into the places where they begin. */
static __device__ __forceinline__ void kv_sort_offsets(struct kv_norm_memory &s)
{
	uint32_t at = s.first[threadIdx.x];

#pragma unroll
	for (int w = 0; w < KV_WARPS; w++) {
		uint32_t count = s.places[w][threadIdx.x];

		s.places[w][threadIdx.x] = at;
		at += count;
	}
	s.first[threadIdx.x] = at;
}

/* Sorts by one digit; equal digits stay in order. */
static __device__ void kv_sort_pass(struct kv_norm_memory &s, const uint64_t *from, uint64_t *to, uint32_t n,
				    uint32_t shift)
{
	uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

	kv_sort_count(s, from, n, shift);
	for (uint32_t begin = 0; begin < n; begin += KV_SORT_STEPS * KV_THREADS) {
		uint32_t first = begin + warp * 32 * KV_SORT_STEPS + lane, place[KV_SORT_STEPS];
		uint64_t key[KV_SORT_STEPS];

		for (uint32_t d = lane; d < KV_SORT_DIGITS; d += 32)
			s.places[warp][d] = 0;
		__syncwarp();
#pragma unroll
		for (int j = 0; j < KV_SORT_STEPS; j++)
			key[j] = first + 32 * j < n ? from[first + 32 * j] : 0;
#pragma unroll
		for (int j = 0; j < KV_SORT_STEPS; j++)
			place[j] = kv_sort_place(s.places[warp], kv_sort_digit(key[j], shift), first + 32 * j < n);
		__syncthreads();
		kv_sort_offsets(s);
		__syncthreads();
#pragma unroll
		for (int j = 0; j < KV_SORT_STEPS; j++)
			if (first + 32 * j < n)
				to[s.places[warp][kv_sort_digit(key[j], shift)] + place[j]] = key[j];
		__syncthreads();
	}
}

/* Sorts a task's positions by rank; equal scores stay in order of position. */
static __device__ void kv_sort_task(const struct kv_attention &p, struct kv_norm_memory &s, const struct kv_attention_task &t)
{
	uint64_t *order = p.order + t.positions, *spare = p.spare + t.positions;
	const float *score = p.score + t.positions;

	for (uint32_t i = threadIdx.x; i < t.m; i += KV_THREADS)
		order[i] = kv_rank(score[t.begin + i], t.begin + i);
	__syncthreads();
	for (uint32_t shift = 32; shift < 64; shift += 2 * KV_SORT_BITS) {
		kv_sort_pass(s, order, spare, t.m, shift);
		kv_sort_pass(s, spare, order, t.m, shift + KV_SORT_BITS);
	}
}

/* --- squares in the order of ranks ------------------------------------------------ */

/* The square of what query head h of a task pays to the position at rank i. */
static __device__ __forceinline__ double kv_square(const struct kv_attention &p, const struct kv_attention_task &t,
						   uint32_t h, uint32_t i)
{
	double a = 0;

	if (i < t.m)
		a = p.attention[p.group * t.positions + (uint64_t)h * t.n + (uint32_t)p.order[t.positions + i]];
	return a * a;
}

/* For each query head of a task: the sum of squares from each chunk to the last. */
static __device__ void kv_sum_squares(const struct kv_attention &p, const struct kv_attention_task &t)
{
	uint32_t n_chunks = kv_rank_chunks(t.m), lane = threadIdx.x % 32;
	double *sums = p.sums + t.sums, after = 0;

	for (uint32_t i = threadIdx.x / 32; i < n_chunks * p.group; i += KV_WARPS) {
		uint32_t chunk = i / p.group, h = i % p.group;
		double sum = 0;

#pragma unroll
		for (uint32_t j = 0; j < KV_RANKS / 32; j++)
			sum += kv_square(p, t, h, chunk * KV_RANKS + 32 * j + lane);
		for (uint32_t d = 16; d; d /= 2)
			sum += __shfl_xor_sync(KV_LANES, sum, d);
		if (lane == 0)
			sums[(uint64_t)h * n_chunks + chunk] = sum;
	}
	__syncthreads();
	for (uint32_t i = n_chunks; threadIdx.x < p.group && i-- > 0;) {
		after += sums[(uint64_t)threadIdx.x * n_chunks + i];
		sums[(uint64_t)threadIdx.x * n_chunks + i] = after;
	}
}

static __device__ void kv_rank_task(const struct kv_attention &p, struct kv_norm_memory &s, uint32_t task)
{
	kv_sort_task(p, s, p.tasks[task]);
	kv_sum_squares(p, p.tasks[task]);
	__syncthreads();
}

/* --- the cut ------------------------------------------------------------------------ */

/*
 * What a head's norm loses if `dropped` goes from its sum of squares. Nothing cancels, so
 * a small loss is as exact as the attention itself.
 */
static __device__ __forceinline__ double kv_lost(double norm, double dropped)
{
	return norm > 0 ? dropped / (norm + sqrt(fmax(norm * norm - dropped, 0.))) : 0;
}

/* The sum of squares of query head h of a segment, from chunk `chunk` to the last. */
static __device__ __forceinline__ double kv_dropped(const struct kv_attention &p, uint32_t segment, uint32_t h,
						    uint32_t chunk)
{
	const struct kv_attention_task &t = p.tasks[segment * p.n_kv_heads + h / p.group];
	uint32_t n_chunks = kv_rank_chunks(t.m);

	return chunk < n_chunks ? p.sums[t.sums + (uint64_t)(h % p.group) * n_chunks + chunk] : 0;
}

/* The loss, relative to `full`, if all heads keep the ranks before chunk `chunk`. */
static __device__ double kv_loss_at(const struct kv_attention &p, struct kv_norm_memory &s, uint32_t segment, double full,
				    uint32_t chunk)
{
	double lost = 0;

	if (threadIdx.x < p.n_q_heads)
		lost = kv_lost(s.norm[threadIdx.x], kv_dropped(p, segment, threadIdx.x, chunk));
	return kv_block_sum(lost, s.room) / full;
}

/* The loss if a rank of a chunk and all ranks after it go; each thread has another rank. */
static __device__ double kv_loss_inside(const struct kv_attention &p, struct kv_norm_memory &s, uint32_t segment,
					double full, uint32_t chunk)
{
	double lost = 0;

	for (uint32_t h = 0; h < p.n_q_heads; h++) {
		const struct kv_attention_task &t = p.tasks[segment * p.n_kv_heads + h / p.group];
		/* from the last rank on: thread 0 has the last one of the chunk */
		double x = kv_square(p, t, h % p.group, chunk * KV_RANKS + KV_RANKS - 1 - threadIdx.x);
		double total, after = kv_block_sum_before(x, s.room, &total);

		lost += kv_lost(s.norm[h], kv_dropped(p, segment, h, chunk + 1) + (after + x));
		__syncthreads();
	}
	return lost / full;
}

/* The fewest chunks whose loss is not above the threshold. */
static __device__ uint32_t kv_find_chunk(const struct kv_attention &p, struct kv_norm_memory &s, uint32_t segment,
					 double full, uint32_t n_chunks)
{
	uint32_t low = 0, high = n_chunks;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (kv_loss_at(p, s, segment, full, middle) <= p.params.share)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Writes how many ranks are kept to s.count, and the loss to s.loss. */
static __device__ void kv_find_count(const struct kv_attention &p, struct kv_norm_memory &s, uint32_t segment, double full)
{
	uint32_t m = p.tasks[segment * p.n_kv_heads].m, n_chunks = kv_rank_chunks(m);
	uint32_t chunk = kv_find_chunk(p, s, segment, full, n_chunks), rank;
	double loss = kv_loss_at(p, s, segment, full, chunk);

	if (threadIdx.x == 0) {
		s.count = min(chunk * KV_RANKS, m);
		s.loss = loss;
	}
	__syncthreads();
	if (chunk == 0)
		return;
	loss = kv_loss_inside(p, s, segment, full, chunk - 1);
	rank = chunk * KV_RANKS - 1 - threadIdx.x;
	if (rank < m && loss <= p.params.share)
		atomicMin(&s.count, rank);
	__syncthreads();
	if (rank == s.count)
		s.loss = loss;
	__syncthreads();
}

static __device__ void kv_cut_segment(const struct kv_attention &p, struct kv_norm_memory &s, uint32_t segment)
{
	uint32_t first = segment * p.n_kv_heads, g = threadIdx.x;
	double norm = 0, full;

	if (threadIdx.x < p.n_q_heads)
		s.norm[threadIdx.x] = norm = sqrt(kv_dropped(p, segment, threadIdx.x, 0));
	full = kv_block_sum(norm, s.room);
	if (threadIdx.x == 0) {
		s.count = p.tasks[first].m;
		s.loss = 0;
	}
	__syncthreads();
	if (full > 0 && isfinite(full))
		kv_find_count(p, s, segment, full);
	if (threadIdx.x == 0)
		p.out.results[segment].loss = s.loss;
	if (g < p.n_kv_heads)
		p.last[(uint64_t)(first + g) * p.group] =
			s.count ? p.order[p.tasks[first + g].positions + s.count - 1] : 0;
	__syncthreads();
}

#endif
