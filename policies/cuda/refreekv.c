/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV on a GPU. One launch decides all segments that are to be cut; its results
 * become spans, or, where positions are ranked by attention, a list for each KV head.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/base/error.h"
#include "kernels/cuda/refreekv/by_attention.h"
#include "kernels/cuda/refreekv/refreekv.h"
#include "policies/cuda/policies.h"
#include "policies/cuda/ranking.h"
#include "policies/refreekv_params.h"

KVMOD_PARAMS(policy, refreekv, REFREEKV_PARAMS);
KVMOD_RUNS_ON(refreekv, "cuda");

/* --- which segments ----------------------------------------------------------------- */

/*
 * The segments to decide, with no more rows of queries than the norm uses. All of it is
 * in the request's scratch memory on the host; table and results follow.
 */
struct cuts {
	struct kvmod_segment *copies;
	const struct kvmod_segment **segments;	/* into copies */
	uint32_t *numbers;		/* in the request */
	uint32_t n;
};

static size_t cuts_bytes(const struct kvmod_request *request)
{
	return request->n_segments * (sizeof(struct kvmod_segment) +
				      sizeof(struct kvmod_segment *) + sizeof(uint32_t));
}

/* The newest `rows` rows of a segment's queries. */
static void use_rows(struct kvmod_segment *s, uint32_t rows)
{
	uint32_t skip = s->n_rows - rows;

	s->q.data = (const char *)s->q.data + skip * s->q.stride;
	s->row_positions = s->row_positions ? s->row_positions + skip : NULL;
	s->n_rows = rows;
}

/* Is there something to decide, and can this policy decide it? */
static bool is_cut(const struct refreekv *self, const struct kvmod_segment *s)
{
	return !refreekv_leaves(self, s) && kvmod_same_lengths(s) && refreekv_ranked(self, s) > 0;
}

/* Layers with heads of different lengths stay whole, and the first one is reported. */
static void refuse_ragged(const struct refreekv *self, const struct kvmod_request *request,
			  struct kvmod_plan *plan)
{
	bool said = false;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		if (refreekv_leaves(self, s) || kvmod_same_lengths(s))
			continue;
		kvmod_keep_at(plan, i)->status =
			said ? KVMOD_ENOTSUP : refreekv_say(self, KVMOD_ENOTSUP);
		said = true;
	}
}

static void collect(const struct refreekv *self, const struct kvmod_request *request,
		    void *memory, struct cuts *cuts)
{
	cuts->copies = memory;
	cuts->segments = (void *)(cuts->copies + request->n_segments);
	cuts->numbers = (void *)(cuts->segments + request->n_segments);
	cuts->n = 0;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		struct kvmod_segment *copy = &cuts->copies[cuts->n];

		if (!is_cut(self, s))
			continue;
		/* The host may have been built with an older, shorter struct. */
		memset(copy, 0, sizeof(*copy));
		memcpy(copy, s, s->size < sizeof(*copy) ? s->size : sizeof(*copy));
		use_rows(copy, refreekv_norm_rows(self, s));
		cuts->segments[cuts->n] = copy;
		cuts->numbers[cuts->n++] = i;
	}
}

/* --- rank = attention ----------------------------------------------------------------- */

static bool takes(const void *self_, const struct kvmod_request *request,
		  const struct kvmod_segment *segment, uint32_t *amounts)
{
	const struct refreekv *self = self_;

	(void)request;
	for (uint32_t g = 0; g < segment->n_kv_heads; g++)
		amounts[g] = refreekv_norm_rows(self, segment);
	return is_cut(self, segment);
}

static struct kv_ranking by_attention(const struct refreekv *self)
{
	return (struct kv_ranking){
		.params = {
			.rule = &kv_refreekv_by_attention,
			.sinks = (uint32_t)self->sinks,
			.tail = refreekv_tail(self, UINT32_MAX),
			.window = (uint32_t)self->window,
			.pool = 1,
			.share = self->threshold,
		},
		.takes = takes,
	};
}

/* --- the launch's memory -------------------------------------------------------------- */

static int32_t prepare(const struct refreekv *self, const struct cuts *cuts,
		       struct kv_refreekv_job *job)
{
	const struct kvmod_host *host = self->instance.host;
	struct kv_refreekv_params params = {
		.threshold = self->threshold,
		.sinks = (uint32_t)self->sinks,
		.recent = (uint32_t)(self->recent < UINT32_MAX ? self->recent : UINT32_MAX),
		.norm_all = self->norm_scope == SCOPE_ALL,
		.rows = UINT32_MAX,
	};
	int32_t err = kv_cuda_refreekv_prepare(&params, cuts->segments, cuts->n, job);

	return err ? kv_refuse_cache(host, err) : 0;
}

/* Behind the table: on the host the results, which the kernel writes; on the GPU the scratch memory. */
static size_t after_table(const struct kv_refreekv_job *job)
{
	return kv_rounded(job->table_bytes);
}

static int32_t refreekv_workspace(void *self_, const struct kvmod_request *request,
				  struct kvmod_workspace *need)
{
	const struct refreekv *self = self_;
	struct kv_ranking ranking = by_attention(self);
	struct kv_refreekv_job job;
	struct cuts cuts;
	void *memory;
	int32_t err = 0;

	if (self->rank == RANK_ATTENTION)
		return kv_ranking_workspace(self, &ranking, request, need);
	memory = malloc(cuts_bytes(request));
	if (!memory)
		return KVMOD_ENOMEM;
	collect(self, request, memory, &cuts);
	need->host = kv_rounded(cuts_bytes(request));
	if (cuts.n > 0)
		err = prepare(self, &cuts, &job);
	if (cuts.n > 0 && err == 0) {
		need->host += after_table(&job) + job.n_segments * sizeof(struct kv_refreekv_result);
		need->device = after_table(&job) + job.scratch_bytes;
	}
	free(memory);
	return err;
}

/* --- deciding ---------------------------------------------------------------------------- */

/* Can the kernel write results to the scratch memory on the host? */
static int32_t check_reach(const struct kvmod_host *host, const void *scratch)
{
	struct cudaPointerAttributes attributes;
	cudaError_t error = cudaPointerGetAttributes(&attributes, scratch);

	if (error == cudaSuccess && attributes.devicePointer != scratch)
		return host->fail(host->ctx, KVMOD_ENOTSUP, "the GPU cannot write to the request's scratch "
				  "memory on the host: expected memory from the device's host_alloc()");
	return kv_cuda_say(host, error, "checking the scratch memory on the host");
}

static cudaError_t launch(const struct kvmod_request *request, const struct kv_refreekv_job *job,
			  const struct cuts *cuts, char *host)
{
	char *device = request->device_scratch;
	size_t after = after_table(job);
	cudaError_t error;

	kv_cuda_refreekv_table(job, cuts->segments, host);
	error = cudaMemcpyAsync(device, host, job->table_bytes, cudaMemcpyHostToDevice, request->stream);
	if (error == cudaSuccess)
		error = kv_cuda_cause(kv_cuda_refreekv(job, device, device + after,
						       (struct kv_refreekv_result *)(host + after),
						       request->stream));
	return error == cudaSuccess ? cudaStreamSynchronize(request->stream) : error;
}

static void read_result(const struct refreekv *self, const struct kv_refreekv_result *result,
			const struct kvmod_segment *segment, struct kvmod_keep *keep, bool *said)
{
	if (result->status < 0) {
		keep->status = *said ? result->status : refreekv_say(self, result->status);
		*said = true;
		return;
	}
	keep->loss = result->loss;
	refreekv_keep_from(self, keep, result->first, kvmod_head_at(segment, 0)->n);
}

static int32_t refreekv_compress(void *self_, const struct kvmod_request *request,
				 struct kvmod_plan *plan)
{
	const struct refreekv *self = self_;
	struct kv_ranking ranking = by_attention(self);
	char *host = (char *)request->scratch + kv_rounded(cuts_bytes(request));
	const struct kv_refreekv_result *results;
	struct kv_refreekv_job job;
	struct cuts cuts;
	bool said = false;
	int32_t err;

	for (uint32_t i = 0; i < request->n_segments; i++)
		kvmod_keep_at(plan, i)->loss = 0;
	refuse_ragged(self, request, plan);
	if (self->rank == RANK_ATTENTION)
		return kv_ranking_decide(self, &ranking, request, plan);
	collect(self, request, request->scratch, &cuts);
	if (cuts.n == 0)
		return 0;
	err = prepare(self, &cuts, &job);
	if (!err)
		err = check_reach(self->instance.host, host);
	if (err)
		return err;
	err = kv_cuda_say(self->instance.host, launch(request, &job, &cuts, host), "deciding on the GPU");
	if (err)
		return err;
	results = (const void *)(host + after_table(&job));
	for (uint32_t i = 0; i < cuts.n; i++)
		read_result(self, &results[i], cuts.segments[i],
			    kvmod_keep_at(plan, cuts.numbers[i]), &said);
	return 0;
}

KV_CUDA_NEEDS(needs_on_gpu, refreekv_needs)

const struct kvmod_policy_ops kv_cuda_refreekv_ops = {
	.size = sizeof(kv_cuda_refreekv_ops),
	.name = "refreekv",
	.description = "no budget: what keeps all but a share of the attention's norm (2502.16886)",
	.devices = "cuda",
	.instance_size = sizeof(struct refreekv),
	.params = refreekv_params,
	.n_params = sizeof(refreekv_params) / sizeof(*refreekv_params),
	.open = refreekv_open,
	.needs = needs_on_gpu,
	.workspace = refreekv_workspace,
	.compress = refreekv_compress,
};
