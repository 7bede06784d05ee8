/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decisions by attention on a GPU are compared with double arithmetic and with the golden
 * vectors of the policies.
 *	test_attention [--quick] [--long] [GOLDEN]
 * --quick: few small caches, for a sanitizer; --long: also a million positions.
 * Without a GPU, the test says so and exits with 77.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/toolkit.h>

#include "core/testkit/vectors.h"
#include "tests/cuda/attention.h"
#include "tests/cuda/checks.h"

static bool quick;
static uint32_t units;			/* of queries that a block may hold; 0: as many as fit */

static const struct kv_attention_params usual[] = {
	{ &kv_attend_top, 0, 32, 32, 5, 0, 0 },
	{ &kv_attend_shared, 0, 32, 32, 7, 1, 0.2 },
	{ &kv_attend_mass, 0, 0, 0, 1, 0, 0.95 },
	{ &kv_refreekv_by_attention, 4, 8, 8, 1, 0, 0.01 },
};
#define N_RULES 4

static const char *rule_name(const struct kv_attention_params *p)
{
	static const char *const names[] = { "top", "shared", "mass", "norm" };
	unsigned i = 0;

	while (usual[i].rule != p->rule)
		i++;
	return names[i];
}

static const struct shape plain = { 8, 2, 64, KVMOD_BF16, KVMOD_F32, 32, 0, 0, false, 0.125f, 0, 2 };

static void check_all(const char *name, const struct attend *a, uint32_t n)
{
	char why[200];

	for (uint32_t i = 0; i < n; i++)
		CHECK(attend_is_right(a, i, why, sizeof(why)), "%s, %s, n=%u: %s", rule_name(&a->job.params),
		      name, (uint32_t)a->caches[i].segment.logical, why);
}

static void decide(const char *name, const struct kv_attention_params *p, struct cache *caches, uint32_t n, uint32_t amount)
{
	struct attend a;

	attend_make(&a, p, caches, n, amount);
	a.job.units = units;
	attend_queue(&a, NULL);
	attend_fetch(&a);
	check_all(name, &a, n);
	attend_free(&a);
}

static void run(const char *name, const struct shape *s, const struct kv_attention_params *p,
		const uint32_t *n, uint32_t count, uint32_t amount)
{
	struct cache *caches = calloc(count, sizeof(*caches));
	struct kv_random r = { 77 };
	uint32_t i;

	for (i = 0; i < count; i++)
		cache_make(&caches[i], &r, s, n[i], NULL, NULL);
	decide(name, p, caches, count, amount);
	for (i = 0; i < count; i++)
		cache_free(&caches[i]);
	free(caches);
}

/* --- golden vectors ------------------------------------------------------------- */

static double param(const struct vectors_case *c, const char *key, double missing)
{
	const char *value = vectors_param(c, key);

	return value ? strtod(value, NULL) : missing;
}

static struct kv_attention_params params_of(const struct vectors_case *c)
{
	const char *pooling = vectors_param(c, "pooling");
	uint32_t window = (uint32_t)param(c, "window", 0);
	struct kv_attention_params p = { .rule = &kv_attend_top, .window = window, .tail = window,
		.pool = (uint32_t)param(c, "pool", 1), .pool_max = pooling && !strcmp(pooling, "max") };

	if (!strcmp(c->policy, "adakv")) {
		p.rule = &kv_attend_shared;
		p.share = param(c, "alpha", 0.2);
	} else if (!strcmp(c->policy, "topp")) {
		p.rule = &kv_attend_mass;
		p.share = param(c, "p", 0.95);
	} else if (!strcmp(c->policy, "refreekv")) {
		p.rule = &kv_refreekv_by_attention;
		p.share = param(c, "threshold", 0.01);
		p.sinks = (uint32_t)param(c, "sinks", 4);
	}
	return p;
}

static uint32_t amount_of(const struct vectors_case *c, const struct kv_attention_params *p)
{
	const char *text = vectors_param(c, "budget");
	struct kvmod_amount budget = { .value = text ? strtod(text, NULL) : 0, .is_count = text && !strchr(text, '.') };

	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_segment seen = { .size = sizeof(seen), .logical = c->n };

	if (p->rule == &kv_attend_mass || p->rule == &kv_refreekv_by_attention)
		return (uint32_t)param(c, "rows", 1);
	return (uint32_t)kvmod_budget_at_least(&request, &seen, &budget, p->window) - p->window;
}

/* A layer, its keys in the order of heads. */
static void make_layer(const struct vectors_case *c, uint32_t layer, uint32_t type, uint32_t offset, struct cache *cache)
{
	struct shape s = { c->n_q_heads, c->n_kv_heads, c->head_dim, type, KVMOD_F32, c->rows, offset, offset, false,
			   (float)(1 / sqrt(c->head_dim)), 0, 1 };
	size_t row = (size_t)c->n_kv_heads * c->head_dim, i, g;
	const float *from = c->input[VECTORS_K] + layer * c->n * row;
	float *k = malloc(c->n * row * sizeof(*k));
	struct kv_random r = { 1 };

	for (i = 0; i < c->n; i++)
		for (g = 0; g < c->n_kv_heads; g++)
			memcpy(k + (g * c->n + i) * c->head_dim, from + i * row + g * c->head_dim,
			       c->head_dim * sizeof(*k));
	cache_make(cache, &r, &s, c->n, k,
		   c->input[VECTORS_Q] + (size_t)layer * c->rows * c->n_q_heads * c->head_dim);
	free(k);
}

static void check_golden(const struct vectors_case *c, const struct attend *a, uint32_t first)
{
	for (uint32_t i = 0; i < a->job.n_segments; i++)
		for (uint32_t g = 0; g < c->n_kv_heads; g++) {
			uint32_t at = (i + first) * c->n_kv_heads + g, count = a->host.counts[i * c->n_kv_heads + g];

			CHECK(count == c->counts[at] && !memcmp(attend_indices(a, i, g), c->kept + (size_t)at * c->n,
								count * sizeof(uint32_t)),
			      "%s, layer %u, head %u: %u kept, expected %u, or others", c->name, i + first, g, count,
			      c->counts[at]);
		}
	if (!isnan(c->loss))
		CHECK(fabs(a->host.results[0].loss - c->loss) <= 1e-4 * c->loss, "%s: loss %.9g, expected %.9g",
		      c->name, a->host.results[0].loss, c->loss);
}

static void golden_case(const struct vectors_case *c, uint32_t type, uint32_t offset)
{
	/* Layers that are kept whole do not reach the kernels. */
	uint32_t first = (uint32_t)param(c, "whole_layers", 0), n = c->n_layers - first, i;
	struct kv_attention_params p = params_of(c);
	struct cache *caches = calloc(n, sizeof(*caches));
	struct attend a;

	for (i = 0; i < n; i++)
		make_layer(c, first + i, type, offset, &caches[i]);
	attend_make(&a, &p, caches, n, amount_of(c, &p));
	attend_queue(&a, NULL);
	attend_fetch(&a);
	check_all(c->name, &a, n);
	if (type == KVMOD_F32)
		check_golden(c, &a, first);
	attend_free(&a);
	for (i = 0; i < n; i++)
		cache_free(&caches[i]);
	free(caches);
}

static bool is_ours(const struct vectors_case *c)
{
	const char *rank = vectors_param(c, "rank");

	if (!strcmp(c->policy, "refreekv"))
		return rank && !strcmp(rank, "attention");
	return !strcmp(c->policy, "snapkv") || !strcmp(c->policy, "adakv") || !strcmp(c->policy, "topp");
}

static void test_golden(const char *path)
{
	struct vectors v;
	struct vectors_case *c;
	unsigned cases = 0;
	int more;

	if (vectors_open(&v, path)) {
		printf("%s\n", v.error);
		exit(2);
	}
	while ((more = vectors_next(&v, &c)) > 0) {
		if (is_ours(c)) {
			cases++;
			golden_case(c, KVMOD_F32, 0);
			golden_case(c, KVMOD_F32, 4);
			golden_case(c, KVMOD_BF16, 0);
			golden_case(c, KVMOD_F16, 2);
			if (c->head_dim % 32 == 0)
				golden_case(c, KVMOD_Q8_0, 0);
		}
		vectors_case_free(c);
	}
	CHECK(more == 0, "%s", v.error);
	vectors_close(&v);
	printf("golden: %u cases\n", cases);
	CHECK(cases >= 34, "only %u cases", cases);
}

/* --- made-up caches --------------------------------------------------------------- */

static void test_shapes(void)
{
	static const uint32_t heads[][2] = { { 4, 2 }, { 9, 3 }, { 5, 5 }, { 16, 1 }, { 20, 1 }, { 32, 8 } };
	static const uint32_t dims[] = { 8, 24, 64, 72, 128, 136, 256 };
	static const uint32_t n[] = { 40, 41, 64, 127, 128, 129, 300, 1025 };
	static const uint32_t rows[] = { 32, 1, 8, 40, 13 };
	unsigned i, j, t, q = 0;

	for (i = 0; i < sizeof(heads) / sizeof(*heads); i++)
		for (j = 0; j < sizeof(dims) / sizeof(*dims); j++)
			for (t = KVMOD_F32; t <= KVMOD_Q8_0; t++, q++) {
				struct shape s = plain;
				struct kv_attention_params p = usual[q % N_RULES];
				uint32_t amount = 20;
				char name[80];

				if ((t == KVMOD_Q8_0 && dims[j] % 32) || (quick && (i + j + t) % 9))
					continue;
				s.n_q_heads = heads[i][0];
				s.n_kv_heads = heads[i][1];
				s.dim = dims[j];
				s.scale = 1 / sqrtf((float)s.dim);
				s.k_type = t;
				s.q_type = KVMOD_F32 + q / 2 % 3;
				s.rows = rows[(i + j) % 5];
				s.softcap = (i + t) % 5 == 0 ? 5 : 0;
				if (p.rule == &kv_refreekv_by_attention) {
					amount = 1 + (i + t) % 3 * 5;
					p.share = j % 2 ? 0.01 : 0.1;
					p.sinks = (i + j) % 2 * 4;
				}
				snprintf(name, sizeof(name), "%u/%u heads of %u, %s, %u rows", s.n_q_heads, s.n_kv_heads,
					 s.dim, kv_type_name(t), s.rows);
				run(name, &s, &p, n, quick ? 5 : 8, amount);
			}
}

/* Lengths from 1 to just above the window, with a row for each position. */
static void test_short(void)
{
	for (uint32_t n = 1; n <= 45; n += n < 6 ? 1 : 13)
		for (unsigned rule = 0; rule < N_RULES; rule++) {
			struct shape s = plain;

			s.rows = n < 32 ? n : 32;
			run("short", &s, &usual[rule], (uint32_t[]){ n, n }, 2, 3);
			run("short, no budget", &s, &usual[rule], (uint32_t[]){ n, n }, 2, 0);
		}
}

static void test_views(void)
{
	static const uint32_t offsets[][2] = { { 16, 0 }, { 0, 16 }, { 2, 0 }, { 8, 8 }, { 4, 12 }, { 32, 48 } };
	static const uint32_t n[] = { 300, 33, 1030 };
	struct shape s = plain;
	unsigned i, t;

	for (i = 0; i < sizeof(offsets) / sizeof(*offsets); i++)
		for (t = KVMOD_F32; t <= KVMOD_Q8_0; t++) {
			char name[80];

			s.offset = t == KVMOD_F32 ? offsets[i][0] / 4 * 4 : offsets[i][0];
			s.gap = offsets[i][1];
			s.k_type = t;
			s.interleaved = i % 2;
			snprintf(name, sizeof(name), "offset %u, gap %u, %s", s.offset, s.gap, kv_type_name(t));
			run(name, &s, &usual[(i + t) % N_RULES], n, quick ? 1 : 3, 50);
		}
}

static void test_many_sequences(void)
{
	struct kv_random r = { 5 };
	struct shape s = plain;
	uint32_t n[64], i;

	s.rows = 1;
	for (i = 0; i < 64; i++)
		n[i] = i % 7 == 0 ? 1 + i / 7 : kv_random_range(&r, 1, quick ? 300 : 3000);
	for (i = 0; i < N_RULES; i++)
		run("64 sequences", &s, &usual[i], n, 64, 200);
}

static void test_parameters(void)
{
	static const double shares[] = { 0, 1e-5, 0.3, 0.99, 1 };
	static const uint32_t budgets[] = { 0, 1, 255, 700, 1300, 4000 }, windows[] = { 1, 8, 40, 600 }, pools[] = { 1, 3, 255 };
	static const uint32_t n[] = { 1300, 1537 };
	unsigned i, j, k;

	for (i = 0; i < 5; i++)
		for (j = 0; j < 6; j++)
			for (k = 0; k < 4; k++) {
				struct kv_attention_params p = usual[(i + j + k) % N_RULES];
				uint32_t amount = budgets[j];
				struct shape s = plain;
				char name[80];

				if (quick && (i + 2 * j + k) % 8)
					continue;
				s.rows = 40;
				if (p.rule != &kv_attend_top)
					p.share = shares[i];
				if (p.rule != &kv_attend_mass)
					p.window = p.tail = windows[k];
				if (p.rule == &kv_refreekv_by_attention) {
					p.sinks = 100 * j;
					amount = k ? 40 : 1;
				} else if (p.rule != &kv_attend_mass) {
					p.pool = pools[(i + j) % 3];
					p.pool_max = j % 2;
				}
				snprintf(name, sizeof(name), "share %g, amount %u, window %u, pool %u", p.share, amount,
					 p.window, p.pool);
				run(name, &s, &p, n, 2, amount);
			}
}

/* A cache that was cut before: each head has positions of its own, and rows have positions too. */
static void test_positions(void)
{
	enum { N = 700, ROWS = 40, HEADS = 4 };

	for (unsigned rule = 0; rule < N_RULES; rule++) {
		static int32_t positions[HEADS][N], rows[ROWS];
		struct kv_random r = { 8 + rule };
		struct shape s = plain;
		struct cache c[2];
		uint32_t g, i;

		s.n_kv_heads = HEADS;
		s.rows = ROWS;
		cache_make(&c[0], &r, &s, N, NULL, NULL);
		cache_make(&c[1], &r, &s, 600, NULL, NULL);
		for (i = 0; i < ROWS; i++)
			rows[i] = N - 3 * (int32_t)(ROWS - i);
		for (g = 0; g < HEADS; g++) {
			struct kvmod_head *head = &c[0].heads[g];

			head->n = usual[rule].rule == &kv_refreekv_by_attention ? 500 : 650 - 180 * g;
			for (i = 0; i < head->n; i++)
				positions[g][i] = (int32_t)((i * N + g) / head->n);
			head->positions = positions[g];
		}
		/* The oldest row of one of them sees nothing at all. */
		positions[1][0] += usual[rule].rule == &kv_refreekv_by_attention ? 0 : 1;
		c[0].segment.row_positions = rows;
		decide("positions", &usual[rule], c, 2, 100);
		rows[0] = -1;
		decide("a row that sees nothing", &usual[rule], c, 2, 100);
		cache_free(&c[0]);
		cache_free(&c[1]);
	}
}

/* --- ties, NaN and infinity ---------------------------------------------------------- */

/* With equal keys only ties decide: the older position, then the first head. */
static void check_equal(const struct attend *a, uint32_t n, uint32_t budget)
{
	const struct kv_attention_params *p = &a->job.params;
	uint32_t m = n - p->sinks - p->tail, half = p->pool_max ? 0 : p->pool / 2, g, i;

	for (g = 0; g < a->job.n_kv_heads; g++) {
		const uint32_t *list = attend_indices(a, 0, g);
		uint32_t count = a->host.counts[g], ranked = count - (n - m);
		uint32_t expected = budget;

		if (p->rule == &kv_attend_mass)
			expected = (uint32_t)ceil(p->share / (1.0f / (float)m));
		if (p->rule == &kv_refreekv_by_attention)
			expected = (uint32_t)ceil(m * (1 - p->share) * (1 - p->share));
		CHECK(ranked == expected, "%s: %u of equal ones kept, expected %u", rule_name(p), ranked, expected);
		/* An average at an end has fewer neighbours, so it is smaller. */
		for (i = 0; i < ranked; i++)
			CHECK(list[p->sinks + i] == p->sinks + half + i, "%s: position %u is number %u of equal ones",
			      rule_name(p), list[p->sinks + i], i);
	}
}

static void test_equal(uint32_t type, unsigned rule)
{
	uint32_t n = 700, amount = usual[rule].rule == &kv_refreekv_by_attention ? 1 : 101;
	struct shape s = plain;
	size_t size = (size_t)n * s.n_kv_heads * s.dim, i;
	float *k = malloc(size * sizeof(*k));
	struct kv_random r = { 9 };
	struct attend a;
	struct cache c;

	for (i = 0; i < size; i++)
		k[i] = 0.25f;
	s.k_type = type;
	cache_make(&c, &r, &s, n, k, NULL);
	attend_make(&a, &usual[rule], &c, 1, amount);
	attend_queue(&a, NULL);
	attend_fetch(&a);
	check_all("equal keys", &a, 1);
	check_equal(&a, n, amount);
	attend_free(&a);
	cache_free(&c);
	free(k);
}

/* One bad segment between two good ones. */
static void test_bad(uint32_t type, unsigned rule, float bad)
{
	uint32_t n = 600, i;
	struct shape s = plain;
	size_t size = (size_t)n * s.n_kv_heads * s.dim, j;
	float *k = malloc(size * sizeof(*k));
	struct kv_random r = { 9 };
	struct cache c[3];

	for (j = 0; j < size; j++)
		k[j] = kv_random_normal(&r);
	k[size / 2 + 77] = bad;
	s.k_type = type;
	for (i = 0; i < 3; i++)
		cache_make(&c[i], &r, &s, n, i == 1 ? k : NULL, NULL);
	decide("a key that is not finite", &usual[rule], c, 3, 50);
	for (i = 0; i < 3; i++)
		cache_free(&c[i]);
	free(k);
}

static void test_special(void)
{
	for (uint32_t t = KVMOD_F32; t <= KVMOD_BF16; t++)
		for (unsigned rule = 0; rule < N_RULES; rule++) {
			test_equal(t, rule);
			test_bad(t, rule, NAN);
			test_bad(t, rule, INFINITY);
			test_bad(t, rule, -INFINITY);
		}
}

/* --- little shared memory ---------------------------------------------------------------- */

static void test_units(void)
{
	static const uint32_t n[] = { 900, 70, 1500 };
	struct shape s = plain;

	s.n_q_heads = 6;		/* 12 units of a KV head */
	for (uint32_t dim = 64; dim <= 256; dim *= 4)
		for (units = 1; units <= 7; units += 2)
			for (unsigned rule = 0; rule < N_RULES; rule++) {
				char name[80];

				if (quick && (units != 5 || dim == 64))
					continue;
				s.dim = dim;
				s.scale = 1 / sqrtf((float)dim);
				s.k_type = KVMOD_F32 + (units / 2 + rule) % 4;
				snprintf(name, sizeof(name), "%u units, heads of %u", units, dim);
				run(name, &s, &usual[rule], n, 3, 100);
			}
	units = 0;
}

/* --- the same bits -------------------------------------------------------------------- */

/* With scratch memory in any state, and from a graph. */
static void test_repeats(unsigned rule)
{
	uint32_t n[] = { 3000, 257, 32, 1500 }, runs = quick ? 3 : 50, i;
	struct kv_random r = { 3 };
	cudaGraphExec_t exec;
	cudaStream_t stream;
	cudaGraph_t graph;
	struct cache c[4];
	struct attend a;
	void *first;

	for (i = 0; i < 4; i++)
		cache_make(&c[i], &r, &plain, n[i], NULL, NULL);
	attend_make(&a, &usual[rule], c, 4, 200);
	first = malloc(a.output_bytes);
	CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	attend_queue(&a, stream);
	CUDA(cudaStreamEndCapture(stream, &graph));
	CUDA(cudaGraphInstantiate(&exec, graph, 0));
	for (i = 0; i < runs; i++) {
		CUDA(cudaMemset(a.scratch, (int)i, a.job.scratch_bytes));
		CUDA(cudaMemset(a.device.results, 0xff, a.output_bytes));
		CUDA(cudaDeviceSynchronize());
		if (i % 2)
			CUDA(cudaGraphLaunch(exec, stream));
		else
			attend_queue(&a, stream);
		attend_fetch(&a);
		if (i == 0)
			memcpy(first, a.host.results, a.output_bytes);
		CHECK(!memcmp(first, a.host.results, a.output_bytes), "%s: run %u differs", rule_name(&usual[rule]), i);
	}
	check_all("repeats", &a, 4);
	CUDA(cudaGraphExecDestroy(exec));
	CUDA(cudaGraphDestroy(graph));
	CUDA(cudaStreamDestroy(stream));
	attend_free(&a);
	free(first);
	for (i = 0; i < 4; i++)
		cache_free(&c[i]);
}

static void test_million(void)
{
	uint32_t n[] = { 1048576, 131071 };
	struct shape s = plain;

	s.n_q_heads = 4;
	s.n_kv_heads = 1;
	s.rows = 4;
	for (unsigned rule = 0; rule < N_RULES; rule++)
		run("a million", &s, &usual[rule], n, 2, 100000);
}

int main(int argc, char **argv)
{
	const char *golden = GOLDEN "policies.txt";
	bool million = false;
	int i;

	for (i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--quick"))
			quick = true;
		else if (!strcmp(argv[i], "--long"))
			million = true;
		else
			golden = argv[i];
	if (!gpu_there())
		return 77;
	if (!quick)
		test_golden(golden);
	test_shapes();
	test_short();
	test_views();
	test_many_sequences();
	test_parameters();
	test_positions();
	test_special();
	test_units();
	for (unsigned rule = 0; rule < N_RULES; rule++)
		test_repeats(rule);
	if (million)
		test_million();
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
