/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of many queries on vectors of VW floats; see vector.h, after which this is
 * included. Queries lie side by side, one in a lane: what is summed over positions is then
 * summed vector by vector.
 */

/* Keys of one step against up to three vectors of queries: what fits the registers. */
#define STEP_KEYS (VW == 16 ? 8 : 4)

/*
 * STEP_KEYS rows of a product, and nq vectors of lanes, a constant: row i is the sum over d of
 * a[i * row + d * column] * x[d]. It is stored; with keep, what is there is multiplied by
 * keep, and the sum times add is added.
 */
ALWAYS_INLINE void step_product(const float *a, size_t row, size_t column, uint32_t n,
				const float *x, uint32_t lanes, int nq, const float *keep,
				const float *add, float *out)
{
	vf acc[STEP_KEYS * 3], b[3], element;
	uint32_t d;
	int i, j;

#pragma GCC unroll 32
	for (i = 0; i < STEP_KEYS * nq; i++)
		acc[i] = v_set1(0);
	for (d = 0; d < n; d++, x += lanes) {
#pragma GCC unroll 4
		for (j = 0; j < nq; j++) {
			b[j] = v_load(x + j * VW);
			__asm__("" : "+v"(b[j]));
		}
#pragma GCC unroll 8
		for (i = 0; i < STEP_KEYS; i++) {
			element = v_set1(a[(size_t)i * row + d * column]);
#pragma GCC unroll 4
			for (j = 0; j < nq; j++)
				acc[i * nq + j] = v_fma(element, b[j], acc[i * nq + j]);
		}
	}
#pragma GCC unroll 32
	for (i = 0; i < STEP_KEYS * nq; i++) {
		float *to = out + i / nq * lanes + i % nq * VW;

		if (keep)
			acc[i] = v_fma(v_load(to), v_load(keep + i % nq * VW),
				       v_mul(acc[i], v_load(add + i % nq * VW)));
		v_store(to, acc[i]);
	}
}

/* The same for all lanes, of as many rows as there are steps for. */
ALWAYS_INLINE void lane_product(const float *a, size_t row, size_t column, uint32_t n_rows,
				uint32_t n, const float *x, uint32_t lanes, const float *keep,
				const float *add, float *out)
{
	uint32_t i, at, nq;

	for (i = 0; i < n_rows; i += STEP_KEYS, a += STEP_KEYS * row, out += STEP_KEYS * lanes) {
		for (at = 0; at < lanes; at += nq * VW) {
			const float *k = keep ? keep + at : NULL, *w = keep ? add + at : NULL;
			uint32_t left = (lanes - at) / VW;

			nq = left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3;
			if (nq == 1)
				step_product(a, row, column, n, x + at, lanes, 1, k, w, out + at);
			else if (nq == 2)
				step_product(a, row, column, n, x + at, lanes, 2, k, w, out + at);
			else
				step_product(a, row, column, n, x + at, lanes, 3, k, w, out + at);
		}
	}
}

static void lane_logits(const float *k, uint32_t dim, uint32_t n, const float *q, uint32_t lanes,
			float *out)
{
	lane_product(k, dim, 1, n, dim, q, lanes, NULL, NULL, out);
}

/* What a lane does not see gets -1e29 or less: its exponential is 0. */
ALWAYS_INLINE void hide_unseen(float *x, uint32_t n, uint32_t lanes, const float *sees)
{
	vf limit = v_load(sees), bias;
	uint32_t i;

	for (i = 0; i < n; i++, x += lanes) {
		bias = v_mul(v_sub(limit, v_set1((float)i + 0.5f)), v_set1(1e30f));
		v_store(x, v_add(v_load(x), v_min(bias, v_set1(0))));
	}
}

static void lane_softmax(float *x, uint32_t n, uint32_t lanes, const float *sees, float *max,
			 float *sum)
{
	uint32_t at, i;

	for (at = 0; at < lanes; at += VW) {
		vf m = v_set1(-FLT_MAX), s = v_set1(0), e;

		if (sees)
			hide_unseen(x + at, n, lanes, sees + at);
		for (i = 0; i < n; i++)
			m = v_max(v_load(x + (size_t)i * lanes + at), m);
		for (i = 0; i < n; i++) {
			e = v_exp(v_sub(v_load(x + (size_t)i * lanes + at), m));
			v_store(x + (size_t)i * lanes + at, e);
			s = v_add(s, e);
		}
		v_store(max + at, m);
		v_store(sum + at, s);
	}
}

static void lane_weights(float *max, const float *sum, uint32_t n_pieces, uint32_t lanes)
{
	uint32_t at, i;

	for (at = 0; at < lanes; at += VW) {
		vf m = v_set1(-FLT_MAX), s = v_set1(0), e;

		for (i = 0; i < n_pieces; i++)
			m = v_max(v_load(max + (size_t)i * lanes + at), m);
		for (i = 0; i < n_pieces; i++) {
			e = v_exp(v_sub(v_load(max + (size_t)i * lanes + at), m));
			v_store(max + (size_t)i * lanes + at, e);
			s = v_fma(v_load(sum + (size_t)i * lanes + at), e, s);
		}
		s = v_div(v_set1(1), s);
		for (i = 0; i < n_pieces; i++)
			v_store(max + (size_t)i * lanes + at,
				v_mul(v_load(max + (size_t)i * lanes + at), s));
	}
}

/* VW keys at a time; where fewer are left, the last one in place of those that are not there. */
static void lane_sum(const float *x, uint32_t n, uint32_t lanes, const float *weights, float *out)
{
	uint32_t i, at;
	int r;

	for (i = 0; i < n; i += VW) {
		float sums[VW];
		vf part[VW];

		for (r = 0; r < VW; r++) {
			const float *row = x + (size_t)(i + (uint32_t)r < n ? i + (uint32_t)r : n - 1) * lanes;

			part[r] = v_mul(v_load(row), v_load(weights));
			for (at = VW; at < lanes; at += VW)
				part[r] = v_fma(v_load(row + at), v_load(weights + at), part[r]);
		}
		v_store(sums, v_sum_each(part));
		for (r = 0; r < VW && i + (uint32_t)r < n; r++)
			out[i + (uint32_t)r] += sums[r];
	}
}

static void lane_max(const float *x, uint32_t n, uint32_t lanes, const float *weights, float *out)
{
	uint32_t i, at;

	for (i = 0; i < n; i++, x += lanes) {
		vf m = v_set1(out[i]);

		for (at = 0; at < lanes; at += VW)
			m = v_max(v_mul(v_load(x + at), v_load(weights + at)), m);
		out[i] = v_max_all(m);
	}
}

static void lane_sizes(const float *x, uint32_t n, uint32_t lanes, float *out)
{
	uint32_t at, i;

	for (at = 0; at < lanes; at += VW) {
		vf sum = v_set1(0);

		for (i = 0; i < n; i++) {
			vf y = v_load(x + (size_t)i * lanes + at);

			sum = v_add(sum, v_max(v_sub(v_set1(0), y), y));	/* NaN stays */
		}
		v_store(out + at, v_add(v_load(out + at), sum));
	}
}
