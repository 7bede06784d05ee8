/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention logits of a few queries against many cached keys, and the softmax of a
 * piece of them. All arithmetic is fp32. [any thread]
 */
#ifndef KV_KERNELS_CPU_LOGITS_H
#define KV_KERNELS_CPU_LOGITS_H

#include <kvmod/types.h>

/*
 * Logits of n_q queries, [n_q][head_dim], against keys begin .. end-1 of one KV
 * head: query j against key i goes to out[j * out_stride + i - begin].
 * Keys may have any stride and alignment; head_dim of Q8_0 and Q4_0 is a multiple of 32.
 * softcap 0: none. NaN in a key is NaN in its logits.
 */
void kv_cpu_logits(const struct kvmod_view *k, uint32_t head_dim,
		   uint32_t begin, uint32_t end, const float *q, uint32_t n_q,
		   float scale, float softcap, float *out, size_t out_stride);

/* n elements that lie one after the other; type KVMOD_F32 ... KVMOD_Q4_0. */
void kv_cpu_to_f32(uint32_t type, const void *src, size_t n, float *dst);

/*
 * Softmax of a piece of a query's logits, so that they may come one after the other:
 * the largest of them (-FLT_MAX where none is above it), and the sums of
 * exp(x - max) and of its square. NaN, and infinity above, make the sums NaN.
 * sum^2 / squares is how many positions attention is spread over.
 */
struct kv_softmax {
	float max, sum, squares;
};
/*
 * Of n_q queries, whose n logits lie `stride` apart. There is room for a multiple of
 * KV_PAD in each: what is after n elements is overwritten. n is up to some hundreds:
 * a longer sum would lose digits in one go.
 */
#define KV_PAD 16
void kv_cpu_softmax_piece(float *x, size_t stride, uint32_t n_q, size_t n, struct kv_softmax *out);
/* Adds another piece. */
void kv_softmax_merge(struct kv_softmax *s, const struct kv_softmax *piece);

/* Softmax of n logits, any number, in place. KVMOD_ENUMERIC if it is not finite, else 0. */
int kv_cpu_softmax(float *x, size_t n);

#endif
