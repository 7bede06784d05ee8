/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of golden vectors: good files, and where bad ones are bad. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/testkit/vectors.h"

#define HEAD "case c\npolicy p\nshape n=2 q_heads=2 kv_heads=1 head_dim=2 rows=1\n"
#define K "k 1 2 3 4\n"
#define LATER "case c\npolicy p\nshape n=2 q_heads=2 kv_heads=1 head_dim=2 rows=1 logical=9\n"
#define CACHED "cached layer=0 head=0 count=2 positions=0,8\n"
#define EXPECT "expect layer=0 head=0 count=1 positions=1\n"

static char path[] = "/tmp/kvmod-vectors.XXXXXX";

static void write_text(const char *text, size_t n)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(text, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

/* Reads to the end or to a mistake; v stays open. */
static int read_all(struct vectors *v, unsigned *n)
{
	struct vectors_case *c;
	int got;

	ck_assert_msg(vectors_open(v, path) == 0, "%s", v->error);
	for (*n = 0; (got = vectors_next(v, &c)) == 1; ++*n)
		vectors_case_free(c);
	return got;
}

static const struct {
	const char *text;
	const char *error;		/* after the file's name */
} bad[] = {
	{ "kase c\n", ":1: `kase`: expected case NAME" },
	{ "\n\ncase c d\n", ":3: expected one word" },
	{ "case c\n", ":1: the file ends inside case c" },
	{ "case c\nend\n", ":2: case c has no shape" },
	{ "case c\nsize n=1\n",
	  ":2: `size`: expected policy, shape, params, numbers, cached, expect or end" },
	{ "case c\npolicy a\npolicy b\n", ":3: given twice in one case" },
	{ "case c\nshape n=1 q_heads=1\n",
	  ":2: a shape needs n, q_heads, kv_heads and head_dim" },
	{ "case c\nshape n=1 q_heads=3 kv_heads=2 head_dim=1\n",
	  ":2: q_heads=3: expected a multiple of kv_heads=2" },
	{ "case c\nshape n=x\n", ":2: `x`: expected a number of at most 1048576" },
	{ "case c\nshape n=-1\n", ":2: `-1`: expected a number of at most 1048576" },
	{ "case c\nshape n=1048577\n", ":2: `1048577`: expected a number of at most 1048576" },
	{ "case c\nshape n=2 q_heads=1 kv_heads=1 head_dim=1 rows=3\n", ":2: rows=3: expected at most n=2" },
	{ "case c\nshape layers=1048576 n=1048576 q_heads=1 kv_heads=1 head_dim=1\n",
	  ":2: the shape has more than 268435456 positions in all heads" },
	{ "case c\nshape depth=3\n", ":2: unknown key `depth` of a shape" },
	{ "case c\nshape n\n", ":2: `n`: expected KEY=VALUE" },
	{ "case c\nk 1 2\n", ":2: numbers before the shape: expected the shape first" },
	{ "case c\nexpect layer=0\n", ":2: an expect line before the shape: expected the shape first" },
	{ HEAD HEAD, ":4: `case`: expected policy, shape, params, numbers, cached, expect or end" },
	{ HEAD "shape n=1\n", ":4: given twice in one case" },
	{ HEAD "params a=1 a=2\n", ":4: parameter a given twice" },
	{ HEAD "params a=\n", ":4: `a=`: expected KEY=VALUE" },
	{ HEAD "k 1 2 3\n", ":4: number 4 of 4: expected a number, not ``" },
	{ HEAD "k 1 2 3 4 5\n", ":4: more than the 4 numbers of this shape" },
	{ HEAD "k 1 2 x 4\n", ":4: number 3 of 4: expected a number, not ` x 4`" },
	{ HEAD "k 1 2,5 3 4\n", ":4: number 2 of 4: expected a number, not ` 2,5 3 4`" },
	{ HEAD K K, ":5: more than 1 lines of k" },
	{ HEAD "wo 1\n", ":4: the shape has 0 numbers of wo a layer: expected 1 to 268435456" },
	{ HEAD "end\n", ":4: case c has expectations for 0 of its 1 heads" },
	{ HEAD "expect layer=0 head=0 count=1\n",
	  ":4: expected layer=, head=, count=, positions=" },
	{ HEAD "expect layer=1 head=0 count=1 positions=0\n",
	  ":4: `1`: expected a number of at most 0" },
	{ HEAD EXPECT EXPECT, ":5: layer 0, head 0, count 1: out of order, or empty" },
	{ HEAD "expect layer=0 head=0 count=2 positions=1\n", ":4: expected 2 positions" },
	{ HEAD "expect layer=0 head=0 count=1 positions=0,1\n", ":4: expected 1 positions" },
	{ HEAD "expect layer=0 head=0 count=2 positions=1,1\n", ":4: position 1 after 1: expected ascending positions" },
	{ HEAD "expect layer=0 head=0 count=1 positions=2\n",
	  ":4: `2`: expected a number of at most 1" },
	{ HEAD "expect layer=0 head=0 count=1 positions=1 more\n", ":4: unexpected words after the positions" },
	{ HEAD "expect keep=1 suffix=1 loss=0\n", ":4: keep= needs the parameter sinks" },
	{ HEAD "params sinks=1\nexpect keep=1 suffix=1 loss=0\n",
	  ":5: keep=1, but 1 sinks and the positions from 1 on are 2" },
	{ "case c\nshape n=2 q_heads=1 kv_heads=1 head_dim=1 logical=1\n",
	  ":2: logical=1: expected at least n=2" },
	{ "case c\n" CACHED, ":2: cached positions before the shape: expected the shape first" },
	{ HEAD EXPECT CACHED, ":5: cached positions after an expect line: expected them before it" },
	{ LATER EXPECT, ":4: cached positions for 0 of 1 heads: expected those of all heads" },
	{ LATER "cached layer=0 head=0 count=3 positions=0,7,8\n",
	  ":4: `3`: expected a number of at most 2" },
	{ LATER "cached layer=0 head=0 count=2 positions=0,9\n",
	  ":4: `9`: expected a number of at most 8" },
	{ LATER CACHED CACHED, ":5: layer 0, head 0, count 2: out of order, or empty" },
	{ LATER CACHED EXPECT, ":5: position 1 is not cached" },
	{ LATER CACHED "params sinks=1\nexpect keep=2 suffix=9 loss=0\n",
	  ":6: keep=2, but 1 sinks and the positions from 9 on are 1" },
	{ HEAD "params sinks=1\nexpect keep=2 suffix=1 loss=nan\n",
	  ":5: expected a finite loss at the end of the line" },
	{ "case c\nshape layers=2 n=2 q_heads=1 kv_heads=1 head_dim=2\n" K
	  "expect layer=0 head=0 count=1 positions=1\nexpect layer=1 head=0 count=1 positions=1\n"
	  "end\n", ":6: case c has 1 lines of k for 2 layers" },
};

START_TEST(mistakes_are_told_with_their_place)
{
	struct vectors v;
	unsigned n;

	write_text(bad[_i].text, strlen(bad[_i].text));
	ck_assert_int_eq(read_all(&v, &n), KVMOD_EFORMAT);
	ck_assert_mem_eq(v.error, path, strlen(path));
	ck_assert_str_eq(v.error + strlen(path), bad[_i].error);
	vectors_close(&v);
}
END_TEST

START_TEST(binary_junk)
{
	static const char junk[] = "case\0c\n";
	struct vectors v;
	unsigned n;

	write_text(junk, sizeof(junk) - 1);
	ck_assert_int_eq(read_all(&v, &n), KVMOD_EFORMAT);
	ck_assert_str_eq(v.error + strlen(path), ":1: a NUL byte: expected a text file");
	vectors_close(&v);
}
END_TEST

START_TEST(a_file_cut_anywhere)
{
	static const char whole[] = HEAD "params a=1\n" K EXPECT "end\n";
	struct vectors v;
	unsigned n;

	for (size_t cut = 1; cut < sizeof(whole) - 2; cut++) {
		write_text(whole, cut);
		ck_assert_int_eq(read_all(&v, &n), KVMOD_EFORMAT);
		vectors_close(&v);
	}
	write_text(whole, sizeof(whole) - 1);
	ck_assert_int_eq(read_all(&v, &n), 0);
	ck_assert_uint_eq(n, 1);
	vectors_close(&v);
}
END_TEST

START_TEST(no_such_file)
{
	struct vectors v;

	ck_assert_int_eq(vectors_open(&v, "/no/such/file"), KVMOD_ENOENT);
	ck_assert_str_eq(v.error, "/no/such/file: No such file or directory");
	vectors_close(&v);
}
END_TEST

static struct vectors_case *only_case(const char *text)
{
	struct vectors v;
	struct vectors_case *c;

	write_text(text, strlen(text));
	ck_assert_msg(vectors_open(&v, path) == 0, "%s", v.error);
	ck_assert_msg(vectors_next(&v, &c) == 1, "%s", v.error);
	vectors_close(&v);
	return c;
}

START_TEST(a_case_as_a_request)
{
	struct vectors_case *c = only_case(
		"case c\npolicy p\nshape n=2 q_heads=2 kv_heads=1 head_dim=2 rows=1 width=3\n"
		"params budget=0.5 rope=interleaved rope_base=500\n"
		"q 1 2 3 4\nk 5 6 7 8\nv 1 2 -1 0.5\nwo 1 0 2 0 1 -1 1 1 1 1 1 1\n"
		"expect layer=0 head=0 count=1 positions=1\nend\n");
	struct kvmod_model model = vectors_model(c);
	char *overrides[VECTORS_MAX_PARAMS];
	struct vectors_request r;
	const struct kvmod_segment *s;
	const float *norm;

	ck_assert_uint_eq(model.rope_interleaved, 1);
	ck_assert_float_eq(model.rope_base, 500);
	ck_assert_uint_eq(vectors_overrides(c, overrides), 1);
	ck_assert_str_eq(overrides[0], "policy p.budget=0.5");
	free(overrides[0]);

	ck_assert_int_eq(vectors_request(c, KVMOD_F32, &r), 0);
	s = kvmod_segment_at(&r.d.request, 0);
	ck_assert_uint_eq(s->n_rows, 1);
	ck_assert_uint_eq(s->logical, 2);
	ck_assert_float_eq(((const float *)((const char *)s->q.data + s->q.head_stride))[1], 4);
	ck_assert_float_eq(*(const float *)((const char *)kvmod_head_at(s, 0)->k.data +
					    kvmod_head_at(s, 0)->k.stride), 7);
	/* v = (1, 2): (1, 2, 0) and (3, 3, 3); v = (-1, 1/2): (-1, 1/2, -5/2) and -1/2 thrice */
	norm = s->wo_norm.data;
	ck_assert_float_eq(norm[0], 3);
	ck_assert_float_eq(norm[1], 4);
	norm = (const float *)((const char *)norm + s->wo_norm.head_stride);
	ck_assert_float_eq(norm[0], 9);
	ck_assert_float_eq(norm[1], 1.5f);
	vectors_request_free(&r);
	vectors_case_free(c);
}
END_TEST

/* What earlier cuts left: of each head other positions, and of one head fewer. */
START_TEST(a_later_turn_as_a_request)
{
	struct vectors_case *c = only_case(
		"case c\npolicy p\nshape n=3 q_heads=2 kv_heads=2 head_dim=1 rows=1 logical=9\n"
		"q 1 2\nk 1 2 3 4 5 6\n"
		"cached layer=0 head=0 count=3 positions=0,4,8\n"
		"cached layer=0 head=1 count=2 positions=5,8\n"
		"expect layer=0 head=0 count=2 positions=4,8\n"
		"expect layer=0 head=1 count=1 positions=8\nend\n");
	struct vectors_request r;
	struct kvmod_plan *plan;
	struct kvmod_keep *keep;
	const struct kvmod_segment *s;
	char why[256];

	ck_assert_int_eq(vectors_request(c, KVMOD_F32, &r), 0);
	s = kvmod_segment_at(&r.d.request, 0);
	ck_assert_uint_eq(s->logical, 9);
	ck_assert_uint_eq(kvmod_head_at(s, 0)->n, 3);
	ck_assert_uint_eq(kvmod_head_at(s, 1)->n, 2);
	ck_assert_int_eq(kvmod_head_at(s, 0)->positions[1], 4);
	ck_assert_int_eq(kvmod_head_at(s, 1)->positions[0], 5);
	/* Plans name indices. */
	ck_assert_uint_eq(c->kept[0], 1);
	ck_assert_uint_eq(c->kept[1], 2);
	ck_assert_uint_eq(c->kept[3], 1);
	ck_assert_int_eq(kvmod_plan_new(&r.d.request, &plan), 0);
	keep = kvmod_keep_at(plan, 0);
	keep->kind = KVMOD_KEEP_HEADS;
	keep->counts[0] = 2;
	keep->indices[0] = 1;
	keep->indices[1] = 2;
	keep->counts[1] = 1;
	keep->indices[keep->index_stride] = 1;
	ck_assert(vectors_match(c, &r.d.request, plan, why, sizeof(why)));
	keep->indices[keep->index_stride] = 0;
	ck_assert(!vectors_match(c, &r.d.request, plan, why, sizeof(why)));
	ck_assert_str_eq(why, "layer 0, KV head 1 keeps 1 of 2 positions, expected 1; "
			 "the first difference is position 5");
	kvmod_plan_free(plan);
	vectors_request_free(&r);
	vectors_case_free(c);
}
END_TEST

START_TEST(refreekv_has_a_form_of_its_own)
{
	struct vectors_case *c = only_case(
		"case c\nshape n=6 q_heads=1 kv_heads=1 head_dim=2 rows=2\n"
		"params threshold=0.01 sinks=1\nq 1 2 3 4\nk 1 2 3 4 5 6 7 8 9 0 1 2\n"
		"expect keep=3 suffix=4 loss=0.5\nend\n");
	static const uint32_t kept[] = { 0, 4, 5 };

	ck_assert_str_eq(c->policy, "refreekv");
	ck_assert_str_eq(vectors_param(c, "rows"), "2");
	ck_assert_str_eq(vectors_param(c, "whole_layers"), "0");
	ck_assert_uint_eq(c->counts[0], 3);
	ck_assert_mem_eq(c->kept, kept, sizeof(kept));
	ck_assert_double_eq(c->loss, 0.5);
	vectors_case_free(c);
}
END_TEST

/* Does a plan that keeps these two positions, with that loss, match? */
static bool matches(const struct vectors_case *c, uint32_t first, uint32_t second, double loss,
		    char *why, size_t room)
{
	struct vectors_request r;
	struct kvmod_plan *plan;
	struct kvmod_keep *keep;
	bool same;

	ck_assert_int_eq(vectors_request(c, KVMOD_F16, &r), 0);
	ck_assert_int_eq(kvmod_plan_new(&r.d.request, &plan), 0);
	keep = kvmod_keep_at(plan, 0);
	keep->kind = KVMOD_KEEP_HEADS;
	keep->counts[0] = 2;
	keep->indices[0] = first;
	keep->indices[1] = second;
	keep->loss = loss;
	same = vectors_match(c, &r.d.request, plan, why, room);
	kvmod_plan_free(plan);
	vectors_request_free(&r);
	return same;
}

START_TEST(plans_held_against_a_case)
{
	struct vectors_case *c = only_case(
		"case c\nshape n=5 q_heads=1 kv_heads=1 head_dim=2 rows=1\n"
		"params sinks=1\nq 1 2\nk 1 2 3 4 5 6 7 8 9 0\n"
		"expect keep=2 suffix=4 loss=0.5\nend\n");
	char why[256];

	ck_assert(matches(c, 0, 4, 0.50004, why, sizeof(why)));
	ck_assert(!matches(c, 0, 4, 0.5001, why, sizeof(why)));
	ck_assert_str_eq(why, "loss 0.5001, expected 0.5 within 1e-4 of it");
	ck_assert(!matches(c, 0, 4, NAN, why, sizeof(why)));
	ck_assert(!matches(c, 0, 3, 0.5, why, sizeof(why)));
	ck_assert_str_eq(why, "layer 0, KV head 0 keeps 2 of 5 positions, expected 2; "
			 "the first difference is position 3");
	vectors_case_free(c);
}
END_TEST

START_TEST(our_own_files)
{
	static const struct {
		const char *path;
		unsigned n;
	} files[] = {
		{ KVMOD_SRCDIR "/tests/golden/policies.txt", 143 },
		{ KVMOD_SRCDIR "/tests/golden/refreekv.txt", 81 },
	};
	struct vectors v;
	struct vectors_case *c;
	unsigned n;
	int got;

	for (size_t i = 0; i < 2; i++) {
		ck_assert_msg(vectors_open(&v, files[i].path) == 0, "%s", v.error);
		for (n = 0; (got = vectors_next(&v, &c)) == 1; n++)
			vectors_case_free(c);
		ck_assert_msg(got == 0, "%s", v.error);
		ck_assert_uint_eq(n, files[i].n);
		vectors_close(&v);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vectors");
	TCase *tcase = tcase_create("vectors");
	SRunner *runner = srunner_create(suite);
	int failed, fd = mkstemp(path);

	if (fd < 0 || close(fd))
		return 99;
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, mistakes_are_told_with_their_place, 0,
			    (int)(sizeof(bad) / sizeof(*bad)));
	tcase_add_test(tcase, binary_junk);
	tcase_add_test(tcase, a_file_cut_anywhere);
	tcase_add_test(tcase, no_such_file);
	tcase_add_test(tcase, a_case_as_a_request);
	tcase_add_test(tcase, a_later_turn_as_a_request);
	tcase_add_test(tcase, refreekv_has_a_form_of_its_own);
	tcase_add_test(tcase, plans_held_against_a_case);
	tcase_add_test(tcase, our_own_files);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	unlink(path);
	return failed != 0;
}
