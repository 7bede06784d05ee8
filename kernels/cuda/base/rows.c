/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of rows of elements before their address goes to a kernel. */
#include "kernels/cuda/base/rows.h"

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/base/segment.h"

int32_t kv_check_rows(const struct kvmod_view *rows, uint64_t n, uint32_t dim, const char **why)
{
	uint32_t block = kvmod_block_size(rows->type);
	size_t bytes = rows->type == KVMOD_F32 ? 4 : 2;

	if (dim == 0 || dim % 8 || dim > KV_MAX_DIM) {
		*why = "head_dim: expected a multiple of 8, up to 256";
		return dim ? KVMOD_ENOTSUP : KVMOD_EINVAL;
	}
	*why = NULL;
	if (block == 0)
		*why = "its type: expected KVMOD_F32 to KVMOD_Q4_0";
	else if (dim % block)
		*why = "head_dim: expected whole blocks of 32";
	else if (rows->rotation)
		*why = "rotated rows: expected plain ones";
	else if (!rows->data)
		*why = "no data";
	else if (!kv_aligned_to(rows->data, rows->stride, bytes))
		*why = "data or stride: expected whole elements";
	else if (n > 1 && (rows->stride < (int64_t)kvmod_row_bytes(rows->type, dim) ||
			   rows->stride > (int64_t)(INT64_MAX / n)))
		*why = "its stride: expected a row or more";
	return *why ? KVMOD_EINVAL : 0;
}

bool kv_rows_are_wide(const struct kvmod_view *rows)
{
	return kv_aligned_to(rows->data, rows->stride, 16);
}
