/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What attention adds up, on vectors of VW floats; see vector_columns.h, after which this is
 * included: queries that are many lie side by side in lanes, as there.
 */

/* Queries that one pass over values serves: what fits the registers. */
#define VALUE_QUERIES	(VW == 16 ? 4 : 2)
#define VALUE_VECTORS	4	/* whole blocks of any type */

/* out[j] += weights[j][i] * row i of nv vectors; nq and nv are constants. */
ALWAYS_INLINE void add_values(uint32_t type, const char *v, int64_t stride, uint32_t n,
			      const float *weights, size_t w_stride, int nq, int nv, float *out,
			      size_t out_stride)
{
	vf acc[VALUE_QUERIES * VALUE_VECTORS], x[VALUE_VECTORS], weight;
	uint32_t i;
	int j, c;

#pragma GCC unroll 16
	for (j = 0; j < nq * nv; j++)
		acc[j] = v_load(out + (size_t)(j / nv) * out_stride + j % nv * VW);
	for (i = 0; i < n; i++, v += stride) {
#pragma GCC unroll 4
		for (c = 0; c < nv; c++)
			x[c] = v_elements(type, v, (size_t)c * VW);
#pragma GCC unroll 4
		for (j = 0; j < nq; j++) {
			weight = v_set1(weights[j * w_stride + i]);
#pragma GCC unroll 4
			for (c = 0; c < nv; c++)
				acc[j * nv + c] = v_fma(x[c], weight, acc[j * nv + c]);
		}
	}
#pragma GCC unroll 16
	for (j = 0; j < nq * nv; j++)
		v_store(out + (size_t)(j / nv) * out_stride + j % nv * VW, acc[j]);
}

/* The same for VALUE_QUERIES queries or fewer. */
ALWAYS_INLINE void add_values_of(uint32_t type, const char *v, int64_t stride, uint32_t n,
				 const float *weights, size_t w_stride, uint32_t nq, int nv,
				 float *out, size_t out_stride)
{
	if (nq == 4)
		add_values(type, v, stride, n, weights, w_stride, VALUE_QUERIES, nv, out, out_stride);
	else if (nq == 3)
		add_values(type, v, stride, n, weights, w_stride, VALUE_QUERIES - 1, nv, out, out_stride);
	else if (nq == 2)
		add_values(type, v, stride, n, weights, w_stride, 2, nv, out, out_stride);
	else
		add_values(type, v, stride, n, weights, w_stride, 1, nv, out, out_stride);
}

/* Dimensions d and on: VW elements each of nv vectors, where a block may begin. */
ALWAYS_INLINE void add_slice(uint32_t type, const char *v, int64_t stride, uint32_t dim, uint32_t d,
			     uint32_t n, const float *weights, size_t w_stride, uint32_t n_q, int nv,
			     float *out)
{
	uint32_t j, nq;

	v += kvmod_row_bytes(type, d);
	for (j = 0; j < n_q; j += nq) {
		nq = n_q - j < VALUE_QUERIES ? n_q - j : VALUE_QUERIES;
		add_values_of(type, v, stride, n, weights + j * w_stride, w_stride, nq, nv,
			      out + (size_t)j * dim + d, dim);
	}
}

ALWAYS_INLINE void block_values(uint32_t type, const char *v, int64_t stride, uint32_t dim,
				uint32_t n, const float *weights, size_t w_stride, uint32_t n_q,
				float *out)
{
	const uint32_t most = VALUE_VECTORS * VW, least = kvmod_block_size(type) > 1 ? 32 : VW;
	uint32_t d = 0, i, j;

	for (; d + most <= dim; d += most)
		add_slice(type, v, stride, dim, d, n, weights, w_stride, n_q, VALUE_VECTORS, out);
	for (; d + least <= dim; d += least)
		add_slice(type, v, stride, dim, d, n, weights, w_stride, n_q, (int)least / VW, out);
	for (; d < dim; d++)
		for (i = 0; i < n; i++)
			for (j = 0; j < n_q; j++)
				out[(size_t)j * dim + d] += weights[j * w_stride + i] *
							    kv_element(type, v + i * stride, d);
}

static void values(uint32_t type, const char *v, int64_t stride, uint32_t dim, uint32_t n,
		   const float *weights, size_t w_stride, uint32_t n_q, float *out)
{
#define CALL(t) block_values(t, v, stride, dim, n, weights, w_stride, n_q, out)
	BY_TYPE(CALL)
#undef CALL
}

static void lane_values(const float *v, uint32_t dim, uint32_t n, const float *x, uint32_t lanes,
			const float *keep, const float *add, float *out)
{
	lane_product(v, 1, dim, dim, n, x, lanes, keep, add, out);
}

static void lane_join(float *max, float *sum, const float *tile_max, const float *tile_sum,
		      uint32_t lanes, float *keep, float *add)
{
	uint32_t at;

	for (at = 0; at < lanes; at += VW) {
		vf before = v_load(max + at), here = v_load(tile_max + at), most = v_max(before, here);
		vf a = v_exp(v_sub(before, most)), b = v_exp(v_sub(here, most));

		v_store(max + at, most);
		v_store(keep + at, a);
		v_store(add + at, b);
		v_store(sum + at, v_fma(v_load(sum + at), a, v_mul(v_load(tile_sum + at), b)));
	}
}
