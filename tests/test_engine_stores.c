/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that a plan stores as other types: on the CPU, and on a GPU. Built twice, as sides.h says. */
#include "tests/sides.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/logits.h"

/* What rows are stored as, and how far a row may then be from what it was, as a share of it. */
static const struct pair {
	uint32_t k, v;
	double k_near, v_near;
} pairs[] = {
	{ KVMOD_Q8_0, KVMOD_Q8_0, 0.008, 0.008 },
	{ KVMOD_Q8_0, KVMOD_Q4_0, 0.008, 0.12 },
	{ KVMOD_F16, KVMOD_Q4_0, 0.0005, 0.12 },
	{ KVMOD_STORE_SAME, KVMOD_F16, 0, 0.0005 },
};
#define N_PAIRS	4
#define MODEL	((unsigned)_i / N_PAIRS)
#define PAIR	(&pairs[_i % N_PAIRS])

static struct setup s;

static struct kvmod_plan *plan_stores(struct kvmod_seq *seq, uint32_t kind, const struct pair *pair)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = kind == KVMOD_KEEP_ALL ? test_plan(seq, &request) :
							    sides_plan(seq, kind, &request);

	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		kvmod_keep_at(plan, i)->k_store = pair->k;
		kvmod_keep_at(plan, i)->v_store = pair->v;
	}
	return plan;
}

static void store(uint32_t kind, const struct pair *pair)
{
	test_apply(s.cpu.seq, plan_stores(s.cpu.seq, kind, pair));
	test_apply(s.gpu.seq, plan_stores(s.gpu.seq, kind, pair));
}

/* --- rows, as floats ------------------------------------------------------------------- */

static void fetch_bytes(const struct gg_engine *engine, uint32_t layer, const void *from, size_t n, void *to)
{
	if (gg_side_of(engine, layer) == GG_HOST) {
		memcpy(to, from, n);
		return;
	}
	ck_assert(!sides_device_ops.to_host(sides_device_self, NULL, to, from, n));
	ck_assert(!sides_device_ops.synchronize(sides_device_self, NULL));
}

/* All rows of K, then of V, of a sequence; returns how many floats there are. */
static size_t fetch_rows(struct kvmod_seq *seq, float *out, size_t *n_keys)
{
	struct kvmod_request request = { .size = sizeof(request) };
	static char bytes[4096];
	size_t n = 0;

	ck_assert(!gg_request(seq->engine, seq, &request));
	for (int v = 0; v < 2; v++) {
		for (uint32_t i = 0; i < TINY_LAYERS; i++) {
			const struct kvmod_segment *segment = kvmod_segment_at(&request, i);

			for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
				const struct kvmod_head *head = kvmod_head_at(segment, g);
				const struct kvmod_view *view = v ? &head->v : &head->k;

				for (uint32_t r = 0; r < head->n; r++, n += segment->head_dim) {
					fetch_bytes(seq->engine, i,
						    (const char *)view->data + r * view->stride,
						    kvmod_row_bytes(view->type, segment->head_dim), bytes);
					kv_cpu_to_f32(view->type, bytes, segment->head_dim, out + n);
					if (view->rotation)
						kv_cpu_hadamard(out + n, segment->head_dim, view->rotation);
				}
			}
		}
		if (!v)
			*n_keys = n;
	}
	return n;
}

#define MOST	(2 * TINY_LAYERS * 2 * N * 128)

/* --- tests: each loops over models and pairs ---------------------------------------------- */

static void check_shrinks(struct side *side, const struct pair *pair)
{
	const struct gg_model *m = &side->engine->net;
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };
	uint32_t k = pair->k ? pair->k : KVMOD_F32;
	uint64_t both = kvmod_row_bytes(k, m->head_dim) + kvmod_row_bytes(pair->v, m->head_dim);
	uint64_t rows = 0, room = 0;

	for (uint32_t i = 0; i < TINY_LAYERS; i++) {
		room += side->seq->caches[i].first[m->n_kv_heads];
		for (uint32_t g = 0; g < m->n_kv_heads; g++)
			rows += side->seq->caches[i].n[g];
	}
	gg_seq_bytes(side->engine, side->seq, &bytes);
	ck_assert_uint_eq(bytes.used, rows * both);
	ck_assert_uint_eq(bytes.full, side->seq->logical * TINY_LAYERS * m->n_kv_heads * 8 * m->head_dim);
	/* A GPU wants some bytes behind quantized rows. */
	ck_assert_uint_ge(bytes.held, room * both);
	ck_assert_uint_le(bytes.held, room * both + TINY_LAYERS * 2 * 1024);
}

/* Kept rows are what they were, but for rounding; memory shrinks to what the types take. */
START_TEST(rows_stay)
{
	static float before[MOST], after[MOST];
	size_t keys, n;

	for (uint32_t kind = KVMOD_KEEP_ALL; kind <= KVMOD_KEEP_HEADS; kind++) {
		sides_set_up(&s, MODEL, -1);
		sides_run(&s, 0, 60, false);
		sides_cut(&s, KVMOD_KEEP_HEADS);
		for (int side = 0; side < 2; side++) {
			struct side *at = side ? &s.gpu : &s.cpu;

			n = fetch_rows(at->seq, before, &keys);
			test_apply(at->seq, plan_stores(at->seq, KVMOD_KEEP_ALL, PAIR));
			ck_assert_uint_eq(fetch_rows(at->seq, after, &keys), n);
			ck_assert_double_le(sides_distance(after, before, keys), PAIR->k_near);
			ck_assert_double_le(sides_distance(after + keys, before + keys, n - keys), PAIR->v_near);
			/* Rounded they are, too. */
			ck_assert_double_gt(sides_distance(after + keys, before + keys, n - keys), 0);
			check_shrinks(at, PAIR);
		}
		sides_tear_down(&s);
	}
}
END_TEST

/* Attention reads what is stored: a copy of it as floats gives the same. New rows are stored alike. */
START_TEST(read_alike)
{
	static const struct pair floats = { .k = KVMOD_F32, .v = KVMOD_F32 };
	static float rows[2][MOST], logits[2][TINY_VOCAB];
	struct kvmod_seq *copy;
	size_t keys, n;

	sides_set_up(&s, MODEL, -1);
	sides_run(&s, 0, 60, false);
	store(KVMOD_KEEP_HEADS, PAIR);
	for (int side = 0; side < 2; side++) {
		struct side *at = side ? &s.gpu : &s.cpu;

		copy = test_fork(at->seq);
		test_apply(copy, plan_stores(copy, KVMOD_KEEP_ALL, &floats));
		test_run(copy, s.tokens + 60, 1, logits[0], 1);
		test_run(at->seq, s.tokens + 60, 1, logits[1], 1);
		/* The new token's own row is rounded here, and not there. */
		ck_assert_double_le(sides_distance(logits[1], logits[0], TINY_VOCAB),
				    0.1 + 2 * PAIR->v_near + NEAR);
		n = fetch_rows(copy, rows[0], &keys);
		ck_assert_uint_eq(fetch_rows(at->seq, rows[1], &keys), n);
		ck_assert_double_le(sides_distance(rows[1], rows[0], keys), 0.05 + NEAR);
		ck_assert_double_le(sides_distance(rows[1] + keys, rows[0] + keys, n - keys),
				    PAIR->v_near + 0.05 + NEAR);
		ck_assert_uint_eq(at->seq->caches[0].v.rotation,
				  PAIR->v == KVMOD_Q4_0 ? at->engine->net.head_dim : 0);
		gg_seq_close(at->engine, copy);
	}
	sides_tear_down(&s);
}
END_TEST

/* Rows that are stored so are never rounded again: by a second cut, a fork, growth, or a truncate. */
START_TEST(rounded_once)
{
	static float rows[2][MOST];
	struct kvmod_seq *copy;
	size_t keys, n;

	sides_set_up(&s, MODEL, -1);
	sides_run(&s, 0, 60, false);
	store(KVMOD_KEEP_HEADS, PAIR);
	for (int side = 0; side < 2; side++) {
		struct side *at = side ? &s.gpu : &s.cpu;
		int32_t tokens[300];

		n = fetch_rows(at->seq, rows[0], &keys);
		copy = test_fork(at->seq);
		test_apply(copy, plan_stores(copy, KVMOD_KEEP_ALL, PAIR));
		tiny_tokens(tokens, 300, 9);
		test_run(copy, tokens, 300, NULL, 0);
		ck_assert(!gg_seq_truncate(at->engine, copy, 60));
		ck_assert_uint_eq(fetch_rows(copy, rows[1], &keys), n);
		ck_assert_double_eq(sides_distance(rows[1], rows[0], n), 0);
		gg_seq_close(at->engine, copy);
	}
	sides_tear_down(&s);
}
END_TEST

/* Sequences whose rows are stored in different ways run in one batch as they do alone. */
START_TEST(batches)
{
	static float alone[N_PAIRS][TINY_VOCAB], logits[N_PAIRS][TINY_VOCAB];
	struct kvmod_batch_item items[N_PAIRS];
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = N_PAIRS, .item_stride = sizeof(items[0]), .items = items,
	};

	sides_set_up(&s, (unsigned)_i, -1);
	sides_run(&s, 0, 50, false);
	for (uint32_t i = 0; i < N_PAIRS; i++) {
		struct kvmod_seq *seq = test_fork(s.gpu.seq), *copy;

		test_apply(seq, plan_stores(seq, i % 2 ? KVMOD_KEEP_ALL : KVMOD_KEEP_HEADS, &pairs[i]));
		copy = test_fork(seq);
		test_run(copy, s.tokens + 50, 1, alone[i], 1);
		gg_seq_close(s.gpu.engine, copy);
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(items[0]), .seq = seq, .n_tokens = 1, .tokens = s.tokens + 50,
			.logits = logits[i], .n_logits = 1,
		};
	}
	ck_assert_msg(!gg_step(s.gpu.engine, &batch), "%s", test_engine_error());
	for (uint32_t i = 0; i < N_PAIRS; i++) {
		ck_assert_double_le(sides_distance(logits[i], alone[i], TINY_VOCAB), 1e-3 + 3 * NEAR);
		gg_seq_close(s.gpu.engine, items[i].seq);
	}
	sides_tear_down(&s);
}
END_TEST

/* What a replay reads is what will be read: its loss has the store's share in it. */
START_TEST(replayed)
{
	struct kvmod_request request;
	struct kvmod_plan *plan;
	double loss[2];

	sides_set_up(&s, MODEL, -1);
	sides_run(&s, 0, 60, false);
	for (int side = 0; side < 2; side++) {
		struct kvmod_seq *seq = side ? s.gpu.seq : s.cpu.seq;

		kvmod_plan_free(test_plan(seq, &request));
		plan = plan_stores(seq, KVMOD_KEEP_ALL, PAIR);
		ck_assert_msg(!request.replay(&request, plan, 12, &loss[side]), "%s", test_engine_error());
		kvmod_plan_free(plan);
		/* CUDA attends to F16 copies of an F32 cache: for it nothing changes. */
		if (PAIR->v != KVMOD_F16 || !side)
			ck_assert_double_gt(loss[side], 0);
		/* The sequence itself is as it was. */
		ck_assert_int_eq(seq->caches[0].v.type, GGML_TYPE_F32);
	}
	ck_assert_double_le(loss[1], 3 * loss[0] + 1e-3);
	ck_assert_double_le(loss[0], 3 * loss[1] + 1e-3);
	sides_tear_down(&s);
}
END_TEST

#ifdef FAKE_GPU
/* What is asked of rows that are stored rotated is asked of the rows as they were. */
START_TEST(norms)
{
	const struct kvmod_needs needs = {
		.size = sizeof(needs), .what = KVMOD_NEED_V | KVMOD_NEED_WO_NORM,
	};
	static const struct pair q4 = { .k = KVMOD_Q8_0, .v = KVMOD_Q4_0 };
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_seq *copy, *seq;

	sides_set_up(&s, (unsigned)_i, 0);
	seq = s.cpu.seq;
	ck_assert(!gg_prompt_begin(s.cpu.engine, seq, 50, &needs));
	sides_run_one(&s, &s.cpu, 0, 50, false);
	copy = test_fork(seq);
	test_apply(copy, plan_stores(copy, KVMOD_KEEP_ALL, &q4));
	for (int i = 0; i < 2; i++) {
		test_run(i ? copy : seq, s.tokens + 50, 20, NULL, 0);
		ck_assert_msg(!gg_request(s.cpu.engine, i ? copy : seq, &request), "%s", test_engine_error());
	}
	for (uint32_t h = 0; h < s.cpu.engine->net.n_q_heads; h++) {
		const struct kvmod_view *a = &seq->segments[0].wo_norm, *b = &copy->segments[0].wo_norm;
		const float *x = (const float *)(const void *)((const char *)a->data + h * a->head_stride);
		const float *y = (const float *)(const void *)((const char *)b->data + h * b->head_stride);

		ck_assert_mem_eq(x, y, 50 * sizeof(*x));
		ck_assert_double_le(sides_distance(y + 50, x + 50, 20), 0.1);
	}
	gg_seq_close(s.cpu.engine, copy);
	sides_tear_down(&s);
}
END_TEST

/* What cannot be stored stays as it was, and one line says so. */
START_TEST(refused)
{
	static const struct pair wrong[] = {
		{ .k = KVMOD_Q4_0, .v = KVMOD_Q4_0 }, { .k = KVMOD_BF16 }, { .v = KVMOD_BF16 },
	};
	static const char *const said[] = {
		"K cannot be stored as asked, in four bits, which ruin keys: rows stay as they are",
		"K cannot be stored as asked, in a type that is unknown here, or in blocks that do not divide "
		"the head dimension: rows stay as they are",
		"V cannot be stored as asked, in a type that is unknown here, or in blocks that do not divide "
		"the head dimension: rows stay as they are",
	};
	unsigned n;

	sides_set_up(&s, 0, 0);
	sides_run_one(&s, &s.cpu, 0, 50, false);
	for (int i = 0; i < 2; i++)
		test_apply(s.cpu.seq, plan_stores(s.cpu.seq, KVMOD_KEEP_HEADS, &wrong[_i]));
	ck_assert_str_eq(test_engine_warning(&n), said[_i]);
	ck_assert_uint_eq(n, 1);
	ck_assert_int_eq(s.cpu.seq->caches[0].k.type, GGML_TYPE_F32);
	ck_assert_int_eq(s.cpu.seq->caches[0].v.type, GGML_TYPE_F32);
	ck_assert_uint_lt(s.cpu.seq->caches[0].n[0], 50);
	sides_tear_down(&s);
}
END_TEST

#endif

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, rows_stay, 0, N_MODELS * N_PAIRS);
	tcase_add_loop_test(tc, read_alike, 0, N_MODELS * N_PAIRS);
	tcase_add_loop_test(tc, rounded_once, 0, N_MODELS * N_PAIRS);
	tcase_add_loop_test(tc, batches, 0, N_MODELS);
	tcase_add_loop_test(tc, replayed, 0, N_MODELS * N_PAIRS);
#ifdef FAKE_GPU
	tcase_add_loop_test(tc, norms, 0, N_MODELS);
	tcase_add_loop_test(tc, refused, 0, 3);
#endif
}

int main(void)
{
#ifndef FAKE_GPU
	if (sides_skip())
		return 77;
#endif
	return test_main("stores on two sides", add);
}
