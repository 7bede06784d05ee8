/* SPDX-License-Identifier: Apache-2.0 */
/* Layer lists, budgets, and the work shared out by KV head. */
#include "policies/common.h"

#include <stdatomic.h>

bool kv_layer_listed(const struct kvmod_list *list, uint32_t layer)
{
	if (list->plain)
		return list->n_items && layer < list->items[0];
	for (uint32_t i = 0; i < list->n_items; i++)
		if (list->items[i] == layer)
			return true;
	return false;
}

bool kv_same_lengths(const struct kvmod_segment *segment)
{
	for (uint32_t g = 1; g < segment->n_kv_heads; g++)
		if (kvmod_head_at(segment, g)->n != kvmod_head_at(segment, 0)->n)
			return false;
	return true;
}

/* --- budgets ------------------------------------------------------------------ */

uint64_t kv_budget(const struct kvmod_request *request, const struct kvmod_segment *segment,
		   const struct kvmod_amount *budget, uint32_t least)
{
	uint64_t c = kvmod_budget_of(request, segment, budget);

	return c > least ? c : least;
}

void kv_budget_say(const struct kvmod_instance *self, const struct kvmod_request *request,
		   const struct kvmod_segment *segment, const struct kvmod_amount *budget,
		   uint32_t least, bool *said)
{
	uint64_t c = kvmod_budget_of(request, segment, budget), seen = kvmod_tokens_seen(segment);

	if (*said || c >= least || c >= seen)
		return;
	*said = true;
	self->host->log(self->host->ctx, KVMOD_WARN,
			"a budget of %llu of %llu positions is below what is always kept: "
			"raised to %u", (unsigned long long)c, (unsigned long long)seen, least);
}

void kv_mark_over_budget(const struct kvmod_instance *self,
			 const struct kvmod_request *request, struct kvmod_plan *plan,
			 const struct kvmod_amount *budget, uint32_t least, bool *said)
{
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		kv_budget_say(self, request, segment, budget, least, said);
		if (kvmod_longest_head(segment) > kv_budget(request, segment, budget, least))
			kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	}
}

/* --- work, shared out ------------------------------------------------------------ */

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

struct kv_extent kv_extent(const struct kvmod_request *request)
{
	struct kv_extent most = { 0 };

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		most.n_kv_heads = larger(most.n_kv_heads, segment->n_kv_heads);
		most.head_dim = larger(most.head_dim, segment->head_dim);
		most.group = larger(most.group, segment->n_q_heads / segment->n_kv_heads);
		most.n = larger(most.n, kvmod_longest_head(segment));
	}
	return most;
}

/* Whole cache lines, so that workers never share one. */
static size_t slot_floats(size_t floats)
{
	return (floats + 15) / 16 * 16;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

size_t kv_scratch_bytes(const struct kvmod_instance *self, const struct kvmod_request *request,
			size_t floats)
{
	uint32_t n_tasks = request->n_segments * kv_extent(request).n_kv_heads;

	return smaller(self->host->n_threads(self->host->ctx), n_tasks) *
	       slot_floats(floats) * sizeof(float);
}

/* The host may have more threads by now than when it was asked for the scratch. */
static uint32_t n_workers(const struct kvmod_request *request, const float *scratch, size_t slot,
			  uint32_t n_tasks)
{
	size_t before = (size_t)((const char *)scratch - (const char *)request->scratch);
	size_t room = (request->scratch_size - before) / sizeof(float);
	size_t n = slot ? room / slot : n_tasks;

	return n < n_tasks ? (uint32_t)n : n_tasks;
}

struct job {
	const struct kvmod_request *request;
	const struct kvmod_plan *plan;
	kv_task_fn *fn;
	const void *arg;
	float *scratch;
	size_t slot;
	uint32_t n_tasks, n_kv_heads;
	atomic_uint next, failed;	/* tasks; failed: the first, UINT32_MAX if none */
};

static void fail(struct job *job, uint32_t task, struct kvmod_keep *keep, int32_t code)
{
	uint32_t first = atomic_load(&job->failed);

	/* Heads of one segment may fail at the same time. */
	__atomic_store_n(&keep->status, code, __ATOMIC_RELAXED);
	while (task < first && !atomic_compare_exchange_weak(&job->failed, &first, task))
		;
}

static void run_task(struct job *job, uint32_t task, float *scratch)
{
	uint32_t i = task / job->n_kv_heads, g = task % job->n_kv_heads;
	const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);
	struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);
	struct kv_task t = {
		.request = job->request, .segment = segment, .keep = keep, .i = i, .g = g,
		.scratch = scratch, .group = segment->n_q_heads / segment->n_kv_heads,
	};
	int32_t code;

	if (g >= segment->n_kv_heads || keep->kind != KVMOD_KEEP_HEADS ||
	    __atomic_load_n(&keep->status, __ATOMIC_RELAXED))
		return;
	t.head = kvmod_head_at(segment, g);
	t.n = t.head->n;
	code = job->fn(job->arg, &t);
	if (code)
		fail(job, task, keep, code);
}

static void run_worker(void *arg, uint32_t worker)
{
	struct job *job = arg;
	uint32_t task;

	while ((task = atomic_fetch_add(&job->next, 1)) < job->n_tasks)
		run_task(job, task, job->scratch + worker * job->slot);
}

void kv_each_head(const struct kvmod_instance *self, const struct kvmod_request *request,
		  const struct kvmod_plan *plan, void *scratch, size_t floats,
		  kv_task_fn *fn, const void *arg)
{
	const struct kvmod_host *host = self->host;
	uint32_t n_kv_heads = kv_extent(request).n_kv_heads, failed;
	struct job job = {
		.request = request, .plan = plan, .fn = fn, .arg = arg,
		.scratch = scratch, .slot = slot_floats(floats),
		.n_tasks = request->n_segments * n_kv_heads, .n_kv_heads = n_kv_heads,
	};

	atomic_init(&job.next, 0);
	atomic_init(&job.failed, UINT32_MAX);
	host->parallel(host->ctx,
		       smaller(host->n_threads(host->ctx),
			       n_workers(request, scratch, job.slot, job.n_tasks)),
		       run_worker, &job);
	failed = atomic_load(&job.failed);
	if (failed != UINT32_MAX)
		host->fail(host->ctx, kvmod_keep_at(plan, failed / n_kv_heads)->status,
			   "KV head %u: attention is not finite: NaN or infinity in its keys "
			   "or queries", failed % n_kv_heads);
}
