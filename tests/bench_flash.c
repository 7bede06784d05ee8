/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures flash attention on the host, over rows of several types, against ggml's node over
 * F16 and over F32: one run, rounds that alternate, and the ratio of the medians.
 *
 *   tests/bench_flash [THREADS [ROUNDS]]
 */
#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <ggml-alloc.h>
#include <ggml-backend.h>

#include "core/testkit/random.h"
#include "kernels/cpu/flash.h"

#define MOST_HEADS	32
#define SCALE		0.125f
#define MOST_ROUNDS	999
#define BLOCK		(32 * 4099)	/* numbers that are written over and over */

static const struct shape {
	const char *name;
	uint32_t n_q_heads, n_heads, head_dim, n_rows, n;	/* n older positions */
	uint32_t layers;	/* more than a near cache holds, so that each round reads them anew */
} shapes[] = {
	{ "decode", 32, 8, 128, 1, 2047, 4 },
	{ "decode", 32, 32, 128, 1, 2047, 2 },
	{ "decode", 9, 3, 64, 1, 2047, 20 },
	{ "few", 9, 3, 64, 4, 2044, 20 },
	{ "prefill", 9, 3, 64, 512, 7680, 1 },
	{ "prefill", 32, 8, 128, 512, 7680, 1 },
	{ "prefill", 9, 3, 64, 512, 0, 4 },
};

/* The first two are ggml's own nodes. */
static const struct way {
	enum ggml_type k, v;
} ways[] = {
	{ GGML_TYPE_F16, GGML_TYPE_F16 }, { GGML_TYPE_F32, GGML_TYPE_F32 },
	{ GGML_TYPE_F16, GGML_TYPE_F16 }, { GGML_TYPE_F32, GGML_TYPE_F32 },
	{ GGML_TYPE_Q8_0, GGML_TYPE_Q8_0 }, { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 },
};
#define RIVALS	2u
#define N_WAYS	(sizeof(ways) / sizeof(ways[0]))

/* The nodes of all layers, in one way. */
struct run {
	struct ggml_context *context;
	struct ggml_cgraph *graph;
	ggml_backend_buffer_t buffer;
	uint32_t first[MOST_HEADS + 1], n[MOST_HEADS];
	void *scratch;
	double ms[MOST_ROUNDS];
};

static uint32_t type_of(enum ggml_type type)
{
	return type == GGML_TYPE_F32 ? KVMOD_F32 : type == GGML_TYPE_F16 ? KVMOD_F16 :
	       type == GGML_TYPE_Q8_0 ? KVMOD_Q8_0 : KVMOD_Q4_0;
}

/* --- nodes ------------------------------------------------------------------------------ */

static void run_node(struct ggml_tensor *dst, int thread, int n_threads, void *arg)
{
	const struct ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
	const struct run *run = arg;
	const struct kv_flash flash = {
		.head_dim = (uint32_t)q->ne[0], .n_heads = (uint32_t)k->ne[2],
		.group = (uint32_t)(q->ne[2] / k->ne[2]), .n_rows = (uint32_t)q->ne[1], .scale = SCALE,
		.q = q->data, .q_row = q->nb[1] / 4, .q_head = q->nb[2] / 4,
		.out = dst->data, .out_row = dst->nb[2] / 4, .out_head = dst->nb[1] / 4,
		.k = { .type = type_of(k->type), .data = k->data, .stride = (int64_t)k->nb[1] },
		.v = { .type = type_of(v->type), .data = v->data, .stride = (int64_t)v->nb[1] },
		.first = run->first, .n = run->n,
		.n_threads = (uint32_t)n_threads, .scratch = run->scratch,
	};

	kv_flash_run(&flash, (uint32_t)thread);
}

static struct ggml_tensor *add_own(struct run *run, struct ggml_tensor *args[3])
{
	return ggml_custom_4d(run->context, GGML_TYPE_F32, args[0]->ne[0], args[0]->ne[2],
			      args[0]->ne[1], 1, args, 3, run_node, GGML_N_TASKS_MAX, run);
}

static struct ggml_tensor *add_rival(struct run *run, struct ggml_tensor *args[3],
				     struct ggml_tensor *mask)
{
	struct ggml_tensor *x = ggml_flash_attn_ext(run->context, args[0], args[1], args[2], mask,
						    SCALE, 0, 0);

	ggml_prec_set_acc(x, GGML_PREC_F32);
	return x;
}

/* --- numbers ------------------------------------------------------------------------------ */

static void fill(struct ggml_tensor *tensor)
{
	static float numbers[BLOCK];
	struct kv_random r = { 1 };
	char *to = tensor->data, *block = malloc(sizeof(numbers));
	size_t bytes = ggml_row_size(tensor->type, BLOCK), all = ggml_nbytes(tensor);

	for (size_t i = 0; i < BLOCK; i++)
		numbers[i] = kv_random_normal(&r);
	kv_encode(type_of(tensor->type), numbers, BLOCK, block);
	for (size_t at = 0; at < all; at += bytes)
		memcpy(to + at, block, all - at < bytes ? all - at : bytes);
	free(block);
}

/* Row t sees n + t + 1 positions. */
static void fill_mask(struct ggml_tensor *mask, const struct shape *s)
{
	uint16_t *row = mask->data;

	for (uint32_t t = 0; t < s->n_rows; t++, row += mask->ne[0])
		for (int64_t i = 0; i < mask->ne[0]; i++)
			row[i] = i < s->n + t + 1 ? 0 : 0xfc00;
}

static void *scratch_new(const struct shape *s, uint32_t threads)
{
	struct kv_flash flash = {
		.head_dim = s->head_dim, .n_heads = s->n_heads, .group = s->n_q_heads / s->n_heads,
		.n_rows = s->n_rows, .n_threads = threads,
	};
	size_t bytes = (kv_flash_scratch(&flash) + 63) / 64 * 64;
	void *scratch = aligned_alloc(64, bytes);

	memset(scratch, 0, bytes);
	return scratch;
}

static void build(struct run *run, const struct shape *s, const struct way *way, bool rival,
		  ggml_backend_t backend, uint32_t threads)
{
	const struct ggml_init_params params = { .mem_size = (size_t)4 << 20, .no_alloc = true };
	uint32_t room = (s->n + s->n_rows + 255) / 256 * 256;
	struct ggml_tensor *mask, *leaf;

	memset(run, 0, sizeof(*run));
	run->context = ggml_init(params);
	run->graph = ggml_new_graph(run->context);
	mask = ggml_new_tensor_2d(run->context, GGML_TYPE_F16, room, s->n_rows);
	for (uint32_t layer = 0; layer < s->layers; layer++) {
		struct ggml_tensor *args[3] = {
			ggml_new_tensor_3d(run->context, GGML_TYPE_F32, s->head_dim, s->n_rows, s->n_q_heads),
			ggml_new_tensor_3d(run->context, way->k, s->head_dim, room, s->n_heads),
			ggml_new_tensor_3d(run->context, way->v, s->head_dim, room, s->n_heads),
		};

		ggml_build_forward_expand(run->graph, rival ? add_rival(run, args, mask) :
							      add_own(run, args));
	}
	run->buffer = ggml_backend_alloc_ctx_tensors(run->context, backend);
	for (leaf = ggml_get_first_tensor(run->context); leaf; leaf = ggml_get_next_tensor(run->context, leaf))
		if (leaf->op == GGML_OP_NONE && leaf != mask)
			fill(leaf);
	fill_mask(mask, s);
	for (uint32_t g = 0; g < s->n_heads; g++) {
		run->n[g] = s->n;
		run->first[g + 1] = run->first[g] + room;
	}
	run->scratch = scratch_new(s, threads);
}

static void clean(struct run *run)
{
	ggml_backend_buffer_free(run->buffer);
	ggml_free(run->context);
	free(run->scratch);
}

/* --- rounds ------------------------------------------------------------------------------- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static double measure(struct run *run, ggml_backend_t backend)
{
	double begin = now();

	ggml_backend_graph_compute(backend, run->graph);
	return now() - begin;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *ms, size_t n)
{
	qsort(ms, n, sizeof(*ms), by_size);
	return n % 2 ? ms[n / 2] : (ms[n / 2 - 1] + ms[n / 2]) / 2;
}

static void run_shape(const struct shape *s, ggml_backend_t backend, uint32_t threads, size_t rounds)
{
	static struct run runs[N_WAYS];
	double ms[N_WAYS];

	for (size_t i = 0; i < N_WAYS; i++)
		build(&runs[i], s, &ways[i], i < RIVALS, backend, threads);
	for (size_t round = 0; round <= rounds; round++)	/* the first is not counted */
		for (size_t i = 0; i < N_WAYS; i++)
			runs[i].ms[round ? round - 1 : 0] = measure(&runs[i], backend);
	for (size_t i = 0; i < N_WAYS; i++)
		ms[i] = median(runs[i].ms, rounds) / s->layers;
	for (size_t i = 0; i < N_WAYS; i++) {
		printf("%-8s %2u on %2u, D %3u, %3u rows on %4u  %-5s %4s/%-4s %9.3f", s->name, s->n_q_heads,
		       s->n_heads, s->head_dim, s->n_rows, s->n + s->n_rows, i < RIVALS ? "ggml" : "kvmod",
		       ggml_type_name(ways[i].k), ggml_type_name(ways[i].v), ms[i]);
		printf(" %9.2f %9.2f\n", ms[i] / ms[0], ms[i] / ms[1]);
		clean(&runs[i]);
	}
}

/* ggml's CPU backend with threads that stay, as the engine has them. */
static ggml_backend_t start(int threads)
{
	ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
	ggml_backend_t backend = ggml_backend_dev_init(device, NULL);
	struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
	ggml_threadpool_t (*new_pool)(struct ggml_threadpool_params *) =
		ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_new");
	void (*set_pool)(ggml_backend_t, ggml_threadpool_t) =
		ggml_backend_reg_get_proc_address(reg, "ggml_backend_cpu_set_threadpool");
	ggml_backend_set_n_threads_t set_n =
		ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");

	set_n(backend, threads);
	set_pool(backend, new_pool(&params));
	return backend;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 2;
	int rounds = argc > 2 ? atoi(argv[2]) : 9;
	ggml_backend_t backend;

	if (argc > 3 || threads < 1 || threads > GGML_MAX_N_THREADS || rounds < 1 || rounds > MOST_ROUNDS) {
		fputs("Usage: bench_flash [THREADS [ROUNDS]]\n", stderr);
		return EXIT_FAILURE;
	}
	backend = start(threads);
	printf("%d threads, medians of %d rounds\n%-42s %-5s %-9s %9s %9s %9s\n", threads, rounds, "", "",
	       "K/V", "ms", "of F16's", "of F32's");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		run_shape(&shapes[i], backend, (uint32_t)threads, (size_t)rounds);
	ggml_backend_free(backend);
	return EXIT_SUCCESS;
}
