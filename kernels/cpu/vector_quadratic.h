/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quadratic forms x'Ax + b.x of many rows x with one symmetric A, on vectors of VW floats;
 * see vector.h, after which this is included. The products of two vectors' worth of
 * dimensions of A x, for as many rows as the registers hold, are made at a time. A is
 * symmetric, so each pair of dimensions in different tiles is multiplied once and counted
 * twice.
 */
#define FORM_ROWS (VW * 3 / 4)

/* Adds to acc[i * nv + v] row e of A from dimension d on, times x_i[e]. */
ALWAYS_INLINE void add_row_of_a(const float *x, uint32_t stride, const float *a, uint32_t e, int nv,
				vf *acc)
{
	vf row[2];
	int i, v;

#pragma GCC unroll 2
	for (v = 0; v < nv; v++)
		row[v] = v_load(a + v * VW);
#pragma GCC unroll 16
	for (i = 0; i < FORM_ROWS; i++) {
		vf xe = v_set1(x[(uint32_t)i * stride + e]);

#pragma GCC unroll 2
		for (v = 0; v < nv; v++)
			acc[i * nv + v] = v_fma(row[v], xe, acc[i * nv + v]);
	}
}

/* Dimensions d .. d + nv * VW - 1, a constant number, with themselves and all after them. */
ALWAYS_INLINE void form_of_tile(const float *x, uint32_t stride, uint32_t dim, const float *a,
				const float *b, uint32_t d, int nv, vf *total)
{
	uint32_t end = d + (uint32_t)nv * VW, e;
	vf acc[2 * FORM_ROWS];
	int i, v;

#pragma GCC unroll 32
	for (i = 0; i < nv * FORM_ROWS; i++)
		acc[i] = v_set1(0);
	for (e = end; e < dim; e++)
		add_row_of_a(x, stride, a + (size_t)e * dim + d, e, nv, acc);
#pragma GCC unroll 32
	for (i = 0; i < nv * FORM_ROWS; i++)
		acc[i] = v_add(acc[i], acc[i]);
	for (e = d; e < end; e++)
		add_row_of_a(x, stride, a + (size_t)e * dim + d, e, nv, acc);
#pragma GCC unroll 16
	for (i = 0; i < FORM_ROWS; i++)
#pragma GCC unroll 2
		for (v = 0; v < nv; v++)
			total[i] = v_fma(v_add(acc[i * nv + v], v_load(b + d + v * VW)),
					 v_load(x + (uint32_t)i * stride + d + v * VW), total[i]);
}

/* Of FORM_ROWS rows as floats. */
static void form_of_rows(const float *x, uint32_t stride, uint32_t dim, const float *a, const float *b,
			 float *out)
{
	uint32_t d = 0, e, rest;
	vf total[VW];
	int i;

	for (i = 0; i < VW; i++)
		total[i] = v_set1(0);
	for (; d + 2 * VW <= dim; d += 2 * VW)
		form_of_tile(x, stride, dim, a, b, d, 2, total);
	for (; d + VW <= dim; d += VW)
		form_of_tile(x, stride, dim, a, b, d, 1, total);
	v_store(out, v_sum_each(total));
	for (rest = d; d < dim; d++)
		for (i = 0; i < FORM_ROWS; i++) {
			const float *row = x + (uint32_t)i * stride;
			float y = b[d];

			for (e = rest; e < dim; e++)
				y += a[(size_t)d * dim + e] * row[e];
			out[i] += y * row[d];
		}
}

/* Where fewer rows are left, what is in place of them is not stored. */
static void quadratic(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		      const float *a, const float *b, float *out)
{
	float x[FORM_ROWS * KV_FORM_DIM], forms[VW];

	memset(x, 0, FORM_ROWS * (size_t)dim * sizeof(*x));
	for (uint32_t i = 0, m; i < n; i += m, k += m * stride) {
		m = n - i < FORM_ROWS ? n - i : FORM_ROWS;
		rows(type, k, stride, dim, m, x, dim);
		form_of_rows(x, dim, dim, a, b, forms);
		memcpy(out + i, forms, m * sizeof(*out));
	}
}
