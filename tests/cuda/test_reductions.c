/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Column reductions of attention and norms of Wo v on a GPU are compared with double
 * arithmetic.
 *	test_reductions [--quick] [--long]
 * --quick: few small jobs, for a sanitizer; --long: also the shapes of a prefill.
 * Without a GPU, the test says so and exits with 77.
 */
#include <stdlib.h>
#include <string.h>

#include "plugins/cuda/device.h"
#include "tests/cuda/checks.h"
#include "tests/cuda/host.h"
#include "tests/cuda/reductions.h"

#define MOST_JOBS 40

static struct kvmod_instance *device;
static const struct kvmod_device_attention *calls;
static struct kv_random random_numbers = { 11 };
static bool quick;
static double worst_columns, worst_norms;

static const struct columns_shape plain = {
	.n = 300, .n_rows = 16, .group = 4, .dim = 128, .n_seen = 285, .k_type = KVMOD_F16, .scale = 0.088f,
	.spread = 1, .fresh = true,
};

/* --- columns ---------------------------------------------------------------------------- */

/* Scratch memory of exactly the size asked for, with memory after it that must stay as it is. */
#define AFTER 4096u

static void *scratch_of(const struct kvmod_columns *jobs, uint32_t n, uint64_t *bytes)
{
	char *poison;
	void *scratch;

	*bytes = calls->columns_scratch(device, jobs, n, sizeof(*jobs));
	poison = malloc(*bytes + AFTER);
	if (!poison || kv_cuda_device_ops.alloc(device, *bytes + AFTER, &scratch))
		abort();
	memset(poison, 0xff, *bytes + AFTER);
	kv_cuda_device_ops.from_host(device, NULL, scratch, poison, *bytes + AFTER);
	free(poison);
	return scratch;
}

static void check_after(const void *scratch, uint64_t bytes, const char *name)
{
	unsigned char after[AFTER];
	uint32_t wrong = 0;

	kv_cuda_device_ops.to_host(device, NULL, after, (const char *)scratch + bytes, AFTER);
	kv_cuda_device_ops.synchronize(device, NULL);
	for (uint32_t i = 0; i < AFTER; i++)
		wrong += after[i] != 0xff;
	CHECK(wrong == 0, "%s: %u bytes after the scratch memory were written", name, wrong);
}

/* All shapes in one call, twice: the same input gives the same bits. */
static void reduce(const char *name, const struct columns_shape *shapes, uint32_t n)
{
	static struct columns c[MOST_JOBS];
	struct kvmod_columns jobs[MOST_JOBS];
	uint64_t bytes;
	void *scratch;
	char why[200];

	for (uint32_t i = 0; i < n; i++) {
		columns_make(&c[i], device, &random_numbers, &shapes[i]);
		jobs[i] = c[i].job;
	}
	scratch = scratch_of(jobs, n, &bytes);
	CHECK(calls->columns(device, NULL, jobs, n, sizeof(*jobs), scratch) == 0, "%s: %s", name, reason);
	for (uint32_t i = 0; i < n; i++) {
		columns_fetch(&c[i], device);
		CHECK(columns_are_right(&c[i], &worst_columns, why, sizeof(why)), "%s, job %u: %s", name,
		      i, why);
		columns_reset(&c[i], device);
	}
	CHECK(calls->columns(device, NULL, jobs, n, sizeof(*jobs), scratch) == 0, "%s: %s", name, reason);
	check_after(scratch, bytes, name);
	for (uint32_t i = 0; i < n; i++) {
		float *first = malloc(c[i].n_out * sizeof(*first));

		if (!first)
			abort();
		memcpy(first, c[i].after, c[i].n_out * sizeof(*first));
		columns_fetch(&c[i], device);
		CHECK(memcmp(first, c[i].after, c[i].n_out * sizeof(*first)) == 0,
		      "%s, job %u: other bits", name, i);
		columns_free(&c[i], device);
		free(first);
	}
	kv_cuda_device_ops.free(device, scratch);
}

/* Both reductions of one shape. */
static void both(const char *name, const struct columns_shape *shape)
{
	struct columns_shape s[2] = { *shape, *shape };

	s[1].reduce = KVMOD_COLUMNS_MAX;
	reduce(name, s, 2);
}

static void test_types(void)
{
	static const uint32_t dims[] = { 64, 128, 256, 32, 96, 8, 40, 136, 200 };

	for (uint32_t type = KVMOD_F32; type <= KVMOD_Q4_0; type++)
		for (uint32_t d = 0; d < sizeof(dims) / sizeof(*dims); d++) {
			struct columns_shape s = plain;
			char name[80];

			if (dims[d] % kvmod_block_size(type) || (quick && d > 2))
				continue;
			s.k_type = type;
			s.dim = dims[d];
			s.n = quick ? 70 : 300;
			s.n_seen = s.n - s.n_rows + 1;
			snprintf(name, sizeof(name), "type %u, head_dim %u", type, s.dim);
			both(name, &s);
			/* rows at odd addresses */
			s.offset = type == KVMOD_F32 ? 4 : 2;
			s.gap = type == KVMOD_F32 ? 12 : 6;
			s.q_gap = 3;
			s.heads_first = true;
			snprintf(name, sizeof(name), "type %u, head_dim %u, odd addresses", type, s.dim);
			both(name, &s);
		}
}

/* Rows and heads that fill units of eight in every way. */
static void test_rows(void)
{
	static const uint32_t groups[] = { 1, 2, 3, 5, 7, 8, 12 }, rows[] = { 1, 2, 3, 4, 5, 8, 9, 31, 64 };

	for (uint32_t g = 0; g < sizeof(groups) / sizeof(*groups); g++)
		for (uint32_t r = 0; r < sizeof(rows) / sizeof(*rows); r++) {
			struct columns_shape s = plain;
			char name[80];

			if (quick && (g + r) % 4)
				continue;
			s.group = groups[g];
			s.n_rows = rows[r];
			s.dim = 64;
			s.n = 150;
			s.n_seen = s.n - s.n_rows + 1;
			s.fresh = r % 2;
			snprintf(name, sizeof(name), "%u query heads, %u rows", s.group, s.n_rows);
			both(name, &s);
		}
}

static void test_lengths(void)
{
	static const uint32_t lengths[] = { 1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4097 };

	for (uint32_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++)
		for (uint32_t part = 0; part < 4; part++) {
			struct columns_shape s = plain;
			char name[80];

			if (quick && (lengths[i] > 300 || part % 2))
				continue;
			s.n = lengths[i];
			s.n_rows = part < 2 ? 1 : 20;
			/* the first row sees one, the last one all; or no row sees all; or all see all */
			s.n_seen = part == 1 ? s.n + 7 : s.n > s.n_rows && part == 2 ? s.n - s.n_rows + 1 : 1;
			snprintf(name, sizeof(name), "%u positions, %u rows, %u seen", s.n, s.n_rows, s.n_seen);
			both(name, &s);
		}
}

static void test_spans(void)
{
	static const struct {
		uint32_t n_spans;
		struct kvmod_span spans[4];
	} cases[] = {
		{ 1, { { 0, 300 } } }, { 1, { { 299, 300 } } }, { 1, { { 7, 8 } } }, { 1, { { 5, 5 } } },
		{ 2, { { 0, 4 }, { 100, 300 } } }, { 3, { { 0, 4 }, { 40, 111 }, { 280, 300 } } },
		{ 4, { { 1, 2 }, { 2, 3 }, { 3, 64 }, { 150, 290 } } },
		{ 4, { { 0, 0 }, { 9, 9 }, { 20, 30 }, { 292, 300 } } },
	};

	for (uint32_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		for (uint32_t part = 0; part < 3; part++) {
			struct columns_shape s = plain;
			char name[80];

			if (quick && part)
				continue;
			s.n_spans = cases[i].n_spans;
			memcpy(s.spans, cases[i].spans, sizeof(s.spans));
			/* part 2: the first rows see nothing of most spans */
			s.n_rows = part == 1 ? 3 : 40;
			s.n_seen = part == 2 ? 3 : 260;
			s.fresh = part;
			snprintf(name, sizeof(name), "spans %u, %u rows, %u seen", i, s.n_rows, s.n_seen);
			both(name, &s);
		}
}

/* Logits of every size. */
static void test_numbers(void)
{
	struct columns_shape s = plain;

	s.spread = 0;
	both("queries of zero", &s);
	s.spread = 30;
	both("one position takes all", &s);
	s.spread = 1e-6f;
	both("tiny queries", &s);
	s.spread = 2;
	s.bias = 80;
	both("keys with a large element", &s);
	s.k_type = KVMOD_F32;
	both("f32 keys with a large element", &s);
	s.k_type = KVMOD_BF16;
	s.bias = 0;
	s.softcap = 20;
	both("a soft cap", &s);
	s.spread = 40;
	both("a soft cap that is reached", &s);
}

/* Jobs that differ in everything that may differ, more of them than one launch takes. */
static void test_many(void)
{
	struct columns_shape s[MOST_JOBS];

	for (uint32_t i = 0; i < MOST_JOBS; i++) {
		s[i] = plain;
		s[i].n = 1 + i * 37 % 500;
		s[i].n_rows = 1 + i * 7 % 40;
		s[i].n_seen = 1 + i * 11 % s[i].n;
		s[i].dim = 64;
		s[i].reduce = i % 3 == 0;
		s[i].q_gap = i % 5;
		s[i].gap = i % 4 * 2;
		s[i].fresh = i % 2;
		/* seen by no row: nothing is left of it */
		if (i % 7 == 3 && s[i].n > s[i].n_seen + s[i].n_rows) {
			s[i].n_spans = 1;
			s[i].spans[0] = (struct kvmod_span){ s[i].n - 1, s[i].n };
		}
	}
	reduce("many jobs", s, quick ? 8 : MOST_JOBS);
}

/* More jobs than one launch takes: two in turn, thousands of times. */
static void test_launches(void)
{
	enum { N = 9001, NUMBERS = 64 };
	struct kvmod_columns *jobs = calloc(N, sizeof(*jobs));
	float *numbers = calloc(N, NUMBERS * sizeof(*numbers));
	struct columns c[2];
	void *out, *scratch;
	uint64_t bytes;
	char why[200];

	if (!jobs || !numbers || kv_cuda_device_ops.alloc(device, N * NUMBERS * sizeof(*numbers), &out))
		abort();
	for (uint32_t i = 0; i < 2; i++) {
		struct columns_shape s = plain;

		s.dim = 64;
		s.group = 2;
		s.n = 20 + i;
		s.n_rows = 3;
		s.n_seen = 18;
		columns_make(&c[i], device, &random_numbers, &s);
	}
	for (uint32_t i = 0; i < N; i++) {
		jobs[i] = c[i % 2].job;
		jobs[i].out = (float *)out + i * NUMBERS;
		memcpy(numbers + i * NUMBERS, c[i % 2].before, c[i % 2].n_out * sizeof(*numbers));
	}
	kv_cuda_device_ops.from_host(device, NULL, out, numbers, N * NUMBERS * sizeof(*numbers));
	scratch = scratch_of(jobs, N, &bytes);
	CHECK(calls->columns(device, NULL, jobs, N, sizeof(*jobs), scratch) == 0, "%u jobs: %s", N, reason);
	kv_cuda_device_ops.to_host(device, NULL, numbers, out, N * NUMBERS * sizeof(*numbers));
	kv_cuda_device_ops.synchronize(device, NULL);
	check_after(scratch, bytes, "several launches");
	for (uint32_t i = 0; i < N; i++) {
		memcpy(c[i % 2].after, numbers + i * NUMBERS, c[i % 2].n_out * sizeof(*numbers));
		CHECK(columns_are_right(&c[i % 2], &worst_columns, why, sizeof(why)), "job %u of %u: %s",
		      i, N, why);
	}
	for (uint32_t i = 0; i < 2; i++)
		columns_free(&c[i], device);
	kv_cuda_device_ops.free(device, scratch);
	kv_cuda_device_ops.free(device, out);
	free(numbers);
	free(jobs);
}

/* A prefill: so many blocks that they are not split by head, and all units of the pipeline in use. */
static void test_long(void)
{
	static struct columns_shape s[MOST_JOBS];

	for (uint32_t i = 0; i < MOST_JOBS; i++) {
		s[i] = plain;
		s[i].n = 9000;
		s[i].n_rows = i < 2 ? 512 : 1;
		s[i].n_seen = 9000 - s[i].n_rows + 1;
		s[i].reduce = i % 2;
	}
	reduce("a prefill", s, MOST_JOBS);
	s[0].n = 131072;
	s[0].n_rows = 4;
	s[0].n_seen = 131069;
	both("128k positions", s);
}

/* --- norms --------------------------------------------------------------------------------- */

static void norms(const char *name, const struct norms_shape *shapes, uint32_t n)
{
	static struct norms c[MOST_JOBS];
	struct kvmod_norms jobs[MOST_JOBS];
	char why[200];

	for (uint32_t i = 0; i < n; i++) {
		norms_make(&c[i], device, &random_numbers, &shapes[i]);
		jobs[i] = c[i].job;
	}
	CHECK(calls->norms(device, NULL, jobs, n, sizeof(*jobs)) == 0, "%s: %s", name, reason);
	for (uint32_t i = 0; i < n; i++) {
		norms_fetch(&c[i], device);
		CHECK(norms_are_right(&c[i], &worst_norms, why, sizeof(why)), "%s, job %u: %s", name, i, why);
		norms_free(&c[i], device);
	}
}

static void test_norms(void)
{
	static const uint32_t dims[] = { 64, 128, 256, 32, 96, 8, 40, 200 };
	struct norms_shape many[12];
	char name[80];

	for (uint32_t type = KVMOD_F32; type <= KVMOD_Q4_0; type++)
		for (uint32_t d = 0; d < sizeof(dims) / sizeof(*dims); d++) {
			struct norms_shape s = { .n = 130 + d, .group = 1 + d % 4, .dim = dims[d],
				.n_out = 50 + 31 * d, .v_type = type };

			if (dims[d] % kvmod_block_size(type) || (quick && d > 2))
				continue;
			snprintf(name, sizeof(name), "norms, type %u, head_dim %u", type, s.dim);
			norms(name, &s, 1);
			s.offset = type == KVMOD_F32 ? 4 : 2;
			s.gap = type == KVMOD_F32 ? 4 : 2;
			s.wo_offset = s.wo_gap = 1;
			snprintf(name, sizeof(name), "norms, type %u, head_dim %u, odd addresses", type, s.dim);
			norms(name, &s, 1);
		}
	for (uint32_t i = 0; i < 12; i++)
		many[i] = (struct norms_shape){ .n = 1 + 61 * i, .group = 1 + i % 5,
			.dim = i < 6 ? 128 : 64 - i % 2 * 24, .n_out = 20 + 97 * i,
			.v_type = i % 2 ? KVMOD_F16 : KVMOD_BF16 };
	norms("many norms", many, quick ? 7 : 12);
	for (uint32_t i = 0; i < 8 && !quick; i++)
		many[i] = (struct norms_shape){ .n = 2100, .group = 4, .dim = 128, .n_out = 70,
			.v_type = KVMOD_F16 };
	if (!quick)
		norms("norms of large tiles", many, 8);
}

int main(int argc, char **argv)
{
	bool is_long = false;

	for (int i = 1; i < argc; i++) {
		quick |= strcmp(argv[i], "--quick") == 0;
		is_long |= strcmp(argv[i], "--long") == 0;
	}
	device = reductions_open(&host);
	if (!device) {
		printf("SKIP: no GPU: %s\n", reason);
		return 77;
	}
	calls = reductions_calls(device);
	test_types();
	test_rows();
	test_lengths();
	test_spans();
	test_numbers();
	test_many();
	if (!quick)
		test_launches();
	if (is_long)
		test_long();
	test_norms();
	reductions_close(device);
	printf("%u checks, %u failed; largest relative errors: columns %.2g, norms %.2g\n", checks, failures,
	       worst_columns, worst_norms);
	return failures > 0;
}
