/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hostile policy asks an engine for: replays of plans that it forged, rereads, questions;
 * and answers of the engine that are no answers.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "tests/hostile.h"

static int32_t answer;			/* of a service */
static char said[256];

/* --- forged plans for a replay ------------------------------------------------------------ */

static struct kvmod_keep own_keeps[LAYERS], *own_list[LAYERS];
static struct kvmod_span own_span = { .begin = 0, .end = 1 };
static uint32_t own_counts[HEADS] = { 1, 1 }, own_indices[HEADS];
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
	ck_assert_uint_eq(engine.n_served, forgeries[_i].err ? 0 : 1);
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

	engine.loss = NAN;
	assert_ok(decide(replay));
	ck_assert_int_eq(answer, KVMOD_ENUMERIC);
	ck_assert_str_eq(said, "replay: the engine's answer is nan");
	engine.code = KVMOD_EDEVICE;
	assert_ok(decide(replay));
	ck_assert_int_eq(answer, KVMOD_EDEVICE);
	ck_assert_str_eq(said, "replay() failed: KVMOD_EDEVICE");
	ck_assert_int_eq(kept_replay(&cache.request, plan, 1, &loss), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "replay: called outside compress(), or on another thread");
}
END_TEST

/* --- reread ----------------------------------------------------------------------------------- */

static struct kvmod_reread what;
static float weights[LAYERS * HEADS * N], *room;

static void reread(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)p;
	answer = r->reread(r, what.size ? &what : NULL, room);
	snprintf(said, sizeof(said), "%s", kvmod_error());
}

START_TEST(rereads_are_checked)
{
	static const struct {
		uint64_t from, to;
		uint32_t sinks, size;
		bool no_room;
		float weight;
		int err;
		const char *why;
	} cases[] = {
		{ 0, N, 0, sizeof(what), false, 1, KVMOD_OK, "" },
		{ 4, 5, 0, sizeof(what), false, 0, KVMOD_OK, "" },
		{ 4, 4, 0, sizeof(what), false, 1, KVMOD_EINVAL, "reread: positions 4..4, expected a part of 0..16" },
		{ 0, 17, 0, sizeof(what), false, 1, KVMOD_EINVAL, "reread: positions 0..17, expected a part of 0..16" },
		{ 9, UINT64_MAX, 0, sizeof(what), false, 1, KVMOD_EINVAL,
		  "reread: positions 9..18446744073709551615, expected a part of 0..16" },
		{ 0, 1, 0, sizeof(what), true, 1, KVMOD_EINVAL, "reread: out is NULL, expected room for the answer" },
		{ 0, N, 0, sizeof(what), false, NAN, KVMOD_ENUMERIC,
		  "reread: layer 2: the engine's answer for KV head 1 is nan, expected 0 or more" },
		{ 0, N, 0, sizeof(what), false, -0.5f, KVMOD_ENUMERIC,
		  "reread: layer 2: the engine's answer for KV head 1 is -0.5, expected 0 or more" },
		{ 0, N, 0, sizeof(what), false, INFINITY, KVMOD_ENUMERIC,
		  "reread: layer 2: the engine's answer for KV head 1 is inf, expected 0 or more" },
		{ 0, 1, 17, sizeof(what), false, 1, KVMOD_EINVAL, "reread: 17 sinks of 16 positions" },
		{ 0, 1, 0, 8, false, 1, KVMOD_EINVAL, "reread: what to read is NULL or too short" },
		{ 0, 1, 0, 0, false, 1, KVMOD_EINVAL, "reread: what to read is NULL or too short" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		what = (struct kvmod_reread){ cases[i].size, cases[i].sinks, cases[i].from, cases[i].to };
		room = cases[i].no_room ? NULL : weights;
		engine.weight = cases[i].weight;
		engine.n_served = 0;
		assert_ok(decide(reread));
		ck_assert_int_eq(answer, cases[i].err);
		ck_assert_str_eq(said, cases[i].why);
		ck_assert_uint_eq(engine.n_served, cases[i].err != KVMOD_EINVAL);
	}
	ck_assert_float_eq(weights[0], 0.5f);
}
END_TEST

/* --- ask -------------------------------------------------------------------------------------- */

static const char question[] = "What is it about?";
static struct {
	struct kvmod_ask what;
	uint8_t after[16];		/* of a struct that has grown */
} question_asked;
static bool scribbles;

static void ask(struct kvmod_request *r, struct kvmod_plan *p)
{
	int32_t (*of_core)(const struct kvmod_request *, const struct kvmod_ask *, float *) = r->ask;

	(void)p;
	if (scribbles)
		scribble(r);
	answer = of_core(r, question_asked.what.size ? &question_asked.what : NULL, room);
	snprintf(said, sizeof(said), "%s", kvmod_error());
}

START_TEST(questions_are_checked)
{
	static const struct {
		const char *question;
		uint32_t n_answer, size;
		bool no_room;
		float weight;
		int32_t code;
		int err;
		const char *why;
	} cases[] = {
		{ question, 7, sizeof(struct kvmod_ask), false, 1, 0, KVMOD_OK, "" },
		{ question, 0, sizeof(question_asked), false, 0, 0, KVMOD_OK, "" },
		{ "", UINT32_MAX, sizeof(struct kvmod_ask), false, 1, 0, KVMOD_OK, "" },
		{ NULL, 7, sizeof(struct kvmod_ask), false, 1, 0, KVMOD_EINVAL, "ask: the question is NULL" },
		{ question, 7, 0, false, 1, 0, KVMOD_EINVAL, "ask: the question is NULL" },
		{ WILD, 7, sizeof(struct kvmod_ask) - 1, false, 1, 0, KVMOD_EINVAL, "ask: the question is NULL" },
		{ question, 7, sizeof(struct kvmod_ask), true, 1, 0, KVMOD_EINVAL,
		  "ask: out is NULL, expected room for the answer" },
		{ question, 7, sizeof(struct kvmod_ask), false, NAN, 0, KVMOD_ENUMERIC,
		  "ask: layer 2: the engine's answer for KV head 1 is nan, expected 0 or more" },
		{ question, 7, sizeof(struct kvmod_ask), false, -0.5f, 0, KVMOD_ENUMERIC,
		  "ask: layer 2: the engine's answer for KV head 1 is -0.5, expected 0 or more" },
		{ question, 7, sizeof(struct kvmod_ask), false, INFINITY, 0, KVMOD_ENUMERIC,
		  "ask: layer 2: the engine's answer for KV head 1 is inf, expected 0 or more" },
		{ question, 7, sizeof(struct kvmod_ask), false, 1, KVMOD_ERANGE, KVMOD_ERANGE,
		  "ask() failed: KVMOD_ERANGE" },
	};

	scribbles = _i;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		bool reached = cases[i].err != KVMOD_EINVAL;

		question_asked.what = (struct kvmod_ask){ cases[i].size, cases[i].n_answer, cases[i].question };
		room = cases[i].no_room ? NULL : weights;
		engine.weight = cases[i].weight;
		engine.code = cases[i].code;
		engine.asked = (struct kvmod_ask){ 0 };
		assert_ok(decide(ask));
		ck_assert_int_eq(answer, cases[i].err);
		ck_assert_str_eq(said, cases[i].why);
		ck_assert_uint_eq(engine.asked.size, reached ? sizeof(engine.asked) : 0);
		ck_assert_uint_eq(engine.asked.n_answer, reached ? cases[i].n_answer : 0);
		ck_assert_ptr_eq(engine.asked.question, reached ? cases[i].question : NULL);
	}
	ck_assert_float_eq(weights[0], 0.5f);
	is_cut(2);
}
END_TEST

static int32_t (*kept_ask)(const struct kvmod_request *, const struct kvmod_ask *, float *);

static void keep_ask(struct kvmod_request *r, struct kvmod_plan *p)
{
	(void)p;
	kept_ask = r->ask;
}

/* Nobody is asked after compress(). */
START_TEST(question_too_late)
{
	const struct kvmod_ask late = { .size = sizeof(late), .question = question };

	assert_ok(decide(keep_ask));
	ck_assert_int_eq(kept_ask(&cache.request, &late, weights), KVMOD_EINVAL);
	ck_assert_str_eq(kvmod_error(), "ask: called outside compress(), or on another thread");
	ck_assert_uint_eq(engine.n_served, 0);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, forged_replays, 0, sizeof(forgeries) / sizeof(*forgeries));
	tcase_add_test(tc, answers_of_the_engine);
	tcase_add_test(tc, rereads_are_checked);
	tcase_add_loop_test(tc, questions_are_checked, 0, 2);
	tcase_add_test(tc, question_too_late);
}

int main(void)
{
	return hostile_run("hostile calls", add);
}
