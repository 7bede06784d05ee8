/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's part of the extension KVMOD_DEVICE_ATTENTION on a made-up runtime: tables are
 * right, wrong jobs are refused before anything is queued, each call may fail, and no
 * memory is leaked. This test needs no GPU.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/columns/table.h"
#include "plugins/cuda/device.h"
#include "tests/cuda/checks.h"
#include "tests/cuda/host.h"
#include "tests/cuda/reductions.h"
#include "tests/cuda/runtime.h"

static struct kvmod_instance *device;
static const struct kvmod_device_attention *calls;
static struct kv_random random_numbers = { 5 };

static const struct columns_shape plain = {
	.n = 90, .n_rows = 6, .group = 2, .dim = 32, .n_seen = 85, .k_type = KVMOD_F16, .scale = 0.2f,
	.spread = 1,
};

static void open_device(void)
{
	device = reductions_open(&host);
	if (!device)
		abort();
	calls = reductions_calls(device);
}

static void close_device(void)
{
	reductions_close(device);
	CHECK(runtime.n_device == 0 && runtime.n_pinned == 0 && runtime.n_events == 0,
	      "leaked: %u on the GPU, %u pinned, %u events", runtime.n_device, runtime.n_pinned,
	      runtime.n_events);
	CHECK(runtime.n_early == 0, "memory still in use was freed %u times", runtime.n_early);
}

static void *scratch_of(const struct kvmod_columns *jobs, uint32_t n)
{
	uint64_t bytes = calls->columns_scratch(device, jobs, n, sizeof(*jobs));
	void *scratch = NULL;

	if (bytes && kv_cuda_device_ops.alloc(device, bytes, &scratch))
		abort();
	return scratch;
}

/* --- what is right ----------------------------------------------------------------------- */

/* The arrays of jobs are overwritten after each call. */
static void run_columns(const struct columns_shape *shapes, uint32_t n)
{
	struct columns c[8];
	struct kvmod_columns jobs[8];
	double worst = 0;
	void *scratch;
	char why[200];

	for (uint32_t i = 0; i < n; i++) {
		columns_make(&c[i], device, &random_numbers, &shapes[i]);
		jobs[i] = c[i].job;
	}
	scratch = scratch_of(jobs, n);
	CHECK(calls->columns(device, NULL, jobs, n, sizeof(*jobs), scratch) == 0, "columns: %s", reason);
	memset(jobs, 0xff, sizeof(jobs));
	for (uint32_t i = 0; i < n; i++) {
		columns_fetch(&c[i], device);
		CHECK(columns_are_right(&c[i], &worst, why, sizeof(why)), "columns, job %u: %s", i, why);
		columns_free(&c[i], device);
	}
	kv_cuda_device_ops.free(device, scratch);
}

static void columns_that_are_right(void)
{
	struct columns_shape s[8];

	for (uint32_t i = 0; i < 8; i++)
		s[i] = plain;
	s[1].reduce = KVMOD_COLUMNS_MAX;
	s[2].n_spans = 3;
	memcpy(s[2].spans, (struct kvmod_span[4]){ { 0, 4 }, { 10, 30 }, { 80, 90 } }, sizeof(s[2].spans));
	s[3].n_rows = 40;
	s[3].n_seen = 3;
	s[3].n_spans = 2;
	memcpy(s[3].spans, (struct kvmod_span[4]){ { 20, 25 }, { 41, 90 } }, sizeof(s[3].spans));
	s[4].n = s[4].n_seen = s[4].n_rows = 1;
	s[5].n_seen = UINT32_MAX;
	s[5].heads_first = true;
	s[5].q_gap = 3;
	s[6].n_spans = 1;
	s[6].spans[0] = (struct kvmod_span){ 89, 90 };
	s[6].n_seen = 2;
	s[7].gap = 10;
	s[7].offset = 2;
	open_device();
	for (int early = 0; early < 2; early++) {
		runtime.early = early;
		run_columns(s, 8);
		for (uint32_t i = 0; i < 8; i++)
			run_columns(s + i, 1);
	}
	runtime.early = false;
	close_device();
}

static void norms_that_are_right(void)
{
	static const struct norms_shape shapes[] = {
		{ .n = 20, .group = 3, .dim = 32, .n_out = 7, .v_type = KVMOD_Q8_0 },
		{ .n = 1, .group = 1, .dim = 64, .n_out = 1, .v_type = KVMOD_F32, .wo_offset = 1, .wo_gap = 3 },
		{ .n = 3, .group = 2, .dim = 136, .n_out = 4, .v_type = KVMOD_F16, .offset = 2, .gap = 6 },
		{ .n = 5, .group = 2, .dim = 32, .n_out = 4, .v_type = KVMOD_Q4_0 },
	};
	enum { N = sizeof(shapes) / sizeof(*shapes) };
	struct kvmod_norms jobs[N];
	struct norms c[N];
	double worst = 0;
	char why[200];

	open_device();
	for (uint32_t i = 0; i < N; i++) {
		norms_make(&c[i], device, &random_numbers, &shapes[i]);
		jobs[i] = c[i].job;
	}
	runtime.n_reductions = 0;
	CHECK(calls->norms(device, NULL, jobs, N, sizeof(*jobs)) == 0, "norms: %s", reason);
	CHECK(runtime.n_reductions == 3, "%u launches for head dimensions 32 and 64, 136, 32",
	      runtime.n_reductions);
	memset(jobs, 0xff, sizeof(jobs));
	for (uint32_t i = 0; i < N; i++) {
		norms_fetch(&c[i], device);
		CHECK(norms_are_right(&c[i], &worst, why, sizeof(why)), "norms, job %u: %s", i, why);
		norms_free(&c[i], device);
	}
	close_device();
}

/* Jobs of a call share scratch memory by launches; a job that no row sees is none. */
static void columns_in_launches(void)
{
	enum { N = 9000 };
	struct kvmod_columns *jobs = calloc(N, sizeof(*jobs));
	float *out = calloc(N, 32 * sizeof(*out));
	struct columns_shape s = plain;
	uint32_t wrong = 0;
	struct columns c;
	void *scratch;
	uint64_t one;

	if (!jobs || !out)
		abort();
	open_device();
	s.n = 8;
	s.n_seen = 1;
	s.n_rows = 1;
	s.group = 1;
	columns_make(&c, device, &random_numbers, &s);
	for (uint32_t i = 0; i < N; i++) {
		jobs[i] = c.job;
		jobs[i].out = out + 32 * i;
		if (i % 3 == 1) {
			jobs[i].n_spans = 1;
			jobs[i].spans[0] = (struct kvmod_span){ 5, 7 };
		}
	}
	one = calls->columns_scratch(device, jobs, 4096 + 2048, sizeof(*jobs));
	CHECK(one > 0 && one == calls->columns_scratch(device, jobs, N, sizeof(*jobs)),
	      "scratch memory grows with the number of launches");
	scratch = scratch_of(jobs, N);
	runtime.n_reductions = 0;
	CHECK(calls->columns(device, NULL, jobs, N, sizeof(*jobs), scratch) == 0, "%u jobs: %s", N, reason);
	CHECK(runtime.n_reductions == 2, "%u launches, not 2", runtime.n_reductions);
	runtime_run();
	/* a row that sees one position pays everything to it */
	for (uint32_t i = 0; i < N; i++)
		wrong += out[32 * i] != (i % 3 != 1) || out[32 * i + 5] != 0;
	CHECK(wrong == 0, "%u of %u jobs are wrong", wrong, N);
	columns_free(&c, device);
	kv_cuda_device_ops.free(device, scratch);
	close_device();
	free(jobs);
	free(out);
}

/* Tiles are smaller, and each query head has blocks of its own, where blocks are few. */
static void tables_by_size(void)
{
	static const struct {
		uint32_t n, n_rows, n_items, batches, split;
	} cases[] = {
		{ 90, 6, 2 * 2, 1, 1 }, { 40000, 6, 2 * 157, 4, 1 }, { 40000, 2, 625, 1, 1 },
		{ 300000, 6, 1172, 4, 0 },
	};

	for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct kvmod_columns c = { .size = sizeof(c), .n = cases[i].n, .n_rows = cases[i].n_rows,
			.group = 2, .head_dim = 32, .n_seen = cases[i].n, .k = { .type = KVMOD_F16 } };
		struct kv_columns_job job;

		CHECK(kv_cuda_columns_prepare(&c, 1, sizeof(c), &job) == 1 && job.n_items == cases[i].n_items &&
		      job.batches == cases[i].batches && job.split == cases[i].split,
		      "%u positions, %u rows: %u blocks, %u batches, split %u", c.n, c.n_rows, job.n_items,
		      job.batches, job.split);
	}
}

/* --- what is refused ------------------------------------------------------------------------- */

#define WRONG_COLUMNS(name, change) static void name(struct kvmod_columns *c) { change; }
WRONG_COLUMNS(small, c->size = offsetof(struct kvmod_columns, out_stride))
WRONG_COLUMNS(other_reduce, c->reduce = 2)
WRONG_COLUMNS(no_n, c->n = 0)
WRONG_COLUMNS(no_rows, c->n_rows = 0)
WRONG_COLUMNS(no_group, c->group = 0)
WRONG_COLUMNS(nothing_seen, c->n_seen = 0)
WRONG_COLUMNS(no_dim, c->head_dim = 0)
WRONG_COLUMNS(odd_dim, c->head_dim = 36)
WRONG_COLUMNS(long_dim, c->head_dim = 264)
WRONG_COLUMNS(five_spans, c->n_spans = 5)
WRONG_COLUMNS(late_span, (c->n_spans = 1, c->spans[0] = (struct kvmod_span){ 3, c->n + 1 }))
WRONG_COLUMNS(turned_span, (c->n_spans = 1, c->spans[0] = (struct kvmod_span){ 9, 8 }))
WRONG_COLUMNS(crossed_spans, (c->n_spans = 2, c->spans[0].end = 9, c->spans[1].begin = 8, c->spans[1].end = 10))
WRONG_COLUMNS(no_k, c->k.data = NULL)
WRONG_COLUMNS(k_of_no_type, c->k.type = 77)
WRONG_COLUMNS(rotated_k, c->k.rotation = 32)
WRONG_COLUMNS(short_k, c->k.stride = 62)
WRONG_COLUMNS(backward_k, c->k.stride = -64)
WRONG_COLUMNS(odd_k, c->k.stride = 65)
WRONG_COLUMNS(odd_k_data, c->k.data = (const char *)c->k.data + 1)
WRONG_COLUMNS(far_k, c->k.stride = INT64_MAX / 2)
WRONG_COLUMNS(parts_of_blocks, (c->k.type = KVMOD_Q8_0, c->head_dim = 40))
WRONG_COLUMNS(no_q, c->q.data = NULL)
WRONG_COLUMNS(half_q, c->q.type = KVMOD_F16)
WRONG_COLUMNS(rotated_q, c->q.rotation = 32)
WRONG_COLUMNS(short_q, c->q.stride = 124)
WRONG_COLUMNS(odd_q, c->q.stride += 2)
WRONG_COLUMNS(short_q_head, c->q.head_stride = 0)
WRONG_COLUMNS(no_out, c->out = NULL)
WRONG_COLUMNS(odd_out, c->out = (float *)((char *)c->out + 2))
WRONG_COLUMNS(short_out, c->out_stride = c->n - 1)
WRONG_COLUMNS(far_out, c->out_stride = INT64_MAX)
WRONG_COLUMNS(nan_scale, c->scale = NAN)
WRONG_COLUMNS(endless_cap, c->softcap = INFINITY)
WRONG_COLUMNS(negative_cap, c->softcap = -1)
WRONG_COLUMNS(too_long, (c->n = 1u << 30, c->out_stride = c->n))
WRONG_COLUMNS(many_rows, c->n_rows = 1u << 25)
WRONG_COLUMNS(many_heads, c->group = 129)

static const struct {
	const char *name;
	void (*change)(struct kvmod_columns *c);
	int32_t code;
	const char *why;		/* part of the message */
} wrong_columns[] = {
#define WRONG(name, code, why) { #name, name, code, why }
	WRONG(small, KVMOD_EINVAL, "size"),
	WRONG(other_reduce, KVMOD_EINVAL, "reduce"),
	WRONG(no_n, KVMOD_EINVAL, "n, n_rows, group, n_seen"),
	WRONG(no_rows, KVMOD_EINVAL, "n, n_rows, group, n_seen"),
	WRONG(no_group, KVMOD_EINVAL, "n, n_rows, group, n_seen"),
	WRONG(nothing_seen, KVMOD_EINVAL, "n, n_rows, group, n_seen"),
	WRONG(no_dim, KVMOD_EINVAL, "head_dim: expected a multiple of 8, up to 256"),
	WRONG(odd_dim, KVMOD_ENOTSUP, "head_dim: expected a multiple of 8, up to 256"),
	WRONG(long_dim, KVMOD_ENOTSUP, "head_dim: expected a multiple of 8, up to 256"),
	WRONG(five_spans, KVMOD_EINVAL, "spans"),
	WRONG(late_span, KVMOD_EINVAL, "spans"),
	WRONG(turned_span, KVMOD_EINVAL, "spans"),
	WRONG(crossed_spans, KVMOD_EINVAL, "spans"),
	WRONG(no_k, KVMOD_EINVAL, "no data"),
	WRONG(k_of_no_type, KVMOD_EINVAL, "type"),
	WRONG(rotated_k, KVMOD_EINVAL, "rotated"),
	WRONG(short_k, KVMOD_EINVAL, "stride"),
	WRONG(backward_k, KVMOD_EINVAL, "stride"),
	WRONG(odd_k, KVMOD_EINVAL, "whole elements"),
	WRONG(odd_k_data, KVMOD_EINVAL, "whole elements"),
	WRONG(far_k, KVMOD_EINVAL, "stride"),
	WRONG(parts_of_blocks, KVMOD_EINVAL, "blocks of 32"),
	WRONG(no_q, KVMOD_EINVAL, "q: "),
	WRONG(half_q, KVMOD_EINVAL, "q: "),
	WRONG(rotated_q, KVMOD_EINVAL, "q: "),
	WRONG(short_q, KVMOD_EINVAL, "q: "),
	WRONG(odd_q, KVMOD_EINVAL, "q: "),
	WRONG(short_q_head, KVMOD_EINVAL, "q: "),
	WRONG(no_out, KVMOD_EINVAL, "out: "),
	WRONG(odd_out, KVMOD_EINVAL, "out: "),
	WRONG(short_out, KVMOD_EINVAL, "out: "),
	WRONG(far_out, KVMOD_EINVAL, "out: "),
	WRONG(nan_scale, KVMOD_EINVAL, "scale"),
	WRONG(endless_cap, KVMOD_EINVAL, "softcap"),
	WRONG(negative_cap, KVMOD_EINVAL, "softcap"),
	WRONG(too_long, KVMOD_ENOTSUP, "too many"),
	WRONG(many_rows, KVMOD_ENOTSUP, "too many"),
	WRONG(many_heads, KVMOD_ENOTSUP, "too many"),
};

/* Refused, with the job's number and the reason, and without a call of CUDA. */
static void refuses_columns(const char *name, const struct kvmod_columns *jobs, uint32_t stride, void *scratch,
			    int32_t code, const char *why)
{
	uint64_t bytes = calls->columns_scratch(device, jobs, 2, stride);
	int32_t err;

	reason[0] = '\0';
	runtime.n_calls = 0;
	err = calls->columns(device, NULL, jobs, 2, stride, scratch);
	CHECK(err == code && strstr(reason, why) && runtime.n_calls == 0,
	      "%s: error %d, `%s`, %u calls", name, err, reason, runtime.n_calls);
	/* unless only the scratch memory is wrong */
	CHECK(bytes == 0 || scratch == NULL || (uintptr_t)scratch % 16, "%s: %llu bytes of scratch", name,
	      (unsigned long long)bytes);
}

static void columns_that_are_wrong(void)
{
	struct columns_shape s = plain;
	struct kvmod_columns jobs[2];
	struct columns c[2];
	float before;
	void *scratch;

	open_device();
	for (uint32_t i = 0; i < 2; i++)
		columns_make(&c[i], device, &random_numbers, &s);
	jobs[0] = c[0].job;
	jobs[1] = c[1].job;
	scratch = scratch_of(jobs, 2);
	before = c[0].before[0];
	for (uint32_t i = 0; i < sizeof(wrong_columns) / sizeof(*wrong_columns); i++) {
		const char *name = wrong_columns[i].name;

		jobs[1] = c[1].job;
		wrong_columns[i].change(&jobs[1]);
		refuses_columns(name, jobs, sizeof(*jobs), scratch, wrong_columns[i].code,
				wrong_columns[i].why);
		CHECK(strstr(reason, "columns of attention, job 1: "), "%s: `%s`", name, reason);
	}
	jobs[1] = c[1].job;
	jobs[1].group = 1;
	refuses_columns("another group", jobs, sizeof(*jobs), scratch, KVMOD_EINVAL, "expected job 0's");
	jobs[1] = c[1].job;
	jobs[1].scale = 1;
	refuses_columns("another scale", jobs, sizeof(*jobs), scratch, KVMOD_EINVAL, "expected job 0's");
	jobs[1] = c[1].job;
	jobs[1].out = jobs[0].out;
	refuses_columns("one out for both", jobs, sizeof(*jobs), scratch, KVMOD_EINVAL, "an earlier job's");
	jobs[1] = c[1].job;
	refuses_columns("a short stride", jobs, sizeof(*jobs) - 8, scratch, KVMOD_EINVAL, "stride");
	refuses_columns("no jobs", NULL, sizeof(*jobs), scratch, KVMOD_EINVAL, "no jobs");
	refuses_columns("no scratch", jobs, sizeof(*jobs), NULL, KVMOD_EINVAL, "scratch");
	refuses_columns("odd scratch", jobs, sizeof(*jobs), (char *)scratch + 8, KVMOD_EINVAL, "scratch");
	runtime_run();
	CHECK(memcmp(c[0].memory[2], &before, sizeof(before)) == 0, "a refused call changed `out`");
	runtime.n_calls = 0;
	CHECK(calls->columns(device, NULL, NULL, 0, 0, NULL) == 0 && runtime.n_calls == 0, "calls for no jobs");
	for (uint32_t i = 0; i < 2; i++)
		columns_free(&c[i], device);
	kv_cuda_device_ops.free(device, scratch);
	close_device();
}

#define WRONG_NORMS(name, change) static void name(struct kvmod_norms *c) { change; }
WRONG_NORMS(small_norms, c->size = offsetof(struct kvmod_norms, out_stride))
WRONG_NORMS(no_values, c->n = 0)
WRONG_NORMS(no_heads, c->group = 0)
WRONG_NORMS(no_rows_of_wo, c->n_out = 0)
WRONG_NORMS(v_of_no_type, c->v.type = 0)
WRONG_NORMS(short_v, c->v.stride = 30)
WRONG_NORMS(odd_head, c->head_dim = 4)
WRONG_NORMS(float_wo, c->wo.type = KVMOD_F32)
WRONG_NORMS(no_wo, c->wo.data = NULL)
WRONG_NORMS(short_wo, c->wo.stride = 2)
WRONG_NORMS(odd_wo, c->wo.data = (const char *)c->wo.data + 1)
WRONG_NORMS(no_norms, c->out = NULL)
WRONG_NORMS(short_norms, c->out_stride = 1)
WRONG_NORMS(many_values, (c->n = 1u << 30, c->out_stride = c->n))

static void norms_that_are_wrong(void)
{
	static const struct {
		const char *name;
		void (*change)(struct kvmod_norms *c);
		int32_t code;
		const char *why;
	} cases[] = {
		WRONG(small_norms, KVMOD_EINVAL, "size"),
		WRONG(no_values, KVMOD_EINVAL, "n, group, n_out"),
		WRONG(no_heads, KVMOD_EINVAL, "n, group, n_out"),
		WRONG(no_rows_of_wo, KVMOD_EINVAL, "n, group, n_out"),
		WRONG(v_of_no_type, KVMOD_EINVAL, "type"),
		WRONG(short_v, KVMOD_EINVAL, "stride"),
		WRONG(odd_head, KVMOD_ENOTSUP, "head_dim"),
		WRONG(float_wo, KVMOD_EINVAL, "wo: "),
		WRONG(no_wo, KVMOD_EINVAL, "wo: "),
		WRONG(short_wo, KVMOD_EINVAL, "wo: "),
		WRONG(odd_wo, KVMOD_EINVAL, "wo: "),
		WRONG(no_norms, KVMOD_EINVAL, "out: "),
		WRONG(short_norms, KVMOD_EINVAL, "out: "),
		WRONG(many_values, KVMOD_ENOTSUP, "too many"),
	};
	struct norms_shape s = { .n = 4, .group = 2, .dim = 32, .n_out = 3, .v_type = KVMOD_Q8_0 };
	struct kvmod_norms jobs[2];
	struct norms c;

	open_device();
	norms_make(&c, device, &random_numbers, &s);
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int32_t err;

		jobs[0] = jobs[1] = c.job;
		cases[i].change(&jobs[1]);
		reason[0] = '\0';
		runtime.n_calls = 0;
		err = calls->norms(device, NULL, jobs, 2, sizeof(*jobs));
		CHECK(err == cases[i].code && strstr(reason, "norms of Wo v, job 1: ") &&
		      strstr(reason, cases[i].why) && runtime.n_calls == 0,
		      "%s: error %d, `%s`, %u calls", cases[i].name, err, reason, runtime.n_calls);
	}
	CHECK(calls->norms(device, NULL, jobs, 1, sizeof(*jobs) - 8) == KVMOD_EINVAL &&
	      strstr(reason, "stride"), "a short stride: `%s`", reason);
	CHECK(calls->norms(device, NULL, NULL, 1, sizeof(*jobs)) == KVMOD_EINVAL, "no jobs");
	CHECK(calls->norms(device, NULL, NULL, 0, 0) == 0, "nothing to do");
	norms_free(&c, device);
	close_device();
}

/* --- calls that fail ------------------------------------------------------------------------- */

/* Whichever call fails: there is a reason, no memory is leaked, and the next call is right. */
static void calls_that_fail(void)
{
	struct norms_shape n = { .n = 4, .group = 2, .dim = 32, .n_out = 3, .v_type = KVMOD_F16 };
	bool reached = true;

	for (unsigned call = 1; reached; call++) {
		struct columns_shape s = plain;
		double worst = 0;
		struct columns c;
		struct norms v;
		void *scratch;
		char why[200];
		int32_t err;

		open_device();
		columns_make(&c, device, &random_numbers, &s);
		norms_make(&v, device, &random_numbers, &n);
		scratch = scratch_of(&c.job, 1);
		runtime.n_calls = 0;
		runtime.fail_call = call;
		reason[0] = '\0';
		err = calls->columns(device, NULL, &c.job, 1, sizeof(c.job), scratch);
		if (!err)
			err = calls->norms(device, NULL, &v.job, 1, sizeof(v.job));
		reached = runtime.n_calls >= call;
		runtime.fail_call = 0;
		CHECK((err != 0) == reached && (!err || *reason), "call %u fails: %d, `%s`", call, err, reason);
		columns_reset(&c, device);
		CHECK(calls->columns(device, NULL, &c.job, 1, sizeof(c.job), scratch) == 0 &&
		      calls->norms(device, NULL, &v.job, 1, sizeof(v.job)) == 0,
		      "after call %u failed: %s", call, reason);
		columns_fetch(&c, device);
		norms_fetch(&v, device);
		CHECK(columns_are_right(&c, &worst, why, sizeof(why)), "after call %u failed: %s", call, why);
		CHECK(norms_are_right(&v, &worst, why, sizeof(why)), "after call %u failed: %s", call, why);
		columns_free(&c, device);
		norms_free(&v, device);
		kv_cuda_device_ops.free(device, scratch);
		close_device();
	}
}

int main(void)
{
	columns_that_are_right();
	norms_that_are_right();
	columns_in_launches();
	tables_by_size();
	columns_that_are_wrong();
	norms_that_are_wrong();
	calls_that_fail();
	printf("%u checks, %u failed\n", checks, failures);
	return failures > 0;
}
