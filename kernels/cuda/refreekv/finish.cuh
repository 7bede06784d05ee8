/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The finish: one block finds where a segment is cut. The sums of the tiles give the
 * tile, the sums of that tile's parts give the part, and the attention of that part's
 * positions, computed once more, gives the position.
 *
 * Each step is the same. It divides a range into 32 children. Eight lanes sum up, for a
 * query head, the squares dropped if the cut is in front of a child, and the squares
 * kept. The losses are averaged over heads, and the step takes the newest child with a
 * loss below the threshold.
 *
 * Equation 2 of the paper: a head whose squares sum to 1, and that keeps k of them and
 * drops d = 1 - k, loses 1 - sqrt(k) = d / (1 + sqrt(k)) of its norm. Both d and k are
 * sums of non-negative numbers, so the loss is as exact as a float, near 0 and near 1.
 * The order of sums is fixed.
 *
 * This code runs once for a segment, so it is short rather than unrolled, and its loads
 * do not wait for each other.
 */
#ifndef KV_KERNELS_CUDA_REFREEKV_FINISH_CUH
#define KV_KERNELS_CUDA_REFREEKV_FINISH_CUH

#include "kernels/cuda/refreekv/decision.cuh"

/* What the warps of a block share while they look for a cut. */
struct kv_heads {
	float sums[2][KV_WARPS][36];	/* 32 and one; a multiple of 16 bytes */
	/* by query head: */
	float reference[KV_MAX_HEADS];	/* the squares are of 2^(logit - reference) */
	float norm[KV_MAX_HEADS];	/* of the head's attention */
	float inverse[KV_MAX_HEADS];	/* 1 / (its sum of squares); 0 if that is 0 */
	float sink2[KV_MAX_HEADS];	/* the sinks' squares: in the norm, and always kept */
	struct kv_children_of {
		float before[32], after[32];	/* squares on both sides of a child */
		float attention[KV_LONG_PART + 4];	/* of positions; four more, against bank conflicts */
	} of[KV_MAX_HEADS];		/* memory is allocated for p.n_q_heads only */
};

/* The cut so far. */
struct kv_cut {
	float full, loss;		/* summed over heads: their norms; what those lose */
	uint32_t child;			/* taken in the last step; 32: none yet */
	uint32_t steps;
};

/* What a step divides into children. */
enum kv_range { KV_TILES, KV_PARTS, KV_POSITIONS, KV_SINKS };

struct kv_search {
	enum kv_range range;
	uint32_t tile, end;		/* tiles: from one, up to another */
	uint32_t begin;			/* parts and positions: the first position */
	uint32_t n, count;		/* children, 32 at most; tiles of a child, or parts of a tile */
};

/* s * (2^x)^2, also where the power alone would overflow; 0 stays 0. */
static __device__ __forceinline__ float kv_scaled(float s, float x)
{
	float e = exp2f(x);

	return s == 0 ? 0 : e * s * e;
}

static __device__ __forceinline__ float kv_root(float x)
{
	float r;

	asm("sqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
	return r;
}

/* The share of a norm that is lost, where the squares sum to 1. */
static __device__ __forceinline__ float kv_loss(float dropped, float kept)
{
	return __fdividef(fminf(dropped, 1), 1 + kv_root(kept));
}

/* Four tiles, one of each of this lane's children; tiles past the end are empty. */
static __device__ __forceinline__ void kv_load_tiles(const struct kv_launch &p, size_t cell,
						     const struct kv_search &f, uint32_t c, struct kv_cell t[4])
{
	const struct kv_cell empty = { -FLT_MAX, 0, 0, 0 };

#pragma unroll
	for (int k = 0; k < 4; k++) {
		uint32_t i = f.tile + (4 * (threadIdx.x % 8) + k) * f.count + c;

		t[k] = p.cells[cell + min(i, f.end - 1)];
		if (i >= f.end)
			t[k] = empty;
	}
}

/*
 * A query head's softmax over all tiles, by eight lanes; x: the squares of this lane's
 * children, as from kv_children(). The reference is about the root of the largest
 * tile's squares.
 */
static __device__ __forceinline__ void kv_softmax(const struct kv_launch &p, const struct kv_place &w,
						  struct kv_heads *heads, uint32_t h, bool there,
						  const struct kv_search &f, float x[4])
{
	float max = -FLT_MAX, reference = -FLT_MAX, sum = 0, sink2 = 0, total, e;
	size_t cell = kv_cell_at(p, w, h, 0);
	struct kv_cell t[4];

	x[0] = x[1] = x[2] = x[3] = 0;
#pragma unroll 1
	for (uint32_t c = 0; c < f.count; c++) {
		float old_max = max, old = reference;

		kv_load_tiles(p, cell, f, c, t);
#pragma unroll
		for (int k = 0; k < 4; k++) {
			max = fmaxf(max, t[k].max);
			reference = fmaxf(reference, t[k].max + 0.5f * __log2f(t[k].sum2 + t[k].sink2));
		}
		sum *= exp2f(old_max - max);
		sink2 = kv_scaled(sink2, old - reference);
#pragma unroll
		for (int k = 0; k < 4; k++) {
			sum += exp2f(t[k].max - max) * t[k].sum;
			sink2 += kv_scaled(t[k].sink2, t[k].max - reference);
			x[k] = kv_scaled(x[k], old - reference) + kv_scaled(t[k].sum2, t[k].max - reference);
		}
	}
	e = max;
	max = kv_max8(max);
	sum = kv_sum8(sum * exp2f(e - max));
	e = reference;
	reference = kv_max8(reference);
	sink2 = kv_sum8(kv_scaled(sink2, e - reference));
#pragma unroll
	for (int k = 0; k < 4; k++)
		x[k] = kv_scaled(x[k], e - reference);
	total = kv_sum8((x[0] + x[1]) + (x[2] + x[3])) + sink2;
	if (threadIdx.x % 8 == 0 && there) {
		heads->reference[h] = reference;
		heads->sink2[h] = sink2;
		heads->inverse[h] = total > 0 ? 1 / total : 0;
		heads->norm[h] = kv_root(total) * exp2f(reference - max) / sum;
	}
	__syncwarp();
}

/* The squares of head h in children 4u ... 4u + 3 of a range, u the lane of the eight. */
static __device__ __forceinline__ void kv_children(const struct kv_launch &p, const struct kv_place &w,
						   const struct kv_heads *heads, uint32_t h,
						   const struct kv_search &f, float x[4])
{
	uint32_t child = 4 * (threadIdx.x % 8);
	float reference = heads->reference[h];
	size_t cell = kv_cell_at(p, w, h, 0);

	x[0] = x[1] = x[2] = x[3] = 0;
	if (f.range == KV_TILES) {
		struct kv_cell t[4];

#pragma unroll 1
		for (uint32_t c = 0; c < f.count; c++) {
			kv_load_tiles(p, cell, f, c, t);
#pragma unroll
			for (int k = 0; k < 4; k++)
				x[k] += kv_scaled(t[k].sum2, t[k].max - reference);
		}
	} else if (f.range == KV_PARTS && child < f.count) {
		float4 sum2 = *(const float4 *)&p.parts[(cell + f.tile) * KV_TILE_PARTS + child];
		float max = p.cells[cell + f.tile].max - reference;

		x[0] = kv_scaled(sum2.x, max);
		x[1] = kv_scaled(sum2.y, max);
		x[2] = kv_scaled(sum2.z, max);
		x[3] = kv_scaled(sum2.w, max);
	} else if (f.range >= KV_POSITIONS && child < kv_part(w.s.batches)) {
#pragma unroll
		for (int k = 0; k < 4; k++)
			x[k] = heads->of[h].attention[child + k] * heads->of[h].attention[child + k];
	}
}

/*
 * Sums over the heads of all warps: each lane of a head has four columns, and all have
 * the number *more. Returns the column of this lane.
 */
static __device__ __forceinline__ float kv_sum_block(float (*sums)[36], float columns[4], float *more)
{
	uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	float x[KV_WARPS], y[KV_WARPS];

#pragma unroll
	for (int d = 8; d <= 16; d *= 2) {
#pragma unroll
		for (int k = 0; k < 4; k++)
			columns[k] += __shfl_xor_sync(KV_LANES, columns[k], d);
		*more += __shfl_xor_sync(KV_LANES, *more, d);
	}
	if (lane < 8) {
		*(float4 *)&sums[warp][4 * lane] = make_float4(columns[0], columns[1], columns[2], columns[3]);
		sums[warp][32] = *more;
	}
	__syncthreads();
#pragma unroll
	for (int i = 0; i < KV_WARPS; i++) {
		x[i] = sums[i][lane];
		y[i] = sums[i][32];
	}
#pragma unroll
	for (int d = KV_WARPS / 2; d; d /= 2)
#pragma unroll
		for (int i = 0; i < d; i++) {
			x[i] += x[i + d];
			y[i] += y[i + d];
		}
	*more = y[0];
	return x[0];
}

/*
 * Adds to loss[k] what head h loses if everything in front of child k, of this lane's
 * four, is dropped; returns the head's norm.
 */
static __device__ __forceinline__ float kv_losses(struct kv_heads *heads, uint32_t h, bool there,
						 const struct kv_cut &cut, bool sinks, const float x[4], float loss[4])
{
	float own = (x[0] + x[1]) + (x[2] + x[3]), before[4], after[4];
	float inverse = there ? heads->inverse[h] : 0, norm = there ? heads->norm[h] : 0;
	uint32_t child = 4 * (threadIdx.x % 8);

	before[0] = kv_sum8_before(own);
	after[3] = kv_sum8_after(own);
	if (there && cut.steps == 0) {
		after[3] += heads->sink2[h];
	} else if (there && cut.child < 32) {
		before[0] += heads->of[h].before[cut.child];
		after[3] += heads->of[h].after[cut.child];
	}
	__syncwarp();
#pragma unroll
	for (int k = 0; k < 3; k++) {
		before[k + 1] = before[k] + x[k];
		after[2 - k] = after[3 - k] + x[3 - k];
	}
#pragma unroll
	for (int k = 0; k < 4; k++) {
		float dropped = before[k] * inverse, kept = (after[k] + x[k]) * inverse;

		if (sinks) {
			kept = (before[k] + x[k]) * inverse;
			dropped = fmaxf(1 - kept, 0);
		}
		loss[k] += norm * kv_loss(dropped, kept);
	}
	if (there) {
		*(float4 *)&heads->of[h].before[child] = make_float4(before[0], before[1], before[2], before[3]);
		*(float4 *)&heads->of[h].after[child] = make_float4(after[0], after[1], after[2], after[3]);
	}
	return norm;
}

/*
 * One step: takes the newest child whose loss is below the threshold. (Sinks rank oldest
 * first: there, the oldest position that suffices together with all before it.)
 */
static __device__ void kv_step(const struct kv_launch &p, const struct kv_place &w, struct kv_heads *heads,
			       struct kv_cut *cut, const struct kv_search &f)
{
	float losses[4] = { 0, 0, 0, 0 }, full = 0, sum;
	bool sinks = f.range == KV_SINKS;
	uint32_t lane = threadIdx.x % 32, enough;

#pragma unroll 1
	for (uint32_t base = 0; base < p.n_q_heads; base += blockDim.x / 8) {
		uint32_t h = min(base + threadIdx.x / 8, p.n_q_heads - 1);
		bool there = base + threadIdx.x / 8 < p.n_q_heads;
		float x[4];

		if (cut->steps)
			kv_children(p, w, heads, h, f, x);
		else
			kv_softmax(p, w, heads, h, there, f, x);
		full += kv_losses(heads, h, there, *cut, sinks, x, losses);
	}
	sum = kv_sum_block(heads->sums[cut->steps % 2], losses, &full);
	if (cut->steps++ == 0)
		cut->full = full;
	enough = __ballot_sync(KV_LANES, lane < f.n && sum <= p.params.threshold * cut->full);
	cut->child = sinks ? (enough ? __ffs(enough) - 1 : 31) : enough ? 31 - __clz(enough) : 0;
	cut->loss = __shfl_sync(KV_LANES, sum, cut->child);
}

/* Is the loss below the threshold if the sinks alone are kept? */
static __device__ __forceinline__ bool kv_sinks_suffice(const struct kv_launch &p, const struct kv_heads *heads,
							float full)
{
	float loss = 0;

#pragma unroll 1
	for (uint32_t h = 0; h < p.n_q_heads; h++) {
		float kept = heads->sink2[h] * heads->inverse[h];

		loss += heads->norm[h] * kv_loss(fmaxf(1 - kept, 0), kept);
	}
	return loss <= p.params.threshold * full;
}

static __device__ __forceinline__ struct kv_refreekv_result
kv_result(const struct kv_launch &p, const struct kv_place &w, uint32_t first, int32_t status, double loss)
{
	struct kv_refreekv_result r = { first, first ? w.s.n - first + p.sinks : w.s.n, status, 0, loss };

	return r;
}

/* The results of segments without tiles: everything is kept. */
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
	return cut.full > 0 && cut.full <= FLT_MAX;
}

/* The range of the next step; false if this was the last one. */
static __device__ __forceinline__ bool kv_narrow(const struct kv_launch &p, const struct kv_place &w,
						 struct kv_heads *heads, struct kv_cut *cut,
						 struct kv_search *f)
{
	if (f->range == KV_TILES) {
		f->tile = min(f->tile + cut->child * f->count, w.n_tiles - 1);
		f->end = min(f->tile + f->count, f->end);
		if (f->count > 1)
			return true;
		f->begin = f->tile * w.s.batches * KV_BATCH;
		f->range = KV_PARTS;
		if (p.norm_all && kv_sinks_suffice(p, heads, cut->full)) {
			f->range = KV_SINKS;
			f->begin = 0;
			cut->child = 32;
		}
		return kv_has_norm(*cut);
	}
	if (f->range == KV_PARTS) {
		f->begin += cut->child * kv_part(w.s.batches);
		f->range = KV_POSITIONS;
		return true;
	}
	if (f->range == KV_SINKS && cut->loss > p.params.threshold * cut->full) {
		f->begin += kv_part(w.s.batches);
		return f->begin < p.sinks;
	}
	return false;
}

static __device__ __forceinline__ void kv_set_children(const struct kv_place &w, struct kv_search *f)
{
	uint32_t part = kv_part(w.s.batches), parts = w.s.batches * KV_BATCH / part;

	if (f->range == KV_TILES) {
		f->count = (f->end - f->tile + 31) / 32;
		f->n = (f->end - f->tile + f->count - 1) / f->count;
	} else if (f->range == KV_PARTS) {
		f->count = parts;
		f->n = (min(w.s.n - f->begin, parts * part) + part - 1) / part;
	} else {
		f->n = min(w.s.n - f->begin, part);
	}
}

/* Turns a segment into one of a single tile, in the spare cell. */
static __device__ __forceinline__ void kv_make_up(const struct kv_launch &p, struct kv_place *w)
{
	w->n_tiles = 1;
	w->s.first_cell = p.spare_cell;
	for (uint32_t h = threadIdx.x; h < p.n_q_heads; h += blockDim.x) {
		struct kv_cell cell = { 1, 1, 1, 1 };

		p.cells[kv_cell_at(p, *w, h, 0)] = cell;
	}
	__syncthreads();
}

/*
 * `again` computes the attention of a part once more, for all query heads, into their
 * heads->of[].attention. A rehearsal runs all the code once; its result means nothing.
 */
template <class Again>
static __device__ __forceinline__ struct kv_refreekv_result
kv_finish(const struct kv_launch &p, const struct kv_place &w, struct kv_heads *heads,
	  const Again &again, bool rehearsal)
{
	struct kv_search f = { rehearsal ? KV_POSITIONS : KV_TILES, 0, w.n_tiles, 0, 0, 1 };
	struct kv_cut cut = {};
	uint32_t first;
	bool more;

	do {
		kv_set_children(w, &f);
		if (f.range >= KV_POSITIONS) {
			__syncthreads();
			again(p, w, heads, f.begin, f.range == KV_SINKS);
			__syncthreads();
		}
		kv_step(p, w, heads, &cut, f);
		more = kv_narrow(p, w, heads, &cut, &f);
	} while (more);
	if (!kv_has_norm(cut))
		return kv_result(p, w, 0, cut.full == 0 ? KV_REFREEKV_FLAT : KVMOD_ENUMERIC, cut.full == 0 ? 0 : NAN);
	first = f.range == KV_SINKS ? w.s.n : f.begin + cut.child;
	first = max(min(first, w.s.n - p.recent), p.sinks);
	return kv_result(p, w, first, 0, (double)cut.loss / cut.full);
}

#endif
