/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel of a decision on the mean attention of several rows. The squares need each
 * row's largest logit and its sum, so each segment is read twice: first for these, tile
 * by tile, then for the mean attention of its positions.
 *
 * A group is eight rows of one query head. A block reads a tile for several groups at
 * once, so their keys are loaded once.
 */
#ifndef KV_KERNELS_CUDA_REFREEKV_MANY_ROWS_CUH
#define KV_KERNELS_CUDA_REFREEKV_MANY_ROWS_CUH

#include "kernels/cuda/base/logit.cuh"
#include "kernels/cuda/refreekv/finish.cuh"
#include "kernels/cuda/refreekv/many_rows_steps.cuh"

/* The attention of a tile has a gap of four after sixteen positions, against bank conflicts. */
#define KV_ROW_GAP 20
#define KV_ROW_TILE (KV_BATCHES * KV_WARPS * KV_ROW_GAP + 8)

template <class P> struct kv_rows_shared {
	typename P::Stage stages[2][KV_ROW_GROUPS];	/* of this step and the next */
	float2 warps[KV_WARPS][KV_ROW_COLUMNS];		/* largest logit and sum */
	uint32_t limits[2][KV_ROW_COLUMNS];		/* cached positions that a row sees */
	float references[KV_ROW_COLUMNS];		/* attention is 2^(logit - this) */
	struct kv_step steps[4];
	uint32_t last;
	union {
		float attention[KV_ROW_GROUPS][KV_ROW_TILE];
		/* for the finish, when the tile's attention is no longer needed; see struct kv_heads */
		alignas(16) struct kv_heads heads;
	};
};

template <class P> static size_t kv_size_rows(uint32_t n_q_heads)
{
	size_t heads = offsetof(struct kv_heads, of) + n_q_heads * sizeof(struct kv_heads::kv_children_of);
	const size_t attention = sizeof(kv_rows_shared<P>::attention);

	return offsetof(struct kv_rows_shared<P>, heads) + (heads > attention ? heads : attention);
}

/* 2^x by the special function unit; denormals become 0. */
static __device__ __forceinline__ float kv_exp2(float x)
{
	float r;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
	return r;
}

/* Copies the rows of a step into shared memory, by two warps for each group. */
template <class P>
static __device__ __forceinline__ void kv_stage_step(const struct kv_launch &p, const struct kv_step &step,
						     typename P::Stage *stages, uint32_t *limits)
{
	struct kv_column c = kv_column_of(step, threadIdx.x / 64 * 8);

	if (c.there)
		P::stage(stages[threadIdx.x / 64], kv_rows_of(p, step.w, c.head, c.row), threadIdx.x / 32 % 2, 2);
	if (threadIdx.x < KV_ROW_COLUMNS) {
		c = kv_column_of(step, threadIdx.x);
		limits[threadIdx.x] = c.there ? p.limits[step.w.s.first_limit + c.row] : 0;
	}
}

/* --- both readings ---------------------------------------------------------------- */

/* First position of this warp's batch b of a tile. */
static __device__ __forceinline__ uint32_t kv_batch_row(const struct kv_step &step, uint32_t b)
{
	return 16 * ((step.tile * KV_BATCHES + b) * KV_WARPS + threadIdx.x / 32);
}

/* Sixteen keys, from number `row` on. */
struct kv_row_batch {
	const struct kv_keys &keys;
	uint32_t row;
};

/* This warp's batch b of a tile, counted on into the next tile; the last one again if none is left. */
static __device__ __forceinline__ struct kv_row_batch kv_batch_of(const struct kv_step &step,
								  const struct kv_step &next, uint32_t b)
{
	bool other = b >= KV_BATCHES && next.valid;
	const struct kv_step &of = other ? next : step;

	return { of.keys, kv_batch_row(of, other ? b - KV_BATCHES : min(b, KV_BATCHES - 1)) };
}

template <class P>
static __device__ __forceinline__ void kv_load_batch(typename P::Batch &batch, const struct kv_row_batch &b)
{
	P::load(batch, b.keys, b.row);
}

/* Asks for keys to be in L2 when they are loaded. */
template <class P> static __device__ __forceinline__ void kv_prefetch_keys(const struct kv_row_batch &b)
{
	uint32_t lane = threadIdx.x % 32;
	const char *key = b.keys.data + min(b.row + lane / 2, b.keys.n - 1) * b.keys.stride;

	for (uint32_t at = 128 * (lane % 2); at < P::bytes(b.keys.dim); at += 256)
		kv_prefetch(key + at);
}

/* Rare, so not inlined. */
static __device__ __noinline__ float4 kv_soften_dots(float4 x, float scale, float cap)
{
	x.x = kv_soften(x.x * scale, cap);
	x.y = kv_soften(x.y * scale, cap);
	x.z = kv_soften(x.z * scale, cap);
	x.w = kv_soften(x.w * scale, cap);
	return x;
}

/* From dots to logits. */
static __device__ __forceinline__ void kv_row_logits(const struct kv_launch &p, float x[4])
{
	if (p.softcap > 0) {
		float4 soft = kv_soften_dots(make_float4(x[0], x[1], x[2], x[3]), p.scale, p.softcap);

		x[0] = soft.x;
		x[1] = soft.y;
		x[2] = soft.z;
		x[3] = soft.w;
	} else {
		for (int i = 0; i < 4; i++)
			x[i] *= p.scale;
	}
}

/* --- the first reading ------------------------------------------------------------ */

/* Replaces the logits of positions that a row does not see. */
static __device__ __forceinline__ void kv_hide(float x[4], float hidden, uint32_t at, const uint32_t *limits)
{
	uint2 limit = *(const uint2 *)(limits + 2 * (threadIdx.x % 4));

	x[0] = at < limit.x ? x[0] : hidden;
	x[1] = at < limit.y ? x[1] : hidden;
	x[2] = at + 8 < limit.x ? x[2] : hidden;
	x[3] = at + 8 < limit.y ? x[3] : hidden;
}

/* Adds this lane's logits to the largest and the sum of two rows. */
static __device__ __forceinline__ void kv_add_rows(const float x[4], float max[2], float sum[2])
{
#pragma unroll
	for (int c = 0; c < 2; c++) {
		float now = fmaxf(max[c], fmaxf(x[c], x[2 + c]));

		sum[c] = sum[c] * kv_exp2(max[c] - now) + (kv_exp2(x[c] - now) + kv_exp2(x[2 + c] - now));
		/* NaN if a logit is not finite, also for -infinity */
		sum[c] = fmaf(x[2 + c], 0.f, fmaf(x[c], 0.f, sum[c]));
		max[c] = now;
	}
}

/* The largest and the sum of a group's rows over the lanes of a warp. */
static __device__ __forceinline__ void kv_join_lanes(float2 *to, const float max[2], const float sum[2])
{
#pragma unroll
	for (int c = 0; c < 2; c++) {
		float all = kv_max_keys(max[c]), total = kv_sum_keys(sum[c] * kv_exp2(max[c] - all));

		if (threadIdx.x % 32 < 4)
			to[2 * (threadIdx.x % 4) + c] = make_float2(all, total);
	}
}

/* The same over the warps, as the tile's statistics, by a thread for each row. */
static __device__ __forceinline__ void kv_join_warps(const struct kv_launch &p, const struct kv_step &step,
						     const float2 (*warps)[KV_ROW_COLUMNS])
{
	struct kv_column c = kv_column_of(step, threadIdx.x);
	size_t at = step.w.s.stats + (size_t)(c.head * step.w.s.n_rows + c.row) * step.w.n_tiles + step.tile;
	float all = -FLT_MAX, total = 0;

	if (!c.there)
		return;
	for (int i = 0; i < KV_WARPS; i++)
		all = fmaxf(all, warps[i][threadIdx.x].x);
	for (int i = 0; i < KV_WARPS; i++)
		total += warps[i][threadIdx.x].y * kv_exp2(warps[i][threadIdx.x].x - all);
	p.stats_max[at] = all;
	p.stats_sum[at] = total;
}

/*
 * From the statistics of the tiles to each row's reference: attention is 2^(logit -
 * reference). By eight lanes for each row.
 */
static __device__ void kv_rows_combine(const struct kv_launch &p, const struct kv_place &w)
{
	uint32_t rows = p.n_q_heads * w.s.n_rows;

#pragma unroll 1
	for (uint32_t base = 0; base < rows; base += blockDim.x / 8) {
		uint32_t row = min(base + threadIdx.x / 8, rows - 1);
		const float *max = p.stats_max + w.s.stats + (size_t)row * w.n_tiles;
		const float *sum = p.stats_sum + w.s.stats + (size_t)row * w.n_tiles;
		float all = -FLT_MAX;
		double total = 0;

		for (uint32_t t = threadIdx.x % 8; t < w.n_tiles; t += 8)
			all = fmaxf(all, __ldcg(max + t));
		all = kv_max8(all);
		for (uint32_t t = threadIdx.x % 8; t < w.n_tiles; t += 8)
			total += (double)(__ldcg(sum + t) * exp2f(__ldcg(max + t) - all));
		for (int d = 4; d; d /= 2)
			total += __shfl_xor_sync(KV_LANES, total, d);
		if (threadIdx.x % 8 == 0)
			p.row_references[kv_row_index(p, w, 0, row)] = (float)(all + log2(total));
	}
}

template <class P>
static __device__ __forceinline__ void kv_read_first(const struct kv_launch &p, struct kv_rows_shared<P> &s,
						     const struct kv_step &step, const struct kv_step &next,
						     typename P::Batch &batch, uint32_t buffer)
{
	float max[KV_ROW_GROUPS][2], sum[KV_ROW_GROUPS][2], x[4];
	uint32_t groups = step.n_groups - step.group, seen = step.seen;

#pragma unroll
	for (int u = 0; u < KV_ROW_GROUPS; u++) {
		max[u][0] = max[u][1] = -FLT_MAX;
		sum[u][0] = sum[u][1] = 0;
	}
#pragma unroll 1
	for (uint32_t b = 0; b < KV_BATCHES; b++) {
		uint32_t at = kv_batch_row(step, b) + threadIdx.x % 32 / 4;
		typename P::Held held;

		kv_prefetch_keys<P>(kv_batch_of(step, next, b + 2));
		P::hold(held, batch);
#pragma unroll
		for (int u = 0; u < KV_ROW_GROUPS; u++) {
			if (u < groups)
				P::dots(s.stages[buffer][u], held, x);
			if (u == KV_ROW_GROUPS - 1)
				kv_load_batch<P>(batch, kv_batch_of(step, next, b + 1));
			if (u >= groups)
				continue;
			kv_row_logits(p, x);
			if (!seen)
				kv_hide(x, -FLT_MAX, at, s.limits[buffer] + 8 * u);
			kv_add_rows(x, max[u], sum[u]);
		}
	}
#pragma unroll
	for (int u = 0; u < KV_ROW_GROUPS; u++)
		kv_join_lanes(s.warps[threadIdx.x / 32] + 8 * u, max[u], sum[u]);
}

/* The last tile of a segment makes its second reading possible. Was this tile the last? */
template <class P>
static __device__ __forceinline__ bool kv_end_first(const struct kv_launch &p, struct kv_rows_shared<P> &s,
						    const struct kv_step &step)
{
	struct kv_counters *counters = &p.counters[step.w.segment];

	if (threadIdx.x < KV_ROW_COLUMNS)
		kv_join_warps(p, step, s.warps);
	if (!kv_ends_tile(step)) {
		__syncthreads();
		return false;
	}
	if (!kv_last_block(&counters->stats_done, step.w.n_tiles * p.n_kv_heads * p.groups, &s.last))
		return false;
	kv_rows_combine(p, step.w);
	__syncthreads();
	if (threadIdx.x == 0) {
		kv_fence();
		atomicExch(&counters->stats_ready, 1);
	}
	return true;
}

/* --- the second reading ----------------------------------------------------------- */

/* By one warp: waits for the first reading, and copies its results. Missing rows pay no attention. */
template <class P>
static __device__ __forceinline__ void kv_await_first(const struct kv_launch &p, struct kv_rows_shared<P> &s,
						      const struct kv_step &step)
{
	struct kv_column c = kv_column_of(step, threadIdx.x);
	uint32_t ready;

	if (threadIdx.x == 0)
		for (;;) {
			asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(ready)
				     : "l"(&p.counters[step.w.segment].stats_ready) : "memory");
			if (ready)
				break;
			__nanosleep(100);
		}
	__syncwarp();
	s.references[threadIdx.x] = c.there ? __ldcg(p.row_references + kv_row_index(p, step.w, c.head, c.row)) : INFINITY;
}

/* Sums over the four lanes of a key, for two keys and four groups; lane t gets those of group t. */
static __device__ __forceinline__ void kv_sum_groups(const float a[KV_ROW_GROUPS][2], float sum[2])
{
	bool t1 = threadIdx.x & 1, t2 = threadIdx.x & 2;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		float half[2];

#pragma unroll
		for (int u = 0; u < 2; u++)
			half[u] = (t2 ? a[u + 2][i] : a[u][i]) +
				  __shfl_xor_sync(KV_LANES, t2 ? a[u][i] : a[u + 2][i], 2);
		sum[i] = (t1 ? half[1] : half[0]) + __shfl_xor_sync(KV_LANES, t1 ? half[0] : half[1], 1);
	}
}

template <class P>
static __device__ __forceinline__ void kv_read_second(const struct kv_launch &p, struct kv_rows_shared<P> &s,
						      const struct kv_step &step, const struct kv_step &next,
						      typename P::Batch &batch, uint32_t buffer)
{
	uint32_t lane = threadIdx.x % 32, groups = step.n_groups - step.group, seen = step.seen;
	float *to = s.attention[lane % 4] + threadIdx.x / 32 * KV_ROW_GAP + lane / 4;

#pragma unroll 1
	for (uint32_t b = 0; b < KV_BATCHES; b++, to += KV_WARPS * KV_ROW_GAP) {
		uint32_t at = kv_batch_row(step, b) + lane / 4;
		float a[KV_ROW_GROUPS][2] = {}, x[4], sum[2];
		typename P::Held held;

		kv_prefetch_keys<P>(kv_batch_of(step, next, b + 2));
		P::hold(held, batch);
#pragma unroll
		for (int u = 0; u < KV_ROW_GROUPS; u++) {
			float2 reference = *(const float2 *)(s.references + 8 * u + 2 * (lane % 4));

			if (u < groups)
				P::dots(s.stages[buffer][u], held, x);
			if (u == KV_ROW_GROUPS - 1)
				kv_load_batch<P>(batch, kv_batch_of(step, next, b + 1));
			if (u >= groups)
				continue;
			kv_row_logits(p, x);
			for (int i = 0; i < 4; i++)
				x[i] = kv_exp2(x[i] - (i % 2 ? reference.y : reference.x));
			if (!seen)
				kv_hide(x, 0, at, s.limits[buffer] + 8 * u);
			a[u][0] = x[0] + x[1];
			a[u][1] = x[2] + x[3];
		}
		kv_sum_groups(a, sum);
		if (step.group) {	/* the head has more groups than fit in a step */
			sum[0] += to[0];
			sum[1] += to[8];
		}
		to[0] = sum[0];
		to[8] = sum[1];
	}
}

/* How many rows see position `at`; one if none does. */
static __device__ __forceinline__ uint32_t kv_rows_that_see(const struct kv_launch &p, const struct kv_place &w,
							    uint32_t at)
{
	const uint32_t *limits = p.limits + w.s.first_limit;

	/* all rows see most positions */
	return at < limits[0] ? w.s.n_rows : max(1u, kv_count_above(limits, w.s.n_rows, at));
}

/* The squares of a query head's mean attention in a tile, summed by part and in all, by a warp. */
template <class P>
static __device__ __forceinline__ void kv_square(const struct kv_launch &p, const struct kv_rows_shared<P> &s,
						 const struct kv_step &step, uint32_t head)
{
	uint32_t lane = threadIdx.x % 32, each = min(kv_row_groups(step.w), KV_ROW_GROUPS);
	uint32_t begin = step.tile * KV_BATCHES * KV_BATCH + 16 * lane;
	size_t cell = kv_cell_at(p, step.w, step.head + head, step.tile);
	float sum2 = 0, sink2 = 0;

	for (uint32_t i = 0; i < 16; i++) {
		uint32_t see = step.seen ? step.w.s.n_rows : kv_rows_that_see(p, step.w, begin + i);
		float a = 0;

		for (uint32_t u = head * each; u < (head + 1) * each; u++)
			a += s.attention[u][KV_ROW_GAP * lane + i];
		a /= see;
		sum2 += begin + i >= p.sinks ? a * a : 0;
		sink2 += begin + i >= p.sinks ? 0 : a * a;
	}
	sum2 += __shfl_xor_sync(KV_LANES, sum2, 1);
	if (lane % 2 == 0)
		p.parts[cell * KV_TILE_PARTS + lane / 2] = sum2;
	sum2 = kv_sum_warp(lane % 2 ? 0 : sum2);
	sink2 = kv_sum_warp(sink2);
	/* attention is final: the tile's weight is 1 */
	if (lane == 0)
		p.cells[cell] = { 0, (float)(step.tile == 0), sum2, p.norm_all ? sink2 : 0 };
}

/* The attention of a part, once more, for the finish: four query heads at once, by two warps each. */
template <class P> struct kv_again_rows {
	typename P::Stage *stages;

	/* Adds the attention of eight rows to this lane's keys. */
	__device__ __forceinline__ void add(const struct kv_launch &p, const struct kv_place &w, uint32_t head,
					    uint32_t row, uint32_t begin, float a[2]) const
	{
		uint32_t lane = threadIdx.x % 32;
		typename P::Batch batch;
		float x[4];

		P::load(batch, kv_keys_of(p, w, head / p.ratio), begin);
		P::dots(stages[threadIdx.x / 64], batch, x);
		kv_row_logits(p, x);
#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t j = row + 2 * (lane % 4) + i % 2;

			if (j < w.s.n_rows && begin + lane / 4 + i / 2 * 8 < p.limits[w.s.first_limit + j])
				a[i / 2] += kv_exp2(x[i] - p.row_references[kv_row_index(p, w, head, j)]);
		}
	}

	__device__ __forceinline__ void operator()(const struct kv_launch &p, const struct kv_place &w,
						   struct kv_heads *heads, uint32_t begin, bool sinks) const
	{
		uint32_t lane = threadIdx.x % 32, half = threadIdx.x / 32 % 2 * 16;

#pragma unroll 1
		for (uint32_t h = threadIdx.x / 64; h - threadIdx.x / 64 < p.n_q_heads; h += KV_ROW_GROUPS) {
			float a[2] = { 0, 0 };

#pragma unroll 1
			for (uint32_t row = 0; row < w.s.n_rows; row += 8) {
				__syncthreads();
				if (h < p.n_q_heads)
					P::stage(stages[threadIdx.x / 64], kv_rows_of(p, w, h, row), half / 16, 2);
				__syncthreads();
				if (h < p.n_q_heads)
					add(p, w, h, row, begin + half, a);
			}
			for (int i = 0; i < 2 && h < p.n_q_heads; i++) {
				uint32_t place = half + lane / 4 + 8 * i, at = begin + place;

				a[i] += __shfl_xor_sync(KV_LANES, a[i], 1);
				a[i] += __shfl_xor_sync(KV_LANES, a[i], 2);
				a[i] *= exp2f(-heads->reference[h]) / kv_rows_that_see(p, w, at);
				if (lane % 4 == 0)
					heads->of[h].attention[place] = (at < p.sinks) == sinks ? a[i] : 0;
			}
		}
	}
};

/* After the last tile of the second reading, the segment is decided. Was this tile the last? */
template <class P>
static __device__ __forceinline__ bool kv_end_second(const struct kv_launch &p, struct kv_rows_shared<P> &s,
						     const struct kv_step &step, uint32_t buffer)
{
	struct kv_counters *counters = &p.counters[step.w.segment];
	struct kv_refreekv_result result;
	struct kv_place w;

	if (!kv_ends_tile(step))
		return false;
	if (threadIdx.x / 32 < step.n_groups / kv_row_groups(step.w))
		kv_square(p, s, step, threadIdx.x / 32);
	if (!kv_last_block(&counters->done, step.w.n_tiles * p.n_kv_heads * p.groups, &s.last))
		return false;
	if (threadIdx.x == 0)
		counters->stats_ready = 0;
	w = step.w;
	result = kv_finish(p, w, &s.heads, kv_again_rows<P>{ s.stages[buffer] }, false);
	if (threadIdx.x == 0)
		p.results[w.segment] = result;
	return true;
}

/* --- all of it --------------------------------------------------------------------- */

/* Prepares a block's first step, with its rows and first keys, and the step after it. */
template <class P>
static __device__ __forceinline__ uint32_t kv_begin_rows(const struct kv_launch &p, struct kv_rows_shared<P> &s,
							 typename P::Batch &batch)
{
	uint32_t drawn = 0;

	if (threadIdx.x / 32 == KV_WARPS - 1) {
		kv_fill_step(p, __shfl_sync(KV_LANES, kv_draw_step(p), 0), &s.steps[0]);
		__syncwarp();
		if (s.steps[0].valid)
			drawn = kv_draw_step(p);
		else
			drawn = p.n_items;
		drawn = kv_next_step(p, drawn, s.steps[0], &s.steps[1]);
	}
	__syncthreads();
	if (s.steps[0].valid) {
		P::load(batch, s.steps[0].keys, kv_batch_row(s.steps[0], 0));
		kv_stage_step<P>(p, s.steps[0], s.stages[0], s.limits[0]);
	}
	__syncthreads();
	return drawn;
}

/* A block asks early for what takes time: for keys a batch ahead, rows a step ahead, steps two ahead. */
template <class P>
__global__ __launch_bounds__(32 * KV_WARPS, kv_room<P>::BLOCKS)
void kv_decide_rows(const __grid_constant__ struct kv_launch p)
{
	extern __shared__ uint4 memory[];
	struct kv_rows_shared<P> &s = *(struct kv_rows_shared<P> *)memory;
	typename P::Batch batch;
	uint32_t drawn;
	bool ended;

	if (blockIdx.x == 0)
		kv_report_whole(p);
	drawn = kv_begin_rows<P>(p, s, batch);
#pragma unroll 1
	for (uint32_t i = 0; s.steps[i & 3].valid; i++) {
		const struct kv_step &step = s.steps[i & 3], &next = s.steps[(i + 1) & 3];

		if (threadIdx.x / 32 == KV_WARPS - 1)
			drawn = kv_next_step(p, drawn, next, &s.steps[(i + 2) & 3]);
		if (next.valid)
			kv_stage_step<P>(p, next, s.stages[(i + 1) & 1], s.limits[(i + 1) & 1]);
		if (step.second && threadIdx.x / 32 == 0)
			kv_await_first<P>(p, s, step);
		if (step.second) {
			__syncthreads();
			kv_read_second<P>(p, s, step, next, batch, i & 1);
			__syncthreads();
			ended = kv_end_second<P>(p, s, step, i & 1);
		} else {
			kv_read_first<P>(p, s, step, next, batch, i & 1);
			__syncthreads();
			ended = kv_end_first<P>(p, s, step);
		}
		/* loaded again, so that keys occupy no registers in between */
		if (ended)
			kv_load_batch<P>(batch, kv_batch_of(step, next, KV_BATCHES));
	}
}

#endif
