/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares models with some or all layers on a GPU with the same models on the CPU, with
 * whole and with compressed caches.
 */
#include "tests/sides.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- tests: each loops over models, and over how many layers are on the GPU ----------------------- */

#define N_LAYERS 4
static const int64_t layers[N_LAYERS] = { 1, 2, TINY_LAYERS, -1 };
#define MODEL ((unsigned)_i / N_LAYERS)
#define LAYERS (layers[_i % N_LAYERS])

START_TEST(whole)
{
	static struct setup s;
	const struct kvmod_model *m;

	sides_set_up(&s, MODEL, LAYERS);
	m = gg_engine_ops.model(s.gpu.engine);
	ck_assert_str_eq(m->device, DEVICE);
	ck_assert_uint_eq(m->n_device_layers, LAYERS < 0 ? TINY_LAYERS : LAYERS);
	sides_run(&s, 0, 60, false);
	sides_run(&s, 60, 80, true);
	sides_run(&s, 80, N, false);
	sides_check(&s, 0, N);
	sides_tear_down(&s);
}
END_TEST

/* How many products the last graph has with a weight. */
static unsigned products_with(struct gg_engine *engine, const struct ggml_tensor *weight)
{
	struct ggml_cgraph *nodes = gg_runtime_of(engine)->graph.nodes;
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

	sides_set_up(&s, MODEL, LAYERS);
	all = s.gpu.engine->net.layers;
	last = &all[TINY_LAYERS - 1];
	ck_assert_ptr_nonnull(last->qkv);
	ck_assert_ptr_eq(last->qkv->data, last->w[GG_Q]->data);
	ck_assert_int_eq(last->qkv->ne[1],
			 last->w[GG_Q]->ne[1] + last->w[GG_K]->ne[1] + last->w[GG_V]->ne[1]);
	ck_assert_int_eq(!last->qkv_bias, !last->w[GG_Q_BIAS]);
	ck_assert_int_eq(!all[0].qkv, LAYERS >= 0 && LAYERS < TINY_LAYERS);
	ck_assert_ptr_null(s.cpu.engine->net.layers[TINY_LAYERS - 1].qkv);
	sides_run(&s, 0, 20, false);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->qkv), 0);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->w[GG_K]), 1);
	sides_run(&s, 20, 21, true);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->qkv), 1);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->w[GG_K]), 0);
	sides_tear_down(&s);
}
END_TEST

/* Of different types they lie apart, and are multiplied one by one. */
START_TEST(apart)
{
	static struct setup s;
	const struct gg_layer *last;

	sides_set_up_as(&s, MODEL, LAYERS, TINY_F16_VALUES, GGML_TYPE_F32);
	last = &s.gpu.engine->net.layers[TINY_LAYERS - 1];
	ck_assert_ptr_null(last->qkv);
	sides_run(&s, 0, 50, false);
	sides_run(&s, 50, 60, true);
	ck_assert_uint_eq(products_with(s.gpu.engine, last->w[GG_V]), 1);
	/* For F16 weights ggml rounds activations to F16 as well, unless the CPU has AMX. */
	sides_check_near(&s, 0, 60, fmax(NEAR, 1e-3));
	sides_tear_down(&s);
}
END_TEST

/* What is no matrix of that shape is refused in words, as on the CPU. */
START_TEST(wrong_shapes)
{
	char *model = tiny_model_write(&tiny_models[sides_models[1]], _i ? TINY_DEEP_WEIGHT : TINY_WRONG_SHAPE);
	struct test_engine_params params = {
		.model = model, .batch = 16, .gpu_layers = -1, .context_override = 1, .gpu = sides_find_gpu(),
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
		sides_set_up(&s, MODEL, LAYERS);
		sides_run(&s, 0, 50, false);
		sides_cut(&s, kind);
		sides_run(&s, 50, 70, true);
		sides_run(&s, 70, 80, false);
		sides_cut(&s, kind);
		sides_run(&s, 80, N, true);
		sides_check(&s, 0, N);
		sides_tear_down(&s);
	}
}
END_TEST

/*
 * Caches of F16 and Q8_0, which CUDA reads as they are. Models of random weights make much of
 * what Q8_0 rounds: on the CPU itself it is up to 0.18 away from F32.
 */
START_TEST(other_types)
{
	/* ggml's attention rounds queries to the cache's type where it runs on the host. */
	static const struct { enum ggml_type type; double near; } types[] = {
		{ GGML_TYPE_F16, NEAR + 2e-2 }, { GGML_TYPE_Q8_0, 6 * NEAR + 2e-1 },
	};
	static struct setup s;

	for (unsigned t = 0; t < 2; t++) {
		sides_set_up_as(&s, MODEL, LAYERS, TINY_GOOD, types[t].type);
		sides_run(&s, 0, 50, false);
		sides_run(&s, 50, 60, true);
		sides_cut(&s, KVMOD_KEEP_HEADS);
		sides_run(&s, 60, 80, true);
		sides_run(&s, 80, N, false);
		sides_check_near(&s, 0, N, types[t].near);
		sides_tear_down(&s);
	}
}
END_TEST

START_TEST(fork_and_truncate)
{
	static struct setup s;
	struct kvmod_seq *first;

	sides_set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 50, false);
	first = test_fork(s.gpu.seq);
	sides_cut(&s, KVMOD_KEEP_HEADS);
	sides_run(&s, 50, 60, true);
	ck_assert(!gg_seq_truncate(s.gpu.engine, s.gpu.seq, 53));
	ck_assert(!gg_seq_truncate(s.cpu.engine, s.cpu.seq, 53));
	sides_run(&s, 53, N, true);
	sides_check(&s, 0, N);
	/* The fork knows nothing of the cut. */
	gg_seq_close(s.gpu.engine, s.gpu.seq);
	s.gpu.seq = first;
	ck_assert(!gg_seq_truncate(s.cpu.engine, s.cpu.seq, 0));
	sides_run_one(&s, &s.cpu, 0, 60, false);
	sides_run_one(&s, &s.gpu, 50, 60, true);
	sides_check(&s, 50, 60);
	sides_tear_down(&s);
}
END_TEST

/* Enough decoded tokens to outgrow caches and graphs. */
START_TEST(long_decode)
{
	static struct setup s;
	static float cpu[TINY_VOCAB], gpu[TINY_VOCAB];

	sides_set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 60, false);
	sides_cut(&s, KVMOD_KEEP_SPANS);
	for (uint32_t i = 0; i < 700; i++) {
		test_run(s.cpu.seq, s.tokens + i % N, 1, cpu, 1);
		test_run(s.gpu.seq, s.tokens + i % N, 1, gpu, 1);
		ck_assert_msg(sides_distance(gpu, cpu, TINY_VOCAB) <= 2 * NEAR, "token %u differs by %g", i,
			      sides_distance(gpu, cpu, TINY_VOCAB));
	}
	sides_tear_down(&s);
}
END_TEST

static void replay(struct kvmod_seq *seq, double *loss)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = sides_plan(seq, KVMOD_KEEP_HEADS, &request);

	ck_assert_msg(!request.replay(&request, plan, 12, loss), "%s", test_engine_error());
	kvmod_plan_free(plan);
}

START_TEST(replayed)
{
	static struct setup s;
	double cpu, gpu;

	sides_set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 60, false);
	replay(s.cpu.seq, &cpu);
	replay(s.gpu.seq, &gpu);
	ck_assert_double_gt(cpu, 0.01);
	ck_assert_double_eq_tol(gpu, cpu, 4 * NEAR * cpu);
	sides_run(&s, 60, N, true);
	sides_check(&s, 0, N);
	sides_tear_down(&s);
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
	ck_assert_int_eq(sides_device_ops.to_host(sides_device_self, NULL, rows, data, n * sizeof(*rows)), 0);
	ck_assert_int_eq(sides_device_ops.synchronize(sides_device_self, NULL), 0);
	return rows;
}

static void compare(const struct kvmod_segment *a, const void *x, const struct kvmod_segment *b,
		    const void *y, size_t n)
{
	float *there = fetch(a, x, n), *here = fetch(b, y, n);
	double d = sides_distance(there, here, n);

	ck_assert_msg(d <= NEAR, "layer %u differs by %g", a->layer, d);
	free(there);
	free(here);
}

static void compare_norms(const struct kvmod_segment *a, const struct kvmod_segment *b)
{
	ck_assert_int_eq(!a->wo_norm.data, !b->wo_norm.data);
	for (uint32_t h = 0; h < b->n_q_heads && b->wo_norm.data; h++)
		compare(a, (const char *)a->wo_norm.data + h * a->wo_norm.head_stride, b,
			(const char *)b->wo_norm.data + h * b->wo_norm.head_stride,
			kvmod_head_at(b, h * b->n_kv_heads / b->n_q_heads)->n);
}

static void compare_segments(const struct kvmod_segment *a, const struct kvmod_segment *b)
{
	ck_assert_uint_eq(a->n_rows, b->n_rows);
	compare(a, a->q.data, b, b->q.data, (size_t)b->n_rows * b->n_q_heads * b->head_dim);
	ck_assert_uint_eq(a->n_q_stat, b->n_q_stat);
	compare(a, a->q_mean.data, b, b->q_mean.data, (size_t)b->n_q_heads * b->head_dim);
	compare(a, a->q_cov.data, b, b->q_cov.data, (size_t)b->n_q_heads * b->head_dim * b->head_dim);
	compare_norms(a, b);
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
	struct kvmod_needs needs = {
		.size = sizeof(needs), .what = KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_Q_STATS,
		.rows = { .value = 20, .is_count = 1 }, .decode_every = 1, .q_stats_skip = 4,
	};
	static struct setup s;
	struct kvmod_seq *copy;

	sides_set_up(&s, MODEL, LAYERS);
	if (gg_norms_served(s.gpu.engine))
		needs.what |= KVMOD_NEED_WO_NORM;
	ck_assert_int_eq(gg_prompt_begin(s.cpu.engine, s.cpu.seq, 50, &needs), 0);
	ck_assert_int_eq(gg_prompt_begin(s.gpu.engine, s.gpu.seq, 50, &needs), 0);
	sides_run(&s, 0, 50, false);
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	/* Past the slack, so that older rows have moved on. */
	for (uint32_t i = 0; i < 70; i++) {
		test_run(s.cpu.seq, s.tokens + i, 1, NULL, 0);
		test_run(s.gpu.seq, s.tokens + i, 1, NULL, 0);
	}
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	sides_cut(&s, KVMOD_KEEP_HEADS);
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	sides_run(&s, 70, 75, false);
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	copy = test_fork(s.gpu.seq);
	gg_seq_close(s.gpu.engine, s.gpu.seq);
	s.gpu.seq = copy;
	compare_requests(&s, s.gpu.engine->gpu.n_layers);
	sides_tear_down(&s);
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

	sides_set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 40, false);
	for (uint32_t i = 0; i < 3; i++) {
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(items[0]), .seq = test_fork(s.gpu.seq), .n_tokens = 1,
			.tokens = s.tokens + 40 + 10 * i, .logits = logits[i], .n_logits = 1,
		};
		sides_run(&s, 40 + 10 * i, 50 + 10 * i, true);
		if (!i)
			sides_cut(&s, KVMOD_KEEP_HEADS);
	}
	for (uint32_t t = 0; t < 4; t++) {
		ck_assert_msg(!gg_step(s.gpu.engine, &batch), "%s", test_engine_error());
		for (uint32_t i = 0; i < 3; i++) {
			const float *alone = s.cpu.logits + (40 + 10 * i + t) * TINY_VOCAB;

			ck_assert_double_le(sides_distance(logits[i], alone, TINY_VOCAB), NEAR);
			items[i].tokens++;
		}
	}
	for (uint32_t i = 0; i < 3; i++)
		gg_seq_close(s.gpu.engine, items[i].seq);
	sides_tear_down(&s);
}
END_TEST

/* A gather that fails costs the cut alone. */
START_TEST(gather_fails)
{
	static struct setup s;
	struct kvmod_request request;
	uint32_t first;

	sides_set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 50, false);
	sides_gathers_fail = true;
	test_apply(s.gpu.seq, sides_plan(s.gpu.seq, KVMOD_KEEP_HEADS, &request));
	ck_assert_int_eq(gg_seq_fork(s.gpu.engine, s.gpu.seq, &(struct kvmod_seq *){ NULL }), KVMOD_EDEVICE);
	sides_gathers_fail = false;
	first = TINY_LAYERS - s.gpu.engine->gpu.n_layers;
	for (uint32_t i = first; i < TINY_LAYERS; i++)
		ck_assert_uint_eq(s.gpu.seq->caches[i].n[0], 50);
	sides_run(&s, 50, 51, true);
	if (!first)
		sides_check(&s, 0, 51);
	test_apply(s.gpu.seq, sides_plan(s.gpu.seq, KVMOD_KEEP_HEADS, &request));
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		ck_assert_uint_lt(s.gpu.seq->caches[i].n[0], 50);
	sides_tear_down(&s);
}
END_TEST

/* --- what a device reduces ----------------------------------------------------------------- */

/* Column sums of all layers, heads and cached rows, one after the other. */
static size_t fetch_sums(struct kvmod_seq *seq, float *out)
{
	struct kvmod_request request = { .size = sizeof(request) };
	size_t n = 0;

	ck_assert(!gg_request(seq->engine, seq, &request));
	for (uint32_t i = 0; i < request.n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(&request, i);

		ck_assert_ptr_nonnull(s->colsum.data);
		for (uint32_t h = 0; h < s->n_q_heads; h++) {
			uint32_t rows = kvmod_head_at(s, h / (s->n_q_heads / s->n_kv_heads))->n;
			const char *from = (const char *)s->colsum.data + h * s->colsum.head_stride;

			if (gg_side_of(seq->engine, i) == GG_HOST)
				memcpy(out + n, from, rows * sizeof(*out));
			else
				ck_assert(!sides_device_ops.to_host(sides_device_self, NULL, out + n, from,
								    rows * sizeof(*out)));
			n += rows;
		}
	}
	ck_assert(!sides_device_ops.synchronize(sides_device_self, NULL));
	return n;
}

static void compare_sums(struct setup *s)
{
	static float cpu[TINY_LAYERS * 8 * 512], gpu[TINY_LAYERS * 8 * 512];
	size_t n = fetch_sums(s->cpu.seq, cpu);

	ck_assert_uint_eq(fetch_sums(s->gpu.seq, gpu), n);
	ck_assert_double_le(sides_distance(gpu, cpu, n), NEAR);
}

static void begin_sums(struct side *side, uint64_t n)
{
	const struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_COLSUM };

	ck_assert_msg(!gg_prompt_begin(side->engine, side->seq, n, &needs), "%s", test_engine_error());
}

/* Sums of a prompt, of decoded tokens, and of what a cut leaves: as on the CPU. */
START_TEST(column_sums)
{
	static struct setup s;

	sides_set_up(&s, MODEL, LAYERS);
	begin_sums(&s.cpu, 60);
	begin_sums(&s.gpu, 60);
	sides_run(&s, 0, 60, false);
	compare_sums(&s);
	sides_run(&s, 60, 80, true);
	compare_sums(&s);
	sides_cut(&s, KVMOD_KEEP_HEADS);
	compare_sums(&s);
	sides_run(&s, 80, N, false);
	compare_sums(&s);
	sides_tear_down(&s);
}
END_TEST

/* What a run pays to the part that it repeats. */
START_TEST(read_again)
{
	static float cpu[TINY_LAYERS * 8 * N], gpu[TINY_LAYERS * 8 * N];
	struct kvmod_reread what = { .size = sizeof(what), .sinks = 4, .begin = 10, .end = 55 };
	struct kvmod_request request = { .size = sizeof(request) };
	static struct setup s;

	sides_set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 60, false);
	sides_cut(&s, KVMOD_KEEP_HEADS);
	ck_assert(!gg_request(s.cpu.engine, s.cpu.seq, &request));
	ck_assert(!gg_reread_run(&request, &what, s.tokens, 40, cpu));
	ck_assert(!gg_request(s.gpu.engine, s.gpu.seq, &request));
	ck_assert_msg(!gg_reread_run(&request, &what, s.tokens, 40, gpu), "%s", test_engine_error());
	ck_assert_double_le(sides_distance(gpu, cpu, TINY_LAYERS * s.cpu.engine->net.n_kv_heads * 45ul), NEAR);
	sides_tear_down(&s);
}
END_TEST

/* ggml's overlapping kernels are off, unless the user has said otherwise. */
START_TEST(in_order)
{
	static struct setup s;

	if (_i)
		setenv("GGML_CUDA_PDL", "1", 1);
	else
		unsetenv("GGML_CUDA_PDL");
	sides_set_up(&s, 0, 0);
	ck_assert_int_eq(!getenv("GGML_CUDA_PDL"), !_i);
	sides_tear_down(&s);
	sides_set_up(&s, 0, -1);
	ck_assert_str_eq(getenv("GGML_CUDA_PDL"), _i ? "1" : "0");
	sides_tear_down(&s);
}
END_TEST

#ifndef FAKE_GPU
/* Decodes on the GPU alone, and hands out the last logits. */
static void decode_alone(unsigned model, float *logits)
{
	static struct setup s;

	sides_set_up_as(&s, model, -1, TINY_GOOD, GGML_TYPE_F16);
	sides_run_one(&s, &s.gpu, 0, N, false);
	for (uint32_t i = 0; i < 500; i++)
		test_run(s.gpu.seq, s.tokens + i % N, 1, logits, 1);
	sides_tear_down(&s);
}

/* Processes that keep one GPU busy answer alike: a kernel reads what the one before has written. */
START_TEST(busy)
{
	enum { PROCESSES = 12 };
	float (*logits)[TINY_VOCAB] = mmap(NULL, PROCESSES * sizeof(*logits), PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t children[PROCESSES];
	int status;

	ck_assert_ptr_ne(logits, MAP_FAILED);
	for (unsigned i = 0; i < PROCESSES; i++) {
		children[i] = fork();
		ck_assert_int_ge(children[i], 0);
		if (!children[i]) {
			decode_alone((unsigned)_i, logits[i]);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < PROCESSES; i++) {
		ck_assert_int_eq(waitpid(children[i], &status, 0), children[i]);
		ck_assert_int_eq(status, 0);
		ck_assert_double_eq(sides_distance(logits[i], logits[0], TINY_VOCAB), 0);
	}
	munmap(logits, PROCESSES * sizeof(*logits));
}
END_TEST

static uint64_t available(void)
{
	uint64_t bytes, total;

	ck_assert_int_eq(sides_device_ops.memory(sides_device_self, &bytes, &total), 0);
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

	sides_set_up(&s, 1, -1);
	tiny_tokens(tokens, LONG, 4);
	test_run(s.gpu.seq, tokens, LONG, s.gpu.logits, 1);
	gg_seq_bytes(s.gpu.engine, s.gpu.seq, &before);
	least = available();
	test_apply(s.gpu.seq, sides_plan(s.gpu.seq, KVMOD_KEEP_SPANS, &request));
	gg_seq_bytes(s.gpu.engine, s.gpu.seq, &after);
	printf("the GPU's free memory: %.1f MiB before the cut, %.1f after it; held %.1f and %.1f\n",
	       (double)least / 1048576, (double)available() / 1048576, (double)before.held / 1048576,
	       (double)after.held / 1048576);
	ck_assert_uint_gt(before.held - after.held, 50 << 20);
	/* The driver hands memory out by pieces of 2 MiB. */
	ck_assert_uint_ge(available() + (8 << 20), least + before.held - after.held);
	free(tokens);
	sides_tear_down(&s);
}
END_TEST
#endif

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, whole, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, joined, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, apart, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, wrong_shapes, 0, 2);
	tcase_add_loop_test(tc, cut_and_decode, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, other_types, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, fork_and_truncate, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, long_decode, N_LAYERS, 2 * N_LAYERS);
	tcase_add_loop_test(tc, replayed, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, requested, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, together, N_LAYERS, 2 * N_LAYERS);
	tcase_add_loop_test(tc, gather_fails, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, column_sums, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, read_again, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, in_order, 0, 2);
#ifndef FAKE_GPU
	tcase_add_loop_test(tc, busy, 0, N_MODELS);
	tcase_add_test(tc, memory_goes_back);
#endif
}

int main(void)
{
#ifndef FAKE_GPU
	if (sides_skip())
		return 77;
#endif
	return test_main("engine on two sides", add);
}
