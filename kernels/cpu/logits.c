/* SPDX-License-Identifier: Apache-2.0 */
/* Logits and softmax, put together from the functions of the level in use. */
#include <math.h>

#include "kernels/cpu/ops.h"

void kv_cpu_logits(const struct kvmod_view *k, uint32_t head_dim,
		   uint32_t begin, uint32_t end, const float *q, uint32_t n_q,
		   float scale, float softcap, float *out, size_t out_stride)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	uint32_t j;

	if (begin >= end)
		return;
	ops->dots(k, head_dim, begin, end, q, n_q, out, out_stride);
	if (scale == 1 && softcap == 0)
		return;
	for (j = 0; j < n_q; j++)
		ops->scale(out + j * out_stride, end - begin, scale, softcap);
}

void kv_cpu_to_f32(uint32_t type, const void *src, size_t n, float *dst)
{
	kv_cpu_ops()->to_f32(type, src, n, dst);
}

/* Blocks keep the rounding of long rows down, and the same at every level. */
void kv_cpu_softmax_sums(const float *x, size_t n, struct kv_softmax *out)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	double sum = 0, sum2 = 0;
	size_t i;

	out->max = ops->max(x, n);
	for (i = 0; i < n; i += KV_SUM_BLOCK) {
		size_t block = n - i < KV_SUM_BLOCK ? n - i : KV_SUM_BLOCK;
		float s, s2;

		ops->exp_sums(x + i, block, out->max, &s, &s2);
		sum += s;
		sum2 += s2;
	}
	out->sum = (float)sum;
	out->sum2 = (float)sum2;
}

void kv_cpu_softmax_add(const float *x, size_t n, float max, float weight, float *out)
{
	kv_cpu_ops()->exp_add(x, n, max, weight, out);
}

int kv_cpu_softmax(float *x, size_t n)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	struct kv_softmax s;
	size_t i;

	kv_cpu_softmax_sums(x, n, &s);
	if (!isfinite(s.sum) || s.sum == 0)
		return KVMOD_ENUMERIC;
	for (i = 0; i < n; i += KV_SUM_BLOCK) {
		size_t block = n - i < KV_SUM_BLOCK ? n - i : KV_SUM_BLOCK;
		float out[KV_SUM_BLOCK] = { 0 };

		ops->exp_add(x + i, block, s.max, 1 / s.sum, out);
		memcpy(x + i, out, block * sizeof(*x));
	}
	return 0;
}

uint64_t kv_cpu_sum_bytes(const void *data, size_t n)
{
	return kv_cpu_ops()->sum_bytes(data, n);
}
