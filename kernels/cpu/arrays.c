/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on arrays of floats, by the functions of the SIMD level in use. */
#include "kernels/cpu/arrays.h"

#include "kernels/cpu/ops.h"

double kv_cpu_total(const float *x, size_t n)
{
	double total = 0;

	for (; n > KV_SUM; n -= KV_SUM, x += KV_SUM)
		total += (double)kv_cpu_ops()->total(x, KV_SUM);
	return total + (double)kv_cpu_ops()->total(x, n);
}

double kv_cpu_entropy(const float *x, size_t n, float epsilon)
{
	double total = 0;

	for (; n > KV_SUM; n -= KV_SUM, x += KV_SUM)
		total += (double)kv_cpu_ops()->entropy(x, KV_SUM, epsilon);
	return total + (double)kv_cpu_ops()->entropy(x, n, epsilon);
}

void kv_cpu_moments(const float *x, size_t n, uint32_t count, float *mean, float *squares)
{
	kv_cpu_ops()->moments(x, n, 1.0f / (float)count, mean, squares);
}

void kv_cpu_pool_average(const float *in, size_t n, uint32_t half, float *out)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();

	memcpy(out, in, n * sizeof(*out));
	for (uint32_t d = 1; d <= half && d < n; d++) {
		ops->add(in + d, n - d, out);
		ops->add(in, n - d, out + d);
	}
	if (half > 0)
		ops->scale(out, n, 1.0f / (float)(2 * half + 1), 0);
}

void kv_cpu_pool_max(const float *in, size_t n, uint32_t half, float *out)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();

	memcpy(out, in, n * sizeof(*out));
	for (uint32_t d = 1; d <= half && d < n; d++) {
		ops->larger(in + d, n - d, out);
		ops->larger(in, n - d, out + d);
	}
}
