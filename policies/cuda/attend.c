/* SPDX-License-Identifier: Apache-2.0 */
#include "policies/cuda/attend.h"

#include <stdlib.h>

#include "plugins/cuda/cuda.h"

/* --- which segments ----------------------------------------------------------------- */

/* Those to decide, in the request's scratch on the host; table and answers follow. */
struct picks {
	const struct kvmod_segment **segments;
	uint32_t *numbers;		/* in the request */
	uint32_t *amounts;		/* [picked segment][its KV heads] */
	uint32_t n;
};

static size_t picks_bytes(const struct kvmod_request *request)
{
	uint32_t n_kv_heads = kv_extent(request).n_kv_heads;

	return kv_rounded(request->n_segments * (sizeof(struct kvmod_segment *) +
					      (1 + (size_t)n_kv_heads) * sizeof(uint32_t)));
}

static void pick(const void *self, const struct kv_ranking *ranking,
		 const struct kvmod_request *request, void *memory, struct picks *picks)
{
	uint32_t *amounts;

	picks->segments = memory;
	picks->numbers = (void *)(picks->segments + request->n_segments);
	amounts = picks->amounts = picks->numbers + request->n_segments;
	picks->n = 0;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		memset(amounts, 0, segment->n_kv_heads * sizeof(*amounts));
		if (!ranking->takes(self, segment, amounts))
			continue;
		picks->segments[picks->n] = segment;
		picks->numbers[picks->n++] = i;
		amounts += segment->n_kv_heads;
	}
}

bool kv_window_takes(const struct kvmod_amount *budget, uint32_t window,
		     const struct kvmod_segment *segment, uint32_t *amounts)
{
	bool above = false;

	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		uint32_t n = kvmod_head_at(segment, g)->n;
		uint64_t c = kv_budget(budget, n, window);

		amounts[g] = (uint32_t)(c - (n < window ? n : window));
		above |= n > c;
	}
	return above;
}

/* --- what the launch takes ------------------------------------------------------------ */

int32_t kv_refuse_cache(const struct kvmod_host *host, int32_t err)
{
	return host->fail(host->ctx, err, "this cache is not for a GPU: expected a head dimension that "
			  "is a multiple of 8 up to 256, 128 query heads or fewer, and segments alike");
}

static int32_t prepare(const struct kvmod_host *host, const struct kv_ranking *ranking,
		       const struct picks *picks, struct kv_attend_job *job)
{
	int32_t err = kv_cuda_attend_prepare(&ranking->params, picks->segments, picks->n,
					     picks->amounts, job);

	return err ? kv_refuse_cache(host, err) : 0;
}

/* Of the table, on both sides; of results and counts, on both; of the rest, on the GPU. */
struct layout {
	size_t results, counts, indices, scratch, end;
};

static struct layout lay_out(const struct kv_attend_job *job)
{
	struct layout l;

	l.results = kv_rounded(job->table_bytes);
	l.counts = l.results + job->n_segments * sizeof(struct kv_attend_result);
	l.indices = l.counts + kv_rounded((size_t)job->n_segments * job->n_kv_heads * sizeof(uint32_t));
	l.scratch = kv_rounded(l.indices + job->n_indices * sizeof(uint32_t));
	l.end = l.scratch + job->scratch_bytes;
	return l;
}

int32_t kv_ranking_workspace(const void *self, const struct kv_ranking *ranking,
			     const struct kvmod_request *request, struct kvmod_workspace *need)
{
	const struct kvmod_instance *instance = self;
	struct kv_attend_job job;
	struct picks picks;
	void *memory = malloc(picks_bytes(request));
	int32_t err = 0;

	if (!memory)
		return KVMOD_ENOMEM;
	pick(self, ranking, request, memory, &picks);
	need->host = picks_bytes(request);
	if (picks.n > 0)
		err = prepare(instance->host, ranking, &picks, &job);
	if (picks.n > 0 && err == 0) {
		need->host += lay_out(&job).indices;
		need->device = lay_out(&job).end;
	}
	free(memory);
	return err;
}

/* --- deciding ---------------------------------------------------------------------------- */

static cudaError_t launch(const struct kvmod_request *request, const struct kv_attend_job *job,
			  const struct picks *picks, char *host)
{
	char *device = request->device_scratch;
	struct layout l = lay_out(job);
	struct kv_attend_output output = {
		.results = (void *)(device + l.results),
		.counts = (void *)(device + l.counts),
		.indices = (void *)(device + l.indices),
	};
	cudaError_t error;

	kv_cuda_attend_table(job, picks->segments, picks->amounts, host);
	error = cudaMemcpyAsync(device, host, job->table_bytes, cudaMemcpyHostToDevice, request->stream);
	if (error == cudaSuccess)
		error = kv_cuda_cause(kv_cuda_attend(job, device, device + l.scratch, &output,
						     request->stream));
	if (error == cudaSuccess)
		error = cudaMemcpyAsync(host + l.results, device + l.results, l.indices - l.results,
					cudaMemcpyDeviceToHost, request->stream);
	return error == cudaSuccess ? cudaStreamSynchronize(request->stream) : error;
}

/* The largest of its heads' counts; 0 if all of them are whole. */
static uint32_t most_kept(const struct kvmod_segment *segment, const uint32_t *counts)
{
	uint32_t most = 0;
	bool whole = true;

	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		most = counts[g] > most ? counts[g] : most;
		whole &= counts[g] == kvmod_head_at(segment, g)->n;
	}
	return whole ? 0 : most;
}

/* A segment's lists into the plan: as much of each as the longest of them has. */
static cudaError_t copy_lists(const struct kvmod_request *request, const struct kvmod_segment *segment,
			      const uint32_t *counts, const uint32_t *lists, uint32_t stride,
			      struct kvmod_keep *keep)
{
	size_t most = most_kept(segment, counts);

	keep->kind = most ? KVMOD_KEEP_HEADS : KVMOD_KEEP_ALL;
	if (most == 0)
		return cudaSuccess;
	memcpy(keep->counts, counts, segment->n_kv_heads * sizeof(*counts));
	return cudaMemcpy2DAsync(keep->indices, keep->index_stride * sizeof(*lists),
				 lists, stride * sizeof(*lists), most * sizeof(*lists),
				 segment->n_kv_heads, cudaMemcpyDeviceToHost, request->stream);
}

static void fail(const struct kvmod_host *host, struct kvmod_keep *keep, int32_t status, bool *said)
{
	keep->status = status;
	if (!*said)
		host->fail(host->ctx, status, "attention is not finite: NaN or infinity in keys or queries");
	*said = true;
}

/* host: where the table was; results and counts are after it. */
static cudaError_t read_answers(const struct kvmod_host *kvmod, const struct kvmod_request *request,
				const struct kv_attend_job *job, const struct picks *picks,
				const char *host, struct kvmod_plan *plan)
{
	struct layout l = lay_out(job);
	const struct kv_attend_result *results = (const void *)(host + l.results);
	const uint32_t *counts = (const void *)(host + l.counts);
	const uint32_t *lists = (const void *)((char *)request->device_scratch + l.indices);
	cudaError_t error = cudaSuccess;
	bool said = false;

	for (uint32_t i = 0; i < picks->n && error == cudaSuccess; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, picks->numbers[i]);
		const struct kvmod_segment *segment = picks->segments[i];
		uint32_t stride = kvmod_longest_head(segment);

		if (results[i].status)
			fail(kvmod, keep, results[i].status, &said);
		else
			error = copy_lists(request, segment, counts, lists, stride, keep);
		if (results[i].status == 0 && job->params.rule == KV_ATTEND_NORM)
			keep->loss = results[i].loss;
		lists += (size_t)segment->n_kv_heads * stride;
		counts += segment->n_kv_heads;
	}
	return error == cudaSuccess ? cudaStreamSynchronize(request->stream) : error;
}

int32_t kv_ranking_decide(const void *self, const struct kv_ranking *ranking,
			  const struct kvmod_request *request, struct kvmod_plan *plan)
{
	const struct kvmod_host *kvmod = ((const struct kvmod_instance *)self)->host;
	char *host = (char *)request->scratch + picks_bytes(request);
	struct kv_attend_job job;
	struct picks picks;
	cudaError_t error;
	int32_t err;

	pick(self, ranking, request, request->scratch, &picks);
	if (picks.n == 0)
		return 0;
	err = prepare(kvmod, ranking, &picks, &job);
	if (err)
		return err;
	error = launch(request, &job, &picks, host);
	if (error == cudaSuccess)
		error = read_answers(kvmod, request, &job, &picks, host, plan);
	return kv_cuda_say(kvmod, error, "deciding on the GPU");
}
