/* SPDX-License-Identifier: Apache-2.0 */
/* Distributes KV heads over the host's threads; each thread has its own scratch. */
#include "core/toolkit/toolkit.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Without queries there is no attention, which then needs no memory. */
static size_t work_floats(const struct kvmod_request *request, const struct kvmod_extent *extent)
{
	size_t floats = sizeof(struct kv_work) / sizeof(float);

	for (uint32_t i = 0; i < request->n_segments; i++)
		if (kvmod_segment_at(request, i)->n_rows > 0)
			return kv_whole_lines(floats + kv_attention_floats(extent));
	return floats;
}

size_t kv_scratch_bytes(const struct kvmod_instance *self, const struct kvmod_request *request,
			size_t floats)
{
	struct kvmod_extent extent = kvmod_extent_of(request);
	uint32_t n_tasks = request->n_segments * extent.n_kv_heads;

	return smaller(self->host->n_threads(self->host->ctx), n_tasks) * sizeof(float) *
	       (work_floats(request, &extent) + kv_whole_lines(floats));
}

int32_t kv_task_fail(const struct kvmod_task *task, int32_t code, const char *format, ...)
{
	struct kv_work *work = task->work;
	va_list args;

	va_start(args, format);
	/* Only the first message of a thread can be reported. */
	if (!work->failed)
		vsnprintf(work->reason, sizeof(work->reason), format, args);
	va_end(args);
	return code < 0 ? code : KVMOD_EINVAL;
}

struct job {
	const struct kvmod_request *request;
	const struct kvmod_plan *plan;
	kvmod_task_fn *fn;
	const void *arg;
	float *memory;
	size_t work, slot;		/* floats per thread: the toolkit's, and in total */
	uint32_t n_tasks, n_kv_heads;
	atomic_uint next;
};

static void run_task(struct job *job, uint32_t number, float *memory)
{
	uint32_t i = number / job->n_kv_heads, g = number % job->n_kv_heads;
	const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);
	struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);
	struct kvmod_task task = {
		.size = sizeof(task), .i = i, .g = g, .kit = &kv_toolkit,
		.request = job->request, .segment = segment, .keep = keep,
		.group = segment->n_q_heads / segment->n_kv_heads,
		.scratch = memory + job->work, .work = memory,
	};
	struct kv_work *work = task.work;
	int32_t code;

	if (g >= segment->n_kv_heads || keep->kind != KVMOD_KEEP_HEADS ||
	    __atomic_load_n(&keep->status, __ATOMIC_RELAXED))
		return;
	task.head = kvmod_head_at(segment, g);
	task.n = task.m = task.head->n;
	if (!work->failed)
		work->reason[0] = '\0';
	code = job->fn(job->arg, &task);
	if (code == 0)
		return;
	code = code < 0 ? code : KVMOD_EINVAL;
	/* Heads of one segment may fail at the same time. */
	__atomic_store_n(&keep->status, code, __ATOMIC_RELAXED);
	if (work->failed)
		return;
	work->failed = 1;
	work->task = number;
	work->code = code;
}

static void run_thread(void *arg, uint32_t thread)
{
	struct job *job = arg;
	float *memory = job->memory + thread * job->slot;
	uint32_t number;

	while ((number = atomic_fetch_add(&job->next, 1)) < job->n_tasks)
		run_task(job, number, memory);
}

/* The host may have more threads now than when the scratch was computed. */
static uint32_t n_threads(const struct kvmod_host *host, const struct job *job)
{
	size_t before = (size_t)((const char *)job->memory - (const char *)job->request->scratch);
	size_t n = before < job->request->scratch_size ?
		   (job->request->scratch_size - before) / (job->slot * sizeof(float)) : 0;

	n = n < job->n_tasks ? n : job->n_tasks;
	return smaller(host->n_threads(host->ctx), (uint32_t)n);
}

static struct kv_work *work_of(const struct job *job, uint32_t thread)
{
	return (struct kv_work *)(void *)(job->memory + thread * job->slot);
}

/* The message of the first task that failed. */
static void say_failure(const struct kvmod_host *host, const struct job *job, uint32_t threads)
{
	const struct kv_work *first = NULL;

	for (uint32_t i = 0; i < threads; i++) {
		const struct kv_work *work = work_of(job, i);

		if (work->failed && (!first || work->task < first->task))
			first = work;
	}
	if (!first)
		return;
	host->fail(host->ctx, first->code, "KV head %u: %s", first->task % job->n_kv_heads,
		   *first->reason ? first->reason :
		   first->code == KVMOD_ENUMERIC ? "a number is not finite" :
		   "it failed, and did not say why");
}

/* The policy asked for too little scratch: every segment fails. */
static void refuse(const struct kvmod_host *host, const struct job *job)
{
	int32_t code = host->fail(host->ctx, KVMOD_EINVAL, "%zu bytes of scratch are too few for a "
				  "thread: workspace() asks for what scratch_bytes() says",
				  job->request->scratch_size);

	for (uint32_t i = 0; i < job->request->n_segments; i++)
		if (kvmod_keep_at(job->plan, i)->kind == KVMOD_KEEP_HEADS)
			kvmod_keep_at(job->plan, i)->status = code;
}

void kv_each_head(const struct kvmod_instance *self, const struct kvmod_request *request,
		  const struct kvmod_plan *plan, void *scratch, size_t floats,
		  kvmod_task_fn *fn, const void *arg)
{
	struct kvmod_extent extent = kvmod_extent_of(request);
	struct job job = {
		.request = request, .plan = plan, .fn = fn, .arg = arg,
		.memory = scratch, .work = work_floats(request, &extent),
		.n_tasks = request->n_segments * extent.n_kv_heads,
		.n_kv_heads = extent.n_kv_heads,
	};
	uint32_t threads;

	job.slot = job.work + kv_whole_lines(floats);
	threads = n_threads(self->host, &job);
	if (threads == 0) {
		refuse(self->host, &job);
		return;
	}
	for (uint32_t i = 0; i < threads; i++)
		work_of(&job, i)->failed = 0;
	atomic_init(&job.next, 0);
	self->host->parallel(self->host->ctx, threads, run_thread, &job);
	say_failure(self->host, &job, threads);
}
