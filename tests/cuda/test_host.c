/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's part of the module "cuda" on a made-up runtime: queued work finds its memory
 * unchanged, each call may fail, and no memory is leaked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/kvmod.h>

#include "plugins/cuda/device.h"
#include "policies/cuda/params.h"
#include "policies/cuda/policies.h"
#include "policies/refreekv_params.h"
#include "tests/cuda/checks.h"
#include "tests/cuda/host.h"
#include "tests/cuda/runtime.h"

static const struct kvmod_device_ops *const ops = &kv_cuda_device_ops;

/* --- a device ------------------------------------------------------------------------- */

/* NULL, with a reason, if the device does not open. */
static struct kvmod_instance *open_device(void)
{
	struct kvmod_instance *device = calloc(1, ops->instance_size);

	if (!device)
		abort();
	device->host = &host;
	if (!ops->open(device))
		return device;
	free(device);
	return NULL;
}

static void close_device(struct kvmod_instance *device)
{
	if (device)
		ops->close(device);
	free(device);
	CHECK(runtime.n_device == 0 && runtime.n_pinned == 0 && runtime.n_events == 0,
	      "leaked: %u on the GPU, %u pinned, %u events", runtime.n_device, runtime.n_pinned,
	      runtime.n_events);
	CHECK(runtime.n_early == 0, "memory still in use was freed %u times", runtime.n_early);
}

/* --- gathers ---------------------------------------------------------------------------- */

#define ROWS 5000u
#define KEPT 2000u
#define ROW 4u				/* numbers */

struct job {
	uint32_t source[2][ROWS][ROW], target[2][KEPT][ROW];
	uint32_t indices[KEPT];
	struct kvmod_span spans[2];
	uint32_t n;
	bool by_spans;
};

static void make_job(struct job *j, uint32_t seed, uint32_t n, bool by_spans)
{
	memset(j->target, 0, sizeof(j->target));
	for (uint32_t i = 0; i < 2 * ROWS; i++)
		for (uint32_t k = 0; k < ROW; k++)
			j->source[i / ROWS][i % ROWS][k] = (i * ROW + k) * 2654435761u + seed;
	for (uint32_t i = 0; i < n; i++)
		j->indices[i] = 2 * i + seed % 2;
	j->spans[0] = (struct kvmod_span){ .begin = seed, .end = seed + n / 3 };
	j->spans[1] = (struct kvmod_span){ .begin = 2 * n, .end = 3 * n - n / 3 };
	j->n = n;
	j->by_spans = by_spans;
}

/* K and V by the same list. The host's arrays are overwritten after the call. */
static int32_t gather(struct kvmod_instance *device, struct job *j)
{
	struct kvmod_gather g[2];
	int32_t err;

	for (int i = 0; i < 2; i++)
		g[i] = (struct kvmod_gather){
			.size = sizeof(g[i]), .row_bytes = sizeof(j->source[0][0]), .src = j->source[i],
			.dst = j->target[i], .src_stride = sizeof(j->source[0][0]),
			.dst_stride = sizeof(j->source[0][0]),
			.indices = j->by_spans ? NULL : j->indices, .n_indices = j->by_spans ? 0 : j->n,
			.spans = j->by_spans ? j->spans : NULL, .n_spans = j->by_spans ? 2 : 0,
		};
	err = ops->gather(device, NULL, g, 2, sizeof(g[0]));
	memset(j->indices, 0xff, sizeof(j->indices));
	return err;
}

static uint32_t source_row(const struct job *j, uint32_t seed, uint32_t i)
{
	if (!j->by_spans)
		return 2 * i + seed % 2;
	return i < j->n / 3 ? seed + i : 2 * j->n + i - j->n / 3;
}

static void check_job(const struct job *j, uint32_t seed)
{
	uint32_t wrong = 0;

	for (int kv = 0; kv < 2; kv++)
		for (uint32_t i = 0; i < j->n; i++)
			wrong += memcmp(j->target[kv][i], j->source[kv][source_row(j, seed, i)],
					sizeof(j->target[kv][i])) != 0;
	CHECK(wrong == 0, "%u of %u rows are wrong (%s)", wrong, 2 * j->n, j->by_spans ? "spans" : "lists");
}

/* Has the GPU begun with the gather? */
static bool is_begun(const struct job *j)
{
	for (uint32_t k = 0; k < ROW; k++)
		if (j->target[0][0][k])
			return true;
	return false;
}

/* The table of one gather must not damage that of another, whether shorter or longer. */
static void gathers_in_a_row(void)
{
	static const uint32_t lengths[] = { 500, 500, 30, 2000, 1999, 1 };
	enum { N = sizeof(lengths) / sizeof(lengths[0]) };
	struct kvmod_instance *device = open_device();
	struct job *jobs = calloc(N, sizeof(*jobs));

	if (!device || !jobs)
		abort();
	for (uint32_t wait = 0; wait < 2; wait++) {
		for (uint32_t i = 0; i < N; i++) {
			make_job(&jobs[i], i, lengths[i], i % 3 == 2);
			CHECK(gather(device, &jobs[i]) == 0, "gather %u: %s", i, reason);
			if (wait)
				ops->synchronize(device, NULL);
			CHECK(wait || i >= 4 || !is_begun(&jobs[0]), "gather %u waits for the first", i);
			CHECK(runtime.n_pinned <= 5, "%u tables", runtime.n_pinned);
		}
		ops->synchronize(device, NULL);
		for (uint32_t i = 0; i < N; i++)
			check_job(&jobs[i], i);
	}
	gather(device, &jobs[0]);	/* still under way when the device closes */
	runtime_run();
	close_device(device);
	free(jobs);
}

/* Long lists make many launches, and the last one takes all remaining gathers. */
static void gathers_in_parts(void)
{
	enum { N = 70, ROWS_OF_EACH = 1 << 18 };
	struct kvmod_instance *device = open_device();
	struct kvmod_gather g[2 * N] = { 0 };
	uint32_t *lists = malloc(2 * ROWS_OF_EACH * sizeof(*lists));
	uint8_t *source = malloc(ROWS_OF_EACH + N), *target = calloc(2 * N, ROWS_OF_EACH);
	uint64_t wrong = 0;

	if (!device || !lists || !source || !target)
		abort();
	for (uint32_t i = 0; i < ROWS_OF_EACH + N; i++)
		source[i] = (uint8_t)(i * 2654435761u >> 24);
	for (uint32_t i = 0; i < ROWS_OF_EACH; i++) {
		lists[i] = i;
		lists[ROWS_OF_EACH + i] = ROWS_OF_EACH - 1 - i;
	}
	for (uint32_t i = 0; i < 2 * N; i++)
		g[i] = (struct kvmod_gather){
			.size = sizeof(g[i]), .row_bytes = 1, .src_stride = 1, .dst_stride = 1,
			.src = source + i / 2, .dst = target + (size_t)i * ROWS_OF_EACH,
			.indices = lists + i / 2 % 2 * ROWS_OF_EACH, .n_indices = ROWS_OF_EACH,
			.n_rows = i % 3 ? ROWS_OF_EACH : 0,
		};
	runtime.n_gathers = 0;
	CHECK(ops->gather(device, NULL, g, 2 * N, sizeof(g[0])) == 0, "gathers in parts: %s", reason);
	CHECK(runtime.n_gathers == 64, "%u launches, not 64", runtime.n_gathers);
	memset(lists, 0xff, 2 * ROWS_OF_EACH * sizeof(*lists));
	ops->synchronize(device, NULL);
	for (uint32_t i = 0; i < 2 * N; i++)
		for (uint32_t k = 0; k < ROWS_OF_EACH; k++)
			wrong += target[(size_t)i * ROWS_OF_EACH + k] !=
				 source[i / 2 + (i / 2 % 2 ? ROWS_OF_EACH - 1 - k : k)];
	CHECK(wrong == 0, "%llu rows of parts are wrong", (unsigned long long)wrong);
	close_device(device);
	free(lists);
	free(source);
	free(target);
}

/* A target that begins within the source is refused; lists or n_rows say where the source ends. */
static void gathers_that_overlap(void)
{
	static const struct {
		uint32_t dst, n_rows;		/* in rows */
		bool right;
	} cases[] = { { 9, 0, true }, { 8, 0, false }, { 9, 10, false }, { 10, 10, true }, { 0, 10, true } };
	static const uint32_t list[] = { 2, 8, 5 }, ascending[] = { 2, 5, 8 };
	struct kvmod_instance *device = open_device();
	uint32_t memory[16];

	if (!device)
		abort();
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvmod_gather g = {
			.size = sizeof(g), .row_bytes = sizeof(memory[0]), .src = memory,
			.dst = memory + cases[i].dst, .src_stride = sizeof(memory[0]),
			.dst_stride = sizeof(memory[0]), .indices = cases[i].dst ? list : ascending,
			.n_indices = 3, .n_rows = cases[i].n_rows,
		};

		for (uint32_t k = 0; k < 16; k++)
			memory[k] = k;
		reason[0] = '\0';
		CHECK((ops->gather(device, NULL, &g, 1, sizeof(g)) == 0) == cases[i].right,
		      "row %u of %u as target: %s", cases[i].dst, cases[i].n_rows, reason);
		ops->synchronize(device, NULL);
		for (uint32_t k = 0; k < 3 && cases[i].right; k++)
			CHECK(memory[cases[i].dst + k] == g.indices[k], "row %u at row %u: is %u", k,
			      cases[i].dst, memory[cases[i].dst + k]);
	}
	close_device(device);
}

/* With no row to move, there is no CUDA call. A gather of an older header has no n_rows. */
static void gathers_of_nothing(void)
{
	static const uint32_t list[] = { 3, 1 };
	struct kvmod_instance *device = open_device();
	uint32_t memory[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, i;
	struct kvmod_gather g[2];

	if (!device)
		abort();
	for (i = 0; i < 2; i++)
		g[i] = (struct kvmod_gather){
			.size = offsetof(struct kvmod_gather, n_rows), .row_bytes = 4, .src = memory,
			.dst = memory + 4, .src_stride = 4, .dst_stride = 4, .indices = list, .n_rows = 100,
		};
	runtime.n_calls = 0;
	CHECK(ops->gather(device, NULL, g, 2, sizeof(g[0])) == 0 && runtime.n_calls == 0, "%u calls for nothing",
	      runtime.n_calls);
	g[1].n_indices = 2;
	CHECK(ops->gather(device, NULL, g, 2, sizeof(g[0])) == 0, "of an older header: %s", reason);
	ops->synchronize(device, NULL);
	CHECK(memory[4] == 3 && memory[5] == 1, "rows %u and %u", memory[4], memory[5]);
	close_device(device);
}

/* Whichever call fails: there is a reason, no memory is leaked, and the next gather is right. */
static void gathers_that_fail(void)
{
	struct job *job = calloc(1, sizeof(*job));
	bool reached = true;

	if (!job)
		abort();
	for (unsigned n = 1; reached; n++) {
		struct kvmod_instance *device;
		int32_t err = 0;

		runtime.n_calls = 0;
		runtime.fail_call = n;
		reason[0] = '\0';
		device = open_device();
		for (uint32_t i = 0; device && i < 3 && !err; i++) {
			make_job(job, 1, 100 + 300 * i, false);
			err = gather(device, job);
		}
		reached = runtime.n_calls >= n;
		CHECK((device && !err) != reached, "call %u fails, and the gather reports success", n);
		CHECK(!reached || *reason, "call %u fails without a reason", n);
		runtime.fail_call = 0;
		if (device) {
			make_job(job, 1, 700, false);
			CHECK(gather(device, job) == 0, "after call %u failed: %s", n, reason);
			ops->synchronize(device, NULL);
			check_job(job, 1);
		}
		close_device(device);
	}
	free(job);
}

/* --- a decision ---------------------------------------------------------------------------- */

#define LAYERS 3u
#define N 100u
#define DIM 64u
#define KV_HEADS 2u
#define WINDOW 8u

static float numbers[N * DIM];
static struct kvmod_head head = { .size = sizeof(head), .n = N };
static const struct kvmod_head *head_list[KV_HEADS] = { &head, &head };	/* all alike */
static struct kvmod_segment segments[LAYERS];
static const struct kvmod_segment *segment_list[LAYERS];
static struct kvmod_request request;
static struct refreekv policy = {
	.instance = { .host = &host }, .threshold = 0.01, .sinks = 4, .recent = 1,
	.rows = { .value = 1, .is_count = 1 }, .window = WINDOW,
};

static void describe(void)
{
	const struct kvmod_view view = {
		.type = KVMOD_F32, .data = numbers, .stride = DIM * sizeof(float),
		.head_stride = DIM * sizeof(float),
	};

	head.k = view;
	for (uint32_t i = 0; i < LAYERS; i++)
		segments[i] = (struct kvmod_segment){
			.size = sizeof(segments[i]), .layer = i, .logical = N, .n_q_heads = 1, .n_kv_heads = 1,
			.head_dim = DIM, .scale = 1, .heads = head_list, .q = view,
			.n_rows = 1,
		};
	request = (struct kvmod_request){
		.size = sizeof(request), .n_layers = LAYERS, .n_segments = LAYERS,
		.segments = segment_list,
	};
	kvmod_list_segments(segment_list, segments, LAYERS);
}

/* A policy on the GPU, and the check of its plan. */
struct decider {
	const struct kvmod_policy_ops *ops;
	void *self;
	void (*check)(const struct kvmod_plan *plan);
};

/* Calls a policy as the core does; scratch memory on the host is pinned or not. */
static int32_t decide(const struct decider *d, struct kvmod_instance *device, bool pinned,
		      struct kvmod_plan *plan)
{
	struct kvmod_workspace need = { .size = sizeof(need) };
	int32_t err = d->ops->workspace(d->self, &request, &need);
	void *on_host = NULL, *on_device = NULL;

	if (!err && pinned)
		err = ops->host_alloc(device, need.host, &on_host);
	else if (!err)
		on_host = aligned_alloc(64, (need.host + 63) / 64 * 64);
	if (!err)
		err = ops->alloc(device, need.device, &on_device);
	request.scratch = on_host;
	request.device_scratch = on_device;
	if (!err)
		err = d->ops->compress(d->self, &request, plan);
	runtime_run();
	if (on_device)
		ops->free(device, on_device);
	if (on_host && pinned)
		ops->host_free(device, on_host);
	else
		free(on_host);
	return err;
}

static void check_spans(const struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < LAYERS; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		CHECK(keep->kind == KVMOD_KEEP_SPANS && keep->n_spans == 2 &&
		      keep->spans[0].end == 4 && keep->spans[1].begin == RUNTIME_FIRST &&
		      keep->spans[1].end == N && keep->loss > 0, "layer %u: %u spans", i, keep->n_spans);
	}
}

static void check_lists(const struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < LAYERS; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		CHECK(keep->kind == KVMOD_KEEP_HEADS, "layer %u: no lists", i);
		for (uint32_t g = 0; g < KV_HEADS; g++) {
			uint32_t n = RUNTIME_COUNT(i, g), wrong = 0;

			for (uint32_t k = 0; k < n; k++)
				wrong += keep->indices[g * keep->index_stride + k] != RUNTIME_INDEX(i, g, k);
			CHECK(keep->counts[g] == n && wrong == 0, "layer %u, head %u: %u of %u, %u wrong", i, g,
			      keep->counts[g], n, wrong);
		}
	}
}

/* Whichever call fails, there is a reason. */
static void decisions_of(const struct decider *d)
{
	struct kvmod_plan *plan;
	bool reached = true;

	if (kvmod_plan_new(&request, &plan))
		abort();
	for (unsigned n = 1; reached; n++) {
		struct kvmod_instance *device;
		int32_t err;

		runtime.fail_call = 0;
		device = open_device();
		runtime.n_calls = 0;
		runtime.fail_call = n;
		reason[0] = '\0';
		err = decide(d, device, true, plan);
		reached = runtime.n_calls >= n;
		CHECK((err == 0) != reached && (!err || *reason), "%s: call %u fails: %d, `%s`", d->ops->name, n,
		      err, reason);
		if (!err)
			d->check(plan);
		close_device(device);
	}
	runtime.fail_call = 0;
	kvmod_plan_free(plan);
}

static const struct decider by_spans = { &kv_cuda_refreekv_ops, &policy, check_spans };

static void decisions(bool early)
{
	struct kvmod_scorer snapkv = {
		.instance = { .host = &host }, .budget = { .value = 32, .is_count = 1 }, .window = WINDOW,
		.pool = 1,
	};
	const struct decider by_lists = { &kv_cuda_snapkv_ops, &snapkv, check_lists };

	describe();
	runtime.early = early;
	decisions_of(&by_spans);
	for (uint32_t i = 0; i < LAYERS; i++) {
		segments[i].n_q_heads = segments[i].n_kv_heads = KV_HEADS;
		segments[i].n_rows = WINDOW;
	}
	decisions_of(&by_lists);
	runtime.early = false;
}

/* Refused, since the kernel writes its results there. */
static void scratch_out_of_reach(void)
{
	struct kvmod_instance *device = open_device();
	struct kvmod_plan *plan;

	describe();
	if (kvmod_plan_new(&request, &plan))
		abort();
	CHECK(decide(&by_spans, device, false, plan) == KVMOD_ENOTSUP && strstr(reason, "host_alloc"),
	      "scratch out of reach: %s", reason);
	close_device(device);
	kvmod_plan_free(plan);
}

/* --- timing ------------------------------------------------------------------------------- */

/* The extension's calls take the device; each may fail, with a reason. */
static void timing(void)
{
	struct kvmod_instance *device = open_device();
	const struct kvmod_device_timing *t;
	void *begin, *end;
	double seconds = 0;

	if (!device)
		abort();
	t = ops->get_extension(device, KVMOD_DEVICE_TIMING);
	CHECK(!ops->get_extension(device, "kvmod.none/1"), "an extension that does not exist");
	CHECK(t && t->size == sizeof(*t) && t->read, "no extension for timing");
	CHECK(t->mark_new(device, &begin) == 0 && t->mark_new(device, &end) == 0, "marks: %s", reason);
	CHECK(t->mark_set(device, NULL, begin) == 0 && t->read(device, NULL, NULL, 0) == 0 &&
	      t->mark_set(device, NULL, end) == 0, "a read between marks: %s", reason);
	CHECK(t->elapsed(device, begin, end, &seconds) == 0 && seconds > 0.9e-3 && seconds < 1.1e-3,
	      "a millisecond is %g s", seconds);
	runtime.n_calls = 0;
	runtime.fail_call = 1;
	reason[0] = '\0';
	CHECK(t->mark_set(device, NULL, end) == KVMOD_EDEVICE && strstr(reason, "recording a CUDA event"),
	      "a mark that fails: %s", reason);
	runtime.fail_call = 0;
	t->mark_free(device, begin);
	t->mark_free(device, end);
	close_device(device);
}

int main(void)
{
	gathers_in_a_row();
	gathers_in_parts();
	gathers_that_overlap();
	gathers_of_nothing();
	gathers_that_fail();
	decisions(false);
	decisions(true);
	scratch_out_of_reach();
	timing();
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
