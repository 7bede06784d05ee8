/* SPDX-License-Identifier: Apache-2.0 */
/* The fast Walsh-Hadamard transform: d log d additions a block, and one scale. */
#include "kernels/cpu/hadamard.h"

#include <math.h>

static void add_and_subtract(float *x, float *y, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		float a = x[i], b = y[i];

		x[i] = a + b;
		y[i] = a - b;
	}
}

static void transform(float *x, uint32_t d)
{
	float scale = 1 / sqrtf((float)d);

	for (uint32_t half = 1; half < d; half *= 2)
		for (uint32_t i = 0; i < d; i += 2 * half)
			add_and_subtract(x + i, x + i + half, half);
	for (uint32_t i = 0; i < d; i++)
		x[i] *= scale;
}

void kv_cpu_hadamard(float *x, size_t n, uint32_t d)
{
	for (size_t i = 0; i < n; i += d)
		transform(x + i, d);
}
