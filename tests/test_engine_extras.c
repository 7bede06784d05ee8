/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers beside the rows of a cache follow these rows, on the CPU and on a stand-in GPU. */
#include "tests/sides.h"

#include <string.h>

static float *number(struct kvmod_seq *seq, uint32_t layer, enum gg_extra which, uint32_t h, uint32_t i)
{
	struct kvmod_view view = gg_extra_view(seq->engine, &seq->caches[layer], which);

	ck_assert_ptr_nonnull(view.data);
	return (float *)((char *)(uintptr_t)view.data + h * view.head_stride + i * view.stride);
}

static float expected(uint32_t layer, enum gg_extra which, uint32_t h, uint32_t position)
{
	return (float)(10000 * which + 1000 * layer + 100 * h + position + 1);
}

/* Row i of each head is still the position i. */
static void fill(struct kvmod_seq *seq)
{
	const struct gg_model *m = &seq->engine->net;

	for (uint32_t l = 0; l < m->n_layers; l++) {
		for (enum gg_extra e = 0; e < GG_N_EXTRAS; e++) {
			ck_assert(gg_extra_new(seq->engine, gg_side_of(seq->engine, l), &seq->caches[l], e));
			for (uint32_t h = 0; h < m->n_q_heads; h++)
				for (uint32_t i = 0; i < seq->logical; i++)
					*number(seq, l, e, h, i) = expected(l, e, h, i);
		}
	}
}

/* Of positions below `filled`; newer rows have 0. */
static void check(struct kvmod_seq *seq, uint32_t filled)
{
	const struct gg_model *m = &seq->engine->net;
	uint32_t group = m->n_q_heads / m->n_kv_heads;

	for (uint32_t l = 0; l < m->n_layers; l++) {
		const struct gg_cache *cache = &seq->caches[l];

		for (enum gg_extra e = 0; e < GG_N_EXTRAS; e++) {
			for (uint32_t h = 0; h < m->n_q_heads; h++) {
				for (uint32_t i = 0; i < cache->n[h / group]; i++) {
					uint32_t p = cache->positions ?
						(uint32_t)cache->positions[cache->first[h / group] + i] : i;

					ck_assert_float_eq(*number(seq, l, e, h, i),
							   p < filled ? expected(l, e, h, p) : 0);
				}
			}
		}
	}
}

#define CASES ((int)(2 * N_MODELS))
#define KIND ((unsigned)_i % 2 ? KVMOD_KEEP_SPANS : KVMOD_KEEP_HEADS)

static void each(struct setup *s, void (*call)(struct kvmod_seq *seq, uint32_t n), uint32_t n)
{
	call(s->cpu.seq, n);
	call(s->gpu.seq, n);
}

static void fill_one(struct kvmod_seq *seq, uint32_t n)
{
	ck_assert_uint_eq(seq->logical, n);
	fill(seq);
}

/* Cut, grown past the room of 256 rows, cut again. */
START_TEST(follow_rows)
{
	static struct setup s;

	sides_set_up(&s, (unsigned)_i / 2, 1 + _i % TINY_LAYERS);
	sides_run(&s, 0, 60, false);
	each(&s, fill_one, 60);
	each(&s, check, 60);
	sides_cut(&s, KIND);
	each(&s, check, 60);
	for (int turn = 0; turn < 4; turn++)
		sides_run(&s, 0, N, false);
	ck_assert_uint_gt(gg_cache_room(s.cpu.engine, &s.cpu.seq->caches[0]), 256);
	each(&s, check, 60);
	sides_cut(&s, KIND);
	each(&s, check, 60);
	sides_tear_down(&s);
}
END_TEST

static void fork_one(struct kvmod_seq *seq, uint32_t filled)
{
	struct kvmod_seq *fork = test_fork(seq), *scratch;

	check(fork, filled);
	*number(fork, 0, GG_COLUMN_SUMS, 0, 0) = -1;
	check(seq, filled);
	gg_seq_close(seq->engine, fork);
	ck_assert(!gg_seq_copy(seq, NULL, 0, seq->logical, 0, &scratch));
	for (uint32_t l = 0; l < TINY_LAYERS; l++)
		for (enum gg_extra e = 0; e < GG_N_EXTRAS; e++)
			ck_assert(!gg_extra_kept(&scratch->caches[l], e));
	ck_assert_ptr_null(gg_extra_view(seq->engine, &scratch->caches[0], GG_WO_NORMS).data);
	gg_seq_close(seq->engine, scratch);
}

/* A fork has its own; a copy for a replay has none. */
START_TEST(follow_forks)
{
	static struct setup s;

	sides_set_up(&s, (unsigned)_i / 2, 1 + _i % TINY_LAYERS);
	sides_run(&s, 0, 60, false);
	each(&s, fill_one, 60);
	sides_cut(&s, KIND);
	each(&s, fork_one, 60);
	sides_tear_down(&s);
}
END_TEST

/* A cut that cannot move them goes on without them, and says so once. */
START_TEST(lost)
{
	static struct setup s;
	unsigned before, after;
	struct kvmod_plan *plan;
	struct kvmod_request request;

	sides_set_up(&s, 0, 1);
	sides_run(&s, 0, 60, false);
	fill(s.gpu.seq);
	plan = sides_plan(s.gpu.seq, KVMOD_KEEP_HEADS, &request);
	test_engine_warning(&before);
	sides_gathers_fail = true;
	sides_good_gathers = 1;		/* that of K and V */
	test_apply(s.gpu.seq, plan);
	sides_gathers_fail = false;
	ck_assert_str_eq(test_engine_warning(&after),
			 "the device could not copy what the policy needs beside K and V: it is lost");
	ck_assert_uint_eq(after, before + 1);
	for (uint32_t l = 0; l < TINY_LAYERS; l++)
		for (enum gg_extra e = 0; e < GG_N_EXTRAS; e++)
			ck_assert(!gg_extra_kept(&s.gpu.seq->caches[l], e));
	sides_run_one(&s, &s.gpu, 60, 61, true);
	sides_tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, follow_rows, 0, CASES);
	tcase_add_loop_test(tc, follow_forks, 0, CASES);
	tcase_add_test(tc, lost);
}

int main(void)
{
	return test_main("extras of a cache", add);
}
