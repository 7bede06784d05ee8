/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device "cuda" in the host's memory, as much as its parameter says, and a
 * policy "newest" that runs there: for tests of what is done with devices, where
 * no GPU is. The policy refuses what is not in the device's memory.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvmod/device.h>
#include <kvmod/policy.h>

#define MAX_PIECES 256

struct piece {
	char *memory;
	uint64_t bytes;
};

struct fake {
	struct kvmod_instance instance;
	int64_t memory;			/* MiB */
	int32_t timing;			/* enum timing */
	struct kvmod_device_timing table;
	struct piece pieces[MAX_PIECES];
	uint64_t used;
};

/* What the device has of the calls that measuring takes. */
enum timing { TIMING_WHOLE, TIMING_NONE, TIMING_SHORT, TIMING_NO_CALL, TIMING_NO_READ, TIMING_MUTE };

#define FAKE_PARAMS(P, owner) \
	P(owner, struct fake, memory, INT, "4096", "1..", "MiB of memory") \
	P(owner, struct fake, timing, CHOICE, "whole", "whole|none|short|no_call|no_read|mute", \
	  "the extension for timing: none, a table too short, a call or the read missing, " \
	  "or one that fails without a word")
KVMOD_PARAMS(device, cuda, FAKE_PARAMS);

static int32_t say(void *self, int32_t code, const char *what)
{
	const struct kvmod_host *host = ((struct fake *)self)->instance.host;

	return host->fail(host->ctx, code, "%s", what);
}

/* --- memory --------------------------------------------------------------------- */

static struct piece *find(struct fake *f, const void *memory)
{
	for (int i = 0; i < MAX_PIECES; i++)
		if (f->pieces[i].memory == memory)
			return &f->pieces[i];
	return NULL;
}

static bool is_inside(const struct fake *f, const void *at, uint64_t bytes)
{
	const char *begin = at;

	for (int i = 0; i < MAX_PIECES; i++) {
		const struct piece *p = &f->pieces[i];

		if (p->memory && begin >= p->memory && begin + bytes <= p->memory + p->bytes)
			return true;
	}
	return false;
}

static uint64_t room(const struct fake *f)
{
	uint64_t all = (uint64_t)f->memory << 20;

	return all > f->used ? all - f->used : 0;
}

static int32_t fake_alloc(void *self, uint64_t bytes, void **memory)
{
	struct fake *f = self;
	struct piece *p = find(f, NULL);

	*memory = p && bytes <= room(f) ? malloc(bytes) : NULL;
	if (!*memory)
		return say(f, KVMOD_ENOMEM, "the pretended memory is used up");
	*p = (struct piece){ *memory, bytes };
	f->used += bytes;
	return 0;
}

static void fake_free(void *self, void *memory)
{
	struct fake *f = self;
	struct piece *p = find(f, memory);

	if (!p)
		abort();
	f->used -= p->bytes;
	*p = (struct piece){ 0 };
	free(memory);
}

static int32_t fake_open(void *self)
{
	(void)self;
	return 0;
}

/* What was not freed is a mistake of who allocated it. */
static void fake_close(void *self)
{
	if (((struct fake *)self)->used)
		abort();
}

static int32_t fake_copy(void *self, const void *there, void *to, const void *from, uint64_t bytes)
{
	if (!is_inside(self, there, bytes))
		return say(self, KVMOD_EDEVICE, "not in the device's memory");
	memcpy(to, from, bytes);
	return 0;
}

static int32_t fake_to_host(void *self, void *stream, void *host, const void *device, uint64_t bytes)
{
	(void)stream;
	return fake_copy(self, device, host, device, bytes);
}

static int32_t fake_from_host(void *self, void *stream, void *device, const void *host,
			      uint64_t bytes)
{
	(void)stream;
	return fake_copy(self, device, device, host, bytes);
}

static int32_t fake_synchronize(void *self, void *stream)
{
	(void)self;
	(void)stream;
	return 0;
}

static int32_t move_row(struct fake *f, const struct kvmod_gather *g, uint64_t to, uint64_t from)
{
	const char *src = (const char *)g->src + (int64_t)from * g->src_stride;
	char *dst = (char *)g->dst + (int64_t)to * g->dst_stride;

	if (!is_inside(f, src, g->row_bytes) || !is_inside(f, dst, g->row_bytes))
		return say(f, KVMOD_EDEVICE, "a row is not in the device's memory");
	memmove(dst, src, g->row_bytes);
	return 0;
}

static int32_t gather_one(struct fake *f, const struct kvmod_gather *g)
{
	uint64_t to = 0;
	int32_t err = 0;

	for (uint32_t i = 0; g->spans && i < g->n_spans; i++)
		for (uint32_t r = g->spans[i].begin; r < g->spans[i].end && !err; r++)
			err = move_row(f, g, to++, r);
	for (uint64_t i = 0; !g->spans && i < g->n_indices && !err; i++)
		err = move_row(f, g, i, g->indices[i]);
	return err;
}

static int32_t fake_gather(void *self, void *stream, const struct kvmod_gather *gathers,
			   uint32_t n_gathers, uint32_t gather_stride)
{
	int32_t err = 0;

	(void)stream;
	for (uint32_t i = 0; i < n_gathers && !err; i++)
		err = gather_one(self, KVMOD_AT(const struct kvmod_gather, gathers, gather_stride, i));
	return err;
}

/* --- measuring --------------------------------------------------------------------- */

static int32_t fake_memory(void *self, uint64_t *free_bytes, uint64_t *total_bytes)
{
	*free_bytes = room(self);
	*total_bytes = (uint64_t)((struct fake *)self)->memory << 20;
	return 0;
}

static int32_t fake_read(void *self, void *stream, const void *memory, uint64_t bytes)
{
	(void)stream;
	if (bytes % 16 || !is_inside(self, memory, bytes))
		return say(self, KVMOD_EDEVICE, "a read of what is not in the device's memory");
	return 0;
}

static int32_t fake_mark_new(void *self, void **mark)
{
	*mark = calloc(1, sizeof(struct timespec));
	return *mark ? 0 : say(self, KVMOD_ENOMEM, "no memory for a mark");
}

static void fake_mark_free(void *self, void *mark)
{
	(void)self;
	free(mark);
}

static int32_t fake_mark_set(void *self, void *stream, void *mark)
{
	(void)self;
	(void)stream;
	clock_gettime(CLOCK_MONOTONIC, mark);
	return 0;
}

static int32_t fake_elapsed(void *self, void *begin_, void *end_, double *seconds)
{
	const struct timespec *begin = begin_, *end = end_;

	if (((struct fake *)self)->timing == TIMING_MUTE)
		return KVMOD_EDEVICE;
	*seconds = (double)(end->tv_sec - begin->tv_sec) +
		   1e-9 * (double)(end->tv_nsec - begin->tv_nsec);
	return 0;
}

static const void *fake_get_extension(void *self, const char *name)
{
	static const struct kvmod_device_timing whole = {
		.size = sizeof(whole), .read = fake_read, .mark_new = fake_mark_new,
		.mark_free = fake_mark_free, .mark_set = fake_mark_set, .elapsed = fake_elapsed,
	};
	struct fake *f = self;

	if (strcmp(name, KVMOD_DEVICE_TIMING) || f->timing == TIMING_NONE)
		return NULL;
	f->table = whole;
	if (f->timing == TIMING_SHORT)
		f->table.size = offsetof(struct kvmod_device_timing, elapsed);
	if (f->timing == TIMING_NO_CALL)
		f->table.mark_set = NULL;
	if (f->timing == TIMING_NO_READ)
		f->table.read = NULL;
	return &f->table;
}

static const struct kvmod_device_ops device_ops = {
	.size = sizeof(device_ops),
	.name = "cuda",
	.description = "the host's memory, called a GPU",
	.instance_size = sizeof(struct fake),
	.params = cuda_params,
	.n_params = sizeof(cuda_params) / sizeof(*cuda_params),
	.open = fake_open,
	.close = fake_close,
	.alloc = fake_alloc,
	.free = fake_free,
	.to_host = fake_to_host,
	.from_host = fake_from_host,
	.synchronize = fake_synchronize,
	.gather = fake_gather,
	.memory = fake_memory,
	.get_extension = fake_get_extension,
};

/* --- the policy ------------------------------------------------------------------------ */

struct newest {
	struct kvmod_instance instance;
};

KVMOD_NO_PARAMS(policy, newest);
KVMOD_RUNS_ON(newest, "cuda");

static int32_t newest_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K | KVMOD_NEED_V;
	needs->rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	return 0;
}

static bool rows_are_inside(const struct fake *f, const struct kvmod_view *v, uint64_t n)
{
	return is_inside(f, v->data, n * (uint64_t)v->stride);
}

static bool segment_is_inside(const struct fake *f, const struct kvmod_segment *s)
{
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(s, g);

		if (!rows_are_inside(f, &head->k, head->n) || !rows_are_inside(f, &head->v, head->n))
			return false;
	}
	return rows_are_inside(f, &s->q, s->n_rows);
}

/* Half of a segment, but for layer 0. */
static int32_t newest_compress(void *self, const struct kvmod_request *request,
			       struct kvmod_plan *plan)
{
	const struct kvmod_host *host = ((struct newest *)self)->instance.host;
	const struct kvmod_device_ops *ops;
	void *device;
	int32_t err = host->device(host->ctx, "cuda", &ops, &device);

	if (err)
		return err;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);
		uint32_t n = kvmod_head_at(s, 0)->n;

		if (!request->device || strcmp(request->device, "cuda") || !segment_is_inside(device, s))
			return host->fail(host->ctx, KVMOD_EDEVICE, "layer %u is not on the device", s->layer);
		if (s->layer == 0)
			continue;
		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ .begin = n / 2, .end = n };
	}
	return 0;
}

static const struct kvmod_policy_ops policy_ops = {
	.size = sizeof(policy_ops),
	.name = "newest",
	.description = "the newer half",
	.devices = "cuda",
	.instance_size = sizeof(struct newest),
	.needs = newest_needs,
	.compress = newest_compress,
};

static int32_t init(const struct kvmod_host *host)
{
	int32_t err = host->register_device(host->ctx, &device_ops);

	return err ? err : host->register_policy(host->ctx, &policy_ops);
}

KVMOD_MODULE("fake_device", "1.0", "Apache-2.0", "The kvmod authors",
	     "a device and a policy for it, for tests", 0, init, NULL);
