/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables that the host writes for the kernels: what rows see, and that no part of a
 * table or of the memory behind it overlaps another. This test needs no GPU.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/types.h>

#include "kernels/cuda/attend/attend.h"
#include "kernels/cuda/attention/tasks.h"
#include "kernels/cuda/base/segment.h"
#include "kernels/cuda/refreekv/by_attention.h"
#include "kernels/cuda/refreekv/table.h"
#include "core/testkit/random.h"
#include "tests/cuda/checks.h"

#define DIM 64u

/* Never read: tables hold addresses alone. */
static float numbers[DIM];

static const struct kvmod_view view = {
	.type = KVMOD_F32, .data = numbers, .stride = DIM * sizeof(float),
	.head_stride = DIM * sizeof(float),
};

static struct kvmod_head head_of(uint32_t n)
{
	return (struct kvmod_head){ .size = sizeof(struct kvmod_head), .n = n, .k = view };
}

#define MOST_HEADS 16

/* n heads, `step` apart: 1 for an array of heads, 0 for one head as often as it takes. */
static const struct kvmod_head **list_of(const struct kvmod_head *heads, uint32_t n, uint32_t step)
{
	static const struct kvmod_head *lists[64][MOST_HEADS];
	static uint32_t next;
	const struct kvmod_head **list = lists[next++ % 64];

	for (uint32_t g = 0; g < n; g++)
		list[g] = heads + g * step;
	return list;
}

static struct kvmod_segment segment_of(const struct kvmod_head *head, uint32_t step, uint32_t n_q_heads,
				       uint32_t n_kv_heads, uint32_t n_rows)
{
	return (struct kvmod_segment){
		.size = sizeof(struct kvmod_segment), .logical = head->n, .n_q_heads = n_q_heads,
		.n_kv_heads = n_kv_heads, .head_dim = DIM, .scale = 1, .heads = list_of(head, n_kv_heads, step), .q = view, .n_rows = n_rows,
	};
}

/* --- what a row sees ------------------------------------------------------------------------ */

/* Compared with a count one by one: positions with and without gaps, rows of every age. */
static void rows_that_see(void)
{
	enum { LENGTH = 40, ROWS_TESTED = 130 };
	int32_t positions[LENGTH], rows[ROWS_TESTED];

	for (int i = 0; i < LENGTH; i++)
		positions[i] = 5 + 2 * i + (i > 20 ? 7 : 0);
	for (int i = 0; i < ROWS_TESTED; i++)
		rows[i] = i - 2;
	for (uint32_t gaps = 0; gaps < 2; gaps++)
		for (uint32_t named = 0; named < 2; named++) {
			const struct kvmod_head h = { .n = LENGTH, .positions = gaps ? positions : NULL };
			const struct kvmod_head empty = { .positions = gaps ? positions : NULL };
			const struct kvmod_segment s = {
				.logical = ROWS_TESTED - 2, .n_rows = ROWS_TESTED, .row_positions = named ? rows : NULL,
			};

			for (uint32_t row = 0; row < ROWS_TESTED; row++) {
				uint32_t expected = 0;

				for (int i = 0; i < LENGTH; i++)
					expected += (gaps ? positions[i] : i) <= rows[row];
				CHECK(kv_seen(&s, &empty, row) == 0, "row %u sees positions of an empty head", row);
				CHECK(kv_seen(&s, &h, row) == expected, "row %u sees %u, expected %u", row,
				      kv_seen(&s, &h, row), expected);
			}
		}
}

/* --- ReFreeKV's table, and the memory that the job asks for --------------------------------------------- */

/* The table's entry of segment i must agree with the places at which the next one begins. */
static void check_entry(const struct kv_refreekv_job *job, const struct kv_segment_entry *e,
			const uint32_t *first_tile, uint32_t i)
{
	bool last = i + 1 == job->n_segments;
	uint32_t tiles = (last ? job->n_tiles : first_tile[1]) - *first_tile;
	uint32_t cells = (last ? job->n_cells : e[1].first_cell) - e->first_cell;
	uint64_t stats = (last ? job->n_stats : e[1].stats) - e->stats;
	uint32_t size = e->batches * KV_BATCH;
	uint32_t expected = kv_keeps_all(&job->params, e->n) ? 0 : (e->n + size - 1) / size;

	CHECK(tiles == expected && e->first_tile == *first_tile, "segment %u of %u: %u tiles, expected %u", i,
	      e->n, tiles, expected);
	CHECK(cells == kv_padded(tiles), "segment %u: room for %u tiles, expected %u", i, cells, kv_padded(tiles));
	CHECK(stats == (uint64_t)e->n_rows * tiles * job->n_q_heads, "segment %u: room for %llu sums", i,
	      (unsigned long long)stats);
	CHECK(job->rows == 1 || e->batches == KV_BATCHES, "segment %u: small tiles for several rows", i);
}

static void tables_of_refreekv(void)
{
	enum { MOST = 24, HEADS = 8, RUNS = 3000 };
	static struct kvmod_head h[MOST];
	static struct kvmod_segment s[MOST];
	const struct kvmod_segment *list[MOST];
	struct kv_random r = { 11 };
	uint32_t seen = 0;

	for (uint32_t run = 0; run < RUNS; run++) {
		uint32_t count = kv_random_range(&r, 1, MOST), groups = kv_random_range(&r, 1, 2);
		struct kv_refreekv_params p = { run % 10 ? 0.01 : 0, kv_random_range(&r, 0, 9), 1, 0, run % 3 ? 1 : 4 };
		struct kv_refreekv_job job;
		char *table;

		for (uint32_t i = 0; i < count; i++) {
			h[i] = head_of(kv_random_range(&r, 4, 4u << kv_random_range(&r, 1, 15)));
			s[i] = segment_of(&h[i], 0, HEADS * groups, HEADS, kv_random_range(&r, 1, 4));
			list[i] = &s[i];
		}
		CHECK(kv_cuda_refreekv_prepare(&p, list, count, &job) == 0, "run %u is refused", run);
		table = malloc(job.table_bytes);
		if (!table)
			abort();
		kv_cuda_refreekv_table(&job, list, table);
		for (uint32_t i = 0; i < count; i++) {
			const struct kv_segment_entry *e = (const void *)table;

			check_entry(&job, e + i, (const uint32_t *)(table + kv_table_layout(&job).first_tiles) + i, i);
			seen |= e[i].batches;
		}
		free(table);
	}
	CHECK(seen == (1 | 2 | 4), "tiles of batches %u were seen", seen);
}

/* --- the table of a decision by attention --------------------------------------------------- */

enum { MOST_SEGMENTS = 6, KV_HEADS = 3, GROUP = 2 };

struct caches {
	struct kvmod_head heads[MOST_SEGMENTS][KV_HEADS];
	struct kvmod_segment segments[MOST_SEGMENTS];
	const struct kvmod_segment *list[MOST_SEGMENTS];
	uint32_t amounts[MOST_SEGMENTS * KV_HEADS];
	uint32_t n;
};

static void make_caches(struct caches *c, struct kv_random *r, bool equal)
{
	c->n = kv_random_range(r, 1, MOST_SEGMENTS);
	for (uint32_t i = 0; i < c->n; i++) {
		uint32_t n = kv_random_range(r, 1, 3000), amount = kv_random_range(r, 1, 60);

		for (uint32_t g = 0; g < KV_HEADS; g++) {
			c->heads[i][g] = head_of(equal ? n : kv_random_range(r, 0, n));
			c->amounts[i * KV_HEADS + g] = amount;
		}
		c->heads[i][0].n = n;
		c->segments[i] = segment_of(c->heads[i], 1, GROUP * KV_HEADS, KV_HEADS, kv_random_range(r, 1, 50));
		c->list[i] = &c->segments[i];
	}
}

/* What a rule says of a task: is it read, with how many rows, of which how many by query head? */
static void check_rule(const struct kv_attention_params *p, const struct kv_attention_task *t,
		       const struct kvmod_segment *s, uint32_t amount)
{
	uint32_t begin = t->n < p->sinks ? t->n : p->sinks;
	uint32_t m = t->n - begin > p->tail ? t->n - begin - p->tail : 0;
	uint32_t window = p->window < s->n_rows ? p->window : s->n_rows, own = 0;
	bool read = t->n > 0;

	if (p->rule == &kv_attend_top)
		read = m > amount;
	if (p->rule == &kv_refreekv_by_attention)
		read = m > 0 && p->share > 0;
	if (p->rule == &kv_attend_mass)
		own = 1;
	if (p->rule == &kv_refreekv_by_attention)
		own = amount < s->n_rows ? amount : s->n_rows;
	CHECK((t->n_tiles > 0) == read, "rule %u, n=%u, %u ranked, amount %u: %u tiles", p->rule->number, t->n, m,
	      amount, t->n_tiles);
	CHECK(t->begin == begin && t->m == m, "n=%u: positions %u to %u are ranked", t->n, t->begin, t->begin + t->m);
	CHECK(t->head_rows == own, "%u rows by query head, expected %u", t->head_rows, own);
	CHECK(t->n_rows == (own > window ? own : window), "%u rows, window %u, own %u", t->n_rows, window, own);
}

/* Task t takes its parts of the arrays, and the next one begins right behind them. */
static void check_next(const struct kv_attention_job *job, const struct kv_attention_task *t,
		       const struct kv_attention_task *next)
{
	uint32_t n = t->n_tiles ? t->n : 0, rows = t->n_tiles ? t->n_rows : 0;
	uint32_t tiles = t->n_tiles ? (t->n + job->tile - 1) / job->tile : 0;

	CHECK(t->n_tiles == tiles && next->first_item == t->first_item + tiles, "n=%u: %u tiles", t->n, t->n_tiles);
	CHECK(next->positions == t->positions + n && next->limits == t->limits + rows &&
	      next->queries == t->queries + GROUP * rows && next->stats == t->stats + (uint64_t)GROUP * rows * tiles &&
	      next->sums == t->sums + (t->n_tiles ? GROUP * kv_rank_chunks(t->m) : 0),
	      "n=%u, %u rows: the next task begins elsewhere", t->n, t->n_rows);
}

static void check_tasks(const struct kv_attention_job *job, const struct caches *c, const char *table)
{
	const uint32_t *limits = (const void *)(table + kv_attention_limits_at(job));
	struct kv_attention_task end = {
		.first_item = job->n_items, .limits = job->n_limits, .positions = job->n_positions,
		.queries = job->n_queries, .stats = job->n_stats, .sums = job->n_sums,
	};
	const struct kv_attention_task *t = (const void *)table;
	uint64_t indices = 0;

	for (uint32_t i = 0; i < c->n; i++) {
		const struct kvmod_segment *s = c->list[i];

		for (uint32_t g = 0; g < KV_HEADS; g++, t++) {
			bool last = i + 1 == c->n && g + 1 == KV_HEADS;

			CHECK(t->n == c->heads[i][g].n && t->indices == indices, "head %u of %u: list at %llu", g, t->n,
			      (unsigned long long)t->indices);
			check_rule(&job->params, t, s, c->amounts[i * KV_HEADS + g]);
			check_next(job, t, last ? &end : t + 1);
			for (uint32_t row = 0; t->n_tiles && row < t->n_rows; row++)
				CHECK(limits[t->limits + row] == kv_seen(s, &c->heads[i][g], s->n_rows - t->n_rows + row),
				      "row %u sees %u", row, limits[t->limits + row]);
			indices += kvmod_longest_head(s);
		}
	}
	CHECK(indices == job->n_indices, "room for %llu indices", (unsigned long long)job->n_indices);
}

static void tables_by_attention(void)
{
	static const struct kv_attention_params rules[] = {
		{ &kv_attend_top, 0, 32, 32, 5, 0, 0 },
		{ &kv_attend_shared, 2, 32, 16, 7, 1, 0.2 },
		{ &kv_attend_mass, 0, 0, 0, 1, 0, 0.95 },
		{ &kv_refreekv_by_attention, 4, 8, 8, 1, 0, 0.01 },
		{ &kv_refreekv_by_attention, 4, 8, 8, 1, 0, 0 },
	};
	static struct caches c;
	struct kv_random r = { 12 };

	for (uint32_t run = 0; run < 1000; run++) {
		const struct kv_attention_params *p = &rules[run % 5];
		struct kv_attention_job job;
		char *table;

		make_caches(&c, &r, p->rule->equal_heads);
		CHECK(kv_cuda_attention_prepare(p, c.list, c.n, c.amounts, &job) == 0, "run %u is refused", run);
		table = malloc(job.table_bytes);
		if (!table)
			abort();
		kv_cuda_attention_table(&job, c.list, c.amounts, table);
		check_tasks(&job, &c, table);
		free(table);
	}
}

/* What a rule cannot take. */
static void rules_that_refuse(void)
{
	static const struct kv_attention_params wrong[] = {
		{ &kv_attend_top, 0, 32, 0, 5, 0, 0 },		/* no window */
		{ &kv_attend_shared, 0, 32, 32, 4, 0, 0.2 },	/* an even width */
		{ &kv_attend_shared, 0, 32, 32, 5, 0, 1.5 },	/* more than all */
		{ &kv_attend_mass, 4, 0, 0, 1, 0, 0.95 },	/* sinks */
		{ &kv_attend_mass, 0, 0, 0, 3, 0, 0.95 },	/* pooling */
		{ &kv_refreekv_by_attention, 4, 8, 8, 3, 0, 0.01 },
	};
	struct kv_attention_params p = { &kv_refreekv_by_attention, 4, 8, 8, 1, 0, 0.01 };
	static struct caches c;
	struct kv_random r = { 13 };
	struct kv_attention_job job;

	make_caches(&c, &r, true);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK(kv_cuda_attention_prepare(&wrong[i], c.list, c.n, c.amounts, &job) == KVMOD_EINVAL,
		      "parameters %zu are taken", i);
	CHECK(kv_cuda_attention_prepare(&p, c.list, c.n, NULL, &job) == KVMOD_EINVAL, "no amounts are taken");
	CHECK(kv_cuda_attention_prepare(&p, c.list, c.n, c.amounts, &job) == 0, "right parameters are refused");
	c.heads[0][1].n++;
	CHECK(kv_cuda_attention_prepare(&p, c.list, c.n, c.amounts, &job) == KVMOD_ENOTSUP,
	      "heads of different lengths are taken");
	p.rule = &kv_attend_top;
	CHECK(kv_cuda_attention_prepare(&p, c.list, c.n, c.amounts, &job) == 0, "heads of different lengths are refused");
}

int main(void)
{
	rows_that_see();
	tables_of_refreekv();
	tables_by_attention();
	rules_that_refuse();
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
