/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels, written once for vectors of any number VW of floats. The file that
 * includes this one selects the instructions, defines VW, vf, vi and the v_ functions,
 * and gets the functions of struct kv_cpu_ops.
 *
 * Every result depends on its own inputs alone, not on how many keys or queries one
 * call has.
 */
#include <float.h>
#include <math.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* Keys that stay in a near cache while all queries pass over them: whole KEYS_FOR(). */
#define KEY_BLOCK 384

/*
 * exp(x) to 3 ulp. x must lie within -87.3 .. 88.3, or be NaN. Where x / ln 2 = n + r,
 * that is 2^n times a polynomial for 2^r.
 */
ALWAYS_INLINE vf v_exp_within(vf x)
{
	/* A sum with `shift` is rounded to n, and has n + 127 in its low bits. */
	const float shift = 0x1.8p23f + 127;
	vf log2e = v_set1(1.44269504f);
	vf t = v_fma(x, log2e, v_set1(shift));
	vf r = v_fms(x, log2e, v_sub(t, v_set1(shift)));
	vf p = v_set1(0.00132763584f);

	p = v_fma(p, r, v_set1(0.00967565551f));
	p = v_fma(p, r, v_set1(0.0555071458f));
	p = v_fma(p, r, v_set1(0.240221173f));
	p = v_fma(p, r, v_set1(0.693146944f));
	p = v_fma(p, r, v_set1(1.00000012f));
	return v_mul(p, v_exponent(t));
}

/* Between these exp(x) is a normal float; as first operands they let NaN through. */
#define EXP_LOWEST	-87.33654f
#define EXP_HIGHEST	88.3762f

/* exp(x), 0 below the normal range. */
ALWAYS_INLINE vf v_exp(vf x)
{
	vf bound = v_min(v_set1(EXP_HIGHEST), v_max(v_set1(EXP_LOWEST), x));

	return v_zero_below(v_exp_within(bound), x, EXP_LOWEST);
}

/* VW elements of a key, from element d on. */
ALWAYS_INLINE vf v_elements(uint32_t type, const char *key, size_t d)
{
	switch (type) {
	case KVMOD_F32:
		return v_load((const float *)(const void *)(key + 4 * d));
	case KVMOD_F16:
		return v_load_f16(key + 2 * d);
	case KVMOD_BF16:
		return v_load_bf16(key + 2 * d);
	case KVMOD_Q4_0:	/* VW elements are of one half of a block */
		key += d / 32 * 18;
		return v_mul(v_load_i4(key + 2 + d % 16, d % 32 / 16 * 4), v_broadcast_f16(key));
	default:
		key += d / 32 * 34;
		return v_mul(v_load_i8(key + 2 + d % 32), v_broadcast_f16(key));
	}
}

/* Sums of one block: nk * nq of them, in whole vectors. */
#define MAX_SUMS (2 * VW)

/*
 * Dots of nk keys and nq queries, both constants: sums[j * nk + i] has query j and
 * key i. A key is loaded and widened once for all queries. Whichever are fewer,
 * queries or keys, stay in registers while the others pass by; the barriers keep the
 * compiler from loading them again.
 */
ALWAYS_INLINE void dot_block(uint32_t type, const char *const *key, const float *const *query,
			     size_t n, int nq, int nk, float *sums)
{
	vf acc[MAX_SUMS], x[4], wide[VW];
	size_t d;
	int i, j;

#pragma GCC unroll 32
	for (j = 0; j < MAX_SUMS; j++)
		acc[j] = v_set1(0);
	for (d = 0; d < n; d += VW) {
		if (nq < nk) {
#pragma GCC unroll 4
			for (j = 0; j < nq; j++) {
				x[j] = v_load(query[j] + d);
				__asm__("" : "+v"(x[j]));
			}
#pragma GCC unroll 16
			for (i = 0; i < nk; i++) {
				wide[0] = v_elements(type, key[i], d);
#pragma GCC unroll 4
				for (j = 0; j < nq; j++)
					acc[j * nk + i] = v_fma(wide[0], x[j], acc[j * nk + i]);
			}
		} else {
#pragma GCC unroll 4
			for (i = 0; i < nk; i++)
				wide[i] = v_elements(type, key[i], d);
#pragma GCC unroll 4
			for (j = 0; j < nq; j++) {
				x[0] = v_load(query[j] + d);
				__asm__("" : "+v"(x[0]));
#pragma GCC unroll 4
				for (i = 0; i < nk; i++)
					acc[j * nk + i] = v_fma(wide[i], x[0], acc[j * nk + i]);
			}
		}
	}
	v_store(sums, v_sum_each(acc));
	if (nq * nk > VW)
		v_store(sums + VW, v_sum_each(acc + VW));
}

/* What is left of a key where head_dim is not a multiple of VW. */
static void add_tail(uint32_t type, const char *const *key, const float *const *query,
		     uint32_t dim, int nq, int nk, float *sums)
{
	uint32_t d;
	int i, j;

	for (j = 0; j < nq; j++)
		for (i = 0; i < nk; i++)
			for (d = dim / VW * VW; d < dim; d++)
				sums[j * nk + i] += query[j][d] * kv_element(type, key[i], d);
}

/* Key i is `apart` positions after key i - 1; sums as dot_block() leaves them. */
ALWAYS_INLINE void keys_times_queries(uint32_t type, const char *k, int64_t stride, uint32_t dim,
				      const float *const *query, int nq, int nk, uint32_t apart,
				      float *sums)
{
	const char *key[VW];
	int i;

#pragma GCC unroll 16
	for (i = 0; i < nk; i++)
		key[i] = k + i * apart * stride;
	dot_block(type, key, query, dim / VW * VW, nq, nk, sums);
	if (dim % VW)
		add_tail(type, key, query, dim, nq, nk, sums);
}

/*
 * n <= KEY_BLOCK keys against nq queries, as many keys at a time as the registers
 * hold. Keys of one step are far apart: each load then walks through a stretch of its
 * own from first to last, which the processor sees and fetches ahead.
 */
ALWAYS_INLINE void block_times_queries(uint32_t type, const char *k, int64_t stride, uint32_t dim,
				       uint32_t n, const float *q, int nq,
				       float *out, size_t out_stride)
{
	const uint32_t nk = (uint32_t)KEYS_FOR(nq), apart = n / nk;
	float sums[KEY_BLOCK * 4 + MAX_SUMS];
	const float *query[4];
	uint32_t i, step;
	int j;

	for (j = 0; j < nq; j++)
		query[j] = q + (size_t)j * dim;
	for (step = 0; step < apart; step++)
		keys_times_queries(type, k + step * stride, stride, dim, query, nq, (int)nk, apart,
				   sums + step * nk * nq);
	for (j = 0; j < nq; j++)
		for (i = 0; i < nk; i++)
			for (step = 0; step < apart; step++)
				out[j * out_stride + i * apart + step] =
					sums[(step * nq + j) * nk + i];
	for (i = apart * nk; i < n; i++) {
		keys_times_queries(type, k + i * stride, stride, dim, query, nq, 1, 0, sums);
		for (j = 0; j < nq; j++)
			out[j * out_stride + i] = sums[j];
	}
}

ALWAYS_INLINE void block_dots(uint32_t type, const char *k, int64_t stride, uint32_t dim,
			      uint32_t n, const float *q, uint32_t n_q,
			      float *out, size_t out_stride)
{
	for (; n_q >= 4; n_q -= 4, q += (size_t)4 * dim, out += 4 * out_stride)
		block_times_queries(type, k, stride, dim, n, q, 4, out, out_stride);
	if (n_q == 3)
		block_times_queries(type, k, stride, dim, n, q, 3, out, out_stride);
	else if (n_q == 2)
		block_times_queries(type, k, stride, dim, n, q, 2, out, out_stride);
	else if (n_q == 1)
		block_times_queries(type, k, stride, dim, n, q, 1, out, out_stride);
}

#define DOTS_OF(name, type) \
static void name(const char *k, int64_t stride, uint32_t dim, uint32_t n, \
		 const float *q, uint32_t n_q, float *out, size_t out_stride) \
{ \
	block_dots(type, k, stride, dim, n, q, n_q, out, out_stride); \
}
DOTS_OF(dots_f32, KVMOD_F32)
DOTS_OF(dots_f16, KVMOD_F16)
DOTS_OF(dots_bf16, KVMOD_BF16)
DOTS_OF(dots_q8_0, KVMOD_Q8_0)
DOTS_OF(dots_q4_0, KVMOD_Q4_0)

static void dots(const struct kvmod_view *k, uint32_t head_dim, uint32_t begin,
		 uint32_t end, const float *q, uint32_t n_q, float *out, size_t out_stride)
{
	const char *key = (const char *)k->data + begin * k->stride;
	uint32_t i;

	for (i = begin; i < end; i += KEY_BLOCK, key += KEY_BLOCK * k->stride, out += KEY_BLOCK) {
		uint32_t n = end - i < KEY_BLOCK ? end - i : KEY_BLOCK;

		if (k->type == KVMOD_F16)
			dots_f16(key, k->stride, head_dim, n, q, n_q, out, out_stride);
		else if (k->type == KVMOD_BF16)
			dots_bf16(key, k->stride, head_dim, n, q, n_q, out, out_stride);
		else if (k->type == KVMOD_F32)
			dots_f32(key, k->stride, head_dim, n, q, n_q, out, out_stride);
		else if (k->type == KVMOD_Q4_0)
			dots_q4_0(key, k->stride, head_dim, n, q, n_q, out, out_stride);
		else
			dots_q8_0(key, k->stride, head_dim, n, q, n_q, out, out_stride);
	}
}

static void to_f32(uint32_t type, const void *src, size_t n, float *dst)
{
	size_t i;

	for (i = 0; i + VW <= n; i += VW)
		v_store(dst + i, v_elements(type, src, i));
	for (; i < n; i++)
		dst[i] = kv_element(type, src, i);
}

/* The last n < VW elements; the lanes after them, -INFINITY, count for nothing. */
ALWAYS_INLINE vf v_load_rest(const float *x, size_t n)
{
	float rest[VW];
	size_t i;

	for (i = 0; i < VW; i++)
		rest[i] = i < n ? x[i] : -INFINITY;
	return v_load(rest);
}

/* cap * tanh(x / cap) = cap - 2 cap / (exp(2 x / cap) + 1) */
static void scale(float *x, size_t n, float factor, float softcap)
{
	size_t i;

	for (i = 0; i < n; i += VW) {
		vf v = i + VW <= n ? v_load(x + i) : v_load_rest(x + i, n - i);

		if (softcap != 0) {
			vf e = v_exp(v_mul(v, v_set1(2 * factor / softcap)));

			v = v_div(v_set1(-2 * softcap), v_add(e, v_set1(1)));
			v = v_add(v, v_set1(softcap));
		} else {
			v = v_mul(v, v_set1(factor));
		}
		if (i + VW <= n) {
			v_store(x + i, v);
		} else {
			float rest[VW];

			v_store(rest, v);
			memcpy(x + i, rest, (n - i) * sizeof(*x));
		}
	}
}

static float max(const float *x, size_t n)
{
	vf m = v_set1(-FLT_MAX);
	size_t i;

	/* the second operand is what remains of NaN */
	for (i = 0; i + VW <= n; i += VW)
		m = v_max(v_load(x + i), m);
	if (i < n)
		m = v_max(v_load_rest(x + i, n - i), m);
	return v_max_all(m);
}

/*
 * Softmax of the logits of one or two queries (nq, a constant) at the same time: one
 * alone would wait for itself. Below exp's range 1e-38 will do for 0.
 */
ALWAYS_INLINE void softmax_of(const float *x, size_t stride, int nq, size_t n,
				struct kv_softmax *out)
{
	vf m[2], s[VW], e;
	float sums[VW];
	size_t i;
	int j;

#pragma GCC unroll 2
	for (j = 0; j < nq; j++)
		m[j] = v_set1(-FLT_MAX);
#pragma GCC unroll 16
	for (j = 0; j < VW; j++)
		s[j] = v_set1(0);
	for (i = 0; i < n; i += VW)
#pragma GCC unroll 2
		for (j = 0; j < nq; j++)	/* of NaN the second operand remains */
			m[j] = v_max(v_load(x + j * stride + i), m[j]);
#pragma GCC unroll 2
	for (j = 0; j < nq; j++) {
		out[j].max = v_max_all(m[j]);
		m[j] = v_set1(out[j].max);
	}
	for (i = 0; i < n; i += VW)
#pragma GCC unroll 2
		for (j = 0; j < nq; j++) {
			e = v_sub(v_load(x + j * stride + i), m[j]);
			e = v_exp_within(v_max(v_set1(EXP_LOWEST), e));
			s[j] = v_add(s[j], e);
			s[2 + j] = v_fma(e, e, s[2 + j]);
		}
	v_store(sums, v_sum_each(s));
#pragma GCC unroll 2
	for (j = 0; j < nq; j++) {
		out[j].sum = sums[j];
		out[j].squares = sums[2 + j];
	}
}

static void softmax(const float *x, size_t stride, uint32_t n_q, size_t n, struct kv_softmax *out)
{
	for (; n_q >= 2; n_q -= 2, x += 2 * stride, out += 2)
		softmax_of(x, stride, 2, n, out);
	if (n_q)
		softmax_of(x, stride, 1, n, out);
}

static void exp_add(const float *x, size_t n, float m, float weight, float *out)
{
	float rest[VW];
	size_t i;

	for (i = 0; i + VW <= n; i += VW)
		v_store(out + i, v_fma(v_exp(v_sub(v_load(x + i), v_set1(m))),
				       v_set1(weight), v_load(out + i)));
	if (i == n)
		return;
	v_store(rest, v_exp(v_sub(v_load_rest(x + i, n - i), v_set1(m))));
	for (size_t j = 0; i + j < n; j++)
		out[i + j] = fmaf(rest[j], weight, out[i + j]);
}

static void exp_raise(const float *x, size_t n, float m, float weight, float *out)
{
	float rest[VW];
	size_t i;

	for (i = 0; i + VW <= n; i += VW)
		v_store(out + i, v_max(v_mul(v_exp(v_sub(v_load(x + i), v_set1(m))), v_set1(weight)),
				       v_load(out + i)));
	if (i == n)
		return;
	v_store(rest, v_mul(v_exp(v_sub(v_load_rest(x + i, n - i), v_set1(m))), v_set1(weight)));
	for (size_t j = 0; i + j < n; j++)
		out[i + j] = rest[j] > out[i + j] ? rest[j] : out[i + j];
}

static void exp_scale(float *x, size_t n, float m, float weight)
{
	float rest[VW];
	size_t i;

	for (i = 0; i + VW <= n; i += VW)
		v_store(x + i, v_mul(v_exp(v_sub(v_load(x + i), v_set1(m))), v_set1(weight)));
	if (i == n)
		return;
	v_store(rest, v_mul(v_exp(v_sub(v_load_rest(x + i, n - i), v_set1(m))), v_set1(weight)));
	memcpy(x + i, rest, (n - i) * sizeof(*x));
}

static uint64_t sum_bytes(const unsigned char *x, size_t n)
{
	const size_t step = 4 * sizeof(vi);
	vi sum[4] = { v_zero_i(), v_zero_i(), v_zero_i(), v_zero_i() };
	uint64_t lanes[sizeof(vi) / 8], total = 0;
	size_t i, j;

	for (i = 0; i + step <= n; i += step)
#pragma GCC unroll 4
		for (j = 0; j < 4; j++)
			sum[j] = v_add_i64(sum[j], v_sum_u8(v_load_i(x + i + j * sizeof(vi))));
	sum[0] = v_add_i64(v_add_i64(sum[0], sum[1]), v_add_i64(sum[2], sum[3]));
	v_store_i(lanes, sum[0]);
	for (j = 0; j < sizeof(vi) / 8; j++)
		total += lanes[j];
	for (; i < n; i++)
		total += x[i];
	return total;
}

/* Sums that do not wait for each other: enough for two pipes of four cycles. */
#define CHAINS 10

static uint64_t multiply_add(uint64_t n, float *sum)
{
	vf x[CHAINS], a = v_set1(0.75f), b = v_set1(0.25f);
	float lanes[VW];
	uint64_t done;
	int j;

#pragma GCC unroll 10
	for (j = 0; j < CHAINS; j++)
		x[j] = v_set1((float)j);
	for (done = 0; done < n; done += CHAINS * VW)
#pragma GCC unroll 10
		for (j = 0; j < CHAINS; j++)
			x[j] = v_fma(x[j], a, b);
	*sum = 0;
	for (j = 0; j < CHAINS; j++) {
		v_store(lanes, x[j]);
		*sum += lanes[0];
	}
	return done;
}
