/* SPDX-License-Identifier: Apache-2.0 */
/* A reference for norms of Wo v: double precision, one number at a time. */
#include "tests/norm_reference.h"

#include "kernels/cpu/logits.h"

#include <math.h>

float *norm_reference_number(const struct kvmod_segment *s, uint32_t h, uint32_t i)
{
	return (float *)((char *)(uintptr_t)s->wo_norm.data + h * s->wo_norm.head_stride) + i;
}

/* Of one row of values; wo: from the query head's first column on. */
static double norm_of(const float *wo, int64_t width, size_t columns, uint32_t dim, const float *v)
{
	double norm = 0;

	for (int64_t e = 0; e < width; e++, wo += columns) {
		double sum = 0;

		for (uint32_t d = 0; d < dim; d++)
			sum += (double)wo[d] * (double)v[d];
		norm += fabs(sum);
	}
	return norm;
}

void norm_reference_check(const struct kvmod_segment *s, const float *wo, int64_t width)
{
	uint32_t group = s->n_q_heads / s->n_kv_heads;
	float v[256];

	ck_assert_ptr_nonnull(s->wo_norm.data);
	for (uint32_t h = 0; h < s->n_q_heads; h++) {
		const struct kvmod_head *head = kvmod_head_at(s, h / group);

		for (uint32_t i = 0; i < head->n; i++) {
			double norm, got = (double)*norm_reference_number(s, h, i);

			kv_cpu_to_f32(head->v.type, (const char *)head->v.data + i * head->v.stride,
				      s->head_dim, v);
			norm = norm_of(wo + (size_t)h * s->head_dim, width,
				       (size_t)s->n_q_heads * s->head_dim, s->head_dim, v);
			ck_assert_msg(fabs(got - norm) <= NORM_ROUNDED * norm,
				      "layer %u, head %u, row %u of %u: %g, expected %g", s->layer,
				      h, i, head->n, got, norm);
		}
	}
}
