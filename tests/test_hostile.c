/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile policies: one that writes to everything that it was handed, const or not,
 * and hands over plans of its own making. The core must read none of that: a segment
 * stays whole, or a valid plan applies, and the message names the policy.
 */
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL hostile_module
#include "tests/fixture.h"

#define LAYERS 3u
#define HEADS 2u
#define N 16u
#define DIM 32u

/* An address that nobody may read. */
#define WILD ((void *)(uintptr_t)64)

/* --- the policy ------------------------------------------------------------------- */

static void (*deed)(struct kvmod_request *r, struct kvmod_plan *plan);
static void (*in_workspace)(struct kvmod_request *r);
static int32_t code;			/* that compress() returns */
static struct kvmod_needs wanted, *kept_needs;
static void **kept_state;
static int32_t answer;			/* of a service of the engine */
static char said[256];

static int32_t hostile_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	*needs = wanted;
	needs->size = UINT32_MAX;
	kept_needs = needs;
	return KVMOD_OK;
}

static int32_t hostile_begin(void *self, uint64_t sequence, void **state)
{
	(void)self;
	(void)sequence;
	kept_state = state;
	return KVMOD_EIO;
}

static int32_t hostile_workspace(void *self, const struct kvmod_request *r,
				 struct kvmod_workspace *need)
{
	(void)self;
	need->size = UINT32_MAX;
	need->host = 64;
	if (in_workspace)
		in_workspace((struct kvmod_request *)(uintptr_t)r);
	return KVMOD_OK;
}

static int32_t hostile_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	(void)self;
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 1;
		keep->spans[0] = (struct kvmod_span){ .begin = N / 2, .end = N };
	}
	if (deed)
		deed((struct kvmod_request *)(uintptr_t)r, plan);
	return code;
}

static const struct kvmod_policy_ops hostile_ops = {
	.size = sizeof(hostile_ops), .name = "hostile", .description = "writes where it may not",
	.instance_size = sizeof(struct kvmod_instance),
	.needs = hostile_needs, .begin = hostile_begin, .workspace = hostile_workspace,
	.compress = hostile_compress,
};

static int32_t hostile_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &hostile_ops);
}

KVMOD_MODULE("hostile-test", "1", "Apache-2.0", "kvmod", "for this test", 0, hostile_init, NULL);

/* --- a cache, and an engine's services --------------------------------------------- */

static float keys[N * DIM], queries[HEADS * DIM];
static int32_t positions[N];
static struct kvmod_head heads[LAYERS][HEADS];
static const struct kvmod_head *head_lists[LAYERS][HEADS];
static struct kvmod_segment segments[LAYERS];
static const struct kvmod_segment *segment_list[LAYERS];
static struct kvmod_request request;
static struct kvmod_plan *plan;
static struct kvmod_ctx *ctx;
static struct kvmod_policy *policy;
static unsigned n_served;		/* calls that reached the engine */
static float weight;			/* what reread() answers */
static double loss_of_engine;
static int32_t code_of_engine;

static int32_t engine_replay(const struct kvmod_request *r, const struct kvmod_plan *trial,
			     uint32_t rows, double *loss)
{
	(void)rows;
	n_served++;
	ck_assert_ptr_eq(r->segments[0], &segments[0]);
	ck_assert_uint_eq(trial->n_keeps, LAYERS);
	ck_assert_uint_eq(kvmod_plan_count(r, trial, 0, 0), N / 2);
	*loss = loss_of_engine;
	return code_of_engine;
}

static int32_t engine_reread(const struct kvmod_request *r, uint64_t begin, uint64_t end, float *out)
{
	ck_assert_ptr_eq(r->segments[0], &segments[0]);
	n_served++;
	for (uint64_t i = 0; i < LAYERS * HEADS * (end - begin); i++)
		out[i] = 0.5f;
	out[LAYERS * HEADS * (end - begin) - 1] = weight;
	return KVMOD_OK;
}

static void make_request(void)
{
	for (uint32_t l = 0; l < LAYERS; l++) {
		for (uint32_t g = 0; g < HEADS; g++)
			heads[l][g] = (struct kvmod_head){
				.size = sizeof(heads[l][g]), .n = N, .positions = positions,
				.k = { .type = KVMOD_F32, .data = keys, .stride = DIM * sizeof(float) },
			};
		kvmod_list_heads(head_lists[l], heads[l], HEADS);
		segments[l] = (struct kvmod_segment){
			.size = sizeof(segments[l]), .layer = l, .logical = N, .n_q_heads = HEADS,
			.n_kv_heads = HEADS, .head_dim = DIM, .scale = 1, .heads = head_lists[l],
			.n_rows = 1,
			.q = { .type = KVMOD_F32, .data = queries, .stride = sizeof(queries),
			       .head_stride = DIM * sizeof(float) },
		};
	}
	kvmod_list_segments(segment_list, segments, LAYERS);
	for (uint32_t i = 0; i < N; i++)
		positions[i] = (int32_t)i;
	request = (struct kvmod_request){
		.size = sizeof(request), .phase = KVMOD_PREFILL, .n_layers = LAYERS,
		.n_segments = LAYERS, .segments = segment_list,
		.replay = engine_replay, .reread = engine_reread, .replay_ctx = &request,
	};
}

static void set_up(void)
{
	fixture_setup();
	deed = NULL;
	in_workspace = NULL;
	code = code_of_engine = 0;
	n_served = 0;
	loss_of_engine = 0.25;
	weight = 1;
	wanted = (struct kvmod_needs){
		.what = KVMOD_NEED_K, .rows = { .value = 1, .is_count = 1 },
	};
	ctx = fixture_context();
	assert_ok(kvmod_add_builtin(ctx, &hostile_module));
	make_request();
	assert_ok(kvmod_plan_new(&request, &plan));
	policy = NULL;
}

static void tear_down(void)
{
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	fixture_teardown();
}

static int decide(void (*what)(struct kvmod_request *r, struct kvmod_plan *plan))
{
	if (!policy)
		assert_ok(kvmod_policy_open(ctx, "hostile", "cpu", &fixture_model, &policy));
	deed = what;
	fixture_log[0] = '\0';
	return kvmod_decide(policy, &request, plan);
}

static void is_whole(uint32_t i, int status)
{
	ck_assert_uint_eq(kvmod_keep_at(plan, i)->kind, KVMOD_KEEP_ALL);
	ck_assert_int_eq(kvmod_keep_at(plan, i)->status, status);
	ck_assert_uint_eq(kvmod_plan_count(&request, plan, i, 1), N);
}

static void is_cut(uint32_t i)
{
	ck_assert_int_eq(kvmod_keep_at(plan, i)->status, 0);
	ck_assert_uint_eq(kvmod_plan_count(&request, plan, i, 1), N / 2);
}

/* --- what is written to the plan ----------------------------------------------------- */

static struct kvmod_keep own_keeps[LAYERS], *own_list[LAYERS];
static struct kvmod_span own_span = { .begin = 0, .end = 1 };
static uint32_t own_counts[HEADS] = { 1, 1 }, own_indices[HEADS];

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
	void (*deed)(struct kvmod_request *r, struct kvmod_plan *plan);
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
	void (*deed)(struct kvmod_request *r, struct kvmod_plan *plan);
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

/* --- what is written to the request -------------------------------------------------- */

static void scribble(struct kvmod_request *r)
{
	struct kvmod_segment *s = (struct kvmod_segment *)(uintptr_t)r->segments[0];
	struct kvmod_head *head = (struct kvmod_head *)(uintptr_t)s->heads[1];

	head->n = UINT32_MAX;
	head->positions = WILD;
	head->k = (struct kvmod_view){ .type = 77, .data = WILD };
	((const struct kvmod_head **)(uintptr_t)s->heads)[0] = WILD;
	s->heads = WILD;
	s->layer = s->n_kv_heads = s->n_q_heads = UINT32_MAX;
	s->logical = UINT64_MAX;
	s->size = 0;
	((const struct kvmod_segment **)(uintptr_t)r->segments)[1] = NULL;
	r->segments = WILD;
	r->n_segments = r->n_layers = UINT32_MAX;
	r->device = WILD;
	r->stream = WILD;
	r->replay_ctx = WILD;
	r->size = 0;
}

static void scribble_in_compress(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)p;
	scribble(r);
}

/* The policy's own copy is its own affair: the answer counts, against the core's copy. */
START_TEST(const_cast_off)
{
	struct kvmod_counters c = { .size = sizeof(c) };

	in_workspace = _i ? scribble : NULL;
	assert_ok(decide(_i ? NULL : scribble_in_compress));
	for (uint32_t i = 0; i < LAYERS; i++)
		is_cut(i);
	ck_assert_str_eq(fixture_log, "");
	kvmod_policy_counters(policy, &c);
	ck_assert_uint_eq(c.positions_seen, LAYERS * HEADS * N);
	ck_assert_uint_eq(c.positions_kept, LAYERS * HEADS * N / 2);
	ck_assert_uint_eq(c.bytes_freed, LAYERS * HEADS * N / 2 * DIM * sizeof(float));
	ck_assert_ptr_eq(segments[0].heads, head_lists[0]);
	ck_assert_uint_eq(heads[0][1].n, N);
	ck_assert_uint_eq(segments[0].layer, 0);
	ck_assert_ptr_eq(segment_list[1], &segments[1]);
	ck_assert_uint_eq(request.n_segments, LAYERS);
}
END_TEST

/* --- needs, state and codes ------------------------------------------------------------ */

static void change_needs(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)r;
	(void)p;
	kept_needs = NULL;
}

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
		wanted = cases[i].needs;
		assert_fails(kvmod_policy_open(ctx, "hostile", "cpu", &fixture_model, &policy),
			     cases[i].err, cases[i].why);
	}
	wanted = (struct kvmod_needs){ .what = KVMOD_NEED_K };
	assert_ok(decide(change_needs));
	ck_assert_uint_eq(kvmod_policy_needs(policy)->size, sizeof(struct kvmod_needs));
}
END_TEST

/* A reason belongs to the call that gave it, and codes that are none are failures. */
START_TEST(no_stale_reason)
{
	void *state = WILD;

	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
	code = KVMOD_EIO;
	assert_fails(decide(NULL), KVMOD_EIO, "policy hostile: compress() failed: KVMOD_EIO");
	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
	assert_fails(kvmod_policy_begin(policy, 1, &state), KVMOD_EIO,
		     "policy hostile: begin() failed: KVMOD_EIO");
	ck_assert_ptr_null(state);
	ck_assert_ptr_ne(kept_state, &state);
	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
	code = 7;
	assert_fails(decide(NULL), KVMOD_EINVAL,
		     "policy hostile: compress() returned 7, expected 0 or a KVMOD_E code");
	is_whole(0, KVMOD_EINVAL);
	code = -1000;
	assert_fails(decide(NULL), KVMOD_EINVAL,
		     "policy hostile: compress() returned -1000, expected 0 or a KVMOD_E code");
}
END_TEST

/* --- forged plans for a replay ------------------------------------------------------------ */

static struct kvmod_plan forged;

/* A plan of the policy's own that is good. */
static void forge(void)
{
	for (uint32_t i = 0; i < LAYERS; i++) {
		own_keeps[i] = (struct kvmod_keep){
			.size = sizeof(own_keeps[i]), .kind = KVMOD_KEEP_ALL, .max_spans = 1,
		};
		own_list[i] = &own_keeps[i];
	}
	own_span = (struct kvmod_span){ .begin = N / 2, .end = N };
	own_keeps[0].kind = KVMOD_KEEP_SPANS;
	own_keeps[0].spans = &own_span;
	own_keeps[0].n_spans = 1;
	forged = (struct kvmod_plan){
		.size = sizeof(forged), .n_keeps = LAYERS, .keeps = own_list, .flags = UINT32_MAX,
	};
}

static int which;

/* Nothing that a forged plan says is taken on trust. */
static void replay_forged(struct kvmod_request *r, struct kvmod_plan *p)
{
	const struct kvmod_plan *trial = &forged;
	int32_t (*replay)(const struct kvmod_request *, const struct kvmod_plan *, uint32_t,
			  double *) = r->replay;
	double loss = -1, *to = &loss;

	forge();
	switch (which) {
	case 1:
		trial = NULL;
		break;
	case 2:
		forged.keeps = NULL;
		break;
	case 3:
		own_list[2] = NULL;
		break;
	case 4:
		own_keeps[2].size = 8;
		break;
	case 5:
		own_keeps[0].spans = NULL;
		break;
	case 6:
		own_keeps[1].kind = KVMOD_KEEP_HEADS;
		break;
	case 7:
		own_keeps[1].kind = KVMOD_KEEP_HEADS;
		own_keeps[1].counts = own_counts;
		own_keeps[1].indices = own_indices;
		own_keeps[1].index_stride = UINT64_MAX;
		break;
	case 8:
		own_keeps[1].kind = 99;
		break;
	case 9:
		to = NULL;
		break;
	case 10:
		forged.n_keeps = UINT32_MAX;
		break;
	case 11:	/* the handed plan, an array of it replaced */
		p->keeps[0]->spans = WILD;
		trial = p;
		break;
	}
	scribble(r);
	answer = replay(r, trial, 1, to);
	snprintf(said, sizeof(said), "%s", kvmod_error());
	ck_assert(answer || loss == 0.25);
}

static const struct { int err; const char *why; } forgeries[] = {
	{ KVMOD_OK, "" },
	{ KVMOD_EPLAN, "replay: the plan is NULL or has no keeps" },
	{ KVMOD_EPLAN, "replay: the plan is NULL or has no keeps" },
	{ KVMOD_EPLAN, "replay: layer 2: the keep is NULL" },
	{ KVMOD_EPLAN, "replay: layer 2: the keep has size 8, expected 72" },
	{ KVMOD_EPLAN, "replay: layer 0: spans are NULL" },
	{ KVMOD_EPLAN, "replay: layer 1: counts or indices are NULL" },
	{ KVMOD_EPLAN, "replay: layer 1: index_stride is 18446744073709551615, expected at least 16" },
	{ KVMOD_EPLAN, "replay: layer 1: kind 99, expected 0 (all), 1 (spans) or 2 (heads)" },
	{ KVMOD_EINVAL, "replay: loss is NULL, expected room for the answer" },
	{ KVMOD_EPLAN, "replay: the plan has 4294967295 segments, expected 3" },
	{ KVMOD_EPLAN, "replay: layer 0: the keep's spans, counts or indices were replaced, "
		       "expected them to be filled in" },
};

START_TEST(forged_replays)
{
	which = _i;
	assert_ok(decide(replay_forged));
	ck_assert_int_eq(answer, forgeries[_i].err);
	ck_assert_str_eq(said, forgeries[_i].why);
	ck_assert_uint_eq(n_served, forgeries[_i].err ? 0 : 1);
	is_cut(2);
}
END_TEST

static int32_t (*kept_replay)(const struct kvmod_request *, const struct kvmod_plan *, uint32_t,
			      double *);

static void replay(struct kvmod_request *r, struct kvmod_plan *p)
{
	double loss = -1;

	kept_replay = r->replay;
	answer = r->replay(r, p, 1, &loss);
	snprintf(said, sizeof(said), "%s", kvmod_error());
}

/* An engine's answer is judged too; and there is no replay after compress(). */
START_TEST(answers_of_the_engine)
{
	double loss;

	loss_of_engine = NAN;
	assert_ok(decide(replay));
	ck_assert_int_eq(answer, KVMOD_ENUMERIC);
	ck_assert_str_eq(said, "replay: the engine's answer is nan");
	code_of_engine = KVMOD_EDEVICE;
	assert_ok(decide(replay));
	ck_assert_int_eq(answer, KVMOD_EDEVICE);
	ck_assert_str_eq(said, "replay() failed: KVMOD_EDEVICE");
	ck_assert_int_eq(kept_replay(&request, plan, 1, &loss), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "replay: called outside compress(), or on another thread");
}
END_TEST

/* --- reread ----------------------------------------------------------------------------------- */

static uint64_t from, to;
static float weights[LAYERS * HEADS * N], *room;

static void reread(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)p;
	answer = r->reread(r, from, to, room);
	snprintf(said, sizeof(said), "%s", kvmod_error());
}

START_TEST(rereads_are_checked)
{
	static const struct {
		uint64_t from, to;
		bool no_room;
		float weight;
		int err;
		const char *why;
	} cases[] = {
		{ 0, N, false, 1, KVMOD_OK, "" },
		{ 4, 5, false, 0, KVMOD_OK, "" },
		{ 4, 4, false, 1, KVMOD_EINVAL, "reread: positions 4..4, expected a part of 0..16" },
		{ 0, 17, false, 1, KVMOD_EINVAL, "reread: positions 0..17, expected a part of 0..16" },
		{ 9, UINT64_MAX, false, 1, KVMOD_EINVAL,
		  "reread: positions 9..18446744073709551615, expected a part of 0..16" },
		{ 0, 1, true, 1, KVMOD_EINVAL, "reread: out is NULL, expected room for the answer" },
		{ 0, N, false, NAN, KVMOD_ENUMERIC,
		  "reread: layer 2: the engine's answer for KV head 1 is nan, expected 0 or more" },
		{ 0, N, false, -0.5f, KVMOD_ENUMERIC,
		  "reread: layer 2: the engine's answer for KV head 1 is -0.5, expected 0 or more" },
		{ 0, N, false, INFINITY, KVMOD_ENUMERIC,
		  "reread: layer 2: the engine's answer for KV head 1 is inf, expected 0 or more" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		from = cases[i].from;
		to = cases[i].to;
		room = cases[i].no_room ? NULL : weights;
		weight = cases[i].weight;
		n_served = 0;
		assert_ok(decide(reread));
		ck_assert_int_eq(answer, cases[i].err);
		ck_assert_str_eq(said, cases[i].why);
		ck_assert_uint_eq(n_served, cases[i].err != KVMOD_EINVAL);
	}
	ck_assert_float_eq(weights[0], 0.5f);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hostile");
	TCase *tc = tcase_create("hostile");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_loop_test(tc, replaced_plans, 0, sizeof(plans) / sizeof(*plans));
	tcase_add_loop_test(tc, replaced_keeps, 0, sizeof(keeps) / sizeof(*keeps));
	tcase_add_loop_test(tc, const_cast_off, 0, 2);
	tcase_add_test(tc, needs_are_checked);
	tcase_add_test(tc, no_stale_reason);
	tcase_add_loop_test(tc, forged_replays, 0, sizeof(forgeries) / sizeof(*forgeries));
	tcase_add_test(tc, answers_of_the_engine);
	tcase_add_test(tc, rereads_are_checked);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
