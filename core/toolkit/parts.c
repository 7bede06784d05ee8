/* SPDX-License-Identifier: Apache-2.0 */
/* The toolkit's attention in parts: that of kernels/cpu, in the caller's memory. */
#include "core/toolkit/toolkit.h"

#include "kernels/cpu/attention.h"

struct kvmod_attention {
	struct kv_attention kernel;
};

/* The struct, in whole cache lines, then the arrays that it points to. */
#define HEAD_BYTES ((sizeof(struct kvmod_attention) + 63) / 64 * 64)

static struct kv_attention newest_rows(const struct kvmod_segment *segment, uint32_t g,
				       uint32_t n_rows, uint32_t n_parts)
{
	uint32_t n = n_rows < segment->n_rows ? n_rows : segment->n_rows;
	struct kv_attention a = kv_attention_of(segment, g, segment->n_rows - n, n);

	a.n_parts = n_parts;
	return a;
}

size_t kv_parts_bytes(const struct kvmod_segment *segment, uint32_t g, uint32_t n_rows,
		      uint32_t n_parts)
{
	struct kv_attention a = newest_rows(segment, g, n_rows, n_parts);

	return HEAD_BYTES + kv_attention_lay_out(&a, NULL);
}

struct kvmod_attention *kv_parts_open(const struct kvmod_segment *segment, uint32_t g,
				      uint32_t n_rows, uint32_t n_parts, void *memory)
{
	struct kvmod_attention *a = memory;

	a->kernel = newest_rows(segment, g, n_rows, n_parts);
	kv_attention_lay_out(&a->kernel, (char *)memory + HEAD_BYTES);
	kv_attention_load(&a->kernel);
	return a;
}

void kv_parts_scan(struct kvmod_attention *a, uint32_t part, uint32_t begin, uint32_t end)
{
	kv_attention_scan(&a->kernel, part, begin, end);
}

int32_t kv_parts_total(struct kvmod_attention *a)
{
	return kv_attention_total(&a->kernel);
}

void kv_parts_shares(const struct kvmod_attention *a, uint32_t row, uint32_t h,
		     double *share, double *squares)
{
	kv_attention_parts(&a->kernel, row, h, share, squares);
}

void kv_parts_add(const struct kvmod_attention *a, uint32_t n_rows, uint32_t begin, uint32_t end,
		  float weight, float *out, size_t head_stride)
{
	uint32_t n = n_rows < a->kernel.n_rows ? n_rows : a->kernel.n_rows;

	kv_attention_add(&a->kernel, n, begin, end, weight, out, head_stride);
}
