/* SPDX-License-Identifier: Apache-2.0 */
/* One launch for all segments that a policy ranks by attention, and its lists in the plan. */
#include "policies/cuda/ranking.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/base/error.h"


/* --- which segments ----------------------------------------------------------------- */

/* The segments to decide, in the request's scratch memory on the host; table and answers follow. */
struct picks {
	const struct kvmod_segment **segments;
	uint32_t *numbers;		/* in the request */
	uint32_t *amounts;		/* [picked segment][its KV heads] */
	uint32_t n;
};

static size_t picks_bytes(const struct kvmod_request *request)
{
	uint32_t n_kv_heads = kvmod_extent_of(request).n_kv_heads;

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
		if (!ranking->takes(self, request, segment, amounts))
			continue;
		picks->segments[picks->n] = segment;
		picks->numbers[picks->n++] = i;
		amounts += segment->n_kv_heads;
	}
}

bool kv_window_takes(const struct kvmod_amount *budget, uint32_t window,
		     const struct kvmod_request *request, const struct kvmod_segment *segment,
		     uint32_t *amounts)
{
	uint64_t c = kvmod_budget_at_least(request, segment, budget, window);

	for (uint32_t g = 0; g < segment->n_kv_heads; g++)
		amounts[g] = (uint32_t)(c - window);
	return kvmod_longest_head(segment) > c;
}

/* --- the launch's memory -------------------------------------------------------------- */

int32_t kv_refuse_cache(const struct kvmod_host *host, int32_t err)
{
	return host->fail(host->ctx, err, "the GPU's kernels cannot take this cache: expected a head "
			  "dimension that is a multiple of 8 and at most 256, at most 128 query heads, "
			  "and segments of one shape and type");
}

static int32_t prepare(const struct kvmod_host *host, const struct kv_ranking *ranking,
		       const struct picks *picks, struct kv_attention_job *job)
{
	int32_t err = kv_cuda_attention_prepare(&ranking->params, picks->segments, picks->n,
					     picks->amounts, job);

	return err ? kv_refuse_cache(host, err) : 0;
}

/*
 * Offsets in the memory of a launch. Table, results and counts are on the host and on the
 * GPU; the rest is on the GPU. On the host, two buffers follow the counts.
 */
struct layout {
	size_t results, counts, indices, scratch, end;
};

static struct layout lay_out(const struct kv_attention_job *job)
{
	struct layout l;

	l.results = kv_rounded(job->table_bytes);
	l.counts = l.results + job->n_segments * sizeof(struct kv_attention_result);
	l.indices = l.counts + kv_rounded((size_t)job->n_segments * job->n_kv_heads * sizeof(uint32_t));
	l.scratch = kv_rounded(l.indices + job->n_indices * sizeof(uint32_t));
	l.end = l.scratch + job->scratch_bytes;
	return l;
}

/* Room for the lists of any segment. */
static size_t buffer_bytes(const struct picks *picks)
{
	size_t most = 0;

	for (uint32_t i = 0; i < picks->n; i++) {
		const struct kvmod_segment *s = picks->segments[i];
		size_t bytes = (size_t)s->n_kv_heads * kvmod_longest_head(s) * sizeof(uint32_t);

		most = bytes > most ? bytes : most;
	}
	return kv_rounded(most);
}

int32_t kv_ranking_workspace(const void *self, const struct kv_ranking *ranking,
			     const struct kvmod_request *request, struct kvmod_workspace *need)
{
	const struct kvmod_instance *instance = self;
	struct kv_attention_job job;
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
		need->host += lay_out(&job).indices + 2 * buffer_bytes(&picks);
		need->device = lay_out(&job).end;
	}
	free(memory);
	return err;
}

/* --- deciding ---------------------------------------------------------------------------- */

static cudaError_t launch(const struct kvmod_request *request, const struct kv_attention_job *job,
			  const struct picks *picks, char *host)
{
	char *device = request->device_scratch;
	struct layout l = lay_out(job);
	struct kv_attention_output output = {
		.results = (void *)(device + l.results),
		.counts = (void *)(device + l.counts),
		.indices = (void *)(device + l.indices),
	};
	cudaError_t error;

	kv_cuda_attention_table(job, picks->segments, picks->amounts, host);
	error = cudaMemcpyAsync(device, host, job->table_bytes, cudaMemcpyHostToDevice, request->stream);
	if (error == cudaSuccess)
		error = kv_cuda_cause(kv_cuda_attention(job, device, device + l.scratch, &output,
						     request->stream));
	if (error == cudaSuccess)
		error = cudaMemcpyAsync(host + l.results, device + l.results, l.indices - l.results,
					cudaMemcpyDeviceToHost, request->stream);
	return error == cudaSuccess ? cudaStreamSynchronize(request->stream) : error;
}

/* The largest count of a segment's heads; 0 if all heads are whole. */
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

static void fail(const struct kvmod_host *host, struct kvmod_keep *keep, int32_t status, bool *said)
{
	keep->status = status;
	if (!*said)
		host->fail(host->ctx, status, "attention is not finite: NaN or infinity in keys or queries");
	*said = true;
}

/* --- lists into the plan ------------------------------------------------------------------- */

/* The lists of a segment. */
struct lists {
	const uint32_t *lists, *counts;		/* on the GPU; on the host */
	uint32_t n, stride;
	uint32_t most;				/* elements of each list to fetch; 0: no list */
	struct kvmod_keep *keep;
};

/* Two buffers on the host: one is filled while the lists in the other go into the plan. */
struct buffers {
	uint32_t *memory[2];
	cudaEvent_t filled[2];
};

static cudaError_t open_buffers(struct buffers *b, void *memory, size_t each)
{
	cudaError_t error = cudaSuccess;

	*b = (struct buffers){ .memory = { memory, (void *)((char *)memory + each) } };
	for (int i = 0; i < 2 && error == cudaSuccess; i++)
		error = cudaEventCreateWithFlags(&b->filled[i], cudaEventDisableTiming);
	return error;
}

static void close_buffers(const struct buffers *b)
{
	for (int i = 0; i < 2; i++)
		if (b->filled[i])
			cudaEventDestroy(b->filled[i]);
}

static cudaError_t fetch(const struct lists *l, const struct buffers *b, uint32_t i, cudaStream_t stream)
{
	size_t bytes = l->most * sizeof(*l->lists);
	cudaError_t error = cudaMemcpy2DAsync(b->memory[i], bytes, l->lists, l->stride * sizeof(*l->lists),
					      bytes, l->n, cudaMemcpyDeviceToHost, stream);

	return error == cudaSuccess ? cudaEventRecord(b->filled[i], stream) : error;
}

static cudaError_t deliver(const struct lists *l, const struct buffers *b, uint32_t i)
{
	cudaError_t error = cudaEventSynchronize(b->filled[i]);

	l->keep->kind = KVMOD_KEEP_HEADS;
	memcpy(l->keep->counts, l->counts, l->n * sizeof(*l->counts));
	for (uint32_t g = 0; g < l->n && error == cudaSuccess; g++)
		memcpy(l->keep->indices + g * l->keep->index_stride, b->memory[i] + (size_t)g * l->most,
		       l->counts[g] * sizeof(*l->lists));
	return error;
}

/* Results and counts (on the host) and the lists that belong to them (on the GPU). */
struct answers {
	const struct kvmod_host *host;
	const struct kv_attention_result *results;
	const uint32_t *counts, *lists;
	bool loss;			/* do results say a loss? */
	bool said;			/* was a failure reported already? */
};

/* The lists of picked segment i; moves on to the next segment. */
static struct lists next_lists(struct answers *a, const struct picks *picks, uint32_t i, struct kvmod_plan *plan)
{
	const struct kvmod_segment *segment = picks->segments[i];
	const struct kv_attention_result *result = &a->results[i];
	struct lists l = {
		.lists = a->lists, .counts = a->counts, .n = segment->n_kv_heads,
		.stride = kvmod_longest_head(segment), .keep = kvmod_keep_at(plan, picks->numbers[i]),
	};

	/* Until the lists come; a segment that is kept whole has no lists. */
	l.keep->kind = KVMOD_KEEP_ALL;
	if (result->status)
		fail(a->host, l.keep, result->status, &a->said);
	else
		l.most = most_kept(segment, l.counts);
	if (result->status == 0 && a->loss)
		l.keep->loss = result->loss;
	a->lists += (size_t)l.n * l.stride;
	a->counts += l.n;
	return l;
}

static cudaError_t read_answers(struct answers *a, const struct picks *picks, const struct buffers *b,
				cudaStream_t stream, struct kvmod_plan *plan)
{
	struct lists before = { .most = 0 }, now;
	cudaError_t error = cudaSuccess;

	for (uint32_t i = 0; i <= picks->n && error == cudaSuccess; i++, before = now) {
		now = (struct lists){ .most = 0 };
		if (i < picks->n)
			now = next_lists(a, picks, i, plan);
		if (now.most > 0)
			error = fetch(&now, b, i % 2, stream);
		if (before.most > 0 && error == cudaSuccess)
			error = deliver(&before, b, (i + 1) % 2);
	}
	return error;
}

/* --- all of it ---------------------------------------------------------------------------------- */

static cudaError_t decide(const struct kvmod_host *kvmod, const struct kvmod_request *request,
			  const struct kv_attention_job *job, const struct picks *picks, struct kvmod_plan *plan)
{
	char *host = (char *)request->scratch + picks_bytes(request);
	struct layout l = lay_out(job);
	struct answers answers = {
		.host = kvmod, .results = (void *)(host + l.results), .counts = (void *)(host + l.counts),
		.lists = (void *)((char *)request->device_scratch + l.indices),
		.loss = job->params.rule->has_loss,
	};
	struct buffers buffers;
	cudaError_t error = open_buffers(&buffers, host + l.indices, buffer_bytes(picks));

	if (error == cudaSuccess)
		error = launch(request, job, picks, host);
	if (error == cudaSuccess)
		error = read_answers(&answers, picks, &buffers, request->stream, plan);
	close_buffers(&buffers);
	return error;
}

int32_t kv_ranking_decide(const void *self, const struct kv_ranking *ranking,
			  const struct kvmod_request *request, struct kvmod_plan *plan)
{
	const struct kvmod_host *kvmod = ((const struct kvmod_instance *)self)->host;
	struct kv_attention_job job;
	struct picks picks;
	int32_t err;

	pick(self, ranking, request, request->scratch, &picks);
	if (picks.n == 0)
		return 0;
	err = prepare(kvmod, ranking, &picks, &job);
	if (err)
		return err;
	return kv_cuda_say(kvmod, decide(kvmod, request, &job, &picks, plan), "deciding on the GPU");
}
