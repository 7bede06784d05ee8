/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels on 16 floats at a time: AVX-512 F, DQ and BW. */
#if defined(__x86_64__)
#include "kernels/cpu/ops.h"

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx2,fma,f16c")
#endif

#define VW 16
/* How many keys at a time against nq queries: what fits 32 registers. */
#define KEYS_FOR(nq) (nq == 1 ? 16 : nq == 2 ? 8 : 4)
typedef __m512 vf;
typedef __m512i vi;

#define v_set1(x)		_mm512_set1_ps(x)
#define v_load(p)		_mm512_loadu_ps(p)
#define v_store(p, x)		_mm512_storeu_ps(p, x)
#define v_add(a, b)		_mm512_add_ps(a, b)
#define v_sub(a, b)		_mm512_sub_ps(a, b)
#define v_mul(a, b)		_mm512_mul_ps(a, b)
#define v_div(a, b)		_mm512_div_ps(a, b)
#define v_fma(a, b, c)		_mm512_fmadd_ps(a, b, c)
#define v_fms(a, b, c)		_mm512_fmsub_ps(a, b, c)
/* If one operand is NaN these give the second. */
#define v_min(a, b)		_mm512_min_ps(a, b)
#define v_max(a, b)		_mm512_max_ps(a, b)
#define v_max_all(x)		_mm512_reduce_max_ps(x)

#define v_zero_i()		_mm512_setzero_si512()
#define v_load_i(p)		_mm512_loadu_si512(p)
#define v_store_i(p, x)		_mm512_storeu_si512(p, x)
#define v_add_i64(a, b)		_mm512_add_epi64(a, b)
/* Sums of eight bytes, in lanes of 64 bits. */
#define v_sum_u8(x)		_mm512_sad_epu8(x, _mm512_setzero_si512())

static inline vf v_load_f16(const char *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vf v_load_bf16(const char *p)
{
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);

	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static inline vf v_load_i8(const char *p)
{
	__m128i b = _mm_loadu_si128((const __m128i *)(const void *)p);

	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
}

/* Four bits of each byte, from bit `shift` on, less 8. */
static inline vf v_load_i4(const char *p, int shift)
{
	__m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));

	b = _mm512_and_si512(_mm512_srl_epi32(b, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32(15));
	return _mm512_cvtepi32_ps(_mm512_sub_epi32(b, _mm512_set1_epi32(8)));
}

static inline vf v_broadcast_f16(const char *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof(h));
	return _mm512_cvtph_ps(_mm256_set1_epi16((short)h));
}

/* 2^e, for e + 127 in the low bits of x */
static inline vf v_exponent(vf x)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
}

/* The mantissa of x, from sqrt(1/2) to sqrt(2), and the exponent that goes with it. */
static inline vf v_split(vf x, vf *exponent)
{
	vi lowest = _mm512_set1_epi32(0x3f3504f3), bits = _mm512_castps_si512(x);

	bits = _mm512_sub_epi32(bits, lowest);
	*exponent = _mm512_cvtepi32_ps(_mm512_srai_epi32(bits, 23));
	bits = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff));
	return _mm512_castsi512_ps(_mm512_add_epi32(bits, lowest));
}

/* y, but 0 where x < limit */
static inline vf v_zero_below(vf y, vf x, float limit)
{
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, v_set1(limit), _CMP_NLT_UQ), y);
}

/* Lane i of the answer is the sum of the lanes of x[i]. */
static inline vf v_sum_each(const vf x[VW])
{
	vf y[8], z[4], w[2], a, b;
	int i;

#pragma GCC unroll 8
	for (i = 0; i < 8; i++)
		y[i] = v_add(_mm512_mask_blend_ps(0xff00, x[i], x[i + 8]),
			     _mm512_shuffle_f32x4(x[i], x[i + 8], 0x4e));
#pragma GCC unroll 4
	for (i = 0; i < 4; i++) {
		a = _mm512_mask_blend_ps(0xf0f0, y[i], y[i + 4]);
		b = _mm512_mask_blend_ps(0xf0f0, y[i + 4], y[i]);
		z[i] = v_add(a, _mm512_shuffle_f32x4(b, b, 0xb1));
	}
#pragma GCC unroll 2
	for (i = 0; i < 2; i++)
		w[i] = v_add(_mm512_mask_blend_ps(0xcccc, z[i], z[i + 2]),
			     _mm512_shuffle_ps(z[i], z[i + 2], 0x4e));
	a = _mm512_mask_blend_ps(0xaaaa, w[0], w[1]);
	b = _mm512_mask_blend_ps(0xaaaa, w[1], w[0]);
	return v_add(a, _mm512_permute_ps(b, 0xb1));
}

#include "kernels/cpu/vector.h"
#include "kernels/cpu/vector_blocks.h"
#include "kernels/cpu/vector_columns.h"
#include "kernels/cpu/vector_flash.h"
#include "kernels/cpu/vector_arrays.h"
#include "kernels/cpu/vector_quadratic.h"

const struct kv_cpu_ops kv_cpu_avx512 = {
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
