/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile policies: one that writes to everything that it was handed, const or not, and
 * hands over what it likes. The core must read none of that: a segment stays whole, or a
 * valid plan applies, and the message names the policy. test_hostile_calls has the calls
 * to an engine.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/hostile.h"

/* --- what is written to the plan ----------------------------------------------------- */

static struct kvmod_keep *own_list[LAYERS];
static struct kvmod_span own_span = { .begin = 0, .end = 1 };

static void replace_keeps(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps = own_list;
}

static void lose_keeps(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps = NULL;
}

static void add_keeps(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->n_keeps = UINT32_MAX;
}

/* A plan that is not the one that was handed over counts for nothing. */
static const struct {
	hostile_deed *deed;
	const char *why;
} plans[] = {
	{ replace_keeps, "policy hostile: the plan's keeps were replaced, "
			 "expected them to be filled in" },
	{ lose_keeps, "policy hostile: the plan's keeps were replaced, "
		      "expected them to be filled in" },
	{ add_keeps, "policy hostile: the plan's n_keeps was changed to 4294967295, expected 3" },
};

START_TEST(replaced_plans)
{
	struct kvmod_keep *const *keeps = plan->keeps;

	assert_fails(decide(plans[_i].deed), KVMOD_EPLAN, plans[_i].why);
	ck_assert_ptr_eq(plan->keeps, keeps);
	ck_assert_uint_eq(plan->n_keeps, LAYERS);
	for (uint32_t i = 0; i < LAYERS; i++)
		is_whole(i, KVMOD_EPLAN);
	ck_assert_ptr_nonnull(strstr(fixture_log, plans[_i].why));
	assert_ok(decide(NULL));
	is_cut(2);
}
END_TEST

static void replace_keep(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	((struct kvmod_keep **)(uintptr_t)p->keeps)[1] = WILD;
}

static void replace_spans(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->spans = &own_span;
}

static void wild_spans(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->spans = WILD;
}

static void more_spans(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->max_spans = p->keeps[1]->n_spans = UINT32_MAX;
}

static void too_many_spans(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->n_spans = UINT32_MAX;
}

static void no_counts(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->kind = KVMOD_KEEP_HEADS;
	p->keeps[1]->counts = NULL;
}

static void wild_indices(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->kind = KVMOD_KEEP_HEADS;
	p->keeps[1]->counts[0] = p->keeps[1]->counts[1] = 1;
	p->keeps[1]->indices = WILD;
}

static void wide_stride(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->kind = KVMOD_KEEP_HEADS;
	p->keeps[1]->counts[0] = p->keeps[1]->counts[1] = 1;
	p->keeps[1]->index_stride = UINT64_MAX / 4;
}

static void huge_count(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->kind = KVMOD_KEEP_HEADS;
	p->keeps[1]->counts[0] = UINT32_MAX;
}

static void odd_status(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	p->keeps[1]->status = 7;
}

/* A keep that cannot be trusted leaves its own segment whole, and no other. */
static const struct {
	hostile_deed *deed;
	int status;
	const char *why;
} keeps[] = {
	{ replace_keep, KVMOD_EPLAN, "the keep was replaced, expected it to be filled in" },
	{ replace_spans, KVMOD_EPLAN, "the keep's spans, counts or indices were replaced, "
				      "expected them to be filled in" },
	{ wild_spans, KVMOD_EPLAN, "the keep's spans, counts or indices were replaced, "
				   "expected them to be filled in" },
	{ more_spans, KVMOD_EPLAN, "the keep's max_spans or index_stride was changed: "
				   "the size of an array is the core's" },
	{ too_many_spans, KVMOD_EPLAN, "4294967295 spans, expected 1 to 9" },
	{ no_counts, KVMOD_EPLAN, "the keep's spans, counts or indices were replaced, "
				  "expected them to be filled in" },
	{ wild_indices, KVMOD_EPLAN, "the keep's spans, counts or indices were replaced, "
				     "expected them to be filled in" },
	{ wide_stride, KVMOD_EPLAN, "the keep's max_spans or index_stride was changed: "
				    "the size of an array is the core's" },
	{ huge_count, KVMOD_EPLAN, "KV head 0 keeps 4294967295 positions, expected 1 to 16" },
	{ odd_status, KVMOD_EINVAL, "the keep's status is 7, expected 0 or a KVMOD_E code" },
};

START_TEST(replaced_keeps)
{
	const struct kvmod_keep before = *kvmod_keep_at(plan, 1);
	char line[256];

	snprintf(line, sizeof(line), "policy hostile: layer 1: %s; 1 of 3 segments stay whole",
		 keeps[_i].why);
	assert_ok(decide(keeps[_i].deed));
	is_cut(0);
	is_whole(1, keeps[_i].status);
	is_cut(2);
	ck_assert_ptr_nonnull(strstr(fixture_log, line));
	ck_assert_ptr_eq(kvmod_keep_at(plan, 1)->spans, before.spans);
	ck_assert_ptr_eq(kvmod_keep_at(plan, 1)->counts, before.counts);
	ck_assert_ptr_eq(kvmod_keep_at(plan, 1)->indices, before.indices);
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->max_spans, before.max_spans);
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->index_stride, before.index_stride);
	ck_assert_uint_eq(kvmod_keep_at(plan, 1)->size, before.size);
}
END_TEST

/* --- what is written to the request -------------------------------------------------------- */

static void scribble_in_compress(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)p;
	scribble(r);
}

/* The policy's own copy is its own affair: the answer counts, against the core's copy. */
START_TEST(const_cast_off)
{
	struct kvmod_counters c = { .size = sizeof(c) };

	hostile.in_workspace = _i ? scribble : NULL;
	assert_ok(decide(_i ? NULL : scribble_in_compress));
	for (uint32_t i = 0; i < LAYERS; i++)
		is_cut(i);
	ck_assert_str_eq(fixture_log, "");
	kvmod_policy_counters(policy, &c);
	ck_assert_uint_eq(c.positions_seen, LAYERS * HEADS * N);
	ck_assert_uint_eq(c.positions_kept, LAYERS * HEADS * N / 2);
	ck_assert_uint_eq(c.bytes_freed, LAYERS * HEADS * N / 2 * DIM * sizeof(float));
	ck_assert_ptr_eq(cache.segments[0].heads, cache.head_list);
	ck_assert_uint_eq(cache.heads[1].n, N);
	ck_assert_uint_eq(cache.segments[0].layer, 0);
	ck_assert_ptr_eq(cache.segment_list[1], &cache.segments[1]);
	ck_assert_uint_eq(cache.request.n_segments, LAYERS);
}
END_TEST

/* --- needs, state and codes ------------------------------------------------------------ */

START_TEST(needs_are_checked)
{
	static const struct {
		struct kvmod_needs needs;
		int err;
		const char *why;
	} cases[] = {
		{ { .rows = { .value = NAN, .is_count = 1 } }, KVMOD_EINVAL,
		  "policy hostile: needs() asks for a number of rows of nan, expected 0 to 2147483647" },
		{ { .rows = { .value = -1, .is_count = 1 } }, KVMOD_EINVAL,
		  "policy hostile: needs() asks for a number of rows of -1, expected 0 to 2147483647" },
		{ { .rows = { .value = 1e30, .is_count = 1 } }, KVMOD_EINVAL,
		  "policy hostile: needs() asks for a number of rows of 1e+30, expected 0 to 2147483647" },
		{ { .rows = { .value = 1.5 } }, KVMOD_EINVAL,
		  "policy hostile: needs() asks for a fraction of rows of 1.5, expected 0 to 1" },
		{ { .min_rows = UINT32_MAX }, KVMOD_EINVAL,
		  "policy hostile: needs() asks for min_rows of 4294967295, expected at most 2147483647" },
		{ { .what = 1u << 30 }, KVMOD_ENOTSUP,
		  "policy hostile: needs() asks for 0x40000000, of which this kvmod does not know "
		  "0x40000000" },
		{ { .types = 1u << 20 }, KVMOD_ENOTSUP,
		  "policy hostile: needs() names no element type that this kvmod knows: 0x100000" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		hostile.needs = cases[i].needs;
		assert_fails(kvmod_policy_open(ctx, "hostile", "cpu", &fixture_model, &policy),
			     cases[i].err, cases[i].why);
	}
	hostile.needs = (struct kvmod_needs){ .what = KVMOD_NEED_K };
	assert_ok(decide(NULL));
	/* A policy may keep the struct that it filled in: another one counts. */
	ck_assert_ptr_ne(hostile.kept_needs, kvmod_policy_needs(policy));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->size, sizeof(struct kvmod_needs));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->what, KVMOD_NEED_K);
}
END_TEST

/* A reason belongs to the call that gave it, and codes that are none are failures. */
START_TEST(no_stale_reason)
{
	void *state = WILD;

	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
	hostile.code = KVMOD_EIO;
	assert_fails(decide(NULL), KVMOD_EIO, "policy hostile: compress() failed: KVMOD_EIO");
	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
	assert_fails(kvmod_policy_begin(policy, 1, &state), KVMOD_EIO,
		     "policy hostile: begin() failed: KVMOD_EIO");
	ck_assert_ptr_null(state);
	ck_assert_ptr_ne(hostile.kept_state, &state);
	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
	hostile.code = 7;
	assert_fails(decide(NULL), KVMOD_EINVAL,
		     "policy hostile: compress() returned 7, expected 0 or a KVMOD_E code");
	is_whole(0, KVMOD_EINVAL);
	hostile.code = -1000;
	assert_fails(decide(NULL), KVMOD_EINVAL,
		     "policy hostile: compress() returned -1000, expected 0 or a KVMOD_E code");
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, replaced_plans, 0, sizeof(plans) / sizeof(*plans));
	tcase_add_loop_test(tc, replaced_keeps, 0, sizeof(keeps) / sizeof(*keeps));
	tcase_add_loop_test(tc, const_cast_off, 0, 2);
	tcase_add_test(tc, needs_are_checked);
	tcase_add_test(tc, no_stale_reason);
}

int main(void)
{
	return hostile_run("hostile", add);
}
