/* SPDX-License-Identifier: Apache-2.0 */
/* The host's part of norms of Wo v: checks, and the table that the kernel reads. */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/base/limits.h"
#include "kernels/cuda/base/segment.h"
#include "kernels/cuda/norms/table.h"

#define MOST_POSITIONS (1u << 28)
#define MOST_ITEMS (1u << 30)		/* of a launch */

static const struct kvmod_norms *job_at(const struct kvmod_norms *jobs, uint32_t stride,
					uint32_t i)
{
	return KVMOD_AT(const struct kvmod_norms, jobs, stride, i);
}

static bool wo_is_right(const struct kvmod_norms *c)
{
	int64_t row = 2 * (int64_t)c->group * c->head_dim;

	return c->wo.type == KVMOD_F16 && !c->wo.rotation && c->wo.data &&
	       kv_aligned_to(c->wo.data, c->wo.stride, 2) &&
	       (c->n_out == 1 || (c->wo.stride >= row && c->wo.stride <= INT64_MAX / c->n_out));
}

static bool out_is_right(const struct kvmod_norms *c)
{
	return c->out && (uintptr_t)c->out % 4 == 0 &&
	       (c->group == 1 || (c->out_stride >= (int64_t)c->n &&
				  c->out_stride <= INT64_MAX / 4 / c->group));
}

static int32_t check_job(const struct kvmod_norms *c, const char **why)
{
	int32_t err;

	*why = NULL;
	if (c->size < offsetof(struct kvmod_norms, out_stride) + sizeof(c->out_stride))
		*why = "its size: expected that of a struct kvmod_norms";
	else if (!c->n || !c->group || !c->n_out)
		*why = "n, group, n_out: expected 1 or more";
	else if ((err = kv_check_rows(&c->v, c->n, c->head_dim, why)))
		return err;
	else if (!wo_is_right(c))
		*why = "wo: expected plain f16 rows, with a stride of a row or more";
	else if (!out_is_right(c))
		*why = "out: expected floats, and a stride of n or more";
	if (*why)
		return KVMOD_EINVAL;
	if (c->n <= MOST_POSITIONS && c->group <= KV_MAX_HEADS && c->n_out <= INT32_MAX)
		return 0;
	*why = "too many positions, query heads or rows of Wo";
	return KVMOD_ENOTSUP;
}

int32_t kv_cuda_norms_check(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			    char *why, size_t room)
{
	const char *what = "stride: expected the size of a struct kvmod_norms or more";

	if (n_jobs && (!jobs || stride < sizeof(*jobs) || stride % sizeof(uint64_t))) {
		snprintf(why, room, "%s", jobs ? what : "no jobs");
		return KVMOD_EINVAL;
	}
	for (uint32_t i = 0; i < n_jobs; i++) {
		int32_t err = check_job(job_at(jobs, stride, i), &what);

		if (err) {
			snprintf(why, room, "job %u: %s", i, what);
			return err;
		}
	}
	return 0;
}

static uint32_t tiles_of(const struct kv_norms_job *job, const struct kvmod_norms *c)
{
	uint32_t rows = kv_block_rows(job->batches);

	return (c->n + rows - 1) / rows;
}

static uint32_t items_of(const struct kv_norms_job *job, const struct kvmod_norms *c)
{
	return tiles_of(job, c) * c->group;
}

uint32_t kv_cuda_norms_prepare(const struct kvmod_norms *jobs, uint32_t n_jobs, uint32_t stride,
			       struct kv_norms_job *job)
{
	*job = (struct kv_norms_job){ .chunks = kv_row_chunks(jobs->head_dim) };
	job->batches = KV_MOST_BATCHES(job->chunks, 1);
	do {
		const struct kvmod_norms *c = job_at(jobs, stride, job->n_entries);

		job->n_items += items_of(job, c);
		job->n_entries++;
	} while (job->n_entries < n_jobs && job->n_items < MOST_ITEMS &&
		 kv_row_chunks(job_at(jobs, stride, job->n_entries)->head_dim) == job->chunks);
	if (job->n_items < KV_FEW_BLOCKS) {
		job->batches = 1;
		job->n_items = 0;
		for (uint32_t i = 0; i < job->n_entries; i++)
			job->n_items += items_of(job, job_at(jobs, stride, i));
	}
	job->table_bytes = job->n_entries * sizeof(struct kv_norms_entry);
	return job->n_entries;
}

void kv_cuda_norms_table(const struct kv_norms_job *job, const struct kvmod_norms *jobs,
			 uint32_t stride, void *table)
{
	struct kv_norms_entry *e = table;
	uint32_t items = 0;

	for (uint32_t i = 0; i < job->n_entries; i++, e++) {
		const struct kvmod_norms *c = job_at(jobs, stride, i);

		*e = (struct kv_norms_entry){
			.v = c->v.data, .wo = c->wo.data, .out = c->out, .v_stride = c->v.stride,
			.wo_stride = c->wo.stride, .out_stride = c->out_stride, .n = c->n,
			.n_out = c->n_out, .dim = c->head_dim, .v_type = c->v.type,
			.first_item = items, .n_tiles = tiles_of(job, c), .group = c->group,
			.wide_v = kv_rows_are_wide(&c->v), .wide_wo = kv_rows_are_wide(&c->wo),
		};
		items += e->n_tiles * e->group;
	}
}
