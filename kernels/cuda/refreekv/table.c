/* SPDX-License-Identifier: Apache-2.0 */
/* The host's part of a decision: checks, tiles, and the table that the kernel reads. */
#include <stdbool.h>
#include <string.h>

#include "kernels/cuda/base/segment.h"
#include "kernels/cuda/refreekv/table.h"

/*
 * Tiles get smaller near the end of the launch, where all would wait for a block that
 * reads a large one. Both limits count the positions left to read, over KV heads and
 * groups. With more than 32 tiles the finish takes one more step, so long segments
 * keep large tiles.
 */
#define FAR (1u << 18)
#define NEAR (1u << 16)

static uint32_t rows_used(const struct kv_refreekv_params *params, const struct kvmod_segment *s)
{
	return s->n_rows < params->rows ? s->n_rows : params->rows;
}

/* How many cached positions row j, of those used, sees; 0 if heads differ. */
static uint32_t row_limit(const struct kvmod_segment *s, uint32_t rows, uint32_t j)
{
	uint32_t limit = kv_seen(s, kvmod_head_at(s, 0), s->n_rows - rows + j), g;

	for (g = 1; g < s->n_kv_heads; g++)
		if (kv_seen(s, kvmod_head_at(s, g), s->n_rows - rows + j) != limit)
			return 0;
	return limit;
}

static int check_head(const struct kv_refreekv_job *job, const struct kvmod_head *head, uint32_t n)
{
	if (head->n != n || head->k.type != job->k_type)
		return KVMOD_ENOTSUP;
	if (!head->k.data || !kv_aligned_to(head->k.data, head->k.stride, kv_element_bytes(job->k_type)))
		return KVMOD_EINVAL;
	return 0;
}

static int check_rows(const struct kvmod_segment *s, uint32_t rows)
{
	uint32_t j, limit, before = 1;

	for (j = 0; j < rows; j++) {
		limit = row_limit(s, rows, j);
		if (limit < before)
			return limit ? KVMOD_EINVAL : KVMOD_ENOTSUP;
		before = limit;
	}
	return 0;
}

static int check_segment(const struct kv_refreekv_job *job, const struct kvmod_segment *s)
{
	uint32_t n = kvmod_head_at(s, 0)->n, rows = rows_used(&job->params, s), g;
	int err;

	if (n == 0 || rows == 0 || rows > n || !kv_queries_fit(s))
		return KVMOD_EINVAL;
	for (g = 0; g < s->n_kv_heads; g++) {
		err = check_head(job, kvmod_head_at(s, g), n);
		if (err)
			return err;
	}
	return check_rows(s, rows);
}

static bool keys_aligned(const struct kvmod_segment *s, uint32_t type)
{
	uint32_t g;

	for (g = 0; g < s->n_kv_heads; g++) {
		const struct kvmod_view *k = &kvmod_head_at(s, g)->k;

		if (!kv_aligned_to(k->data, k->stride, kv_key_alignment(type)))
			return false;
	}
	return true;
}

/* The positions of a segment to read, over KV heads and groups; 0 if everything is kept anyway. */
static uint64_t reads(const struct kv_refreekv_job *job, const struct kvmod_segment *s)
{
	uint32_t n = kvmod_head_at(s, 0)->n;

	return kv_keeps_all(&job->params, n) ? 0 : (uint64_t)n * job->n_kv_heads * kv_groups(job);
}

static uint64_t reads_all(const struct kv_refreekv_job *job, const struct kvmod_segment *const *segments)
{
	uint64_t sum = 0;
	uint32_t i;

	for (i = 0; i < job->n_segments; i++)
		sum += reads(job, segments[i]);
	return sum;
}

/* The tiles of a segment. */
struct tiling {
	uint32_t batches, n;
};

/* left: positions to read in this segment and all after it; then in those after it. */
static struct tiling next_tiling(const struct kv_refreekv_job *job, const struct kvmod_segment *s, uint64_t *left)
{
	uint32_t n = kvmod_head_at(s, 0)->n, batches = KV_BATCHES, size;
	uint64_t own = reads(job, s);

	if (job->rows == 1 && *left <= NEAR && n <= 32 * KV_BATCH)
		batches = 1;
	else if (job->rows == 1 && *left <= FAR && n <= 64 * KV_BATCH)
		batches = 2;
	*left -= own;
	size = batches * KV_BATCH;
	return (struct tiling){ batches, own ? (n + size - 1) / size : 0 };
}

static void measure(struct kv_refreekv_job *job, const struct kvmod_segment *const *segments)
{
	uint64_t left = reads_all(job, segments);
	uint32_t i, rows;

	job->aligned = 1;
	for (i = 0; i < job->n_segments; i++) {
		rows = rows_used(&job->params, segments[i]);
		job->rows = rows > job->rows ? rows : job->rows;
		job->n_limits += rows;
		job->aligned &= keys_aligned(segments[i], job->k_type);
	}
	for (i = 0; i < job->n_segments; i++) {
		struct tiling t = next_tiling(job, segments[i], &left);

		rows = rows_used(&job->params, segments[i]);
		job->n_tiles += t.n;
		job->n_cells += kv_padded(t.n);
		job->n_stats += (uint64_t)rows * t.n * job->n_q_heads;
	}
}

int kv_cuda_refreekv_prepare(const struct kv_refreekv_params *params,
			     const struct kvmod_segment *const *segments, uint32_t n_segments,
			     struct kv_refreekv_job *job)
{
	const struct kvmod_segment *first;
	uint32_t i;
	int err;

	if (n_segments == 0 || params->rows == 0 || params->recent == 0 ||
	    !(params->threshold >= 0 && params->threshold <= 1))
		return KVMOD_EINVAL;
	first = segments[0];
	err = kv_check_shape(first);
	if (err)
		return err;
	*job = (struct kv_refreekv_job){ .params = *params, .n_segments = n_segments,
		.n_q_heads = first->n_q_heads, .n_kv_heads = first->n_kv_heads,
		.head_dim = first->head_dim, .k_type = kvmod_head_at(first, 0)->k.type,
		.q_type = first->q.type, .scale = first->scale, .softcap = first->softcap };
	for (i = 0; !err && i < n_segments; i++)
		err = kv_same_shape(first, segments[i]) ? check_segment(job, segments[i]) : KVMOD_ENOTSUP;
	if (err)
		return err;
	job->interleaved = job->n_kv_heads > 1 && kvmod_head_at(first, 0)->k.stride >=
			   (int64_t)(job->n_kv_heads * kvmod_row_bytes(job->k_type, job->head_dim));
	measure(job, segments);
	job->table_bytes = kv_table_layout(job).end;
	job->scratch_bytes = kv_scratch_layout(job).end;
	return 0;
}

static void fill_entry(struct kv_segment_entry *e, const struct kvmod_segment *s, uint32_t rows)
{
	e->q = (const char *)s->q.data + (int64_t)(s->n_rows - rows) * s->q.stride;
	e->q_row_stride = s->q.stride;
	e->q_head_stride = s->q.head_stride;
	e->n = kvmod_head_at(s, 0)->n;
	e->n_rows = rows;
}

void kv_cuda_refreekv_table(const struct kv_refreekv_job *job,
			    const struct kvmod_segment *const *segments, void *table)
{
	struct kv_table_layout l = kv_table_layout(job);
	struct kv_segment_entry *entry = (void *)((char *)table + l.segments);
	struct kv_head_entry *head = (void *)((char *)table + l.heads);
	uint32_t *first_tile = (void *)((char *)table + l.first_tiles);
	uint32_t *limit = (void *)((char *)table + l.limits);
	uint32_t tiles = 0, cells = 0, limits = 0, i, g, j;
	uint64_t stats = 0, left = reads_all(job, segments);

	memset(table, 0, l.end);
	for (i = 0; i < job->n_segments; i++, entry++) {
		const struct kvmod_segment *s = segments[i];
		struct tiling t = next_tiling(job, s, &left);

		fill_entry(entry, s, rows_used(&job->params, s));
		entry->first_tile = first_tile[i] = tiles;
		entry->first_limit = limits;
		entry->first_cell = cells;
		entry->stats = stats;
		entry->batches = t.batches;
		for (g = 0; g < job->n_kv_heads; g++, head++) {
			head->k = kvmod_head_at(s, g)->k.data;
			head->stride = kvmod_head_at(s, g)->k.stride;
		}
		for (j = 0; j < entry->n_rows; j++)
			*limit++ = row_limit(s, entry->n_rows, j);
		tiles += t.n;
		cells += kv_padded(t.n);
		limits += entry->n_rows;
		stats += (uint64_t)entry->n_rows * t.n * job->n_q_heads;
	}
}
