/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Column sums of attention: what the engine shows to policies, against sums in double
 * precision of its own keys and queries; on the CPU, and with layers on a made-up GPU.
 */
#include "tests/sides.h"
#include "core/testkit/random.h"
#include "tests/column_sums.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG	160	/* tokens, at most */

static char *model;
static struct gg_engine *engine;
static struct kvmod_seq *seq;
static struct column_sums sums, other_sums;
static int32_t tokens[LONG];

/* layers: on the made-up GPU. */
static void open_model(unsigned number, enum ggml_type type, int64_t batch, int64_t layers)
{
	struct test_engine_params params = {
		.type = type, .batch = batch, .gpu_layers = layers, .context_override = 1,
		.gpu = layers ? sides_find_gpu() : NULL,
	};

	model = tiny_model_write(&tiny_models[number], TINY_GOOD);
	params.model = model;
	engine = test_engine_open(&params);
	ck_assert_msg(engine, "%s", test_engine_error());
	seq = test_seq(engine);
	tiny_tokens(tokens, LONG, 5);
	memset(&sums, 0, sizeof(sums));
}

static void close_model(void)
{
	gg_seq_close(engine, seq);
	test_engine_close(engine);
	unlink(model);
	free(model);
}

static void begin(struct kvmod_seq *s, uint32_t n, const struct kvmod_needs *needs)
{
	ck_assert_msg(!gg_prompt_begin(engine, s, n, needs), "%s", test_engine_error());
}

static void prompt(struct kvmod_seq *s, uint32_t from, uint32_t n)
{
	begin(s, n, &sums_needs);
	test_run(s, tokens + from, n, NULL, 0);
}

static void decode(struct kvmod_seq *s, uint32_t from, uint32_t n)
{
	for (uint32_t i = from; i < from + n; i++)
		test_run(s, tokens + i, 1, NULL, 0);
}

static void check(struct column_sums *of, struct kvmod_seq *s)
{
	sums_look(of, s);
	sums_check(of, s);
}

/* Each head others, the newest always. */
static void cut(struct column_sums *of, struct kvmod_seq *s, uint32_t kind)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = kind == KVMOD_KEEP_HEADS ? sides_plan(s, kind, &request) :
							     test_plan_ends(s, 4, 9);

	sums_cut(of, s, plan);
	test_apply(s, plan);
	sums_check(of, s);
}

/* --- what they are, whatever the engine is like -------------------------------------------- */

static const struct {
	unsigned model;
	enum ggml_type type;
	int64_t batch, layers;
} setups[] = {
	{ 0, GGML_TYPE_F32, 16, 0 }, { 1, GGML_TYPE_F32, 1, 0 }, { 2, GGML_TYPE_F16, 7, 0 },
	{ 3, GGML_TYPE_Q8_0, 512, 0 }, { 5, GGML_TYPE_F16, 7, 2 }, { 6, GGML_TYPE_F32, 1, -1 },
	{ 8, GGML_TYPE_Q8_0, 16, 1 }, { 9, GGML_TYPE_F16, 512, -1 },
};
#define SETUPS ((int)(sizeof(setups) / sizeof(setups[0])))

static void set_up(int i)
{
	open_model(setups[i].model, setups[i].type, setups[i].batch, setups[i].layers);
}

/* A prompt of several passes; then 70 decoded tokens, more than wait to be added at a time. */
START_TEST(prefill_and_decode)
{
	set_up(_i);
	prompt(seq, 0, 80);
	check(&sums, seq);
	decode(seq, 80, 1);
	check(&sums, seq);
	decode(seq, 81, 70);
	check(&sums, seq);
	close_model();
}
END_TEST

/* A second turn, a ragged cut, decoded tokens, a third turn, another cut whose gaps close. */
START_TEST(turns_and_cuts)
{
	set_up(_i);
	prompt(seq, 0, 30);
	sums_look(&sums, seq);
	decode(seq, 30, 3);
	sums_look(&sums, seq);
	prompt(seq, 33, 40);
	check(&sums, seq);
	cut(&sums, seq, KVMOD_KEEP_HEADS);
	decode(seq, 73, 12);
	check(&sums, seq);
	prompt(seq, 85, 25);
	check(&sums, seq);
	cut(&sums, seq, KVMOD_KEEP_SPANS);
	decode(seq, 110, 7);
	check(&sums, seq);
	prompt(seq, 117, 20);
	check(&sums, seq);
	close_model();
}
END_TEST

/* Of a whole sequence and of a cut one; the two go on with other tokens. */
START_TEST(forks)
{
	struct kvmod_seq *fork;

	set_up(_i);
	prompt(seq, 0, 50);
	sums_look(&sums, seq);
	for (int turn = 0; turn < 2; turn++) {
		decode(seq, 50, 5);
		sums_look(&sums, seq);
		decode(seq, 55, 5);	/* not added yet */
		fork = test_fork(seq);
		other_sums = sums;
		check(&other_sums, fork);
		decode(fork, 90, 20);
		decode(seq, 70, 10);
		check(&other_sums, fork);
		check(&sums, seq);
		gg_seq_close(engine, fork);
		cut(&sums, seq, turn ? KVMOD_KEEP_SPANS : KVMOD_KEEP_HEADS);
	}
	close_model();
}
END_TEST

/* Runs the same on `seq`, looking after each token, and on `lazy`, where nobody looks. */
static void decode_both(struct kvmod_seq *lazy, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		decode(seq, i, 1);
		sums_look(&sums, seq);
		decode(lazy, i, 1);
	}
}

/* Keys are rotated back, or rows cut by an older plan, while tokens wait to be added. */
START_TEST(nobody_looks)
{
	struct test_engine_params params = { .batch = 16, .context = 64 };
	struct kvmod_plan *plan, *older;
	struct kvmod_seq *lazy;
	int32_t base = 0, rises = 0;

	open_model(0, GGML_TYPE_F32, 16, 0);
	gg_seq_close(engine, seq);
	test_engine_close(engine);
	params.model = model;
	engine = test_engine_open(&params);
	seq = test_seq(engine);
	lazy = test_seq(engine);
	prompt(seq, 0, 50);
	sums_look(&sums, seq);
	prompt(lazy, 0, 50);
	for (int turn = 0; turn < 6; turn++) {
		plan = test_plan_ends(seq, 4, 30);
		older = test_plan_ends(lazy, 4, 30);
		decode_both(lazy, 3);
		sums_cut(&sums, seq, plan);
		test_apply(seq, plan);
		test_apply(lazy, older);
		sums_check(&sums, lazy);
		for (int i = 0; i < 10; i++) {
			decode_both(lazy, 1);
			rises += i > 0 && lazy->base > base;
			base = lazy->base;
		}
		ck_assert_uint_gt(lazy->columns.pending, 0);
		sums_check(&sums, lazy);
	}
	ck_assert_int_gt(rises, 0);
	gg_seq_close(engine, lazy);
	close_model();
}
END_TEST

/* --- what collects, and what does not ---------------------------------------------------------- */

/* Two in one batch: what one collects is not the other's. */
START_TEST(two_in_a_batch)
{
	struct kvmod_needs none = { .size = sizeof(none), .rows = { .value = 3, .is_count = 1 } };
	struct kvmod_seq *plain;
	struct kvmod_batch_item items[2];
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 2, .item_stride = sizeof(*items), .items = items,
	};

	open_model(0, GGML_TYPE_F32, 16, _i);
	plain = test_seq(engine);
	begin(seq, 50, &sums_needs);
	begin(plain, 45, &none);
	items[0] = (struct kvmod_batch_item){ .size = sizeof(*items), .seq = plain, .n_tokens = 45,
					      .tokens = tokens + 60 };
	items[1] = (struct kvmod_batch_item){ .size = sizeof(*items), .seq = seq, .n_tokens = 50,
					      .tokens = tokens };
	ck_assert_int_eq(gg_step(engine, &batch), KVMOD_OK);
	check(&sums, seq);
	ck_assert(!sums_shown(plain));
	for (uint32_t i = 0; i < 80; i++) {
		items[0].n_tokens = items[1].n_tokens = 1;
		items[1].tokens = tokens + 50 + i % 20;
		ck_assert_int_eq(gg_step(engine, &batch), KVMOD_OK);
		if (i % 40 == 39)
			check(&sums, seq);
	}
	gg_seq_close(engine, plain);
	close_model();
}
END_TEST

/* A policy that wants sums and no queries gets the same sums. */
START_TEST(without_rows)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_COLSUM };

	open_model(0, GGML_TYPE_F32, 16, _i);
	prompt(seq, 0, 90);
	sums_look(&sums, seq);
	decode(seq, 90, 40);
	sums_look(&sums, seq);
	gg_seq_close(engine, seq);
	seq = test_seq(engine);
	begin(seq, 90, &needs);
	test_run(seq, tokens, 90, NULL, 0);
	decode(seq, 90, 40);
	sums_check(&sums, seq);
	close_model();
}
END_TEST

/* Sums that lack tokens are none: after a truncate, and where nobody collected. */
START_TEST(gone)
{
	open_model(0, GGML_TYPE_F32, 16, _i);
	test_run(seq, tokens, 10, NULL, 0);
	prompt(seq, 10, 20);
	ck_assert(!sums_shown(seq));

	gg_seq_truncate(engine, seq, 0);
	prompt(seq, 0, 90);
	check(&sums, seq);
	gg_seq_truncate(engine, seq, 89);
	ck_assert(!sums_shown(seq));
	ck_assert_uint_eq(seq->caches[0].extras[GG_COLUMN_SUMS].bytes, 0);
	prompt(seq, 90, 20);
	decode(seq, 110, 3);
	ck_assert(!sums_shown(seq));

	/* What was there before has left nothing behind. */
	gg_seq_truncate(engine, seq, 0);
	memset(&sums, 0, sizeof(sums));
	prompt(seq, 20, 60);
	check(&sums, seq);
	begin(seq, 10, NULL);
	test_run(seq, tokens, 10, NULL, 0);
	ck_assert(!sums_shown(seq));
	prompt(seq, 10, 10);
	ck_assert(!sums_shown(seq));
	close_model();
}
END_TEST

/* Tokens that were not added yet can be dropped. */
START_TEST(dropped_in_time)
{
	open_model(0, GGML_TYPE_F32, 16, _i);
	prompt(seq, 0, 40);
	sums_look(&sums, seq);
	decode(seq, 40, 10);
	gg_seq_truncate(engine, seq, 43);
	decode(seq, 60, 10);
	check(&sums, seq);
	close_model();
}
END_TEST

static uint64_t cancel_after;

static void cancel(void *arg, uint64_t done)
{
	(void)arg;
	if (done >= cancel_after)
		gg_engine_ops.cancel(engine);
}

static void cancelled(uint32_t n, uint64_t after)
{
	struct kvmod_needs needs = sums_needs;
	struct kvmod_batch_item item = { .size = sizeof(item), .seq = seq, .n_tokens = n, .tokens = tokens };
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 1, .item_stride = sizeof(item), .items = &item,
		.progress = cancel,
	};

	needs.rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	cancel_after = after;
	begin(seq, n, &needs);
	ck_assert_int_eq(gg_step(engine, &batch), KVMOD_ECANCELED);
}

/* After a step that failed the sums are as before, or gone if some of its tokens were added. */
START_TEST(failed_steps)
{
	open_model(0, GGML_TYPE_F32, 16, _i);
	cancelled(100, 16);
	prompt(seq, 0, 40);
	check(&sums, seq);
	cancelled(100, 16);
	ck_assert_uint_eq(seq->logical, 40);
	sums_check(&sums, seq);
	decode(seq, 50, 5);
	cancelled(100, 96);
	ck_assert_uint_eq(seq->logical, 45);
	ck_assert(!sums_shown(seq));
	gg_seq_truncate(engine, seq, 0);
	memset(&sums, 0, sizeof(sums));
	prompt(seq, 0, 70);
	check(&sums, seq);
	close_model();
}
END_TEST

/* After a cut there is less room for queries: a step of many tokens takes more passes. */
START_TEST(little_room)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_COLSUM,
				     .rows = { .value = 10, .is_count = 1 } };

	open_model(0, GGML_TYPE_F32, 512, _i);
	prompt(seq, 0, 150);
	sums_look(&sums, seq);
	decode(seq, 0, 100);
	sums_look(&sums, seq);
	gg_seq_close(engine, seq);
	seq = test_seq(engine);
	begin(seq, 150, &needs);
	ck_assert_uint_eq(seq->queries.room, 150);
	test_run(seq, tokens, 150, NULL, 0);
	test_apply(seq, test_plan_ends(seq, 0, 150));
	ck_assert_uint_eq(seq->queries.room, 10 + 64);
	test_run(seq, tokens, 100, NULL, 0);
	sums_check(&sums, seq);
	close_model();
}
END_TEST

/* --- devices ------------------------------------------------------------------------------------ */

START_TEST(device_without)
{
	struct kvmod_needs needs = { .size = sizeof(needs), .what = KVMOD_NEED_COLSUM };
	const char *line = "the policy needs column sums of attention: the device of the GPU layers "
			   "does not compute them; set gpu_layers = 0";
	unsigned before, after;

	sides_no_attention = true;
	open_model(0, GGML_TYPE_F32, 16, 1);
	ck_assert_int_eq(gg_serves(engine, &needs), KVMOD_ENOTSUP);
	ck_assert_str_eq(test_engine_error(), line);
	test_engine_warning(&before);
	prompt(seq, 0, 20);
	ck_assert_str_eq(test_engine_warning(&after), line);
	ck_assert_uint_eq(after, before + 1);
	ck_assert(!sums_shown(seq));
	close_model();
	open_model(0, GGML_TYPE_F32, 16, 0);
	ck_assert_int_eq(gg_serves(engine, &needs), KVMOD_OK);
	close_model();
	sides_no_attention = false;
	open_model(0, GGML_TYPE_F32, 16, 1);
	ck_assert_int_eq(gg_serves(engine, &needs), KVMOD_OK);
	close_model();
}
END_TEST

/* A device that fails costs the sums, and nothing else. */
START_TEST(device_fails)
{
	static float logits[TINY_VOCAB], whole[TINY_VOCAB];
	unsigned before, after;

	open_model(0, GGML_TYPE_F32, 16, 2);
	test_run(seq, tokens, 100, whole, 1);
	gg_seq_truncate(engine, seq, 0);
	begin(seq, 100, &sums_needs);
	sides_attention_fails = KVMOD_EDEVICE;
	test_engine_warning(&before);
	test_run(seq, tokens, 100, logits, 1);
	ck_assert(!sums_shown(seq));
	sides_attention_fails = 0;
	ck_assert_str_eq(test_engine_warning(&after), "the device could not add up the attention that "
			 "tokens pay: its column sums are lost");
	ck_assert_uint_eq(after, before + 1);
	ck_assert_mem_eq(logits, whole, sizeof(whole));
	prompt(seq, 0, 5);
	ck_assert(!sums_shown(seq));
	close_model();
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, prefill_and_decode, 0, SETUPS);
	tcase_add_loop_test(tc, turns_and_cuts, 0, SETUPS);
	tcase_add_loop_test(tc, forks, 0, SETUPS);
	tcase_add_test(tc, nobody_looks);
	tcase_add_loop_test(tc, two_in_a_batch, 0, 2);
	tcase_add_loop_test(tc, without_rows, 0, 2);
	tcase_add_loop_test(tc, gone, 0, 2);
	tcase_add_loop_test(tc, dropped_in_time, 0, 2);
	tcase_add_loop_test(tc, failed_steps, 0, 2);
	tcase_add_loop_test(tc, little_room, 0, 2);
	tcase_add_test(tc, device_without);
	tcase_add_test(tc, device_fails);
}

int main(void)
{
	return test_main("column sums", add);
}
