/* SPDX-License-Identifier: Apache-2.0 */
/* What the policies share: selections against sorting, pooling, attention in double. */
#include <check.h>
#undef fail			/* host->fail() is meant */
#include <math.h>
#include <stdlib.h>

#include "core/testkit/madeup.h"
#include "kernels/cpu/logits.h"
#include "core/testkit/random.h"
#include "core/toolkit/toolkit.h"

/* --- selections ------------------------------------------------------------------ */

struct scored {
	float score;
	uint32_t at;
};

static int heavier_first(const void *a_, const void *b_)
{
	const struct scored *a = a_, *b = b_;

	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	return a->at < b->at ? -1 : 1;
}

static void sorted(const float *scores, uint32_t n, struct scored *out)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = (struct scored){ scores[i], i };
	qsort(out, n, sizeof(*out), heavier_first);
}

/* The selection is the first `count` in order of weight, then of age. */
static void assert_first(struct kv_selection selection, const float *scores, uint32_t n,
			 const struct scored *order, uint32_t count)
{
	bool *taken = calloc(n + 1, sizeof(*taken));

	ck_assert_ptr_nonnull(taken);
	for (uint32_t i = 0; i < count; i++)
		taken[order[i].at] = true;
	for (uint32_t i = 0; i < n; i++)
		ck_assert_msg(kv_selection_takes(&selection, scores[i]) == taken[i],
			      "score %u of %u, %u wanted", i, n, count);
	free(taken);
}

/* Few values make many ties; signs, zeros of both, and tiny ones. */
static void draw(struct kv_random *r, int kind, uint32_t n, float *scores)
{
	for (uint32_t i = 0; i < n; i++) {
		float x = kv_random_normal(r);

		if (kind == 1)
			x = (float)(kv_random_u32(r) % 4) - 1;
		else if (kind == 2)
			x = copysignf(0, x);
		else if (kind == 3)
			x *= 1e-41f;
		scores[i] = x;
	}
}

START_TEST(heaviest_as_sorting_has_it)
{
	struct kv_random r = { 1 };
	float scores[300];
	struct scored order[300];

	for (uint32_t round = 0; round < 400; round++) {
		uint32_t n = kv_random_range(&r, 1, 300), count = kv_random_range(&r, 0, n);

		draw(&r, (int)(round % 4), n, scores);
		sorted(scores, n, order);
		assert_first(kv_heaviest(scores, n, count), scores, n, order, count);
	}
}
END_TEST

START_TEST(mass_as_sorting_has_it)
{
	struct kv_random r = { 2 };
	float scores[300];
	struct scored order[300];

	for (uint32_t round = 0; round < 400; round++) {
		uint32_t n = kv_random_range(&r, 1, 300), count = 0;
		double total = 0, mass, sum = 0;

		/* Small integers: sums are exact, and there are ties. */
		for (uint32_t i = 0; i < n; i++)
			total += scores[i] = (float)kv_random_range(&r, 0, 9);
		sorted(scores, n, order);
		mass = floor(total * kv_random_range(&r, 1, 100) / 100);
		if (mass < 1)
			continue;
		while (sum < mass)
			sum += order[count++].score;
		assert_first(kv_heaviest_mass(scores, n, mass), scores, n, order, count);
	}
}
END_TEST

START_TEST(mass_beyond_all_is_all)
{
	const float scores[] = { 0.25f, 0, 0.5f, 0 };
	struct kv_selection all = kv_heaviest_mass(scores, 4, 1), one = kv_heaviest_mass(scores, 4, 0);

	for (int i = 0; i < 4; i++) {
		ck_assert(kv_selection_takes(&all, scores[i]));
		ck_assert(kv_selection_takes(&one, scores[i]) == (i == 2));
	}
}
END_TEST

/* --- pooling -------------------------------------------------------------------------- */

static float pooled(const float *in, int n, int width, int pooling, int i)
{
	double sum = 0;
	float most = -INFINITY;

	for (int j = i - width / 2; j <= i + width / 2; j++) {
		if (j < 0 || j >= n)
			continue;
		sum += in[j];
		most = fmaxf(most, in[j]);
	}
	return pooling == KVMOD_POOL_MAX ? most : (float)(sum / width);
}

START_TEST(pooling_by_the_book)
{
	struct kv_random r = { 3 };
	float in[100], out[100];

	for (int round = 0; round < 200; round++) {
		int n = (int)kv_random_range(&r, 1, 100), pooling = round % 2;
		int width = 1 + 2 * (int)kv_random_range(&r, 0, 60);

		for (int i = 0; i < n; i++)
			in[i] = kv_random_normal(&r);
		kv_pool(in, (uint32_t)n, (uint32_t)width, pooling, out);
		for (int i = 0; i < n; i++)
			ck_assert_float_eq_tol(out[i], pooled(in, n, width, pooling, i), 1e-5f);
	}
}
END_TEST

/* --- attention ---------------------------------------------------------------------------- */

/* One row's attention to one head's positions, in double and by position. */
static void attention(const struct kvmod_segment *s, uint32_t g, uint32_t h, uint32_t row,
		      double *out)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);
	const float *q = (const float *)((const char *)s->q.data + row * s->q.stride +
					 h * s->q.head_stride);
	int64_t at = s->row_positions ? s->row_positions[row] :
		     (int64_t)(s->logical - s->n_rows + row);
	double sum = 0;

	for (uint32_t i = 0; i < head->n; i++) {
		const float *k = (const float *)((const char *)head->k.data + i * head->k.stride);
		int64_t position = head->positions ? head->positions[i] : (int64_t)i;
		double dot = 0;

		for (uint32_t d = 0; d < s->head_dim; d++)
			dot += (double)q[d] * k[d];
		out[i] = position <= at ? exp(dot * s->scale) : 0;
		sum += out[i];
	}
	for (uint32_t i = 0; i < head->n; i++)
		out[i] /= sum;
}


static void assert_mean(const struct kvmod_task *t, uint32_t n_rows)
{
	const struct kvmod_segment *s = t->segment;
	uint32_t used = n_rows < s->n_rows ? n_rows : s->n_rows, m = t->n - t->n / 4;
	double *mean = calloc(t->n, sizeof(*mean)), *row = calloc(t->n, sizeof(*row));
	float *got = calloc(t->n, sizeof(*got));

	ck_assert(mean && row && got);
	for (uint32_t i = s->n_rows - used; i < s->n_rows; i++)
		for (uint32_t h = 0; h < t->group; h++) {
			attention(s, t->g, t->g * t->group + h, i, row);
			for (uint32_t j = 0; j < t->n; j++)
				mean[j] += row[j] / used / t->group;
		}
	ck_assert_int_eq(kv_mean_attention(t, n_rows, m, got), 0);
	for (uint32_t j = 0; j < m; j++)
		ck_assert_double_eq_tol(got[j], mean[j], 1e-6);
	free(mean);
	free(row);
	free(got);
}

static void assert_last(const struct kvmod_task *t)
{
	const struct kvmod_segment *s = t->segment;
	double *row = calloc(t->n, sizeof(*row));
	float *got = calloc((size_t)t->group * t->n, sizeof(*got));

	ck_assert(row && got);
	ck_assert_int_eq(kv_last_attention(t, got), 0);
	for (uint32_t h = 0; h < t->group; h++) {
		attention(s, t->g, t->g * t->group + h, s->n_rows - 1, row);
		for (uint32_t j = 0; j < t->n; j++)
			ck_assert_double_eq_tol(got[h * t->n + j], row[j], 1e-6);
	}
	free(row);
	free(got);
}

static void assert_attention(const struct madeup *m)
{
	struct kvmod_extent extent = kvmod_extent_of(&m->d.request);
	struct kv_work *work = malloc(sizeof(*work) + kv_attention_floats(&extent) * sizeof(float));

	ck_assert_ptr_nonnull(work);
	for (uint32_t g = 0; g < m->shape.n_kv_heads; g++) {
		struct kvmod_task t = {
			.segment = &m->d.segments[0],
			.head = kvmod_head_at(&m->d.segments[0], g),
			.g = g,
			.n = kvmod_head_at(&m->d.segments[0], g)->n,
			.group = m->shape.n_q_heads / m->shape.n_kv_heads,
			.work = work,
		};

		assert_mean(&t, 1);
		assert_mean(&t, 5);
		assert_mean(&t, 100);
		assert_last(&t);
	}
	free(work);
}

/* Every third position of the first head, every second of the others. */
static struct kvmod_plan *ragged_plan(const struct kvmod_request *request)
{
	struct kvmod_plan *plan;
	struct kvmod_keep *keep;

	ck_assert_int_eq(kvmod_plan_new(request, &plan), 0);
	keep = kvmod_keep_at(plan, 0);
	keep->kind = KVMOD_KEEP_HEADS;
	for (uint32_t g = 0; g < kvmod_segment_at(request, 0)->n_kv_heads; g++)
		for (uint32_t i = 0; i < kvmod_head_at(kvmod_segment_at(request, 0), g)->n;
		     i += g ? 2 : 3)
			keep->indices[g * keep->index_stride + keep->counts[g]++] = i;
	return plan;
}

static void assert_both_turns(uint32_t n_q_heads, uint32_t n_kv_heads, uint32_t head_dim)
{
	struct kv_shape shape = {
		.n_layers = 1, .n_segments = 1, .n_q_heads = n_q_heads,
		.n_kv_heads = n_kv_heads, .head_dim = head_dim, .type = KVMOD_F32,
	};
	struct madeup first, second;
	struct kvmod_plan *plan;

	ck_assert_int_eq(madeup_first(&first, &shape, 70, 33, 0), 0);
	assert_attention(&first);
	plan = ragged_plan(&first.d.request);
	ck_assert_int_eq(madeup_next(&second, &first, plan, 9, 6, 0), 0);
	ck_assert_uint_eq(second.d.heads[0].n, 24 + 9);
	ck_assert_int_eq(second.d.heads[0].positions[1], 3);
	assert_attention(&second);
	kvmod_plan_free(plan);
	madeup_free(&first);
	madeup_free(&second);
}

START_TEST(attention_as_in_double)
{
	assert_both_turns(4, 4, 16);
	assert_both_turns(6, 2, 8);
	assert_both_turns(9, 3, 64);
	assert_both_turns(12, 1, 32);
}
END_TEST

START_TEST(layers_listed)
{
	const int64_t two[] = { 2 }, some[] = { 0, 5 };
	const struct kvmod_list plain = { 1, 1, two }, list = { 2, 0, some }, none = { 0, 0, NULL };

	ck_assert(kvmod_layer_listed(&plain, 1) && !kvmod_layer_listed(&plain, 2));
	ck_assert(kvmod_layer_listed(&list, 5) && !kvmod_layer_listed(&list, 1));
	ck_assert(!kvmod_layer_listed(&none, 0));
}
END_TEST

static uint64_t budget_of(const struct kvmod_amount *budget, uint64_t seen, uint64_t leave_below,
			  uint32_t least)
{
	const struct kvmod_request request = {
		.size = sizeof(request), .leave_below = leave_below,
	};
	const struct kvmod_segment segment = { .size = sizeof(segment), .logical = seen };

	return kvmod_budget_at_least(&request, &segment, budget, least);
}

START_TEST(budgets)
{
	const struct kvmod_amount quarter = { .value = 0.25 }, whole = { .value = 1 };
	const struct kvmod_amount forty = { .value = 40, .is_count = 1 };
	const struct kvmod_amount vast = { .value = 9e15, .is_count = 1 };

	ck_assert_uint_eq(budget_of(&quarter, 103, 0, 1), 25);
	ck_assert_uint_eq(budget_of(&quarter, 103, 0, 36), 36);
	ck_assert_uint_eq(budget_of(&whole, 103, 0, 1), 103);
	ck_assert_uint_eq(budget_of(&forty, 103, 0, 1), 40);
	ck_assert_uint_eq(budget_of(&forty, 30, 0, 1), 30);
	ck_assert_uint_eq(budget_of(&vast, 4000000000u, 0, 1), 4000000000u);
	/* With leave_below a fraction buys at least so many, a count what it says. */
	ck_assert_uint_eq(budget_of(&quarter, 1000, 256, 1), 256);
	ck_assert_uint_eq(budget_of(&quarter, 1028, 256, 1), 257);
	ck_assert_uint_eq(budget_of(&quarter, 200, 256, 1), 200);
	ck_assert_uint_eq(budget_of(&forty, 1000, 256, 1), 40);
}
END_TEST

/* Of what the sequence has seen, whatever earlier cuts left; and not less than is there. */
START_TEST(budgets_are_of_tokens_seen)
{
	const struct kvmod_amount quarter = { .value = 0.25 };
	struct kvmod_head heads[2] = {
		{ .size = sizeof(*heads), .n = 20 }, { .size = sizeof(*heads), .n = 80 },
	};
	const struct kvmod_head *head_list[2] = { &heads[0], &heads[1] };
	struct kvmod_segment segment = {
		.size = sizeof(segment), .logical = 1000, .n_kv_heads = 2, .heads = head_list,
	};
	struct kvmod_request request = { .size = sizeof(request) };

	ck_assert_uint_eq(kvmod_tokens_seen(&segment), 1000);
	ck_assert_uint_eq(kvmod_budget_at_least(&request, &segment, &quarter, 1), 250);
	segment.logical = 0;
	ck_assert_uint_eq(kvmod_tokens_seen(&segment), 80);
	ck_assert_uint_eq(kvmod_budget_at_least(&request, &segment, &quarter, 1), 20);
	/* A host that was built before there was a leave_below. */
	request.leave_below = 77;
	request.size = offsetof(struct kvmod_request, leave_below);
	ck_assert_uint_eq(kvmod_budget_at_least(&request, &segment, &quarter, 1), 20);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("scores");
	TCase *tcase = tcase_create("scores");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tcase, heaviest_as_sorting_has_it);
	tcase_add_test(tcase, mass_as_sorting_has_it);
	tcase_add_test(tcase, mass_beyond_all_is_all);
	tcase_add_test(tcase, pooling_by_the_book);
	tcase_add_test(tcase, attention_as_in_double);
	tcase_add_test(tcase, layers_listed);
	tcase_add_test(tcase, budgets);
	tcase_add_test(tcase, budgets_are_of_tokens_seen);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
