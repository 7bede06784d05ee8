/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From scores to the last rank that is kept: pooling; then the heaviest positions of a
 * head, or of all heads of a segment, or those that hold a share of all weight. Each is
 * the work of one block. Weights are summed as integers, so their order does not matter.
 */
#ifndef KV_KERNELS_CUDA_ATTEND_SELECT_CUH
#define KV_KERNELS_CUDA_ATTEND_SELECT_CUH

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/base/warp.cuh"

#define KV_DIGIT_BITS 11
#define KV_DIGITS (1u << KV_DIGIT_BITS)

struct kv_select_memory {
	uint32_t low[KV_DIGITS], high[KV_DIGITS];	/* the halves of each digit's weight */
	uint64_t sums[KV_WARPS];
	uint64_t before, weight;
	uint32_t digit;
};

/* Scores of positions begin ... begin + m - 1. */
struct kv_scores {
	const float *at;		/* of position 0 */
	uint32_t begin, m;
};

static __device__ __forceinline__ struct kv_scores kv_scores_of(const struct kv_attention &p, const struct kv_attention_task &t)
{
	struct kv_scores s = { p.pooled + t.positions, t.begin, t.m };

	return s;
}

/* Sums outwards from the middle, in the order of the CPU's version. */
static __device__ void kv_pool_task(const struct kv_attention &p, const struct kv_attention_task &t)
{
	const float *in = p.score + t.positions + t.begin;
	float *out = p.pooled + t.positions + t.begin;
	uint32_t half = p.params.pool / 2;

	for (uint32_t i = threadIdx.x; i < t.m && half; i += KV_THREADS) {
		float x = in[i];

		for (uint32_t d = 1; d <= half; d++) {
			float newer = i + d < t.m ? in[i + d] : 0, older = i >= d ? in[i - d] : 0;

			if (p.params.pool_max)
				x = fmaxf(x, fmaxf(newer, older));
			else
				x = (x + newer) + older;
		}
		out[i] = p.params.pool_max ? x : x / (float)p.params.pool;
	}
	__syncthreads();
}

/* --- the end of a selection --------------------------------------------------------- */

/* Ranks before `last` are selected, and of the heads that have rank `last`, the first `equal`. */
struct kv_end {
	uint64_t last, equal;
};

/* Attention as an integer. It sums to about 1 at most, so the sums fit too. */
static __device__ __forceinline__ uint64_t kv_weight(double attention)
{
	return (uint64_t)(attention * 0x1p62);
}

/* Adds to a digit's weight, exactly: the carry goes to the upper half. */
static __device__ __forceinline__ void kv_weigh(struct kv_select_memory &s, uint32_t digit, uint64_t weight)
{
	uint32_t low = (uint32_t)weight, high = weight >> 32, was = atomicAdd(&s.low[digit], low);

	high += was + low < was;
	if (high)
		atomicAdd(&s.high[digit], high);
}

static __device__ __forceinline__ uint64_t kv_digit_weight(const struct kv_select_memory &s, uint32_t digit)
{
	return (uint64_t)s.high[digit] << 32 | s.low[digit];
}

/* Scores that a thread fetches before it looks at them. */
#define KV_AHEAD 8

/* Calls f(score, rank) for all scores, shared out to the block's threads. */
template <class F>
static __device__ __forceinline__ void kv_each_score(const struct kv_scores &v, F f)
{
	for (uint32_t begin = threadIdx.x; begin < v.m; begin += KV_AHEAD * KV_THREADS) {
		float score[KV_AHEAD];

#pragma unroll
		for (uint32_t j = 0; j < KV_AHEAD; j++)
			score[j] = begin + j * KV_THREADS < v.m ? v.at[v.begin + begin + j * KV_THREADS] : 0;
#pragma unroll
		for (uint32_t j = 0; j < KV_AHEAD; j++)
			if (begin + j * KV_THREADS < v.m)
				f(score[j], kv_rank(score[j], v.begin + begin + j * KV_THREADS));
	}
}

/* The weights of the ranks that begin with `prefix`, by their next digit. */
template <class L>
static __device__ void kv_histogram(struct kv_select_memory &s, L list, uint32_t n_lists, uint64_t prefix,
				    uint64_t seen, uint32_t shift, bool by_mass)
{
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < KV_DIGITS; i += KV_THREADS)
		s.low[i] = s.high[i] = 0;
	__syncthreads();
	for (uint32_t l = 0; l < n_lists; l++)
		kv_each_score(list(l), [&](float score, uint64_t rank) {
			if (((rank ^ prefix) & seen) == 0)
				kv_weigh(s, rank >> shift & (KV_DIGITS - 1), by_mass ? kv_weight(score) : 1);
		});
	__syncthreads();
}

/* Finds the digit in which `left` is used up (s.digit; or KV_DIGITS), and the weight before it. */
static __device__ void kv_find_digit(struct kv_select_memory &s, uint64_t left)
{
	const uint32_t each = KV_DIGITS / KV_THREADS;
	uint64_t sum = 0, before, total;
	uint32_t d = threadIdx.x * each;

	if (threadIdx.x == 0)
		s.digit = KV_DIGITS;
	for (uint32_t i = 0; i < each; i++)
		sum += kv_digit_weight(s, d + i);
	before = kv_block_sum_before(sum, s.sums, &total);
	if (before < left && left <= before + sum) {
		while (before + kv_digit_weight(s, d) < left)
			before += kv_digit_weight(s, d++);
		s.digit = d;
		s.before = before;
		s.weight = kv_digit_weight(s, d);
	}
	__syncthreads();
}

/*
 * The end of the heaviest positions that have `left` weight together; everything, if all
 * positions have less. A radix descent, first over scores, then, among equals, over
 * positions. list(i) is the i-th kv_scores; by_mass: a position's weight is its score,
 * else 1.
 */
template <class L>
static __device__ struct kv_end kv_descend(struct kv_select_memory &s, L list, uint32_t n_lists, uint64_t left,
					   bool by_mass)
{
	uint64_t prefix = 0, seen = 0;
	uint32_t shift = 64;

	while (shift && left) {
		uint32_t bits = min(KV_DIGIT_BITS, shift > 32 ? shift - 32 : shift);

		shift -= bits;
		kv_histogram(s, list, n_lists, prefix, seen, shift, by_mass);
		kv_find_digit(s, left);
		if (s.digit == KV_DIGITS)
			return kv_end{ UINT64_MAX, UINT64_MAX };
		left -= s.before;
		prefix |= (uint64_t)s.digit << shift;
		seen |= (((uint64_t)1 << bits) - 1) << shift;
		if (!by_mass && s.weight == left)
			return kv_end{ prefix | ~seen, UINT64_MAX };
		if (by_mass && shift == 32) {
			uint64_t each = kv_weight(kv_rank_score(prefix));

			left = (left + each - 1) / each;
			by_mass = false;
		}
	}
	return kv_end{ left ? prefix : 0, left };
}

/* --- the rules ------------------------------------------------------------------------ */

static __device__ void kv_select_task(const struct kv_attention &p, struct kv_select_memory &s, uint32_t task,
				      uint32_t count)
{
	const struct kv_attention_task &t = p.tasks[task];
	struct kv_end end = kv_descend(s, [&](uint32_t) { return kv_scores_of(p, t); }, 1, count, false);

	if (threadIdx.x == 0)
		p.last[(uint64_t)task * p.group] = end.last;
	__syncthreads();
}

/* Selects the heaviest positions that have `share` of the attention of query head h of a task. */
static __device__ void kv_select_mass(const struct kv_attention &p, struct kv_select_memory &s, uint32_t task, uint32_t h)
{
	const struct kv_attention_task &t = p.tasks[task];
	struct kv_scores v = { p.attention + p.group * t.positions + (uint64_t)h * t.n, t.begin, t.m };
	uint64_t mass = kv_weight(p.params.share);
	struct kv_end end = kv_descend(s, [&](uint32_t) { return v; }, 1, mass ? mass : 1, true);

	if (threadIdx.x == 0)
		p.last[(uint64_t)task * p.group + h] = end.last;
	__syncthreads();
}

/* How many positions of a task are selected, in every thread. */
static __device__ uint32_t kv_count_before(const struct kv_attention &p, struct kv_select_memory &s,
					   const struct kv_attention_task &t, struct kv_end *end)
{
	uint64_t count = 0, equal = 0;

	kv_each_score(kv_scores_of(p, t), [&](float, uint64_t rank) {
		count += rank < end->last;
		equal += rank == end->last;
	});
	/* Both in one sum: neither reaches 2^32. */
	kv_block_sum_before(equal << 32 | count, s.sums, &count);
	__syncthreads();
	equal = count >> 32;
	count = (uint32_t)count + (equal && end->equal);
	end->equal -= equal && end->equal;
	return (uint32_t)count;
}

/*
 * Heads with fewer positions than their share leave the excess to the others, in equal
 * parts; what is left of the division goes to the first of these. By one thread.
 */
static __device__ void kv_hand_on(const struct kv_attention_task *tasks, uint32_t n_kv_heads, uint64_t excess,
				  uint32_t *counts)
{
	while (excess > 0) {
		uint32_t n_open = 0;
		uint64_t each;

		for (uint32_t g = 0; g < n_kv_heads; g++)
			n_open += counts[g] < tasks[g].m;
		if (n_open == 0)
			return;
		each = max(excess / n_open, (uint64_t)1);
		for (uint32_t g = 0; g < n_kv_heads && excess > 0; g++) {
			uint64_t more = min((uint64_t)(tasks[g].m - counts[g]), each);

			counts[g] += (uint32_t)more;
			excess -= more;
		}
	}
}

/*
 * AdaKV: each head is sure of a share of its own budget; the rest is divided by how many
 * of the segment's heaviest positions each head has. Leaves in counts how many ranked
 * positions a head may keep; kv_list_task() then writes the count of all that it keeps.
 */
static __device__ void kv_share_segment(const struct kv_attention &p, struct kv_select_memory &s, uint32_t segment)
{
	const struct kv_attention_task *tasks = p.tasks + segment * p.n_kv_heads;
	uint32_t *counts = p.out.counts + segment * p.n_kv_heads;
	uint64_t n = 0, budget = 0, excess = 0;
	struct kv_end end = { UINT64_MAX, UINT64_MAX };

	for (uint32_t g = 0; g < p.n_kv_heads; g++) {
		n += tasks[g].m;
		budget += tasks[g].budget;
	}
	if (budget < n)
		end = kv_descend(s, [&](uint32_t g) { return kv_scores_of(p, tasks[g]); }, p.n_kv_heads, budget, false);
	for (uint32_t g = 0; g < p.n_kv_heads; g++) {
		uint32_t m = tasks[g].m, count = kv_count_before(p, s, tasks[g], &end);
		double sure = floor(__dmul_rn(p.params.share, tasks[g].budget));
		/* Halves to even. */
		uint64_t share = budget < n ? (uint64_t)rint(__dadd_rn(__dmul_rn(1 - p.params.share, count), sure)) : m;

		excess += share > m ? share - m : 0;
		if (threadIdx.x == 0)
			counts[g] = share < m ? (uint32_t)share : m;
	}
	if (threadIdx.x == 0)
		kv_hand_on(tasks, p.n_kv_heads, excess, counts);
	__syncthreads();
}

#endif
