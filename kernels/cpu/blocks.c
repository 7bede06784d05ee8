/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of rows, by the functions of the level in use. */
#include "kernels/cpu/ops.h"

void kv_cpu_rows(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		 float *out, size_t stride)
{
	if (begin < end)
		kv_cpu_ops()->rows(view->type, kv_row_at(view, begin), view->stride, dim,
				   end - begin, out, stride);
}

void kv_cpu_norms(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  float *out)
{
	if (begin < end)
		kv_cpu_ops()->norms(view->type, kv_row_at(view, begin), view->stride, dim,
				    end - begin, out);
}

void kv_cpu_sum(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		const float *weights, float *out)
{
	memset(out, 0, dim * sizeof(*out));
	if (begin < end)
		kv_cpu_ops()->sum(view->type, kv_row_at(view, begin), view->stride, dim,
				  end - begin, weights, out);
}

void kv_cpu_stats(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  const struct kv_columns *out)
{
	if (begin < end)
		kv_cpu_ops()->stats(view->type, kv_row_at(view, begin), view->stride, dim,
				    end - begin, out);
}

void kv_cpu_quadratic(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		      const float *a, const float *b, float *out)
{
	const struct kv_cpu_ops *ops = dim > KV_FORM_DIM ? &kv_cpu_scalar : kv_cpu_ops();

	if (begin < end)
		ops->quadratic(view->type, kv_row_at(view, begin), view->stride, dim, end - begin, a, b,
			       out);
}
