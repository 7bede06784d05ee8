/* SPDX-License-Identifier: Apache-2.0 */
/* Logits, softmax and limits, by the functions of the SIMD level in use. */
#include <float.h>
#include <math.h>

#include "kernels/cpu/ops.h"

#define PIECE 384	/* a multiple of KV_PAD */

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

void kv_cpu_softmax_piece(float *x, size_t stride, uint32_t n_q, size_t n, struct kv_softmax *out)
{
	size_t padded = (n + KV_PAD - 1) / KV_PAD * KV_PAD, i;
	uint32_t j;

	for (j = 0; j < n_q; j++)
		for (i = n; i < padded; i++)
			x[j * stride + i] = -INFINITY;
	kv_cpu_ops()->softmax(x, stride, n_q, padded, out);
	for (j = 0; j < n_q; j++)
		if (out[j].max == -FLT_MAX && !isnan(out[j].sum))
			out[j].sum = out[j].squares = 0;
}

void kv_softmax_merge(struct kv_softmax *s, const struct kv_softmax *piece)
{
	float max = s->max > piece->max ? s->max : piece->max;
	float a = expf(s->max - max), b = expf(piece->max - max);

	s->max = max;
	s->sum = s->sum * a + piece->sum * b;
	s->squares = s->squares * a * a + piece->squares * b * b;
}

int kv_cpu_softmax(float *x, size_t n)
{
	struct kv_softmax all = { .max = -FLT_MAX };
	size_t i, size;

	for (i = 0; i < n; i += size) {
		struct kv_softmax here;
		float piece[PIECE];

		size = n - i < PIECE ? n - i : PIECE;
		memcpy(piece, x + i, size * sizeof(*x));
		kv_cpu_softmax_piece(piece, PIECE, 1, size, &here);
		kv_softmax_merge(&all, &here);
	}
	if (!isfinite(all.sum) || all.sum == 0)
		return KVMOD_ENUMERIC;
	kv_cpu_ops()->exp_scale(x, n, all.max, 1 / all.sum);
	return 0;
}

uint64_t kv_cpu_multiply_add(uint64_t n, float *sum)
{
	return kv_cpu_ops()->multiply_add(n, sum);
}

uint64_t kv_cpu_sum_bytes(const void *data, size_t n)
{
	return kv_cpu_ops()->sum_bytes(data, n);
}
