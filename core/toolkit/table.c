/* SPDX-License-Identifier: Apache-2.0 */
/* The table of kvmod/toolkit.h, and the host's extensions by name. */
#include "core/toolkit/toolkit.h"

#include "kernels/cpu/blocks.h"
#include "kernels/cpu/logits.h"

static void dots(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		 const float *q, uint32_t n_q, float *out, size_t stride)
{
	kv_cpu_logits(view, dim, begin, end, q, n_q, 1, 0, out, stride);
}

static void stats(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  const struct kvmod_stats *out)
{
	const struct kv_columns columns = {
		out->mean, out->variance, out->smallest, out->largest,
	};

	kv_cpu_stats(view, dim, begin, end, &columns);
}

static int32_t softmax(float *x, size_t n)
{
	return kv_cpu_softmax(x, n);
}

const struct kvmod_toolkit kv_toolkit = {
	.size = sizeof(kv_toolkit),
	.rows = kv_cpu_rows,
	.dots = dots,
	.norms = kv_cpu_norms,
	.sum = kv_cpu_sum,
	.stats = stats,
	.queries = kv_queries,
	.logits = kv_logits,
	.softmax = softmax,
	.last_attention = kv_last_attention,
	.mean_attention = kv_mean_attention,
	.window_scores = kv_window_scores,
	.pool = kv_pool,
	.mark_heaviest = kv_mark_heaviest,
	.mark_mass = kv_mark_mass,
	.keep_whole = kv_keep_whole,
	.keep_heaviest = kv_keep_heaviest,
	.keep_marked = kv_keep_marked,
	.keep_listed = kv_keep_listed,
	.scratch_bytes = kv_scratch_bytes,
	.each_head = kv_each_head,
	.fail = kv_task_fail,
	.parts_bytes = kv_parts_bytes,
	.parts_open = kv_parts_open,
	.parts_scan = kv_parts_scan,
	.parts_total = kv_parts_total,
	.parts_shares = kv_parts_shares,
	.parts_add = kv_parts_add,
	.scorer_open = kv_scorer_open,
	.scorer_needs = kv_scorer_needs,
	.scorer_workspace = kv_scorer_workspace,
	.scorer_compress = kv_scorer_compress,
};

const void *kv_extension(const char *name)
{
	return strcmp(name, KVMOD_TOOLKIT) == 0 ? &kv_toolkit : NULL;
}

const char *kv_extension_names(void)
{
	return KVMOD_TOOLKIT;
}
