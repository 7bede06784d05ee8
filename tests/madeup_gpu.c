/* SPDX-License-Identifier: Apache-2.0 */
/* The made-up device: memory out of the host's reach, and streams that run when waited for. */
#include "tests/madeup_gpu.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/gather.h"

/* An address that no program has: reading there is a crash. */
#define BEYOND ((uintptr_t)1 << 62)

struct gpu gpu;

struct device {
	struct kvmod_instance base;
	int32_t broken;
};

#define PARAMS(P, owner) \
	P(owner, struct device, broken, BOOL, "no", "", "whether it does not open")
/* Expands the device's name before the other macros paste it. */
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define DEFINE_DEVICE(name) KVMOD_PARAMS(device, name, PARAMS)
DEFINE_DEVICE(MADEUP_DEVICE);
#define device_params CAT(MADEUP_DEVICE, _params)
KVMOD_BUILT_FOR(it, "no GPU at all: sm_00");

/* --- memory ------------------------------------------------------------------- */

void *gpu_alloc(uint64_t bytes)
{
	char *memory;

	if (++gpu.n_allocations == gpu.fail_allocation)
		return NULL;
	memory = malloc(bytes);
	if (!memory)
		return NULL;
	memset(memory, 0xee, bytes);
	gpu.n_live++;
	return (void *)((uintptr_t)memory + BEYOND);
}

void *gpu_reach(const void *memory)
{
	if ((uintptr_t)memory < BEYOND)
		abort();
	return (void *)((uintptr_t)memory - BEYOND);
}

static const void *host_only(const void *memory)
{
	if ((uintptr_t)memory >= BEYOND)
		abort();
	return memory;
}

/* --- streams -------------------------------------------------------------------- */

struct work {
	struct work *next;
	void *stream;
	void (*fn)(void *arg);
	void *arg;			/* freed after fn */
};

static struct work *queue;

static int32_t enqueue(void *stream, void (*fn)(void *arg), void *arg)
{
	struct work *work = malloc(sizeof(*work)), **end = &queue;

	if (!work)
		return KVMOD_ENOMEM;
	*work = (struct work){ .stream = stream, .fn = fn, .arg = arg };
	while (*end)
		end = &(*end)->next;
	*end = work;
	gpu.n_queued++;
	return KVMOD_OK;
}

static void run(void *stream, bool all)
{
	for (struct work **link = &queue, *work; (work = *link);) {
		if (!all && work->stream != stream) {
			link = &work->next;
			continue;
		}
		*link = work->next;
		gpu.n_queued--;
		work->fn(work->arg);
		free(work->arg);
		free(work);
	}
}

/* As with a GPU: memory goes when nothing uses it any more. */
void gpu_free(void *memory)
{
	run(NULL, true);
	free(gpu_reach(memory));
	gpu.n_live--;
}

struct launch {
	void (*fn)(void *arg);
	void *arg;
};

static void run_launch(void *arg)
{
	const struct launch *launch = arg;

	launch->fn(launch->arg);
}

int32_t gpu_launch(void *stream, void (*fn)(void *arg), void *arg)
{
	struct launch *launch = malloc(sizeof(*launch));

	if (!launch)
		return KVMOD_ENOMEM;
	*launch = (struct launch){ fn, arg };
	return enqueue(stream, run_launch, launch);
}

/* --- the device --------------------------------------------------------------------- */

static const struct kvmod_host *host_of(void *self)
{
	return ((struct device *)self)->base.host;
}

static int32_t open_it(void *self)
{
	const struct kvmod_host *host = host_of(self);

	if (((struct device *)self)->broken)
		return host->fail(host->ctx, KVMOD_ENOENT, "no GPU here");
	gpu.n_opened++;
	return gpu.fail_open ? host->fail(host->ctx, gpu.fail_open, "no GPU here") : KVMOD_OK;
}

static void close_it(void *self)
{
	(void)self;
	run(NULL, true);
	gpu.n_closed++;
}

static int32_t alloc(void *self, uint64_t bytes, void **memory)
{
	*memory = gpu_alloc(bytes);
	if (*memory)
		return KVMOD_OK;
	return host_of(self)->fail(host_of(self)->ctx, KVMOD_ENOMEM, "the GPU is full");
}

static void free_it(void *self, void *memory)
{
	(void)self;
	gpu_free(memory);
}

static int32_t host_alloc(void *self, uint64_t bytes, void **memory)
{
	if (gpu.fail_host_alloc)
		return host_of(self)->fail(host_of(self)->ctx, gpu.fail_host_alloc, "no page can be pinned");
	*memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
	gpu.n_host_live += *memory != NULL;
	return *memory ? KVMOD_OK : KVMOD_ENOMEM;
}

static void host_free(void *self, void *memory)
{
	(void)self;
	free(memory);
	gpu.n_host_live--;
}

struct copy {
	void *to;
	const void *from;
	uint64_t bytes;
	char data[];			/* what host memory held */
};

static void run_copy(void *arg)
{
	const struct copy *copy = arg;

	memcpy(copy->to, copy->from, copy->bytes);
}

static int32_t queue_copy(void *self, void *stream, void *to, const void *from, uint64_t bytes,
			  bool keep)
{
	struct copy *copy = malloc(sizeof(*copy) + (keep ? bytes : 0));

	if (!copy)
		return KVMOD_ENOMEM;
	*copy = (struct copy){ .to = to, .from = from, .bytes = bytes };
	if (keep) {
		memcpy(copy->data, from, bytes);
		copy->from = copy->data;
	}
	gpu.bytes_copied += bytes;
	if (gpu.fail_copy) {
		free(copy);
		return host_of(self)->fail(host_of(self)->ctx, gpu.fail_copy, "the bus is broken");
	}
	return enqueue(stream, run_copy, copy);
}

static int32_t to_host(void *self, void *stream, void *host, const void *device, uint64_t bytes)
{
	gpu.n_to_host++;
	return queue_copy(self, stream, (void *)(uintptr_t)host_only(host), gpu_reach(device), bytes,
			  false);
}

static int32_t from_host(void *self, void *stream, void *device, const void *host, uint64_t bytes)
{
	gpu.n_from_host++;
	return queue_copy(self, stream, gpu_reach(device), host_only(host), bytes, true);
}

static int32_t synchronize(void *self, void *stream)
{
	gpu.n_waits++;
	run(stream, false);
	if (gpu.fail_wait)
		return host_of(self)->fail(host_of(self)->ctx, gpu.fail_wait, "the GPU fell off");
	return KVMOD_OK;
}

struct gathering {
	struct kvmod_gather gather;
	struct kvmod_span span;
};

static void run_gather(void *arg)
{
	kv_cpu_gather(arg);
}

/* The core gathers by one span alone. */
static int32_t gather(void *self, void *stream, const struct kvmod_gather *gathers,
		      uint32_t n, uint32_t stride)
{
	gpu.n_gathers++;
	(void)self;
	for (uint32_t i = 0; i < n; i++) {
		const struct kvmod_gather *g = KVMOD_AT(const struct kvmod_gather, gathers, stride, i);
		struct gathering *work = malloc(sizeof(*work));

		if (!work || g->n_spans != 1)
			abort();
		*work = (struct gathering){ .gather = *g, .span = g->spans[0] };
		work->gather.spans = &work->span;
		work->gather.src = gpu_reach(g->src);
		work->gather.dst = gpu_reach(g->dst);
		if (enqueue(stream, run_gather, work))
			abort();
	}
	return KVMOD_OK;
}

static const struct kvmod_device_ops device_ops = {
	.size = sizeof(device_ops), .name = KVMOD_STR(MADEUP_DEVICE),
	.description = "a made-up GPU", .instance_size = sizeof(struct device),
	.params = device_params, .n_params = 1,
	.open = open_it, .close = close_it, .alloc = alloc, .free = free_it, .to_host = to_host,
	.from_host = from_host, .synchronize = synchronize, .gather = gather,
	.host_alloc = host_alloc, .host_free = host_free,
};

/* --- what runs there: keeps where K begins with a positive number ----------------- */

KVMOD_NO_PARAMS(policy, positive);
KVMOD_RUNS_ON(positive, KVMOD_STR(MADEUP_DEVICE));
/* The same once more, as the version of a policy that there is for the CPU. */
KVMOD_NO_PARAMS(policy, good);
KVMOD_RUNS_ON(good, KVMOD_STR(MADEUP_DEVICE));

static int32_t positive_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	needs->types = KVMOD_TYPE_BIT(KVMOD_F32);
	return KVMOD_OK;
}

struct decision {
	const struct kvmod_request *request;
	struct kvmod_plan *plan;
};

static void keep_positive(const struct kvmod_head *head, uint32_t *indices, uint32_t *count)
{
	*count = 0;
	for (uint32_t i = 0; i < head->n; i++) {
		const float *row = gpu_reach((const char *)head->k.data + i * head->k.stride);

		if (*row > 0 || i + 1 == head->n)
			indices[(*count)++] = i;
	}
}

static void decide(void *arg)
{
	const struct decision *d = arg;

	for (uint32_t i = 0; i < d->request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(d->request, i);
		struct kvmod_keep *keep = kvmod_keep_at(d->plan, i);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < s->n_kv_heads; g++)
			keep_positive(kvmod_head_at(s, g), keep->indices + g * keep->index_stride,
				      &keep->counts[g]);
	}
}

/* The request and the plan live until the core has waited. */
static int32_t positive_compress(void *self, const struct kvmod_request *request,
				 struct kvmod_plan *plan)
{
	struct decision *decision = malloc(sizeof(*decision));

	(void)self;
	if (!decision)
		return KVMOD_ENOMEM;
	*decision = (struct decision){ request, plan };
	return enqueue(request->stream, decide, decision);
}

static const struct kvmod_policy_ops positive_ops = {
	.size = sizeof(positive_ops), .name = "positive",
	.description = "keeps where K begins with a positive number",
	.devices = KVMOD_STR(MADEUP_DEVICE),
	.instance_size = sizeof(struct kvmod_instance), .needs = positive_needs,
	.compress = positive_compress,
};

static int32_t init(const struct kvmod_host *host)
{
	struct kvmod_policy_ops good_ops = positive_ops;
	int32_t err = host->register_device(host->ctx, &device_ops);

	good_ops.name = "good";
	if (!err)
		err = host->register_policy(host->ctx, &positive_ops);
	return err ? err : host->register_policy(host->ctx, &good_ops);
}

KVMOD_MODULE(KVMOD_STR(MADEUP_DEVICE), "1.0", "Apache-2.0", "The kvmod authors", "a made-up GPU, for tests", 0,
	     init, NULL);
