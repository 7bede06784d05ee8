/* SPDX-License-Identifier: Apache-2.0 */
/* Opens one model on the CPU alone and with layers on a GPU, and compares the two. */
#include "tests/sides.h"
#include "core/testkit/random.h"
#include "kernels/cpu/wo_norms.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cpu/columns.h"

const unsigned sides_models[N_MODELS] = { 3, 8, 9, 10, 11 };
const struct sides_setup sides_setups[SIDES_SETUPS] = {
	{ 0, GGML_TYPE_F32, 16, 0 }, { 1, GGML_TYPE_F16, 512, 0 }, { 2, GGML_TYPE_Q8_0, 7, 0 },
	{ 3, GGML_TYPE_F32, 16, -1 }, { 8, GGML_TYPE_F16, 7, 1 }, { 9, GGML_TYPE_Q8_0, 512, 2 },
};

/* --- the device, whose gathers can be made to fail ---------------------------------------- */

struct kvmod_device_ops sides_device_ops;
static int32_t (*good_gather)(void *self, void *stream, const struct kvmod_gather *gathers,
			      uint32_t n_gathers, uint32_t gather_stride);
bool sides_gathers_fail;
unsigned sides_good_gathers;
void *sides_device_self;

static int32_t gather(void *self, void *stream, const struct kvmod_gather *gathers, uint32_t n_gathers,
		      uint32_t gather_stride)
{
	if (sides_gathers_fail && !sides_good_gathers)
		return KVMOD_EDEVICE;
	sides_good_gathers -= sides_good_gathers > 0;
	return good_gather(self, stream, gathers, n_gathers, gather_stride);
}

#ifdef FAKE_GPU
/* --- its attention: the host's ------------------------------------------------------------- */

bool sides_no_attention;
int32_t sides_attention_fails;

static uint64_t columns_scratch(void *self, const struct kvmod_columns *jobs, uint32_t n_jobs,
				uint32_t stride)
{
	(void)self;
	return kv_columns_scratch(jobs, n_jobs, stride, 1);
}

static int32_t columns(void *self, void *stream, const struct kvmod_columns *jobs, uint32_t n_jobs,
		       uint32_t stride, void *scratch)
{
	(void)self;
	ck_assert_ptr_null(stream);
	return sides_attention_fails ? sides_attention_fails :
				       kv_columns(NULL, jobs, n_jobs, stride, 1, scratch);
}

static int32_t norms(void *self, void *stream, const struct kvmod_norms *jobs, uint32_t n_jobs,
		     uint32_t stride)
{
	void *scratch = aligned_alloc(64, kv_wo_norms_scratch(jobs, n_jobs, stride, 1));
	int32_t code = sides_attention_fails;

	(void)self;
	ck_assert_ptr_null(stream);
	if (!code)
		code = kv_wo_norms(NULL, jobs, n_jobs, stride, 1, scratch);
	free(scratch);
	return code;
}

static const struct kvmod_device_attention attention = {
	.size = sizeof(attention), .columns_scratch = columns_scratch, .columns = columns, .norms = norms,
};

static const void *get_extension(void *self, const char *name)
{
	(void)self;
	return !sides_no_attention && !strcmp(name, KVMOD_DEVICE_ATTENTION) ? &attention : NULL;
}
#endif

static int32_t open_device(void *ctx, const char *name, const struct kvmod_device_ops **ops, void **self)
{
	static struct kvmod_device *device;
	static struct kvmod_ctx *kvmod;
	const char *path = getenv("MODULE_PATH");
	char override[512];
	const char *overrides[] = { override };
	int err = KVMOD_OK;

	(void)ctx;
	snprintf(override, sizeof(override), "kvmod.module_path=%s", path ? path : "");
	if (!kvmod)
		err = kvmod_new(&kvmod);
	if (err == KVMOD_OK && !device)
		err = kvmod_configure(kvmod, "/dev/null", overrides, path ? 1 : 0);
	if (err == KVMOD_OK && !device)
		err = kvmod_device_open(kvmod, name, &device);
	if (err != KVMOD_OK)
		return err;
	sides_device_ops = *kvmod_device_ops(device);
	good_gather = sides_device_ops.gather;
	sides_device_ops.gather = gather;
#ifdef FAKE_GPU
	sides_device_ops.size = sizeof(sides_device_ops);
	sides_device_ops.get_extension = get_extension;
#endif
	*ops = &sides_device_ops;
	*self = sides_device_self = kvmod_device_instance(device);
	return KVMOD_OK;
}

#ifdef FAKE_GPU
const struct gg_gpu *sides_find_gpu(void)
{
	static struct gg_gpu gpu;

	gpu.device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	ck_assert_msg(!open_device(NULL, "cpu", &gpu.ops, &gpu.self), "%s", kvmod_error());
	return &gpu;
}
#else
const struct gg_gpu *sides_find_gpu(void)
{
	test_host_device(open_device);
	return NULL;
}
#endif

/* --- two engines, side by side ------------------------------------------------------------- */

static struct gg_engine *open_on_gpu(const char *model, enum ggml_type type, int64_t layers)
{
	struct test_engine_params params = {
		.model = model, .type = type, .batch = 16, .gpu_layers = layers, .context_override = 1,
		.gpu = sides_find_gpu(),
	};
	struct gg_engine *engine = test_engine_open(&params);

	ck_assert_msg(engine, "%s / %s", test_engine_error(), kvmod_error());
	return engine;
}

void sides_set_up_as(struct setup *s, unsigned model, int64_t layers, enum tiny_fault variant,
		     enum ggml_type type)
{
	struct test_engine_params params = { .type = type, .batch = 16 };

	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(&tiny_models[sides_models[model]], variant);
	params.model = s->model;
	s->cpu.engine = test_engine_open(&params);
	ck_assert_msg(s->cpu.engine, "%s", test_engine_error());
	s->gpu.engine = open_on_gpu(s->model, type, layers);
	s->cpu.seq = test_seq(s->cpu.engine);
	s->gpu.seq = test_seq(s->gpu.engine);
	tiny_tokens(s->tokens, N, 3);
}

void sides_set_up(struct setup *s, unsigned model, int64_t layers)
{
	sides_set_up_as(s, model, layers, TINY_GOOD, GGML_TYPE_F32);
}

void sides_tear_down(struct setup *s)
{
	struct side *sides[] = { &s->cpu, &s->gpu };

	for (int i = 0; i < 2; i++) {
		gg_seq_close(sides[i]->engine, sides[i]->seq);
		test_engine_close(sides[i]->engine);
	}
	unlink(s->model);
	free(s->model);
}

void sides_run_one(struct setup *s, struct side *side, uint32_t from, uint32_t to, bool single)
{
	uint32_t n = single ? 1 : to - from;

	for (uint32_t i = from; i < to; i += n)
		test_run(side->seq, s->tokens + i, n, side->logits + i * TINY_VOCAB, n);
}

void sides_run(struct setup *s, uint32_t from, uint32_t to, bool single)
{
	sides_run_one(s, &s->cpu, from, to, single);
	sides_run_one(s, &s->gpu, from, to, single);
}

double sides_distance(const float *a, const float *b, size_t n)
{
	double sum = 0, whole = 0;

	for (size_t i = 0; i < n; i++) {
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
		whole += (double)b[i] * (double)b[i];
	}
	return sqrt(sum / whole);
}

void sides_check_near(const struct setup *s, uint32_t from, uint32_t to, double near)
{
	double d = sides_distance(s->gpu.logits + from * TINY_VOCAB, s->cpu.logits + from * TINY_VOCAB,
			    (to - from) * TINY_VOCAB);

	ck_assert_msg(d <= near, "tokens %u to %u differ by %g, expected %g at most", from, to, d, near);
}

void sides_check(const struct setup *s, uint32_t from, uint32_t to)
{
	sides_check_near(s, from, to, NEAR);
}

/* The first three and the newest 9 + 4 * layer, the last layer whole. */
static void cut_spans(const struct kvmod_segment *segment, struct kvmod_keep *keep)
{
	uint32_t n = kvmod_head_at(segment, 0)->n, newest = 9 + 4 * segment->layer;

	if (segment->layer + 1 == TINY_LAYERS)
		return;
	keep->kind = KVMOD_KEEP_SPANS;
	keep->n_spans = 2;
	keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = 3 };
	keep->spans[1] = (struct kvmod_span){ .begin = n - newest, .end = n };
}

/* Each head others, the newest always. */
static void cut_heads(const struct kvmod_segment *segment, struct kvmod_keep *keep)
{
	struct kv_random random = { 7 + segment->layer };

	keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		uint32_t n = kvmod_head_at(segment, g)->n, kept = 0;

		for (uint32_t i = 0; i < n; i++) {
			if (i + 1 == n || kv_random_range(&random, 0, 99) < 30 + 20 * g)
				keep->indices[g * keep->index_stride + kept++] = i;
		}
		keep->counts[g] = kept;
	}
}

struct kvmod_plan *sides_plan(struct kvmod_seq *seq, uint32_t kind, struct kvmod_request *request)
{
	struct kvmod_plan *plan = test_plan(seq, request);

	for (uint32_t i = 0; i < request->n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (kind == KVMOD_KEEP_SPANS)
			cut_spans(kvmod_segment_at(request, i), keep);
		else
			cut_heads(kvmod_segment_at(request, i), keep);
		ck_assert_msg(!kvmod_plan_check(request, plan, i, 0), "%s", kvmod_error());
	}
	return plan;
}

void sides_cut(struct setup *s, uint32_t kind)
{
	struct kvmod_request request;

	test_apply(s->cpu.seq, sides_plan(s->cpu.seq, kind, &request));
	test_apply(s->gpu.seq, sides_plan(s->gpu.seq, kind, &request));
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		ck_assert_mem_eq(s->gpu.seq->caches[i].n, s->cpu.seq->caches[i].n,
				 s->cpu.engine->net.n_kv_heads * sizeof(uint32_t));
}

#ifndef FAKE_GPU
static void silent(enum ggml_log_level level, const char *text, void *arg)
{
	(void)level, (void)text, (void)arg;
}

/* CUDA must not be used before a fork: a child says whether there is a GPU. */
bool sides_skip(void)
{
	int status = 0;
	pid_t child = fork();

	if (!child) {
		const struct kvmod_device_ops *ops;
		const char *why = NULL;
		void *self;

		ggml_log_set(silent, NULL);
		if (!ggml_backend_reg_by_name("CUDA"))
			why = "this ggml was built without CUDA";
		else if (!ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU))
			why = "ggml's CUDA backend finds no GPU";
		else if (open_device(NULL, "cuda", &ops, &self))
			why = kvmod_error();
		if (why)
			printf("SKIP: %s\n", why);
		fflush(stdout);
		_exit(why != NULL);
	}
	return child < 0 || waitpid(child, &status, 0) != child || status;
}
#endif
