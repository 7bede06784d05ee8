/* SPDX-License-Identifier: Apache-2.0 */
/* The host's part of a decision by attention: checks, and the table of tasks. */
#include <stdbool.h>
#include <string.h>

#include "kernels/cuda/attention/tasks.h"
#include "kernels/cuda/base/segment.h"

/* With fewer tiles than this, smaller ones use more of the GPU. */
#define FEW_BLOCKS 512

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* The newest rows whose attention is kept by query head; amount: the segment's. */
static uint32_t head_rows(const struct kv_attention_params *params, const struct kvmod_segment *s, uint32_t amount)
{
	return params->rule->head_rows ? smaller(params->rule->head_rows(amount), s->n_rows) : 0;
}

static uint32_t rows_used(const struct kv_attention_params *params, const struct kvmod_segment *s, uint32_t amount)
{
	uint32_t rows = head_rows(params, s, amount);

	return params->window > rows ? smaller(params->window, s->n_rows) : rows;
}

/* --- checks ------------------------------------------------------------------- */

static int check_params(const struct kv_attention_params *p, const uint32_t *amounts)
{
	if (p->pool % 2 == 0 || !(p->share >= 0 && p->share <= 1))
		return KVMOD_EINVAL;
	return p->rule->check(p, amounts);
}

static int check_segment(struct kv_attention_job *job, const struct kvmod_segment *s)
{
	if (!kv_queries_fit(s))
		return KVMOD_EINVAL;
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(s, g);

		if (head->k.type != job->k_type ||
		    (job->params.rule->equal_heads && head->n != kvmod_head_at(s, 0)->n))
			return KVMOD_ENOTSUP;
		if (head->n && (!head->k.data || !kv_aligned_to(head->k.data, head->k.stride, kv_element_bytes(job->k_type))))
			return KVMOD_EINVAL;
		job->aligned &= kv_aligned_to(head->k.data, head->k.stride, kv_key_alignment(job->k_type));
	}
	return 0;
}

/* --- the table ------------------------------------------------------------------ */

/* The positions that have a rank, from a head's length. */
static void set_range(const struct kv_attention_params *p, struct kv_attention_task *t, uint32_t n, uint32_t budget)
{
	t->n = n;
	t->budget = budget;
	t->begin = smaller(p->sinks, n);
	t->m = n - t->begin > p->tail ? n - t->begin - p->tail : 0;
}

/* Moves the places at which a task's parts begin behind those of task t. */
static void go_on(const struct kv_attention_job *job, struct kv_attention_task *next, const struct kv_attention_task *t)
{
	uint32_t group = job->n_q_heads / job->n_kv_heads;
	uint64_t queries = (uint64_t)group * t->n_rows;

	next->first_item = t->first_item + t->n_tiles;
	if (t->n_tiles == 0)
		return;
	next->positions += t->n;
	next->queries += queries;
	next->stats += queries * t->n_tiles;
	next->sums += (uint64_t)group * kv_rank_chunks(t->m);
	next->limits += t->n_rows;
}

static void set_views(const struct kv_attention_job *job, struct kv_attention_task *t,
		      const struct kvmod_segment *s, uint32_t g, uint32_t amount)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);
	int64_t first_head = (int64_t)g * (job->n_q_heads / job->n_kv_heads);

	t->n_rows = rows_used(&job->params, s, amount);
	t->head_rows = head_rows(&job->params, s, amount);
	t->k = head->k.data;
	t->k_stride = head->k.stride;
	t->q = (const char *)s->q.data + (int64_t)(s->n_rows - t->n_rows) * s->q.stride +
	       first_head * s->q.head_stride;
	t->q_row_stride = s->q.stride;
	t->q_head_stride = s->q.head_stride;
}

/* Describes all heads as tasks, in the table unless that is NULL. Returns the places behind the last one. */
static struct kv_attention_task walk(const struct kv_attention_job *job, const struct kvmod_segment *const *segments,
				  const uint32_t *amounts, char *table)
{
	struct kv_attention_task *to = (void *)table, t, next = { 0 };
	uint32_t *limits = table ? (void *)(table + kv_attention_limits_at(job)) : NULL;

	for (uint32_t i = 0; i < job->n_segments; i++) {
		const struct kvmod_segment *s = segments[i];
		uint32_t stride = kvmod_longest_head(s);

		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			const struct kvmod_head *head = kvmod_head_at(s, g);
			uint32_t amount = amounts ? amounts[(size_t)i * s->n_kv_heads + g] : 0;

			t = next;
			set_views(job, &t, s, g, amount);
			set_range(&job->params, &t, head->n, amount);
			t.n_tiles = 0;
			if (job->params.rule->reads(&job->params, &t))
				t.n_tiles = (head->n + job->tile - 1) / job->tile;
			for (uint32_t row = 0; limits && t.n_tiles && row < t.n_rows; row++)
				limits[t.limits + row] = kv_seen(s, head, s->n_rows - t.n_rows + row);
			if (to)
				*to++ = t;
			go_on(job, &next, &t);
			next.indices += stride;
		}
	}
	return next;
}

static void measure(struct kv_attention_job *job, const struct kvmod_segment *const *segments, const uint32_t *amounts)
{
	struct kv_attention_task end = walk(job, segments, amounts, NULL);

	job->n_items = end.first_item;
	job->n_limits = end.limits;
	job->n_positions = end.positions;
	job->n_queries = end.queries;
	job->n_stats = end.stats;
	job->n_sums = end.sums;
	job->n_indices = end.indices;
}

int kv_cuda_attention_prepare(const struct kv_attention_params *params,
			   const struct kvmod_segment *const *segments, uint32_t n_segments,
			   const uint32_t *amounts, struct kv_attention_job *job)
{
	const struct kvmod_segment *first;
	int err = n_segments ? check_params(params, amounts) : KVMOD_EINVAL;

	err = err ? err : kv_check_shape(segments[0]);
	if (err)
		return err;
	first = segments[0];
	*job = (struct kv_attention_job){ .params = *params, .n_segments = n_segments, .aligned = 1,
		.n_q_heads = first->n_q_heads, .n_kv_heads = first->n_kv_heads,
		.head_dim = first->head_dim, .k_type = kvmod_head_at(first, 0)->k.type,
		.q_type = first->q.type, .scale = first->scale, .softcap = first->softcap };
	for (uint32_t i = 0; !err && i < n_segments; i++) {
		uint32_t rows = rows_used(params, segments[i], amounts ? amounts[(size_t)i * job->n_kv_heads] : 0);

		err = kv_same_shape(first, segments[i]) ? check_segment(job, segments[i]) : KVMOD_ENOTSUP;
		job->rows = rows > job->rows ? rows : job->rows;
	}
	if (err)
		return err;
	for (job->tile = KV_ATTENTION_TILE; ; job->tile /= 2) {
		measure(job, segments, amounts);
		if (job->n_items >= FEW_BLOCKS || job->tile == 16 * KV_WARPS)
			break;
	}
	job->table_bytes = kv_attention_limits_at(job) + job->n_limits * sizeof(uint32_t);
	job->scratch_bytes = kv_attention_scratch(job).end;
	return 0;
}

void kv_cuda_attention_table(const struct kv_attention_job *job,
			  const struct kvmod_segment *const *segments, const uint32_t *amounts,
			  void *table)
{
	walk(job, segments, amounts, table);
}
