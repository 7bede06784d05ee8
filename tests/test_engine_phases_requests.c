/* SPDX-License-Identifier: Apache-2.0 */
/* Closed gaps as policies see them: what requests say of turned keys, and what replays cost. */
#include "tests/phases.h"

#include <math.h>
#include <string.h>

static void log_softmax(const float *logits, double *out)
{
	double sum = 0;

	for (int i = 0; i < TINY_VOCAB; i++)
		sum += exp((double)logits[i]);
	for (int i = 0; i < TINY_VOCAB; i++)
		out[i] = (double)logits[i] - log(sum);
}

static double divergence(const float *whole, const float *cut, uint32_t rows)
{
	double sum = 0, p[TINY_VOCAB], q[TINY_VOCAB];

	for (uint32_t r = 0; r < rows; r++) {
		log_softmax(whole + r * TINY_VOCAB, p);
		log_softmax(cut + r * TINY_VOCAB, q);
		for (int i = 0; i < TINY_VOCAB; i++)
			sum += exp(p[i]) * (p[i] - q[i]);
	}
	return sum / rows;
}

/*
 * What a plan would cost is measured with its gaps closed: the tokens that are run again
 * stand behind what the plan leaves of those before them, here of 50 the last 14.
 */
START_TEST(replays)
{
	enum { ROWS = 6, ALL = 50 + ROWS };
	static struct setup s;
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss, open, expected;

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, ALL, false);
	plan = test_plan_ends(s.seq, SINKS, NEWEST);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &request), 0);
	ck_assert_msg(!request.replay(&request, plan, ROWS, &loss), "%s", test_engine_error());
	plan->flags = 0;
	ck_assert_int_eq(request.replay(&request, plan, ROWS, &open), 0);
	kvmod_plan_free(plan);
	shifted_forget(s.other, ROWS);
	shifted_cut(s.other, SINKS, NEWEST - ROWS);
	ck_assert_int_eq(shifted_run(s.other, s.tokens + 50, ROWS, s.expected), 0);
	expected = divergence(s.logits + 50 * TINY_VOCAB, s.expected, ROWS);
	ck_assert_double_gt(expected, 0.001);
	if (!phases_is_yarn((unsigned)_i))
		ck_assert_double_eq_tol(loss, expected, 2e-4 * expected);
	ck_assert_double_gt(fabs(open - loss), 2e-3 * expected);
	/* Nothing has changed. */
	ck_assert_uint_eq(s.seq->caches[0].n[0], ALL);
	ck_assert_uint_eq(s.seq->caches[0].sinks.room, 0);
	phases_tear_down(&s);
}
END_TEST

/* After cuts as well, and with more rows than the last cut has left. */
START_TEST(replays_closed)
{
	static struct setup s;
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss, expected;

	phases_set_up(&s, (unsigned)_i);
	phases_run(&s, 0, 50, false);
	phases_cut(&s);
	phases_run(&s, 50, 90, true);
	plan = test_plan_ends(s.seq, SINKS, NEWEST);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &request), 0);
	ck_assert_msg(!request.replay(&request, plan, 25, &loss), "%s", test_engine_error());
	kvmod_plan_free(plan);
	shifted_forget(s.other, 25);
	shifted_cut(s.other, SINKS, 0);
	ck_assert_int_eq(shifted_run(s.other, s.tokens + 65, 25, s.expected + 65 * TINY_VOCAB), 0);
	expected = divergence(s.logits + 65 * TINY_VOCAB, s.expected + 65 * TINY_VOCAB, 25);
	ck_assert_double_gt(expected, 0.001);
	ck_assert_double_eq_tol(loss, expected, 1e-3 * expected);
	phases_tear_down(&s);
}
END_TEST

/* Rows that were evicted count when they are run again: of too many, those that fit are run. */
START_TEST(replays_what_fits)
{
	enum { MOST = CONTEXT - SINKS, ALL = 50 + MOST - NEWEST };
	static const uint32_t rows[] = { MOST, MOST + 1, ALL - 1 };
	static struct setup s;
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss[3];

	phases_set_up_alone(&s, &tiny_models[_i]);
	phases_run_one(&s, s.seq, 0, 50, false);
	phases_cut_one(s.seq);
	phases_run_one(&s, s.seq, 50, ALL, false);
	ck_assert_uint_eq(gg_seq_room(s.engine, s.seq), 0);
	plan = test_plan_ends(s.seq, 1, NEWEST);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &request), 0);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_msg(!request.replay(&request, plan, rows[i], &loss[i]), "%u: %s", rows[i],
			      test_engine_error());
		ck_assert_uint_eq(s.seq->whole.rows, MOST);
		ck_assert_double_eq(loss[i], loss[0]);
	}
	ck_assert_double_gt(loss[0], 0.001);
	kvmod_plan_free(plan);
	phases_tear_down(&s);
}
END_TEST

static const float *key_at(const struct kvmod_request *request, uint32_t layer, uint32_t g, uint32_t row)
{
	const struct kvmod_view *k = &request->segments[layer]->heads[g]->k;

	return (const float *)(const void *)((const char *)k->data + row * k->stride);
}

/*
 * Requests say which keys stand elsewhere than their positions, and by how much. A key of
 * the first layer is made of its token and its phase alone: that of a sink is the key of a
 * token that always stood there.
 */
START_TEST(requests_tell_turns)
{
	enum { TURN = 50 - NEWEST - SINKS };
	struct kvmod_request cut = { .size = sizeof(cut) }, plain = cut;
	const struct tiny_model *spec = &tiny_models[_i];
	struct kvmod_seq *other;
	static struct setup s;
	int32_t tokens[50];

	phases_set_up_alone(&s, spec);
	other = test_seq(s.engine);
	memcpy(tokens, s.tokens, sizeof(tokens));
	memcpy(tokens + TURN, s.tokens, SINKS * sizeof(*tokens));
	phases_run_one(&s, s.seq, 0, 50, false);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &cut), 0);
	ck_assert_uint_eq(cut.segments[0]->heads[0]->n_turned, 0);
	phases_cut_one(s.seq);
	test_run(other, tokens, 50, s.logits, 50);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &cut), 0);
	ck_assert_int_eq(gg_request(s.engine, other, &plain), 0);
	for (uint32_t l = 0; l < cut.n_segments; l++)
		for (uint32_t g = 0; g < cut.segments[l]->n_kv_heads; g++) {
			const struct kvmod_head *head = cut.segments[l]->heads[g];

			ck_assert_uint_eq(head->n_turned, SINKS);
			ck_assert_int_eq(head->turn, TURN);
			ck_assert_int_eq(head->positions[0], 0);
			ck_assert_int_eq(head->positions[SINKS], 50 - NEWEST);
			ck_assert_uint_eq(plain.segments[l]->heads[g]->n_turned, 0);
			for (uint32_t i = 0; l == 0 && i < SINKS; i++)
				test_near(key_at(&cut, 0, g, i), key_at(&plain, 0, g, TURN + i),
					  cut.segments[0]->head_dim, NEAR);
		}
	/* Rows that join the sinks later have moved less: no one number is true of all. */
	test_apply(s.seq, test_plan_ends(s.seq, 2 * SINKS, 6));
	ck_assert_int_eq(gg_request(s.engine, s.seq, &cut), 0);
	ck_assert_ptr_null(cut.segments[0]->heads[0]->k.data);
	ck_assert_uint_eq(cut.segments[0]->heads[0]->n_turned, 0);
	ck_assert_ptr_nonnull(cut.segments[0]->heads[0]->v.data);
	gg_seq_close(s.engine, other);
	phases_tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, replays, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, replays_closed, 0, 2);
	tcase_add_loop_test(tc, replays_what_fits, 0, 2);
	tcase_add_loop_test(tc, requests_tell_turns, 0, 2);
}

int main(void)
{
	return test_main("engine phases requests", add);
}
