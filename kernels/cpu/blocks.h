/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of rows of any element type: as floats, their norms, sums and statistics.
 * Rows begin..end-1 of a view, each of `dim` elements; head_dim of Q8_0 is a
 * multiple of 32. A number that is not finite shows in what is made of it. [any thread]
 */
#ifndef KV_KERNELS_CPU_BLOCKS_H
#define KV_KERNELS_CPU_BLOCKS_H

#include <kvmod/types.h>

/* Row i goes to out + (i - begin) * stride. */
void kv_cpu_rows(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		 float *out, size_t stride);
/* out[i - begin]: Euclidean norm of row i. */
void kv_cpu_norms(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  float *out);
/* out[dim]: sum of the rows, row i times weights[i - begin]; weights NULL: times 1. */
void kv_cpu_sum(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		const float *weights, float *out);

/*
 * out[i - begin] = x'Ax + b.x of row i as x. a is symmetric, [dim][dim]; b: [dim].
 */
void kv_cpu_quadratic(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		      const float *a, const float *b, float *out);

/* Of each dimension, [dim]; what is NULL is not computed. */
struct kv_columns {
	float *mean, *variance, *smallest, *largest;
};
/* Of at least one row. The variance is divided by their number. */
void kv_cpu_stats(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  const struct kv_columns *out);

#endif
