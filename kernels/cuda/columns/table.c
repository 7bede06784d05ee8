/* SPDX-License-Identifier: Apache-2.0 */
/* The host's part of column reductions: checks, launches, and the table that kernels read. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/base/segment.h"
#include "kernels/cuda/columns/table.h"

/*
 * A launch takes no more jobs once it has so many blocks or units: the GPU is busy for
 * long, and the launches of a call share scratch memory.
 */
#define ENOUGH_ITEMS 4096u
#define ENOUGH_UNITS 16384u

#define MOST_POSITIONS (1u << 28)
#define MOST_QUERIES (1u << 24)

static const struct kvmod_columns *job_at(const struct kvmod_columns *jobs, uint32_t stride,
					  uint32_t i)
{
	return KVMOD_AT(const struct kvmod_columns, jobs, stride, i);
}

/* --- checks --------------------------------------------------------------------------- */

static bool spans_are_right(const struct kvmod_columns *c)
{
	uint32_t last = 0;

	if (c->n_spans > KV_COLUMNS_SPANS)
		return false;
	for (uint32_t s = 0; s < c->n_spans; s++) {
		struct kvmod_span span = c->spans[s];

		if (span.begin < last || span.end < span.begin || span.end > c->n)
			return false;
		last = span.end;
	}
	return true;
}

/* Is it right for `count` rows of queries, or heads of a row? */
static bool stride_is_right(const struct kvmod_columns *c, int64_t stride, uint32_t count)
{
	return stride % 4 == 0 && (count == 1 || (stride >= 4 * (int64_t)c->head_dim &&
						  stride <= INT64_MAX / 2 / count));
}

static bool queries_are_right(const struct kvmod_columns *c)
{
	return c->q.type == KVMOD_F32 && !c->q.rotation && c->q.data &&
	       (uintptr_t)c->q.data % 4 == 0 && stride_is_right(c, c->q.stride, c->n_rows) &&
	       stride_is_right(c, c->q.head_stride, c->group);
}

static bool out_is_right(const struct kvmod_columns *c)
{
	return c->out && (uintptr_t)c->out % 4 == 0 &&
	       (c->reduce == KVMOD_COLUMNS_MAX || c->group == 1 ||
		(c->out_stride >= (int64_t)c->n && c->out_stride <= INT64_MAX / 4 / c->group));
}

static int32_t check_job(const struct kvmod_columns *c, const char **why)
{
	int32_t err;

	*why = NULL;
	if (c->size < offsetof(struct kvmod_columns, out_stride) + sizeof(c->out_stride))
		*why = "its size: expected that of a struct kvmod_columns";
	else if (c->reduce > KVMOD_COLUMNS_MAX)
		*why = "reduce: expected KVMOD_COLUMNS_SUM or KVMOD_COLUMNS_MAX";
	else if (!c->n || !c->n_rows || !c->group || !c->n_seen)
		*why = "n, n_rows, group, n_seen: expected 1 or more";
	else if (!spans_are_right(c))
		*why = "spans: expected up to 4, ascending and disjoint, within n";
	else if (!isfinite(c->scale) || !isfinite(c->softcap) || c->softcap < 0)
		*why = "scale, softcap: expected finite ones";
	else if ((err = kv_check_rows(&c->k, c->n, c->head_dim, why)))
		return err;
	else if (!queries_are_right(c))
		*why = "q: expected plain f32 rows, with strides of a row or more";
	else if (!out_is_right(c))
		*why = "out: expected floats, and a stride of n or more";
	if (*why)
		return KVMOD_EINVAL;
	if (c->n <= MOST_POSITIONS && (uint64_t)c->n_rows * c->group <= MOST_QUERIES &&
	    c->group <= KV_MAX_HEADS)
		return 0;
	*why = "too many positions, rows or query heads";
	return KVMOD_ENOTSUP;
}

static bool are_alike(const struct kvmod_columns *a, const struct kvmod_columns *b)
{
	return a->head_dim == b->head_dim && a->group == b->group && a->k.type == b->k.type &&
	       a->scale == b->scale && a->softcap == b->softcap;
}

/* Is there an earlier job with the same out? */
static bool is_shared(const struct kvmod_columns *jobs, uint32_t stride, uint32_t i)
{
	const float *out = job_at(jobs, stride, i)->out;

	while (i-- > 0)
		if (job_at(jobs, stride, i)->out == out)
			return true;
	return false;
}

/* Job i, by itself and beside the jobs before it. */
static int32_t check_among(const struct kvmod_columns *jobs, uint32_t stride, uint32_t i,
			   const char **why)
{
	const struct kvmod_columns *c = job_at(jobs, stride, i);
	int32_t err = check_job(c, why);

	if (err)
		return err;
	if (!are_alike(c, jobs))
		*why = "head_dim, group, type of K, scale, softcap: expected job 0's";
	else if (is_shared(jobs, stride, i))
		*why = "out: expected another one than an earlier job's";
	return *why ? KVMOD_EINVAL : 0;
}

int32_t kv_cuda_columns_check(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
			      char *why, size_t room)
{
	const char *what = "stride: expected the size of a struct kvmod_columns or more";

	if (n_jobs && (!jobs || stride < sizeof(*jobs) || stride % sizeof(uint64_t))) {
		snprintf(why, room, "%s", jobs ? what : "no jobs");
		return KVMOD_EINVAL;
	}
	for (uint32_t i = 0; i < n_jobs; i++) {
		int32_t err = check_among(jobs, stride, i, &what);

		if (err) {
			snprintf(why, room, "job %u: %s", i, what);
			return err;
		}
	}
	return 0;
}

/* --- the table --------------------------------------------------------------------------- */

/* The positions that the spans name and the last row sees. */
static void set_spans(struct kv_columns_entry *e, const struct kvmod_columns *c)
{
	const struct kvmod_span all = { 0, c->n };
	uint32_t n_spans = c->n_spans ? c->n_spans : 1;
	uint64_t seen = (uint64_t)c->n_seen + c->n_rows - 1;

	for (uint32_t s = 0; s < n_spans; s++) {
		struct kvmod_span span = c->n_spans ? c->spans[s] : all;

		span.end = span.end < seen ? span.end : (uint32_t)seen;
		if (span.begin >= span.end)
			continue;
		e->begin[e->n_spans] = span.begin;
		e->place[e->n_spans++] = e->m;
		e->m += span.end - span.begin;
	}
}

/* The rows of a head in units: eighths of a unit's columns, or whole units. */
static uint32_t padded_rows(uint32_t n_rows)
{
	return n_rows <= 2 ? 2 : n_rows <= 4 ? 4 : (n_rows + 7) / 8 * 8;
}

/* An entry with no places yet: n_tiles 0 if no row sees a position. */
static struct kv_columns_entry entry_of(const struct kv_columns_job *job,
					const struct kvmod_columns *c)
{
	struct kv_columns_entry e = {
		.k = c->k.data, .q = c->q.data, .out = c->out, .k_stride = c->k.stride,
		.q_stride = c->q.stride, .q_head_stride = c->q.head_stride, .out_stride = c->out_stride,
		.n_rows = c->n_rows, .group = c->group, .padded = padded_rows(c->n_rows),
		.n_seen = c->n_seen < c->n ? c->n_seen : c->n, .reduce = c->reduce,
		.wide_k = kv_rows_are_wide(&c->k),
		.wide_q = kv_rows_are_wide(&c->q) && c->q.head_stride % 16 == 0,
	};
	uint32_t rows = kv_block_rows(job->batches);

	set_spans(&e, c);
	e.n_units = (c->group * e.padded + 7) / 8;
	e.n_tiles = (e.m + rows - 1) / rows;
	e.n_slices = !job->split ? 1 : e.padded < 8 ? e.n_units : c->group;
	return e;
}

/* Goes through n_jobs jobs, or stops when there is enough for a launch. table: NULL, or filled in. */
static uint32_t walk(struct kv_columns_job *job, const struct kvmod_columns *jobs, uint32_t n_jobs,
		     uint32_t stride, bool stop, struct kv_columns_entry *table)
{
	uint64_t stats = 0;
	uint32_t i;

	job->n_entries = job->n_items = job->n_units = 0;
	for (i = 0; i < n_jobs; i++) {
		struct kv_columns_entry e = entry_of(job, job_at(jobs, stride, i));

		if (stop && (job->n_items >= ENOUGH_ITEMS || job->n_units >= ENOUGH_UNITS))
			break;
		if (e.n_tiles == 0)
			continue;
		e.stats = stats;
		e.first_item = job->n_items;
		e.first_unit = job->n_units;
		if (table)
			table[job->n_entries] = e;
		job->n_entries++;
		job->n_items += e.n_tiles * e.n_slices;
		job->n_units += e.n_units;
		stats += (uint64_t)e.n_tiles * e.n_units * 8;
	}
	job->table_bytes = job->n_entries * sizeof(struct kv_columns_entry);
	job->scratch_bytes = kv_columns_places(job).stats + stats * 2 * sizeof(float);
	return i;
}

uint32_t kv_cuda_columns_prepare(const struct kvmod_columns *jobs, uint32_t n_jobs, uint32_t stride,
				 struct kv_columns_job *job)
{
	uint32_t taken;

	*job = (struct kv_columns_job){
		.chunks = kv_row_chunks(jobs->head_dim), .head_dim = jobs->head_dim, .k_type = jobs->k.type,
		.parts = jobs->k.type == KVMOD_F16 || jobs->k.type == KVMOD_BF16 ? 1 : 2,
		.scale = jobs->scale, .softcap = jobs->softcap,
	};
	job->batches = KV_MOST_BATCHES(job->chunks, job->parts);
	taken = walk(job, jobs, n_jobs, stride, true, NULL);
	/* The last blocks of a few large ones would be waited for. */
	if (job->n_items < 4 * KV_FEW_BLOCKS) {
		job->split = 1;
		walk(job, jobs, taken, stride, false, NULL);
	}
	if (job->n_items < KV_FEW_BLOCKS) {
		job->batches = 1;
		walk(job, jobs, taken, stride, false, NULL);
	}
	return taken;
}

void kv_cuda_columns_table(const struct kv_columns_job *job, const struct kvmod_columns *jobs,
			   uint32_t taken, uint32_t stride, void *table)
{
	struct kv_columns_job walked = *job;

	walk(&walked, jobs, taken, stride, false, table);
}
