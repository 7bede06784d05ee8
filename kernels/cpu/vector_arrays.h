/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on arrays, on vectors of VW floats; see vector.h, after which this is included. */

/* ln(x) to 2 ulp, for x that is normal and above 0. */
ALWAYS_INLINE vf v_log(vf x)
{
	vf exponent, f = v_sub(v_split(x, &exponent), v_set1(1)), z = v_mul(f, f);
	vf p = v_set1(0.0703768363f);

	p = v_fma(p, f, v_set1(-0.115146101f));
	p = v_fma(p, f, v_set1(0.116769987f));
	p = v_fma(p, f, v_set1(-0.124201408f));
	p = v_fma(p, f, v_set1(0.142493228f));
	p = v_fma(p, f, v_set1(-0.166680578f));
	p = v_fma(p, f, v_set1(0.200007148f));
	p = v_fma(p, f, v_set1(-0.249999940f));
	p = v_fma(p, f, v_set1(0.333333312f));
	p = v_mul(v_mul(p, f), z);
	/* ln 2 in two parts: the first has few digits, so that its multiples are exact. */
	p = v_fma(exponent, v_set1(-0.000212194440f), p);
	p = v_fma(z, v_set1(-0.5f), p);
	return v_fma(exponent, v_set1(0.693359375f), v_add(f, p));
}

/* The last n < VW elements, with `fill` in the lanes after them. */
ALWAYS_INLINE vf v_load_part(const float *x, size_t n, float fill)
{
	float part[VW];
	size_t i;

	for (i = 0; i < VW; i++)
		part[i] = i < n ? x[i] : fill;
	return v_load(part);
}

ALWAYS_INLINE float v_sum_all(vf x)
{
	float lanes[VW], sum = 0;
	int i;

	v_store(lanes, x);
	for (i = 0; i < VW; i++)
		sum += lanes[i];
	return sum;
}

static float total(const float *x, size_t n)
{
	vf sum[2] = { v_set1(0), v_set1(0) };
	size_t i;

	for (i = 0; i + 2 * VW <= n; i += 2 * VW) {
		sum[0] = v_add(sum[0], v_load(x + i));
		sum[1] = v_add(sum[1], v_load(x + i + VW));
	}
	for (; i < n; i += VW)
		sum[0] = v_add(sum[0], i + VW <= n ? v_load(x + i) : v_load_part(x + i, n - i, 0));
	return v_sum_all(v_add(sum[0], sum[1]));
}

static float entropy(const float *x, size_t n, float epsilon)
{
	vf sum = v_set1(0);
	size_t i;

	for (i = 0; i < n; i += VW) {
		vf p = i + VW <= n ? v_load(x + i) : v_load_part(x + i, n - i, 0);

		sum = v_fma(p, v_log(v_add(p, v_set1(epsilon))), sum);
	}
	return -v_sum_all(sum);
}

static void moments(const float *x, size_t n, float share, float *mean, float *squares)
{
	size_t i;

	for (i = 0; i + VW <= n; i += VW) {
		vf value = v_load(x + i), before = v_load(mean + i), from = v_sub(value, before);
		vf now = v_fma(from, v_set1(share), before);

		v_store(mean + i, now);
		v_store(squares + i, v_fma(from, v_sub(value, now), v_load(squares + i)));
	}
	for (; i < n; i++) {
		float from = x[i] - mean[i];

		mean[i] = fmaf(from, share, mean[i]);
		squares[i] = fmaf(from, x[i] - mean[i], squares[i]);
	}
}

static void add(const float *x, size_t n, float *out)
{
	size_t i;

	for (i = 0; i + VW <= n; i += VW)
		v_store(out + i, v_add(v_load(out + i), v_load(x + i)));
	for (; i < n; i++)
		out[i] += x[i];
}

/* Of NaN in x what was there remains. */
static void larger(const float *x, size_t n, float *out)
{
	size_t i;

	for (i = 0; i + VW <= n; i += VW)
		v_store(out + i, v_max(v_load(x + i), v_load(out + i)));
	for (; i < n; i++)
		out[i] = x[i] > out[i] ? x[i] : out[i];
}
