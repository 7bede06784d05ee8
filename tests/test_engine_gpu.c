/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models with layers on a GPU, held against the same models on the CPU: whole and
 * cut, in part and in all. Built twice: with a CUDA GPU, and with FAKE_GPU, where
 * a second CPU backend of ggml and kvmod's device "cpu" play one.
 */
#include "tests/engine_host.h"
#include "tests/random.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N 96
#define N_MODELS 4

#ifdef FAKE_GPU
#define DEVICE "cpu"
#define NEAR 1e-5
#else
#define DEVICE "cuda"
/* CUDA attends to F16 copies of an F32 cache, and multiplies large matrices in TF32. */
#define NEAR 2e-2
#endif

static const unsigned models[N_MODELS] = { 3, 8, 9, 10 };

/* --- the device, whose gathers can be made to fail ---------------------------------------- */

static struct kvmod_device_ops device_ops;
static int32_t (*good_gather)(void *self, void *stream, const struct kvmod_gather *gathers,
			      uint32_t n_gathers, uint32_t gather_stride);
static bool broken;
static void *device_self;

static int32_t gather(void *self, void *stream, const struct kvmod_gather *gathers, uint32_t n_gathers,
		      uint32_t gather_stride)
{
	return broken ? KVMOD_EDEVICE : good_gather(self, stream, gathers, n_gathers, gather_stride);
}

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
	device_ops = *kvmod_device_ops(device);
	good_gather = device_ops.gather;
	device_ops.gather = gather;
	*ops = &device_ops;
	*self = device_self = kvmod_device_instance(device);
	return KVMOD_OK;
}

#ifdef FAKE_GPU
static const struct gg_gpu *find_gpu(void)
{
	static struct gg_gpu gpu;

	gpu.device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	ck_assert_msg(!open_device(NULL, "cpu", &gpu.ops, &gpu.self), "%s", kvmod_error());
	return &gpu;
}
#else
static const struct gg_gpu *find_gpu(void)
{
	test_host_device(open_device);
	return NULL;
}
#endif

/* --- two engines, side by side ------------------------------------------------------------- */

struct side {
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	float logits[N * TINY_VOCAB];
};

struct setup {
	char *model;
	struct side cpu, gpu;
	int32_t tokens[N];
};

static struct gg_engine *open_on_gpu(const char *model, int64_t layers)
{
	struct test_engine_params params = {
		.model = model, .batch = 16, .gpu_layers = layers, .context_override = 1,
		.gpu = find_gpu(),
	};
	struct gg_engine *engine = test_engine_open(&params);

	ck_assert_msg(engine, "%s / %s", test_engine_error(), kvmod_error());
	return engine;
}

static void set_up_with(struct setup *s, unsigned model, int64_t layers, enum tiny_fault variant)
{
	struct test_engine_params params = { .batch = 16 };

	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(&tiny_models[models[model]], variant);
	params.model = s->model;
	s->cpu.engine = test_engine_open(&params);
	ck_assert_msg(s->cpu.engine, "%s", test_engine_error());
	s->gpu.engine = open_on_gpu(s->model, layers);
	s->cpu.seq = test_seq(s->cpu.engine);
	s->gpu.seq = test_seq(s->gpu.engine);
	tiny_tokens(s->tokens, N, 3);
}

static void set_up(struct setup *s, unsigned model, int64_t layers)
{
	set_up_with(s, model, layers, TINY_GOOD);
}

static void tear_down(struct setup *s)
{
	struct side *sides[] = { &s->cpu, &s->gpu };

	for (int i = 0; i < 2; i++) {
		gg_seq_close(sides[i]->engine, sides[i]->seq);
		test_engine_close(sides[i]->engine);
	}
	unlink(s->model);
	free(s->model);
}

static void run_side(struct setup *s, struct side *side, uint32_t from, uint32_t to, bool single)
{
	uint32_t n = single ? 1 : to - from;

	for (uint32_t i = from; i < to; i += n)
		test_run(side->seq, s->tokens + i, n, side->logits + i * TINY_VOCAB, n);
}

/* Runs tokens[from..to) on both, in one call or one by one. */
static void run(struct setup *s, uint32_t from, uint32_t to, bool single)
{
	run_side(s, &s->cpu, from, to, single);
	run_side(s, &s->gpu, from, to, single);
}

/* Root of the mean square of a - b, as a share of b's. */
static double distance(const float *a, const float *b, size_t n)
{
	double sum = 0, whole = 0;

	for (size_t i = 0; i < n; i++) {
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
		whole += (double)b[i] * (double)b[i];
	}
	return sqrt(sum / whole);
}

static void check(const struct setup *s, uint32_t from, uint32_t to)
{
	double d = distance(s->gpu.logits + from * TINY_VOCAB, s->cpu.logits + from * TINY_VOCAB,
			    (to - from) * TINY_VOCAB);

	ck_assert_msg(d <= NEAR, "tokens %u to %u differ by %g, expected %g at most", from, to, d, NEAR);
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

static struct kvmod_plan *plan_for(struct kvmod_seq *seq, uint32_t kind, struct kvmod_request *request)
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

static void cut(struct setup *s, uint32_t kind)
{
	struct kvmod_request request;

	test_apply(s->cpu.seq, plan_for(s->cpu.seq, kind, &request));
	test_apply(s->gpu.seq, plan_for(s->gpu.seq, kind, &request));
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		ck_assert_mem_eq(s->gpu.seq->caches[i].n, s->cpu.seq->caches[i].n,
				 s->cpu.engine->net.n_kv_heads * sizeof(uint32_t));
}

/* --- tests: each loops over models, and over how many layers are on the GPU ----------------------- */

#define N_LAYERS 4
static const int64_t layers[N_LAYERS] = { 1, 2, TINY_LAYERS, -1 };
#define MODEL ((unsigned)_i / N_LAYERS)
#define LAYERS (layers[_i % N_LAYERS])

START_TEST(whole)
{
	static struct setup s;
	const struct kvmod_model *m;

	set_up(&s, MODEL, LAYERS);
	m = gg_engine_ops.model(s.gpu.engine);
	ck_assert_str_eq(m->device, DEVICE);
	ck_assert_uint_eq(m->n_device_layers, LAYERS < 0 ? TINY_LAYERS : LAYERS);
	run(&s, 0, 60, false);
	run(&s, 60, 80, true);
	run(&s, 80, N, false);
	check(&s, 0, N);
	tear_down(&s);
}
END_TEST

/* How many products the last graph has with a weight. */
static unsigned products_with(const struct gg_engine *engine, const struct ggml_tensor *weight)
{
	struct ggml_cgraph *nodes = engine->graph.nodes;
	unsigned n = 0;

	for (int i = 0; i < ggml_graph_n_nodes(nodes); i++) {
		const struct ggml_tensor *node = ggml_graph_node(nodes, i);

		n += node->op == GGML_OP_MUL_MAT && node->src[0] == weight;
	}
	return n;
}

/* Q, K and V lie side by side there, and what one token takes of them is one node. */
START_TEST(joined)
{
	static struct setup s;
	const struct gg_layer *all, *last;

	set_up(&s, MODEL, LAYERS);
	all = s.gpu.engine->net.layers;
	last = &all[TINY_LAYERS - 1];
	ck_assert_ptr_nonnull(last->qkv);
	ck_assert_ptr_eq(last->qkv->data, last->w[GG_Q]->data);
	ck_assert_int_eq(last->qkv->ne[1],
			 last->w[GG_Q]->ne[1] + last->w[GG_K]->ne[1] + last->w[GG_V]->ne[1]);
	ck_assert_int_eq(!last->qkv_bias, !last->w[GG_Q_BIAS]);
	ck_assert_int_eq(!all[0].qkv, LAYERS >= 0 && LAYERS < TINY_LAYERS);
	ck_assert_ptr_null(s.cpu.engine->net.layers[TINY_LAYERS - 1].qkv);
	run(&s, 0, 20, false);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->qkv), 0);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->w[GG_K]), 1);
	run(&s, 20, 21, true);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->qkv), 1);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->w[GG_K]), 0);
	tear_down(&s);
}
END_TEST

/* Of different types they lie apart, and are multiplied one by one. */
START_TEST(apart)
{
	static struct setup s;
	const struct gg_layer *last;

	set_up_with(&s, MODEL, LAYERS, TINY_F16_VALUES);
	last = &s.gpu.engine->net.layers[TINY_LAYERS - 1];
	ck_assert_ptr_null(last->qkv);
	run(&s, 0, 50, false);
	run(&s, 50, 60, true);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->w[GG_V]), 1);
	check(&s, 0, 60);
	tear_down(&s);
}
END_TEST

/* What is no matrix of that shape is refused in words, as on the CPU. */
START_TEST(wrong_shapes)
{
	char *model = tiny_model_write(&tiny_models[models[1]], _i ? TINY_DEEP_WEIGHT : TINY_WRONG_SHAPE);
	struct test_engine_params params = {
		.model = model, .batch = 16, .gpu_layers = -1, .context_override = 1, .gpu = find_gpu(),
	};

	ck_assert_ptr_null(test_engine_open(&params));
	ck_assert_msg(strstr(test_engine_error(), _i ? ": blk.1.attn_q.weight is 64 x 512 x 2 x 1, expected" :
						       ": blk.1.attn_k.weight is 64 x 256 x 1 x 1, expected"),
		      "%s", test_engine_error());
	unlink(model);
	free(model);
}
END_TEST

START_TEST(cut_and_decode)
{
	static struct setup s;

	for (uint32_t kind = KVMOD_KEEP_SPANS; kind <= KVMOD_KEEP_HEADS; kind++) {
		set_up(&s, MODEL, LAYERS);
		run(&s, 0, 50, false);
		cut(&s, kind);
		run(&s, 50, 70, true);
		run(&s, 70, 80, false);
		cut(&s, kind);
		run(&s, 80, N, true);
		check(&s, 0, N);
		tear_down(&s);
	}
}
END_TEST

START_TEST(fork_and_truncate)
{
	static struct setup s;
	struct kvmod_seq *first;

	set_up(&s, MODEL, LAYERS);
	run(&s, 0, 50, false);
	first = test_fork(s.gpu.seq);
	cut(&s, KVMOD_KEEP_HEADS);
	run(&s, 50, 60, true);
	ck_assert(!gg_seq_truncate(s.gpu.engine, s.gpu.seq, 53));
	ck_assert(!gg_seq_truncate(s.cpu.engine, s.cpu.seq, 53));
	run(&s, 53, N, true);
	check(&s, 0, N);
	/* The fork knows nothing of the cut. */
	gg_seq_close(s.gpu.engine, s.gpu.seq);
	s.gpu.seq = first;
	ck_assert(!gg_seq_truncate(s.cpu.engine, s.cpu.seq, 0));
	run_side(&s, &s.cpu, 0, 60, false);
	run_side(&s, &s.gpu, 50, 60, true);
	check(&s, 50, 60);
	tear_down(&s);
}
END_TEST

/* Enough decoded tokens to outgrow caches and graphs. */
START_TEST(long_decode)
{
	static struct setup s;
	static float cpu[TINY_VOCAB], gpu[TINY_VOCAB];

	set_up(&s, MODEL, LAYERS);
	run(&s, 0, 60, false);
	cut(&s, KVMOD_KEEP_SPANS);
	for (uint32_t i = 0; i < 700; i++) {
		test_run(s.cpu.seq, s.tokens + i % N, 1, cpu, 1);
		test_run(s.gpu.seq, s.tokens + i % N, 1, gpu, 1);
		ck_assert_msg(distance(gpu, cpu, TINY_VOCAB) <= 2 * NEAR, "token %u differs by %g", i,
			      distance(gpu, cpu, TINY_VOCAB));
	}
	tear_down(&s);
}
END_TEST

static void replay(struct kvmod_seq *seq, double *loss)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = plan_for(seq, KVMOD_KEEP_HEADS, &request);

	ck_assert_msg(!request.replay(&request, plan, 12, loss), "%s", test_engine_error());
	kvmod_plan_free(plan);
}

START_TEST(replayed)
{
	static struct setup s;
	double cpu, gpu;

	set_up(&s, MODEL, LAYERS);
	run(&s, 0, 60, false);
	replay(s.cpu.seq, &cpu);
	replay(s.gpu.seq, &gpu);
	ck_assert_double_gt(cpu, 0.01);
	ck_assert_double_eq_tol(gpu, cpu, 4 * NEAR * cpu);
	run(&s, 60, N, true);
	check(&s, 0, N);
	tear_down(&s);
}
END_TEST

/* Rows of a view that is on the device or on the host, as floats. */
static float *fetch(const struct kvmod_segment *segment, const void *data, size_t n)
{
	float *rows = malloc(n * sizeof(*rows));

	ck_assert_ptr_nonnull(rows);
	if (strcmp(segment->device, DEVICE)) {
		memcpy(rows, data, n * sizeof(*rows));
		return rows;
	}
	ck_assert_int_eq(device_ops.to_host(device_self, NULL, rows, data, n * sizeof(*rows)), 0);
	ck_assert_int_eq(device_ops.synchronize(device_self, NULL), 0);
	return rows;
}

static void compare(const struct kvmod_segment *a, const void *x, const struct kvmod_segment *b,
		    const void *y, size_t n)
{
	float *there = fetch(a, x, n), *here = fetch(b, y, n);
	double d = distance(there, here, n);

	ck_assert_msg(d <= NEAR, "layer %u differs by %g", a->layer, d);
	free(there);
	free(here);
}

static void compare_segments(const struct kvmod_segment *a, const struct kvmod_segment *b)
{
	ck_assert_uint_eq(a->n_rows, b->n_rows);
	compare(a, a->q.data, b, b->q.data, (size_t)b->n_rows * b->n_q_heads * b->head_dim);
	for (uint32_t g = 0; g < b->n_kv_heads; g++) {
		const struct kvmod_head *x = kvmod_head_at(a, g), *y = kvmod_head_at(b, g);

		ck_assert_uint_eq(x->n, y->n);
		compare(a, x->k.data, b, y->k.data, (size_t)y->n * b->head_dim);
		compare(a, x->v.data, b, y->v.data, (size_t)y->n * b->head_dim);
	}
}

/* What a policy is given is what it is given on the CPU, each layer where it is. */
static void compare_requests(struct setup *s, uint32_t n_there)
{
	struct kvmod_request there = { .size = sizeof(there) }, here = { .size = sizeof(here) };

	ck_assert_int_eq(gg_request(s->gpu.engine, s->gpu.seq, &there), 0);
	ck_assert_int_eq(gg_request(s->cpu.engine, s->cpu.seq, &here), 0);
	ck_assert_str_eq(there.device, DEVICE);
	ck_assert_str_eq(here.device, "cpu");
	for (uint32_t i = 0; i < there.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&there, i);

		ck_assert_str_eq(segment->device, i + n_there >= TINY_LAYERS ? DEVICE : "cpu");
		compare_segments(segment, kvmod_segment_at(&here, i));
	}
}

START_TEST(requested)
{
	static const struct kvmod_needs needs = {
		.size = sizeof(needs), .what = KVMOD_NEED_K | KVMOD_NEED_V,
		.rows = { .value = 20, .is_count = 1 }, .decode_every = 1,
	};
	static struct setup s;
	struct kvmod_seq *copy;

	set_up(&s, MODEL, LAYERS);
	ck_assert_int_eq(gg_prompt_begin(s.cpu.engine, s.cpu.seq, 50, &needs), 0);
	ck_assert_int_eq(gg_prompt_begin(s.gpu.engine, s.gpu.seq, 50, &needs), 0);
	run(&s, 0, 50, false);
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	/* Past the slack, so that older rows have moved on. */
	for (uint32_t i = 0; i < 70; i++) {
		test_run(s.cpu.seq, s.tokens + i, 1, NULL, 0);
		test_run(s.gpu.seq, s.tokens + i, 1, NULL, 0);
	}
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	copy = test_fork(s.gpu.seq);
	gg_seq_close(s.gpu.engine, s.gpu.seq);
	s.gpu.seq = copy;
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	tear_down(&s);
}
END_TEST

/* Sequences of unequal length, one of them cut, decode together as they do alone. */
START_TEST(together)
{
	static struct setup s;
	static float logits[3][TINY_VOCAB];
	struct kvmod_batch_item items[3];
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 3, .item_stride = sizeof(items[0]), .items = items,
	};

	set_up(&s, MODEL, LAYERS);
	run(&s, 0, 40, false);
	for (uint32_t i = 0; i < 3; i++) {
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(items[0]), .seq = test_fork(s.gpu.seq), .n_tokens = 1,
			.tokens = s.tokens + 40 + 10 * i, .logits = logits[i], .n_logits = 1,
		};
		run(&s, 40 + 10 * i, 50 + 10 * i, true);
		if (!i)
			cut(&s, KVMOD_KEEP_HEADS);
	}
	for (uint32_t t = 0; t < 4; t++) {
		ck_assert_msg(!gg_step(s.gpu.engine, &batch), "%s", test_engine_error());
		for (uint32_t i = 0; i < 3; i++) {
			const float *alone = s.cpu.logits + (40 + 10 * i + t) * TINY_VOCAB;

			ck_assert_double_le(distance(logits[i], alone, TINY_VOCAB), NEAR);
			items[i].tokens++;
		}
	}
	for (uint32_t i = 0; i < 3; i++)
		gg_seq_close(s.gpu.engine, items[i].seq);
	tear_down(&s);
}
END_TEST

/* A gather that fails costs the cut alone. */
START_TEST(gather_fails)
{
	static struct setup s;
	struct kvmod_request request;
	uint32_t first;

	set_up(&s, MODEL, LAYERS);
	run(&s, 0, 50, false);
	broken = true;
	test_apply(s.gpu.seq, plan_for(s.gpu.seq, KVMOD_KEEP_HEADS, &request));
	ck_assert_int_eq(gg_seq_fork(s.gpu.engine, s.gpu.seq, &(struct kvmod_seq *){ NULL }), KVMOD_EDEVICE);
	broken = false;
	first = TINY_LAYERS - s.gpu.engine->gpu.n_layers;
	for (uint32_t i = first; i < TINY_LAYERS; i++)
		ck_assert_uint_eq(s.gpu.seq->caches[i].n[0], 50);
	run(&s, 50, 51, true);
	if (!first)
		check(&s, 0, 51);
	test_apply(s.gpu.seq, plan_for(s.gpu.seq, KVMOD_KEEP_HEADS, &request));
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		ck_assert_uint_lt(s.gpu.seq->caches[i].n[0], 50);
	tear_down(&s);
}
END_TEST

#ifndef FAKE_GPU
static uint64_t available(void)
{
	uint64_t bytes, total;

	ck_assert_int_eq(device_ops.memory(device_self, &bytes, &total), 0);
	return bytes;
}

/* What a plan cuts is free for others at once. */
START_TEST(memory_goes_back)
{
	enum { LONG = 30000 };
	static struct setup s;
	int32_t *tokens = calloc(LONG, sizeof(*tokens));
	struct kvmod_bytes before = { .size = sizeof(before) }, after = { .size = sizeof(after) };
	struct kvmod_request request;
	uint64_t least;

	set_up(&s, 1, -1);
	tiny_tokens(tokens, LONG, 4);
	test_run(s.gpu.seq, tokens, LONG, s.gpu.logits, 1);
	gg_seq_bytes(s.gpu.engine, s.gpu.seq, &before);
	least = available();
	test_apply(s.gpu.seq, plan_for(s.gpu.seq, KVMOD_KEEP_SPANS, &request));
	gg_seq_bytes(s.gpu.engine, s.gpu.seq, &after);
	printf("the GPU's free memory: %.1f MiB before the cut, %.1f after it; held %.1f and %.1f\n",
	       (double)least / 1048576, (double)available() / 1048576, (double)before.held / 1048576,
	       (double)after.held / 1048576);
	ck_assert_uint_gt(before.held - after.held, 50 << 20);
	/* The driver hands memory out by pieces of 2 MiB. */
	ck_assert_uint_ge(available() + (8 << 20), least + before.held - after.held);
	free(tokens);
	tear_down(&s);
}
END_TEST

static void silent(enum ggml_log_level level, const char *text, void *arg)
{
	(void)level, (void)text, (void)arg;
}

/* CUDA must not be used before a fork: a child says whether there is a GPU. */
static bool skip(void)
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

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, whole, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, joined, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, apart, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, wrong_shapes, 0, 2);
	tcase_add_loop_test(tc, cut_and_decode, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, fork_and_truncate, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, long_decode, N_LAYERS, 2 * N_LAYERS);
	tcase_add_loop_test(tc, replayed, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, requested, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, together, N_LAYERS, 2 * N_LAYERS);
	tcase_add_loop_test(tc, gather_fails, 0, N_MODELS * N_LAYERS);
#ifndef FAKE_GPU
	tcase_add_test(tc, memory_goes_back);
#endif
}

int main(void)
{
#ifndef FAKE_GPU
	if (skip())
		return 77;
#endif
	return test_main("engine on two sides", add);
}
