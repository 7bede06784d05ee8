/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels on 8 floats at a time: AVX2, FMA and F16C. */
#if defined(__x86_64__)
#include "kernels/cpu/ops.h"

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define VW 8
/* How many keys at a time against nq queries: what fits 16 registers. */
#define KEYS_FOR(nq) (nq == 1 ? 8 : nq == 2 ? 4 : 3)
typedef __m256 vf;
typedef __m256i vi;

#define v_set1(x)		_mm256_set1_ps(x)
#define v_load(p)		_mm256_loadu_ps(p)
#define v_store(p, x)		_mm256_storeu_ps(p, x)
#define v_add(a, b)		_mm256_add_ps(a, b)
#define v_sub(a, b)		_mm256_sub_ps(a, b)
#define v_mul(a, b)		_mm256_mul_ps(a, b)
#define v_div(a, b)		_mm256_div_ps(a, b)
#define v_fma(a, b, c)		_mm256_fmadd_ps(a, b, c)
#define v_fms(a, b, c)		_mm256_fmsub_ps(a, b, c)
/* If one operand is NaN these give the second. */
#define v_min(a, b)		_mm256_min_ps(a, b)
#define v_max(a, b)		_mm256_max_ps(a, b)

#define v_zero_i()		_mm256_setzero_si256()
#define v_load_i(p)		_mm256_loadu_si256((const __m256i *)(const void *)(p))
#define v_store_i(p, x)		_mm256_storeu_si256((__m256i *)(void *)(p), x)
#define v_add_i64(a, b)		_mm256_add_epi64(a, b)
/* Sums of eight bytes, in lanes of 64 bits. */
#define v_sum_u8(x)		_mm256_sad_epu8(x, _mm256_setzero_si256())

static inline vf v_load_f16(const char *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vf v_load_bf16(const char *p)
{
	__m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);

	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline vf v_load_i8(const char *p)
{
	__m128i b = _mm_loadl_epi64((const __m128i *)(const void *)p);

	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}

/* Four bits of each byte, from bit `shift` on, less 8. */
static inline vf v_load_i4(const char *p, int shift)
{
	__m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));

	b = _mm256_and_si256(_mm256_srl_epi32(b, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(15));
	return _mm256_cvtepi32_ps(_mm256_sub_epi32(b, _mm256_set1_epi32(8)));
}

static inline vf v_broadcast_f16(const char *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof(h));
	return _mm256_cvtph_ps(_mm_set1_epi16((short)h));
}

/* 2^e, for e + 127 in the low bits of x */
static inline vf v_exponent(vf x)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
}

/* The mantissa of x, from sqrt(1/2) to sqrt(2), and the exponent that goes with it. */
static inline vf v_split(vf x, vf *exponent)
{
	vi lowest = _mm256_set1_epi32(0x3f3504f3), bits = _mm256_castps_si256(x);

	bits = _mm256_sub_epi32(bits, lowest);
	*exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32(bits, 23));
	bits = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff));
	return _mm256_castsi256_ps(_mm256_add_epi32(bits, lowest));
}

/* y, but 0 where x < limit */
static inline vf v_zero_below(vf y, vf x, float limit)
{
	return _mm256_and_ps(y, _mm256_cmp_ps(x, v_set1(limit), _CMP_NLT_UQ));
}

/* Lane i of the answer is the sum of the lanes of x[i]. */
static inline vf v_sum_each(const vf x[VW])
{
	vf y[4], z[2];
	int i;

#pragma GCC unroll 4
	for (i = 0; i < 4; i++)
		y[i] = v_add(_mm256_blend_ps(x[i], x[i + 4], 0xf0),
			     _mm256_permute2f128_ps(x[i], x[i + 4], 0x21));
#pragma GCC unroll 2
	for (i = 0; i < 2; i++)
		z[i] = v_add(_mm256_blend_ps(y[i], y[i + 2], 0xcc),
			     _mm256_shuffle_ps(y[i], y[i + 2], 0x4e));
	return v_add(_mm256_blend_ps(z[0], z[1], 0xaa),
		     _mm256_permute_ps(_mm256_blend_ps(z[1], z[0], 0xaa), 0xb1));
}

static inline float v_max_all(vf x)
{
	__m128 h = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	h = _mm_max_ps(h, _mm_movehl_ps(h, h));
	return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

#include "kernels/cpu/vector.h"
#include "kernels/cpu/vector_blocks.h"
#include "kernels/cpu/vector_columns.h"
#include "kernels/cpu/vector_flash.h"
#include "kernels/cpu/vector_arrays.h"
#include "kernels/cpu/vector_quadratic.h"

const struct kv_cpu_ops kv_cpu_avx2 = {
	.dots = dots,
	.scale = scale,
	.to_f32 = to_f32,
	.max = max,
	.softmax = softmax,
	.exp_add = exp_add,
	.exp_raise = exp_raise,
	.exp_scale = exp_scale,
	.sum_bytes = sum_bytes,
	.multiply_add = multiply_add,
	.rows = rows,
	.norms = norms,
	.sum = sum,
	.stats = stats,
	.lane_logits = lane_logits,
	.lane_softmax = lane_softmax,
	.lane_weights = lane_weights,
	.lane_sum = lane_sum,
	.lane_max = lane_max,
	.lane_sizes = lane_sizes,
	.values = values,
	.lane_values = lane_values,
	.lane_join = lane_join,
	.total = total,
	.entropy = entropy,
	.moments = moments,
	.add = add,
	.larger = larger,
	.quadratic = quadratic,
};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
