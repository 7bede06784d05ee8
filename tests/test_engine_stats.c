/* SPDX-License-Identifier: Apache-2.0 */
/* Mean and covariance of queries before RoPE, against a reference in double precision. */
#include "tests/query_reference.h"
#include "tests/tiny_model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N	96
#define ROW	(8 * 128)	/* numbers in a token's queries, at most */
#define NEAR	2e-5
#define SKIP	4

struct setup {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	int32_t tokens[N];
	/* What the statistics are of: layer by layer, once they are known. */
	double q[TINY_LAYERS][N * ROW];
	bool in[N];
};

static void open_model(struct setup *s, const struct tiny_model *spec, int64_t batch)
{
	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(spec, TINY_GOOD);
	s->engine = test_engine_open(&(struct test_engine_params){
		.model = s->model, .batch = batch, .no_mmap = 1 });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	tiny_tokens(s->tokens, N, 3);
}

static void tear_down(struct setup *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	unlink(s->model);
	free(s->model);
}

static int32_t begin(struct kvmod_seq *seq, uint32_t n, uint32_t skip, uint32_t decode_every)
{
	struct kvmod_needs needs = {
		.size = sizeof(needs), .what = KVMOD_NEED_Q_STATS, .q_stats_skip = skip,
		.decode_every = decode_every,
	};

	return gg_prompt_begin(seq->engine, seq, n, &needs);
}

/* A prompt, of which the engine is told, or tokens that are decoded one by one. */
static void prompt(struct setup *s, struct kvmod_seq *seq, uint32_t n, uint32_t skip,
		   uint32_t decode_every)
{
	ck_assert_int_eq(begin(seq, n, skip, decode_every), 0);
	test_run(seq, s->tokens + seq->logical, n, NULL, 0);
}

static void decode(struct setup *s, struct kvmod_seq *seq, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		test_run(seq, s->tokens + seq->logical, 1, NULL, 0);
}

static void request(struct kvmod_seq *seq, struct kvmod_request *out)
{
	*out = (struct kvmod_request){ .size = sizeof(*out) };
	ck_assert_msg(!gg_request(seq->engine, seq, out), "%s", test_engine_error());
}

/* Runs all tokens at once in a sequence of their own, and takes RoPE from its queries. */
static void find_queries(struct setup *s)
{
	struct kvmod_seq *seq = test_seq(s->engine);
	struct kvmod_needs needs = { .size = sizeof(needs), .rows = { .value = 1 } };
	struct kvmod_request r;

	ck_assert_int_eq(gg_prompt_begin(s->engine, seq, N, &needs), 0);
	test_run(seq, s->tokens, N, NULL, 0);
	request(seq, &r);
	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		ck_assert_uint_eq(kvmod_segment_at(&r, i)->n_rows, N);
		ck_assert_ptr_null(kvmod_segment_at(&r, i)->q_mean.data);
		query_reference_unturn(s->engine, kvmod_segment_at(&r, i)->q.data, N, s->q[i]);
	}
	gg_seq_close(s->engine, seq);
}

/* The statistics are those of the first n tokens from `skip` on, without begin .. end - 1. */
static void check(struct setup *s, struct kvmod_seq *seq, uint32_t n, uint32_t skip, uint32_t begin,
		  uint32_t end)
{
	struct kvmod_request r;

	for (uint32_t t = 0; t < N; t++)
		s->in[t] = t >= skip && t < n && (t < begin || t >= end);
	request(seq, &r);
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		query_reference_check(kvmod_segment_at(&r, i),
				      &(struct query_set){ .q = s->q[i], .in = s->in, .n = N },
				      NEAR);
}

static void check_lost(struct kvmod_seq *seq)
{
	struct kvmod_request r;

	request(seq, &r);
	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		ck_assert_ptr_null(kvmod_segment_at(&r, i)->q_mean.data);
		ck_assert_ptr_null(kvmod_segment_at(&r, i)->q_cov.data);
		ck_assert_uint_eq(kvmod_segment_at(&r, i)->n_q_stat, 0);
	}
}

/* --- tests -------------------------------------------------------------------------------- */

/* All models but that with YaRN. Skipped: nothing; a few; more than the first pass; everything. */
START_TEST(passes)
{
	static const int64_t batches[] = { 1, 7, 512 };
	static const uint32_t skips[] = { 0, SKIP, 20, N };
	static struct setup s;

	if (tiny_models[_i].rope_scaling && !strcmp(tiny_models[_i].rope_scaling, "yarn"))
		return;
	for (unsigned b = 0; b < 3; b++) {
		open_model(&s, &tiny_models[_i], batches[b]);
		find_queries(&s);
		for (unsigned k = 0; k < 4; k++) {
			ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 0), 0);
			prompt(&s, s.seq, N, skips[k], 0);
			check(&s, s.seq, N, skips[k], 0, 0);
		}
		tear_down(&s);
	}
}
END_TEST

/* The first layer's queries can be had from the weights alone, for every model. */
START_TEST(from_weights)
{
	static struct setup s;
	struct kvmod_request r;

	open_model(&s, &tiny_models[_i], 16);
	query_reference_first(s.engine, s.tokens, N, s.q[0]);
	prompt(&s, s.seq, N, 0, 0);
	request(s.seq, &r);
	query_reference_check(kvmod_segment_at(&r, 0), &(struct query_set){ .q = s.q[0], .n = N },
			      NEAR);
	tear_down(&s);
}
END_TEST

/* Biases a thousand times the deviation: a difference of squares would leave no digit. */
START_TEST(far_from_zero)
{
	static struct setup s;
	struct kvmod_request r;
	const struct kvmod_segment *segment;
	double *q;

	open_model(&s, &tiny_models[5], 7);
	for (int64_t i = 0; i < s.engine->net.dims[GG_Q_ROWS]; i++)
		((float *)s.engine->net.layers[0].w[GG_Q_BIAS]->data)[i] += i % 3 ? 2048 : -1024;
	query_reference_first(s.engine, s.tokens, N, s.q[0]);
	prompt(&s, s.seq, N, SKIP, 0);
	request(s.seq, &r);
	segment = kvmod_segment_at(&r, 0);
	q = s.q[0] + SKIP * (size_t)s.engine->net.dims[GG_Q_ROWS];
	query_reference_check(segment, &(struct query_set){ .q = q, .n = N - SKIP }, 1e-3);
	tear_down(&s);
}
END_TEST

/* Decoded tokens are in the statistics only if the policy is asked while decoding. */
START_TEST(turns)
{
	static struct setup s;

	open_model(&s, &tiny_models[0], 16);
	find_queries(&s);
	prompt(&s, s.seq, 40, SKIP, _i);
	check(&s, s.seq, 40, SKIP, 0, 0);
	decode(&s, s.seq, 10);
	check(&s, s.seq, 50, SKIP, _i ? 0 : 40, _i ? 0 : 50);
	prompt(&s, s.seq, 37, SKIP, _i);
	check(&s, s.seq, 87, SKIP, _i ? 0 : 40, _i ? 0 : 50);
	tear_down(&s);
}
END_TEST

/* A fork goes its own way; cuts and replays change nothing. */
START_TEST(forks)
{
	static struct setup s;
	struct kvmod_request r;
	struct kvmod_plan *plan;
	struct kvmod_seq *fork;
	double loss;

	open_model(&s, &tiny_models[0], 16);
	find_queries(&s);
	prompt(&s, s.seq, 40, SKIP, 0);
	fork = test_fork(s.seq);
	prompt(&s, fork, 30, SKIP, 0);
	check(&s, s.seq, 40, SKIP, 0, 0);
	check(&s, fork, 70, SKIP, 0, 0);
	plan = test_plan_ends(s.seq, 2, 20);
	request(s.seq, &r);
	ck_assert_int_eq(r.replay(&r, plan, 12, &loss), 0);
	test_apply(s.seq, plan);
	check(&s, s.seq, 40, SKIP, 0, 0);
	gg_seq_close(s.engine, s.seq);
	s.seq = test_fork(fork);
	gg_seq_close(s.engine, fork);
	check(&s, s.seq, 70, SKIP, 0, 0);
	tear_down(&s);
}
END_TEST

/* What is dropped cannot be subtracted. Decoded tokens were never in. */
START_TEST(truncated)
{
	static struct setup s;

	open_model(&s, &tiny_models[0], 16);
	find_queries(&s);
	prompt(&s, s.seq, 40, SKIP, 0);
	decode(&s, s.seq, 10);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 40), 0);
	check(&s, s.seq, 40, SKIP, 0, 0);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 39), 0);
	check_lost(s.seq);
	prompt(&s, s.seq, 20, SKIP, 0);
	check_lost(s.seq);
	/* All that is left was left out anyway. */
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, SKIP), 0);
	prompt(&s, s.seq, 50, SKIP, 0);
	check(&s, s.seq, SKIP + 50, SKIP, 0, 0);
	/* Too late to begin, and too late to leave out others. */
	prompt(&s, s.seq, 10, SKIP + 1, 0);
	check_lost(s.seq);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 0), 0);
	test_run(s.seq, s.tokens, 30, NULL, 0);
	prompt(&s, s.seq, 10, SKIP, 0);
	check_lost(s.seq);
	tear_down(&s);
}
END_TEST

static void cancel(void *arg, uint64_t done)
{
	(void)done;
	gg_engine_ops.cancel(arg);
}

/* Cancels after the first pass. */
static void cancelled_prompts(struct setup *s, struct kvmod_seq *const *seqs, uint32_t n_seqs,
			      uint32_t n)
{
	struct kvmod_batch_item items[2];
	struct kvmod_batch batch = {
		.size = sizeof(batch),
		.n_items = n_seqs,
		.item_stride = sizeof(*items),
		.items = items,
		.progress = cancel,
		.progress_arg = s->engine,
	};

	for (uint32_t i = 0; i < n_seqs; i++) {
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(*items), .n_tokens = n, .seq = seqs[i],
			.tokens = s->tokens + seqs[i]->logical,
		};
		ck_assert_int_eq(begin(seqs[i], n, SKIP, 0), 0);
	}
	ck_assert_int_eq(gg_step(s->engine, &batch), KVMOD_ECANCELED);
}

/* Nobody knows what a failed pass has added. */
START_TEST(cancelled)
{
	static struct setup s;
	struct kvmod_seq *seqs[2];

	open_model(&s, &tiny_models[0], 16);
	find_queries(&s);
	cancelled_prompts(&s, &s.seq, 1, 40);
	check_lost(s.seq);
	prompt(&s, s.seq, 40, SKIP, 0);
	check(&s, s.seq, 40, SKIP, 0, 0);
	/* The second of these is in the pass that fails, and in no pass before. */
	seqs[0] = test_fork(s.seq);
	seqs[1] = test_fork(s.seq);
	cancelled_prompts(&s, seqs, 2, 16);
	check_lost(seqs[0]);
	check_lost(seqs[1]);
	cancelled_prompts(&s, &s.seq, 1, 30);
	ck_assert_uint_eq(s.seq->logical, 40);
	check_lost(s.seq);
	prompt(&s, s.seq, 30, SKIP, 0);
	check_lost(s.seq);
	gg_seq_close(s.engine, seqs[0]);
	gg_seq_close(s.engine, seqs[1]);
	tear_down(&s);
}
END_TEST

/* Four sequences in one batch; one collects nothing, one begins late. */
START_TEST(together)
{
	static struct setup s;
	struct kvmod_batch_item items[4];
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 4, .item_stride = sizeof(*items), .items = items,
	};
	struct kvmod_needs none = { .size = sizeof(none) };

	open_model(&s, &tiny_models[0], 40);
	find_queries(&s);
	for (uint32_t i = 0; i < 4; i++)
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(*items), .n_tokens = 20 + 10 * i, .seq = test_seq(s.engine),
			.tokens = s.tokens,
		};
	prompt(&s, items[1].seq, 15, SKIP, 0);
	ck_assert_int_eq(begin(items[0].seq, 20, 9, 0), 0);
	ck_assert_int_eq(begin(items[1].seq, 30, SKIP, 0), 0);
	items[1].tokens += 15;
	ck_assert_int_eq(gg_prompt_begin(s.engine, items[2].seq, 40, &none), 0);
	ck_assert_int_eq(begin(items[3].seq, 50, 30, 0), 0);
	ck_assert_msg(!gg_step(s.engine, &batch), "%s", test_engine_error());
	check(&s, items[0].seq, 20, 9, 0, 0);
	check(&s, items[1].seq, 45, SKIP, 0, 0);
	check_lost(items[2].seq);
	check(&s, items[3].seq, 50, 30, 0, 0);
	for (uint32_t i = 0; i < 4; i++)
		gg_seq_close(s.engine, items[i].seq);
	tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, passes, 0, (int)n_tiny_models);
	tcase_add_loop_test(tc, from_weights, 0, (int)n_tiny_models);
	tcase_add_test(tc, far_from_zero);
	tcase_add_loop_test(tc, turns, 0, 2);
	tcase_add_test(tc, forks);
	tcase_add_test(tc, truncated);
	tcase_add_test(tc, cancelled);
	tcase_add_test(tc, together);
}

int main(void)
{
	return test_main("statistics of queries", add);
}
