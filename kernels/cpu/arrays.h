/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on arrays of floats: sums, statistics, pooling. [any thread] */
#ifndef KV_KERNELS_CPU_ARRAYS_H
#define KV_KERNELS_CPU_ARRAYS_H

#include <stddef.h>
#include <stdint.h>

/* Partial sums are of this many numbers; a longer one in float would lose digits. */
#define KV_SUM 256

double kv_cpu_total(const float *x, size_t n);
/* The sum of -x ln(x + epsilon); no number may be negative, and epsilon is normal. */
double kv_cpu_entropy(const float *x, size_t n, float epsilon);
/* Adds x to n means, and sums of squares about them, of count - 1 arrays before it. */
void kv_cpu_moments(const float *x, size_t n, uint32_t count, float *mean, float *squares);
/*
 * out[i] = average or maximum of in[i - half .. i + half]: beyond the ends the average
 * counts zeros, the maximum nothing. in and out must not overlap.
 */
void kv_cpu_pool_average(const float *in, size_t n, uint32_t half, float *out);
void kv_cpu_pool_max(const float *in, size_t n, uint32_t half, float *out);

#endif
