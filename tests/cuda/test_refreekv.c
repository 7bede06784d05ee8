/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV's decision on a GPU, ranked by position, is compared with double arithmetic and
 * with the golden vectors.
 *	test_refreekv [--quick] [--long] [GOLDEN]
 * --quick: few small caches, for a sanitizer; --long: also a million positions.
 * Without a GPU, the test says so and exits with 77.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/checks.h"
#include "tests/cuda/gpu.h"

static bool quick;

static const struct kv_refreekv_params usual = { 0.01, 4, 1, 0, 1 };
static const struct shape plain = { 8, 2, 64, KVMOD_BF16, KVMOD_F32, 1, 0, 0, false, 0.125f, 0, 2 };

/* Is the cut right, or is its loss so near to the threshold that rounding decides? */
static void check_result(const char *name, const struct cache *c, const struct kv_refreekv_params *p,
			 const struct kv_refreekv_result *r)
{
	uint32_t n = c->heads[0].n;
	struct answer a;
	double error;
	bool near;

	answer_of(c, p, &a);
	CHECK(r->status == a.status, "%s n=%u: status %d, expected %d", name, n, r->status, a.status);
	if (r->status == 0 && a.status == 0 && r->first == a.first) {
		error = fabs(r->loss - a.at_stop);
		near = fabs(a.at_stop - p->threshold) < 2e-6 || fabs(r->loss - p->threshold) < 2e-6;
		CHECK(error <= 1e-4 * a.at_stop || near, "%s n=%u first=%u: loss %.9g, expected %.9g",
		      name, n, r->first, r->loss, a.at_stop);
	} else if (r->status == 0 && a.status == 0 && r->first <= n) {
		near = fabs(a.loss[a.first] - p->threshold) < 2e-6 || fabs(a.loss[r->first] - p->threshold) < 2e-6;
		CHECK(near, "%s n=%u: first=%u (loss %.9g), expected %u (%.9g)", name, n, r->first,
		      a.loss[r->first], a.first, a.loss[a.first]);
	}
	CHECK(r->kept == (r->first ? n - r->first + p->sinks : n), "%s: kept=%u first=%u", name, r->kept, r->first);
	if (a.status)
		CHECK(r->kept == n && r->first == 0, "%s: status %d, but kept=%u", name, a.status, r->kept);
	free(a.loss);
}

/* Segments of a shape, each with its own length and rows. */
static void run_mixed(const char *name, const struct shape *shape, const struct kv_refreekv_params *p,
		      const uint32_t *n, const uint32_t *rows, uint32_t count)
{
	struct cache *caches = calloc(count, sizeof(*caches));
	struct kv_random r = { 77 };
	struct launch l;
	uint32_t i;

	for (i = 0; i < count; i++) {
		struct shape s = *shape;

		s.rows = rows ? rows[i] : s.rows;
		cache_make(&caches[i], &r, &s, n[i], NULL, NULL);
	}
	launch_make(&l, p, caches, count);
	launch_queue(&l, NULL);
	launch_fetch(&l);
	for (i = 0; i < count; i++)
		check_result(name, &caches[i], p, &l.host[i]);
	launch_free(&l);
	for (i = 0; i < count; i++)
		cache_free(&caches[i]);
	free(caches);
}

static void run(const char *name, const struct shape *shape, const struct kv_refreekv_params *p,
		const uint32_t *n, uint32_t count)
{
	run_mixed(name, shape, p, n, NULL, count);
}

/* --- golden vectors ---------------------------------------------------------- */

struct golden {
	char name[128];
	uint32_t n, kept, first;
	double loss;
	struct shape shape;
	struct kv_refreekv_params params;
};

static float *read_floats(FILE *f, const char *tag, size_t n)
{
	float *x = malloc(n * sizeof(*x));
	char word[16];
	size_t i;

	if (fscanf(f, " %15s", word) != 1 || strcmp(word, tag))
		exit(2);
	for (i = 0; i < n; i++)
		if (fscanf(f, "%f", &x[i]) != 1)
			exit(2);
	return x;
}

static bool read_case(FILE *f, struct golden *g, float **q, float **k)
{
	char scope[16];
	float *rows;
	uint32_t i, h;

	memset(g, 0, sizeof(*g));
	if (fscanf(f, " case %127s", g->name) != 1)
		return false;
	if (fscanf(f, " shape n=%u q_heads=%u kv_heads=%u head_dim=%u rows=%u", &g->n, &g->shape.n_q_heads,
		   &g->shape.n_kv_heads, &g->shape.dim, &g->shape.rows) != 5 ||
	    fscanf(f, " params threshold=%lf sinks=%u recent=%u norm_scope=%15s", &g->params.threshold,
		   &g->params.sinks, &g->params.recent, scope) != 4)
		exit(2);
	g->params.norm_all = !strcmp(scope, "all");
	g->params.rows = g->shape.rows;
	g->shape.scale = 1 / sqrtf((float)g->shape.dim);
	g->shape.q_type = KVMOD_F32;
	*q = read_floats(f, "q", (size_t)g->shape.rows * g->shape.n_q_heads * g->shape.dim);
	rows = read_floats(f, "k", (size_t)g->n * g->shape.n_kv_heads * g->shape.dim);
	*k = malloc((size_t)g->n * g->shape.n_kv_heads * g->shape.dim * sizeof(**k));
	for (i = 0; i < g->n; i++)
		for (h = 0; h < g->shape.n_kv_heads; h++)
			memcpy(*k + (h * g->n + i) * g->shape.dim,
			       rows + (i * g->shape.n_kv_heads + h) * g->shape.dim, g->shape.dim * sizeof(float));
	free(rows);
	if (fscanf(f, " expect keep=%u suffix=%u loss=%lf end", &g->kept, &g->first, &g->loss) != 3)
		exit(2);
	return true;
}

static void golden_case(struct golden *g, const float *q, const float *k, uint32_t type, uint32_t offset)
{
	struct kv_random r = { 1 };
	struct kv_refreekv_result *got;
	struct launch l;
	struct cache c;

	g->shape.k_type = type;
	g->shape.offset = g->shape.gap = offset;
	cache_make(&c, &r, &g->shape, g->n, k, q);
	launch_make(&l, &g->params, &c, 1);
	launch_queue(&l, NULL);
	launch_fetch(&l);
	got = l.host;
	if (type == KVMOD_F32)
		CHECK(got->status == 0 && got->kept == g->kept && (got->kept == g->n || got->first == g->first) &&
		      fabs(got->loss - g->loss) <= 1e-4 * g->loss,
		      "%s: status %d, kept %u, first %u, loss %.9g; expected %u, %u, %.9g", g->name, got->status,
		      got->kept, got->first, got->loss, g->kept, g->first, g->loss);
	check_result(g->name, &c, &g->params, got);
	launch_free(&l);
	cache_free(&c);
}

static void test_golden(const char *path)
{
	FILE *f = fopen(path, "r");
	struct golden g;
	float *q, *k;
	unsigned cases = 0;

	if (!f) {
		perror(path);
		exit(2);
	}
	for (; read_case(f, &g, &q, &k); cases++) {
		golden_case(&g, q, k, KVMOD_F32, 0);
		golden_case(&g, q, k, KVMOD_F32, 4);
		golden_case(&g, q, k, KVMOD_BF16, 0);
		golden_case(&g, q, k, KVMOD_F16, 2);
		if (g.shape.dim % 32 == 0)
			golden_case(&g, q, k, KVMOD_Q8_0, 0);
		free(q);
		free(k);
	}
	fclose(f);
	printf("golden: %u cases\n", cases);
	CHECK(cases >= 70, "only %u cases", cases);
}

/* --- made-up caches ------------------------------------------------------------ */

static void test_shapes(void)
{
	static const uint32_t heads[][2] = { { 4, 2 }, { 9, 3 }, { 5, 5 }, { 16, 1 }, { 20, 1 }, { 32, 8 }, { 40, 40 } };
	static const uint32_t dims[] = { 8, 24, 64, 72, 96, 128, 136, 192, 256 };
	static const uint32_t n[] = { 1, 4, 5, 6, 17, 255, 256, 257, 700, 1025 };
	unsigned i, j, t, q = 0;

	for (i = 0; i < sizeof(heads) / sizeof(*heads); i++)
		for (j = 0; j < sizeof(dims) / sizeof(*dims); j++)
			for (t = KVMOD_F32; t <= KVMOD_Q8_0; t++) {
				struct shape s = plain;
				struct kv_refreekv_params p = usual;
				char name[80];

				if ((t == KVMOD_Q8_0 && dims[j] % 32) || (quick && (i + j + t) % 9))
					continue;
				s.n_q_heads = heads[i][0];
				s.n_kv_heads = heads[i][1];
				s.dim = dims[j];
				s.scale = 1 / sqrtf((float)s.dim);
				s.k_type = t;
				s.q_type = KVMOD_F32 + q++ % 3;
				s.rows = 1 + (i + j) % 3 * 2;
				p.rows = s.rows > 3 ? 3 : s.rows;
				p.norm_all = (i + j + t) % 2;
				p.threshold = j % 2 ? 0.01 : 0.1;
				s.softcap = (i + t) % 5 == 0 ? 5 : 0;
				snprintf(name, sizeof(name), "%u/%u heads of %u, %s, %u rows", s.n_q_heads, s.n_kv_heads,
					 s.dim, kv_type_name(t), p.rows);
				/* n must be at least rows */
				run(name, &s, &p, n + (s.rows > 1 ? 2 : 0), quick ? 5 : s.rows > 1 ? 8 : 10);
			}
}

/* More rows than fit in a step, different numbers of rows in each segment, and views of all kinds. */
static void test_rows(void)
{
	static const uint32_t rows[] = { 8, 9, 16, 17, 25, 32, 33, 70 }, ratios[] = { 1, 3, 4, 5, 9 };
	static const uint32_t n[] = { 1030, 70, 300 };
	struct kv_refreekv_params p = usual;
	struct shape s = plain;
	unsigned i, j;

	p.rows = UINT32_MAX;
	for (i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		for (j = 0; j < sizeof(ratios) / sizeof(*ratios); j++) {
			uint32_t these[] = { rows[i], 1 + rows[i] / 2, 1 };
			char name[80];

			if (quick && i * 5 + j != 28)
				continue;
			s.n_q_heads = 2 * ratios[j];
			s.k_type = KVMOD_F32 + (i + j) % 4;
			s.dim = (i + j) % 4 == 3 ? 64 + 64 * (i % 3) : 64;
			s.scale = 1 / sqrtf((float)s.dim);
			s.gap = 16 * (j % 2) + 2 * (j % 3 == 2 && s.k_type != KVMOD_F32);
			s.offset = i % 3 == 2 ? 8 : 16 * (i % 3);
			s.interleaved = (i + j) % 3 == 0;
			p.sinks = i % 2 ? 4 : 70;
			p.norm_all = j % 2;
			snprintf(name, sizeof(name), "%u rows, %u query heads to a KV head, %s", rows[i], ratios[j],
				 kv_type_name(s.k_type));
			run_mixed(name, &s, &p, n, these, 3);
		}
}

/* Enough work for other readings between the two of a segment; some segments have nothing to read. */
static void test_order(void)
{
	enum { SEGMENTS = 30 };
	struct kv_refreekv_params p = usual;
	uint32_t n[SEGMENTS], rows[SEGMENTS], i;
	struct kv_random r = { 21 };
	struct shape s = plain;

	s.n_q_heads = s.n_kv_heads = 4;
	p.rows = UINT32_MAX;
	for (i = 0; i < SEGMENTS; i++) {
		n[i] = i % 7 == 3 ? 3 : kv_random_range(&r, 2000, quick ? 2300 : 9000);
		rows[i] = i % 7 == 3 ? 3 : 2 + i % 2;
	}
	run_mixed("30 segments", &s, &p, n, rows, SEGMENTS);
	s.dim = 256;		/* one block at a time on a multiprocessor */
	s.k_type = KVMOD_F16;
	s.scale = 1.f / 16;
	if (!quick)
		run_mixed("30 segments of 256", &s, &p, n, rows, SEGMENTS);
}

/* q8_0 keys that are read in words and others, with head dimensions that are no multiple of 128. */
static void test_q8(void)
{
	static const uint32_t n[] = { 1030, 33 }, dims[] = { 96, 192, 96, 192, 128, 256 }, gaps[] = { 2, 0, 6, 68, 2, 4 };
	struct shape s = plain;
	unsigned i, rows;

	s.k_type = KVMOD_Q8_0;
	for (i = 0; i < sizeof(dims) / sizeof(*dims); i++)
		for (rows = 1; rows <= 3; rows += 2) {
			const uint32_t these[] = { rows, rows };
			struct kv_refreekv_params p = usual;
			char name[80];

			if (quick && i != 1)
				continue;
			s.dim = dims[i];
			s.gap = gaps[i];
			s.interleaved = i % 2;
			s.scale = 1 / sqrtf((float)s.dim);
			p.rows = rows;
			snprintf(name, sizeof(name), "q8_0, heads of %u, gap %u, %u rows", s.dim, s.gap, rows);
			run_mixed(name, &s, &p, n, these, 2);
		}
}

static void test_views(void)
{
	static const uint32_t n[] = { 300, 33, 1030 };
	static const uint32_t offsets[][2] = { { 16, 0 }, { 0, 16 }, { 2, 0 }, { 8, 8 }, { 4, 12 }, { 32, 48 } };
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
			run(name, &s, &usual, n, quick ? 1 : 3);
		}
}

static void test_many_sequences(void)
{
	struct kv_random r = { 5 };
	uint32_t n[64], i;

	for (i = 0; i < 64; i++)
		n[i] = i % 7 == 0 ? 1 + i / 7 : kv_random_range(&r, 1, quick ? 300 : 3000);
	run("64 sequences", &plain, &usual, n, 64);
}

/* Tiles of all three sizes in one launch; the first two segments have parts of 32 positions. */
static void test_tiles(void)
{
	static const uint32_t n[] = { 8300, 9000, 5000, 2000, 700 }, dims[] = { 64, 128, 256 };
	struct kv_refreekv_params p = usual;
	struct shape s = plain;
	unsigned i, t;

	for (i = 0; i < 3; i++)
		for (t = KVMOD_F32; t <= KVMOD_Q8_0; t++) {
			char name[80];

			if (quick && (i != 1 || t != KVMOD_F16))
				continue;
			s.dim = dims[i];
			s.scale = 1 / sqrtf((float)s.dim);
			s.k_type = t;
			s.softcap = t == KVMOD_F16 ? 5 : 0;
			p.sinks = (i + t) % 2 ? 40 : 600;
			p.norm_all = t % 2;
			p.threshold = i == 1 ? 0.2 : 0.01;
			snprintf(name, sizeof(name), "tiles, heads of %u, %s", s.dim, kv_type_name(t));
			run(name, &s, &p, n, 5);
		}
}

/* As many heads as there may be: shared memory does not have room for all that a finish needs. */
static void test_most_heads(void)
{
	static const uint32_t heads[][2] = { { 128, 128 }, { 128, 1 }, { 127, 127 } }, n[] = { 700, 130 };
	struct kv_refreekv_params p = usual;
	struct shape s = plain;
	unsigned i, t;

	for (i = 0; i < 3; i++)
		for (t = KVMOD_F32; t <= KVMOD_Q8_0; t++) {
			char name[80];

			if (quick && i + t != 3)
				continue;
			s.n_q_heads = heads[i][0];
			s.n_kv_heads = heads[i][1];
			s.dim = t == KVMOD_F16 ? 256 : 64;
			s.k_type = t;
			for (s.rows = 1; s.rows <= 2; s.rows++) {
				p.rows = s.rows;
				snprintf(name, sizeof(name), "%u/%u heads, %s, %u rows", s.n_q_heads, s.n_kv_heads,
					 kv_type_name(t), s.rows);
				run(name, &s, &p, n, 2);
			}
		}
}

static void test_parameters(void)
{
	static const double thresholds[] = { 0, 1e-5, 0.001, 0.3, 0.99, 1 };
	static const uint32_t sinks[] = { 0, 1, 4, 600, 1024 }, recents[] = { 1, 30, 300, 900 };
	static const uint32_t n[] = { 1300, 1535, 1536 };
	unsigned i, j, k;

	for (i = 0; i < 6; i++)
		for (j = 0; j < 5; j++)
			for (k = 0; k < 4; k++) {
				struct kv_refreekv_params p = { thresholds[i], sinks[j], recents[k], (i + j + k) % 2, 1 };
				char name[80];

				snprintf(name, sizeof(name), "threshold %g, sinks %u, recent %u, all %u", p.threshold,
					 p.sinks, p.recent, p.norm_all);
				if (!quick || (i + j + k) % 8 == 0)
					run(name, &plain, &p, n, 3);
			}
}

/* One segment with the caller's values between two ordinary segments. */
static void run_special(const char *name, const struct shape *s, uint32_t n, const float *k, const float *q, int32_t status)
{
	struct kv_refreekv_params p = usual;
	struct kv_random r = { 9 };
	struct cache c[3];
	struct launch l;
	unsigned i;

	for (i = 0; i < 3; i++)
		cache_make(&c[i], &r, s, n, i == 1 ? k : NULL, i == 1 ? q : NULL);
	p.rows = s->rows;
	launch_make(&l, &p, c, 3);
	launch_queue(&l, NULL);
	launch_fetch(&l);
	for (i = 0; i < 3; i++)
		check_result(name, &c[i], &p, &l.host[i]);
	CHECK(l.host[1].status == status, "%s: status %d, expected %d", name, l.host[1].status, status);
	launch_free(&l);
	for (i = 0; i < 3; i++)
		cache_free(&c[i]);
}

static void test_special(uint32_t rows)
{
	static const float bad[] = { NAN, INFINITY, -INFINITY };
	uint32_t n = 600, t, b;

	for (t = KVMOD_F32; t <= KVMOD_BF16; t++) {
		struct shape s = plain;
		size_t size = (size_t)n * s.n_kv_heads * s.dim, i;
		size_t q_size = (size_t)rows * s.n_q_heads * s.dim;
		float *k = malloc(size * sizeof(*k));

		s.k_type = t;
		s.rows = rows;
		for (i = 0; i < size; i++)
			k[i] = 0.25f;
		run_special("equal keys", &s, n, k, NULL, 0);
		for (b = 0; b < 3; b++) {
			k[size / 2 + 77] = bad[b];
			run_special("a key that is not finite", &s, n, k, NULL, KVMOD_ENUMERIC);
		}
		/* all logits of this key are -infinity; it is not a sink */
		k[size / 2 + 77] = 0.25f;
		k[size / 2 + 100 * s.dim] = -INFINITY;
		float *q = malloc(q_size * sizeof(*q));
		for (i = 0; i < q_size; i++)
			q[i] = 0.5f;
		run_special("a key infinitely far away", &s, n, k, q, KVMOD_ENUMERIC);
		/* the first position takes all attention: nothing is left to rank */
		memset(k, 0, size * sizeof(*k));
		for (i = 0; i < s.dim; i++)
			k[i] = k[(size_t)n * s.dim + i] = 60;
		s.spread = 0;
		for (i = 0; i < q_size; i++)
			q[i] = 60;
		run_special("nothing to rank", &s, n, k, q, KV_REFREEKV_FLAT);
		free(q);
		free(k);
	}
}

/* The same bits 200 times, with scratch memory in any state, and from a graph. */
static void test_repeats(uint32_t rows)
{
	uint32_t n[] = { 9000, 257, 1, 1500 }, runs = quick ? 3 : 200, i;
	struct kv_refreekv_params p = usual;
	struct shape s = plain;
	struct cache c[4];
	struct kv_random r = { 3 };
	struct kv_refreekv_result first[4];
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	cudaStream_t stream;
	struct launch l;

	s.rows = p.rows = rows;
	n[2] = rows;
	for (i = 0; i < 4; i++)
		cache_make(&c[i], &r, &s, n[i], NULL, NULL);
	launch_make(&l, &p, c, 4);
	CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	launch_queue(&l, stream);
	CUDA(cudaStreamEndCapture(stream, &graph));
	CUDA(cudaGraphInstantiate(&exec, graph, 0));
	for (i = 0; i < runs; i++) {
		CUDA(cudaMemset(l.scratch, (int)i, l.job.scratch_bytes));
		CUDA(cudaMemset(l.results, 0xff, sizeof(first)));
		CUDA(cudaDeviceSynchronize());
		if (i % 2)
			CUDA(cudaGraphLaunch(exec, stream));
		else
			launch_queue(&l, stream);
		launch_fetch(&l);
		if (i == 0)
			memcpy(first, l.host, sizeof(first));
		CHECK(!memcmp(first, l.host, sizeof(first)), "run %u differs", i);
	}
	for (i = 0; i < 4; i++)
		check_result("repeats", &c[i], &p, &first[i]);
	CUDA(cudaGraphExecDestroy(exec));
	CUDA(cudaGraphDestroy(graph));
	CUDA(cudaStreamDestroy(stream));
	launch_free(&l);
	for (i = 0; i < 4; i++)
		cache_free(&c[i]);
}

static void test_million(void)
{
	uint32_t n[] = { 1048576, 131071 };
	struct shape s = plain;

	s.n_q_heads = 4;
	s.n_kv_heads = 1;
	run("a million", &s, &usual, n, 2);
}

int main(int argc, char **argv)
{
	const char *golden = GOLDEN "refreekv.txt";
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
	test_golden(golden);
	test_shapes();
	test_rows();
	test_order();
	test_q8();
	test_views();
	test_many_sequences();
	test_tiles();
	test_most_heads();
	test_parameters();
	test_special(1);
	test_special(3);
	test_repeats(1);
	test_repeats(6);
	if (million)
		test_million();
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
