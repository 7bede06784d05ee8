/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closing gaps with layers on a GPU: keys rotated there give the answers that the same keys
 * give on the CPU.
 */
#include "tests/sides.h"

#include <stdlib.h>

#define N_LAYERS 4
static const int64_t layers[N_LAYERS] = { 1, 2, TINY_LAYERS, -1 };
#define MODEL ((unsigned)_i / N_LAYERS)
#define LAYERS (layers[_i % N_LAYERS])
#define SINKS	3
#define NEWEST	17
#define CONTEXT	40

/* As if both had been trained for less, so that all keys are turned back soon. */
static void set_up(struct setup *s, unsigned model, int64_t n_layers)
{
	sides_set_up(s, model, n_layers);
	s->cpu.engine->net.context = s->gpu.engine->net.context = CONTEXT;
}

static void cut(struct setup *s)
{
	test_apply(s->cpu.seq, test_plan_ends(s->cpu.seq, SINKS, NEWEST));
	test_apply(s->gpu.seq, test_plan_ends(s->gpu.seq, SINKS, NEWEST));
}

static void run_and_cut(struct setup *s, uint32_t from, uint32_t to, bool single)
{
	sides_run(s, from, to, single);
	cut(s);
}

START_TEST(streams)
{
	static struct setup s;

	set_up(&s, MODEL, LAYERS);
	run_and_cut(&s, 0, 35, false);
	for (uint32_t i = 35; i + 15 <= N; i += 15)
		run_and_cut(&s, i, i + 15, i % 2);
	sides_check(&s, 0, N - 1);
	ck_assert_int_gt(s.cpu.seq->base, CONTEXT);
	ck_assert_int_eq(s.gpu.seq->base, s.cpu.seq->base);
	ck_assert_uint_eq(s.gpu.seq->caches[TINY_LAYERS - 1].sinks.n[0], SINKS);
	sides_tear_down(&s);
}
END_TEST

static void truncate_both(struct setup *s, uint64_t logical)
{
	ck_assert_int_eq(gg_seq_truncate(s->cpu.engine, s->cpu.seq, logical), 0);
	ck_assert_int_eq(gg_seq_truncate(s->gpu.engine, s->gpu.seq, logical), 0);
}

/* Into the newest, and to before all that a cut has left of them. */
START_TEST(truncates)
{
	static struct setup s;

	set_up(&s, MODEL, LAYERS);
	run_and_cut(&s, 0, 35, false);
	run_and_cut(&s, 35, 55, true);
	truncate_both(&s, 45);
	run_and_cut(&s, 45, 65, false);
	sides_check(&s, 0, 65);
	truncate_both(&s, 10);
	sides_run(&s, 10, 40, true);
	sides_check(&s, 10, 40);
	sides_tear_down(&s);
}
END_TEST

START_TEST(forks)
{
	static struct setup s;
	struct kvmod_seq *first;

	set_up(&s, MODEL, LAYERS);
	run_and_cut(&s, 0, 35, false);
	sides_run(&s, 35, 50, true);
	first = s.gpu.seq;
	s.gpu.seq = test_fork(first);
	cut(&s);
	run_and_cut(&s, 50, 65, true);
	sides_run(&s, 65, 80, false);
	sides_check(&s, 0, 80);
	/* The first one knows nothing of it. */
	gg_seq_close(s.gpu.engine, s.gpu.seq);
	s.gpu.seq = first;
	truncate_both(&s, 0);
	sides_run(&s, 0, 30, false);
	sides_check(&s, 0, 30);
	sides_tear_down(&s);
}
END_TEST

static double replay(struct kvmod_seq *seq)
{
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan = test_plan_ends(seq, SINKS, NEWEST);
	double loss;

	ck_assert_int_eq(gg_request(seq->engine, seq, &request), 0);
	ck_assert_msg(!request.replay(&request, plan, 6, &loss), "%s", test_engine_error());
	kvmod_plan_free(plan);
	return loss;
}

/* After a cut, in a second turn. */
START_TEST(replays)
{
	static struct setup s;
	double cpu, gpu;

	set_up(&s, MODEL, LAYERS);
	run_and_cut(&s, 0, 35, false);
	sides_run(&s, 35, 52, false);
	cpu = replay(s.cpu.seq);
	gpu = replay(s.gpu.seq);
	ck_assert_double_gt(cpu, 0.01);
	ck_assert_double_eq_tol(gpu, cpu, 4 * NEAR * cpu);
	sides_tear_down(&s);
}
END_TEST

/* If keys cannot be turned, the layer stays whole and has no gap. */
START_TEST(gather_fails)
{
	static struct setup s;

	set_up(&s, MODEL, LAYERS);
	sides_run(&s, 0, 35, false);
	sides_gathers_fail = true;
	test_apply(s.gpu.seq, test_plan_ends(s.gpu.seq, SINKS, NEWEST));
	sides_gathers_fail = false;
	ck_assert_uint_eq(s.gpu.seq->caches[TINY_LAYERS - 1].n[0], 35);
	ck_assert_uint_eq(s.gpu.seq->caches[TINY_LAYERS - 1].sinks.room, 0);
	cut(&s);
	sides_run(&s, 35, 50, true);
	sides_check(&s, 0, 50);
	sides_tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, streams, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, truncates, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, forks, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, replays, 0, N_MODELS * N_LAYERS);
	tcase_add_loop_test(tc, gather_fails, N_LAYERS, 2 * N_LAYERS);
}

int main(void)
{
#ifndef FAKE_GPU
	if (sides_skip())
		return 77;
#endif
	return test_main("engine phases on two sides", add);
}
