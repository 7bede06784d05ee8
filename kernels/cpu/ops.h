/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the kernels: a table of functions for each SIMD level. */
#ifndef KV_KERNELS_CPU_OPS_H
#define KV_KERNELS_CPU_OPS_H

#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/blocks.h"
#include "kernels/cpu/limits.h"
#include "kernels/cpu/logits.h"
#include "kernels/cpu/simd.h"

/* The longest rows that quadratic() of vectors takes; it has some of them on its stack. */
#define KV_FORM_DIM 1024

struct kv_cpu_ops {
	/* out: one float for each query and key, q.k without scale */
	void (*dots)(const struct kvmod_view *k, uint32_t head_dim, uint32_t begin,
		     uint32_t end, const float *q, uint32_t n_q, float *out, size_t out_stride);
	/* x -> scale * x, or the soft cap of it */
	void (*scale)(float *x, size_t n, float scale, float softcap);
	void (*to_f32)(uint32_t type, const void *src, size_t n, float *dst);
	float (*max)(const float *x, size_t n);
	/* of n_q queries; n is a multiple of KV_PAD, filled up with -INFINITY */
	void (*softmax)(const float *x, size_t stride, uint32_t n_q, size_t n,
			struct kv_softmax *out);
	/* out += weight * exp(x - max) */
	void (*exp_add)(const float *x, size_t n, float max, float weight, float *out);
	/* out -> the larger of out and weight * exp(x - max) */
	void (*exp_raise)(const float *x, size_t n, float max, float weight, float *out);
	/* x -> weight * exp(x - max) */
	void (*exp_scale)(float *x, size_t n, float max, float weight);
	uint64_t (*sum_bytes)(const unsigned char *x, size_t n);
	uint64_t (*multiply_add)(uint64_t n, float *sum);
	/* n > 0 rows that lie `stride` bytes apart, as blocks.h has them */
	void (*rows)(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		     float *out, size_t out_stride);
	void (*norms)(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		      float *out);
	void (*sum)(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		    const float *weights, float *out);
	void (*stats)(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		      const struct kv_columns *out);
	/*
	 * Queries side by side: `lanes` of them, a multiple of KV_PAD, have x[key][lane]. n keys
	 * are k[n][dim], with room for a multiple of 8; queries are q[dim][lanes].
	 */
	void (*lane_logits)(const float *k, uint32_t dim, uint32_t n, const float *q, uint32_t lanes,
			    float *out);
	/*
	 * x -> exp(x - max), and the sum of that; max[lanes], sum[lanes]. A lane sees the first
	 * sees[lane] keys, any number; the others give 0. sees NULL: all.
	 */
	void (*lane_softmax)(float *x, uint32_t n, uint32_t lanes, const float *sees, float *max,
			     float *sum);
	/* Pieces of one softmax, [n_pieces][lanes]: max -> what exp(x - max) is to be multiplied by. */
	void (*lane_weights)(float *max, const float *sum, uint32_t n_pieces, uint32_t lanes);
	/* out[key] += the sum over lanes of weights[lane] * x; the largest of that and of out[key] */
	void (*lane_sum)(const float *x, uint32_t n, uint32_t lanes, const float *weights, float *out);
	void (*lane_max)(const float *x, uint32_t n, uint32_t lanes, const float *weights, float *out);
	/* out[lane] += the sum over keys of |x| */
	void (*lane_sizes)(const float *x, uint32_t n, uint32_t lanes, float *out);
	/* out[j] += the sum over n rows of weights[j * w_stride + row] * row, for n_q queries j */
	void (*values)(uint32_t type, const char *v, int64_t stride, uint32_t dim, uint32_t n,
		       const float *weights, size_t w_stride, uint32_t n_q, float *out);
	/*
	 * out[d][lane] -> keep[lane] * out + add[lane] * the sum over n rows of v[row][d] *
	 * x[row][lane]; dim is a multiple of 8.
	 */
	void (*lane_values)(const float *v, uint32_t dim, uint32_t n, const float *x, uint32_t lanes,
			    const float *keep, const float *add, float *out);
	/*
	 * Adds a tile's softmax to that of the tiles before: what was made of these is to be
	 * multiplied by keep[lane], what is made of the tile by add[lane].
	 */
	void (*lane_join)(float *max, float *sum, const float *tile_max, const float *tile_sum,
			  uint32_t lanes, float *keep, float *add);
	/* as arrays.h has them, of KV_SUM numbers or fewer */
	float (*total)(const float *x, size_t n);
	float (*entropy)(const float *x, size_t n, float epsilon);
	/* share: 1 / count */
	void (*moments)(const float *x, size_t n, float share, float *mean, float *squares);
	/* out[i] + x[i], and the larger of the two */
	void (*add)(const float *x, size_t n, float *out);
	void (*larger)(const float *x, size_t n, float *out);
	/* dim is at most KV_FORM_DIM */
	void (*quadratic)(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
			  const float *a, const float *b, float *out);
};

extern const struct kv_cpu_ops kv_cpu_scalar;
#if defined(__x86_64__)
extern const struct kv_cpu_ops kv_cpu_avx2, kv_cpu_avx512;
#endif

/* The table of the level in use. */
const struct kv_cpu_ops *kv_cpu_ops(void);

/* Statistics of one column, element by element. */
void kv_column_stats(uint32_t type, const char *k, int64_t stride, uint32_t d, uint32_t n,
		     const struct kv_columns *out);

static inline const char *kv_row_at(const struct kvmod_view *view, uint32_t row)
{
	return (const char *)view->data + row * view->stride;
}

static inline float kv_f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, bits;
	float f;

	if (exponent == 0) {
		f = (float)(h & 0x3ff) * 0x1p-24f;
		return sign ? -f : f;
	}
	bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | (uint32_t)(h & 0x3ff) << 13;
	memcpy(&f, &bits, sizeof(f));
	return f;
}

static inline float kv_bf16_to_f32(uint16_t h)
{
	uint32_t bits = (uint32_t)h << 16;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* Element i of a key. */
static inline float kv_element(uint32_t type, const void *key, size_t i)
{
	const unsigned char *p = key;
	uint16_t h;
	float f;

	switch (type) {
	case KVMOD_F32:
		memcpy(&f, p + 4 * i, sizeof(f));
		return f;
	case KVMOD_F16:
		memcpy(&h, p + 2 * i, sizeof(h));
		return kv_f16_to_f32(h);
	case KVMOD_BF16:
		memcpy(&h, p + 2 * i, sizeof(h));
		return kv_bf16_to_f32(h);
	case KVMOD_Q4_0:
		p += i / 32 * 18;
		memcpy(&h, p, sizeof(h));
		return kv_f16_to_f32(h) * (float)((p[2 + i % 16] >> (i % 32 / 16 * 4) & 15) - 8);
	default:
		p += i / 32 * 34;
		memcpy(&h, p, sizeof(h));
		return kv_f16_to_f32(h) * (float)(signed char)p[2 + i % 32];
	}
}

#endif
