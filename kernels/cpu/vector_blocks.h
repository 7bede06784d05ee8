/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of rows on vectors of VW floats; see vector.h, after which this is included.
 * The sums of columns are made in float over ROW_BLOCK rows, and in double over these.
 */
#define ROW_BLOCK 384

ALWAYS_INLINE void block_rows(uint32_t type, const char *row, int64_t stride, uint32_t dim,
			      uint32_t n, float *out, size_t out_stride)
{
	uint32_t whole = dim / VW * VW, i, d;

	for (i = 0; i < n; i++, row += stride, out += out_stride) {
		for (d = 0; d < whole; d += VW)
			v_store(out + d, v_elements(type, row, d));
		for (; d < dim; d++)
			out[d] = kv_element(type, row, d);
	}
}

/* VW rows at a time; where fewer are left, the last one in place of those that are not there. */
ALWAYS_INLINE void block_norms(uint32_t type, const char *k, int64_t stride, uint32_t dim,
			       uint32_t n, float *out)
{
	uint32_t whole = dim / VW * VW, i, d;
	int r;

	for (i = 0; i < n; i += VW) {
		float sums[VW];
		vf acc[VW];

		for (r = 0; r < VW; r++) {
			const char *row = k + (i + (uint32_t)r < n ? i + (uint32_t)r : n - 1) * stride;

			acc[r] = v_set1(0);
			for (d = 0; d < whole; d += VW) {
				vf x = v_elements(type, row, d);

				acc[r] = v_fma(x, x, acc[r]);
			}
		}
		v_store(sums, v_sum_each(acc));
		for (r = 0; r < VW && i + (uint32_t)r < n; r++) {
			for (d = whole; d < dim; d++) {
				float x = kv_element(type, k + (i + (uint32_t)r) * stride, d);

				sums[r] += x * x;
			}
			out[i + (uint32_t)r] = sqrtf(sums[r]);
		}
	}
}

ALWAYS_INLINE void add_to(double *total, vf x)
{
	float part[VW];
	int i;

	v_store(part, x);
	for (i = 0; i < VW; i++)
		total[i] += part[i];
}

/* Columns d .. d + nv * VW - 1 of n rows, to out[0] and on; nv is a constant, 4 at most. */
ALWAYS_INLINE void sum_columns(uint32_t type, const char *k, int64_t stride, uint32_t d, int nv,
			       uint32_t n, const float *weights, float *out)
{
	double total[4 * VW] = { 0 };
	uint32_t i, j;
	vf acc[4];
	int v;

	for (i = 0; i < n; i += ROW_BLOCK) {
		uint32_t end = n - i < ROW_BLOCK ? n : i + ROW_BLOCK;

#pragma GCC unroll 4
		for (v = 0; v < nv; v++)
			acc[v] = v_set1(0);
		for (j = i; j < end; j++) {
			vf weight = v_set1(weights ? weights[j] : 1);

#pragma GCC unroll 4
			for (v = 0; v < nv; v++)
				acc[v] = v_fma(v_elements(type, k + j * stride, d + (uint32_t)v * VW), weight,
					       acc[v]);
		}
		for (v = 0; v < nv; v++)
			add_to(total + v * VW, acc[v]);
	}
	for (v = 0; v < nv * VW; v++)
		out[v] = (float)total[v];
}

ALWAYS_INLINE void block_sum(uint32_t type, const char *k, int64_t stride, uint32_t dim,
			     uint32_t n, const float *weights, float *out)
{
	uint32_t d = 0, i;

	for (; d + 4 * VW <= dim; d += 4 * VW)
		sum_columns(type, k, stride, d, 4, n, weights, out + d);
	for (; d + VW <= dim; d += VW)
		sum_columns(type, k, stride, d, 1, n, weights, out + d);
	for (; d < dim; d++) {
		double total = 0;

		for (i = 0; i < n; i++)
			total += (double)kv_element(type, k + i * stride, d) *
				 (weights ? weights[i] : 1);
		out[d] = (float)total;
	}
}

/* Columns d .. d + VW - 1, whose means are known. */
ALWAYS_INLINE void spread_of_columns(uint32_t type, const char *k, int64_t stride, uint32_t d,
				     uint32_t n, const float *mean, const struct kv_columns *out)
{
	vf low = v_set1(INFINITY), high = v_set1(-INFINITY), middle = v_load(mean);
	double total[VW] = { 0 };
	uint32_t i, j;

	for (i = 0; i < n; i += ROW_BLOCK) {
		uint32_t end = n - i < ROW_BLOCK ? n : i + ROW_BLOCK;
		vf acc = v_set1(0);

		for (j = i; j < end; j++) {
			vf x = v_elements(type, k + j * stride, d), off = v_sub(x, middle);

			acc = v_fma(off, off, acc);
			low = v_min(x, low);	/* of NaN the second operand remains */
			high = v_max(x, high);
		}
		add_to(total, acc);
	}
	if (out->smallest)
		v_store(out->smallest + d, low);
	if (out->largest)
		v_store(out->largest + d, high);
	for (i = 0; i < VW && out->variance; i++)
		out->variance[d + i] = (float)(total[i] / n);
}

ALWAYS_INLINE void block_stats(uint32_t type, const char *k, int64_t stride, uint32_t dim,
			       uint32_t n, const struct kv_columns *out)
{
	bool spread = out->variance || out->smallest || out->largest;
	float mean[VW];
	uint32_t d, i;

	for (d = 0; d + VW <= dim; d += VW) {
		sum_columns(type, k, stride, d, 1, n, NULL, mean);
		for (i = 0; i < VW; i++)
			mean[i] /= (float)n;
		if (out->mean)
			memcpy(out->mean + d, mean, sizeof(mean));
		if (spread)
			spread_of_columns(type, k, stride, d, n, mean, out);
	}
	for (; d < dim; d++)
		kv_column_stats(type, k, stride, d, n, out);
}

/* The functions of struct kv_cpu_ops: each with its type as a constant. */
#define BY_TYPE(call) \
	switch (type) { \
	case KVMOD_F32: \
		call(KVMOD_F32); \
		break; \
	case KVMOD_F16: \
		call(KVMOD_F16); \
		break; \
	case KVMOD_BF16: \
		call(KVMOD_BF16); \
		break; \
	case KVMOD_Q4_0: \
		call(KVMOD_Q4_0); \
		break; \
	default: \
		call(KVMOD_Q8_0); \
	}

static void rows(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n, float *out,
		 size_t out_stride)
{
#define CALL(t) block_rows(t, k, stride, dim, n, out, out_stride)
	BY_TYPE(CALL)
#undef CALL
}

static void norms(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n, float *out)
{
#define CALL(t) block_norms(t, k, stride, dim, n, out)
	BY_TYPE(CALL)
#undef CALL
}

static void sum(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		const float *weights, float *out)
{
#define CALL(t) block_sum(t, k, stride, dim, n, weights, out)
	BY_TYPE(CALL)
#undef CALL
}

static void stats(uint32_t type, const char *k, int64_t stride, uint32_t dim, uint32_t n,
		  const struct kv_columns *out)
{
#define CALL(t) block_stats(t, k, stride, dim, n, out)
	BY_TYPE(CALL)
#undef CALL
}
