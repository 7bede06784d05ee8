/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a segment is cut, by the block that saw its last tile: from the sums of
 * the tiles to the tile, from the sums of its parts to the part, and from its
 * sixteen positions, whose attention is computed once more, to the position.
 *
 * Every step is the same: a range is cut into 32, eight lanes sum up for a query
 * head what would be dropped in front of each 32nd, the norms of what is left are
 * averaged over heads, and the newest 32nd that keeps enough is taken. What is
 * dropped is a sum of its own, so that a loss far below 1 is as exact as one near
 * it. All in double, in one fixed order.
 *
 * This runs once for a segment, on code that no cache holds yet: it is short
 * rather than unrolled.
 */
#ifndef KV_CUDA_FINISH_CUH
#define KV_CUDA_FINISH_CUH

#include "kernels/cuda/launch.cuh"

/* What the warps of a block share while they look for a cut. */
struct kv_heads {
	double sums[2][KV_WARPS][32];
	/* by query head: */
	double weight[KV_MAX_HEADS];	/* 1 / (sum of exp(x - max)) */
	double sink2[KV_MAX_HEADS];	/* squares that are in the norm and always kept */
	double total[KV_MAX_HEADS];	/* and all that are in it, before weights */
	double below[KV_MAX_HEADS][32];	/* what each child's choice drops */
	double squares[KV_MAX_HEADS][KV_PART];
	float max[KV_MAX_HEADS];
};

/* A cut that is being closed in on. */
struct kv_cut {
	double full, kept;		/* mean norms: of all, of what is kept */
	uint32_t child;			/* that was taken last; 32: none yet */
	uint32_t steps;
};

/* What is cut in a step into n children, 32 at most. */
enum kv_range { KV_TILES, KV_PARTS, KV_POSITIONS, KV_SINKS };

struct kv_search {
	enum kv_range range;
	uint32_t tile, end;		/* from a tile on, up to another; */
	uint32_t begin;			/* or from a position on */
	uint32_t n, count;		/* children, tiles of a child or parts of a tile */
};

/* (2^(x - max))^2, which floats alone could not hold */
static __device__ __forceinline__ double kv_square(float x, float max)
{
	double e = exp2f(x - max);

	return e * e;
}

/* To within a few units of the last place, in little code. */
static __device__ __forceinline__ double kv_sqrt(double x)
{
	double y, r;

	asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
	y = fma(y * 0.5, fma(-x * y, y, 1.), y);
	r = x * y;
	r = fma(y * 0.5, fma(-r, r, x), r);
	return x > 0 ? r : x == 0 || x < 0 ? 0 : x;	/* NaN stays */
}

static __device__ __forceinline__ double kv_sum8(double x)
{
#pragma unroll
	for (int d = 4; d; d /= 2)
		x += __shfl_xor_sync(KV_LANES, x, d);
	return x;
}

/* A query head's softmax over all tiles, by eight lanes. */
static __device__ __forceinline__ void kv_softmax_head(const struct kv_launch &p, const struct kv_place &w,
						       struct kv_heads *heads, uint32_t h)
{
	uint32_t u = threadIdx.x % 8, n = h < p.n_q_heads ? w.n_tiles : 0;
	size_t cell = kv_cell(p, w, h, 0);
	double sum = 0, sink2 = 0;
	float max = -FLT_MAX, all;

#pragma unroll 4
	for (uint32_t i = 4 * u; i < n; i += 32) {
		float4 m4 = *(const float4 *)&p.max[cell + i], z4 = *(const float4 *)&p.sum[cell + i];
		float m[4] = { m4.x, m4.y, m4.z, m4.w }, z[4] = { z4.x, z4.y, z4.z, z4.w }, before = max, e;

#pragma unroll
		for (int k = 0; k < 4; k++)
			max = i + k < n ? fmaxf(max, m[k]) : max;
		e = exp2f(before - max);
		sum *= e;
		sink2 *= (double)e * e;
#pragma unroll
		for (int k = 0; k < 4; k++)
			if (i + k < n) {
				e = exp2f(m[k] - max);
				sum += (double)e * z[k];
				if (p.norm_all)
					sink2 += (double)e * e * p.sink2[cell + i + k];
			}
	}
	all = fmaxf(max, __shfl_xor_sync(KV_LANES, max, 1));
	all = fmaxf(all, __shfl_xor_sync(KV_LANES, all, 2));
	all = fmaxf(all, __shfl_xor_sync(KV_LANES, all, 4));
	sum = kv_sum8(sum * exp2f(max - all));
	sink2 = kv_sum8(sink2 * kv_square(max, all));
	if (u == 0 && h < p.n_q_heads) {
		heads->weight[h] = 1 / sum;
		heads->sink2[h] = sink2;
		heads->max[h] = all;
	}
}

/* Squares of head h, before weights, in child 4u + k of a range. */
static __device__ __forceinline__ void kv_children(const struct kv_launch &p, const struct kv_place &w,
						   const struct kv_heads *heads, uint32_t h,
						   const struct kv_search &f, double x[4])
{
	uint32_t child = 4 * (threadIdx.x % 8);
	size_t cell = kv_cell(p, w, h, f.tile);
	float max = heads->max[h];

	x[0] = x[1] = x[2] = x[3] = 0;
	if (f.range == KV_TILES) {
#pragma unroll 4
		for (uint32_t c = 0; c < f.count; c++)
#pragma unroll
			for (int k = 0; k < 4; k++) {
				uint32_t i = (child + k) * f.count + c;

				if (f.tile + i < f.end)
					x[k] += kv_square(p.max[cell + i], max) * p.sum2[cell + i];
			}
		return;
	}
#pragma unroll
	for (int k = 0; k < 4; k++)
		if (f.range == KV_PARTS && child + k < f.count)
			x[k] = kv_square(p.max[cell], max) * p.parts[cell * f.count + child + k];
		else if (f.range >= KV_POSITIONS && child + k < KV_PART)
			x[k] = heads->squares[h][child + k];
}

/* Warps have summed up heads of their own: the mean over all, for each child. */
static __device__ __forceinline__ double kv_mean(const struct kv_launch &p, double (*sums)[32], double kept[4])
{
	uint32_t lane = threadIdx.x % 32;
	double x = 0;

#pragma unroll
	for (int k = 0; k < 4; k++) {
		kept[k] += __shfl_xor_sync(KV_LANES, kept[k], 8);
		kept[k] += __shfl_xor_sync(KV_LANES, kept[k], 16);
		if (lane < 8)
			sums[threadIdx.x / 32][4 * lane + k] = kept[k];
	}
	__syncthreads();
#pragma unroll
	for (int i = 0; i < KV_WARPS; i++)
		x += sums[i][lane];
	return x * p.per_head;
}

/*
 * One step: takes the newest child that keeps enough. (Of the sinks,
 * which are ranked oldest first, the oldest that is enough with all before it;
 * `below` is what it keeps.)
 */
static __device__ void kv_step(const struct kv_launch &p, const struct kv_place &w, struct kv_heads *heads,
			       struct kv_cut *cut, const struct kv_search &f)
{
	bool sinks = f.range == KV_SINKS;
	uint32_t lane = threadIdx.x % 32, u = lane % 8, enough;
	double kept[4] = { 0, 0, 0, 0 }, mean;

#pragma unroll 1
	for (uint32_t base = 0; base < p.n_q_heads; base += blockDim.x / 8) {
		uint32_t h = min(base + threadIdx.x / 8, p.n_q_heads - 1);
		double *below = heads->below[h];
		double x[4], own, before, y, total, weight = heads->weight[h];
		bool there = base + threadIdx.x / 8 < p.n_q_heads;

		y = there && cut->steps && cut->child < 32 ? below[cut->child] : 0;
		kv_children(p, w, heads, h, f, x);
		own = before = x[0] + x[1] + x[2] + x[3];
#pragma unroll
		for (uint32_t d = 1; d < 8; d *= 2) {
			double other = __shfl_up_sync(KV_LANES, before, d, 8);

			before += u >= d ? other : 0;
		}
		total = heads->sink2[h] + __shfl_sync(KV_LANES, before, 7, 8);
		if (cut->steps && there)
			total = heads->total[h];
		else if (u == 0 && there)
			heads->total[h] = total;
		y += before - own;
		__syncwarp();
#pragma unroll
		for (int k = 0; k < 4; k++) {
			y += sinks ? x[k] : 0;
			mean = kv_sqrt(sinks ? y : total - y);
			kept[k] += there ? mean * weight : 0;
			if (there)
				below[4 * u + k] = y;
			y += sinks ? 0 : x[k];
		}
	}
	mean = kv_mean(p, heads->sums[cut->steps % 2], kept);
	if (cut->steps++ == 0)
		cut->full = __shfl_sync(KV_LANES, mean, 0);
	enough = __ballot_sync(KV_LANES, lane < f.n && mean >= cut->full * p.keep);
	cut->child = sinks ? (enough ? __ffs(enough) - 1 : 31) : enough ? 31 - __clz(enough) : 0;
	cut->kept = __shfl_sync(KV_LANES, mean, cut->child);
}

/* The mean norm of the sinks alone. */
static __device__ __forceinline__ double kv_sinks_norm(const struct kv_launch &p, struct kv_heads *heads)
{
	double x = 0;

#pragma unroll 1
	for (uint32_t h = 0; h < p.n_q_heads; h++)
		x += kv_sqrt(heads->sink2[h]) * heads->weight[h];
	return x * p.per_head;
}

static __device__ __forceinline__ void kv_report(const struct kv_launch &p, const struct kv_place &w, uint32_t first,
				 int32_t status, double loss)
{
	struct kv_refreekv_result r = { first, first ? w.s.n - first + p.sinks : w.s.n, status, 0, loss };

	if (threadIdx.x == 0)
		p.results[w.segment] = r;
}

/* Segments that have no tile, for there is nothing to decide. */
static __device__ void kv_report_whole(const struct kv_launch &p)
{
	for (uint32_t i = threadIdx.x; i < p.n_segments; i += blockDim.x) {
		struct kv_refreekv_result r = { 0, p.segments[i].n, 0, 0, 0 };

		if (kv_keeps_all(&p.params, r.kept))
			p.results[i] = r;
	}
}

static __device__ __forceinline__ bool kv_has_norm(const struct kv_cut &cut)
{
	return cut.full > 0 && cut.full <= DBL_MAX;
}

/* What to cut after a step; false if there is nothing more. */
static __device__ __forceinline__ bool kv_narrow(const struct kv_launch &p, const struct kv_place &w,
						 struct kv_heads *heads, struct kv_cut *cut,
						 struct kv_search *f, uint32_t parts)
{
	if (f->range == KV_TILES) {
		f->tile = min(f->tile + cut->child * f->count, w.n_tiles - 1);
		f->end = min(f->tile + f->count, f->end);
		if (f->count > 1)
			return true;
		f->begin = f->tile * parts * KV_PART;
		f->range = KV_PARTS;
		if (p.norm_all && kv_sinks_norm(p, heads) >= cut->full * p.keep) {
			f->range = KV_SINKS;
			f->begin = 0;
			cut->child = 32;
		}
		return kv_has_norm(*cut);
	}
	if (f->range == KV_PARTS) {
		f->begin += cut->child * KV_PART;
		f->range = KV_POSITIONS;
		return true;
	}
	if (f->range == KV_SINKS && cut->kept < cut->full * p.keep) {
		f->begin += KV_PART;
		return f->begin < p.sinks;
	}
	return false;
}

static __device__ __forceinline__ void kv_set_children(const struct kv_place &w, struct kv_search *f, uint32_t parts)
{
	if (f->range == KV_TILES) {
		f->count = (f->end - f->tile + 31) / 32;
		f->n = (f->end - f->tile + f->count - 1) / f->count;
	} else if (f->range == KV_PARTS) {
		f->count = parts;
		f->n = (min(w.s.n - f->begin, parts * KV_PART) + KV_PART - 1) / KV_PART;
	} else {
		f->n = min(w.s.n - f->begin, KV_PART);
	}
}

/*
 * `again` computes squared attention, before weights, of sixteen positions for
 * all query heads into heads->squares.
 */
template <class Again>
static __device__ __forceinline__ void kv_finish(const struct kv_launch &p, const struct kv_place &w,
						 struct kv_heads *heads, uint32_t parts, const Again &again)
{
	struct kv_search f = { KV_TILES, 0, w.n_tiles };
	struct kv_cut cut = {};
	uint32_t first;
	bool more;

#pragma unroll 1
	for (uint32_t base = 0; base < p.n_q_heads; base += blockDim.x / 8)
		kv_softmax_head(p, w, heads, base + threadIdx.x / 8);
	__syncthreads();
	do {
		kv_set_children(w, &f, parts);
		if (f.range >= KV_POSITIONS) {
			__syncthreads();
			again(p, w, heads, f.begin, f.range == KV_SINKS);
			__syncthreads();
		}
		kv_step(p, w, heads, &cut, f);
		more = kv_narrow(p, w, heads, &cut, &f, parts);
	} while (more);
	if (!kv_has_norm(cut)) {
		kv_report(p, w, 0, cut.full == 0 ? KV_REFREEKV_FLAT : KVMOD_ENUMERIC, cut.full == 0 ? 0 : NAN);
		return;
	}
	first = f.range == KV_SINKS ? w.s.n : f.begin + cut.child;
	first = max(min(first, w.s.n - p.recent), p.sinks);
	kv_report(p, w, first, 0, (cut.full - cut.kept) / cut.full);
}

#endif
