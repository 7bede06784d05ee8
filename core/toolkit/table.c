/* SPDX-License-Identifier: Apache-2.0 */
/* The table of kvmod/toolkit.h, and the host's extensions by name. */
#include "core/toolkit/toolkit.h"

#include <math.h>

#include "kernels/cpu/arrays.h"
#include "kernels/cpu/blocks.h"
#include "kernels/cpu/logits.h"

/*
 * Rows that the policy did not ask for are not there, and these calls have no way to say
 * so: what they would have made of the rows is NaN.
 */
static bool missing(const struct kvmod_view *view, float *out, size_t n)
{
	if (view->data)
		return false;
	for (size_t i = 0; out && i < n; i++)
		out[i] = NAN;
	return true;
}

static void rows(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		 float *out, size_t stride)
{
	if (view->data)
		kv_cpu_rows(view, dim, begin, end, out, stride);
	else
		for (uint32_t i = begin; i < end; i++)
			missing(view, out + (i - begin) * stride, dim);
}

static void norms(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  float *out)
{
	if (!missing(view, out, end - begin))
		kv_cpu_norms(view, dim, begin, end, out);
}

static void sum(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		const float *weights, float *out)
{
	if (!missing(view, out, dim))
		kv_cpu_sum(view, dim, begin, end, weights, out);
}

static void dots(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		 const float *q, uint32_t n_q, float *out, size_t stride)
{
	if (!view->data) {
		for (uint32_t j = 0; j < n_q; j++)
			missing(view, out + j * stride, end - begin);
		return;
	}
	kv_cpu_logits(view, dim, begin, end, q, n_q, 1, 0, out, stride);
}

static void stats(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		  const struct kvmod_stats *out)
{
	const struct kv_columns columns = {
		out->mean, out->variance, out->smallest, out->largest,
	};

	if (missing(view, out->mean, dim)) {
		missing(view, out->variance, dim);
		missing(view, out->smallest, dim);
		missing(view, out->largest, dim);
		return;
	}
	kv_cpu_stats(view, dim, begin, end, &columns);
}

static void quadratic(const struct kvmod_view *view, uint32_t dim, uint32_t begin, uint32_t end,
		      const float *matrix, const float *vector, float *out)
{
	if (!missing(view, out, end - begin))
		kv_cpu_quadratic(view, dim, begin, end, matrix, vector, out);
}

static int32_t softmax(float *x, size_t n)
{
	return kv_cpu_softmax(x, n);
}

const struct kvmod_toolkit kv_toolkit = {
	.size = sizeof(kv_toolkit),
	.rows = rows,
	.dots = dots,
	.norms = norms,
	.sum = sum,
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
	.each_row = kv_each_row,
	.wo_norms = kv_mean_wo_norms,
	.total = kv_cpu_total,
	.entropy = kv_cpu_entropy,
	.moments = kv_cpu_moments,
	.max_attention = kv_max_attention,
	.quadratic = quadratic,
};

const void *kv_extension(const char *name)
{
	return strcmp(name, KVMOD_TOOLKIT) == 0 ? &kv_toolkit : NULL;
}

const char *kv_extension_names(void)
{
	return KVMOD_TOOLKIT;
}
